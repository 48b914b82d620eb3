"""Writing: one request for what fits in a part, else parts in parallel."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import replace
from typing import Any

from crossdock.errors import AlreadyExists, IntegrityError, NotFound, Unsupported
from crossdock.storage.base import Entry, Expect, WriteOptions, Writer
from crossdock.storage.s3.calls import Calls, Part
from crossdock.storage.s3.entries import stored_of
from crossdock.storage.s3.plan import PartPlan
from crossdock.storage.s3.request import Answer, Body
from crossdock.storage.s3.upload import Upload
from crossdock.storage.waiting import to_its_end

__all__ = ["S3Writer"]

_SMALL = 32 * 1024
"""Bytes; smaller writes are joined, so that a part is not a list of thousands."""
_JOINED = 256 * 1024


class _Buffer:
    """Chunks in order, cut where parts end without copying them."""

    def __init__(self) -> None:
        self.size = 0
        self._chunks: list[bytes | memoryview] = []
        self._tail = bytearray()

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if len(data) < _SMALL:
            self._tail += data
            if len(self._tail) >= _JOINED:
                self._join()
        elif data:
            self._join()
            self._chunks.append(data)

    def _join(self) -> None:
        if self._tail:
            self._chunks.append(bytes(self._tail))
            self._tail.clear()

    def cut(self, size: int) -> list[bytes | memoryview]:
        """The first `size` bytes, or all if there are fewer."""
        self._join()
        found: list[bytes | memoryview] = []
        used = 0
        while size and used < len(self._chunks):
            chunk = self._chunks[used]
            if len(chunk) > size:
                view = memoryview(chunk)
                found.append(view[:size])
                self._chunks[used] = view[size:]
                self.size -= size
                size = 0
            else:
                found.append(chunk)
                self.size -= len(chunk)
                size -= len(chunk)
                used += 1
        del self._chunks[:used]
        return found


class S3Writer(Writer):
    """Holds back up to one part, because only the end tells whether one request will do."""

    def __init__(self, calls: Calls, path: str, key: str, options: WriteOptions) -> None:
        settings = calls.settings
        self.path, self.options, self.size = path, options, 0
        self._calls, self._key = calls, key
        self._plan = PartPlan(options.size, settings.part_size, uniform=settings.uniform_parts)
        attempt = options.attempt or secrets.token_hex(8)
        self._upload = Upload(calls, path, key, attempt, create_new=not options.overwrite)
        self._buffer = _Buffer()
        self._slots = asyncio.Semaphore(settings.part_concurrency)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._number = 1
        self._ended = False

    async def resume(self, token: bytes) -> None:
        """Take over what an earlier attempt stored. Raises `NotFound` if the store has none of it."""
        found = json.loads(token)
        if found["key"] != self._key or found["bucket"] != self._calls.settings.bucket:
            raise self._calls.backend.error(
                NotFound, "resume", self.path, "the checkpoint is of another file", hint="start it again"
            )
        upload = self._upload
        stored = await self._calls.list_parts(self.path, self._key, found["upload"])
        if stored is None:
            raise self._calls.backend.error(
                NotFound, "resume", self.path, "the stored parts are gone", hint="start it again"
            )
        for number, etag, size, sha256 in found["parts"]:
            there = stored.get(number)
            if there is None or (there.etag, there.size) != (etag, size):
                break
            upload.parts[number] = Part(number, etag, size, sha256)
        upload.id, upload.attempt = found["upload"], found["attempt"]
        self._plan = PartPlan(self.options.size, found["part_size"], uniform=self._calls.settings.uniform_parts)
        self._number = len(upload.parts) + 1
        self.offset = self.size = sum(part.size for part in upload.parts.values())

    async def write(self, data: bytes) -> None:
        self._check()
        self._buffer.add(bytes(data))
        self.size += len(data)
        # A full buffer with nothing after it may be the whole file: one request.
        while self._buffer.size > self._due() or (self._upload.id and self._buffer.size == self._due()):
            await self._dispatch(self._due())

    def _due(self) -> int:
        try:
            return self._plan.part_size(self._number)
        except ValueError as error:
            hint = "raise 'part_size'" if self._calls.settings.uniform_parts else "split the file"
            raise self._calls.backend.error(Unsupported, "write", self.path, str(error), hint=hint) from None

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._ended:
            raise RuntimeError("the writer has ended")

    async def _dispatch(self, size: int) -> None:
        """Send the next part, as soon as fewer than `part_concurrency` are on their way."""
        upload = self._upload
        if upload.id is None:
            await upload.start(self._calls.object_headers(self.path, self.options, upload.attempt))
            if self.options.staged is not None:
                await self.options.staged(self._token([]))
        await self._slots.acquire()
        self._check()
        task = asyncio.ensure_future(self._send(upload.id or "", self._number, Body(self._buffer.cut(size))))
        self._number += 1
        self._tasks.add(task)
        task.add_done_callback(self._sent)

    async def _send(self, upload: str, number: int, body: Body) -> None:
        part = await self._calls.put_part(self.path, self._key, upload, number, body)
        self._upload.parts[number] = part

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled():
            error = task.exception()
            self._failure = self._failure or error

    async def seal(self, expect: Expect) -> bytes | None:
        """Else the last parts, which may take minutes, would come after the last look at whether it is still wanted."""
        self._check()
        for declared in (expect.size, self.options.size):
            if declared is not None and declared != self.size:
                raise self._mismatch(f"{self.size} bytes were written, {declared} expected")
        if self._upload.id is not None:
            if self._buffer.size:
                await self._dispatch(self._buffer.size)
            while self._tasks:
                await asyncio.wait(self._tasks)
            self._check()
        return self.checkpoint()

    async def commit(self, expect: Expect) -> Entry:
        await self.seal(expect)
        entry = await (self._put(expect) if self._upload.id is None else self._upload.complete())
        self._ended = True
        return entry

    async def _put(self, expect: Expect) -> Entry:
        body = Body(self._buffer.cut(self._buffer.size))
        wanted = expect.digests.get("sha256")
        if wanted is not None and wanted != await body.sha256():
            raise self._mismatch(f"the bytes written have the SHA-256 {await body.sha256()}, {wanted} expected")
        create_new = not self.options.overwrite
        attempt = self._upload.attempt if create_new else None
        headers = self._calls.object_headers(self.path, self.options, attempt)
        if create_new:
            headers["if-none-match"] = "*"
        allow = ("PreconditionFailed",) if create_new else ()

        async def once() -> Answer:
            return await self._calls.put(self.path, self._key, headers, body, allow=allow)

        answer = await self._calls.client.retry.run(once)
        if answer.code:
            # An earlier try (ours, aiohttp's, a proxy's) may have succeeded although its answer was lost.
            found = await self._upload.published(body.size)
            if found is None:
                raise self._calls.backend.error(AlreadyExists, "write", self.path, "the name is taken")
            return found
        return replace(stored_of(self.path, answer.headers, body.size), modified=self.options.modified)

    async def abort(self) -> None:
        if not self._ended:
            self._ended = True
            await to_its_end(self._abort())

    async def _abort(self) -> None:
        self._buffer = _Buffer()
        await self._stop()
        await self._upload.abort()
        self.left = self._upload.left

    async def _stop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._upload.torn = bool(tasks)

    def checkpoint(self) -> bytes | None:
        upload = self._upload
        parts = []
        for number in range(1, len(upload.parts) + 1):
            if (part := upload.parts.get(number)) is None:
                break
            parts.append([part.number, part.etag, part.size, part.sha256])
        if self._ended or upload.id is None or not parts:
            return None
        return self._token(parts)

    def _token(self, parts: list[list[Any]]) -> bytes:
        token = {
            "bucket": self._calls.settings.bucket,
            "key": self._key,
            "path": self.path,
            "upload": self._upload.id,
            "attempt": self._upload.attempt,
            "part_size": self._plan.part_size(1),
            "parts": parts,
        }
        return json.dumps(token).encode()

    async def suspend(self) -> None:
        if self.checkpoint() is None:
            await self.abort()
        elif not self._ended:
            await self.leave()

    async def leave(self) -> None:
        if not self._ended:
            self._ended = True
            await self._stop()

    def _mismatch(self, reason: str) -> IntegrityError:
        reason = f"{reason}; nothing was published"
        return IntegrityError.at("write", self._calls.backend.endpoint, self.path, reason, hint="run it again")
