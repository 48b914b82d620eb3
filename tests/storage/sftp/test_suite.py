from __future__ import annotations

import os
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from crossdock.storage.sftp import SftpSettings
from crossdock.storage.storage import Storage
from crossdock.testing import FolderPeer, Peer, StorageSuite
from crossdock.testing.fault_sftp import FaultySftpServer
from tests.servers import OpenSSH


class TestOpenSSH(StorageSuite):
    @pytest.fixture
    def scratch(self, openssh: OpenSSH) -> Path:
        folder = openssh.folder / uuid.uuid4().hex
        folder.mkdir()
        return folder

    @pytest.fixture
    async def storage(self, openssh: OpenSSH, scratch: Path) -> AsyncGenerator[Storage]:
        settings = SftpSettings.model_validate(openssh.settings(root=os.fspath(scratch)))
        async with Storage(settings.backend("server")) as storage:
            yield storage

    @pytest.fixture
    def peer(self, storage: Storage, scratch: Path) -> Peer | None:
        return FolderPeer(scratch)


class TestAsyncssh(StorageSuite):
    """The server of `crossdock.testing`, while it is told no faults."""

    without: frozenset[str] = frozenset()

    @pytest.fixture
    async def storage(self, tmp_path: Path) -> AsyncGenerator[Storage]:
        async with FaultySftpServer(tmp_path, without=self.without) as server:
            settings = SftpSettings.model_validate(
                {
                    "host": server.host,
                    "port": server.port,
                    "user": server.user,
                    "private_key": f"file:{server.key}",
                    "host_key": server.fingerprint,
                    "root": "/",
                }
            )
            async with Storage(settings.backend("server")) as storage:
                yield storage

    @pytest.fixture
    def peer(self, storage: Storage, tmp_path: Path) -> Peer | None:
        return FolderPeer(tmp_path)


class TestBareServer(TestAsyncssh):
    """A server without one extension of OpenSSH's, as many partners' are."""

    without = frozenset({"posix-rename", "hardlink", "fsync", "limits", "statvfs", "fstatvfs", "lsetstat", "copy-data"})
