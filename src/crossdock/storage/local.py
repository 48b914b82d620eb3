"""Local disk (POSIX). Blocking calls run in a bounded pool of threads, as few hops to it as the work allows."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import SplitResult, unquote

from pydantic import BeforeValidator, Field

from crossdock.errors import NotFound, SourceChanged, Truncated, shown
from crossdock.storage.base import Backend, Capabilities, Entry, Reader, WriteOptions, Writer
from crossdock.storage.local_listing import Listing, Walk
from crossdock.storage.local_tree import Tree, nanoseconds
from crossdock.storage.settings import EndpointSettings, FilePath, query_of
from crossdock.storage.staging import StagedWriter, Stored, staged_path, token_of

__all__ = ["LocalBackend", "LocalSettings"]

T = TypeVar("T")
_CHUNK = 1024 * 1024
_THREADS = 16


class LocalBackend(Backend):
    """The files below one folder. Links are shown, never followed; what is neither file nor folder is never read."""

    def __init__(
        self, endpoint: str, root: Path, *, file_mode: int = 0o640, dir_mode: int = 0o750, fsync: bool = True
    ) -> None:
        self.endpoint = endpoint
        self.capabilities = Capabilities(
            rename=True,
            directories=True,
            atomic_write=True,
            create_new=True,
            read_offset=True,
            resume_write=True,
            recursive_scan=True,
            hashes=frozenset(("md5", "sha256")),
            mtime_precision=timedelta(microseconds=1),
            max_connections=_THREADS,
        )
        self.store = "local"
        self.tree = Tree(endpoint, root, file_mode=file_mode, dir_mode=dir_mode, fsync=fsync)
        self._pool: ThreadPoolExecutor | None = None
        self._scanner: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        await self.run(self.tree.check_root)

    async def close(self) -> None:
        pools, self._pool, self._scanner = (self._pool, self._scanner), None, None
        for pool in pools:
            if pool is not None:
                await asyncio.to_thread(pool.shutdown)

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Call `work` in a thread. If the caller is cancelled, that is heard once the thread is done."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"crossdock-{self.endpoint}")
        return await _heard_out(self._pool, work, *arguments)

    async def _scan(self, work: Callable[..., T], *arguments: object) -> T:
        """Like `run`, for what looks at many files in one call: one such call at a time, the others wait.

        System calls of a microsecond in several threads cost more in handing the interpreter's lock to and fro than
        they take: 100,000 files were listed in 2.6 s by eight threads, and in 0.6 s by one.
        """
        if self._scanner is None:
            self._scanner = ThreadPoolExecutor(1, thread_name_prefix=f"crossdock-scan-{self.endpoint}")
        return await _heard_out(self._scanner, work, *arguments)

    async def stat(self, path: str) -> Entry:
        return await self.run(self.tree.stat, path)

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        if recursive:
            walk = Walk(self.tree, path)
            try:
                while (found := await self._scan(walk.page)) is not None:
                    if found:
                        yield found
            finally:
                await self._scan(walk.close)
            return
        listing = Listing(self.tree, path)
        try:
            while page := await self._scan(listing.page):
                yield page
        finally:
            await self._scan(listing.close)

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        reader = _LocalReader(self, path, offset)
        try:
            await self.run(reader.open, pin)
        except BaseException:
            await reader.close()
            raise
        return reader

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        # Without contact: a small file costs two hops in all. What resumes must be there, and is looked at now.
        self.tree.check_name(path, "write")
        writer = _LocalWriter(self, path, options)
        if options.resume is not None:
            try:
                await self.run(writer.open)
            except BaseException:
                await writer._let_go()
                raise
        return writer

    def address(self, path: str) -> str:
        return os.path.realpath(self.tree.root / path)

    async def delete(self, path: str) -> None:
        await self.run(self.tree.delete, path)

    async def rename(self, path: str, target: str, *, overwrite: bool = False) -> None:
        await self.run(self.tree.rename, path, target, overwrite)

    async def make_dir(self, path: str) -> None:
        await self.run(self.tree.make_dir, path)

    async def remove_dir(self, path: str) -> None:
        await self.run(self.tree.remove_dir, path)

    async def digests(self, paths: Sequence[str], algorithm: str) -> list[str]:
        return await self._scan(self.tree.digests, paths, algorithm)

    async def discard(self, checkpoint: bytes) -> None:
        await self.run(self.tree.delete, staged_path(checkpoint), "discard")

    def leftover(self, path: str, attempt: str) -> bytes | None:
        return token_of(path, attempt)

    async def is_staged(self, checkpoint: bytes) -> bool | None:
        try:
            await self.stat(staged_path(checkpoint))
        except NotFound:
            return False
        return True


async def _heard_out(pool: ThreadPoolExecutor, work: Callable[..., T], *arguments: object) -> T:
    """A thread cannot be stopped; were it left running, it could make what a cancelled caller then cleans up."""
    future = asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        future.exception()  # seen: nobody is left to tell
        raise


class _LocalReader(Reader):
    def __init__(self, backend: LocalBackend, path: str, offset: int) -> None:
        self._backend, self._path, self._position = backend, path, offset
        self._descriptor: int | None = None
        self._ahead = b""
        self._at_end = False

    def open(self, pin: Entry | None) -> None:
        """Open, look and read the first chunk; a file that fits in it is closed again: one hop."""
        tree = self._backend.tree
        with tree.parent(self._path, "read") as (folder, name):
            self._descriptor, status = tree.open_in(folder, name, "read", self._path)
            self.entry = tree.entry(self._path, status)
            if pin is not None and pin.fingerprint != self.entry.fingerprint:
                raise SourceChanged(
                    f"read {self._backend.endpoint}:{shown(self._path)}: the file is no longer the one that was listed",
                    hint="list it again",
                )
            self._ahead = self._next()
            if self._at_end:
                self._look_again(lambda: tree.entry(self._path, os.lstat(name, dir_fd=folder)))

    def _next(self) -> bytes:
        """The next chunk; at the end of the file it is closed."""
        assert self._descriptor is not None
        with self._backend.tree.told("read", self._path):
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
            self._look_again(lambda: self._backend.tree.stat(self._path))
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
        if self._descriptor is not None and (data := await self._backend.run(self._go_on)):
            return data
        if self._position < (self.entry.size or 0):
            raise Truncated(
                f"read {self._backend.endpoint}:{shown(self._path)}: the file ended at byte {self._position}, "
                f"it had {self.entry.size} when it was opened",
                hint="wait until its writer is done",
            )
        return b""

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    async def close(self) -> None:
        if self._descriptor is not None:
            await self._backend.run(self._close)


class _LocalWriter(StagedWriter):
    """Collects up to a chunk before it touches the disk; a smaller file is made in one hop and published in another."""

    def __init__(self, backend: LocalBackend, path: str, options: WriteOptions) -> None:
        super().__init__(backend.endpoint, path, options)
        self._backend, self._tree = backend, backend.tree
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._stored = self.offset
        self._folder: int | None = None
        self._descriptor: int | None = None
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
            flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | (0 if resume else os.O_CREAT | os.O_EXCL)
            try:
                self._descriptor = os.open(self._staged_name, flags, 0o600, dir_fd=self._folder)
            except FileNotFoundError:
                raise self._gone() from None
            if resume:
                if os.fstat(self._descriptor).st_size < self.offset:
                    raise self._gone()
                os.ftruncate(self._descriptor, self.offset)
                os.lseek(self._descriptor, self.offset, os.SEEK_SET)

    def _gone(self) -> Exception:
        return self._tree.error(NotFound, "resume", self.path, "the staged bytes are gone", "start the file again")

    def _check_space(self, needed: int) -> None:
        assert self._folder is not None
        disk = os.fstatvfs(self._folder)
        # A file system that does not count its blocks (some FUSE mounts) says 0 of 0.
        if disk.f_blocks and disk.f_bavail * disk.f_frsize < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _flush(self) -> None:
        if self._descriptor is None:
            self.open()
        assert self._descriptor is not None
        with self._tree.told("write", self.path):
            for data in self._pending:
                view = memoryview(data)
                while view:
                    count = os.write(self._descriptor, view)
                    self._stored += count
                    view = view[count:]
        self._pending.clear()
        self._pending_size = 0

    async def _append(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size >= _CHUNK:
            await self._backend.run(self._flush)

    async def _seal(self) -> Stored:
        return await self._backend.run(self._seal_now)

    def _seal_now(self) -> Stored:
        self._flush()
        assert self._descriptor is not None
        with self._tree.told("write", self.path):
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
        return await self._backend.run(self._publish_now, stored)

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
            await self._backend.run(self._remove_now)

    def _remove_now(self) -> None:
        if self._folder is None:
            return
        try:
            with self._tree.told("abort", self.path):
                os.unlink(self._staged_name, dir_fd=self._folder)
        except NotFound:
            pass
        finally:
            self._close()

    def _safe_size(self) -> int:
        return self._stored if self._descriptor is not None else 0

    async def _let_go(self) -> None:
        await self._backend.run(self._close)

    def _close_file(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _close(self) -> None:
        self._close_file()
        if self._folder is not None:
            folder, self._folder = self._folder, None
            os.close(folder)


def _mode(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError('write the mode as octal digits in quotes, such as "0640"')
    return value


Mode = Annotated[str, BeforeValidator(_mode)]


class LocalSettings(EndpointSettings):
    """A folder on this machine, or on a mount."""

    type: Literal["local"] = "local"
    root: FilePath  # type: ignore[assignment]
    """The folder that all paths start from. It must exist: a mount that is missing is not filled up underneath."""
    file_mode: Mode = Field(default="0640")
    dir_mode: Mode = Field(default="0750")
    fsync: bool = True
    """Flush each file and its folder to the disk before it counts as delivered."""

    @classmethod
    def from_url(cls, url: SplitResult) -> tuple[Self, str]:
        """`file:///folder/name`: the last component below its folder, so that links above it are as the user meant.

        With a slash at the end it is the folder itself.
        """
        if url.netloc not in ("", "localhost") or not url.path.startswith("/"):
            raise ValueError("write file:///absolute/path")
        folder, _, name = url.path.rpartition("/")
        root = Path(unquote(folder, errors="surrogateescape") or "/")
        return cls.model_validate({"root": root, **query_of(url)}), name

    def backend(self, name: str) -> LocalBackend:
        return LocalBackend(
            name,
            self.root.absolute(),
            file_mode=int(self.file_mode, 8),
            dir_mode=int(self.dir_mode, 8),
            fsync=self.fsync,
        )
