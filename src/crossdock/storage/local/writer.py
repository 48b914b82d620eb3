"""Writing a file on a local disk: a temporary beside it, then a rename."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections import deque
from concurrent.futures import Future, wait
from contextlib import suppress

from crossdock.errors import CrossdockError, NotFound
from crossdock.storage.base import Entry, Expect, WriteOptions
from crossdock.storage.local.threads import Threads
from crossdock.storage.local.tree import Tree, identity, nanoseconds
from crossdock.storage.staging import StagedWriter, Stored, token_of

__all__ = ["LocalWriter"]

_CHUNK = 1024 * 1024
_AT_ONCE = 2
"""Chunks of one file being written; more were no faster."""


class LocalWriter(StagedWriter):
    """Collects up to a chunk before it touches the disk; a smaller file is made in one hop and published in another.

    Of a larger one, up to `_AT_ONCE` chunks are written at the same time, each where it belongs.
    """

    def __init__(self, tree: Tree, threads: Threads, path: str, options: WriteOptions) -> None:
        super().__init__(tree.endpoint, path, options)
        self._tree, self._threads = tree, threads
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._stored = self._next = self.offset
        self._writing: deque[tuple[Future[CrossdockError | None], int]] = deque()
        self._folder: int | None = None
        self._above = ""
        self._descriptor: int | None = None
        self._made = options.resume is not None
        self._name = path.rpartition("/")[2]
        self._staged_name = self.temporary.rpartition("/")[2]

    def open(self) -> None:
        """Make, or find, the temporary; refuse early what cannot end well."""
        tree, options = self._tree, self.options
        resume = options.resume is not None
        self._folder = tree.folder(self.path.rpartition("/")[0], "write", make=not resume, whole=self.path)
        with tree.told("write", self.path):
            tree.check_target(self._folder, self._name, "write", self.path, overwrite=options.overwrite)
            if options.size is not None:
                self._check_space(options.size - self.offset)
            flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            # What others put in the place of what was staged must not be waited for, as a fifo would be.
            flags |= os.O_NONBLOCK if resume else os.O_CREAT | os.O_EXCL
            try:
                self._descriptor = os.open(self._staged_name, flags, 0o600, dir_fd=self._folder)
            except OSError as error:
                if error.errno != errno.ENOENT and not (resume and error.errno in (errno.ENXIO, errno.ELOOP)):
                    raise
                raise self._gone() from None
            self._made = True
            if resume:
                status = os.fstat(self._descriptor)
                # Nor a file of another name written to, by a hard link.
                if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size < self.offset:
                    raise self._gone()
                os.ftruncate(self._descriptor, self.offset)

    def _gone(self) -> Exception:
        return self._tree.error(NotFound, "resume", self.path, "the staged bytes are gone", "start the file again")

    def _check_space(self, needed: int) -> None:
        assert self._folder is not None
        disk = os.fstatvfs(self._folder)
        # A file system that does not count its blocks (some FUSE mounts) says 0 of 0.
        if disk.f_blocks and disk.f_bavail * disk.f_frsize < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _take(self) -> tuple[list[bytes], int]:
        """What is pending, and where it goes."""
        found, at = self._pending, self._next
        self._next += self._pending_size
        self._pending, self._pending_size = [], 0
        return found, at

    def _flush(self) -> None:
        if self._descriptor is None:
            self.open()
        chunks, at = self._take()
        self._write(chunks, at)
        self._stored = self._next

    def _write(self, chunks: list[bytes], at: int) -> None:
        assert self._descriptor is not None
        with self._tree.told("write", self.path):
            for data in chunks:
                view = memoryview(data)
                while view:
                    count = os.pwrite(self._descriptor, view, at)
                    at += count
                    view = view[count:]

    def _try_to_write(self, chunks: list[bytes], at: int) -> CrossdockError | None:
        try:
            self._write(chunks, at)
        except CrossdockError as error:
            return error
        return None

    async def _append(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size < _CHUNK:
            return
        if self._descriptor is None:
            await self._threads.run(self._flush)
            return
        while len(self._writing) >= _AT_ONCE:
            # The waiting may be cancelled, the writing not.
            await asyncio.wait({asyncio.wrap_future(self._writing[0][0])})
            self._settle()
        size = self._pending_size
        self._writing.append((self._threads.begin(self._try_to_write, *self._take()), size))

    def _settle(self, *, all_of_them: bool = False) -> None:
        """Take note of what has been written, up to the first that has not been. Raises what a write raised."""
        while self._writing and (all_of_them or self._writing[0][0].done()):
            error = self._writing[0][0].result()
            if error is not None:
                raise error
            self._stored += self._writing.popleft()[1]

    def _quiet(self) -> None:
        """Wait until nothing is written any more, in a thread: those who write are before it in the pool's queue."""
        wait([future for future, _ in self._writing])

    async def seal(self, expect: Expect) -> bytes | None:
        await self._verified(expect)
        return token_of(self.path, self.attempt, self.size, folder=self._above)

    async def _seal(self) -> Stored:
        return await self._threads.run(self._seal_now)

    def _seal_now(self) -> Stored:
        self._settle(all_of_them=True)
        self._flush()
        assert self._descriptor is not None and self._folder is not None
        with self._tree.told("write", self.path):
            self._above = identity(self._folder)
            self._tree.set_mode(self._descriptor, self._tree.file_mode)
            # The kernel's own stamp ticks every few milliseconds: two files written within a tick would look the same.
            modified = self.options.modified
            self._tree.set_time(self._descriptor, nanoseconds(modified) if modified else time.time_ns())
            if self._tree.fsync:
                os.fsync(self._descriptor)
            status = os.fstat(self._descriptor)
            self._close_file()
        return Stored(status.st_size, self._tree.entry(self.path, status))

    async def _publish(self, stored: Stored) -> Entry:
        return await self._threads.run(self._publish_now, stored)

    def _publish_now(self, stored: Stored) -> Entry:
        assert self._folder is not None
        assert stored.entry is not None
        with self._tree.told("write", self.path):
            overwrite, folder = self.options.overwrite, self._folder
            self._tree.move(folder, self._staged_name, folder, self._name, "write", self.path, overwrite=overwrite)
            self._tree.flush(folder)
        self._close()
        return stored.entry

    async def _remove(self) -> None:
        if self._folder is not None:
            await self._threads.run(self._remove_now)

    def _remove_now(self) -> None:
        try:
            if self._made:
                with self._tree.told("abort", self.path):
                    os.unlink(self._staged_name, dir_fd=self._folder)
        except NotFound:
            pass
        finally:
            # A disk that is full may say so once more.
            with suppress(OSError):
                self._close()

    def _safe_size(self) -> int:
        with suppress(CrossdockError):
            self._settle()
        return self._stored if self._descriptor is not None else 0

    async def _let_go(self) -> None:
        await self._threads.run(self._close_told)

    async def _keep(self) -> None:
        await self._threads.run(self._flush_and_close)

    def _flush_and_close(self) -> None:
        """Whoever resumes takes these bytes for good: after a power cut they would be there, as zeros."""
        try:
            if self._descriptor is not None and self._tree.fsync:
                self._quiet()
                with self._tree.told("write", self.path):
                    os.fsync(self._descriptor)
        finally:
            self._close_told()

    def _close_told(self) -> None:
        with self._tree.told("write", self.path):
            self._close()

    def _close_file(self) -> None:
        if self._descriptor is not None:
            self._quiet()
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _close(self) -> None:
        try:
            self._close_file()
        finally:
            if self._folder is not None:
                folder, self._folder = self._folder, None
                os.close(folder)
