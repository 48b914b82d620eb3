"""Commands that are sent before earlier ones are answered: what a server, or something in between, may make of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest

from crossdock.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    CrossdockError,
    IntegrityError,
    NoSpace,
    NotAFile,
    PermissionDenied,
    ProtocolViolation,
    StorageError,
    TimedOut,
    Unsupported,
)
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.ftp import data
from crossdock.storage.ftp.connection import Connection
from crossdock.storage.ftp.stream import Data
from crossdock.storage.ftp.wire import Lost
from crossdock.storage.storage import Storage
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.storage.ftp.places import backend_of, faulty

WHEN = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
async def queuing(tmp_path: Path) -> AsyncGenerator[FaultyFtpServer]:
    """A server that is known to take commands one after the other, whatever it does meanwhile."""
    home = tmp_path / "home"
    home.mkdir()
    async with FaultyFtpServer(home, features=("MDTM", "SIZE"), greeting="(vsFTPd 3.0.3)") as server:
        yield server


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


async def prove(storage: Storage) -> None:
    """The connection has answered EPSV, and the server what was sent along with a transfer."""
    await storage.write_bytes("one", b"first")
    await storage.write_bytes("one", b"1")


def hang_up() -> None:
    """For `FaultyFtpServer.then`."""
    raise ConnectionResetError


def holds(server: FaultyFtpServer, *contents: bytes) -> None:
    """One file, that is one of `contents`, and nothing beside it."""
    assert [path.name for path in server.folder.iterdir()] == ["one"]
    assert (server.folder / "one").read_bytes() in contents


async def test_a_server_with_mlst_gets_them_one_by_one(queuing: FaultyFtpServer, packets: list[str]) -> None:
    """Whatever it calls itself, it is no vsftpd."""
    queuing.features = (*queuing.features, "MLST type*;size*;modify*;")
    async with faulty(queuing, max_connections=1) as storage:
        await prove(storage)
        assert await storage.read_bytes("one") == b"1"
    assert {"STOR", "RETR"} <= set(packets)


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


@pytest.mark.parametrize("command", ["EPSV", "STOR", "SIZE", "MDTM", "RNFR"])
async def test_the_end_of_the_connection_in_the_middle_of_an_upload(queuing: FaultyFtpServer, command: str) -> None:
    async with faulty(queuing, max_connections=2) as storage:
        await prove(storage)
        queuing.then = [(command, hang_up)]
        with pytest.raises(ConnectionFailed):
            await storage.write_bytes("one", b"12345")
        holds(queuing, b"1")
        assert await storage.read_bytes("one") == b"1"


@pytest.mark.parametrize("command", ["EPSV", "STOR", "SIZE", "MDTM", "RNFR", "RNTO"])
async def test_an_upload_that_is_given_up(queuing: FaultyFtpServer, command: str) -> None:
    """With the answer to the command. What was not stored by then is not published."""
    async with faulty(queuing, max_connections=2) as storage:
        await prove(storage)
        writer = await backend_of(storage).begin_write("one", WriteOptions())
        await writer.write(b"12345")
        committing = asyncio.create_task(writer.commit(Expect(size=5)))

        async def give_up() -> None:
            committing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([committing], timeout=0.05)

        queuing.then = [(command, give_up)]
        with pytest.raises(asyncio.CancelledError):
            await committing
        await writer.abort()
        holds(queuing, *([b"1", b"12345"] if command in ("MDTM", "RNFR", "RNTO") else [b"1"]))
        await storage.write_bytes("one", b"1")
        assert await storage.read_bytes("one") == b"1"


@pytest.mark.parametrize("command", ["EPSV", "RETR", "SIZE", "MDTM"])
async def test_a_download_that_is_given_up(queuing: FaultyFtpServer, command: str) -> None:
    async with faulty(queuing, max_connections=2) as storage:
        await prove(storage)
        reading = asyncio.create_task(storage.read_bytes("one"))

        def give_up() -> None:
            reading.cancel()

        queuing.then = [(command, give_up)]
        with contextlib.suppress(asyncio.CancelledError):
            assert await reading == b"1"
        assert await storage.read_bytes("one") == b"1"
        assert (await storage.stat("one")).size == 1


async def test_given_up_between_the_invitation_and_the_connection(
    queuing: FaultyFtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STOR is on its way, and served late: what it makes is removed all the same."""
    attach = Connection.attach_data
    tasks: list[asyncio.Task[Any]] = []
    loop = asyncio.get_running_loop()

    def attached(self: Connection, connected: Any) -> None:
        if tasks:
            loop.call_soon_threadsafe(tasks.pop().cancel)
            while not self.broken:
                time.sleep(0.001)
        attach(self, connected)

    async def late() -> None:
        before = len(queuing.commands)
        for _ in range(50):
            await asyncio.sleep(0.01)
            if any(command.startswith("DELE") for command in queuing.commands[before:]):
                return

    monkeypatch.setattr(Connection, "attach_data", attached)
    async with faulty(queuing, max_connections=2) as storage:
        await prove(storage)
        await asyncio.gather(*(storage.write_bytes("one", b"1") for _ in range(2)))
        writer = await backend_of(storage).begin_write("one", WriteOptions())
        await writer.write(b"12345")
        queuing.then, sent = [("EPSV", late)], len(queuing.commands)
        committing = asyncio.create_task(writer.commit(Expect(size=5)))
        tasks.append(committing)
        with pytest.raises(asyncio.CancelledError):
            await committing
        await writer.abort()
        async with asyncio.timeout(5):
            while not any(command.startswith("STOR") for command in queuing.commands[sent:]):
                await asyncio.sleep(0.01)
        holds(queuing, b"1")


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


@pytest.mark.parametrize(
    ("agreement", "writing", "reading"),
    [("never", TimedOut, ProtocolViolation), ("late", TimedOut, None), ("twice", None, None)],
)
async def test_an_agreement_that_is_missing_late_or_repeated(
    queuing: FaultyFtpServer,
    agreement: Literal["never", "late", "twice"],
    writing: type[CrossdockError] | None,
    reading: type[CrossdockError] | None,
) -> None:
    async with faulty(queuing, max_connections=1, timeout=0.3) as storage:
        await prove(storage)
        queuing.faults.agreement = agreement
        with pytest.raises(writing) if writing else contextlib.nullcontext():
            await storage.write_bytes("one", b"2")
        expected = b"1" if writing else b"2"
        with pytest.raises(reading) if reading else contextlib.nullcontext():
            assert await storage.read_bytes("one") == expected
        queuing.faults.agreement = "once"
        assert await storage.read_bytes("one") == expected
    holds(queuing, expected)


@pytest.mark.parametrize("during", ["answer", "drop"])
async def test_a_server_that_only_calls_itself_vsftpd(
    queuing: FaultyFtpServer, packets: list[str], during: Literal["answer", "drop"]
) -> None:
    """The first attempt fails; then it is known, on all connections, and for good."""
    queuing.faults.during = during
    async with faulty(queuing, max_connections=1, timeout=1) as storage:
        await storage.write_bytes("one", b"first")
        with pytest.raises((ConnectionFailed, TimedOut)):
            await storage.write_bytes("one", b"12345")
        holds(queuing, b"first")
        packets.clear()
        await storage.write_bytes("one", b"12345")
        await storage.write_bytes("one", b"123456")
        assert await storage.read_bytes("one") == b"123456"
        assert not any("STOR+" in packet or "RETR+" in packet or "+STOR" in packet for packet in packets)
    holds(queuing, b"123456")


@pytest.mark.parametrize("during", ["answer", "drop"])
async def test_a_server_that_only_calls_itself_vsftpd_and_is_read(
    queuing: FaultyFtpServer, during: Literal["answer", "drop"]
) -> None:
    (queuing.folder / "one").write_bytes(b"1")
    queuing.faults.during = during
    async with faulty(queuing, max_connections=1, timeout=1) as storage:
        with pytest.raises((ConnectionFailed, TimedOut)):
            await storage.read_bytes("one")
        assert await storage.read_bytes("one") == b"1"


@pytest.mark.parametrize("verify", ["size", "none"])
async def test_an_answer_in_between_does_not_hide_that_an_upload_failed(queuing: FaultyFtpServer, verify: str) -> None:
    """The time is set while the file is on its way: that reply is not the transfer's last."""
    async with faulty(queuing, max_connections=1, verify=verify) as storage:
        await storage.write_bytes("one", b"first")
        await storage.write_bytes("one", b"1", WriteOptions(modified=WHEN))
        queuing.faults.during, queuing.faults.disk = "answer", 2
        with pytest.raises(ProtocolViolation, match="nobody asked for: 213"):
            await storage.write_bytes("one", b"12345", WriteOptions(modified=WHEN))
        queuing.faults.during, queuing.faults.disk = "wait", None
        assert await storage.read_bytes("one") == b"1"
    holds(queuing, b"1")


async def test_what_did_not_leave_is_not_published(queuing: FaultyFtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server calls complete what it got, and may not be asked how much that is."""
    async with faulty(queuing, max_connections=1, verify="none") as storage:
        await storage.write_bytes("one", b"first")
        await storage.write_bytes("one", b"1", WriteOptions(modified=WHEN))

        def broken(self: Data, data: bytes) -> None:
            raise Lost("the data connection broke: Connection reset by peer")

        monkeypatch.setattr(Data, "write", broken)
        with pytest.raises(ConnectionFailed, match="reset by peer"):
            await storage.write_bytes("one", b"12345", WriteOptions(modified=WHEN))
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
