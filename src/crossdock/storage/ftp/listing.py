"""Listings: one folder, a page at a time, with the times that LIST leaves unsaid."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress

from crossdock.errors import InvalidPath, NotFound
from crossdock.storage.base import Entry
from crossdock.storage.ftp import asking, stamps
from crossdock.storage.ftp.calls import Calls
from crossdock.storage.ftp.dialects import Listing
from crossdock.storage.ftp.faults import Translate

__all__ = ["scan"]


async def scan(calls: Calls, path: str) -> AsyncGenerator[list[Entry]]:
    """The direct children. The listing is read whole first: no connection is held between two pages."""
    listing = Listing(prefix=path + "/" if path else "", encoding=calls.settings.encoding)
    try:
        try:
            await calls.call("list", path, asking.list_folder, calls.full(path, "list"), listing)
        except NotFound as error:
            if path:
                raise
            raise calls.no_root("list", str(error.reason)) from error
        while True:
            with Translate("list", calls.backend.endpoint, path):
                page = listing.page()
            if not page:
                return
            yield await _completed(calls, page, path)
    finally:
        listing.close()


async def _completed(calls: Calls, page: list[Entry], path: str) -> list[Entry]:
    """LIST tells times too coarsely to know a file again by, and MLSD not all facts of all: they are asked for."""
    names: dict[int, bytes] = {}
    for number, entry in enumerate(page):
        if entry.kind == "file" and (entry.modified is None or entry.size is None):
            # One that cannot be sent is refused once somebody reads it; it keeps no others from being listed.
            with suppress(InvalidPath):
                names[number] = calls.full(entry.path, "list")
    if not names:
        return page
    found = await calls.call("list", path, stamps.completed, [page[number] for number in names], list(names.values()))
    for number, entry in zip(names, found, strict=True):
        page[number] = entry
    return page
