"""Copying within the store: in one request, or part by part above the store's limit. No bytes pass through here."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import unquote

from crossdock.errors import (
    AlreadyExists,
    CrossdockError,
    IntegrityError,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    Unsupported,
)
from crossdock.storage.base import Entry, WriteOptions
from crossdock.storage.s3.calls import UNHEARD, Calls
from crossdock.storage.s3.entries import entry_of, stored_of, with_etag
from crossdock.storage.s3.faults import changed
from crossdock.storage.s3.pinned import differs
from crossdock.storage.s3.plan import part_size_for
from crossdock.storage.s3.request import Body, Request
from crossdock.storage.s3.upload import Upload
from crossdock.storage.s3.wire import (
    ATTEMPT,
    MTIME,
    VERSION,
    attribute_headers,
    attributes_of,
    etag_of,
    format_mtime,
    parse_mtime,
    quoted,
    tagging,
    texts,
)
from crossdock.storage.waiting import to_its_end

__all__ = ["Copy"]

_KEPT = ("content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires")
_ABSENT = ("NotFound", "Forbidden", "AccessDenied", "MethodNotAllowed", "BadRequest", *UNHEARD)
"""How a HEAD is refused of what is not there, or may not be seen."""


class Copy:
    """One copy. The source is looked at first: its size decides how, its ETag pins what."""

    def __init__(self, calls: Calls, address: str, path: str, key: str, options: WriteOptions) -> None:
        self._calls, self._path, self._key, self._options = calls, path, key, options
        _, bucket, source = address.split("/", 2)
        self._bucket, self._source = bucket, unquote(source)
        self._version: str | None = None
        self._conditional = True

    async def run(self, pin: Entry | None) -> Entry:
        """The entry is of the copy. Raises `SourceChanged`, `NotFound` of the source, `AlreadyExists`."""
        self._version = pin.version if pin else None
        request = self._request("HEAD", "s3:GetObject", {})
        answer = await self._calls.client.call(request)
        source = entry_of(self._source, answer.headers)
        if pin is not None and (error := await differs(self._calls, request, pin, source)) is not None:
            raise error
        headers = self._metadata(source, answer.headers)
        size = source.size or 0
        # If-None-Match on CopyObject is honoured by few stores; publication of parts has been probed.
        in_parts = size > self._calls.settings.copy_threshold or not self._options.overwrite
        if in_parts and size:
            try:
                return await self._in_parts(source, size, headers, answer.headers)
            except (ProtocolViolation, Unsupported):
                if self._calls.client.amazon or not self._options.overwrite:
                    raise
                # Google's store and Storj's copy no parts, but objects of any size in one request.
                return await self._whole(source, self._metadata(source, answer.headers), answer.headers)
        if in_parts:
            return await self._empty(headers | await self._tagging(answer.headers))
        return await self._whole(source, headers, answer.headers)

    def _request(self, method: str, action: str, query: Mapping[str, str]) -> Request:
        """A request about the source."""
        version = {"versionId": self._version} if self._version else {}
        request = self._calls.request(method, "copy", self._path, action, key=self._source, query={**version, **query})
        return replace(request, bucket=self._bucket)

    def _metadata(self, source: Entry, original: Mapping[str, str]) -> dict[str, str]:
        """What the copy is to carry: the source's own, with what the options say instead.

        And its time: else that of the copy would count, and differ whenever the two are compared.
        """
        found = {name: text for name, text in attributes_of(original).items() if name in _KEPT}
        for name, value in original.items():
            if name.lower().startswith("x-amz-meta-") and name.lower() != ATTEMPT:
                found[name.lower()] = value
        told = parse_mtime(found.get(MTIME)) is not None
        moment = self._options.modified or (None if told else source.modified)
        if moment is not None:
            found[MTIME] = format_mtime(moment)
        return found | attribute_headers(self._options.attributes)

    async def _tagging(self, source: Mapping[str, str]) -> dict[str, str]:
        """The header with the source's tags, and above them those that the settings give every object."""
        tags = {**await self._tags(source), **self._calls.settings.tags}
        return {"x-amz-tagging": tagging(tags)} if tags else {}

    async def _tags(self, source: Mapping[str, str]) -> dict[str, str]:
        count = source.get("x-amz-tagging-count")
        if count == "0":
            return {}
        try:
            return await self._calls.tags(self._request("GET", "s3:GetObjectTagging", {"tagging": ""})) or {}
        except PermissionDenied:
            # Without the right to see tags there is no count either, even if there are some.
            if count is None:
                return {}
            raise

    def _source_headers(self, source: Entry, *, twice: bool = False) -> dict[str, str]:
        where = quoted(f"{self._bucket}/{self._source}")
        where = quoted(where) if twice else where
        # No version but one that was asked for: to name it takes a right of its own, and the ETag tells it as well.
        headers = {"x-amz-copy-source": f"{where}?versionId={self._version}" if self._version else where}
        if source.etag and self._conditional:
            headers["x-amz-copy-source-if-match"] = f'"{source.etag}"'
            if not self._calls.client.amazon:
                # The name under which Ceph's gateway knows it.
                headers["x-amz-copy-if-match"] = f'"{source.etag}"'
        return headers

    async def _whole(self, source: Entry, headers: dict[str, str], original: Mapping[str, str]) -> Entry:
        unchanged = all(original.get(name) == value for name, value in headers.items())
        sent = {} if unchanged else {**headers, "x-amz-metadata-directive": "REPLACE"}
        sent |= self._source_headers(source) | self._calls.storage_headers()
        tagging = await self._tagging(original) if self._calls.settings.tags else {}
        if tagging:
            sent |= {"x-amz-tagging-directive": "REPLACE", **tagging}
        request = self._calls.request("PUT", "copy", self._path, "s3:PutObject", key=self._key, headers=sent)

        async def once() -> Entry | None:
            answer = await self._calls.client.call(request, allow=("PreconditionFailed", "NoSuchKey"))
            if answer.code == "NoSuchKey":
                raise await self._denied(source)
            if answer.code:
                if await self._misjudged(source):
                    return None
                raise changed(self._calls.client.place(request), "the object has been replaced")
            found = texts(*self._calls.client.xml(request, answer, "CopyObjectResult"))
            entry = stored_of(self._path, with_etag(answer.headers, found.get("ETag")), source.size or 0)
            return replace(entry, modified=self._options.modified or source.modified)

        entry = await self._calls.client.retry.run(once)
        if entry is None:
            # In one request Swift makes a copy that it lists with another ETag than it tells of it.
            return await self._in_parts(source, source.size or 0, headers, original)
        await self._unchanged(source)
        await self._verified(source, entry)
        if tagging and not self._calls.client.amazon:
            # Ceph does not know the directive.
            version = entry.attributes.get(VERSION)
            await self._calls.restore_tags(self._path, self._key, tagging["x-amz-tagging"], version)
        return entry

    async def _denied(self, source: Entry) -> CrossdockError:
        """Why it is said not to be there. Some stores do not decode its name, or not all of it (s3rver: "+").

        Taken at its word, whoever meant to move the source would believe it gone.
        """
        request = self._request("HEAD", "s3:GetObject", {})
        answer = await self._calls.client.call(request, repeat=True)
        if source.etag is not None and etag_of(answer.headers.get("etag")) != source.etag:
            return changed(self._calls.client.place(request), "the object was replaced while it was copied")
        reason = f"this store does not find {self._source!r} to copy it, though it is there"
        hint = "give that another name: letters, digits, '.', '-' and '_' are safe"
        return self._calls.backend.error(Unsupported, "copy", self._path, reason, hint=hint)

    async def _misjudged(self, source: Entry) -> bool:
        """The store refuses the ETag that it tells itself, as Swift does if the object came in parts.

        Then no more conditions are sent: `_unchanged` looks again once the copy is made.
        """
        if self._calls.client.amazon or not self._conditional or source.etag is None:
            return False
        answer = await self._calls.client.call(self._request("HEAD", "s3:GetObject", {}), repeat=True)
        self._conditional = etag_of(answer.headers.get("etag")) != source.etag
        return not self._conditional

    async def _unchanged(self, source: Entry) -> None:
        """Not every store honours the condition on the source; where none is known to, look again."""
        if self._calls.client.amazon or self._version:
            return
        request = self._request("HEAD", "s3:GetObject", {})
        answer = await self._calls.client.call(request, allow=("NotFound",), repeat=True)
        if not answer.code and etag_of(answer.headers.get("etag")) != source.etag:
            raise changed(self._calls.client.place(request), "the object was replaced while it was copied")

    async def _verified(self, source: Entry, copy: Entry) -> None:
        """Who moves the source takes it away next. Its own ETag, if that is an MD5, proves the copy; else look at it.

        Swift, with its filters in another order than it wants, copies the list of an upload's parts in their place.
        """
        proven = copy.etag == source.etag and re.fullmatch("[0-9a-f]{32}", copy.etag or "")
        if self._calls.client.amazon or proven:
            return
        unseen = ("NotFound", "Forbidden", "AccessDenied", "MethodNotAllowed")
        answer = await self._calls.head(self._path, self._key, operation="verify", allow=unseen, repeat=True)
        size = None if answer.code else entry_of(self._path, answer.headers).size
        if size not in (None, source.size):
            reason = f"{source.size} bytes became {size} as the store copied them"
            hint = "remove that object, and ask who runs the store: what it copied is not what it shows"
            raise IntegrityError.at("copy", self._calls.backend.endpoint, self._path, reason, hint=hint)

    async def _empty(self, headers: dict[str, str]) -> Entry:
        calls, attempt = self._calls, secrets.token_hex(8)
        headers = headers | calls.storage_headers() | {"if-none-match": "*", ATTEMPT: attempt}
        answer = await calls.client.retry.run(
            lambda: calls.put(self._path, self._key, headers, Body(), allow=("PreconditionFailed",))
        )
        if not answer.code:
            return stored_of(self._path, answer.headers, 0)
        # An earlier try may have succeeded although its answer was lost.
        found = await Upload(calls, self._path, self._key, attempt, create_new=True).published(0)
        if found is None:
            raise calls.backend.error(AlreadyExists, "copy", self._path, "the name is taken")
        return found

    async def _source_of_parts(self, source: Entry, upload: Upload) -> dict[str, str]:
        """The headers by which the store finds this very object, and not another.

        In the source of a part Ceph up to 18 decodes the name twice: instead of "a%20b" it would copy "a b". And every
        Ceph, once it has decoded it, takes "?versionId=" for its own. So a byte is copied to see how it is read, if
        there is nothing that it could be mistaken for.
        """
        name, mark, version = self._source.partition("?versionId=")
        if self._calls.client.amazon or not (mark or "%" in name):
            return self._source_headers(source)
        mistaken = (name, version) if mark else (unquote(name), "")
        for twice, (key, version) in ((True, (quoted(self._source), "")), (False, mistaken)):
            query = {"versionId": version} if version else {}
            request = replace(self._request("HEAD", "s3:GetObject", {}), key=key, query=query)
            answer = await self._calls.client.call(request, allow=_ABSENT, repeat=True)
            headers = self._source_headers(source, twice=twice)
            byte = {"x-amz-copy-source": headers["x-amz-copy-source"], "x-amz-copy-source-range": "bytes=0-0"}
            try:
                if answer.code or key == self._source:
                    await self._calls.copy_part(self._path, self._key, upload.id or "", 1, byte, 1)
                    return headers
            except NotFound:
                if twice and not mark:
                    return self._source_headers(source)
            except (PermissionDenied, Unsupported):
                pass
        reason, hint = f"this store may take {self._source!r} for another object", "give that another name"
        raise self._calls.backend.error(Unsupported, "copy", self._path, reason, hint=hint)

    async def _in_parts(self, source: Entry, size: int, headers: dict[str, str], original: Mapping[str, str]) -> Entry:
        calls = self._calls
        attempt = secrets.token_hex(8)
        headers |= await self._tagging(original) | calls.storage_headers() | {ATTEMPT: attempt}
        upload = Upload(calls, self._path, self._key, attempt, create_new=not self._options.overwrite)
        step = part_size_for(size, calls.settings.copy_part_size)
        slots = asyncio.Semaphore(calls.settings.part_concurrency)

        async def copy(number: int) -> None:
            start = (number - 1) * step
            end = min(start + step, size)
            async with slots:
                upload.parts[number] = await calls.copy_part(
                    self._path,
                    self._key,
                    upload.id or "",
                    number,
                    {**common, "x-amz-copy-source-range": f"bytes={start}-{end - 1}"},
                    end - start,
                )

        tasks: list[asyncio.Task[None]] = []
        try:
            await upload.start(headers, hash_parts=False)
            if self._options.staged is not None:
                await self._options.staged(upload.token())
            common = await self._source_of_parts(source, upload)
            tasks = [asyncio.ensure_future(copy(number)) for number in range(1, -(-size // step) + 1)]
            await asyncio.gather(*tasks)
            await self._unchanged(source)
            return await upload.complete()
        except BaseException as error:
            upload.torn = not all(task.done() for task in tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await to_its_end(upload.abort())
            if isinstance(error, AlreadyExists) and len(upload.parts) < len(tasks):
                # A refused part is the source's condition; only the publication has the target's.
                if await self._misjudged(source):
                    return await self._in_parts(source, size, headers, original)
                raise changed(calls.client.place(self._request("GET", "", {})), "the object was replaced") from error
            if isinstance(error, NotFound) and tasks:
                raise await self._denied(source) from error
            raise
