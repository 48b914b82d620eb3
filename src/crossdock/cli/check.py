"""check, schema, route: is the configuration right, what may it hold, and what would it do with a name?"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from crossdock.cli import exits
from crossdock.cli.lacking import lacking
from crossdock.cli.main import complain
from crossdock.cli.output import count, emit, human_time
from crossdock.cli.session import Session, common, opened
from crossdock.errors import ConfigError, CrossdockError, NotFound, PermissionDenied, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from crossdock.config import Config
    from crossdock.flows.flow import Flow
    from crossdock.flows.plan import Planner
    from crossdock.storage.storage import Storage

__all__ = ["check", "route", "schema"]


@click.command()
@click.argument("file", required=False)
@click.option(
    "--connect",
    is_flag=True,
    help="Also connect to every endpoint and list the flows' sources; and to a ledger's server.",
)
@click.option("--json", "as_json", is_flag=True, help="One finding per line.")
@common
@click.pass_obj
def check(session: Session, file: str | None, connect: bool, as_json: bool) -> int:
    """Check the configuration and report every mistake in it, with file, line and what to write instead.

    The tests of the rules are run, and for them the user's own functions are imported. No endpoint is contacted without
    --connect; nothing is written there with it ('crossdock doctor NAME:' also tries that).
    """
    if file is not None:
        session.config_file = file
    report = _Report(session, as_json)
    from crossdock.config import Mistakes
    from crossdock.config.rehearsal import rehearse

    try:
        config = session.config
    except Mistakes as error:
        tried = rehearse(error.readable) if error.readable is not None else []
        report.mistakes(sorted([*error.mistakes, *tried], key=lambda one: one.line or 0))
        return exits.CONFIG
    except ConfigError as error:
        report.mistakes([error])
        return exits.CONFIG
    config.require_file()
    report.endpoints(config)
    wrong = rehearse(config)
    report.mistakes(wrong)
    if wrong:
        return exits.CONFIG
    report.flows(config)
    report.mistakes([*config.warnings, *lacking(config, connecting=connect)], "warning")
    unreached, ledger = session.run(lambda: _connect(config, report)) if connect else (0, True)
    report.end(config, unreached)
    return exits.SOME if unreached or not ledger else exits.OK


class _Report:
    """Findings as lines for a human, or as JSON."""

    def __init__(self, session: Session, as_json: bool) -> None:
        self.session, self.as_json = session, as_json

    def mistakes(self, errors: Iterable[ConfigError], kind: str = "mistake") -> None:
        for error in errors:
            if self.as_json:
                emit({"kind": kind, **_error_json(error)})
            elif kind == "warning":
                self.session.say(f"crossdock: advice: {shown(error.message)}")
                self.session.say(f"Next: {shown(error.hint or '')}")
            else:
                complain(error)

    def endpoints(self, config: Config) -> None:
        for name, settings in config.endpoints.items():
            if self.as_json:
                emit({"kind": "endpoint", "name": name, "type": settings.type})
            else:
                click.echo(f"{name}: {settings.type}")

    def flows(self, config: Config) -> None:
        for name, flow in config.flows.items():
            if self.as_json:
                facts = {"source": str(flow.source), "rules": len(flow.rules), "tests": len(flow.tests)}
                emit({"kind": "flow", "name": name, **facts})
            else:
                targets = dict.fromkeys(to.endpoint for rule in flow.rules for to in rule.to)
                where = ", ".join([*targets, *(rule.call_name for rule in flow.rules if rule.call)]) or "nowhere"
                tests = f", {count(len(flow.tests), 'test')} passed" if flow.tests else ""
                click.echo(f"{name}: {flow.source} → {where} ({count(len(flow.rules), 'rule')}{tests}; {_start(flow)})")

    def reached(self, name: str, seconds: float, error: CrossdockError | None, *, kind: str = "connection") -> None:
        if self.as_json:
            found: dict[str, Any] = {"kind": kind, "name": name, "good": error is None, "seconds": seconds}
            if error is not None:
                found |= {"message": error.message, "next": error.hint}
            emit({key: value for key, value in found.items() if value is not None})
        else:
            click.echo(f"{name}: {'answers' if error is None else 'cannot be used'} ({human_time(seconds)})")
            if error is not None:
                complain(error)

    def end(self, config: Config, unreached: int) -> None:
        if self.as_json:
            return
        parts = [count(len(config.endpoints), "endpoint")]
        parts += [count(len(config.flows), "flow")] if config.flows else []
        failed = f"; {count(unreached, 'endpoint')} cannot be used" if unreached else ""
        self.session.say(f"{config.require_file().name}: {', '.join(parts)}, no mistakes{failed}")


_MAKE_ROOT = ("sftp", "ftp", "ftpes", "ftps", "netstorage")
"""Types of endpoints whose root is made with the first file that goes there."""


def _error_json(error: ConfigError) -> dict[str, Any]:
    place = ":".join(str(part) for part in (error.file, error.line) if part is not None)
    prefix = ": ".join(part for part in (place, error.key) if part)
    found = {
        "file": error.file,
        "line": error.line,
        "key": error.key or None,
        "message": error.message.removeprefix(f"{prefix}: "),
        "next": error.hint,
    }
    return {key: value for key, value in found.items() if value is not None}


def _start(flow: Flow) -> str:
    trigger = flow.trigger
    if trigger.on_demand:
        return "on demand"
    parts = [f"every {_written(trigger.every)}"] if trigger.every else []
    parts += [f"cron {trigger.cron} {trigger.timezone}"] if trigger.cron else []
    parts += ["watched"] if trigger.watch else []
    return ", ".join(parts)


def _written(seconds: float) -> str:
    """A duration as the file has it: 5m."""
    units = {"d": 86400, "h": 3600, "m": 60}
    unit = next((unit for unit, size in units.items() if seconds % size == 0), "s")
    return f"{seconds / units.get(unit, 1):g}{unit}"


async def _connect(config: Config, report: _Report) -> tuple[int, bool]:
    """How many endpoints cannot be reached or lack a flow's source; and whether the ledger can be."""

    async def one(name: str) -> bool:
        started = time.monotonic()
        error: CrossdockError | None = None
        sources = {flow.source.path for flow in config.flows.values() if flow.source.endpoint == name}
        try:
            async with opened(config.locate(f"{name}:"), looking=True) as (storage,):
                for path in sorted(sources or {""}):
                    await _listed(storage, path)
        except CrossdockError as found:
            # A drop box is written to, and shows nothing.
            drop_box = not sources and getattr(config.endpoints[name], "verify", None) == "none"
            error = None if drop_box and isinstance(found, PermissionDenied) else found
            if not sources and isinstance(found, NotFound) and config.endpoints[name].type in _MAKE_ROOT:
                found.hint = f"{found.hint}; where that is right, the first file that goes there makes it"
        report.reached(name, time.monotonic() - started, error)
        return error is None

    ledger, *found = await asyncio.gather(_ledger_answers(config, report), *(one(name) for name in config.endpoints))
    return found.count(False), ledger


async def _ledger_answers(config: Config, report: _Report) -> bool:
    """Whether its server lets us in. A file is made by the first run, and is not looked at."""
    if not config.flows or "://" not in (config.ledger or ""):
        return True
    started = time.monotonic()
    error: CrossdockError | None = None
    try:
        ledger = config.new_ledger()
        from crossdock.ledger.postgres import PostgresLedger

        assert isinstance(ledger, PostgresLedger)
        await ledger.open(tables=False)
        await ledger.close()
    except CrossdockError as found:
        error = found
    report.reached("ledger", time.monotonic() - started, error, kind="ledger")
    return error is None


async def _listed(storage: Storage, path: str) -> None:
    try:
        async with aclosing(storage.scan(path)) as listing:
            await anext(listing, None)
    except NotFound:
        # A store without folders cannot tell an empty one from one that never was.
        if storage.capabilities.directories or not path:
            raise
        await storage.check_store()


@click.command()
@common
@click.pass_obj
def schema(session: Session) -> int:
    """Write the JSON Schema of the configuration to standard output, for editors that complete and check YAML."""
    import json

    from crossdock.config.schema import schema as file_schema

    click.echo(json.dumps(file_schema(), indent=2, ensure_ascii=False))
    return exits.OK


@click.command()
@click.argument("flow")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One name per line.")
@common
@click.pass_obj
def route(session: Session, flow: str, names: tuple[str, ...], as_json: bool) -> int:
    """Show which rule of FLOW takes each NAME, where it goes, and why. No endpoint is contacted.

    A NAME is a path below the flow's source, or, as /PATH or ENDPOINT:PATH, below the endpoint's root; '-' reads them
    from standard input, one a line. Exit code 1 if any of them goes nowhere.
    """
    from crossdock.flows.plan import Planner

    planner = Planner(session.config.flow(flow))
    lost = 0
    for name in _names(names):
        found = _routed(session.config, planner, name)
        lost += not found["to"]
        if as_json:
            emit(found)
            continue
        if not found["to"]:
            click.echo(f"{shown(name)} → nowhere ({shown(found['reason'])})")
        for place in found["to"]:
            click.echo(f"{shown(name)} → {shown(place)} ({shown(found['reason'])})")
    return exits.SOME if lost else exits.OK


def _names(names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        if name == "-":
            yield from (os.fsdecode(line.rstrip(b"\n")) for line in sys.stdin.buffer if line.strip())
        else:
            yield name


def _routed(config: Config, planner: Planner, name: str) -> dict[str, Any]:
    from datetime import UTC, datetime

    from crossdock.cli.engine import below_source
    from crossdock.storage.base import Entry

    flow, now = planner.flow, datetime.now(UTC)
    path = below_source(flow, name)
    if path is None:
        return {"name": name, "rule": None, "to": [], "reason": f"it is not below the flow's source, {flow.source}"}
    never = planner.by_name(path)
    if never is not None:
        return {"name": name, "rule": None, "to": [], "reason": never}
    try:
        routed = planner.routes.route(Entry(path=path, size=0, modified=now), now)
        for place in routed.places:
            config.endpoint(place.endpoint)
    except ConfigError as error:
        # Of this name alone: the others have answers.
        return {"name": name, "rule": None, "to": [], "reason": error.message}
    return {
        "name": name,
        "rule": routed.rule.name if routed.rule is not None else None,
        "to": [str(place) for place in routed.places],
        "reason": routed.reason,
    }
