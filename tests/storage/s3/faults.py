"""A proxy in front of a real S3 server that fails where a test tells it to."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

import aiohttp
from aiohttp import web
from yarl import URL

from tests.storage.s3.places import Server

__all__ = [
    "Fault",
    "FaultProxy",
    "Forward",
    "Upstream",
    "answer",
    "cut",
    "drop",
    "edit",
    "lose",
    "raw",
    "silence",
    "xml_error",
]


@dataclass
class Upstream:
    """What the real server answered."""

    status: int
    headers: dict[str, str]
    body: bytes


Forward = Callable[[], Awaitable[Upstream]]
Fault = Callable[[web.BaseRequest, Forward], Awaitable[web.StreamResponse]]


@dataclass
class _Rule:
    matches: Callable[[web.BaseRequest], bool]
    fault: Fault
    times: int


@dataclass
class FaultProxy:
    """Use as `async with`; then it is a `Server` like the one behind it. `seen` lists the requests it got."""

    upstream: Server
    rules: list[_Rule] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    deaf_to: str = ""
    """A header (lower case) that the real server is not told."""
    folded: Callable[[str], str] = str
    """What the real server is told instead of a request's path."""
    asked: Callable[[str], str] = str
    """And instead of its query."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.endpoint_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self.access_key, self.secret_key = self.upstream.access_key, self.upstream.secret_key
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    def fail(self, method: str, mark: str, fault: Fault, times: int = 1, *, without: str = "\n") -> None:
        """The next `times` requests with `mark` in method or URL (and not `without`) meet the fault."""

        def matches(request: web.BaseRequest) -> bool:
            return request.method == method and mark in request.raw_path and without not in request.raw_path

        self.rules.append(_Rule(matches, fault, times))

    def count(self, text: str) -> int:
        return sum(text in line for line in self.seen)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()
        self.seen.append(f"{request.method} {request.raw_path}")
        self.requests.append({name.lower(): value for name, value in request.headers.items()})

        async def forward() -> Upstream:
            async with self._session.request(
                request.method,
                URL(self.upstream.endpoint_url + self._folded(request.raw_path), encoded=True),
                headers=[(name, value) for name, value in request.headers.items() if name.lower() != self.deaf_to],
                data=io.BytesIO(body) if body else None,
                skip_auto_headers=("content-type",),
            ) as response:
                return Upstream(response.status, dict(response.headers), await response.read())

        for rule in self.rules:
            if rule.times and rule.matches(request):
                rule.times -= 1
                return await rule.fault(request, forward)
        return await _sent(request, await forward())

    def _folded(self, raw: str) -> str:
        path, mark, query = raw.partition("?")
        return self.folded(path) + mark + self.asked(query)


async def _sent(request: web.BaseRequest, found: Upstream, upto: int | None = None) -> web.StreamResponse:
    headers = {name: value for name, value in found.headers.items() if name.lower() not in _HOP}
    response = web.StreamResponse(status=found.status, headers=headers)
    length = next((value for name, value in found.headers.items() if name.lower() == "content-length"), None)
    response.content_length = int(length) if length else len(found.body)
    await response.prepare(request)
    if request.method != "HEAD":
        await response.write(found.body[:upto])
    if upto is not None:
        assert request.transport is not None
        request.transport.close()
    return response


_HOP = {"connection", "transfer-encoding", "content-length", "date", "server", "keep-alive"}


def answer(status: int, body: bytes = b"", **headers: str) -> Fault:
    """Answer this instead; the real server is not asked."""

    async def fault(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
        found = {name.replace("_", "-"): value for name, value in headers.items()}
        return await _sent(request, Upstream(status, found, body))

    return fault


def xml_error(status: int, code: str, message: str = "", **headers: str) -> Fault:
    """An S3 error document."""
    return answer(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode(), **headers)


def cut(after: int) -> Fault:
    """The real answer, cut off after so many bytes of its body."""

    async def fault(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
        return await _sent(request, await forward(), upto=after)

    return fault


def lose() -> Fault:
    """The real server does it; its answer never arrives."""

    async def fault(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
        await forward()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return fault


def raw(head: bytes) -> Fault:
    """These bytes, whatever HTTP has to say to them; then the connection is closed."""

    async def fault(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(head)
        request.transport.close()
        return web.Response()

    return fault


def edit(change: Callable[[Upstream], None]) -> Fault:
    """The real answer, changed."""

    async def fault(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
        found = await forward()
        change(found)
        return await _sent(request, found)

    return fault


def silence(until: asyncio.Event) -> Fault:
    """No answer until the event."""

    async def fault(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
        await until.wait()
        return await _sent(request, Upstream(500, {}, b""))

    return fault


def drop(found: Upstream, name: str) -> None:
    """A header, whatever its case."""
    for each in [each for each in found.headers if each.lower() == name]:
        del found.headers[each]
