"""Bodies on their way out: held ones, sent again as often as needed, and streams that end with signed trailers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter

from crossdock.storage.netstorage.client import Answer, Client, Request
from crossdock.storage.sockets import keep_pace

__all__ = ["Held", "Upload"]

_PIECE = 64 * 1024
"""Bytes that may take `timeout` to be sent; as many the kernel holds besides, which count while an answer is due."""
_AHEAD = 1024 * 1024
"""Bytes that wait to be sent; more hold up whoever writes."""


def _keep_pace(writer: AbstractStreamWriter) -> None:
    transport = getattr(writer, "transport", None)
    if transport is not None and (connection := transport.get_extra_info("socket")) is not None:
        keep_pace(connection, _PIECE)


async def _send(writer: AbstractStreamWriter, chunk: bytes, timeout: float) -> None:
    """In pieces, each of which may take `timeout` seconds."""
    for start in range(0, len(chunk), _PIECE):
        async with asyncio.timeout(timeout):
            await writer.write(chunk if len(chunk) <= _PIECE else memoryview(chunk)[start : start + _PIECE])


class Held(aiohttp.payload.Payload):
    """Chunks that are all there, given up after `timeout` seconds without progress.

    Sent once only: an HTTP client that quietly sends again does so with the old signature.
    """

    def __init__(self, chunks: Sequence[bytes], timeout: float) -> None:
        super().__init__(chunks)
        self._size = sum(map(len, chunks))
        self._chunks, self._timeout, self._begun = chunks, timeout, False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._chunks).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        if self._begun:
            raise RuntimeError("a body is sent once")
        self._begun = True
        _keep_pace(writer)
        for chunk in self._chunks:
            await _send(writer, chunk, self._timeout)


class _Streamed(aiohttp.payload.Payload):
    """Chunks as they come, then a trailer section (RFC 9112, 7.1.2), which aiohttp itself cannot send."""

    def __init__(self, upload: Upload) -> None:
        super().__init__(upload)
        self._upload, self._begun = upload, False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a stream is read once")

    async def write(self, writer: AbstractStreamWriter) -> None:
        upload = self._upload
        if self._begun or not isinstance(writer, StreamWriter):
            raise RuntimeError("a stream is sent once, by aiohttp's own writer")
        self._begun = True
        _keep_pace(writer)
        while (chunk := await upload.taken()) is not None:
            await _send(writer, chunk, upload.timeout)
        trailers = "".join(f"{name}: {value}\r\n" for name, value in upload.trailers().items())
        # From here on the bytes are ours: aiohttp would end the body without a trailer.
        writer.chunked = False
        async with asyncio.timeout(upload.timeout):
            await writer.write(b"0\r\n" + trailers.encode("latin-1") + b"\r\n")


class Upload:
    """One streamed upload, in a task of its own. `trailers` signs what is only known at the end."""

    def __init__(self, client: Client, request: Request, trailers: Callable[[], dict[str, str]]) -> None:
        self.timeout, self.trailers = client.settings.timeout, trailers
        self._client, self._request = client, request
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: self._changed.set())

    async def _run(self) -> Answer:
        response, answer = await self._client.stream(self._request, _Streamed(self))
        if response is None:
            raise RuntimeError("no refusal was allowed")
        return Answer(answer.status, answer.headers, await self._client.body(self._request, response))

    async def write(self, data: bytes) -> None:
        """Hand over a chunk; returns once there is room for it. Raises what became of the request."""
        while self._held >= _AHEAD and not self._task.done():
            self._changed.clear()
            await self._changed.wait()
        if self._task.done():
            self._task.result()
            raise self._client.violation(self._request, "an answer before the file was whole")
        self._chunks.append(data)
        self._held += len(data)
        self._changed.set()

    async def taken(self) -> bytes | None:
        """What is sent next; None: that was all."""
        while not self._chunks:
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        chunk = self._chunks.popleft()
        self._held -= len(chunk)
        self._changed.set()
        return chunk

    async def finish(self) -> Answer:
        """End the file. The request goes on if the caller is cancelled: `stop` is still to be called."""
        self._ended = True
        self._changed.set()
        return await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Come to rest. A file that was sent whole may yet be stored: its answer has to come first."""
        if not self._ended:
            self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()
