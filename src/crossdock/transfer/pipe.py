"""Bounded read-ahead between a reader and whoever takes its chunks, and the digest of what passed."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from crossdock.storage.base import Reader

__all__ = ["DEPTH", "Tally", "pipe"]

DEPTH = 4
"""Chunks read ahead of the writer. A transfer holds at most `(DEPTH + 1) × chunk`, plus the writer's own parts."""

_INLINE = 64 * 1024
"""Bytes hashed on the event loop: under 0.1 ms, less than handing them to a thread costs."""
_BATCH = 1024 * 1024
"""Bytes handed to the hashing thread at once."""


@cache
def _hashers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4, thread_name_prefix="crossdock-hash")


# A forked child has the executor's object but none of its threads.
os.register_at_fork(after_in_child=_hashers.cache_clear)


class Tally:
    """Counts and digests a stream in order, off the event loop. Holds at most two batches of 1 MiB plus a chunk."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._running: asyncio.Future[None] | None = None

    async def feed(self, data: bytes) -> None:
        self.size += len(data)
        self._waiting.append(data)
        self._waiting_size += len(data)
        if self._waiting_size >= _BATCH:
            await self._settle()
            self._start()

    async def sha256(self) -> str:
        """The digest of all that was fed, as lower-case hex."""
        await self._settle()
        if self._waiting_size > _INLINE:
            self._start()
            await self._settle()
        self._update(self._waiting)
        self._waiting, self._waiting_size = [], 0
        return self._sha256.hexdigest()

    def _start(self) -> None:
        batch, self._waiting, self._waiting_size = self._waiting, [], 0
        self._running = asyncio.get_running_loop().run_in_executor(_hashers(), self._update, batch)

    async def _settle(self) -> None:
        if self._running is not None:
            running, self._running = self._running, None
            await running

    def _update(self, batch: list[bytes]) -> None:
        for data in batch:
            self._sha256.update(data)


async def pipe(reader: Reader, take: Callable[[bytes], Awaitable[None]], *, depth: int = DEPTH) -> None:
    """Give every chunk of the reader to `take`, in order, reading up to `depth` chunks ahead.

    Returns at the true end of the stream; raises what either side raises. The reader stays open.
    """
    size = reader.entry.size
    if size is not None and size <= _INLINE:
        while chunk := await reader.read():
            await take(chunk)
        return
    chunks: asyncio.Queue[bytes] = asyncio.Queue(depth)
    failure: list[Exception] = []

    async def read_ahead() -> None:
        try:
            while chunk := await reader.read():
                await chunks.put(chunk)
        except Exception as error:  # noqa: BLE001 (handed to the taking side, which raises it)
            failure.append(error)
        await chunks.put(b"")

    reading = asyncio.create_task(read_ahead())
    try:
        while chunk := await chunks.get():
            await take(chunk)
        if failure:
            raise failure[0]
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
