"""One signed HTTP request to NetStorage: pace, connections, errors, retries."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from crossdock.errors import ProtocolViolation, Throttled
from crossdock.storage.base import not_open
from crossdock.storage.http import FAILURES, TooLong, proxy_of, trusted, whole
from crossdock.storage.netstorage.faults import Place, failure, refused
from crossdock.storage.netstorage.settings import NetStorageSettings
from crossdock.storage.netstorage.signing import Signer
from crossdock.storage.netstorage.wire import Answered, action_of, parse_xml, quoted
from crossdock.storage.rate import TokenBucket
from crossdock.storage.retry import RetryPolicy

__all__ = ["Answer", "Client", "Request"]

LARGEST_ANSWER = 64 * 1024 * 1024
"""Bytes of XML that are read at most: what Akamai gives for the listing of one folder."""
_READ_BUFFER = 256 * 1024
_AT_ONCE = 256 * 1024
"""Bytes of XML that take a few milliseconds; more are read in a thread."""
_LONGEST_PAUSE = 60
"""Seconds for which one answer may hold up the requests that come after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One action. `name` is the whole path there, from the CP code on; `operation` and `path` are for messages."""

    method: Literal["GET", "POST", "PUT"]
    operation: str
    path: str
    name: str
    action: str
    parameters: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: a success, or one of the statuses that the caller allowed."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def good(self) -> bool:
        return self.status < 300


class Client:
    """Signed HTTP to one account. Safe to share between tasks of one event loop."""

    def __init__(self, settings: NetStorageSettings, endpoint: str) -> None:
        self.settings, self.endpoint, self.service = settings, endpoint, settings.service
        self.retry = RetryPolicy(attempts=5, seconds=120)
        """For what is repeated here because nobody else can: stored files, later pages, publication."""
        rate = settings.requests_per_second
        self._pace = TokenBucket(rate) if rate else None
        self._signer: Signer | None = None
        self._session: aiohttp.ClientSession | None = None
        self._proxy: str | None = None
        self._accepted: Request | None = None
        """The last question that was answered: as long as it is, the key is right."""
        self._not_before = 0.0

    async def open(self) -> None:
        """Raises `ConfigError`: the secret or `ca_file` cannot be read. Safe to repeat; contacts nobody."""
        if self._session is not None:
            return
        settings = self.settings
        key = await asyncio.to_thread(settings.key.reveal)
        self._signer = Signer(settings.key_name, key)
        self._proxy = proxy_of(urlsplit(self.service))
        tls = await asyncio.to_thread(trusted, settings.ca_file) if settings.tls else True
        # No limit: whoever calls has a slot, and needs one connection at a time.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls),
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=settings.connect_timeout, sock_read=settings.timeout
            ),
        )
        # On a connection that has died aiohttp would send a GET again by itself, with the signature already used.
        self._session._retry_connection = False

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def place(self, request: Request) -> Place:
        """What messages say of a request."""
        return Place(self.endpoint, request.operation, request.path, self.service)

    def signed(self, request: Request, **more: str | int) -> dict[str, str]:
        """Fresh signature headers."""
        if self._signer is None:
            raise not_open(self.endpoint, request.operation, request.path)
        action = action_of(request.action, **{**request.parameters, **more})
        return self._signer.headers(quoted(request.name), action)

    async def send(self, request: Request, body: aiohttp.payload.Payload | None = None) -> aiohttp.ClientResponse:
        """One try, signed anew, up to the answer's headers; no redirect is followed. The caller ends the answer."""
        await self._turn()
        if self._session is None:
            raise not_open(self.endpoint, request.operation, request.path)
        headers = {"Accept-Encoding": "identity", **request.headers, **self.signed(request)}
        try:
            return await self._session.request(
                request.method,
                URL(self.service + quoted(request.name), encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
                proxy=self._proxy,
            )
        except FAILURES as error:
            raise failure(self.place(request), error) from error

    async def _turn(self) -> None:
        if self._pace is not None:
            await self._pace.take(1)
        wait = self._not_before - asyncio.get_running_loop().time()
        if wait > 0:
            await asyncio.sleep(wait)

    async def stream(
        self, request: Request, body: aiohttp.payload.Payload | None = None, *, allow: Collection[int] = ()
    ) -> tuple[aiohttp.ClientResponse | None, Answer]:
        """One try at an answer to be streamed: (the open response, its head), or (None, an allowed refusal)."""
        response = await self.send(request, body)
        if response.status < 300:
            self._note(request)
            return response, Answer(response.status, response.headers, b"")
        answer = Answer(response.status, response.headers, await self.body(request, response))
        if response.status == 404:
            # The key is looked at before the path is.
            self._note(request)
        if response.status in allow:
            return None, answer
        now = datetime.now(UTC)
        accepted = answer.status == 403 and await self._is_accepted()
        error = refused(self.place(request), answer.status, answer.headers, answer.body, now=now, accepted=accepted)
        if isinstance(error, Throttled) and error.retry_after:
            pause = min(error.retry_after, _LONGEST_PAUSE)
            self._not_before = max(self._not_before, asyncio.get_running_loop().time() + pause)
            # Whoever tries again waits here, with all the others.
            error.retry_after -= pause
        raise error

    def _note(self, request: Request) -> None:
        if request.method == "GET":
            self._accepted = request

    async def _is_accepted(self) -> bool:
        """Whether the key still is. A key that is not, and a right that is missing, get the same answer."""
        if self._accepted is None:
            return False
        response = await self.send(self._accepted)
        response.close()
        return response.status != 403

    async def body(self, request: Request, response: aiohttp.ClientResponse) -> bytes:
        """The rest of an answer, and the end of it. Raises `ProtocolViolation` above 64 MiB."""
        try:
            return await whole(response.content, LARGEST_ANSWER)
        except TooLong as error:
            raise self.violation(request, str(error)) from error
        except FAILURES as error:
            raise failure(self.place(request), error) from error
        finally:
            # After a failure another connection may reach another server.
            response.close() if response.status >= 400 and response.status != 404 else response.release()

    async def call(self, request: Request, *, allow: Collection[int] = (), repeat: bool = False) -> Answer:
        """The whole answer. `repeat`: tried again, with the policy, while the failure may pass."""

        async def once() -> Answer:
            response, answer = await self.stream(request, allow=allow)
            if response is None:
                return answer
            return Answer(answer.status, answer.headers, await self.body(request, response))

        return await self.retry.run(once) if repeat else await once()

    async def xml(self, request: Request, answer: Answer, root: Literal["stat", "list", "du"]) -> Answered:
        """The document of a success."""
        try:
            if len(answer.body) > _AT_ONCE:
                return await asyncio.to_thread(parse_xml, answer.body, root)
            return parse_xml(answer.body, root)
        except ValueError as error:
            raise self.violation(request, str(error)) from error

    def violation(self, request: Request, reason: str) -> ProtocolViolation:
        """NetStorage broke its own protocol."""
        return ProtocolViolation(
            reason,
            operation=request.operation,
            endpoint=self.endpoint,
            path=request.path,
            hint="check 'host': it may not be NetStorage's HTTP interface, or a proxy answers in its place",
        )
