"""plan and apply: see what a run would move, keep it, and move exactly that."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossdock.cli import exits
from crossdock.cli.engine import (
    delivery_json,
    first_due,
    flows_of,
    ledger_option,
    opened_engine,
    told_if_stopped,
    what_next,
)
from crossdock.cli.main import NO_ROOM, complain
from crossdock.cli.options import DURATION
from crossdock.cli.output import count, emit, human_size, human_time
from crossdock.cli.rows import aligned, source_of
from crossdock.cli.session import Session, common
from crossdock.errors import CrossdockError, shown

if TYPE_CHECKING:
    from crossdock.engine.delivery import Delivery
    from crossdock.engine.saved import Drift, Making, Row
    from crossdock.flows.flow import Flow
    from crossdock.flows.plan import Decision

__all__ = ["apply", "plan"]


@click.command()
@click.argument("flows", metavar="[FLOW]...", nargs=-1)
@click.option("--out", metavar="FILE", help="Save the plan, for 'crossdock apply'.")
@click.option(
    "--patience", type=DURATION, default="5s", show_default=True, help="How long to wait for files to settle."
)
@ledger_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per transfer, and a summary.")
@common
@click.pass_obj
def plan(session: Session, /, flows: tuple[str, ...], **options: Any) -> int:
    """Show what a run of the flows (all of them, or those named) would move, why, and what that costs.

    Nothing is moved and no transfer is added. It is a look at the sources all the same: files that settle have been
    seen once more. Requests are those at object stores, by a formula (see the guide to operations).
    """
    names = flows_of(session.config, flows)
    config = session.config

    async def work() -> tuple[Making, str]:
        from crossdock.engine.saved import make

        async with opened_engine(session, options["ledger"], looking=True) as engine:
            made = await make(engine, names, config.endpoint, patience=options["patience"])
            return made, engine.ledger.id

    made, ledger = session.run(work)
    if options["out"]:
        from crossdock.engine.saved import dump

        _save(options["out"], dump(made.rows, ledger))
    (_emit if options["as_json"] else _print)(session, made)
    for name, error in made.errors.items():
        click.echo(f"crossdock: flow {name}:", err=True)
        complain(error)
    if made.errors and len(names) == 1:
        return exits.code_of(next(iter(made.errors.values())))
    return (
        exits.SOME
        if made.errors or any(_is_wrong(config.flows[flow], each) for flow, each in made.others)
        else exits.OK
    )


def _is_wrong(flow: Flow, decision: Decision) -> bool:
    """As a run would end for it."""
    return decision.verdict in ("clash", "fail") or (decision.verdict == "unmatched" and flow.unmatched == "fail")


def _save(name: str, text: str) -> None:
    """All of it or nothing: an `apply` never reads half a plan."""
    from crossdock.engine.saved import is_plan

    path = Path(name)
    if os.path.isdir(path):  # noqa: PTH112 - a Path's own raises for what may not be looked at
        raise click.UsageError(f"--out: {name} is a folder")
    beside = path.with_name(f".{path.name}.part")
    try:
        if path.exists() and not is_plan(path):
            raise click.UsageError(f"--out: {name} is there and is no plan; it is not replaced: choose another name")
        beside.write_text(text, encoding="ascii")
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        if error.errno in NO_ROOM:
            hint = "make room there, or name a file on another disk with --out"
            raise CrossdockError(f"write the plan {name}: {error.strerror}", hint=hint) from error
        raise click.UsageError(f"--out: cannot write {name}: {error.strerror}") from error


def _costs(rows: list[Row]) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in rows:
        found.update(row.requests)
    return found


def _words(requests: Counter[str]) -> str:
    return ", ".join(f"{number:,} {method}" for method, number in sorted(requests.items()))


def _emit(session: Session, made: Making) -> None:
    for row in made.rows:
        emit(row.as_json())
    for flow, decision in made.others:
        emit({"flow": flow, "below": decision.entry.path, "verdict": decision.verdict, "reason": decision.reason})
    summary = {
        "transfers": len(made.rows),
        "size": sum(row.entry.size or 0 for row in made.rows),
        "requests": dict(_costs(made.rows)),
        "waiting": made.waiting,
        "held": made.held,
        "errors": {name: str(error) for name, error in made.errors.items()},
    }
    emit({"summary": summary})


def _print(session: Session, made: Making) -> None:
    table = [
        [
            row.flow,
            "-" if row.entry.size is None else human_size(row.entry.size),
            _words(Counter(row.requests)) or "-",
            f"{row.source}:{shown(row.entry.path)} → {row.target}:{shown(row.target_path)} ({shown(row.reason)})",
        ]
        for row in made.rows
    ]
    sys.stdout.writelines(line + "\n" for line in aligned(table, right=(1,)))
    for flow, decision in made.others:
        click.echo(f"not now: {flow}: {shown(decision.entry.path)}: {decision.verdict}: {shown(decision.reason)}")
    for flow, number in made.waiting.items():
        click.echo(f"not now: {flow}: {count(number, 'file')} more than max_files or max_bytes allow")
    for flow, number in made.held.items():
        click.echo(f"besides: {flow}: {count(number, 'transfer')} that the ledger holds already, and a run works off")
    size = human_size(sum(row.entry.size or 0 for row in made.rows))
    costs = _costs(made.rows)
    requests = f"; about {count(costs.total(), 'request')} at object stores ({_words(costs)})" if costs else ""
    session.say(f"{count(len(made.rows), 'transfer')} to add, {size}{requests}")


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--partial", is_flag=True, help="Leave out what drifted, and apply the rest.")
@click.option("-n", "--dry-run", is_flag=True, help="Only tell what drifted.")
@ledger_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per drifted row and per attempt.")
@common
@click.pass_obj
def apply(session: Session, /, file: str, **options: Any) -> int:
    """Carry out a plan that 'crossdock plan --out FILE' saved: add exactly its transfers, and run them.

    Every row is looked at again. One that drifted (the file changed or is gone, goes elsewhere now, or is in the
    ledger already) is named with its reason, and nothing is done; with --partial the rest is. What the ledger already
    held for these flows is worked off too, as in every run.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise click.UsageError(f"cannot read the plan {file}: {reason}") from error
    return session.run(_Apply(session, file, text, options).run)


class _Apply:
    def __init__(self, session: Session, file: str, text: str, options: dict[str, Any]) -> None:
        self.session, self.file, self.text, self.options = session, file, text, options

    async def run(self) -> int:
        from crossdock.engine import saved
        from crossdock.engine.summary import Summary

        summary = Summary()

        def report(delivery: Delivery) -> None:
            summary.count(delivery)
            self._tell(delivery)

        async with opened_engine(self.session, self.options["ledger"]) as engine:
            rows = saved.load(self.text, engine.ledger.id, self.file)
            good, drifted = await saved.check(engine, rows)
            self._drifted(drifted)
            fine = len(rows) - len(drifted)
            if self.options["dry_run"] or (drifted and not self.options["partial"]):
                self.session.say(f"{fine} of {count(len(rows), 'transfer')} as planned; nothing was done")
                if drifted and fine and not self.options["dry_run"]:
                    click.echo("Next: --partial applies the rest; or plan again", err=True)
                return exits.SOME if drifted else exits.OK
            added = await saved.start(engine, good)
            started = asyncio.get_running_loop().time()
            with told_if_stopped(self.session, summary):
                flows = {row.flow for row in rows} & set(engine.planners)
                await engine.worker(flows, report=report).run(until_idle=True)
            seconds = asyncio.get_running_loop().time() - started
            for flow in flows:
                await engine.unfinished(flow, summary)
        done = f"{count(len(added), 'transfer')} added, {summary.delivered} delivered ({human_size(summary.size)})"
        more = [
            (summary.skipped, "skipped"),
            (summary.failed, "failed"),
            (summary.waiting, first_due(summary)),
            (summary.held, "held by other workers"),
            (len(drifted), "drifted"),
        ]
        parts = [done, *(f"{number} {what}" for number, what in more if number)]
        self.session.say(f"{', '.join(parts)}, in {human_time(seconds)}")
        if (after := what_next(summary)) is not None:
            self.session.say(after)
        return exits.OK if summary.good and not drifted else exits.SOME

    def _drifted(self, drifted: list[Drift]) -> None:
        for one in drifted:
            if self.options["as_json"]:
                emit({"drifted": one.reason} | one.row.as_json())
            else:
                row = one.row
                place = f"{row.source}:{shown(row.entry.path)} → {shown(str(row.place))}"
                click.echo(f"drifted: {row.flow}: {place}: {shown(one.reason)}", err=True)

    def _tell(self, delivery: Delivery) -> None:
        if self.options["as_json"]:
            emit(delivery_json(delivery))
        elif delivery.what in ("failed", "lost", "retry"):
            said: object = delivery.reason if delivery.error is None else delivery.error
            if isinstance(said, CrossdockError):
                said = str(said)
            click.echo(f"{delivery.transfer.flow}: {source_of(delivery.transfer)}: {shown(str(said))}", err=True)
