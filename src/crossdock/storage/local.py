"""Local disk (POSIX): the storage contract, and reading."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, unquote

from pydantic import BeforeValidator, Field

from crossdock.errors import NotFound, SourceChanged, Truncated
from crossdock.storage.base import Backend, Capabilities, Entry, Reader, WriteOptions, Writer
from crossdock.storage.local_listing import Listing, Walk
from crossdock.storage.local_threads import THREADS, Threads
from crossdock.storage.local_tree import Tree
from crossdock.storage.local_writer import LocalWriter
from crossdock.storage.settings import EndpointSettings, FilePath, query_of
from crossdock.storage.staging import staged_path, still_staged, token_of

__all__ = ["LocalBackend", "LocalSettings"]

_CHUNK = 1024 * 1024


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
            max_connections=THREADS,
        )
        self.store = "local"
        self.tree = Tree(endpoint, root, file_mode=file_mode, dir_mode=dir_mode, fsync=fsync)
        self.threads = Threads(endpoint)

    async def open(self) -> None:
        await self.threads.run(self.tree.check_root)

    async def close(self) -> None:
        await self.threads.close()

    async def stat(self, path: str) -> Entry:
        return await self.threads.run(self.tree.stat, path)

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        if recursive:
            walk = Walk(self.tree, path)
            try:
                while (found := await self.threads.scan(walk.page)) is not None:
                    if found:
                        yield found
            finally:
                await self.threads.scan(walk.close)
            return
        listing = Listing(self.tree, path)
        try:
            while page := await self.threads.scan(listing.page):
                yield page
        finally:
            await self.threads.scan(listing.close)

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        reader = _LocalReader(self.tree, self.threads, path, offset)
        try:
            await self.threads.run(reader.open, pin)
        except BaseException:
            await reader.close()
            raise
        return reader

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        # Without contact: a small file costs two hops in all. What resumes must be there, and is looked at now.
        self.tree.check_name(path, "write")
        writer = LocalWriter(self.tree, self.threads, path, options)
        if options.resume is not None:
            try:
                await self.threads.run(writer.open)
            except BaseException:
                await writer.leave()
                raise
        return writer

    def address(self, path: str) -> str:
        return os.path.realpath(self.tree.root / path)

    async def delete(self, path: str) -> None:
        await self.threads.run(self.tree.delete, path)

    async def rename(self, path: str, target: str, *, overwrite: bool = False) -> None:
        await self.threads.run(self.tree.rename, path, target, overwrite)

    async def make_dir(self, path: str) -> None:
        await self.threads.run(self.tree.make_dir, path)

    async def remove_dir(self, path: str) -> None:
        await self.threads.run(self.tree.remove_dir, path)

    async def digests(self, paths: Sequence[str], algorithm: str) -> list[str]:
        return await self.threads.scan(self.tree.digests, paths, algorithm)

    async def discard(self, checkpoint: bytes) -> None:
        await self.threads.run(self.tree.delete, staged_path(checkpoint), "discard")

    def leftover(self, path: str, attempt: str) -> bytes | None:
        return token_of(path, attempt)

    async def is_staged(self, checkpoint: bytes) -> bool | None:
        return await still_staged(self, checkpoint)


class _LocalReader(Reader):
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
