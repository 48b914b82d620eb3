"""Uploads to servers that lose bytes, cannot rename or resume, or look for the folder too late."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing

import pytest

from crossdock.errors import (
    ConnectionFailed,
    IntegrityError,
    NoSpace,
    NotAFile,
    PermissionDenied,
    ProtocolViolation,
)
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.storage import Storage
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.storage.ftp.places import DATA, FACTS, faulty


@pytest.mark.parametrize("size", [10_000, len(DATA)])
async def test_short_data_called_stored_is_not_published(server: FaultyFtpServer, size: int) -> None:
    server.faults.cut_upload = size - 1
    async with faulty(server) as storage:
        with pytest.raises(IntegrityError):
            await storage.write_bytes("name", DATA[:size])
    assert list(server.folder.iterdir()) == []


async def test_a_full_disk_is_told_as_such(server: FaultyFtpServer) -> None:
    server.faults.disk = 1_000_000
    async with faulty(server) as storage:
        with pytest.raises(NoSpace):
            await storage.write_bytes("name", DATA)
    assert list(server.folder.iterdir()) == []


@pytest.mark.parametrize("offered", ["XSHA256", "XCRC"])
async def test_a_digest_that_differs_is_not_published(server: FaultyFtpServer, offered: str) -> None:
    server.features = (*FACTS, offered)
    digests = {"sha256": hashlib.sha256(b"data").hexdigest()}

    async def write(storage: Storage) -> None:
        async with storage.write("a b/name") as writer:
            await writer.write(b"data")
            await writer.commit(Expect(size=4, digests=digests))

    async with faulty(server) as storage:
        assert storage.capabilities.digests == ({"sha256"} if offered == "XSHA256" else set())
        await write(storage)
        server.faults.wrong_digest = True
        with pytest.raises(IntegrityError, match=r"sha256|crc32"):
            await write(storage)
    assert [path.name for path in (server.folder / "a b").iterdir()] == ["name"]


async def test_where_a_rename_may_not_replace_the_old_file_steps_aside(server: FaultyFtpServer) -> None:
    server.refuses_to_replace = True
    async with faulty(server) as storage:
        assert not storage.capabilities.atomic_write
        await storage.write_bytes("name", b"old")
        await storage.write_bytes("name", b"newer")
        assert await storage.read_bytes("name") == b"newer"
    assert [path.name for path in server.folder.iterdir()] == ["name"]


async def test_where_renames_are_forbidden_the_error_names_the_way_out(server: FaultyFtpServer) -> None:
    server.faults.replies["RNFR"] = "550 Permission denied"
    async with faulty(server) as storage:
        with pytest.raises(PermissionDenied, match="staging: none"):
            await storage.write_bytes("name", b"data")
    assert list(server.folder.iterdir()) == []
    async with faulty(server, staging="none") as storage:
        assert not storage.capabilities.atomic_write
        assert not storage.capabilities.rename
        await storage.write_bytes("name", b"data")
        assert await storage.read_bytes("name") == b"data"


@pytest.mark.parametrize("refused", ["APPE", "REST"])
async def test_a_write_is_resumed_by_whichever_the_server_has(server: FaultyFtpServer, refused: str) -> None:
    server.faults.replies[refused] = "502 not here"
    async with faulty(server) as storage:
        writer = await storage.begin_write("name", WriteOptions())
        await writer.write(DATA[:2_000_000])
        token = writer.checkpoint()
        assert token is not None
        await writer.suspend()
        async with storage.write("name", WriteOptions(resume=token)) as again:
            assert again.offset == 2_000_000
            await again.write(DATA[again.offset :])
            await again.commit(Expect(size=len(DATA)))
        assert await storage.read_bytes("name", limit=len(DATA)) == DATA
    verb = "APPE" if refused == "REST" else "STOR"
    assert sum(command.startswith(verb) for command in server.commands) == (1 if verb == "APPE" else 2)


async def test_a_server_that_can_do_neither_is_started_anew(server: FaultyFtpServer) -> None:
    server.faults.replies |= {"APPE": "502 not here", "REST": "502 not here"}
    async with faulty(server) as storage:
        writer = await storage.begin_write("name", WriteOptions())
        await writer.write(DATA)
        token = writer.checkpoint()
        await writer.suspend()
        again = await storage.begin_write("name", WriteOptions(resume=token))
        with pytest.raises(ProtocolViolation):
            await again.write(DATA)
        await again.abort()
        assert not storage.capabilities.resume_write


async def test_cancelled_at_any_moment_an_upload_leaves_nothing(server: FaultyFtpServer) -> None:
    async with faulty(server) as storage:
        for pause in (0, 0.001, 0.003, 0.01, 0.02):
            task = asyncio.create_task(storage.write_bytes("name", DATA))
            await asyncio.sleep(pause)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
                raise asyncio.CancelledError
            await storage.delete("name")
        async with aclosing(storage.scan("", temporaries=True)) as entries:
            assert [entry.path async for entry in entries] == []


async def test_a_server_that_agrees_before_it_looks_for_the_folder(server: FaultyFtpServer) -> None:
    """As rclone's does: a large file is under way before it says that there is no folder for it."""
    server.faults.agrees_early = True
    async with faulty(server) as storage:
        await storage.write_bytes("a/b/large", DATA)
        await storage.write_bytes("c/small", b"1")
        assert (server.folder / "a/b/large").read_bytes() == DATA
        server.commands.clear()
        await storage.write_bytes("c/other", b"2")
        assert not [command for command in server.commands if command.startswith(("CWD", "MKD"))]
        for path in (server.folder / "c").iterdir():
            path.unlink()
        (server.folder / "c").rmdir()
        with pytest.raises(ConnectionFailed, match="folder is gone"):
            await storage.write_bytes("c/small", b"3")
        await storage.write_bytes("c/small", b"4")
    assert (server.folder / "c/small").read_bytes() == b"4"


async def test_a_server_that_would_put_a_file_in_the_place_of_a_folder(server: FaultyFtpServer) -> None:
    """As rclone's does, with all that is in it."""
    server.faults.replaces_folders = True
    async with faulty(server) as storage:
        await storage.write_bytes("a/x", b"kept")
        for data in (b"small", DATA):
            with pytest.raises(NotAFile, match="a folder has this name"):
                await storage.write_bytes("a", data)
        assert [each.name for each in server.folder.iterdir()] == ["a"]
    assert (server.folder / "a/x").read_bytes() == b"kept"
