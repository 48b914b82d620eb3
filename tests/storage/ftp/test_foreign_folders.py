"""Folders at servers that are not started here: ftp-srv, Apache FtpServer, MinimalFTP."""

from __future__ import annotations

import pytest

from crossdock.errors import (
    ConnectionFailed,
    NotADirectory,
    NotFound,
    PermissionDenied,
)
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.storage.ftp.places import FACTS, faulty


async def test_a_file_is_not_removed_as_a_folder_by_a_server_that_would(server: FaultyFtpServer) -> None:
    """ftp-srv deletes files by RMD as well."""
    (server.folder / "file").touch()
    async with faulty(server) as storage:
        with pytest.raises(NotADirectory):
            await storage.remove_dir("file")
    assert not any(command.startswith("RMD") for command in server.commands)


async def test_a_folder_is_not_removed_from_within(server: FaultyFtpServer) -> None:
    """Apache FtpServer calls the folder busy that the session is in."""
    (server.folder / "folder").mkdir()

    async def leave() -> None:
        server.faults.replies.pop("RMD")

    server.faults.replies["RMD"] = "450 resource busy"
    async with faulty(server, max_connections=1) as storage:
        assert [entry async for entry in storage.scan("folder")] == []
        server.then = [("CWD /", leave)]
        await storage.remove_dir("folder")
    assert list(server.folder.iterdir()) == []


@pytest.mark.parametrize("reply", ["450 Can't remove directory", "451 file system error"])
async def test_a_folder_that_is_not_empty_is_no_matter_of_time(server: FaultyFtpServer, reply: str) -> None:
    (server.folder / "folder").mkdir()
    (server.folder / "folder" / "file").touch()
    server.faults.replies["RMD"] = reply
    async with faulty(server) as storage:
        with pytest.raises(PermissionDenied, match="not empty"):
            await storage.remove_dir("folder")


@pytest.mark.parametrize("reply", ["450 busy", "550 permission denied"])
async def test_a_folder_that_is_refused_hides_nothing_in_the_next_one(server: FaultyFtpServer, reply: str) -> None:
    """`LIST -a` was understood before: what a listing leaves out, a sync that deletes would take for gone."""
    server.features = ("SIZE", "MDTM")
    server.faults.hides = True
    (server.folder / ".hidden").touch()
    async with faulty(server, max_connections=1) as storage:
        for refused in (False, True, False):
            server.faults.replies = {"LIST": reply} if refused else {}
            if refused:
                with pytest.raises((PermissionDenied, ConnectionFailed)):
                    [entry async for entry in storage.scan("")]
            else:
                assert [entry.path async for entry in storage.scan("")] == [".hidden"]


async def test_a_first_folder_that_is_refused_hides_nothing_in_the_next_one(server: FaultyFtpServer) -> None:
    server.features = ("SIZE", "MDTM")
    server.faults.hides = True
    server.faults.replies["LIST"] = "550 permission denied"
    (server.folder / ".hidden").touch()
    async with faulty(server, max_connections=1) as storage:
        with pytest.raises(PermissionDenied):
            [entry async for entry in storage.scan("")]
        server.faults.replies.clear()
        assert [entry.path async for entry in storage.scan("")] == [".hidden"]


@pytest.mark.parametrize("reply", ["450 busy", "451 local error", "550 access denied"])
async def test_a_moment_in_which_a_listing_is_refused_hides_nothing(server: FaultyFtpServer, reply: str) -> None:
    """Of the first one nothing is known of the server yet, and `LIST` works a moment later."""
    server.features = ("SIZE", "MDTM")
    server.faults.hides = True
    (server.folder / ".hidden").touch()
    server.faults.replies["LIST"] = reply
    server.then = [("LIST -a", server.faults.replies.clear)]
    async with faulty(server, max_connections=1) as storage:
        for _ in range(2):
            assert [entry.path async for entry in storage.scan("")] == [".hidden"]
    assert [one for one in server.commands if "LIST" in one] == ["LIST -a", "LIST", "LIST -a", "LIST -a"]


@pytest.mark.parametrize(
    ("reply", "times"),
    [("450 busy", 2), ("451 local error", 2), ("450 -a: No such file or directory", 1), ("504 no parameters", 1)],
)
async def test_a_server_that_does_not_know_the_option(server: FaultyFtpServer, reply: str, times: int) -> None:
    """It is asked once, or once more if it might have been busy."""
    server.features = ("SIZE", "MDTM")
    (server.folder / "file").touch()
    replies = server.faults.replies
    replies["LIST"] = reply
    server.then = [("LIST -a", replies.clear)]
    if times == 2:
        server.then += [("LIST", lambda: replies.update(LIST=reply)), ("LIST -a", replies.clear)]
    async with faulty(server, max_connections=1) as storage:
        for _ in range(2):
            assert [entry.path async for entry in storage.scan("")] == ["file"]
    assert [one for one in server.commands if "LIST" in one] == [*["LIST -a", "LIST"] * times, "LIST"]


async def test_a_folder_that_is_not_empty_stays_where_the_server_would_remove_it(server: FaultyFtpServer) -> None:
    """MinimalFTP deletes all that is in it."""
    server.faults.careless = True
    (server.folder / "folder").mkdir()
    (server.folder / "folder" / "file").touch()
    async with faulty(server) as storage:
        with pytest.raises(PermissionDenied, match="not empty"):
            await storage.remove_dir("folder")
        server.faults.replies["MLSD"] = "450 busy"
        with pytest.raises(ConnectionFailed, match="busy"):
            await storage.remove_dir("folder")
        assert (server.folder / "folder" / "file").exists()
        server.faults.replies.clear()
        await storage.delete("folder/file")
        await storage.remove_dir("folder")
    assert list(server.folder.iterdir()) == []


@pytest.mark.parametrize("features", [("SIZE", "MDTM"), FACTS])
@pytest.mark.parametrize("reply", ["550 No files found.", "450 No data sets found", "550 Mailbox is empty"])
async def test_a_folder_that_is_refused_for_being_empty(
    server: FaultyFtpServer, reply: str, features: tuple[str, ...]
) -> None:
    server.features = features
    (server.folder / "box").mkdir()
    server.faults.replies |= {"LIST": reply, "MLSD": reply}
    async with faulty(server) as storage:
        assert [entry async for entry in storage.scan("box")] == []
        await storage.remove_dir("box")
        assert not (server.folder / "box").exists()


@pytest.mark.parametrize(
    "reply",
    ["550 No files found: permission denied", "450 No file transfer possible now", "550 No such file", "450 busy"],
)
async def test_a_folder_that_is_refused_for_another_reason_is_not_empty(server: FaultyFtpServer, reply: str) -> None:
    (server.folder / "kept").touch()
    server.faults.replies["MLSD"] = reply
    async with faulty(server) as storage:
        with pytest.raises((PermissionDenied, ConnectionFailed, NotFound)):
            [entry async for entry in storage.scan("")]
