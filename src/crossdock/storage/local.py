"""Local disk (POSIX). Blocking calls run in a bounded pool of threads, as few hops to it as the work allows."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import SplitResult, unquote

from pydantic import BeforeValidator, Field

from crossdock.errors import NotFound, SourceChanged, Truncated, shown
from crossdock.storage.base import Backend, Capabilities, Entry, Reader, WriteOptions, Writer
from crossdock.storage.local_listing import Listing, Walk
from crossdock.storage.local_tree import Tree
from crossdock.storage.local_writer import LocalWriter
from crossdock.storage.settings import EndpointSettings, FilePath, query_of
from crossdock.storage.staging import staged_path, token_of

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

    def begin(self, work: Callable[..., T], *arguments: object) -> Future[T]:
        """Have `work` called in a thread; for one who has called `run` before."""
        assert self._pool is not None
        return self._pool.submit(work, *arguments)

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
        writer = LocalWriter(self, path, options)
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
