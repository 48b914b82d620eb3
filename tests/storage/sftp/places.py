"""The fake server as an endpoint."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from crossdock.storage.sftp import SftpSettings
from crossdock.storage.staging import is_temporary
from crossdock.storage.storage import Storage
from tests.storage.sftp.fake_server import FakeSftp, Peer, serving

DATA = os.urandom(700_001)
WHEN = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)


@asynccontextmanager
async def served(sftp: FakeSftp, **changes: object) -> AsyncGenerator[tuple[Storage, Peer]]:
    """The server's storage, and the server."""
    async with serving(sftp) as peer, Storage(peer.settings(**changes).backend("fake")) as storage:
        yield storage, peer


async def connects(settings: SftpSettings) -> None:
    """Raises why it does not."""
    async with Storage(settings.backend("fake")) as storage:
        assert (await storage.stat("")).kind == "dir"


def leftovers(sftp: FakeSftp) -> list[bytes]:
    """Names of temporaries."""
    return [name for name in sftp.files if is_temporary(name.decode())]
