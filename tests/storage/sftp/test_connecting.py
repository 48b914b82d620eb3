"""The way to a session: servers that hang up, stall, refuse, or speak something else before SFTP begins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from crossdock.errors import ConnectionFailed, ProtocolViolation, Throttled, TimedOut, Unsupported
from crossdock.storage.sftp import SftpSettings
from crossdock.storage.storage import Storage
from tests.servers.server import closed_ports
from tests.storage.sftp.fake_server import FakeServer, FakeSession, serving


@asynccontextmanager
async def port(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], *, connect_timeout: float = 30
) -> AsyncGenerator[SftpSettings]:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield SftpSettings.model_validate(
            {
                "host": "127.0.0.1",
                "port": server.sockets[0].getsockname()[1],
                "user": "tester",
                "password": "env:FAKE_PASSWORD",
                "host_key": "SHA256:" + "A" * 43,
                "connect_timeout": connect_timeout,
            }
        )


async def opened(settings: SftpSettings) -> None:
    async with Storage(settings.backend("fake")):
        pass


@pytest.mark.parametrize("banner", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"SSH-2.0-x"])
async def test_a_server_that_hangs_up_in_the_handshake(banner: bytes) -> None:
    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(banner)
        await writer.drain()
        writer.close()

    async with port(drop) as settings:
        with pytest.raises(Throttled) as caught:
            await opened(settings)
        assert caught.value.retryable and "max_connections" in str(caught.value)


@pytest.mark.parametrize(
    ("banner", "said", "exhausted"),
    [
        (b"", r"did not complete a connection in 0\.5 seconds", False),
        (b"SSH-2.0-OpenSSH_9.6\r\n", r"did not complete a connection in 0\.5 seconds", False),
        (b"x" * 3000, r"did not complete a connection in 0\.5 seconds", False),
        (b"220 welcome to FTP\r\n", "answers, but not as an SSH server does.* Next: check 'port'", True),
    ],
)
async def test_a_server_that_stalls(banner: bytes, said: str, exhausted: bool) -> None:
    release = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(banner)
        await release.wait()
        writer.close()

    async with port(stall, connect_timeout=0.5) as settings:
        with pytest.raises(TimedOut, match=said) as caught:
            await opened(settings)
        assert caught.value.exhausted is exhausted, "what speaks another protocol is not asked three times more"
        release.set()


@pytest.mark.parametrize("noise", [b"\0\xff\xfe" * 30_000, b"SSH-1.5-old\r\n", b"SSH-2.0-x\r\n" + b"\xff" * 64])
async def test_a_server_that_speaks_something_else(noise: bytes) -> None:
    release = asyncio.Event()

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(noise)
        await release.wait()
        writer.close()

    async with port(babble, connect_timeout=0.5) as settings:
        with pytest.raises((ProtocolViolation, Throttled, TimedOut, Unsupported)):
            await opened(settings)
        release.set()


async def test_nobody_listens() -> None:
    async with serving() as peer:
        settings = peer.settings()
    with closed_ports(1) as (port,), pytest.raises(ConnectionFailed, match=r"cannot connect to .*: Connection refused"):
        await opened(settings.model_copy(update={"port": port}))


async def test_no_such_host() -> None:
    settings = SftpSettings.model_validate({"host": "nowhere.invalid", "host_key": "SHA256:" + "A" * 43})
    with pytest.raises(ConnectionFailed, match=r"nowhere\.invalid"):
        await opened(settings)


class _NoSession(FakeServer):
    def session_requested(self) -> Any:
        return False


async def test_sessions_are_refused() -> None:
    async with serving(server=_NoSession) as peer:
        with pytest.raises(Throttled, match=r"opens no session: .* Next: .* whether the account may use SFTP"):
            await opened(peer.settings())
        assert peer.connections == [] or await _gone(peer)


async def _gone(peer: Any) -> bool:
    while peer.connections:
        await asyncio.sleep(0)
    return True


class _NoSubsystem(FakeSession):
    def subsystem_requested(self, subsystem: str) -> bool:
        return False


async def test_no_sftp_subsystem() -> None:
    class Shell(FakeServer):
        def session_requested(self) -> Any:
            return _NoSubsystem(self.peer.sftp)

    async with serving(server=Shell) as peer:
        with pytest.raises(Unsupported, match="no SFTP"):
            await opened(peer.settings())


async def test_what_is_no_ssh_server() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with port(http) as settings:
        with pytest.raises(Throttled, match="Next: check that this is an SSH server"):
            await opened(settings)


@pytest.mark.parametrize("asked", ["session", "subsystem"])
async def test_a_connection_lost_before_sftp_begins_is_tried_again(asked: str) -> None:
    class Dying(_NoSubsystem):
        def subsystem_requested(self, subsystem: str) -> bool:
            self.chan.get_connection().abort()
            return True

    class Fragile(FakeServer):
        def session_requested(self) -> Any:
            if asked == "session":
                self.conn.abort()
            return Dying(self.peer.sftp)

    async with serving(server=Fragile) as peer:
        with pytest.raises(Throttled) as caught:
            await opened(peer.settings())
        assert caught.value.retryable
