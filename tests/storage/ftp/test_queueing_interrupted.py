"""Commands that are sent before earlier ones are answered: the connection ends, or whoever waits gives up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from crossdock.errors import ConnectionFailed
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.ftp.connection import Connection
from crossdock.storage.ftp.stream import Data
from crossdock.storage.ftp.wire import Lost
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.storage.ftp.places import WHEN, backend_of, faulty, hang_up, holds, prove


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
        async with asyncio.timeout(60):
            while not any(command.startswith("STOR") for command in queuing.commands[sent:]):
                await asyncio.sleep(0.01)
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
