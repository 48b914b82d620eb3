"""`StorageSuite` whole against the FTP servers: plain, under explicit and, where they know it, under implicit TLS.

Under TLS vsftpd and ProFTPD require that data connections take over the session. A server runs once per worker.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
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
from tests.storage.ftp.places import faulty


class FtpSuite(StorageSuite):
    # A line break would end the command.
    names_refused: ClassVar[frozenset[str]] = frozenset({"newline", "command after CRLF", "carriage return"})

    @pytest.fixture
    def peer(self, storage: Storage, scratch: Path) -> Peer | None:
        return FolderPeer(scratch)


class ServerSuite(FtpSuite):
    """Against the server that the whole run shares, or one that the class `starts` for itself."""

    shared: ClassVar[str]
    """The shared one's fixture."""
    starts: ClassVar[Callable[[], FtpServer] | None] = None

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, request: pytest.FixtureRequest) -> Iterator[FtpServer | Pyftpd]:
        if cls.starts is None:
            yield request.getfixturevalue(cls.shared)
        else:
            with running(request.config, cls.starts()) as server:
                yield server

    @pytest.fixture
    def scratch(self, server: FtpServer | Pyftpd) -> Path:
        folder = server.folder / uuid.uuid4().hex
        folder.mkdir()
        return folder

    @pytest.fixture
    async def storage(self, server: FtpServer | Pyftpd, scratch: Path) -> AsyncGenerator[Storage]:
        settings = FtpSettings.model_validate(server.settings(root=f"{server.root}{scratch.name}"))
        async with Storage(settings.backend("server")) as storage:
            yield storage


class TestVsftpd(ServerSuite):
    shared = "vsftpd"


class TestVsftpdPlain(ServerSuite):
    starts = partial(Vsftpd, "none")


class TestVsftpdImplicitTls(ServerSuite):
    starts = partial(Vsftpd, "implicit")


class TestProftpd(ServerSuite):
    shared = "proftpd"

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
    starts = partial(Proftpd, "none")


class TestProftpdImplicitTls(TestProftpd):
    starts = partial(Proftpd, "implicit")


class TestProftpdWithDigests(TestProftpd):
    """HASH, XSHA256 and their like, which decide on an upload."""

    starts = partial(Proftpd, "explicit", config=("LoadModule mod_digest.c", "DigestEngine on"))

    async def test_the_server_offers_them(self, storage: Storage) -> None:
        assert "sha256" in storage.capabilities.digests


class TestPureFtpd(ServerSuite):
    shared = "pureftpd"
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


class TestPureFtpdPlain(TestPureFtpd):
    starts = partial(PureFtpd, "none")


class TestPyftpdlib(ServerSuite):
    shared = "pyftpd"
    # What it cannot decode it would store under another name.
    names_refused = FtpSuite.names_refused | {"not UTF-8", "Latin-1"}

    @pytest.fixture(scope="class")
    @classmethod
    def pyftpd(cls) -> Iterator[Pyftpd]:
        with Pyftpd() as server:
            yield server


class TestBareServer(FtpSuite):
    """A server without MLSD, MFMT and a FEAT that says more than SIZE, MDTM and REST, as many partners' are."""

    @pytest.fixture
    def scratch(self, tmp_path: Path) -> Path:
        folder = tmp_path / "home"
        folder.mkdir()
        return folder

    @pytest.fixture
    async def storage(self, scratch: Path) -> AsyncGenerator[Storage]:
        features = ("SIZE", "MDTM", "REST STREAM")
        async with FaultyFtpServer(scratch, features=features, greeting="(vsFTPd, as it were)") as server:
            async with faulty(server, timeout=30) as storage:
                yield storage
