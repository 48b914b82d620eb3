"""What the kernel has taken of an upload is still to be sent: as long as it goes on, nobody is silent."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from crossdock.errors import TimedOut
from crossdock.storage import sockets
from crossdock.storage.base import Expect
from crossdock.storage.ftp import data, pool
from crossdock.storage.ftp.stream import Data
from crossdock.storage.ftp.wire import Silent
from crossdock.testing import ftp_session
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.storage.ftp.places import DATA, backend_of, faulty
from tests.storage.test_sockets import Crowded


@pytest.fixture
def answers_when_told(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The server has its last word on an upload once this is set; it has half a minute from when all is sent."""
    told, last = asyncio.Event(), ftp_session.Session._last

    async def when_told(self: Any, reply: str) -> None:
        await told.wait()
        await last(self, reply)

    monkeypatch.setattr(ftp_session.Session, "_last", when_told)
    monkeypatch.setattr(data, "LAST_WORD", 30.0)
    monkeypatch.setattr(data, "_LOOK", 0.01)
    return told


async def test_a_slow_line_is_no_silence(
    server: FaultyFtpServer, monkeypatch: pytest.MonkeyPatch, answers_when_told: asyncio.Event
) -> None:
    """It is not asked how long the line takes, but whether it stands still."""
    loop, left, looks = asyncio.get_running_loop(), iter(range(50, 0, -1)), 0

    def unsent(self: Data) -> int:
        nonlocal looks
        looks += 1
        if found := next(left, 0):
            return found
        loop.call_soon_threadsafe(answers_when_told.set)
        return 0

    monkeypatch.setattr(Data, "unsent", property(unsent))
    async with faulty(server, timeout=30) as storage:
        await storage.write_bytes("name", DATA)
    assert looks == 51
    assert (server.folder / "name").read_bytes() == DATA


async def test_who_waits_for_a_slow_line_to_be_free_waits(
    server: FaultyFtpServer, monkeypatch: pytest.MonkeyPatch, answers_when_told: asyncio.Event
) -> None:
    """For longer than its timeout: what holds the only connection is at work, and waits for nobody."""
    rings, ring = 0, pool._ring

    def counted(waiter: asyncio.Future[None]) -> None:
        nonlocal rings
        rings += 1
        if rings == 3:
            answers_when_told.set()
        ring(waiter)

    monkeypatch.setattr(pool, "_ring", counted)
    (server.folder / "other").write_bytes(b"1")
    async with faulty(server, timeout=30, max_connections=1) as storage:
        async with storage.write("name") as writer:
            await writer.write(DATA)  # more than a chunk: from now on it holds the connection
            connections = backend_of(storage).calls.pool
            connections._settings = connections._settings.model_copy(update={"timeout": 0.05})
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(writer.commit(Expect(size=len(DATA))))
                tasks.create_task(storage.stat("other"))
    assert rings >= 3
    assert (server.folder / "name").read_bytes() == DATA


async def test_a_line_that_stands_still_is_given_up(
    server: FaultyFtpServer, monkeypatch: pytest.MonkeyPatch, answers_when_told: asyncio.Event
) -> None:
    monkeypatch.setattr(Data, "unsent", 7)
    monkeypatch.setattr(data, "LAST_WORD", 0.1)
    async with faulty(server, timeout=0.3) as storage:
        with pytest.raises(TimedOut):
            await storage.write_bytes("name", DATA)
    answers_when_told.set()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), timeout=10)
        theirs, _ = listener.accept()
    with ours, theirs:
        theirs.settimeout(10)
        yield ours, theirs


def test_what_the_peer_does_not_take_is_unsent(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    ours.setblocking(False)
    sent = 0
    while select.select([], [ours], [], 1)[1]:
        sent += ours.send(bytes(1 << 20))
    stream = Data(ours, 10)
    assert 0 < stream.unsent <= sent
    assert stream.confirmed == pytest.approx(sent - stream.unsent, abs=1)  # the kernel counts the SYN as well
    left = sent
    while left:
        left -= len(theirs.recv(1 << 20))
    for _ in range(1000):
        if not stream.unsent:
            break
        select.select([], [], [], 0.01)
    assert stream.unsent == 0
    assert stream.confirmed == pytest.approx(sent, abs=1)
    ours.close()
    assert (stream.unsent, stream.confirmed) == (0, 0)


@pytest.mark.parametrize("moves", [True, False])
def test_a_full_buffer_is_no_silence_while_it_is_emptied(monkeypatch: pytest.MonkeyPatch, moves: bool) -> None:
    crowded: Any = Crowded()
    monkeypatch.setattr(sockets, "confirmed", lambda connection: connection.waits if moves else 0)
    stream = Data(crowded, 10)
    if moves:
        stream.write(b"0123456789")
        assert crowded.taken == b"0123456789"
        return
    with pytest.raises(Silent):
        stream.write(b"01234567")
        stream.write(b"89")


async def test_where_the_system_does_not_tell_uploads_work_as_well(
    server: FaultyFtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
    monkeypatch.delattr(socket, "TCP_INFO")
    monkeypatch.setattr(sockets, "_TCP_INFO", None)
    async with faulty(server) as storage:
        await storage.write_bytes("name", DATA)
    assert (server.folder / "name").read_bytes() == DATA
