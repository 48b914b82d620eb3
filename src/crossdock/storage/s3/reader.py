"""Reading: ranges fetched in parallel, handed on in order, all of one and the same version."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from crossdock.errors import ConnectionFailed, CrossdockError
from crossdock.storage.base import Entry, Reader
from crossdock.storage.http import FAILURES
from crossdock.storage.s3.calls import UNHEARD, Calls
from crossdock.storage.s3.client import Response
from crossdock.storage.s3.entries import entry_of
from crossdock.storage.s3.faults import changed, failure
from crossdock.storage.s3.pinned import differs
from crossdock.storage.s3.request import Answer, Request
from crossdock.storage.s3.wire import VERSION, etag_of

__all__ = ["S3Reader"]

_CHUNK = 256 * 1024
"""Bytes; smaller pieces of the stream are joined up to this."""
_LARGEST_CHUNK = 1024 * 1024
_LEAST_AHEAD = 2
_FAR = 0.1
"""Seconds of waiting for one range after which another one is begun: far away, the first bytes come slowly."""
_UNNAMED = ("AccessDenied", "Forbidden", *UNHEARD)
"""How a request that names a version is refused."""
_NOTHING = re.compile(r"bytes \d{1,18}--?\d{1,18}/0")
"""How some servers (s3rver) say, with 206, that an object is empty."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class S3Reader(Reader):
    """The object from `offset` on. At most `read_concurrency` ranges of `part_size` bytes are held.

    Two are enough for a target that takes them slower than they come; for each that is waited for, one more is fetched
    at the same time.
    """

    def __init__(self, calls: Calls, path: str, key: str, offset: int, pin: Entry | None) -> None:
        self._calls, self._path, self._key = calls, path, key
        self._etag = pin.etag if pin else None
        self._version = pin.version if pin else None
        self._pin, self._conditional = pin, True
        self._next = offset
        self._ranges: deque[_Range] = deque()
        self._ahead = _LEAST_AHEAD
        self._begun = False

    @classmethod
    async def open(cls, calls: Calls, path: str, key: str, offset: int, pin: Entry | None) -> S3Reader:
        """Ask for the first range; its answer tells what the object is."""
        reader = cls(calls, path, key, offset, pin)
        size = pin.size if pin is not None else None
        end = offset + calls.settings.part_size if size is None else min(offset + calls.settings.part_size, size)
        if 0 < offset >= end:
            request = reader._request(offset, offset)
            response = None
        else:
            response, head, request = await reader.get(offset, end)
            if response is not None and _NOTHING.fullmatch(head.headers.get("content-range", "")):
                response.close()
                response = None
        if response is None:
            await reader._open_empty(offset)
        else:
            try:
                begin, stop, total = _extent(head, empty=size == 0)
            except ValueError as error:
                response.close()
                raise calls.client.violation(request, str(error)) from None
            reader.entry = entry_of(path, head.headers, total)
            if total == end != size and not _is_part(head):
                await reader._whole(response, request)
            reader._next = stop
            reader._ranges.append(_Range(reader, offset, stop, response))
            if begin != offset or (stop != min(end, total) and _is_part(head)):
                await reader.close()
                raise calls.client.violation(request, f"bytes {begin}-{stop} came instead of {offset}-{end}")
        try:
            await reader._pinned(pin, request)
        except BaseException:
            await reader.close()
            raise
        return reader

    async def _open_empty(self, offset: int) -> None:
        """The store has no bytes there, so the object must end at `offset` or before."""
        answer = await self._calls.head(
            self._path,
            self._key,
            operation="read",
            etag=self._etag if self._conditional else None,
            version=self._version,
            allow=("PreconditionFailed",),
        )
        self.entry = entry_of(self._path, answer.headers)
        self._next = offset
        if answer.code or (self.entry.size or 0) > offset:
            raise changed(self._calls.client.place(self._request(offset, offset)), "the object has been replaced")

    async def _whole(self, response: Response, request: Request) -> None:
        """An answer that does not call itself a part, and is as long as one was to be, may be one all the same."""
        calls = self._calls
        try:
            found = await calls.head(self._path, self._key, operation="read", allow=_UNNAMED)
        except BaseException:
            response.close()
            raise
        told = None if found.code else entry_of(self._path, found.headers).size
        if told not in (None, self.entry.size):
            response.close()
            raise calls.client.violation(request, f"{self.entry.size} bytes came as if they were all, of {told}")

    async def _pinned(self, pin: Entry | None, request: Request) -> None:
        entry, client = self.entry, self._calls.client
        if pin is not None and (error := await differs(self._calls, request, pin, entry)) is not None:
            raise error
        if pin is not None and pin.version is not None:
            self.entry = replace(entry, version=pin.version)
        self._etag, self._version = entry.etag, entry.attributes.get(VERSION, self._version)
        if self._etag is None and self._version is None and self._next < (entry.size or 0):
            raise client.violation(request, "no ETag: the ranges of a large object could be of different versions")

    def _request(self, start: int, end: int) -> Request:
        headers = {"if-match": f'"{self._etag}"'} if self._etag and self._conditional else {}
        if end > start:
            headers["range"] = f"bytes={start}-{end - 1}"
        query = {"versionId": self._version} if self._version else {}
        found = self._calls.request(
            "GET", "read", self._path, "s3:GetObject", key=self._key, query=query, headers=headers
        )
        if not self._begun:
            # The first answer, which tells what there is, may be of any length.
            return found
        packed = self._calls.client.unpacks and self.entry.attributes.get("content-encoding") in ("gzip", "br")
        return replace(found, expected=end - start, packed=packed)

    async def get(self, start: int, end: int, allow: tuple[str, ...] = ()) -> tuple[Response | None, Answer, Request]:
        """Ask for a range. No response: no bytes are there, or it is refused as allowed. Raises `SourceChanged`."""
        request = self._request(start, end)
        allow = ("PreconditionFailed", "InvalidRange", *allow)
        response, head = await self._calls.client.stream(request, allow=allow)
        if head.code == "PreconditionFailed":
            if await self._misjudged(request):
                return await self.get(start, end, allow)
            raise changed(self._calls.client.place(request), "the object has been replaced")
        return response, head, request

    async def _misjudged(self, request: Request) -> bool:
        """The store refuses the ETag that it tells itself, a weak one say: the ETags of what comes are compared then.

        Raises `SourceChanged` that says so if it lists another one all the same.
        """
        if self._calls.client.amazon or not self._conditional:
            return False
        seen = ("NotFound", *_UNNAMED)
        answer = await self._calls.head(
            self._path, self._key, operation="read", version=self._version, allow=seen, repeat=True
        )
        if answer.code:
            return False
        entry = entry_of(self._path, answer.headers)
        self._conditional = entry.etag != self._etag
        if self._conditional and self._pin is not None and not self._begun:
            error = await differs(self._calls, request, self._pin, entry)
            if error is not None:
                raise error
        return not self._conditional

    async def read(self) -> bytes:
        if not self._begun:
            self._begun = True
            self._fill()
        while self._ranges:
            data = await self._ranges[0].take(self._far)
            if data:
                return data
            self._ahead = max(self._ahead + (1 if self._ranges.popleft().waited_for else -1), _LEAST_AHEAD)
            self._fill()
        return b""

    def _far(self) -> None:
        self._ahead += 1
        self._fill()

    def _fill(self) -> None:
        size, step = self.entry.size or 0, self._calls.settings.part_size
        self._ahead = min(self._ahead, self._calls.settings.read_concurrency)
        while self._next < size and len(self._ranges) < self._ahead:
            end = min(self._next + step, size)
            self._ranges.append(_Range(self, self._next, end))
            self._next = end
        for each in self._ranges:
            each.begin()

    async def close(self) -> None:
        ranges, self._ranges, self._next = list(self._ranges), deque(), self.entry.size or 0
        for each in ranges:
            await each.close()

    async def part_of(self, start: int, end: int) -> tuple[Response, Request]:
        """A later range of the object that was opened. Raises `ProtocolViolation` if another one comes."""
        by_version = self._version is not None and self._etag is not None
        response, head, request = await self.get(start, end, _UNNAMED if by_version else ())
        if by_version and (head.code in _UNNAMED if response is None else not _is_part(head)):
            # To name a version takes a right of its own, and some stores know no ranges of one: the ETag tells it.
            if response is not None:
                response.close()
            self._version = None
            return await self.part_of(start, end)
        if response is None:
            raise changed(self._calls.client.place(request), "the object is shorter than it was")
        try:
            found = _extent(head)
        except ValueError:
            found = None
        if not _is_part(head) or found != (start, end, self.entry.size):
            response.close()
            came = head.headers.get("content-range", "no Content-Range")
            raise self._calls.client.violation(request, f"asked for bytes {start}-{end - 1}, got {came!r}")
        etag = etag_of(head.headers.get("etag"))
        if None not in (etag, self._etag) and etag != self._etag:
            # Not every store knows If-Match.
            response.close()
            raise changed(self._calls.client.place(request), "the object has been replaced")
        return response, request

    def broke(self, request: Request, error: Exception) -> CrossdockError:
        return failure(self._calls.client.place(request), error)

    def ended_early(self, at: int, end: int) -> CrossdockError:
        return self._calls.backend.error(
            ConnectionFailed, "read", self._path, f"the stream ended at byte {at}, of {end} expected"
        )

    def too_long(self, end: int) -> CrossdockError:
        return self._calls.client.violation(self._request(0, end), f"more bytes came than the {end} announced")

    async def retried(self, part: _Range) -> None:
        await self._calls.client.retry.run(part.fetch)

    @property
    def bound(self) -> int:
        return self._calls.settings.part_size


class _Range:
    """Bytes `at` to `end`, fetched ahead of their reader, and again from where they broke off."""

    def __init__(self, reader: S3Reader, at: int, end: int, response: Response | None = None) -> None:
        self._reader, self._at, self._end, self._response = reader, at, end, response
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self.waited_for = False
        """The reader had to wait for bytes of it."""
        self._waited = 0.0
        self._arrived, self._room = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._reader.retried(self))
            self._task.add_done_callback(lambda _: self._arrived.set())

    async def fetch(self) -> None:
        """One try at what is still missing."""
        reader = self._reader
        request = reader._request(self._at, self._end)
        response, self._response = self._response, None
        if response is None:
            response, request = await reader.part_of(self._at, self._end)
        try:
            async for chunk in response.content.iter_any():
                self._at += len(chunk)
                if self._at > self._end:
                    raise reader.too_long(self._end)
                self._chunks.append(chunk)
                self._held += len(chunk)
                self._arrived.set()
                while self._held >= reader.bound and self._at < self._end:
                    self._room.clear()
                    await self._room.wait()
        except FAILURES as error:
            raise reader.broke(request, error) from error
        finally:
            response.release()
        if self._at < self._end:
            raise reader.ended_early(self._at, self._end)

    async def take(self, far: Callable[[], None]) -> bytes:
        """The next bytes; b"" at the end of the range. What arrived before a failure comes before the failure.

        `far` is called for each `_FAR` seconds, or more, that they were waited for.
        """
        task = self._task
        if task is None:
            raise RuntimeError("the range has not begun")
        while self._held < _CHUNK and not task.done():
            self.waited_for = True
            self._arrived.clear()
            began = time.monotonic()
            await self._arrived.wait()
            self._waited += time.monotonic() - began
            if self._waited >= _FAR:
                self._waited = 0.0
                far()
        if not self._chunks:
            task.result()
            return b""
        found = [self._chunks.popleft()]
        size = len(found[0])
        while self._chunks and size + len(self._chunks[0]) <= _LARGEST_CHUNK:
            found.append(self._chunks.popleft())
            size += len(found[-1])
        self._held -= size
        self._room.set()
        return found[0] if len(found) == 1 else b"".join(found)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._response is not None:
            self._response.close()
        self._chunks.clear()


def _is_part(head: Answer) -> bool:
    """Some servers (rclone's) call a part 200, and say only by Content-Range that it is one."""
    return head.status == 206 or "content-range" in head.headers


def _extent(head: Answer, *, empty: bool = False) -> tuple[int, int, int]:
    """(first byte, byte after the last, size of the object). Raises `ValueError`.

    `empty`: it was listed so. Nothing of it can be asked for as a part, which would tell the size without a length.
    """
    length = head.headers.get("content-length", "0" if empty else "")
    if _is_part(head):
        found = _CONTENT_RANGE.fullmatch(head.headers.get("content-range", ""))
        if found is None:
            raise ValueError(f"a part without a usable Content-Range: {head.headers.get('content-range')!r}")
        begin, end, total = int(found[1]), int(found[2]) + 1, int(found[3])
        if not begin < end <= total or (length and length != str(end - begin)):
            raise ValueError(f"Content-Range {found[0]!r} with Content-Length {length!r}")
        return begin, end, total
    if not (length.isascii() and length.isdigit()):
        raise ValueError("an object without Content-Length")
    return 0, int(length), int(length)
