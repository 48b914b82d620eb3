"""One read for several writers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from crossdock.errors import ConnectionFailed, IntegrityError
from crossdock.storage.base import Entry, Reader
from crossdock.storage.layers import Layer, LayeredReader
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.shared import SharedReads
from crossdock.storage.storage import Storage

SIZE = 40 * 256 * 1024 + 17


class Counting(Layer):
    """How often a file is opened."""

    opened = 0

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        self.opened += 1
        return await super().begin_read(path, offset=offset, pin=pin)


@asynccontextmanager
async def place(patience: float = 300.0) -> AsyncIterator[tuple[Storage, Counting, Entry, bytes]]:
    counting = Counting(MemoryBackend("memory"))
    data = os.urandom(SIZE)
    async with Storage(SharedReads(counting, patience=patience)) as storage:
        await storage.write_bytes("f", data)
        yield storage, counting, await storage.stat("f"), data


async def whole(storage: Storage, pin: Entry, *, of: int = 1, stop_after: int | None = None) -> bytes:
    """Read, as one of so many."""
    shared = storage.backend
    assert isinstance(shared, SharedReads)
    shared.expect("f", pin, of)
    chunks: list[bytes] = []
    try:
        async with storage.read("f", pin=pin) as reader:
            assert reader.entry.size == SIZE
            while chunk := await reader.read():
                chunks.append(chunk)
                if stop_after is not None and len(chunks) == stop_after:
                    raise ConnectionFailed("no more", operation="read", endpoint="memory", path="f")
    finally:
        await shared.over("f", pin)
    return b"".join(chunks)


async def test_those_who_are_expected_share_one_stream() -> None:
    async with place() as (storage, counting, pin, data):
        found = await asyncio.gather(*(whole(storage, pin, of=3) for _ in range(3)))
        assert found == [data] * 3
        assert counting.opened == 1
        assert await whole(storage, pin) == data
        assert counting.opened == 2, "nobody was expected any more"


async def test_one_who_fails_does_not_stop_the_others() -> None:
    async with place() as (storage, counting, pin, data):
        found = await asyncio.gather(
            whole(storage, pin, of=3),
            whole(storage, pin, of=3, stop_after=2),
            whole(storage, pin, of=3),
            return_exceptions=True,
        )
        assert found[0] == found[2] == data
        assert isinstance(found[1], ConnectionFailed)
        assert counting.opened == 1


async def test_a_mistake_in_a_backend_reaches_every_reader() -> None:
    """It is no error of the endpoint's, and nobody may be left waiting for it."""

    class Broken(Counting):
        async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
            raise RuntimeError("a mistake")

    broken = Broken(MemoryBackend("memory"))
    async with Storage(SharedReads(broken, patience=300.0)) as storage:
        await storage.write_bytes("f", b"1" * SIZE)
        pin = await storage.stat("f")
        async with asyncio.timeout(60):
            found = await asyncio.gather(*(whole(storage, pin, of=2) for _ in range(2)), return_exceptions=True)
        assert [type(each) for each in found] == [RuntimeError] * 2


async def test_one_who_is_cancelled_does_not_stop_the_others() -> None:
    async with place() as (storage, counting, pin, data):
        first = asyncio.create_task(whole(storage, pin, of=2))
        second = asyncio.create_task(whole(storage, pin, of=2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == data
        assert counting.opened == 1
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_the_slow_one_is_left_behind_and_goes_on_alone() -> None:
    async with place(patience=0.05) as (storage, counting, pin, data):
        shared = storage.backend
        assert isinstance(shared, SharedReads)
        shared.expect("f", pin, 2)
        fast = asyncio.create_task(whole(storage, pin, of=2))
        async with storage.read("f", pin=pin) as reader:
            chunks = [await reader.read()]
            assert await fast == data
            while chunk := await reader.read():
                chunks.append(chunk)
        await shared.over("f", pin)
        assert b"".join(chunks) == data
        assert counting.opened == 2


async def test_one_who_never_comes_is_not_waited_for() -> None:
    """Nor is anything kept for him: what would still be there is of an earlier time."""
    async with place(patience=0.05) as (storage, counting, pin, data):
        shared = storage.backend
        assert isinstance(shared, SharedReads)
        assert await asyncio.create_task(whole(storage, pin, of=2)) == data
        assert not shared.sharing
        assert await asyncio.create_task(whole(storage, pin)) == data
        assert counting.opened == 2


async def test_who_did_not_say_that_he_would_come_reads_for_himself() -> None:
    """The others may be through, and the stream at its end, before he is."""
    async with place() as (storage, counting, pin, data):
        shared = storage.backend
        assert isinstance(shared, SharedReads)
        shared.expect("f", pin, 2)
        async with storage.read("f", pin=pin) as first:
            assert await first.read()
            assert await asyncio.create_task(storage.read_bytes("f")) == data
            stranger = asyncio.create_task(_read(storage, pin))
            assert await stranger == data
        await shared.over("f", pin)
        assert (counting.opened, shared.sharing) == (3, False)


async def _read(storage: Storage, pin: Entry) -> bytes:
    async with storage.read("f", pin=pin) as reader:
        return b"".join([chunk async for chunk in _chunks(reader)])


async def _chunks(reader: Reader) -> AsyncIterator[bytes]:
    while chunk := await reader.read():
        yield chunk


async def test_one_who_will_not_read_says_so() -> None:
    async with place() as (storage, counting, pin, data):
        shared = storage.backend
        assert isinstance(shared, SharedReads)

        async def neither() -> None:
            shared.expect("f", pin, 2)
            await shared.over("f", pin)

        async with asyncio.timeout(60):
            found = await asyncio.gather(whole(storage, pin, of=2), neither())
        assert found[0] == data
        assert counting.opened == 1


async def test_one_who_comes_when_the_others_have_gone_reads_for_himself() -> None:
    """They went while the stream was being opened: nobody pumps it any more."""
    opening = asyncio.Event()

    class Slow(Counting):
        async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
            await opening.wait()
            return await super().begin_read(path, offset=offset, pin=pin)

    async with Storage(SharedReads(Slow(MemoryBackend("memory")), patience=300.0)) as storage:
        shared = storage.backend
        assert isinstance(shared, SharedReads)
        data = os.urandom(SIZE)
        await storage.write_bytes("f", data)
        pin = await storage.stat("f")
        turn = asyncio.Event()

        async def late() -> bytes:
            shared.expect("f", pin, 2)
            await turn.wait()
            return await whole(storage, pin)

        gone = [asyncio.create_task(whole(storage, pin, of=2)) for _ in range(2)]
        last = asyncio.create_task(late())
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        opening.set()
        for _ in range(20):
            await asyncio.sleep(0)
        turn.set()
        async with asyncio.timeout(60):
            assert await last == data


async def test_what_is_wrong_with_the_stream_is_wrong_for_everyone() -> None:
    """A digest that does not match shows at the end: to go on there alone would take what is wrong for right."""

    class Checking(LayeredReader):
        async def read(self) -> bytes:
            data = await super().read()
            if not data:
                raise IntegrityError("another digest")
            return data

    class Checked(Counting):
        async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
            reader = await super().begin_read(path, offset=offset, pin=pin)
            return reader if offset else Checking(reader)

    async with Storage(SharedReads(Checked(MemoryBackend("memory")), patience=300.0)) as storage:
        await storage.write_bytes("f", b"1" * SIZE)
        pin = await storage.stat("f")
        found = await asyncio.gather(*(whole(storage, pin, of=2) for _ in range(2)), return_exceptions=True)
        assert [type(each) for each in found] == [IntegrityError] * 2
