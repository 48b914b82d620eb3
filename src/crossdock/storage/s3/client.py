"""One HTTP request to the store: signing, connections, stalls, errors, retries."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import socket
import ssl
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from yarl import URL

from crossdock.errors import ConfigError, ProtocolViolation, located
from crossdock.storage.base import Backend, not_open
from crossdock.storage.http import FAILURES, TooLong, proxy_of, trusted, whole
from crossdock.storage.retry import RetryPolicy
from crossdock.storage.s3.bulk import Bulk, BulkResponse
from crossdock.storage.s3.credentials import CredentialSource, Keys
from crossdock.storage.s3.faults import Place, Refusal, failure, refusal_of, refused
from crossdock.storage.s3.request import Answer, Body, Request
from crossdock.storage.s3.settings import S3Settings, amazon_url
from crossdock.storage.s3.wire import parse_xml, quoted
from crossdock.storage.sockets import keep_pace

__all__ = ["Client", "Response"]

Response = aiohttp.ClientResponse | BulkResponse
"""An answer with its body still to be read: `status`, `headers`, `content.iter_any()`, `release()`, `close()`."""

LARGEST_ANSWER = 16 * 1024 * 1024
"""Bytes of XML that are read at most."""
_PIECE = 64 * 1024
"""Bytes that may take `timeout` to be sent."""
_MOST_LARGE = 16
_READ_BUFFER = 256 * 1024
_DISPENSABLE = frozenset({"x-amz-mp-object-size", "x-amz-copy-if-match"})
"""Headers that an answer is surer with, left out where they are refused: Backblaze names those it does not take."""
_AS_IT_IS = {"Accept-Encoding": "identity"}
"""Not signed, as proxies (Cloudflare's) and Google's store change it on the way."""
_PACKED = {"Accept-Encoding": "gzip, br"}
"""Else Google's store unpacks what was stored with `Content-Encoding: gzip`, and Cloudflare's also "br"."""
_OBJECT = {"versionId"}
"""What the query of a request for an object's bytes may have."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTHS = {"content-length", "content-range"}
_NOTHING = hashlib.sha256(b"").hexdigest()
_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class _Signer(S3SigV4Auth):  # type: ignore[misc]
    """Signs with a payload hash that is already known, and picks the headers once, where botocore does so twice."""

    def headers_to_sign(self, request: Any) -> Any:
        if "headers" not in request.context:
            request.context["headers"] = super().headers_to_sign(request)
        return request.context["headers"]

    def payload(self, request: Any) -> str:
        found: str = request.context["sha256"]
        return found


class _Payload(aiohttp.payload.Payload):
    """A `Body` on its way out, given up after `timeout` seconds without progress."""

    def __init__(self, body: Body, timeout: float) -> None:
        super().__init__(body)
        self._size = body.size
        self._body, self._timeout = body, timeout

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._body.chunks).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        transport = getattr(writer, "transport", None)
        if transport is not None and (connection := transport.get_extra_info("socket")) is not None:
            keep_pace(connection, _PIECE // 2)
        for chunk in self._body.chunks:
            for start in range(0, len(chunk), _PIECE):
                async with asyncio.timeout(self._timeout):
                    await writer.write(chunk if len(chunk) <= _PIECE else memoryview(chunk)[start : start + _PIECE])


class Client:
    """Signed HTTP to one store. Safe to share between tasks of one event loop."""

    def __init__(self, settings: S3Settings, backend: Backend) -> None:
        self.settings = settings
        self.retry = RetryPolicy(attempts=5, seconds=120)
        """For what is repeated here because nobody else can: parts, ranges, pages, publication."""
        self.region = "us-east-1"
        self.amazon = settings.amazon
        self.service = settings.service_url or ""
        self._virtual = not self.service
        self.endpoint = backend.endpoint
        self.credentials = CredentialSource(settings, backend.error)
        self._session: aiohttp.ClientSession | None = None
        self._bulk: Bulk | None = None
        self._signer: tuple[Keys, _Signer] | None = None
        self._heads_apart = False
        # Set once the store (Swift's eventlet) sends a last chunk after its answer to a HEAD, at which aiohttp fails.
        self._unknown: set[str] = set()
        """Of `_DISPENSABLE`, what the store has refused."""
        self._with_md5 = False
        # Set once the store has refused a body without Content-MD5, as they do where objects are locked.
        self.unpacks = False
        """The store was seen to unpack what it sends."""
        self._lengthless = self.amazon
        # Set if lengths are left out for another reason than that.
        self._proxies: dict[str, str | None] = {}
        """Host and port → what the environment said when they were first asked."""

    async def open(self) -> None:
        """Raises `ConfigError` for a bad `ca_file`. Safe to repeat."""
        if self._session is not None:
            return
        self.region = await self.credentials.region()
        self.service = self.service or amazon_url(self.region)
        self._proxies = {}
        settings = self.settings
        tls = await asyncio.to_thread(self._tls)
        # One account's connections, in two pools.
        large = min(settings.max_connections // 4, _MOST_LARGE)
        connector = aiohttp.TCPConnector(limit=settings.max_connections - large, ssl=tls)
        if large:
            self._bulk = Bulk(
                self.service,
                tls if isinstance(tls, ssl.SSLContext) else None,
                limit=large,
                timeout=settings.timeout,
                connect_timeout=settings.connect_timeout,
            )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            # One that is sent has to be signed (Signature V4), which Ceph 20 insists on.
            skip_auto_headers=("Content-Type",),
            read_bufsize=_READ_BUFFER,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=settings.connect_timeout, sock_read=settings.timeout
            ),
        )

    def _tls(self) -> ssl.SSLContext | bool:
        file = self.settings.ca_file or os.environ.get("AWS_CA_BUNDLE")
        if not self.service.startswith("https:"):
            return True
        return trusted(file)

    async def close(self) -> None:
        session, self._session = self._session, None
        bulk, self._bulk = self._bulk, None
        if bulk is not None:
            bulk.close()
        if session is not None:
            await session.close()

    def place(self, request: Request) -> Place:
        """What messages say of a request. Whoever names a version needs another right."""
        action = request.action
        if "versionId" in request.query and "Version" not in action:
            action = action.replace("Object", "ObjectVersion")
        return Place(
            self.endpoint, request.operation, request.path, request.bucket, action, self.service, request.method
        )

    def url(self, request: Request) -> str:
        """Where a request goes, with every byte of the key as it is."""
        parts = urlsplit(self.service)
        style = self.settings.addressing
        if style == "auto":
            style = "virtual" if self._virtual and "." not in request.bucket else "path"
        if style == "virtual":
            base = f"{parts.scheme}://{request.bucket}.{parts.netloc}{parts.path}/"
        else:
            base = f"{parts.scheme}://{parts.netloc}{parts.path}/{quoted(request.bucket)}"
            base += "/" if request.key else ""
        query = "&".join(
            f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(request.query.items())
        )
        return f"{base}{quoted(request.key)}{'?' if query else ''}{query}"

    async def send(self, request: Request) -> Response:
        """One try, up to the answer's headers; no redirect is followed. The caller closes or releases the answer."""
        if self._session is None:
            raise not_open(self.endpoint, request.operation, request.path)
        url = self.url(request)
        headers = await self._signed(request, url)
        for name, value in headers.items():
            if _CONTROL.search(value):
                raise ConfigError(
                    f"{request.operation} {located(self.endpoint, request.path)}: a header cannot have a line break, "
                    f"nor another control character, as {name} does",
                    hint="look for it in this endpoint's settings, its credentials and AWS_REGION",
                )
        host = urlsplit(url)
        if host.netloc not in self._proxies:
            self._proxies[host.netloc] = proxy_of(host)
        proxy = self._proxies[host.netloc]
        bulk = None if proxy else self._bulk
        # What TLS opens comes in pieces of 16 KiB: asking for each in a thread is slower than the event loop.
        apart = request.large and bool(request.body or host.scheme == "http")
        apart = apart or (request.method == "HEAD" and self._heads_apart)
        try:
            if bulk is not None and apart:
                return await bulk.request(request.method, url, headers, request.body.chunks if request.body else ())
            response = await self._session.request(
                request.method,
                URL(url, encoded=True),
                headers=headers,
                data=None if request.body is None else _Payload(request.body, self.settings.timeout),
                allow_redirects=False,
                proxy=proxy,
            )
        except FAILURES as error:
            if isinstance(error, aiohttp.ClientResponseError) and request.method == "HEAD" and bulk and not apart:
                self._heads_apart = True
                return await self.send(request)
            raise failure(self.place(request), error) from error
        _acknowledge(response)
        return response

    async def _signed(self, request: Request, url: str) -> dict[str, str]:
        headers = {name: value for name, value in request.headers.items() if name not in self._unknown}
        # What is copied may lie in another's bucket.
        if self.settings.expected_bucket_owner and request.bucket == self.settings.bucket:
            headers["x-amz-expected-bucket-owner"] = self.settings.expected_bucket_owner
        if self.settings.requester_pays:
            headers["x-amz-request-payer"] = "requester"
        if self._with_md5 and request.body:
            headers["content-md5"] = await request.body.md5()
        coding = _PACKED if request.packed else _AS_IT_IS
        keys = await self.credentials.current()
        if keys is None:
            return headers | coding
        if self._signer is None or self._signer[0] is not keys:
            self._signer = (keys, _Signer(keys, "s3", self.region))
        draft = AWSRequest(request.method, url, headers=headers)
        draft.context["sha256"] = await request.body.sha256() if request.body else _NOTHING
        self._signer[1].add_auth(draft)
        return dict(draft.headers.items()) | coding

    async def stream(self, request: Request, *, allow: Collection[str] = ()) -> tuple[Response | None, Answer]:
        """One try at an answer to be streamed: (the open response, its head), or (None, an allowed refusal)."""
        renewed = False
        while True:
            response = await self.send(request)
            if response.status == 200 and self._may_be_unpacked(request, response.headers):
                response = await self._stored(request, response)
            if 200 <= response.status < 300:
                return response, Answer(response.status, response.headers, b"")
            refusal = refusal_of(response.status, response.headers, await self.body(request, response))
            if request.method == "HEAD" and response.status in (400, 403):
                refusal = await self._reason(request, refusal)
            unknown = self._refused_headers(request, refusal)
            if refusal.code == "ExpiredToken" and not renewed:
                renewed = True
                self.credentials.renew()
            elif unknown:
                self._unknown |= unknown
            elif request.body and not self._with_md5 and refusal.wants_md5:
                self._with_md5 = True
            elif refusal.code in allow:
                return None, Answer(refusal.status, refusal.headers, b"", refusal.code)
            else:
                raise refused(self.place(request), refusal)

    def _refused_headers(self, request: Request, refusal: Refusal) -> set[str]:
        """Which of those that can be left out the store does not take: the ones that it names, or maybe any."""
        sent = {name for name in _DISPENSABLE - self._unknown if name in request.headers}
        # The second is how Cloudflare's store says it; Alibaba's names none.
        words = "(?i)Unsupported header '{0}'|Header '{0}' .*not implemented"
        named = {name for name in sent if re.search(words.format(name), refusal.message)}
        return named or (sent if refusal.message.startswith("A header you provided implies") else set())

    def _may_be_unpacked(self, request: Request, headers: Mapping[str, str]) -> bool:
        if request.packed or request.method not in ("GET", "HEAD") or not request.key or request.query.keys() - _OBJECT:
            return False
        coding = headers.get("content-encoding")
        if headers.get("x-goog-stored-content-encoding", "identity") not in ("identity", coding):
            return True
        return not self._lengthless and coding is None and not _LENGTHS & {name.lower() for name in headers}

    async def _stored(self, request: Request, response: Response) -> Response:
        """The object as it is stored, if what came was unpacked on the way; else what came."""
        response.close()
        found = await self.send(replace(request, packed=True))
        headers = found.headers
        if found.status >= 300 or (
            headers.get("content-encoding") in ("gzip", "br")
            and _LENGTHS & {name.lower() for name in headers}
            # Weak: packed on the way.
            and not headers.get("etag", "").startswith("W/")
        ):
            self.unpacks = self.unpacks or found.status < 300
            return found
        found.close()
        self._lengthless = True
        return await self.send(request)

    async def _reason(self, request: Request, refusal: Refusal) -> Refusal:
        """Of a HEAD, which is refused without one: whether it is the keys is what the same, asked by GET, says."""
        asked = replace(request, method="GET", headers={**request.headers, "range": "bytes=0-0"})
        response = await self.send(asked)
        if response.status < 400:
            response.close()
            return refusal
        found = refusal_of(response.status, response.headers, await self.body(asked, response))
        return found if found.of_keys else refusal

    async def body(self, request: Request, response: Response) -> bytes:
        """The rest of an answer, and the end of it. Raises `ProtocolViolation` above 16 MiB."""
        try:
            return await whole(response.content, LARGEST_ANSWER)
        except TooLong as error:
            raise self.violation(request, str(error)) from error
        except FAILURES as error:
            raise failure(self.place(request), error) from error
        finally:
            # After a server's error another connection may reach another server.
            response.close() if response.status >= 500 else response.release()

    async def call(self, request: Request, *, allow: Collection[str] = (), repeat: bool = False) -> Answer:
        """The whole answer. `repeat`: tried again, with the policy, while the failure may pass."""

        async def once() -> Answer:
            response, answer = await self.stream(request, allow=allow)
            if response is None:
                return answer
            return Answer(answer.status, answer.headers, await self.body(request, response))

        return await self.retry.run(once) if repeat else await once()

    def xml(self, request: Request, answer: Answer, *roots: str) -> tuple[ElementTree.Element, str]:
        """The document of a success; an error inside of it (status 200 with `<Error>`) is raised as such.

        Listings are read strictly, as a key has to be right there, unless their keys are encoded.
        """
        lenient = not roots[0].startswith("List") or b"<EncodingType>url<" in answer.body
        try:
            found, space = parse_xml(answer.body, *roots, lenient=lenient)
        except ValueError as error:
            raise self.violation(request, str(error)) from error
        if found.tag.endswith("Error"):
            raise refused(self.place(request), refusal_of(answer.status, answer.headers, answer.body))
        return found, space

    def violation(self, request: Request, reason: str) -> ProtocolViolation:
        """The store broke its own protocol."""
        return ProtocolViolation(
            reason,
            operation=request.operation,
            endpoint=self.endpoint,
            path=request.path,
            hint="check 'endpoint_url': it may not be an S3 service, or a proxy answers in its place",
        )


def _acknowledge(response: aiohttp.ClientResponse) -> None:
    """Acknowledge the headers at once.

    A server that sends headers and body apart, with Nagle's algorithm on (Ceph), otherwise waits for our delayed
    acknowledgement: 40 ms for every small file.
    """
    connection = response.connection
    if _QUICK_ACK is None or connection is None or connection.transport is None:
        return
    sock = connection.transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        try:
            sock.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
        except OSError:
            pass
