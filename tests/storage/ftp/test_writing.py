"""Uploads to servers that lose bytes, cannot rename or resume, or look for the folder too late."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import aclosing
from typing import Any

import pytest

from crossdock.engine.attempts import deliver
from crossdock.errors import (
    ConnectionFailed,
    IntegrityError,
    NoSpace,
    NotADirectory,
    NotAFile,
    PermissionDenied,
    ProtocolViolation,
    StorageError,
)
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.ftp import data
from crossdock.storage.ftp.stream import Data
from crossdock.storage.ftp.tls import SessionRefused
from crossdock.storage.ftp.wire import Lost
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.retry import RetryPolicy
from crossdock.storage.storage import Storage
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.storage.ftp.places import DATA, FACTS, backend_of, faulty


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


async def test_the_old_file_comes_back_after_the_connection_has_broken(server: FaultyFtpServer) -> None:
    server.refuses_to_replace = True
    (server.folder / "name").write_bytes(b"old")
    replies = server.faults.replies

    def break_off() -> None:
        replies.clear()
        server.writers[0].transport.abort()

    server.then = [
        ("RNTO", lambda: None),  # the new file may not replace the old one
        ("RNTO", lambda: replies.update({"RNTO": "421 going down"})),  # which has stepped aside
        ("RNTO", break_off),
    ]
    async with faulty(server, max_connections=1) as storage:
        with pytest.raises(ConnectionFailed):
            await storage.write_bytes("name", b"newer")
    assert not server.then
    assert {path.name: path.read_bytes() for path in server.folder.iterdir()} == {"name": b"old"}


async def test_a_swap_that_was_cut_off_is_not_in_the_way_of_the_next(server: FaultyFtpServer) -> None:
    server.refuses_to_replace = True
    async with faulty(server) as storage:
        for number in range(3):
            (server.folder / "new").write_bytes(b"%d" % number)
            (server.folder / "name").touch()
            server.then = [("RNTO", lambda: server.faults.replies.update({"DELE": "421 going down"}))]
            with pytest.raises(ConnectionFailed):
                await storage.rename("new", "name", overwrite=True)
            assert (server.folder / "name").read_bytes() == b"%d" % number
            server.faults.replies.clear()


async def test_an_old_file_that_may_not_be_removed_does_not_make_the_new_one_a_failure(server: FaultyFtpServer) -> None:
    """As by ProFTPD's <Limit DELE>; each attempt would publish it once more."""
    server.refuses_to_replace = True
    server.faults.replies["DELE"] = "550 Permission denied"
    (server.folder / "name").write_bytes(b"old")
    async with faulty(server) as storage:
        await storage.write_bytes("name", b"newer")
    assert (server.folder / "name").read_bytes() == b"newer"


async def test_an_old_file_does_not_come_back_in_the_place_of_the_new_one(server: FaultyFtpServer) -> None:
    """Once the server may replace, as when a file is not in use any more, its refusal does not keep it away."""
    server.refuses_to_replace = True
    (server.folder / "name").write_bytes(b"old")

    def lose_the_next() -> None:
        server.refuses_to_replace = False
        (session,) = server.open
        say = session.say

        async def lost(reply: str) -> None:
            if reply == "250 renamed":
                server.writers[0].transport.abort()
            else:
                await say(reply)

        session.say = lost  # type: ignore[method-assign]

    server.then = [("RNTO", lambda: None), ("RNTO", lose_the_next)]
    async with faulty(server, max_connections=1) as storage:
        with pytest.raises(ConnectionFailed):
            await storage.write_bytes("name", b"newer")
    assert (server.folder / "name").read_bytes() == b"newer"


@pytest.mark.parametrize("path", ["quotas/x", "too many/x", "not found/file exists", "a/file is in use"])
async def test_the_words_of_a_path_are_not_the_servers(server: FaultyFtpServer, path: str) -> None:
    """ProFTPD repeats it: what is forbidden there would be a disk that is full."""
    (server.folder / path).parent.mkdir()
    (server.folder / path).write_bytes(b"x")
    server.faults.replies = dict.fromkeys(("DELE", "RETR"), f"550 /{path}: Permission denied")
    async with faulty(server) as storage:
        with pytest.raises(PermissionDenied, match=path):
            await storage.delete(path)
        with pytest.raises(PermissionDenied, match=path):
            await storage.read_bytes(path)


async def test_where_renames_are_forbidden_the_error_names_the_way_out(server: FaultyFtpServer) -> None:
    server.faults.replies["RNFR"] = "550 Permission denied"
    async with faulty(server) as storage:
        with pytest.raises(PermissionDenied, match="staging: none"):
            await storage.write_bytes("name", b"data")
    assert list(server.folder.iterdir()) == []
    async with faulty(server, staging="none") as storage:
        assert not storage.capabilities.atomic_write and storage.capabilities.in_place
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
    # STOR and REST are tried first, by two more.
    assert sum(command.startswith(verb) for command in server.commands) == (1 if verb == "APPE" else 4)


async def test_a_server_that_empties_what_is_gone_on_with_is_started_anew(server: FaultyFtpServer) -> None:
    """bftpd: with zeros at its beginning, the file has the size that it should."""
    server.faults.empties = True
    async with faulty(server) as storage:
        for number in range(2):
            writer = await storage.begin_write("name", WriteOptions())
            await writer.write(DATA[:2_000_000])
            token = writer.checkpoint()
            await writer.suspend()
            if number:
                assert token is None
                break
            # More has arrived than is known to be a beginning of the file.
            (staged,) = server.folder.iterdir()
            with staged.open("ab") as file:
                file.write(b"more")
            again = await storage.begin_write("name", WriteOptions(resume=token))
            with pytest.raises(ProtocolViolation, match="loses what is before"):
                await again.write(DATA[again.offset :])
            await again.abort()
            assert not storage.capabilities.resume_write
            assert list(server.folder.iterdir()) == []


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


@pytest.mark.parametrize("fault", ["STOR is refused", "no port is reached", "PASV is refused"])
async def test_a_file_that_may_not_be_replaced_stays(server: FaultyFtpServer, fault: str) -> None:
    """Written under its final name, what fails before it has begun is no reason to remove what was there before."""
    old = server.folder / "name"
    old.write_bytes(b"of the partner's")
    async with faulty(server, staging="none") as storage:
        if fault == "STOR is refused":
            server.faults.replies["STOR"] = "550 Overwrite permission denied"
        else:
            server.faults.passive = "227 (127,0,0,1,0,1)" if fault == "no port is reached" else "550 no"
        for data in (b"small", DATA):
            with pytest.raises(StorageError):
                await storage.write_bytes("name", data)
            assert old.read_bytes() == b"of the partner's"
        server.faults.replies.clear()
        server.faults.passive = None
        server.faults.disk = 1_000_000
        with pytest.raises(NoSpace):
            await storage.write_bytes("name", DATA)
    assert list(server.folder.iterdir()) == []


async def test_a_file_is_begun_anew_at_a_server_that_was_found_not_to_resume(
    server: FaultyFtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ProFTPD's own defaults have it: AllowOverwrite and AllowStoreRestart off, and REST among its features."""
    server.faults.replies |= {"APPE": "550 Overwrite permission denied", "REST": "502 not here"}
    write, parts = Data.write, []

    def cut(self: Data, part: bytes | memoryview) -> None:
        write(self, part)
        parts.append(part)
        if len(parts) == 2:
            while not any(path.stat().st_size for path in server.folder.iterdir()):
                time.sleep(0.001)
            raise Lost("the data connection broke")

    monkeypatch.setattr(Data, "write", cut)
    async with faulty(server) as storage, Storage(MemoryBackend("source")) as source:
        await source.write_bytes("name", DATA)
        _, attempts = await deliver(source, "name", storage, "name", policy=RetryPolicy(base=0.01))
        assert attempts == 3
    assert [path.name for path in server.folder.iterdir()] == ["name"]
    assert (server.folder / "name").read_bytes() == DATA


async def test_a_last_word_that_was_heard_is_not_waited_for_again(server: FaultyFtpServer) -> None:
    """What was sent is kept, and the next attempt begins at once."""
    server.faults.disk = 1_000_000
    async with faulty(server, timeout=120) as storage, asyncio.timeout(60):
        writer = await storage.begin_write("name", WriteOptions())
        with pytest.raises(NoSpace):
            while True:
                await writer.write(DATA[:65536])
        await writer.suspend()
    (left,) = server.folder.iterdir()
    assert left.stat().st_size


async def test_after_a_refusal_the_server_has_as_much_time_as_before(server: FaultyFtpServer) -> None:
    server.faults.disk = 1_000_000
    async with faulty(server, timeout=20) as storage:
        with pytest.raises(NoSpace):
            await storage.write_bytes("name", DATA)
        connection = await backend_of(storage).calls.pool.acquire()
        assert connection.wire.patience == 20
        backend_of(storage).calls.pool.release(connection)
    assert server.accepted == 1


async def test_a_session_that_is_refused_in_the_end_is_another_one_in_the_next_attempt(
    server: FaultyFtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise SessionRefused("522 SSL connection failed: session reuse required")

    async with faulty(server) as storage, storage.write("name") as writer:
        await writer.write(DATA[:600_000])
        await writer.write(DATA[600_000:700_000])
        monkeypatch.setattr(data, "finish", refuse)
        with pytest.raises(ConnectionFailed, match="522"):
            await writer.commit(Expect(size=700_000))
        assert backend_of(storage).calls.pool.account.old_tls
    assert list(server.folder.iterdir()) == []


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


async def test_a_file_where_a_folder_is_to_be_made_is_not_asked_for(server: FaultyFtpServer) -> None:
    """ProFTPD 1.3.9 would say that MKD has made one."""
    async with faulty(server) as storage:
        await storage.write_bytes("file", b"x")
        for path in ("file", "file/below"):
            with pytest.raises(NotADirectory):
                await storage.make_dir(path)
    assert not [command for command in server.commands if command.startswith("MKD")]


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
