"""One attempt at one file that is cancelled: nothing is left behind, and whoever is to stop stops."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from crossdock.errors import IntegrityError, LeaseLost, LedgerUnavailable
from crossdock.storage.base import Entry, Expect, Writer
from crossdock.storage.layers import Layer, LayeredWriter
from crossdock.storage.limits import Limit
from crossdock.storage.local import LocalSettings
from crossdock.storage.storage import Storage
from crossdock.testing.storage.base import cancelled_at
from crossdock.transfer.copy import Staged, copy
from tests.transfer.places import CONTENT, pair
from tests.transfer.transforms.running import everything


async def test_cancelled_at_every_await() -> None:
    """Cancelled after 1, 2, 3 … turns of the loop: the old file or the new one, never a temporary."""
    outcomes = set()
    for turns in range(1, 200):
        async with pair() as (source, target):
            await target.write_bytes("f", b"old")
            task = asyncio.create_task(copy(source, "in/file.bin", target, "f"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            result = (await asyncio.gather(task, return_exceptions=True))[0]
            content = await target.read_bytes("f")
            assert content == (b"old" if isinstance(result, asyncio.CancelledError) else CONTENT)
            assert await everything(target) == ["f"]
            outcomes.add(type(result).__name__)
    assert "CancelledError" in outcomes


class _Refusing(LayeredWriter):
    """Has not stored what was sent, and is slow to remove it."""

    async def commit(self, expect: Expect) -> Entry:
        raise IntegrityError("other bytes are stored")

    async def abort(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        await self.inner.abort()


class _Refuses(Layer):
    def _writer(self, writer: Writer, path: str) -> Writer:
        return _Refusing(writer)


@pytest.mark.parametrize("announced", [True, False])
async def test_cancelled_while_it_cleans_up(announced: bool) -> None:
    """At any wait after a failure: nobody would clean up again, nor give the writer's slot back."""

    async def recorded(staged: Staged) -> None:
        await asyncio.sleep(0)

    async with pair() as (source, memory), asyncio.timeout(30):
        target = Storage(Limit(_Refuses(memory.backend), 3))

        async def action() -> None:
            with suppress(IntegrityError):
                await copy(source, "in/file.bin", target, "f", on_staged=recorded if announced else None)

        for wait in range(1, 200):
            ended = not await cancelled_at(action(), wait)
            assert await everything(memory) == [], f"cancelled at wait {wait}"
            if ended:
                break
        assert ended


@pytest.mark.parametrize("announced", [True, False])
async def test_cancelled_while_it_is_published(announced: bool) -> None:
    """What was announced stays for the next attempt to find, which has the writer's slot."""
    publishing = asyncio.Event()

    class Hanging(LayeredWriter):
        async def commit(self, expect: Expect) -> Entry:
            publishing.set()
            return await asyncio.Future[Entry]()

    class Hangs(Layer):
        def _writer(self, writer: Writer, path: str) -> Writer:
            return Hanging(writer)

    async def recorded(staged: Staged) -> None:
        pass

    async with pair() as (source, memory), asyncio.timeout(30):
        target = Storage(Limit(Hangs(memory.backend), 3))
        told = recorded if announced else None
        for name in ("f", "g", "h"):
            publishing.clear()
            task = asyncio.create_task(copy(source, "in/file.bin", target, name, on_staged=told))
            await publishing.wait()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        assert len(await everything(memory)) == (3 if announced else 0)


async def test_cancelled_while_the_lease_turns_out_to_be_lost(tmp_path: Path) -> None:
    """Whoever has the lease by then has cleaned up before the file was made: who made it removes it."""
    asked, answered = asyncio.Event(), asyncio.Event()

    async def refuse(staged: Staged) -> None:
        asked.set()
        await answered.wait()
        raise LeaseLost("it is another's")

    async with Storage(LocalSettings(root=str(tmp_path)).backend("disk")) as disk, pair() as (source, _):  # type: ignore[arg-type]
        task = asyncio.create_task(copy(source, "in/file.bin", disk, "f", on_staged=refuse))
        await asked.wait()
        assert len(list(tmp_path.iterdir())) == 1
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
        answered.set()
        await asyncio.wait([task])
        assert task.cancelled()
        assert list(tmp_path.iterdir()) == []


async def test_a_clean_up_that_fails_hides_no_cancelling() -> None:
    """Whoever is to stop would take it for the failure of one file, and go on to the next."""
    told = 0

    async def recorded(staged: Staged) -> None:
        nonlocal told
        told += 1
        if told > 1:
            raise LedgerUnavailable("its disk is full")
        task.cancel()

    async with pair() as (source, target):
        task = asyncio.create_task(copy(source, "in/file.bin", target, "f", on_staged=recorded))
        await asyncio.wait([task])
        assert (task.cancelled(), told) == (True, 2)
