"""What unfinished writes left at an endpoint: temporaries of killed runs, uploads in parts that nobody ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from crossdock.cli.output import count
from crossdock.cli.probes import Finding
from crossdock.errors import shown

if TYPE_CHECKING:
    from crossdock.config import Location
    from crossdock.storage.base import Entry, Leftover
    from crossdock.storage.storage import Storage

__all__ = ["found"]

_AGE = timedelta(days=1)
"""No transfer is believed to take longer; anything younger may be under way."""


async def found(storage: Storage, place: Location, *, clean: bool) -> AsyncGenerator[Finding]:
    """Findings about leftovers in the folder itself (not below it) and about all uploads; `clean` removes them."""
    border = datetime.now(UTC) - _AGE
    old = await _temporaries(storage, place.path, border)
    uploads = await _uploads(storage, place.path, border)
    for path in old:
        if clean:
            await storage.delete(path)
        yield _finding(f"{place.shown(path)} is what a killed run left", place, clean)
    for each in uploads:
        if clean:
            await storage.discard(each.token)
        age = f"begun {each.begun:%Y-%m-%d}" if each.begun else "begun at an unknown time"
        yield _finding(f"an upload of {shown(each.path)}, {age}, was never ended; its parts are billed", place, clean)
    if not old and not uploads:
        yield Finding("leftovers", "none older than a day")
    elif clean:
        yield Finding("leftovers", f"{count(len(old) + len(uploads), 'leftover')} removed")


def _finding(detail: str, place: Location, clean: bool) -> Finding:
    if clean:
        return Finding("leftovers", f"removed: {detail}")
    return Finding("leftovers", detail, good=False, mend=f"crossdock doctor --clean '{place.shown()}'")


async def _temporaries(storage: Storage, folder: str, border: datetime) -> list[str]:
    from crossdock.storage.staging import is_temporary

    def left(entry: Entry) -> bool:
        return is_temporary(entry.path) and entry.modified is not None and entry.modified < border

    async with aclosing(storage.scan(folder, temporaries=True)) as entries:
        return [entry.path async for entry in entries if left(entry)]


async def _uploads(storage: Storage, folder: str, border: datetime) -> list[Leftover]:
    async with aclosing(storage.backend.leftovers(folder)) as uploads:
        return [upload async for upload in uploads if upload.begun is None or upload.begun < border]
