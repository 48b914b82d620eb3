"""doctor: connect, say what the server is and can do, try it in a scratch folder, and say how to mend what fails."""

from __future__ import annotations

import shlex
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, fields
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from crossdock.cli import exits, leftovers
from crossdock.cli.engine import ledger_option
from crossdock.cli.output import as_json as json_line
from crossdock.cli.output import count, human_time
from crossdock.cli.probes import Finding, probe, scratch_name
from crossdock.cli.session import Session, common, opened
from crossdock.errors import CrossdockError, NotFound, shown

if TYPE_CHECKING:
    from crossdock.config import Location
    from crossdock.storage.storage import Storage

__all__ = ["doctor"]


@dataclass(frozen=True)
class _Visit:
    session: Session
    written: str
    """The location, as it was given."""
    place: Location
    as_json: bool
    clean: bool
    look_only: bool
    ledger: str | None

    def line(self, *words: str, below: str = "") -> str:
        """A command about this place, or a name `below` it, that can be entered as it is."""
        from crossdock.config import is_url

        file = self.session.config_file
        where = self.place.shown("/".join(part for part in (self.place.path, below) if part))
        if is_url(self.written):
            # With its settings.
            url, mark, query = self.written.partition("?")
            where = f"{url.rstrip('/')}/{below}{mark}{query}" if below else self.written
        return shlex.join(["crossdock", *(["--config", file] if file else []), *words, where])


@click.command()
@click.argument("location")
@click.option("--look-only", is_flag=True, help="Write nothing; without it, probes write to a scratch folder there.")
@click.option("--clean", is_flag=True, help="Remove what unfinished writes left in it more than a day ago.")
@click.option("--json", "as_json", is_flag=True, help="One finding per line.")
@ledger_option
@common
@click.pass_obj
def doctor(session: Session, location: str, look_only: bool, clean: bool, as_json: bool, ledger: str | None) -> int:
    """Connect to an endpoint, name its server, try what it can do, and print the line that mends each problem.

    The probes write, read, rename and delete in a new folder of their own below LOCATION, and remove it again.
    What unfinished writes left is looked for in LOCATION itself, not in the folders below it; uploads in parts, at any
    depth.
    """
    visit = _Visit(session, location, session.locate(location), as_json, clean, look_only, ledger)

    async def work() -> int:
        problems = 0
        async with aclosing(_findings(visit)) as findings:
            async for finding in findings:
                problems += not finding.good
                _print(visit, finding)
        if not as_json:
            session.say(f"{count(problems, 'problem')} found" if problems else "no problems found")
        return exits.SOME if problems else exits.OK

    return session.run(work)


def _print(visit: _Visit, finding: Finding) -> None:
    if visit.as_json:
        found: dict[str, Any] = {"check": finding.name, "good": finding.good, "detail": finding.detail}
        click.echo(json_line(found | ({"mend": finding.mend} if finding.mend else {})))
        return
    click.echo(f"{'ok ' if finding.good else 'BAD'} {finding.name:<14} {shown(finding.detail)}")
    if finding.mend:
        click.echo(f"    {'mend it:':<14} {shown(finding.mend)}")


async def _findings(visit: _Visit) -> AsyncGenerator[Finding]:
    place = visit.place
    started = time.monotonic()
    async with opened(place, looking=visit.look_only and not visit.clean) as (storage,):
        yield Finding("connect", f"{place.name} ({place.settings.type}) in {human_time(time.monotonic() - started)}")
        if said := await storage.backend.server():
            yield Finding("server", said)
        for finding in _capabilities(storage):
            yield finding
        for what, detail, remedy in await storage.backend.remarks():
            yield Finding(what, detail, mend=remedy)
        there = listed = True
        try:
            entries = 0
            async with aclosing(storage.scan(place.path)) as listing:
                async for _ in listing:
                    entries += 1
            yield Finding("list", f"{count(entries, 'name')} in {place.shown()}")
        except CrossdockError as error:
            listed = isinstance(error, NotFound) and await _may_begin(storage, place)
            there = listed or not isinstance(error, NotFound)
            mend = error.hint
            if not there and storage.capabilities.directories:
                # A root that is not there is more often written wrong than missing.
                make = visit.line("mkdir")
                mend = make if place.path or not error.hint else f"{error.hint}; or make it: {make}"
            if listed:
                yield Finding("list", f"no names in {place.shown()}: there is nothing of that name yet")
            else:
                yield Finding(
                    "list", error.message, good=there and place.drop_box, mend=None if place.drop_box else mend
                )
        if not there:
            return
        if not visit.look_only:
            name = scratch_name()
            scratch = "/".join(part for part in (place.path, name) if part)
            removing = visit.line("rm", "-r", below=name)
            async with aclosing(probe(storage, scratch, place, removing=removing)) as findings:
                async for finding in findings:
                    yield finding
        if not listed:
            return
        undecided = partial(leftovers.undecided, visit.session, visit.ledger, place)
        try:
            cleaning = visit.line("doctor", "--clean")
            found = leftovers.found(storage, place, clean=visit.clean, cleaning=cleaning, undecided=undecided)
            async with aclosing(found) as findings:
                async for finding in findings:
                    yield finding
        except CrossdockError as error:
            yield Finding("leftovers", error.message, good=False, mend=error.hint)


async def _may_begin(storage: Storage, place: Location) -> bool:
    """A store without folders needs none to be made."""
    if storage.capabilities.directories or not place.path:
        return False
    try:
        await storage.check_store()
    except CrossdockError:
        return False
    return True


def _capabilities(storage: Storage) -> list[Finding]:
    able: list[str] = []
    unable: list[str] = []
    numbers: list[str] = []
    for field in fields(storage.capabilities):
        value = getattr(storage.capabilities, field.name)
        if isinstance(value, bool):
            (able if value else unable).append(field.name)
        elif isinstance(value, timedelta):
            kept = f"{value.total_seconds():g} s" if value.seconds else f"{value.microseconds} µs"
            numbers.append(f"modification times kept to {kept}")
        elif isinstance(value, int):
            numbers.append(f"{field.name} {value}")
        elif isinstance(value, frozenset) and value:
            numbers.append(f"verifies {', '.join(sorted(value))}")
    found = [Finding("can", ", ".join(able)), Finding("limits", ", ".join(numbers))]
    if unable:
        found.insert(1, Finding("cannot", ", ".join(unable)))
    return found
