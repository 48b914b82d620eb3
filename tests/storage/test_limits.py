"""What holds back never holds up: copies that want more slots than there are all come to their end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from crossdock.storage.base import Capabilities, Entry, Reader, WriteOptions
from crossdock.storage.layers import Layer
from crossdock.storage.limits import Limit
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.retry import Reopen, Retry, RetryPolicy
from crossdock.storage.storage import Storage
from crossdock.testing.faults import Fault, FaultyBackend
from crossdock.transfer.copy import CopyOptions, copy

_MANY = 40


class _Unpinned(Layer):
    """As most servers are: others get their turn meanwhile, and the source of a copy is looked at again at its end."""

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return replace(self.inner.capabilities, pinned_reads=False)

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        await asyncio.sleep(0)
        return await super().begin_read(path, offset=offset, pin=pin)


async def _no_wait(seconds: float) -> None:
    await asyncio.sleep(0)


async def _filled(slots: int, *faults: Fault) -> Storage:
    policy = RetryPolicy(sleep=_no_wait)
    storage = Storage(Retry(Limit(Reopen(FaultyBackend(_Unpinned(MemoryBackend()), *faults), policy), slots), policy))
    for number in range(_MANY):
        await storage.write_bytes(f"in/{number}", b"1234")
    return storage


async def _copied(source: Storage, target: Storage) -> None:
    options = CopyOptions(server_side=False)
    each = (copy(source, f"in/{number}", target, f"out/{number}", options=options) for number in range(_MANY))
    await asyncio.gather(*each)
    assert len([entry async for entry in target.walk("out")]) == _MANY


@pytest.mark.parametrize("slots", [1, 2, 3, 8, _MANY])
async def test_many_copies_within_one_endpoint(slots: int) -> None:
    storage = await _filled(slots)
    async with asyncio.timeout(60):
        await _copied(storage, storage)


@pytest.mark.parametrize("slots", [1, 8])
async def test_many_copies_to_and_fro(slots: int) -> None:
    one, other = await _filled(slots), await _filled(slots)
    async with asyncio.timeout(60):
        await asyncio.gather(_copied(one, other), _copied(other, one))


@pytest.mark.parametrize("slots", [1, 3, 8])
async def test_many_copies_whose_streams_break(slots: int) -> None:
    """A stream that goes on where it broke does not wait for others, who may wait for its writer's slot."""
    faults = [Fault(operation="read", path=f"in/{number}", at=2, times=2) for number in range(_MANY)]
    storage = await _filled(slots, *faults)
    async with asyncio.timeout(60):
        await _copied(storage, storage)
    assert {fault.fired for fault in faults} == {2}


@pytest.mark.parametrize("slots", [1, 8])
async def test_many_copies_of_what_is_there_already(slots: int) -> None:
    """What the target holds is read, when the source has been."""
    storage = await _filled(slots)
    options = CopyOptions(server_side=False, overwrite=False)
    async with asyncio.timeout(60):
        await _copied(storage, storage)
        again = (copy(storage, f"in/{number}", storage, f"out/{number}", options=options) for number in range(_MANY))
        assert {receipt.method for receipt in await asyncio.gather(*again)} == {"present"}


async def test_looks_find_their_way_past_open_streams() -> None:
    """Whoever holds streams has yet to look; who gives up waiting for one leaves no trace."""
    storage = await _filled(4)
    async with asyncio.timeout(60):
        async with storage.read("in/1"), storage.write("out/1"), storage.write("out/2"):
            waiting = [
                asyncio.create_task(storage.begin_write("out/3", WriteOptions())),
                asyncio.create_task(storage.backend.begin_read("in/3")),
            ]
            await asyncio.sleep(0)
            assert len([entry async for entry in storage.scan("in")]) == _MANY
            assert await storage.exists("in/3")
            for task in waiting:
                assert not task.done()
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        async with storage.read("in/1"), storage.read("in/2"):
            pass
        await _copied(storage, storage)
