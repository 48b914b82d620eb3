"""The REST operations that the verbs are made of, with the bucket's settings applied."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from mimetypes import MimeTypes
from urllib.parse import parse_qsl

from crossdock.errors import AlreadyExists, InvalidPath, ProtocolViolation, Unsupported
from crossdock.storage.base import Backend, WriteOptions
from crossdock.storage.s3.client import Client
from crossdock.storage.s3.entries import with_etag
from crossdock.storage.s3.request import Answer, Body, Request
from crossdock.storage.s3.settings import S3Settings
from crossdock.storage.s3.wire import (
    ATTEMPT,
    MTIME,
    attribute_headers,
    element,
    etag_of,
    format_mtime,
    number_of,
    tagging,
    texts,
)

__all__ = ["UNHEARD", "Calls", "Part"]

log = logging.getLogger("crossdock.storage.s3")

UNHEARD = ("NotImplemented", "InvalidArgument", "InvalidRequest")
"""How stores refuse a header or a parameter that they do not know."""
_LACKING = ("NotImplemented", "MethodNotAllowed")
"""How stores refuse an operation that they do not have."""
_LONGEST_KEY = 1024
_TYPES = MimeTypes()
"""Python's own table: the machine's would make the outcome depend on the machine."""


@dataclass(frozen=True, slots=True)
class Part:
    """One stored part. `sha256` in base64, only where the store keeps it."""

    number: int
    etag: str
    size: int
    sha256: str | None = None


class Calls:
    """One bucket, below one prefix."""

    def __init__(self, client: Client, settings: S3Settings, backend: Backend) -> None:
        self.client, self.settings, self.backend = client, settings, backend
        root = settings.root.rstrip("/")
        self.prefix = root + "/" if root else ""
        self.checksums = settings.checksum == "auto" and client.amazon
        self.listing: Mapping[str, str] = {"list-type": "2"}
        """Which version of listings is asked for; nothing is the first, if the store knows no other."""
        self.folders_encoded = False
        """Listings were seen to encode the names of folders, as `encoding-type` asks for."""

    def key(self, path: str, operation: str) -> str:
        """The key of a path, nothing normalised. Raises `InvalidPath` for what cannot be one."""
        key = self.prefix + path
        try:
            size = len(key.encode())
        except UnicodeEncodeError:
            reason = "the name is not UTF-8, which S3 demands"
            hint = "write at the endpoint it comes from what names are in there, such as encoding: latin-1"
            raise self._invalid(operation, path, reason, f"{hint}; a local one wants another name") from None
        if size > _LONGEST_KEY:
            raise self._invalid(operation, path, f"the key has {size} bytes, of 1024 at most")
        if not path:
            raise self.backend.error(InvalidPath, operation, path, "no name", hint="name a file below it")
        return key

    def _invalid(self, operation: str, path: str, reason: str, hint: str | None = None) -> Exception:
        hint = hint or "give it another name in the rule or command that moves it"
        return self.backend.error(InvalidPath, operation, path, reason, hint=hint)

    def request(
        self,
        method: str,
        operation: str,
        path: str,
        action: str,
        *,
        key: str = "",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Request:
        """A request to this bucket."""
        return Request(
            method=method,
            operation=operation,
            path=path,
            action=action,
            bucket=self.settings.bucket,
            key=key,
            query=query or {},
            headers=headers or {},
            body=body,
        )

    def object_headers(self, path: str, options: WriteOptions, attempt: str | None) -> dict[str, str]:
        """What a new object is to carry: metadata, tags, storage class, encryption."""
        settings = self.settings
        try:
            headers = {"content-type": settings.content_type or _guess(path), **attribute_headers(options.attributes)}
        except ValueError as error:
            raise self.backend.error(Unsupported, "write", path, str(error)) from None
        if options.modified is not None:
            headers[MTIME] = format_mtime(options.modified)
        if attempt is not None:
            headers[ATTEMPT] = attempt
        if settings.tags:
            headers["x-amz-tagging"] = tagging(settings.tags)
        return headers | self.storage_headers()

    def storage_headers(self) -> dict[str, str]:
        """What is never taken over from a copied object."""
        settings = self.settings
        found = {
            "x-amz-storage-class": settings.storage_class,
            "x-amz-server-side-encryption": settings.sse,
            "x-amz-server-side-encryption-aws-kms-key-id": settings.kms_key_id,
            "x-amz-acl": settings.acl,
        }
        return {name: value for name, value in found.items() if value}

    async def head(
        self,
        path: str,
        key: str,
        *,
        operation: str = "stat",
        allow: Collection[str] = (),
        repeat: bool = False,
        etag: str | None = None,
        version: str | None = None,
    ) -> Answer:
        """Describe an object, on condition that it is still `etag`."""
        headers = {"x-amz-checksum-mode": "ENABLED"} if self.client.amazon else {}
        if etag:
            headers["if-match"] = f'"{etag}"'
        query = {"versionId": version} if version else {}
        request = self.request("HEAD", operation, path, "s3:GetObject", key=key, query=query, headers=headers)
        return await self.client.call(request, allow=allow, repeat=repeat)

    async def put(
        self, path: str, key: str, headers: Mapping[str, str], body: Body, *, allow: Collection[str] = ()
    ) -> Answer:
        """Store an object in one request."""
        headers = dict(headers)
        if self.checksums:
            headers["x-amz-checksum-sha256"] = await _base64(body)
        request = self.request("PUT", "write", path, "s3:PutObject", key=key, headers=headers, body=body)
        answer = await self.client.call(request, allow=allow)
        if answer.code or etag_of(answer.headers.get("etag")) is not None:
            return answer
        # Some stores (older ones of Apache Ozone) do not tell it; but then, a login page is a 200 as well.
        found = await self.head(path, key, operation="write", allow=("NotFound",), repeat=True)
        etag = etag_of(found.headers.get("etag"))
        if found.code or etag is None or number_of(found.headers.get("content-length")) != body.size:
            raise self.client.violation(request, "it was taken without an ETag, and is not there")
        return replace(answer, headers=with_etag(answer.headers, etag))

    async def delete(
        self, path: str, key: str, *, version: str | None = None, etag: str | None = None, repeat: bool = False
    ) -> Answer:
        """Remove an object, or one version; with `etag` the answer's code may be PreconditionFailed.

        A store that refuses the condition itself (LocalStack) is asked without it: whoever calls has looked before.
        """
        request = self.request(
            "DELETE",
            "delete",
            path,
            "s3:DeleteObject",
            key=key,
            query={"versionId": version} if version else {},
            headers={"if-match": f'"{etag}"'} if etag else {},
        )
        allow = ["NoSuchKey", "NotFound", "NoSuchVersion"]
        if etag:
            allow += ["PreconditionFailed", *(() if self.client.amazon else UNHEARD)]
        answer = await self.client.call(request, allow=allow, repeat=repeat)
        if answer.code in UNHEARD:
            return await self.delete(path, key, version=version, repeat=repeat)
        return answer

    async def tags(self, request: Request) -> dict[str, str] | None:
        """What GetObjectTagging (`request`) answers; None from a store without tags, maybe with the object itself."""
        allow = ("NoSuchTagSet", "NoSuchTagSetError", *_LACKING)
        try:
            answer = await self.client.retry.run(
                lambda: self.client.call(request, allow=allow), but=(ProtocolViolation,)
            )
            if answer.code:
                return {} if answer.code.startswith("NoSuch") else None
            if not answer.body and "etag" not in answer.headers:
                # Ceph, of an object that came in parts.
                return {}
            root, space = self.client.xml(request, answer, "Tagging")
        except (ProtocolViolation, Unsupported):
            if self.client.amazon:
                raise
            return None
        rows = [texts(item, space) for item in root.iter(f"{space}Tag")]
        return {row.get("Key", ""): row.get("Value", "") for row in rows}

    async def restore_tags(self, path: str, key: str, tagging: str, version: str | None) -> None:
        """Set tags that the store was sent along with the object, and has forgotten."""
        query = {"versionId": version, "tagging": ""} if version else {"tagging": ""}
        request = self.request("GET", "write", path, "s3:GetObjectTagging", key=key, query=query)
        if await self.tags(request) is None or not await self.tag(path, key, tagging, version):
            log.warning("%s: this store keeps no tags: %r is without", self.backend.endpoint, key)

    async def tag(self, path: str, key: str, tagging: str, version: str | None) -> bool:
        """Set an object's tags, given as in the header x-amz-tagging. False: Swift tells that there are none, only.

        Look at `tags` before: a store that does not know them (rclone's) takes the document for the object's content.
        """
        rows = [element("Tag", [("Key", name), ("Value", value)]) for name, value in parse_qsl(tagging, True)]
        body = f"<Tagging><TagSet>{''.join(rows)}</TagSet></Tagging>".encode()
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        query = {"tagging": "", "versionId": version} if version else {"tagging": ""}
        headers = {"content-type": "application/xml", "content-md5": digest}
        request = self.request(
            "PUT", "write", path, "s3:PutObjectTagging", key=key, query=query, headers=headers, body=Body([body])
        )
        return not (await self.client.call(request, allow=_LACKING, repeat=True)).code

    # Uploads in parts.

    async def create_upload(self, path: str, key: str, headers: Mapping[str, str], *, hash_parts: bool = True) -> str:
        """Start an upload; its id."""
        headers = dict(headers)
        if self.checksums and hash_parts:
            headers["x-amz-checksum-algorithm"] = "SHA256"
        request = self.request("POST", "write", path, "s3:PutObject", key=key, query={"uploads": ""}, headers=headers)
        answer = await self.client.call(request, allow=("BadRequest", *_LACKING), repeat=True)
        if answer.code:
            reason = f"{answer.code}: this store seems to take no uploads in parts"
            hint = "raise 'part_size' above the file's size (up to 5G): it is then held in memory, and sent as one"
            raise self.backend.error(Unsupported, "write", path, reason, hint=hint)
        # rclone's server leaves the end of the name out.
        root, space = self.client.xml(request, answer, "InitiateMultipartUploadResult", "InitiateMultipartUpload")
        upload = texts(root, space).get("UploadId")
        if not upload:
            raise self.client.violation(request, "an upload without an id")
        return upload

    async def put_part(self, path: str, key: str, upload: str, number: int, body: Body) -> Part:
        """Store a part; sent again in place while the failure may pass."""
        headers = {"x-amz-checksum-sha256": await _base64(body)} if self.checksums else {}
        query = {"partNumber": str(number), "uploadId": upload}
        request = self.request("PUT", "write", path, "s3:PutObject", key=key, query=query, headers=headers, body=body)

        async def once() -> Part:
            answer = await self.client.call(request)
            etag = etag_of(answer.headers.get("etag"))
            if etag is None:
                raise self.client.violation(request, f"part {number} was taken without an ETag")
            return Part(number, etag, body.size, headers.get("x-amz-checksum-sha256"))

        return await self.client.retry.run(once)

    async def copy_part(
        self, path: str, key: str, upload: str, number: int, source: Mapping[str, str], size: int
    ) -> Part:
        """Store a part out of another object: `source` holds the x-amz-copy-source headers."""
        query = {"partNumber": str(number), "uploadId": upload}
        request = self.request("PUT", "copy", path, "s3:PutObject", key=key, query=query, headers=source)

        async def once() -> Part:
            answer = await self.client.call(request)
            # S3Proxy calls it as the copy of an object.
            found = texts(*self.client.xml(request, answer, "CopyPartResult", "CopyObjectResult"))
            etag = etag_of(found.get("ETag"))
            if etag is None:
                raise self.client.violation(request, f"part {number} was copied without an ETag")
            return Part(number, etag, size)

        return await self.client.retry.run(once)

    async def complete(
        self,
        path: str,
        key: str,
        upload: str,
        parts: Sequence[Part],
        headers: Mapping[str, str],
        allow: Collection[str],
    ) -> Answer:
        """Publish the parts as one object, in one try; a success has been read through (`xml`)."""
        rows = []
        for part in parts:
            row = [("PartNumber", str(part.number)), ("ETag", f'"{part.etag}"')]
            if part.sha256:
                row.append(("ChecksumSHA256", part.sha256))
            rows.append(element("Part", row))
        space = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
        body = f"<CompleteMultipartUpload{space}>{''.join(rows)}</CompleteMultipartUpload>"
        size = sum(part.size for part in parts)
        request = self.request(
            "POST",
            "write",
            path,
            "s3:PutObject",
            key=key,
            query={"uploadId": upload},
            headers={"content-type": "application/xml", "x-amz-mp-object-size": str(size), **headers},
            body=Body([body.encode()]),
        )
        answer = await self.client.call(request, allow=allow)
        if answer.code:
            return answer
        try:
            found = texts(*self.client.xml(request, answer, "CompleteMultipartUploadResult"))
        except AlreadyExists:
            return replace(answer, code="PreconditionFailed")
        return replace(answer, headers=with_etag(answer.headers, found.get("ETag")))

    async def abort_upload(self, path: str, key: str, upload: str) -> None:
        """Remove an upload and its parts; one that is gone is fine, and what the store cannot remove is logged."""
        request = self.request("DELETE", "abort", path, "s3:AbortMultipartUpload", key=key, query={"uploadId": upload})
        allow = ("NoSuchUpload", "NoSuchKey", "NotFound", *_LACKING)
        answer = await self.client.call(request, allow=allow, repeat=True)
        if answer.code in _LACKING:
            log.warning("upload %s of %r was left behind: this store cannot abort uploads", upload, key)

    async def list_parts(self, path: str, key: str, upload: str) -> dict[int, Part] | None:
        """Number → part; None: there is no such upload, or a store (s3rver) that cannot list what it has of one."""
        found: dict[int, Part] = {}
        marker = "0"
        while True:
            query = {"uploadId": upload, "part-number-marker": marker, "max-parts": "1000"}
            request = self.request("GET", "resume", path, "s3:ListMultipartUploadParts", key=key, query=query)
            answer = await self.client.call(request, allow=("NoSuchUpload", "NoSuchKey", *_LACKING), repeat=True)
            if answer.code:
                return None
            root, space = self.client.xml(request, answer, "ListPartsResult", "ListPartsResponse")
            for item in root.iter(f"{space}Part"):
                row = texts(item, space)
                number, size = number_of(row.get("PartNumber")), number_of(row.get("Size"))
                if number is None or size is None:
                    raise self.client.violation(request, "a part without a number or a size")
                found[number] = Part(number, etag_of(row.get("ETag")) or "", size, row.get("ChecksumSHA256"))
            page = texts(root, space)
            if page.get("IsTruncated") != "true":
                return found
            if page.get("NextPartNumberMarker", marker) == marker:
                raise self.client.violation(request, "the list of parts does not go on")
            marker = page["NextPartNumberMarker"]


def _guess(path: str) -> str:
    found, encoding = _TYPES.guess_type(path.rpartition("/")[2], strict=False)
    if encoding is not None:
        return {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}.get(
            encoding, "application/octet-stream"
        )
    return found or "application/octet-stream"


async def _base64(body: Body) -> str:
    return base64.b64encode(bytes.fromhex(await body.sha256())).decode()
