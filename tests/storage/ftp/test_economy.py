"""What a small file costs in round trips, and whose turn it is when connections are few."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.ftp.pool import Pool
from crossdock.storage.ftp.writer import FtpWriter
from crossdock.storage.staging import Stored
from crossdock.storage.storage import Storage
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.storage.ftp.places import WHEN, backend_of, faulty


def pool_of(storage: Storage) -> Pool:
    return backend_of(storage).calls.pool


# -- round trips --------------------


async def test_a_small_download_takes_three_round_trips(server: FaultyFtpServer, packets: list[str]) -> None:
    (server.folder / "name").write_bytes(b"12345")
    async with faulty(server) as storage:
        packets.clear()
        assert await storage.read_bytes("name") == b"12345"
    assert packets[:3] == ["MLST+EPSV", "RETR", "MLST"]


@pytest.mark.parametrize(
    ("greeting", "more"), [("pyftpdlib 2.0 ready", []), ("what is behind a name is not known", ["MLST"])]
)
async def test_a_small_upload_takes_four_round_trips(
    server: FaultyFtpServer, packets: list[str], greeting: str, more: list[str]
) -> None:
    """One more where the server might put the file in the place of a folder."""
    server.greeting = greeting
    async with faulty(server) as storage:
        packets.clear()
        await storage.write_bytes("name", b"12345", WriteOptions(modified=WHEN))
        assert packets == [
            "EPSV",
            "STOR",
            "MFMT+MLST",
            *more,
            "RNFR+RNTO",
        ]
    assert (server.folder / "name").read_bytes() == b"12345"


async def test_a_server_without_epsv_is_invited_by_pasv(server: FaultyFtpServer, packets: list[str]) -> None:
    (server.folder / "name").write_bytes(b"12345")
    server.faults.replies = {"EPSV": "500 what?"}
    async with faulty(server, max_connections=1) as storage:
        packets.clear()
        for _ in range(2):
            assert await storage.read_bytes("name") == b"12345"
    assert packets[:7] == ["MLST+EPSV", "PASV", "RETR", "MLST", "MLST", "PASV", "RETR"]


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024 - 1, 1024 * 1024, 1024 * 1024 + 1, 2 * 1024 * 1024])
async def test_the_end_is_found_wherever_it_is(server: FaultyFtpServer, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    (server.folder / "name").write_bytes(data[:size])
    async with faulty(server) as storage:
        assert await storage.read_bytes("name", limit=size) == data[:size]


async def test_what_is_given_up_in_its_last_step_is_not_published(
    server: FaultyFtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is sent and looked at, and the thread about to rename."""
    looked = threading.Event()
    answered = FtpWriter._answered

    def delayed(self: FtpWriter, *told: Any) -> Stored:
        found = answered(self, *told)
        looked.set()
        given_up.wait(10)
        return found

    given_up = threading.Event()
    monkeypatch.setattr(FtpWriter, "_answered", delayed)
    async with faulty(server) as storage:
        writer = await storage.backend.begin_write("name", WriteOptions())
        await writer.write(b"12345")
        committing = asyncio.create_task(writer.commit(Expect(size=5)))
        await asyncio.to_thread(looked.wait, 10)
        committing.cancel()
        await asyncio.sleep(0)
        given_up.set()
        with pytest.raises(asyncio.CancelledError):
            await committing
        await writer.abort()
    assert list(server.folder.iterdir()) == []


# -- turns --------------------


async def test_a_free_connection_wakes_who_has_waited_longest(server: FaultyFtpServer) -> None:
    async with faulty(server, max_connections=1) as storage:
        pool, order = pool_of(storage), list[int]()
        held = await pool.acquire()

        async def one(number: int) -> None:
            found = await pool.acquire()
            order.append(number)
            pool.release(found)

        tasks = [asyncio.create_task(one(number)) for number in range(5)]
        await asyncio.sleep(0)
        pool.release(held)
        assert len(pool._waiting) == 4
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4]
    assert server.accepted == 1


async def test_who_gives_up_in_their_turn_passes_it_on(server: FaultyFtpServer) -> None:
    async with faulty(server, max_connections=1) as storage:
        pool = pool_of(storage)
        held = await pool.acquire()
        first, second = (asyncio.create_task(pool.acquire()) for _ in range(2))
        await asyncio.sleep(0)
        pool.release(held)
        first.cancel()
        async with asyncio.timeout(60):
            pool.release(await second)
        assert first.cancelled()


async def test_a_writer_does_not_wait_behind_a_reader_that_may_not(server: FaultyFtpServer) -> None:
    """Readers leave the last connection to writers, whoever came first."""
    async with faulty(server, max_connections=2) as storage:
        pool = pool_of(storage)
        reading, short = await pool.acquire("read"), await pool.acquire()
        reader = asyncio.create_task(pool.acquire("read"))
        writer = asyncio.create_task(pool.acquire("write"))
        await asyncio.sleep(0)
        pool.release(short)
        async with asyncio.timeout(60):
            written = await writer
        assert not reader.done()
        pool.release(written)
        pool.release(reading)
        async with asyncio.timeout(60):
            pool.release(await reader)


# -- the thread --------------------


async def test_who_is_cancelled_hears_the_thread_out(server: FaultyFtpServer) -> None:
    async with faulty(server) as storage:
        pool = pool_of(storage)
        connection = await pool.acquire()
        begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

        def work() -> None:
            begun.set()
            go_on.wait(10)
            ended.set()
            raise ValueError("nobody wants to know")

        running = asyncio.create_task(connection.run(work))
        await asyncio.to_thread(begun.wait, 10)
        for _ in range(3):
            running.cancel()
            await asyncio.sleep(0)
        assert not running.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert ended.is_set()
        assert connection.broken
        pool.release(connection)


async def test_what_the_thread_raises_reaches_the_caller(server: FaultyFtpServer) -> None:
    def work() -> None:
        raise ValueError("wrong")

    async with faulty(server) as storage:
        connection = await pool_of(storage).acquire()
        with pytest.raises(ValueError, match="wrong"):
            await connection.run(work)
        pool_of(storage).release(connection)
