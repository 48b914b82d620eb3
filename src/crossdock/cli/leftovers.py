"""What unfinished writes left at an endpoint: temporaries of killed runs, uploads in parts that nobody ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from crossdock.cli.output import count
from crossdock.cli.probes import Finding
from crossdock.errors import NotFound, Unsupported, shown

if TYPE_CHECKING:
    from crossdock.cli.session import Session
    from crossdock.config import Location
    from crossdock.storage.base import Entry, Leftover
    from crossdock.storage.storage import Storage

__all__ = ["found", "undecided"]

_AGE = timedelta(days=1)
"""No transfer is believed to take longer; anything younger may be under way."""


async def found(
    storage: Storage,
    place: Location,
    *,
    clean: bool,
    cleaning: str,
    undecided: Callable[[], Awaitable[Mapping[str, int]]],
) -> AsyncGenerator[Finding]:
    """Findings about leftovers in the folder itself (not below it) and about all uploads; `clean` removes them.

    `cleaning`: the command that does. `undecided`: by the path at the endpoint, the transfers that look for what they
    staged: it is spared.
    """
    border = datetime.now(UTC) - _AGE
    old = await _temporaries(storage, place.path, border)
    uploads: list[Leftover] = []
    unlisted = ""
    try:
        uploads = await _uploads(storage, place.path, border)
    except Unsupported as error:
        unlisted = f"; {error.reason}"
    if old:
        needed = {_without_attempt(to): id for to, id in (await undecided()).items()}
        for path, id in [(path, needed[_stem(path)]) for path in old if _stem(path) in needed]:
            old.remove(path)
            words = f"{place.shown(path)} is spared: transfer {id} looks for it, to know whether it had published"
            way = f"crossdock run; if it failed or was cancelled, crossdock transfers retry {id}"
            yield Finding("leftovers", f"{words} ({way})")
    nameless = await _nameless(storage, place.path, old)
    for path in nameless:
        old.remove(path)
        detail = (
            f"{place.shown(path)} is a file that a killed run had put aside, and none has its name now: it is spared"
        )
        yield Finding("leftovers", detail, good=False, mend="crossdock run    # of a cp or sync: copy it to its name")
    for path in old:
        if clean:
            await storage.delete(path)
        yield _finding(f"{place.shown(path)} is what a killed run left", cleaning, clean)
    for each in uploads:
        if clean:
            await storage.discard(each.token)
        age = f"begun {each.begun:%Y-%m-%d}" if each.begun else "begun at an unknown time"
        words = f"an upload of {shown(each.path)}, {age}, was never ended; its parts are billed"
        yield _finding(words, cleaning, clean)
    if not old and not uploads and not nameless:
        below = "; the folders below it are not looked at" if storage.capabilities.directories else ""
        yield Finding("leftovers", f"none older than a day in {place.shown()}{below}{unlisted}")
    elif clean and (old or uploads):
        yield Finding("leftovers", f"{count(len(old) + len(uploads), 'leftover')} removed")


async def undecided(session: Session, ledger: str | None, place: Location) -> dict[str, int]:
    """Transfers to this endpoint that ended, or were ended, in the moment of publishing, by their paths there.

    If what they staged were removed, they would take it for published (`engine.recovery`).
    """
    from crossdock.cli.engine import opened_ledger
    from crossdock.cli.rows import absent
    from crossdock.engine.lookup import matching
    from crossdock.engine.recovery import Record
    from crossdock.ledger.base import Query, State

    if not session.config.flows or absent(session.config.new_ledger(ledger)):
        return {}
    states = frozenset(State) - {State.DELIVERED, State.DONE}
    found = {}
    async with (
        opened_ledger(session, ledger) as opened,
        aclosing(matching(opened, Query(target=place.name, states=states))) as transfers,
    ):
        async for transfer in transfers:
            record = Record.load(transfer.checkpoint)
            if record is not None and record.sha256 is not None:
                found[record.to] = transfer.id
    return found


def _without_attempt(to: str) -> str:
    from crossdock.storage.staging import temporary_path

    return _stem(temporary_path(to, ""))


def _stem(temporary: str) -> str:
    return temporary.rpartition("-")[0]


def _finding(detail: str, cleaning: str, clean: bool) -> Finding:
    if clean:
        return Finding("leftovers", f"removed: {detail}")
    return Finding("leftovers", detail, good=False, mend=cleaning)


async def _temporaries(storage: Storage, folder: str, border: datetime) -> list[str]:
    from crossdock.storage.staging import is_temporary

    def left(entry: Entry) -> bool:
        return is_temporary(entry.path) and entry.modified is not None and entry.modified < border

    try:
        async with aclosing(storage.scan(folder, temporaries=True)) as entries:
            return [entry.path async for entry in entries if left(entry)]
    except NotFound:
        if storage.capabilities.directories:
            raise
        return []


async def _nameless(storage: Storage, folder: str, temporaries: list[str]) -> list[str]:
    """Those that stepped aside for a file which never came: of what they hold there may be no other copy."""
    aside = [path for path in temporaries if path.endswith(".old")]
    if not aside:
        return []
    async with aclosing(storage.scan(folder)) as entries:
        named = {_without_attempt(entry.path) async for entry in entries}
    return [path for path in aside if _stem(path) not in named]


async def _uploads(storage: Storage, folder: str, border: datetime) -> list[Leftover]:
    async with aclosing(storage.backend.leftovers(folder)) as uploads:
        return [upload async for upload in uploads if upload.begun is None or upload.begun < border]
