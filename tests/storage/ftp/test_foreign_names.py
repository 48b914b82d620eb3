"""Names at servers that are not started here: those that they take for others, or cannot keep."""

from __future__ import annotations

import pytest

from crossdock.errors import ConnectionFailed, InvalidPath, NoSpace
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.storage.ftp.places import FACTS, faulty, hang_up


@pytest.mark.parametrize("name", ["..\\win.ini", "a\\b", 'a"b', "a\tb", "a ", "a\nb"])
async def test_a_name_that_a_server_may_alter_is_not_sent(server: FaultyFtpServer, name: str) -> None:
    """ftp-srv and Apache FtpServer take a backslash for "/", and the former drops quotation marks."""
    async with faulty(server) as storage:
        with pytest.raises(InvalidPath) as caught:
            await storage.write_bytes(name, b"x")
    assert caught.value.hint is not None
    assert list(server.folder.iterdir()) == []


@pytest.mark.parametrize("greeting", ["(vsFTPd 3.0.3)", "ProFTPD Server", "pyftpdlib 2.2.0 ready."])
async def test_a_server_that_is_known_is_sent_every_name(server: FaultyFtpServer, greeting: str) -> None:
    server.greeting = greeting
    async with faulty(server) as storage:
        await storage.write_bytes('a\\"b', b"x")
    assert [path.name for path in server.folder.iterdir()] == ['a\\"b']


async def test_a_name_that_is_too_long_is_no_matter_of_time(server: FaultyFtpServer) -> None:
    server.faults.replies["RNTO"] = "451 file system error"
    async with faulty(server) as storage:
        with pytest.raises(InvalidPath, match="256 bytes"):
            await storage.write_bytes("n" * 256, b"x")


@pytest.mark.parametrize("path", ["report[1].csv", "a?b", "a*b", "folder[1]/name"])
async def test_a_name_is_not_described_as_the_pattern_that_a_server_takes_it_for(
    server: FaultyFtpServer, path: str
) -> None:
    """Of such a name Apache FtpServer's MLST describes the folder."""
    server.features = (*FACTS, "MD5", "MMD5")
    server.faults.patterns = True
    async with faulty(server) as storage:
        assert not await storage.exists(path)
        await storage.write_bytes(path, b"data")
        assert (await storage.stat(path)).size == 4
        assert await storage.read_bytes(path) == b"data"
        await storage.delete(path)
        assert not await storage.exists(path)


@pytest.mark.parametrize("path", ["~", "folder/~", "~/name"])
async def test_a_name_that_stands_for_the_home_is_not_sent(server: FaultyFtpServer, path: str) -> None:
    """Apache FtpServer takes "~" for it wherever it stands."""
    server.features = (*FACTS, "MD5", "MMD5")
    async with faulty(server) as storage:
        with pytest.raises(InvalidPath):
            await storage.write_bytes(path, b"x")
        await storage.write_bytes("name~", b"x")
    assert [path.name for path in server.folder.iterdir()] == ["name~"]


async def test_names_in_another_encoding_are_said_to_be_so(server: FaultyFtpServer) -> None:
    server.features = ("SIZE", "MDTM")
    server.faults.listing = "-rw-r--r-- 1 a b 7 Jan  1  2020 März.csv\r\n".encode("latin-1")
    async with faulty(server) as storage:
        [found] = [entry async for entry in storage.scan("")]
        with pytest.raises(InvalidPath, match="is not utf-8") as caught:
            await storage.read_bytes(found.path)
        assert "encoding: latin-1" in (caught.value.hint or "")
        with pytest.raises(InvalidPath) as caught:
            await storage.write_bytes("M\udce4rz", b"x")
        assert "another name" in (caught.value.hint or "")
    async with faulty(server, encoding="latin-1") as storage:
        assert [entry.path async for entry in storage.scan("")] == ["März.csv"]


async def test_letters_that_a_server_takes_for_one_another_are_refused(server: FaultyFtpServer) -> None:
    """Java without a locale: of two files one would be lost."""
    server.faults.ascii = True
    async with faulty(server) as storage:
        for name in ("é.csv", "ü/plain.csv"):
            with pytest.raises(InvalidPath, match="beyond ASCII"):
                await storage.write_bytes(name, b"x")
        await storage.write_bytes("plain.csv", b"x")
        with pytest.raises(InvalidPath, match="beyond ASCII"):
            await storage.rename("plain.csv", "ü.csv")
        with pytest.raises(InvalidPath, match="beyond ASCII"):
            await storage.make_dir("ü")
    assert [path.name for path in server.folder.iterdir()] == ["plain.csv"]


@pytest.mark.parametrize("fault", ["cut", "refused"])
async def test_a_trial_of_letters_that_fails_proves_nothing(server: FaultyFtpServer, fault: str) -> None:
    """Of an account, it was taken for good as if the server told them apart."""
    server.faults.ascii = True
    async with faulty(server) as storage:
        if fault == "cut":
            server.then = [("STOR", lambda: None), ("STOR", hang_up)]
        else:
            server.then = [("STOR", lambda: server.faults.replies.update(STOR="452 no room just now"))]
        with pytest.raises((ConnectionFailed, NoSpace)):
            await storage.write_bytes("é.csv", b"x")
        server.faults.replies.clear()
        with pytest.raises(InvalidPath, match="beyond ASCII"):
            await storage.write_bytes("é.csv", b"x")


async def test_letters_that_a_server_keeps_are_tried_once(server: FaultyFtpServer) -> None:
    async with faulty(server) as storage:
        for name in ("é.csv", "ü.csv", "ü/ö.csv"):
            await storage.write_bytes(name, name.encode())
        assert await storage.read_bytes("é.csv") == "é.csv".encode()
    assert sum("probe" in command or command.endswith("é") for command in server.commands) <= 4


async def test_what_is_left_of_asking_about_letters_is_no_file(server: FaultyFtpServer) -> None:
    """A flow that began with the folder afterwards delivered it, and `doctor --clean` did not know it."""
    server.faults.replies["DELE"] = "450 busy"
    async with faulty(server) as storage:
        await storage.write_bytes("é.csv", b"x")
        assert [entry.path async for entry in storage.scan()] == ["é.csv"]
        assert len([entry.path async for entry in storage.scan(temporaries=True)]) == 2
