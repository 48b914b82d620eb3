"""A folder of this machine as a storage backend."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta

from crossdock.storage.base import Backend, Capabilities, Entry, Reader, WriteOptions, Writer
from crossdock.storage.local.listing import Listing, Walk
from crossdock.storage.local.reader import LocalReader
from crossdock.storage.local.settings import LocalSettings
from crossdock.storage.local.threads import THREADS, Threads
from crossdock.storage.local.tree import Tree
from crossdock.storage.local.writer import LocalWriter
from crossdock.storage.staging import staged_path, token_of

__all__ = ["LocalBackend"]


class LocalBackend(Backend):
    """The files below one folder. Links are shown, never followed; what is neither file nor folder is never read."""

    def __init__(self, settings: LocalSettings, endpoint: str) -> None:
        self.settings, self.endpoint = settings, endpoint
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
        file_mode, dir_mode = int(settings.file_mode, 8), int(settings.dir_mode, 8)
        root = settings.root.absolute()
        self.tree = Tree(endpoint, root, file_mode=file_mode, dir_mode=dir_mode, fsync=settings.fsync)
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
        reader = LocalReader(self.tree, self.threads, path, offset)
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
        above = json.loads(checkpoint).get("folder")
        return await self.threads.run(self.tree.is_staged, staged_path(checkpoint), above)
