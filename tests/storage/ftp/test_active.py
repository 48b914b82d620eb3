"""Active mode, in which the server connects to this machine, and both modes over IPv6."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import (
    ConnectionFailed,
    CrossdockError,
)
from crossdock.storage.ftp import FtpSettings, data
from crossdock.storage.storage import Storage
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.conftest import running
from tests.servers import FtpServer, Proftpd, PureFtpd, Vsftpd
from tests.storage.ftp.places import backend_of, opened, round_trip


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("tls", ["none", "explicit"])
@pytest.mark.parametrize("kind", [Vsftpd, Proftpd, PureFtpd], ids=lambda kind: kind.name)
async def test_active_mode(request: pytest.FixtureRequest, kind: type[FtpServer], tls: Any, host: str) -> None:
    with running(request.config, kind(tls, host=host)) as server:
        async with opened(server, mode="active") as storage:
            await round_trip(storage)
            assert backend_of(storage).settings.mode == "active"


@pytest.mark.parametrize("tls", ["none", "explicit"])
@pytest.mark.parametrize("kind", [Vsftpd, Proftpd, PureFtpd], ids=lambda kind: kind.name)
async def test_passive_mode_over_ipv6(request: pytest.FixtureRequest, kind: type[FtpServer], tls: Any) -> None:
    with running(request.config, kind(tls, host="::1")) as server:
        async with opened(server) as storage:
            await round_trip(storage)


class Stranger:
    """Connects to every port that the server is invited to, before the server hears of it, and says what is not so.

    `seconds`: for which the server is waited for there; a sign-in may take longer.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bound: str, seconds: float = 30) -> None:
        self.connected: list[socket.socket] = []
        listen = data._listen

        def invaded(connection: Any) -> socket.socket:
            connection.settings = connection.settings.model_copy(update={"connect_timeout": seconds})
            asked = connection.wire.ask

            def ask(*commands: bytes) -> Any:
                port = int(commands[0].split(b"|")[3])
                one = socket.create_connection(("127.0.0.1", port), source_address=(bound, 0))
                one.sendall(b"forged")
                self.connected.append(one)
                return asked(*commands)

            connection.wire.ask = ask
            try:
                return listen(connection)
            finally:
                del connection.wire.ask

        monkeypatch.setattr(data, "_listen", invaded)

    def close(self) -> None:
        for one in self.connected:
            one.close()


async def test_active_mode_is_for_the_server_alone(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever else connects is turned away, and the server, which comes later, is served."""
    stranger = Stranger(monkeypatch, "127.0.0.2")
    with running(request.config, Vsftpd("none")) as server, closing(stranger):
        async with opened(server, mode="active") as storage:
            await round_trip(storage)
    assert len(stranger.connected) > 5


async def test_active_mode_where_only_a_stranger_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = Stranger(monkeypatch, "127.0.0.2", 0.2)
    (tmp_path / "name").write_bytes(b"data")
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("secret")
    with closing(stranger):
        async with FaultyFtpServer(tmp_path) as server:
            server.faults.replies = {"EPRT": "200 I will", "RETR": "150 it comes", "STOR": "150 send it"}
            settings = {"type": "ftp", "host": server.host, "port": server.port, "user": "tester", "mode": "active"}
            found = FtpSettings.model_validate(settings | {"password": f"file:{secret}"})
            async with Storage(found.backend("server")) as storage:
                with pytest.raises(ConnectionFailed, match=r"turned away: 127\.0\.0\.2.*leave mode out"):
                    await storage.read_bytes("name")
                with pytest.raises(ConnectionFailed, match=r"turned away: 127\.0\.0\.2"):
                    await storage.write_bytes("name", b"x")


async def test_active_mode_can_be_cancelled_while_the_server_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "name").write_bytes(b"data")
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("secret")
    async with FaultyFtpServer(tmp_path) as server:
        server.faults.replies = {"EPRT": "200 I will", "RETR": "150 it comes"}
        settings = {"type": "ftp", "host": server.host, "port": server.port, "user": "tester", "mode": "active"}
        found = FtpSettings.model_validate(settings | {"password": f"file:{secret}", "connect_timeout": 600})
        async with Storage(found.backend("server")) as storage:
            reading = asyncio.create_task(storage.read_bytes("name"))
            while not any(command.startswith("RETR") for command in server.commands):
                await asyncio.sleep(0.01)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(reading, 60)


async def test_modes_that_the_server_refuses(request: pytest.FixtureRequest) -> None:
    with running(request.config, Vsftpd("none", config=("port_enable=NO",))) as server:
        async with opened(server, mode="active") as storage:
            with pytest.raises(CrossdockError, match=r"port_enable=YES.*leave mode out"):
                await storage.write_bytes("name", b"x")
    with running(request.config, Vsftpd("none", config=("pasv_enable=NO",))) as server:
        async with opened(server) as storage:
            with pytest.raises(CrossdockError, match="pasv_enable=YES"):
                await storage.write_bytes("name", b"x")
