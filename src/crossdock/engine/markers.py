"""The sender's word that a file is finished goes before the file does: it must not vouch for the next of that name.

Nor may the word for a newer file go, which comes in that very moment: only what was seen before the file was is taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from crossdock.engine.archive import Archive, is_copy
from crossdock.engine.copies import Copies
from crossdock.errors import AlreadyExists, NotFound, PermissionDenied, SourceChanged, Unsupported
from crossdock.ledger.base import Transfer
from crossdock.storage.base import Entry
from crossdock.storage.staging import temporary_path
from crossdock.storage.storage import Storage

__all__ = ["SenderMarker"]


class SenderMarker:
    """Of one source file. `names`: where it may be archived, the best first; None: it is removed."""

    def __init__(
        self,
        path: str,
        names: Sequence[str] | None,
        archive: Archive,
        storage: Storage,
        transfer: Transfer,
        copies: Copies,
    ) -> None:
        self._path, self._names = path, names
        self._archive, self._storage, self._transfer, self._copies = archive, storage, transfer, copies
        self._seen: Entry | None = None
        digest = hashlib.sha256(f"{transfer.flow}\n{transfer.fingerprint}".encode("utf-8", "surrogateescape"))
        self._aside = temporary_path(path, digest.hexdigest()[:12], "old")

    async def look(self) -> None:
        """To be called before the file is looked at."""
        there = await self._at_name(self._path)
        self._seen = there if there is not None and there.kind == "file" else None

    async def restore(self) -> None:
        """Whichever it is that an attempt had set aside when it was killed."""
        if not self._storage.capabilities.pinned_delete and await self._at_name(self._aside) is not None:
            with suppress(NotFound, PermissionDenied, Unsupported):
                await self._put_back(self._aside)

    async def take(self) -> None:
        if self._seen is None:
            return
        with suppress(NotFound, SourceChanged):  # Another worker was faster, or its sender.
            await (self._delete(self._seen) if self._names is None else self._move(self._seen, self._names))

    async def _move(self, seen: Entry, names: Sequence[str]) -> None:
        for path in names:
            there = await self._at_name(path)
            if there is not None and not (self._copies.wanted and is_copy(there, seen)):
                continue
            with suppress(AlreadyExists):
                if self._copies.wanted and there is None:
                    await self._copies.copy(self._path, path, seen)
                    there = await self._storage.stat(path)
                # Before it goes: nobody could say afterwards what an attempt that is killed then has moved.
                await self._archive.note(self._transfer, there or replace(seen, path=path))
                if self._copies.wanted:
                    await self._copies.remove(self._path, seen)
                    return
                await self._storage.rename(self._path, path)
                if (await self._storage.stat(path)).fingerprint != seen.fingerprint:
                    await self._put_back(path)
                return

    async def _delete(self, seen: Entry) -> None:
        if self._storage.capabilities.pinned_delete:
            await self._storage.delete_pinned(self._path, seen)
            return
        try:
            await self._storage.rename(self._path, self._aside)
        except (PermissionDenied, Unsupported):
            await self._storage.delete(self._path)
            return
        except AlreadyExists:
            return
        if (await self._storage.stat(self._aside)).fingerprint == seen.fingerprint:
            await self._storage.delete(self._aside)
        else:
            await self._put_back(self._aside)

    async def _put_back(self, path: str) -> None:
        try:
            await self._storage.rename(path, self._path)
        except AlreadyExists:
            # A still newer one has its name, as if it had been overwritten.
            await self._storage.delete(path)

    async def _at_name(self, path: str) -> Entry | None:
        try:
            return await self._storage.stat(path)
        except NotFound:
            return None
