"""Downloads: counted, and digested against the MD5 that NetStorage keeps of every file."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import aiohttp

from crossdock.errors import IntegrityError, NotAFile, NotFound, SourceChanged, Truncated
from crossdock.storage.base import Entry, Reader
from crossdock.storage.http import FAILURES, http_date
from crossdock.storage.netstorage.calls import Calls
from crossdock.storage.netstorage.client import Answer, Request
from crossdock.storage.netstorage.faults import failure
from crossdock.storage.netstorage.wire import md5_of

__all__ = ["NetStorageReader"]

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


class NetStorageReader(Reader):
    """One GET. What ends early is `Truncated`; what is not the bytes of `entry` is `IntegrityError`."""

    def __init__(
        self,
        calls: Calls,
        request: Request,
        entry: Entry,
        response: aiohttp.ClientResponse | None,
        *,
        at: int,
        skip: int,
    ) -> None:
        self.entry = entry
        self._calls, self._request, self._response = calls, request, response
        self._at, self._skip = at, skip
        self._digest = hashlib.md5(usedforsecurity=False) if not at and "md5" in entry.digests else None

    @classmethod
    async def open(cls, calls: Calls, path: str, offset: int, pin: Entry | None) -> NetStorageReader:
        """Raises `NotFound`, `NotAFile`, `SourceChanged`."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        request = calls.request("GET", "read", path, "download", {}, headers=headers)
        response, head = await calls.client.stream(request, allow=(404, 409, 412, 416))
        try:
            if response is None:
                entry = await _described(calls, path)
                if head.status != 416:
                    # It came between the two requests.
                    raise calls.backend.error(NotFound, "read", path, "no such file")
                reader = cls(calls, request, entry, None, at=entry.size or 0, skip=0)
            else:
                reader = await cls._opened(calls, request, response, head, offset)
            if pin is not None and reader.entry.fingerprint != pin.fingerprint:
                raise _changed(calls, path, "it is not the file that was listed")
        except BaseException:
            if response is not None:
                response.close()
            raise
        return reader

    @classmethod
    async def _opened(
        cls,
        calls: Calls,
        request: Request,
        response: aiohttp.ClientResponse,
        head: Answer,
        offset: int,
    ) -> NetStorageReader:
        try:
            begin, size = _extent(head)
        except ValueError as error:
            raise calls.client.violation(request, str(error)) from error
        if begin not in (0, offset):
            raise calls.client.violation(request, f"the answer begins at byte {begin}, not {offset}")
        md5 = md5_of(head.headers.get("ETag"))
        if md5 is None:
            entry = await _described(calls, request.path)
            if entry.size != size:
                raise _changed(calls, request.path, f"{size} bytes are sent, {entry.size} are listed")
        else:
            entry = Entry(path=request.path, size=size, etag=md5, digests={"md5": md5})
            entry = replace(entry, modified=http_date(head.headers.get("Last-Modified")))
        return cls(calls, request, entry, response, at=begin, skip=offset - begin)

    async def read(self) -> bytes:
        while True:
            data = await self._next()
            if self._skip and data:
                # A server that knows no ranges sends all of the file.
                kept = data[self._skip :]
                self._skip -= len(data) - len(kept)
                data = kept
                if not data:
                    continue
            return data

    async def _next(self) -> bytes:
        response, size = self._response, self.entry.size or 0
        if response is None:
            return b""
        try:
            data: bytes = await response.content.readany()
        except FAILURES as error:
            raise failure(self._calls.client.place(self._request), error) from error
        self._at += len(data)
        if self._at > size:
            raise self._wrong(f"more than {size} bytes were sent")
        if self._digest is not None:
            self._digest.update(data)
        if not data:
            if self._at < size:
                raise self._truncated()
            if self._digest is not None and self._digest.hexdigest() != self.entry.digests["md5"]:
                raise self._wrong("the bytes that were sent have another MD5 than the file")
            await self.close()
        return data

    def _truncated(self) -> Truncated:
        reason = f"the stream ended at byte {self._at} of {self.entry.size}"
        return Truncated.at("read", self._calls.backend.endpoint, self.entry.path, reason, hint="run it again")

    def _wrong(self, reason: str) -> IntegrityError:
        error = IntegrityError.at("read", self._calls.backend.endpoint, self.entry.path, reason, hint="run it again")
        # To go on at the offset reached would take what is wrong for right.
        error.exhausted = True
        return error

    async def close(self) -> None:
        response, self._response = self._response, None
        if response is None:
            return
        if self._at == self.entry.size:
            response.release()
        else:
            response.close()


async def _described(calls: Calls, path: str) -> Entry:
    """Raises `NotFound`, `NotAFile`."""
    entry = await calls.look(path, "read", implicit=True)
    if entry is None:
        raise calls.backend.error(NotFound, "read", path, "no such file")
    if entry.kind == "dir":
        raise calls.backend.error(NotAFile, "read", path, "it is a folder")
    return entry


def _extent(head: Answer) -> tuple[int, int]:
    """(first byte, size of the file). Raises `ValueError`."""
    if head.status == 206:
        text = head.headers.get("Content-Range", "")
        found = _CONTENT_RANGE.fullmatch(text)
        if found is None or not int(found[1]) <= int(found[2]) == int(found[3]) - 1:
            raise ValueError(f"a part without a usable Content-Range: {text!r}")
        return int(found[1]), int(found[3])
    length = head.headers.get("Content-Length", "")
    if not (length.isascii() and length.isdigit()):
        raise ValueError("a file without Content-Length")
    return 0, int(length)


def _changed(calls: Calls, path: str, reason: str) -> SourceChanged:
    error = SourceChanged.at("read", calls.backend.endpoint, path, reason, hint="list it again and let it settle")
    # Asking again at once gets the same answer.
    error.exhausted = True
    return error
