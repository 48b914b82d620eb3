"""Requests to NetStorage: answers become errors, pace, connections, silence, TLS."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crossdock.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectionFailed,
    CrossdockError,
    NoSpace,
    NotFound,
    ProtocolViolation,
    Throttled,
    TimedOut,
)
from crossdock.storage.netstorage.faults import Place, refused
from crossdock.storage.registry import new_storage
from crossdock.storage.storage import Storage
from crossdock.testing import FakeNetStorage, NetStorageFault
from crossdock.testing.storage.base import content
from tests.engine.certificates import issued, self_signed
from tests.storage.netstorage.places import BIG, MIB, backend, settings_of

_NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, ProtocolViolation, True),
        (401, AuthenticationFailed, False),
        (404, NotFound, False),
        (408, TimedOut, True),
        (423, Throttled, True),
        (429, Throttled, True),
        (500, ConnectionFailed, True),
        (502, ConnectionFailed, True),
        (503, Throttled, True),
        (504, TimedOut, True),
        (507, NoSpace, True),
        (509, Throttled, True),
        (599, ConnectionFailed, True),
        (302, ProtocolViolation, True),
    ],
)
def test_answers_become_errors(status: int, kind: type[CrossdockError], retryable: bool) -> None:
    where = Place("akamai", "stat", "a/b", "https://x")
    error = refused(where, status, {"retry-after": "7"}, b"Some\nwords\x1b[0m", now=_NOW, accepted=True)
    assert type(error) is kind
    assert (error.retryable, error.retry_after) == (retryable, 7)
    assert f"stat akamai:a/b: HTTP {status}: Some words" in str(error)
    assert "\x1b" not in str(error)
    dated = {"retry-after": "Fri, 20 Nov 2026 12:00:09 GMT"}
    assert refused(where, status, dated, b"", now=_NOW, accepted=True).retry_after == 9


async def test_all_wait_where_one_was_told_to(server: FakeNetStorage, storage: Storage) -> None:
    server.faults.append(NetStorageFault(status=429, retry_after=1, times=1))
    began = time.monotonic()
    await storage.exists("a")
    await asyncio.gather(*(storage.exists(f"{number}") for number in range(5)))
    assert time.monotonic() - began >= 1
    assert server.requests["stat"] == 13


async def test_requests_are_paced(server: FakeNetStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second's worth at once, then no faster than the rate."""
    found = backend(server, monkeypatch, requests_per_second=50)
    async with Storage(found):
        began = time.monotonic()
        await asyncio.gather(*(found.calls.look(f"{number}", "stat") for number in range(75)))
        assert time.monotonic() - began >= 0.45
    assert server.requests["stat"] == 75


async def test_connections_are_kept_and_bounded(server: FakeNetStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(server, monkeypatch, max_connections=3)
    async with new_storage("akamai", settings) as storage:
        for number in range(10):
            await storage.write_bytes(f"d/{number}", content(1000))
        assert server.connections == 1
        await asyncio.gather(*(storage.write_bytes(f"e/{number}", content(MIB, number)) for number in range(12)))
    assert 1 < server.peak <= 3
    assert server.connections <= 3


@pytest.mark.parametrize(
    "rest", [b"Content-Length: " + b"9" * 5000, b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * (3 << 20)]
)
async def test_what_is_longer_than_anybody_means_is_no_request(server: FakeNetStorage, rest: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"PUT /123456/a HTTP/1.1\r\n" + rest + b"\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_a_silent_server_is_given_up(server: FakeNetStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    found = backend(server, monkeypatch, timeout=0.2)
    server.faults.append(NetStorageFault(how="stall", action="download"))
    async with Storage(found) as storage:
        with pytest.raises(TimedOut, match="went silent"):
            await storage.read_bytes("name")


async def test_https_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, certificate = self_signed(tmp_path)
    async with FakeNetStorage(tls=context) as server:
        async with Storage(backend(server, monkeypatch, host="localhost")) as storage:
            with pytest.raises(AuthenticationFailed, match="set 'ca_file'"):
                await storage.stat("name")
        async with Storage(backend(server, monkeypatch, host="localhost", ca_file=str(certificate))) as storage:
            await storage.write_bytes("name", BIG)
            assert await storage.read_bytes("name", limit=len(BIG)) == BIG
        with pytest.raises(ConfigError, match="cannot read the certificates"):
            await backend(server, monkeypatch, ca_file=str(tmp_path / "none")).open()


@pytest.mark.parametrize("file", ["authority.pem", "server.pem"])
async def test_whom_a_company_vouches_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """Its authority's certificate or the server's own, under every Python."""
    context, *_ = issued(tmp_path)
    async with FakeNetStorage(tls=context) as server:
        more = {"host": "localhost", "ca_file": str(tmp_path / file)}
        async with Storage(backend(server, monkeypatch, **more)) as storage:
            await storage.write_bytes("name", BIG)
            assert await storage.read_bytes("name", limit=len(BIG)) == BIG
        other = tmp_path / "other"
        other.mkdir()
        issued(other)
        more["ca_file"] = str(other / file)
        async with Storage(backend(server, monkeypatch, **more)) as storage:
            with pytest.raises(AuthenticationFailed, match="set 'ca_file'"):
                await storage.stat("name")
