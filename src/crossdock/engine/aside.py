"""Taking exactly one file from its name, at a store that removes whatever has the name in that moment.

Between a look and a removal a newer file may come; a rename takes one, to be looked at in peace.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from crossdock.errors import AlreadyExists, CrossdockError, NotFound
from crossdock.storage.base import Entry
from crossdock.storage.staging import temporary_path
from crossdock.storage.storage import Storage

__all__ = ["Aside", "at_name"]


class Aside:
    """Where the file of a path lies meanwhile. `key`: what it was that took it, the same after a crash."""

    def __init__(self, storage: Storage, path: str, key: str, is_meant: Callable[[Entry], bool]) -> None:
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        self._storage, self._from, self._is_meant = storage, path, is_meant
        self.path = temporary_path(path, digest[:12], "old")

    async def set(self) -> None:
        """Whichever has the name now. Raises `NotFound`; `PermissionDenied` and `Unsupported` where we may not."""
        try:
            await self._storage.rename(self._from, self.path)
        except AlreadyExists:
            await self.clear()
            await self._storage.rename(self._from, self.path)

    async def check(self) -> bool | None:
        """Whether what was set aside is meant; if not, it is put back. None: nothing is there."""
        if not self._storage.capabilities.directories:
            return None  # A store without folders has no rename.
        try:
            meant = self._is_meant(await self._storage.stat(self.path))
        except NotFound:
            return None
        if not meant:
            await self.put_back()
        return meant

    async def clear(self) -> bool | None:
        """As `check`; what is meant is removed, or put back if it cannot be: a server may let nothing be deleted."""
        meant = await self.check()
        if meant:
            async with self.or_back():
                await self._storage.delete(self.path)
        return meant

    async def delete_in_place(self) -> bool | None:
        """As `clear`, where nothing may be set aside. A newer one goes only if it comes between this look and that."""
        there = await at_name(self._storage, self._from)
        if there is None:
            return None
        meant = self._is_meant(there)
        if meant:
            await self._storage.delete(self._from)
        return meant

    @asynccontextmanager
    async def or_back(self) -> AsyncGenerator[None]:
        """What fails leaves nothing hidden, if that can be."""
        try:
            yield
        except CrossdockError:
            with suppress(CrossdockError):
                await self.put_back()
            raise

    async def put_back(self) -> None:
        try:
            with suppress(NotFound):  # Another worker was faster.
                await self._storage.rename(self.path, self._from)
        except AlreadyExists:
            # A still newer one has its name, as if it had been overwritten.
            await self._storage.delete(self.path)


async def at_name(storage: Storage, path: str) -> Entry | None:
    """What has the name, if anything has."""
    try:
        return await storage.stat(path)
    except NotFound:
        return None
