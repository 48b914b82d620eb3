"""Where nothing is staged (`staging: none`), what an attempt wrote until it was killed lies under the file's own name.

Before its first byte the ledger holds that the attempt is to make a file there, where none may be replaced
(`Record.in_place`). By that alone the file is not known for ours: somebody may have put one there since. But what is
empty, or how the source's file begins, takes nothing with it when it goes.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from crossdock.engine.recovery import Record, sha256_of, where
from crossdock.errors import NotFound, PermissionDenied, SourceChanged, located
from crossdock.ledger.base import Transfer
from crossdock.storage.base import Entry
from crossdock.storage.storage import Storage
from crossdock.transfer.pipe import Tally

__all__ = ["remove_beginning"]

log = logging.getLogger("crossdock.engine")


async def remove_beginning(transfer: Transfer, record: Record, source: Storage | None, target: Storage) -> bool:
    """Remove what was written there. False: what is there may be a part of it, or another's file; nobody can tell.

    `source`: None where steps make something else of its bytes.
    """
    if record.at != where(target):
        return True
    entry = transfer.entry
    with suppress(NotFound, PermissionDenied, SourceChanged):
        if not await target.exists(record.to):
            return True
        there = await target.stat(record.to)
        if source is not None and not _is_smaller(there, entry):
            # All of it, or no part.
            return True
        empty = (there.kind, there.size) == ("file", 0)
        if empty or (source is not None and await _begins(source, entry, target, there)):
            await target.delete(record.to)
            return True
    place = located(target.endpoint, record.to)
    log.warning("an attempt was killed as it wrote %s in place: what is there by now may be a part of it", place)
    return False


def _is_smaller(there: Entry, entry: Entry) -> bool:
    return there.kind == "file" and (there.size is None or entry.size is None or there.size < entry.size)


async def _begins(source: Storage, entry: Entry, target: Storage, there: Entry) -> bool:
    """Whether the source's file begins with all that is there."""
    left, tally = there.size, Tally()
    async with source.read(entry.path, pin=entry) as reader:
        while left and (chunk := await reader.read()):
            await tally.feed(chunk[:left])
            left -= min(left, len(chunk))
    return left == 0 and await tally.sha256() == await sha256_of(target, there)
