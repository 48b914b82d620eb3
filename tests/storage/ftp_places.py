"""FTP servers that a test starts for itself, and the endpoints at them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import pytest

from crossdock.storage.ftp import FtpSettings
from crossdock.storage.storage import Storage
from tests.conftest import POOL, _unavailable
from tests.servers import FtpServer, Missing

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
