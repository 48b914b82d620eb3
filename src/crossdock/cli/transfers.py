"""transfers: look at what the ledger holds, try failed ones again, cancel, export, prune."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from crossdock.cli import exits
from crossdock.cli.choosing import ID, filtered, filters_of
from crossdock.cli.engine import ledger_option
from crossdock.cli.options import DURATION
from crossdock.cli.output import as_json as to_json
from crossdock.cli.output import count, emit, human_size
from crossdock.cli.rows import (
    aligned,
    existing_ledger,
    moment,
    source_of,
    target_of,
    transfer_json,
)
from crossdock.cli.session import Session, common
from crossdock.errors import NotFound, shown
from crossdock.ledger.rows import history_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from crossdock.ledger.base import Event, Ledger, State, Transfer

__all__ = ["transfers"]

_BATCH = 500
_EARLIEST = timedelta(days=2)


@click.group()
@common
def transfers() -> None:
    """Look at the ledger's transfers, and act on them by hand.

    A transfer is one file to one destination; its row stays for as long as the file may come again.
    """


@transfers.command("list")
@filtered
@click.option(
    "--limit", metavar="N", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="Rows of one page."
)
@click.option("--below", metavar="ID", type=ID, help="Only ids below this one: the next page.")
@ledger_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@common
@click.pass_obj
def list_(session: Session, /, limit: int, below: int | None, as_json: bool, **options: Any) -> None:
    """List transfers, the newest first.

    Columns: id, state, last change, attempts, size, flow, where from and to; of those that failed, why.
    """
    filters = filters_of(options, below=below)

    async def work() -> None:
        page: list[Transfer] = []
        number = last = 0
        async with existing_ledger(session, options["ledger"]) as ledger, aclosing(filters.find(ledger)) as rows:
            async for transfer in rows:
                if number == limit:
                    _print(page, as_json)
                    session.say(f"there are more; the next page: --below {last}")
                    return
                page.append(transfer)
                number, last = number + 1, transfer.id
                if len(page) == _BATCH:
                    _print(page, as_json)
                    page = []
        if not number:
            filters.nothing_found(session.config)
        _print(page, as_json)

    session.run(work)


def _print(found: Sequence[Transfer], as_json: bool) -> None:
    if as_json:
        sys.stdout.writelines(to_json(transfer_json(each)) + "\n" for each in found)
    else:
        sys.stdout.writelines(line + "\n" for line in aligned([_row(each) for each in found], right=(0, 3, 4)))


def _row(transfer: Transfer) -> list[str]:
    size = "-" if transfer.entry.size is None else human_size(transfer.entry.size)
    places = f"{source_of(transfer)} → {target_of(transfer)}"
    if told := _told(transfer):
        places += f": {shown(told)}"
    return [
        str(transfer.id),
        str(transfer.state),
        moment(transfer.changed),
        str(transfer.attempts),
        size,
        transfer.flow,
        places,
    ]


def _told(transfer: Transfer) -> str:
    """What went wrong with it, or who took it out of the way."""
    from crossdock.ledger.base import State

    waits_untried = transfer.state is State.PENDING and (transfer.fence > 0 or transfer.ready != transfer.added)
    if waits_untried or transfer.state in (State.SKIPPED, State.CANCELLED):
        return transfer.why
    return transfer.error or ""


@transfers.command(short_help="Show all that is known of a transfer.")
@click.argument("ids", metavar="ID...", nargs=-1, required=True, type=ID)
@ledger_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@common
@click.pass_obj
def show(session: Session, ids: tuple[int, ...], ledger: str | None, as_json: bool) -> None:
    """Show all that the ledger knows of transfers: the row, the receipt, and every change with its reason."""

    async def work() -> None:
        async with existing_ledger(session, ledger) as opened:
            for number, transfer in enumerate(await _all_of(opened, ids)):
                history = await opened.history(transfer.id)
                if as_json:
                    receipt = {"receipt": dict(transfer.receipt)} if transfer.receipt else {}
                    emit(transfer_json(transfer) | receipt | {"history": history_json(history)})
                else:
                    if number:
                        click.echo()
                    for line in _described(transfer, history):
                        click.echo(line)

    session.run(work)


def _described(transfer: Transfer, history: Sequence[Event]) -> list[str]:
    from crossdock.flows.explain import last_said, what_next

    entry = transfer.entry
    rows = [
        ("transfer", f"{transfer.id} of flow {transfer.flow}"),
        ("source", source_of(transfer)),
        ("size", "unknown" if entry.size is None else str(entry.size)),
        ("modified", moment(entry.modified) if entry.modified else "unknown"),
        ("fingerprint", shown(transfer.fingerprint)),
        ("target", target_of(transfer)),
        ("state", f"{transfer.state} since {moment(transfer.changed)}"),
        ("attempts", str(transfer.attempts)),
    ]
    if transfer.rescues:
        rows.append(("rescues", str(transfer.rescues)))
    if said := last_said(transfer):
        rows.append(("why", shown(said)))
    if transfer.error:
        rows.append(("error", shown(transfer.error)))
    rows.append(("next", shown(what_next(transfer, datetime.now(UTC)))))
    lines = [f"{key:<12} {value}" for key, value in rows]
    if transfer.receipt:
        lines.append("receipt")
        lines += [f"  {key:<12} {shown(_plain(value))}" for key, value in transfer.receipt.items()]
    lines.append("history")
    table = [
        [moment(each.at), f"{each.was or '(new)'} → {each.now}", shown(each.who), shown(each.why)] for each in history
    ]
    return [*lines, *(f"  {line}" for line in aligned(table))]


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@transfers.command(short_help="Try transfers again, now.")
@click.argument("ids", metavar="[ID]...", nargs=-1, type=ID)
@filtered
@click.option("--all", "everything", is_flag=True, help="Every one that failed or waits, without any filter.")
@click.option("-n", "--dry-run", is_flag=True, help="Say which ones, and change nothing.")
@click.option("--why", metavar="TEXT", default="tried again by hand", show_default=True, help="Kept in the history.")
@ledger_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, with what was changed.")
@common
@click.pass_obj
def retry(session: Session, /, ids: tuple[int, ...], **options: Any) -> int:
    """Try transfers again, now, with their attempts counted anew: by id, or by filters.

    Filters find those that failed, and those that wait for their next attempt, unless --state says otherwise. What
    waits, waits no more; a transfer that is done, or under way, stays as it is. To send a file once more that was
    delivered, bring it back to its source, or use 'crossdock cp'.
    """
    from crossdock.flows.explain import retriable
    from crossdock.ledger.base import State

    states = frozenset({State.FAILED, State.PENDING, State.DELIVERED})
    refused = frozenset({State.DONE, State.RUNNING})
    change = _Change(session, options, "made to be tried again", states, refused, retriable)
    return session.run(lambda: change.run(ids, lambda ledger: ledger.requeue))


@transfers.command(short_help="Give up what is not delivered.")
@click.argument("ids", metavar="[ID]...", nargs=-1, type=ID)
@filtered
@click.option("--all", "everything", is_flag=True, help="Every one that is not delivered, without any filter.")
@click.option("-n", "--dry-run", is_flag=True, help="Say which ones, and change nothing.")
@click.option("--why", metavar="TEXT", default="cancelled by hand", show_default=True, help="Kept in the history.")
@ledger_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, with what was changed.")
@common
@click.pass_obj
def cancel(session: Session, /, ids: tuple[int, ...], **options: Any) -> int:
    """Give up transfers that are not delivered, those that failed as well: by id, or by filters.

    Whoever is at one loses its lease, and publishes nothing. The file is not sent again until it changes, or until
    'crossdock transfers retry'.
    """
    from crossdock.ledger.base import State

    states = frozenset({State.PENDING, State.RUNNING, State.FAILED})
    change = _Change(
        session, options, "cancelled", states, frozenset(State) - states, lambda transfer: transfer.state in states
    )
    return session.run(lambda: change.run(ids, lambda ledger: ledger.cancel))


class _Change:
    """retry or cancel. `states`: those that filters find; `refused`: those that it never changes."""

    def __init__(
        self,
        session: Session,
        options: dict[str, Any],
        words: str,
        states: frozenset[State],
        refused: frozenset[State],
        possible: Callable[[Transfer], bool],
    ) -> None:
        self.session, self.options, self.words, self.possible = session, options, words, possible
        self.filters = filters_of(options, default=states)
        wrong = self.filters.query.states & refused
        if wrong:
            raise click.UsageError(f"--state {min(wrong)}: those stay as they are")

    async def run(self, ids: tuple[int, ...], method: Callable[[Ledger], Callable[..., Awaitable[list[int]]]]) -> int:
        options, given = self.options, self.filters.given
        if ids and (given or options["everything"]):
            raise click.UsageError("give either ids or filters")
        if not ids and not given and not options["everything"]:
            raise click.UsageError("say which transfers: by id, by a filter, or --all")
        number = 0
        async with existing_ledger(self.session, options["ledger"]) as ledger:
            wanted = await self._wanted(ledger, ids)
            try:
                # Not all at once: there may be a million of them.
                for start in range(0, len(wanted), _BATCH):
                    batch = wanted[start : start + _BATCH]
                    possible = [id for id, may_change in batch if may_change]
                    changed = set(possible)
                    if not options["dry_run"]:
                        changed = set(await method(ledger)(possible, who=_who(), why=options["why"]))
                    number += len(changed)
                    found = await asyncio.gather(*(ledger.get(id) for id, _ in batch))
                    self._tell([each for each in found if each], changed)
            finally:
                would = "would be " if options["dry_run"] else ""
                self.session.say(f"{count(number, 'transfer')} {would}{self.words}")
        return exits.OK if number == len(wanted) else exits.SOME

    async def _wanted(self, ledger: Ledger, ids: tuple[int, ...]) -> list[tuple[int, bool]]:
        """Those that were named, each with whether it can be changed; of those that filters find, the ones that can."""
        if ids:
            return [(each.id, self.possible(each)) for each in await _all_of(ledger, ids)]
        found, any_, query = [], False, self.filters.query
        # Flow by flow: of all together, each page would have the ledger sort those that are left.
        for flow in sorted({flow for flow, _ in await ledger.counts()} if query.flow is None else [query.flow]):
            filters = replace(self.filters, query=replace(query, flow=flow))
            async with aclosing(filters.find(ledger)) as rows:
                async for each in rows:
                    any_ = True
                    if self.possible(each):
                        found.append((each.id, True))
        if not any_:
            self.filters.nothing_found(self.session.config)
        return sorted(found)

    def _tell(self, found: list[Transfer], changed: set[int]) -> None:
        from crossdock.flows.explain import what_next

        dry, now = self.options["dry_run"], datetime.now(UTC)
        if self.options["as_json"]:
            for each in found:
                outcome = "unchanged" if each.id not in changed else "would change" if dry else "changed"
                emit({"outcome": outcome} | transfer_json(each))
        else:
            _print([each for each in found if each.id in changed], as_json=False)
        for each in found:
            if each.id not in changed:
                said = shown(what_next(each, now))
                click.echo(f"transfer {each.id} stays as it is: {each.state}; next: {said}", err=True)


@transfers.command(short_help="Write the whole ledger, one JSON object a line.")
@ledger_option
@common
@click.pass_obj
def export(session: Session, ledger: str | None) -> None:
    """Write every transfer with its receipt and history to stdout, one JSON object per line."""

    async def work() -> None:
        async with existing_ledger(session, ledger) as opened, aclosing(opened.export()) as lines:
            async for line in lines:
                sys.stdout.write(line + "\n")

    session.run(work)


@transfers.command(short_help="Drop what ended long ago, and is gone.")
@click.option(
    "--older-than", type=DURATION, default="30d", show_default=True, help="Ended, and gone from the source, so long."
)
@ledger_option
@common
@click.pass_obj
def prune(session: Session, older_than: float, ledger: str | None) -> None:
    """Drop transfers that ended long ago and whose file is gone from its source; failed ones are kept.

    At least two days; what is still listed at its source stays, else it would be sent again.
    """
    age = timedelta(seconds=older_than)
    if age < _EARLIEST:
        raise click.UsageError("--older-than: at least 2d")

    async def work() -> None:
        async with existing_ledger(session, ledger) as opened:
            session.say(f"{count(await opened.prune(age), 'transfer')} dropped")

    session.run(work)


async def _all_of(ledger: Ledger, ids: Sequence[int]) -> list[Transfer]:
    """Raises `NotFound` for the first one that is not there, before anything is done."""
    wanted = list(dict.fromkeys(ids))
    found = []
    for id, transfer in zip(wanted, await asyncio.gather(*map(ledger.get, wanted)), strict=True):
        if transfer is None:
            raise NotFound(
                "the ledger has no such transfer",
                operation="get",
                endpoint="ledger",
                path=str(id),
                hint="crossdock transfers list, or crossdock where NAME",
            )
        found.append(transfer)
    return found


def _who() -> str:
    """How the history names a person."""
    return f"{os.environ.get('USER') or os.getuid()}@{socket.gethostname()}"
