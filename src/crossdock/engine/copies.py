"""Copies within a store that has no rename, by which files get into the archive."""

from __future__ import annotations

import base64
import hashlib

from crossdock.engine.archive import Archive
from crossdock.engine.recovery import remove
from crossdock.storage.base import Entry, WriteOptions
from crossdock.storage.storage import Storage

__all__ = ["Copies"]

_COPYING = "archiving"
"""The kind of the marks of copies that are under way: what a killed one has left is found by them."""
_PAGE = 500


class Copies:
    """Of one source file. `first`: the earliest of the transfers to its destinations."""

    def __init__(self, archive: Archive, storage: Storage, first: int) -> None:
        self._archive, self._storage, self._first = archive, storage, first

    @property
    def wanted(self) -> bool:
        """A store without folders has no rename: it copies, and removes what it copied."""
        return not self._storage.capabilities.directories and self._storage.can_server_copy(self._storage)

    async def copy(self, path: str, to: str, pin: Entry) -> None:
        """Within the store, with its time: by that it can be told from another file after a crash.

        What it stages there is in the ledger before it holds a byte.
        """
        flow, ledger, marks = self._archive.flow.name, self._archive.ledger, list[str]()

        async def staged(token: bytes) -> None:
            marks.append(f"{self._first:020}:{hashlib.sha256(token).hexdigest()[:16]}")
            value = {"token": base64.b64encode(token).decode()}
            await ledger.mark(flow, _COPYING, marks[-1], value=value)

        create = self._storage.capabilities.create_new
        options = WriteOptions(overwrite=not create, modified=pin.modified, staged=staged)
        await self._storage.server_copy(self._storage, path, to, options, pin=pin)
        # Kept if it failed: nobody can say that the store took everything back.
        await ledger.unmark(flow, _COPYING, marks)

    async def remove(self, path: str, copied: Entry) -> None:
        if self._storage.capabilities.pinned_delete:
            await self._storage.delete_pinned(path, copied)
        else:
            await self._storage.delete(path)

    async def sweep(self) -> None:
        """Remove what a copy of an earlier attempt has staged."""
        flow, ledger, first = self._archive.flow.name, self._archive.ledger, f"{self._first:020}:"
        found = await ledger.marks(flow, _COPYING, after=first, limit=_PAGE)
        mine = [mark for mark in found if mark.key.startswith(first)]
        for mark in mine:
            await remove(self._storage, base64.b64decode(mark.value["token"]))
        await ledger.unmark(flow, _COPYING, [mark.key for mark in mine])
