"""The sender's word that a file is finished goes before the file does: it must not vouch for the next of that name.

Nor may the word for a newer file go, which comes in that very moment: only what was seen before the file was is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from crossdock.engine.archive import Archive, is_copy
from crossdock.engine.aside import Aside, at_name
from crossdock.engine.copies import Copies
from crossdock.errors import AlreadyExists, NotFound, PermissionDenied, SourceChanged, Unsupported
from crossdock.ledger.base import Transfer
from crossdock.storage.base import Entry
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
        self._aside = Aside(storage, path, f"{transfer.flow}\n{transfer.fingerprint}", self._is_seen)

    async def look(self) -> None:
        """To be called before the file is looked at."""
        there = await at_name(self._storage, self._path)
        self._seen = there if there is not None and there.kind == "file" else None

    async def restore(self) -> None:
        """Whichever it is that an attempt had set aside when it was killed."""
        with suppress(PermissionDenied, Unsupported):
            await self._aside.clear()

    async def take(self) -> None:
        if self._seen is None:
            return
        with suppress(NotFound, SourceChanged):  # Another worker was faster, or its sender.
            if self._names is not None and self._copies.wanted:
                await self._copy(self._seen, self._names)
            elif self._names is None and self._storage.capabilities.pinned_delete:
                await self._storage.delete_pinned(self._path, self._seen)
            else:
                await self._rename(self._seen, self._names)

    async def _copy(self, seen: Entry, names: Sequence[str]) -> None:
        for path in names:
            there = await at_name(self._storage, path)
            if there is not None and not is_copy(there, seen):
                continue
            with suppress(AlreadyExists):
                if there is None:
                    await self._copies.copy(self._path, path, seen)
                    there = await self._storage.stat(path)
                await self._archive.note(self._transfer, there)
                await self._copies.remove(self._path, seen)
                return

    async def _rename(self, seen: Entry, names: Sequence[str] | None) -> None:
        try:
            await self._aside.set()
        except (PermissionDenied, Unsupported):
            # It is worth more to be rid of it than to be sure that it is the one.
            await (self._aside.delete_in_place() if names is None else self._archive_in_place(seen, names))
            return
        if names is None:
            await self._aside.clear()
        elif await self._aside.check():
            async with self._aside.or_back():
                archived = await self._archived(self._aside.path, seen, names)
            if archived is None:
                await self._aside.put_back()

    async def _archive_in_place(self, seen: Entry, names: Sequence[str]) -> None:
        archived = await self._archived(self._path, seen, names)
        if archived is None or self._is_seen(await self._storage.stat(archived)):
            return
        with suppress(AlreadyExists):  # A still newer one has its name by now.
            await self._storage.rename(archived, self._path)
            await self._archive.forget(archived)

    async def _archived(self, path: str, seen: Entry, names: Sequence[str]) -> str | None:
        """Under which name; None: all are taken."""
        for name in names:
            if await at_name(self._storage, name) is not None:
                continue
            with suppress(AlreadyExists):
                # Before it goes: nobody could say afterwards what an attempt that is killed then has moved.
                await self._archive.note(self._transfer, replace(seen, path=name))
                await self._storage.rename(path, name)
                return name
        return None

    def _is_seen(self, there: Entry) -> bool:
        return self._seen is not None and there.fingerprint == self._seen.fingerprint
