"""Memory: whatever the size, and however many transforms a file goes through."""

from __future__ import annotations

import hashlib
import tracemalloc
from typing import Any

from crossdock.storage.base import Entry, Reader, WriteOptions, Writer
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.storage import Storage
from crossdock.transfer.copy import copy
from tests.servers import Gpg
from tests.transfer.transforms.test_through_copy import steps


class Endless(MemoryBackend):
    """A file of any size, made as it is read."""

    def __init__(self, size: int) -> None:
        super().__init__("endless")
        self.size = size

    async def stat(self, path: str) -> Entry:
        return Entry(path=path, size=self.size, etag="1")

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        block = hashlib.shake_256(b"block").digest(128 * 1024) + b"line\n" * 26_214
        outer = self

        class Blocks(Reader):
            entry = Entry(path=path, size=outer.size, etag="1")
            left = outer.size

            async def read(self) -> bytes:
                data = block[: self.left]
                self.left -= len(data)
                return data

            async def close(self) -> None:
                pass

        return Blocks()


class Nowhere(MemoryBackend):
    """Takes everything, keeps nothing."""

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        writer = await super().begin_write(path, options)

        async def write(data: bytes) -> None:
            self.size = getattr(self, "size", 0) + len(data)

        async def seal(expect: Any) -> None:
            pass

        async def commit(expect: Any) -> Entry:
            assert expect.size == self.size
            return Entry(path=path, size=self.size)

        writer.write, writer.seal, writer.commit = write, seal, commit  # type: ignore[method-assign]
        return writer


async def test_memory_is_flat(gpg: Gpg) -> None:
    """256 MiB through six transforms, four of them gpg's and zstd's, within 32 MiB of Python's memory."""
    here = {"home": str(gpg.home), "program": gpg.program}
    encrypt = ("pgp_encrypt", {**here, "recipients": gpg.alice, "compress": False})
    options = steps(("gzip", {"level": 1}), encrypt, "zstd", "unzstd", ("pgp_decrypt", here), "gunzip")
    size = 256 * 1024 * 1024
    tracemalloc.start()
    try:
        async with Storage(Endless(size)) as source, Storage(Nowhere("nowhere")) as target:
            receipt = await copy(source, "f", target, "f", options=options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert receipt.size == receipt.read_size == size
    assert receipt.sha256 == receipt.read_sha256
    assert peak < 32 * 1024 * 1024, f"{peak / 1024**2:.0f} MiB"
