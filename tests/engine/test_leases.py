"""Transfers under a lease: what is lost, kept or taken over."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from crossdock.engine import worker as workers
from crossdock.errors import LeaseLost, LedgerUnavailable
from crossdock.flows.flow import Destination, Place, Rule
from crossdock.ledger.base import Lease
from crossdock.storage.base import Expect, WriteOptions, Writer
from crossdock.storage.layers import LayeredWriter
from crossdock.storage.netstorage.writer import NetStorageWriter
from crossdock.testing import FakeNetStorage, NetStorageFault
from tests.engine.places import House, flow, lost
from tests.storage.netstorage.places import settings_of


async def test_a_lost_lease_ends_its_attempt(home: House) -> None:
    await home.put("a")
    home.dst.gates["commit"] = asyncio.Event()
    async with home.engine(flow(), lease=0.2) as engine:
        running = asyncio.create_task(engine.run_once(patience=0))
        async with asyncio.timeout(60):
            while not home.dst.calls["commit"]:
                await asyncio.sleep(0.01)
            (id,) = [each.id for each in (await home.transfers()).values()]
            await home.ledger.cancel([id], who="me", why="not wanted")
            summary = await running
    assert (summary.lost, summary.delivered) == (1, 0)
    assert await home.state("a") == "cancelled"
    assert home.dst.hold("a") is None


async def test_a_lease_that_is_lost_before_its_attempt_begins(home: House) -> None:
    """Claimed for hands that were busy: not a byte is read for it."""
    for number in range(8):
        await home.put(str(number))
    home.dst.gates["commit"] = asyncio.Event()
    beat, noticed = home.ledger.heartbeat, asyncio.Event()

    async def told(lease: Lease, seconds: float) -> Lease:
        try:
            return await beat(lease, seconds)
        except LeaseLost:
            noticed.set()
            raise

    home.ledger.heartbeat = told  # type: ignore[method-assign, assignment]
    async with home.engine(flow(), flow(name="g", source=Place("dst2")), transfers=8, lease=0.4) as engine:
        running = asyncio.create_task(engine.run_once(patience=0))
        async with asyncio.timeout(60):
            while home.dst.calls["commit"] < 7:
                await asyncio.sleep(0.01)
            waiting = (await home.transfers())["7", "dst"]
            assert (waiting.state, waiting.owner) == ("running", engine.owner)
            await home.ledger.cancel([waiting.id], who="me", why="wrong file")
            await noticed.wait()
            home.dst.gates.pop("commit").set()
            assert (await running).delivered == 7
    assert home.src.calls["read"] == 7
    assert await home.state("7") == "cancelled"


async def test_what_is_staged_after_the_lease_was_lost_is_removed(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has it by now has looked for it before it was there, and nobody looks again."""
    await home.put("a")
    slow, remove = NetStorageFault(action="upload", how="late"), NetStorageWriter._remove

    async def removes(self: NetStorageWriter) -> None:
        slow.released.set()
        await remove(self)

    monkeypatch.setattr(NetStorageWriter, "_remove", removes)
    async with FakeNetStorage() as server:
        server.faults.append(slow)
        home.places["dst"] = settings_of(server, monkeypatch).backend("dst")  # type: ignore[assignment]
        async with home.engine(flow(), lease=0.2) as engine, asyncio.timeout(60):
            running = asyncio.create_task(engine.run_once(patience=0))
            while not slow.struck:
                await asyncio.sleep(0.01)
            (id,) = [each.id for each in (await home.transfers()).values()]
            await home.ledger.cancel([id], who="me", why="not wanted")
            assert (await running).lost == 1
        assert server.requests["upload"] == 1
        assert server.peer().names() == set()


class _AtOnce(LayeredWriter):
    """Is sent and published in one, as a small file over FTP."""

    async def seal(self, expect: Expect) -> bytes | None:
        return None


async def test_what_is_sent_and_published_in_one_goes_with_the_lease(home: House) -> None:
    """Nothing names it in the ledger, so whoever has it by now may have looked before it was there."""
    await home.put("a")
    home.dst.gates["commit"] = asyncio.Event()
    begin = home.dst.begin_write

    async def begin_write(path: str, options: WriteOptions) -> Writer:
        return _AtOnce(await begin(path, options))

    home.dst.begin_write = begin_write  # type: ignore[method-assign]
    async with home.engine(flow(), lease=0.2) as engine, asyncio.timeout(60):
        running = asyncio.create_task(engine.run_once(patience=0))
        while not home.dst.calls["commit"]:
            await asyncio.sleep(0.01)
        (id,) = [each.id for each in (await home.transfers()).values()]
        await home.ledger.cancel([id], who="me", why="not wanted")
        assert (await running).lost == 1
    assert (home.dst.calls["commit"], home.dst.staged) == (1, [])


async def test_a_clock_that_jumps_ahead_is_no_second_publication(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own leases have ended by it: the older attempt is over before its successor begins."""
    monkeypatch.setattr(workers, "_LOOK_AGAIN", 0.01)
    for name in ("a", "b"):
        await home.put(name)
    home.dst.gates["commit"] = asyncio.Event()
    async with home.engine(flow(), transfers=4, lease=3600) as engine:
        running = asyncio.create_task(engine.run_once(patience=0))
        async with asyncio.timeout(60):
            while home.dst.calls["commit"] < 2:
                await asyncio.sleep(0.01)
            home.clock.move(7200)
            while home.dst.calls["commit"] < 4:
                await asyncio.sleep(0.01)
            home.dst.gates.pop("commit").set()
            await running
    published = home.dst.calls["publish"]
    assert (published, {*home.dst._files}) == (2, {"a", "b"})


async def test_a_store_copies_nothing_for_who_lost_the_lease(home: House) -> None:
    """No step lies between its copy and the file's being visible."""
    home.src.store = "one"
    await home.put("in/a")
    within = flow(source=Place("src", "in"), rules=(Rule(name="all", to=(Destination("src", "out/{name}"),)),))
    async with home.engine(within) as engine:
        await engine.discover("f")
    open_ = home.src.open

    async def slow() -> None:
        await open_()
        home.clock.move(61)
        assert await home.ledger.claim("thief")

    async with home.engine(within) as engine:
        home.src.open = slow  # type: ignore[method-assign]
        await engine.worker(["f"]).run(until_idle=True)
    assert ([each.what for each in home.said], list(home.src._files)) == (["lost"], ["in/a"])


async def test_who_was_stopped_while_it_announced_a_file_does_not_publish_it(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that slept: by its own clock, hours passed until the ledger had answered."""
    await home.put("a")
    monkeypatch.setattr("crossdock.engine.delivery.time", SimpleNamespace(monotonic=home.clock.seconds))
    staged, stolen = home.ledger.staged, list[Lease]()

    async def slept(lease: Lease, checkpoint: bytes | None) -> None:
        await staged(lease, checkpoint)
        home.clock.move(7200)
        stolen.extend(await home.ledger.claim("thief"))

    home.ledger.staged = slept  # type: ignore[method-assign]
    assert (await home.run(flow())).lost == len(stolen) == 1
    assert home.dst.hold("a") is None
    # Were what is recorded gone before the other has looked, it would seem to have been published.
    home.ledger.staged = staged  # type: ignore[method-assign]
    home.clock.move(61)
    assert (await home.run(flow())).delivered == 1
    assert (home.dst.hold("a"), home.dst.staged) == (b"data", [])


async def test_what_is_kept_to_be_resumed_goes_with_the_lease(home: House) -> None:
    """Whoever has it by then has swept up already, and found nothing yet."""
    await home.put("a", b"x" * 600_000)
    begin = home.dst.begin_write

    async def begin_write(path: str, options: WriteOptions) -> Writer:
        writer = await begin(path, options)
        write = writer.write

        async def breaks(data: bytes) -> None:
            await write(data)
            await home.ledger.cancel([1], who="me", why="not wanted")
            raise lost()

        writer.write = breaks  # type: ignore[method-assign]
        return writer

    home.dst.begin_write = begin_write  # type: ignore[method-assign]
    assert (await home.run(flow())).lost == 1
    assert (home.dst.calls["write"], home.dst.staged) == (1, [])


async def test_what_may_be_announced_is_not_taken_back(home: House) -> None:
    """The ledger has taken it in, and fails: were it removed, that would look as if it had been published."""
    await home.put("a")
    staged, begin = home.ledger.staged, home.dst.begin_write

    async def fails(lease: Lease, checkpoint: bytes | None) -> None:
        await staged(lease, checkpoint)
        raise LedgerUnavailable("full", hint="free some space")

    async def begin_write(path: str, options: WriteOptions) -> Writer:
        writer = await begin(path, options)
        suspend = writer.suspend

        async def stopped_meanwhile() -> None:
            running.cancel()
            for _ in range(20):
                await asyncio.sleep(0)
            await suspend()

        writer.suspend = stopped_meanwhile  # type: ignore[method-assign]
        return writer

    home.ledger.staged = fails  # type: ignore[method-assign]
    home.dst.begin_write = begin_write  # type: ignore[method-assign]
    running = asyncio.create_task(home.run(flow()))
    await asyncio.wait([running])
    assert running.cancelled()
    home.ledger.staged, home.dst.begin_write = staged, begin  # type: ignore[method-assign]
    assert (await home.run(flow())).delivered == 1
    assert (home.dst.hold("a"), home.dst.staged) == (b"data", [])


async def test_a_lost_lease_does_not_hide_a_stop(home: House) -> None:
    """Both at the same moment: nothing more is begun."""
    await home.put("a")
    home.dst.gates["commit"] = asyncio.Event()

    async def beat(lease: Lease, seconds: float) -> Lease:
        asyncio.get_running_loop().call_soon(running.cancel)
        raise LeaseLost("it is another's")

    home.ledger.heartbeat = beat  # type: ignore[method-assign, assignment]
    async with home.engine(flow(), lease=0.2) as engine:
        await engine.discover("f")
        running = asyncio.create_task(engine.worker(["f"]).run())
        ended, _ = await asyncio.wait([running], timeout=30)
        running.cancel()
        assert ended
    assert running.cancelled()
    assert home.dst.hold("a") is None


async def test_a_claim_under_way_is_given_back(home: House) -> None:
    await home.put("a")
    claim, asked, answered = home.ledger.claim, asyncio.Event(), asyncio.Event()

    async def slow(*owner: Any, **more: Any) -> list[Lease]:
        found = await claim(*owner, **more)
        asked.set()
        await answered.wait()
        return found

    async with home.engine(flow()) as engine:
        await engine.discover("f")
        home.ledger.claim = slow  # type: ignore[method-assign]
        running = asyncio.create_task(engine.worker(["f"]).run())
        await asked.wait()
        running.cancel()
        await asyncio.sleep(0)
        answered.set()
        await asyncio.wait([running])
    assert running.cancelled()
    assert await home.state("a") == "pending"
