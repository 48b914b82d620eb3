"""Commands that are sent before earlier ones are answered: what each answer means, and what comes of a refusal."""

from __future__ import annotations

import asyncio

import pytest

from crossdock.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    IntegrityError,
    NoSpace,
    NotAFile,
    PermissionDenied,
    ProtocolViolation,
    StorageError,
    Unsupported,
)
from crossdock.storage.base import WriteOptions
from crossdock.storage.ftp import data
from crossdock.storage.ftp.wire import Lost
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.storage.ftp.places import WHEN, backend_of, faulty, hang_up, holds, prove


async def test_a_server_that_queues_commands_gets_them_together(queuing: FaultyFtpServer, packets: list[str]) -> None:
    async with faulty(queuing, max_connections=1) as storage:
        await storage.write_bytes("one", b"12345")
        packets.clear()
        await storage.write_bytes("two", b"67890")
        assert packets == ["EPSV+STOR+SIZE+MDTM", "RNFR+RNTO"]
        packets.clear()
        assert await storage.read_bytes("two") == b"67890"
        assert packets == ["SIZE+MDTM+EPSV", "RETR+SIZE+MDTM"]
    assert (queuing.folder / "one").read_bytes() == b"12345"


@pytest.mark.parametrize("size", [5, 200_000])
async def test_queued_and_refused_it_is_done_step_by_step(queuing: FaultyFtpServer, size: int) -> None:
    """Every reply is read: the same connection goes on."""
    async with faulty(queuing, max_connections=1) as storage:
        await storage.write_bytes("one", b"1")
        await storage.write_bytes("new/two", b"2" * size)
        await storage.write_bytes("new/three", b"3" * size)
        assert queuing.accepted == 1
        assert (await storage.stat("new/two")).size == size
    assert sorted(path.name for path in (queuing.folder / "new").iterdir()) == ["three", "two"]
    assert (queuing.folder / "new/three").read_bytes() == b"3" * size


async def test_queued_and_cut_short_it_is_not_published(queuing: FaultyFtpServer) -> None:
    async with faulty(queuing, max_connections=1) as storage:
        await storage.write_bytes("one", b"1")
        queuing.faults.cut_upload = 3
        with pytest.raises(IntegrityError, match="5 bytes were written, the endpoint holds 3"):
            await storage.write_bytes("one", b"12345")
        queuing.faults.cut_upload = None
        queuing.faults.disk = 2
        with pytest.raises(NoSpace):
            await storage.write_bytes("one", b"12345")
        queuing.faults.disk = None
        assert await storage.read_bytes("one") == b"1"
    assert [path.name for path in queuing.folder.iterdir()] == ["one"]


async def test_queued_replies_are_not_taken_for_others(queuing: FaultyFtpServer) -> None:
    """The last reply to the transfer comes twice: the second one answers no question."""
    async with faulty(queuing, max_connections=1) as storage:
        await storage.write_bytes("one", b"1")
        await storage.write_bytes("one", b"1")
        queuing.faults.late_reply = True
        with pytest.raises(ProtocolViolation, match="nobody asked for: 226"):
            await storage.write_bytes("one", b"12345")
        with pytest.raises(ProtocolViolation, match="nobody asked for: 226"):
            await storage.read_bytes("one")
        queuing.faults.late_reply = False
        assert (await storage.stat("one")).size == 1


async def test_queued_without_a_connection_for_it(queuing: FaultyFtpServer) -> None:
    async with faulty(queuing, max_connections=1) as storage:
        await storage.write_bytes("one", b"1")
        queuing.faults.replies = {"EPSV": "425 no port is left"}
        with pytest.raises(StorageError, match="no port is left"):
            await storage.write_bytes("one", b"12345")
        queuing.faults.replies = {}
        assert await storage.read_bytes("one") == b"1"
        assert queuing.accepted == 2


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("421 Timeout.", ConnectionFailed),
        ("450 busy", ConnectionFailed),
        ("452 full", NoSpace),
        ("522 Data connections must be encrypted.", Unsupported),
        ("530 Please login with USER and PASS.", AuthenticationFailed),
        ("550 Failed to open file.", PermissionDenied),
        ("552 quota", NoSpace),
        ("553 Could not create file.", PermissionDenied),
    ],
)
async def test_a_transfer_that_is_refused(queuing: FaultyFtpServer, reply: str, error: type[StorageError]) -> None:
    async with faulty(queuing, max_connections=1) as storage:
        await prove(storage)
        queuing.faults.replies = {"STOR": reply, "RETR": reply}
        if reply.startswith("421"):
            queuing.then = [("STOR", hang_up), ("RETR", hang_up)]
        with pytest.raises(error, match=reply):
            await storage.write_bytes("one", b"12345")
        with pytest.raises(error, match=reply):
            await storage.read_bytes("one")
        queuing.faults.replies = {}
        assert await storage.read_bytes("one") == b"1"
        holds(queuing, b"1")
    assert queuing.accepted == (3 if reply.startswith("421") else 1)


@pytest.mark.parametrize("refused", ["SIZE", "MDTM"])
async def test_questions_that_are_refused(queuing: FaultyFtpServer, refused: str) -> None:
    """Of the size, a listing tells instead."""
    async with faulty(queuing, max_connections=1) as storage:
        await prove(storage)
        queuing.faults.replies = {refused: "550 Permission denied."}
        await storage.write_bytes("one", b"12345", WriteOptions(modified=WHEN))
        assert await storage.read_bytes("one") == b"12345"
        queuing.faults.cut_upload = 3
        with pytest.raises(IntegrityError):
            await storage.write_bytes("one", b"54321")
    holds(queuing, b"12345")


async def test_what_is_called_a_folder_is_not_published(queuing: FaultyFtpServer) -> None:
    async with faulty(queuing, max_connections=1) as storage:
        await prove(storage)
        queuing.faults.replies = {"SIZE": "550 Could not get file size.", "CWD": "250 Directory changed."}
        with pytest.raises(NotAFile):
            await storage.write_bytes("one", b"12345")
    holds(queuing, b"1")


async def test_a_421_after_the_transfer(queuing: FaultyFtpServer) -> None:
    async with faulty(queuing, max_connections=1) as storage:
        await prove(storage)
        queuing.faults.replies, queuing.then = {"SIZE": "421 Timeout."}, [("SIZE", hang_up)]
        with pytest.raises(ConnectionFailed, match="421 Timeout"):
            await storage.write_bytes("one", b"12345")
        queuing.faults.replies = {}
        holds(queuing, b"1")


async def test_replies_that_are_owed_answer_no_other_command(queuing: FaultyFtpServer) -> None:
    """After an upload that failed, the server is slow to answer what was sent along: that is nobody's reply."""
    go_on = asyncio.Event()
    async with faulty(queuing, max_connections=1) as storage:
        await prove(storage)
        queuing.faults.disk, queuing.then = 2, [("STOR", go_on.wait)]
        with pytest.raises(NoSpace):
            await storage.write_bytes("one", b"12345")
        queuing.faults.disk = None
        assert (await storage.stat("one")).size == 1
        go_on.set()
        assert await storage.read_bytes("one") == b"1"
    assert queuing.accepted == 2
    holds(queuing, b"1")


async def test_nothing_is_sent_while_a_reply_is_owed(queuing: FaultyFtpServer) -> None:
    async with faulty(queuing) as storage:
        pool = backend_of(storage).calls.pool
        for attempt in (
            lambda connection: data.begin(connection, b"RETR x"),
            lambda connection: data.send_whole(connection, b"STOR x", []),
            lambda connection: connection.wire.ask(b"NOOP"),
        ):
            connection = await pool.acquire()
            await connection.run(connection.wire.send, b"NOOP")
            assert not connection.alive
            queuing.commands.clear()
            with pytest.raises(Lost):
                await connection.run(attempt, connection)
            pool.release(connection)
            assert set(queuing.commands) <= {"NOOP"}
