"""What the three servers say of files, links and listings, and how far an upload has come."""

from __future__ import annotations

import os
import signal
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import (
    ConnectionFailed,
    InvalidPath,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    StorageError,
    TimedOut,
    Truncated,
)
from crossdock.storage.base import Entry, Expect, WriteOptions
from crossdock.storage.ftp.backend import FtpBackend
from tests.conftest import running
from tests.servers import FtpServer, Proftpd, PureFtpd, Vsftpd
from tests.storage.ftp.places import DATA, backend_of, opened, round_trip

_receive = ssl.SSLSocket.recv_into


def ragged(self: ssl.SSLSocket, *arguments: Any) -> int:
    """As if the goodbye had been cut off."""
    found = _receive(self, *arguments)
    if not found:
        raise ssl.SSLEOFError
    return found


@pytest.mark.parametrize("there", [0, 1_000_000, 1_999_999, 2_500_000])
@pytest.mark.parametrize("kind", [Vsftpd, Proftpd, PureFtpd], ids=lambda kind: kind.name)
async def test_a_write_goes_on_from_what_is_there(
    request: pytest.FixtureRequest, kind: type[FtpServer], there: int
) -> None:
    """Not all that was sent has arrived, or more than was known of; what is beyond is written over."""
    with running(request.config, kind("none")) as server:
        async with opened(server) as storage:
            writer = await storage.begin_write("name", WriteOptions())
            await writer.write(DATA[:2_000_000])
            token = writer.checkpoint()
            assert token is not None
            await writer.suspend()
            (staged,) = server.folder.iterdir()
            assert staged.read_bytes() == DATA[:2_000_000]
            os.truncate(staged, there)
            async with storage.write("name", WriteOptions(resume=token)) as again:
                assert again.offset == min(there, 2_000_000)
                await again.write(DATA[again.offset :])
                await again.commit(Expect(size=len(DATA)))
        assert [(path.name, path.read_bytes()) for path in server.folder.iterdir()] == [("name", DATA)]


@pytest.mark.parametrize("kind", [Vsftpd, Proftpd, PureFtpd], ids=lambda kind: kind.name)
async def test_a_file_that_somebody_else_moves_first(
    request: pytest.FixtureRequest, kind: type[FtpServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two destinations that end in one moment, both of which would archive it."""
    with running(request.config, kind("none")) as server:
        (server.folder / "old").write_bytes(b"x")
        (server.folder / "done").mkdir()
        look = FtpBackend._ready

        def faster(self: FtpBackend, connection: Any, old: bytes, new: bytes) -> tuple[Entry, str | None]:
            found = look(self, connection, old, new)
            (server.folder / "old").rename(server.folder / "done/other")
            return found

        monkeypatch.setattr(FtpBackend, "_ready", faster)
        async with opened(server) as storage:
            with pytest.raises(NotFound, match=r"rename .*old: "):
                await storage.rename("old", "done/new")
        assert [path.name for path in (server.folder / "done").iterdir()] == ["other"]


async def test_where_no_size_is_told_tls_has_to_say_goodbye(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without either, whoever sits in between could cut the file short. A link, for one, has no size of its own."""
    with running(request.config, Vsftpd("explicit", config=("cmds_denied=SIZE",))) as server:
        (server.folder / "name").write_bytes(DATA)
        (server.folder / "link").symlink_to("name")
        async with opened(server) as storage:
            assert (await storage.stat("link")).size is None
            assert await storage.read_bytes("link", limit=len(DATA)) == DATA
            monkeypatch.setattr(ssl.SSLSocket, "recv_into", ragged)
            backend_of(storage).calls.pool.account.learned.goodbyes = None
            assert await storage.read_bytes("name", limit=len(DATA)) == DATA
            with pytest.raises(Truncated, match="TLS ended without its goodbye"):
                await storage.read_bytes("link", limit=len(DATA))


async def test_a_listing_has_to_end_with_tls_s_goodbye_where_others_did(
    vsftpd: Vsftpd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(vsftpd) as storage:
        learned = backend_of(storage).calls.pool.account.learned
        learned.goodbyes = None
        with monkeypatch.context() as patch:
            # It may be one of those that never say it.
            patch.setattr(ssl.SSLSocket, "recv_into", ragged)
            for _ in range(2):
                [entry async for entry in storage.scan("")]
        [entry async for entry in storage.scan("")]
        monkeypatch.setattr(ssl.SSLSocket, "recv_into", ragged)
        with pytest.raises(ConnectionFailed, match="may be cut short"):
            [entry async for entry in storage.scan("")]


async def test_a_listing_that_is_cut_at_the_first_look_does_not_pass_for_an_empty_one(
    vsftpd: Vsftpd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut within a record, nothing of it can be read."""
    (vsftpd.folder / "here").touch()
    cut: list[int] = []

    def nothing(self: ssl.SSLSocket, *arguments: Any) -> int:
        found = _receive(self, *arguments)
        if not cut:
            cut.append(found)
            raise ssl.SSLEOFError
        return found

    async with opened(vsftpd) as storage:
        backend_of(storage).calls.pool.account.learned.goodbyes = None
        monkeypatch.setattr(ssl.SSLSocket, "recv_into", nothing)
        assert "here" in [entry.path async for entry in storage.scan("")]
        assert cut[0] > 0
        await storage.delete("here")


@pytest.mark.parametrize("kind", [Vsftpd, Proftpd, PureFtpd], ids=lambda kind: kind.name)
async def test_links_are_read_as_what_they_lead_to(request: pytest.FixtureRequest, kind: type[FtpServer]) -> None:
    with running(request.config, kind("none")) as server:
        (server.folder / "name").write_bytes(DATA)
        (server.folder / "link").symlink_to("name")
        (server.folder / "dangling").symlink_to("nowhere")
        async with opened(server) as storage:
            assert await storage.read_bytes("link", limit=len(DATA)) == DATA
            with pytest.raises(NotFound if kind is Vsftpd else StorageError):
                await storage.read_bytes("dangling")
            kinds = {entry.path: entry.kind for entry in [entry async for entry in storage.scan("")]}
            # ProFTPD does not show where nothing is led to.
            assert kinds.pop("dangling", "link") == "link"
            assert kinds == {"name": "file", "link": "link"}


@pytest.mark.parametrize("kind", [Vsftpd, Proftpd, PureFtpd], ids=lambda kind: kind.name)
async def test_a_file_that_changes_while_it_is_read_is_told(
    request: pytest.FixtureRequest, kind: type[FtpServer]
) -> None:
    """To the size that it had, so that only its time tells."""
    with running(request.config, kind("none")) as server:
        path = server.folder / "name"
        for changes in (False, True):
            path.write_bytes(DATA)
            async with opened(server) as storage, storage.read("name") as reader:
                size = len(await reader.read())
                if changes:
                    os.utime(path, (1e9, 1e9))
                while chunk := await reader.read():
                    size += len(chunk)
                assert (size, reader.changed) == (len(DATA), changes)


async def test_a_listing_that_the_server_cuts_off_is_an_error(request: pytest.FixtureRequest) -> None:
    """Pure-FTPd says so in its last reply, which is a good one."""
    with running(request.config, PureFtpd("none", config=("-L", "20:5"))) as server:
        for number in range(30):
            (server.folder / f"name{number}").touch()
        async with opened(server) as storage:
            with pytest.raises(ProtocolViolation, match="-L"):
                [entry async for entry in storage.scan("")]


@pytest.mark.parametrize("denied", ["SIZE", "SIZE,MDTM"])
async def test_what_may_not_be_asked_is_not_missing(request: pytest.FixtureRequest, denied: str) -> None:
    with running(request.config, Vsftpd("none", config=(f"cmds_denied={denied}",))) as server:
        (server.folder / "name").write_bytes(DATA)
        async with opened(server) as storage:
            assert (await storage.stat("name")).size == len(DATA)
            assert not await storage.exists("nothing")
            await round_trip(storage)


@pytest.mark.parametrize("kind", [Vsftpd, Proftpd, PureFtpd], ids=lambda kind: kind.name)
async def test_names_in_a_declared_charset(request: pytest.FixtureRequest, kind: type[FtpServer]) -> None:
    with running(request.config, kind("none")) as server:
        theirs, ours = (server.folder / os.fsdecode(name.encode("cp1252")) for name in ("Grün", "Zoë €"))
        theirs.write_bytes(b"1")
        async with opened(server, encoding="cp1252") as storage:
            assert [entry.path async for entry in storage.scan("")] == ["Grün"]
            assert await storage.read_bytes("Grün") == b"1"
            await storage.write_bytes("Zoë €/Grün", b"2")
            await storage.rename("Zoë €/Grün", "Zoë €/Zoë")
            with pytest.raises(InvalidPath, match="cannot be written in cp1252"):
                await storage.write_bytes("Зоя", b"3")
        assert [path.read_bytes() for path in ours.iterdir()] == [b"2"]
        assert [os.fsencode(path.name) for path in ours.iterdir()] == ["Zoë".encode("cp1252")]


async def test_a_name_that_the_server_prohibits(request: pytest.FixtureRequest) -> None:
    """It is the name that is refused, and only when it is to be given: no reason to do without renaming."""
    with running(request.config, PureFtpd("none")) as server:
        async with opened(server) as storage:
            with pytest.raises(InvalidPath, match=": RNTO: 553 Prohibited file name") as caught:
                await storage.write_bytes("a\\b", b"1")
            assert caught.value.hint == "give it another name in the rule or command that moves it"
        assert list(server.folder.iterdir()) == []


@pytest.mark.parametrize("kind", [Vsftpd, Proftpd, PureFtpd], ids=lambda kind: kind.name)
async def test_a_folder_that_may_not_be_entered(request: pytest.FixtureRequest, kind: type[FtpServer]) -> None:
    """Of such a one vsftpd says what it says of one that is not there."""
    with running(request.config, kind("none")) as server:
        locked = server.folder / "locked"
        locked.mkdir()
        (locked / "name").touch()
        locked.chmod(0)
        try:
            async with opened(server) as storage:
                with pytest.raises(StorageError, match=r"Permission denied|that the account may enter"):
                    [entry async for entry in storage.walk("")]
        finally:
            locked.chmod(0o700)


@pytest.mark.parametrize("kind", [Vsftpd, Proftpd, PureFtpd], ids=lambda kind: kind.name)
async def test_a_folder_that_may_be_entered_and_not_be_listed_is_not_empty(
    request: pytest.FixtureRequest, kind: type[FtpServer]
) -> None:
    """vsftpd says of it, with a good reply, that there was nothing to list."""
    with running(request.config, kind("none")) as server:
        locked = server.folder / "locked"
        locked.mkdir()
        (locked / "name").touch()
        os.chown(locked, server.uid, -1)
        locked.chmod(0o311)
        try:
            for top in ("", "locked"):
                async with opened(server) as storage:
                    with pytest.raises(PermissionDenied) as caught:
                        [entry async for entry in storage.walk(top)]
                assert caught.value.path == "locked"
        finally:
            locked.chmod(0o700)


def sessions_of(pid: int) -> list[int]:
    found = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return found + [below for child in found for below in sessions_of(child)]


async def test_one_connection_that_is_silent_speaks_for_those_that_were_idle(request: pytest.FixtureRequest) -> None:
    """A firewall has forgotten all of them, or the server stood still: each would cost the `timeout` anew."""
    with running(request.config, Vsftpd("none")) as server:
        (server.folder / "name").write_bytes(DATA)
        async with opened(server, timeout=1, max_connections=3) as storage:
            async with storage.read("name") as one, storage.read("name") as other:
                assert [entry.path async for entry in storage.scan("")] == ["name"]
                for reader in (one, other):
                    while await reader.read():
                        pass
            sessions = sessions_of(server.pids[0])
            assert len(sessions) >= 3
            try:
                for pid in sessions:
                    os.kill(pid, signal.SIGSTOP)
                with pytest.raises(TimedOut):
                    await storage.stat("name")
                assert (await storage.stat("name")).size == len(DATA)
            finally:
                for pid in sessions:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
