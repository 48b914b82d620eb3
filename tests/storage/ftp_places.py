"""FTP servers that a test starts for itself, and the endpoints at them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import pytest

from crossdock.storage.ftp import FtpSettings
from crossdock.storage.ftp.backend import FtpBackend
from crossdock.storage.storage import Storage
from tests.conftest import POOL, _unavailable
from tests.servers import FtpServer, Missing

DATA = bytes(range(256)) * 12288  # 3 MiB

S = TypeVar("S", bound=FtpServer)


@contextmanager
def running(request: pytest.FixtureRequest, server: S) -> Iterator[S]:
    """Skips the test, or fails it where the server is required, if the server cannot be had."""
    known = request.config.stash[POOL]
    try:
        known.start(server)
    except Missing as error:
        _unavailable(known, server.name, error)
    try:
        yield server
    finally:
        server.stop()


@asynccontextmanager
async def opened(server: FtpServer, **more: Any) -> AsyncGenerator[Storage]:
    settings = FtpSettings.model_validate(server.settings(timeout=5, connect_timeout=5) | more)
    async with Storage(settings.backend("server")) as storage:
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
