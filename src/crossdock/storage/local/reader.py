"""Reading a file on a local disk, and whether its name stands for another one by the end."""

from __future__ import annotations

import os
from collections.abc import Callable

from crossdock.errors import NotFound, SourceChanged, Truncated
from crossdock.storage.base import Entry, Reader
from crossdock.storage.local.threads import Threads
from crossdock.storage.local.tree import Tree

__all__ = ["LocalReader"]

_CHUNK = 1024 * 1024


class LocalReader(Reader):
    """A file that fits in a chunk is opened, read and closed again in one hop to a thread."""

    def __init__(self, tree: Tree, threads: Threads, path: str, offset: int) -> None:
        self._tree, self._threads = tree, threads
        self._path, self._position = path, offset
        self._descriptor: int | None = None
        self._ahead = b""
        self._at_end = False

    def open(self, pin: Entry | None) -> None:
        """Open, look and read the first chunk; a file that fits in it is closed again: one hop."""
        tree = self._tree
        with tree.parent(self._path, "read") as (folder, name):
            self._descriptor, status = tree.open_in(folder, name, "read", self._path)
            self.entry = tree.entry(self._path, status)
            if pin is not None and pin.fingerprint != self.entry.fingerprint:
                reason = "the file is no longer the one that was listed"
                raise SourceChanged.at("read", tree.endpoint, self._path, reason, hint="list it again")
            self._ahead = self._next()
            if self._at_end:
                self._look_again(lambda: tree.entry(self._path, os.lstat(name, dir_fd=folder)))

    def _next(self) -> bytes:
        """The next chunk; at the end of the file it is closed."""
        assert self._descriptor is not None
        with self._tree.told("read", self._path):
            # One byte more than is expected, so that the end, or growth, shows at once.
            left = (self.entry.size or 0) - self._position
            asked = min(_CHUNK, max(left + 1, 4096))
            data = os.pread(self._descriptor, asked, self._position)
            ended = len(data) == left and left < asked
            if len(data) < asked and not ended:
                more = os.pread(self._descriptor, _CHUNK, self._position + len(data))
                data += more
                ended = not more
            if ended:
                self._at_end = True
                self._close()
        self._position += len(data)
        return data

    def _go_on(self) -> bytes:
        data = self._next()
        if self._at_end:
            self._look_again(lambda: self._tree.stat(self._path))
        return data

    def _look_again(self, look: Callable[[], Entry]) -> None:
        try:
            self.changed = look().fingerprint != self.entry.fingerprint
        except (NotFound, FileNotFoundError):
            self.changed = True

    async def read(self) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        if self._descriptor is not None and (data := await self._threads.run(self._go_on)):
            return data
        if self._position < (self.entry.size or 0):
            reason = f"the file ended at byte {self._position}, it had {self.entry.size} when it was opened"
            hint = "wait until its writer is done"
            raise Truncated.at("read", self._tree.endpoint, self._path, reason, hint=hint)
        return b""

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    async def close(self) -> None:
        if self._descriptor is not None:
            await self._threads.run(self._close)
