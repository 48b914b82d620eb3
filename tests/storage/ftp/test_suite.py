"""`StorageSuite` whole against the FTP servers: plain, under explicit and, where they know it, under implicit TLS.

Under TLS vsftpd and ProFTPD require that data connections take over the session. A server runs once per worker.
"""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from crossdock.errors import InvalidPath
from crossdock.storage.ftp import FtpSettings
from crossdock.storage.storage import Storage
from crossdock.testing import FolderPeer, Peer, StorageSuite
from crossdock.testing.fault_ftp import FaultyFtpServer
from crossdock.testing.storage.names import NAMES
from tests.conftest import running
from tests.servers import FtpServer, Proftpd, PureFtpd, Vsftpd
from tests.servers.pyftpd import Pyftpd


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


class TestVsftpdPlain(TestVsftpd):
    @pytest.fixture(scope="class")
    @classmethod
    def vsftpd(cls, request: pytest.FixtureRequest) -> Iterator[Vsftpd]:
        with running(request.config, Vsftpd("none")) as server:
            yield server


class TestVsftpdImplicitTls(TestVsftpd):
    @pytest.fixture(scope="class")
    @classmethod
    def vsftpd(cls, request: pytest.FixtureRequest) -> Iterator[Vsftpd]:
        with running(request.config, Vsftpd("implicit")) as server:
            yield server


class TestProftpd(FtpSuite):
    @pytest.fixture
    def server(self, proftpd: Proftpd) -> FtpServer:
        return proftpd

    @pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
    async def test_names_of_folders(self, storage: Storage, peer: Peer | None, name: str) -> None:
        """Files may be called so; of a folder whose name has an asterisk the server wants nothing to know."""
        if "*" not in name:
            await super().test_names_of_folders(storage, peer, name)
            return
        with pytest.raises(InvalidPath):
            await storage.write_bytes(f"{name}/file", b"x")
        assert await self.names(storage, peer) == set()


class TestProftpdPlain(TestProftpd):
    @pytest.fixture(scope="class")
    @classmethod
    def proftpd(cls, request: pytest.FixtureRequest) -> Iterator[Proftpd]:
        with running(request.config, Proftpd("none")) as server:
            yield server


class TestProftpdImplicitTls(TestProftpd):
    @pytest.fixture(scope="class")
    @classmethod
    def proftpd(cls, request: pytest.FixtureRequest) -> Iterator[Proftpd]:
        with running(request.config, Proftpd("implicit")) as server:
            yield server


class TestProftpdWithDigests(TestProftpd):
    """HASH, XSHA256 and their like, which decide on an upload."""

    @pytest.fixture(scope="class")
    @classmethod
    def proftpd(cls, request: pytest.FixtureRequest) -> Iterator[Proftpd]:
        with running(
            request.config, Proftpd("explicit", config=("LoadModule mod_digest.c", "DigestEngine on"))
        ) as server:
            yield server

    async def test_the_server_offers_them(self, storage: Storage) -> None:
        assert "sha256" in storage.capabilities.digests


class TestPureFtpd(FtpSuite):
    names_refused = FtpSuite.names_refused | {
        # Taken for paths of Windows.
        "backslashes upwards",
        "drive",
        "UNC",
        # Stored under another name, so that they are not sent.
        "tab",
        "escape sequence",
        "delete character",
        "ends with space",
        "not UTF-8",
    }

    def refuses(self, storage: Storage, name: str) -> bool:
        return name.endswith(" ") or super().refuses(storage, name)

    @pytest.fixture
    def server(self, pureftpd: PureFtpd) -> FtpServer:
        return pureftpd


class TestPureFtpdPlain(TestPureFtpd):
    @pytest.fixture(scope="class")
    @classmethod
    def pureftpd(cls, request: pytest.FixtureRequest) -> Iterator[PureFtpd]:
        with running(request.config, PureFtpd("none")) as server:
            yield server


class _Plain(StorageSuite):
    names_refused = FtpSuite.names_refused

    async def opened(self, host: str, port: int, secret: Path, **more: str) -> AsyncGenerator[Storage]:
        secret.touch(0o600)
        secret.write_text("secret")
        settings = FtpSettings.model_validate(
            {"type": "ftp", "host": host, "port": port, "user": "tester", "password": f"file:{secret}", **more}
        )
        async with Storage(settings.backend("server")) as storage:
            yield storage

    @pytest.fixture
    def scratch(self, tmp_path: Path) -> Path:
        folder = tmp_path / "home"
        folder.mkdir()
        return folder

    @pytest.fixture
    def peer(self, storage: Storage, scratch: Path) -> Peer | None:
        return FolderPeer(scratch)


@pytest.fixture(scope="module")
def pyftpd() -> Iterator[Pyftpd]:
    with Pyftpd() as server:
        yield server


class TestPyftpdlib(_Plain):
    @pytest.fixture
    def scratch(self, pyftpd: Pyftpd) -> Path:
        folder = pyftpd.folder / uuid.uuid4().hex
        folder.mkdir()
        return folder

    # What it cannot decode it would store under another name.
    names_refused = _Plain.names_refused | {"not UTF-8", "Latin-1"}

    @pytest.fixture
    async def storage(self, pyftpd: Pyftpd, scratch: Path, tmp_path: Path) -> AsyncGenerator[Storage]:
        async for storage in self.opened(pyftpd.host, pyftpd.port, tmp_path / "secret", root=scratch.name):
            yield storage


class TestBareServer(_Plain):
    """A server without MLSD, MFMT and a FEAT that says more than SIZE, MDTM and REST, as many partners' are."""

    @pytest.fixture
    async def storage(self, scratch: Path, tmp_path: Path) -> AsyncGenerator[Storage]:
        features = ("SIZE", "MDTM", "REST STREAM")
        async with FaultyFtpServer(scratch, features=features, greeting="(vsFTPd, as it were)") as server:
            async for storage in self.opened(server.host, server.port, tmp_path / "secret"):
                yield storage
