"""FTP servers that a test starts for itself, and the endpoints at them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from crossdock.storage.ftp import FtpSettings, tls
from crossdock.storage.ftp.backend import FtpBackend
from crossdock.storage.storage import Storage
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.servers import FtpServer

DATA = bytes(range(256)) * 16384  # 4 MiB
WHEN = datetime(2026, 1, 2, tzinfo=UTC)
FACTS = ("MLST type*;size*;modify*;", "MDTM", "MFMT", "SIZE", "REST STREAM", "UTF8")


@asynccontextmanager
async def opened(server: FtpServer, **more: Any) -> AsyncGenerator[Storage]:
    settings = FtpSettings.model_validate(server.settings(timeout=30, connect_timeout=30) | more)
    async with Storage(settings.backend("server")) as storage:
        yield storage


class Forgetful(tls.TlsLayer):
    """Every data connection comes with a TLS session of its own."""

    def data(self, connected: Any, attach: Any, control: Any) -> Any:
        fresh = self._contexts[1].wrap_socket(
            connected, server_hostname=self._name, suppress_ragged_eofs=False, do_handshake_on_connect=False
        )
        attach(fresh)
        fresh.do_handshake()
        return fresh


@asynccontextmanager
async def faulty(server: FaultyFtpServer, **more: Any) -> AsyncGenerator[Storage]:
    secret = server.folder.parent / "secret"
    secret.touch(0o600)
    if not secret.read_text():
        secret.write_text(server.password)
    settings = {"type": "ftp", "host": server.host, "port": server.port, "user": server.user}
    found = FtpSettings.model_validate(settings | {"password": f"file:{secret}", "timeout": 30} | more)
    async with Storage(found.backend("faulty")) as storage:
        yield storage


async def round_trip(storage: Storage) -> None:
    await storage.write_bytes("a b/large", DATA)
    await storage.write_bytes("a b/small", b"x")
    await storage.write_bytes("a b/small", b"xyz")
    assert await storage.read_bytes("a b/large", limit=len(DATA)) == DATA
    found = {entry.path: entry.size for entry in [entry async for entry in storage.scan("a b")]}
    assert found == {"a b/large": len(DATA), "a b/small": 3}
    await storage.rename("a b/small", "c/renamed")
    async with storage.read("a b/large", offset=len(DATA) - 10) as reader:
        assert await reader.read() == DATA[-10:]
    await storage.delete("a b/large")
    assert not await storage.exists("a b/large")


def backend_of(storage: Storage) -> FtpBackend:
    assert isinstance(storage.backend, FtpBackend)
    return storage.backend


async def prove(storage: Storage) -> None:
    """The connection has answered EPSV, and the server what was sent along with a transfer."""
    await storage.write_bytes("one", b"first")
    await storage.write_bytes("one", b"1")


def hang_up() -> None:
    """For `FaultyFtpServer.then`."""
    raise ConnectionResetError


def holds(server: FaultyFtpServer, *contents: bytes) -> None:
    """One file, that is one of `contents`, and nothing beside it."""
    assert [path.name for path in server.folder.iterdir()] == ["one"]
    assert (server.folder / "one").read_bytes() in contents
