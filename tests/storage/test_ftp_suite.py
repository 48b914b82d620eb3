"""`StorageSuite` against the FTP servers, each in the strictest mode it has."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import ClassVar

import pytest

from crossdock.storage.ftp import FtpSettings
from crossdock.storage.storage import Storage
from crossdock.testing import FolderPeer, Peer, StorageSuite
from tests.servers import FtpServer, Proftpd, PureFtpd, Vsftpd


class FtpSuite(StorageSuite):
    # A line break would end the command.
    names_refused: ClassVar[frozenset[str]] = frozenset({"newline", "command after CRLF", "carriage return"})

    @pytest.fixture
    @abstractmethod
    def server(self) -> FtpServer: ...

    @pytest.fixture
    def scratch(self, server: FtpServer) -> Path:
        folder = server.folder / uuid.uuid4().hex
        folder.mkdir()
        return folder

    @pytest.fixture
    async def storage(self, server: FtpServer, scratch: Path) -> AsyncGenerator[Storage]:
        settings = FtpSettings.model_validate(server.settings(root=f"{server.root}{scratch.name}"))
        async with Storage(settings.backend("server")) as storage:
            yield storage

    @pytest.fixture
    def peer(self, storage: Storage, scratch: Path) -> Peer | None:
        return FolderPeer(scratch)


class TestVsftpd(FtpSuite):
    @pytest.fixture
    def server(self, vsftpd: Vsftpd) -> FtpServer:
        return vsftpd


class TestProftpd(FtpSuite):
    @pytest.fixture
    def server(self, proftpd: Proftpd) -> FtpServer:
        return proftpd


class TestPureFtpd(FtpSuite):
    @pytest.fixture
    def server(self, pureftpd: PureFtpd) -> FtpServer:
        return pureftpd
