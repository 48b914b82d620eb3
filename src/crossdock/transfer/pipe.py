"""Bounded read-ahead between a reader and whoever takes its chunks, and the digest of what passed or is stored."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from crossdock.storage.base import Entry, Reader
from crossdock.storage.storage import Storage

__all__ = ["DEPTH", "Tally", "digest_of", "pipe"]

DEPTH = 4
"""Chunks read ahead of the writer. A transfer holds at most `(DEPTH + 1) × chunk`, plus the writer's own parts."""

_INLINE = 64 * 1024
"""Bytes hashed on the event loop: under 0.1 ms, less than handing them to a thread costs."""
_BATCH = 1024 * 1024
"""Bytes handed to the hashing thread at once, at least."""
_MOST_BEHIND = 4 * 1024 * 1024


@cache
def _hashers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4, thread_name_prefix="crossdock-hash")


# A forked child has the executor's object but none of its threads.
os.register_at_fork(after_in_child=_hashers.cache_clear)


class Tally:
    """Counts and digests a stream in order, off the event loop, which it may be up to 4 MiB ahead of.

    A thread waits for the interpreter's lock after every chunk; were each batch waited for before the next is made
    ready, that would be the pace of the whole transfer.
    """

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._behind = 0
        """Bytes fed and not yet digested."""
        self._running: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None

    async def feed(self, data: bytes) -> None:
        self.size += len(data)
        self._waiting.append(data)
        self._behind += len(data)
        if self._running is None and self._behind >= _BATCH:
            self._start()
        while self._running is not None and self._behind > _MOST_BEHIND:
            await asyncio.wait((self._running,))

    async def sha256(self) -> str:
        """The digest of all that was fed, as lower-case hex."""
        while self._running is not None or self._behind > _INLINE:
            await asyncio.wait((self._running or self._start(),))
        if self._failure is not None:
            raise self._failure
        self._update(self._waiting)
        self._waiting, self._behind = [], 0
        return self._sha256.hexdigest()

    def _start(self) -> asyncio.Future[None]:
        batch, self._waiting = self._waiting, []
        size = sum(map(len, batch))

        def ended(done: asyncio.Future[None]) -> None:
            self._running = None
            self._behind -= size
            self._failure = self._failure or (asyncio.CancelledError() if done.cancelled() else done.exception())
            if self._behind >= _BATCH:
                self._start()

        running = self._running = asyncio.get_running_loop().run_in_executor(_hashers(), self._update, batch)
        running.add_done_callback(ended)
        return running

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


async def digest_of(storage: Storage, entry: Entry, *, pin: Entry | None = None, depth: int = DEPTH) -> str:
    """SHA-256 of a file that is stored: as the endpoint tells it, or by reading all of it, pinned to `pin`."""
    if "sha256" in entry.digests:
        return entry.digests["sha256"]
    tally = Tally()
    async with storage.read(entry.path, pin=pin) as reader:
        await pipe(reader, tally.feed, depth=depth)
    return await tally.sha256()
