"""Leases that are kept by heartbeats, and a ledger that is slow or fails under them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from crossdock.errors import LedgerUnavailable
from crossdock.ledger.base import Lease
from tests.engine.places import House, flow


async def test_heartbeats_keep_a_lease(home: House) -> None:
    await home.put("a")
    home.dst.gates["commit"] = asyncio.Event()
    beat, kept = home.ledger.heartbeat, asyncio.Event()

    async def told(lease: Lease, seconds: float) -> Lease:
        found = await beat(lease, seconds)
        kept.set()
        return found

    home.ledger.heartbeat = told  # type: ignore[method-assign, assignment]
    async with home.engine(flow(), lease=0.2) as engine:
        running = asyncio.create_task(engine.run_once(patience=0))
        async with asyncio.timeout(60):
            for _ in range(6):
                kept.clear()
                await kept.wait()
                home.clock.move(0.1)
                assert await home.ledger.claim("thief") == []
            home.dst.gates.pop("commit").set()
            assert (await running).delivered == 1


async def test_a_slow_ledger_keeps_every_lease(home: House) -> None:
    """Of many transfers under way: none waits until all the others were asked for."""
    for number in range(16):
        await home.put(f"a{number}")
    home.dst.gates["commit"] = asyncio.Event()
    beat, asked, full = home.ledger.heartbeat, set[int](), asyncio.Event()

    async def slow(lease: Lease, seconds: float) -> Lease:
        asked.add(lease.id)
        if len(asked) == 16:
            full.set()
        await full.wait()
        return await beat(lease, seconds)

    home.ledger.heartbeat = slow  # type: ignore[method-assign, assignment]
    async with home.engine(flow(), lease=0.2) as engine, asyncio.timeout(60):
        running = asyncio.create_task(engine.run_once(patience=0))
        await full.wait()
        home.dst.gates.pop("commit").set()
        assert (await running).delivered == 16


@pytest.mark.parametrize("again", [True, False])
async def test_a_ledger_that_fails_ends_what_it_cannot_keep(home: House, again: bool) -> None:
    """Not at the first failure: the lease lasts a while."""
    await home.put("a")
    home.dst.gates["commit"] = asyncio.Event()
    beat, failed = home.ledger.heartbeat, asyncio.Event()

    async def fails(lease: Lease, seconds: float) -> Lease:
        if again and failed.is_set():
            return await beat(lease, seconds)
        failed.set()
        raise LedgerUnavailable("full", hint="free some space")

    home.ledger.heartbeat = fails  # type: ignore[method-assign, assignment]
    # A machine that stands still for a moment is not to be taken for a ledger that goes on failing.
    async with home.engine(flow(), lease=4.0 if again else 0.2) as engine, asyncio.timeout(60):
        running = asyncio.create_task(engine.run_once(patience=0))
        await failed.wait()
        if again:
            home.dst.gates.pop("commit").set()
        summary = await running
    assert (summary.delivered, summary.lost) == (again, not again)
    assert home.dst.hold("a") == (b"data" if again else None)


@pytest.mark.parametrize("again", [True, False])
async def test_an_outcome_that_cannot_be_recorded_stops_no_others(home: House, again: bool) -> None:
    """It is given back, if the ledger is there again; else the run says at its end that it is not known."""
    for name in ("a", "b", "c"):
        await home.put(name)
    delivered, released = home.ledger.delivered, home.ledger.released

    async def fails(lease: Lease, receipt: Mapping[str, Any], *, owed: bool = True) -> None:
        if lease.transfer.entry.path == "a":
            raise LedgerUnavailable("full", hint="free some space")
        await delivered(lease, receipt, owed=owed)

    async def fails_too(lease: Lease, why: str, *, seconds: float = 0.0, others: int = 0) -> None:
        if not again:
            raise LedgerUnavailable("full", hint="free some space")
        await released(lease, why, seconds=seconds, others=others)

    home.ledger.delivered = fails  # type: ignore[method-assign]
    home.ledger.released = fails_too  # type: ignore[method-assign]
    if again:
        summary = await home.run(flow())
        assert (summary.delivered, summary.lost, summary.waiting, summary.good) == (2, 1, 1, False)
    else:
        with pytest.raises(LedgerUnavailable, match="full"):
            await home.run(flow())
    assert [await home.state(name) for name in "abc"] == ["pending" if again else "running", "done", "done"]
    home.ledger.delivered, home.ledger.released = delivered, released  # type: ignore[method-assign]
    home.clock.move(61)
    assert (await home.run(flow())).delivered == 1, "what was published is found, and not sent again"
    assert home.dst.calls["publish"] == 3


async def test_a_ledger_that_fails_is_told_once(home: House, caplog: pytest.LogCaptureFixture) -> None:
    """Not for each transfer under way; and once more after it had worked again."""
    for name in "abcdef":
        await home.put(name)
    delivered, order = home.ledger.delivered, []

    async def fails(lease: Lease, receipt: Mapping[str, Any], *, owed: bool = True) -> None:
        order.append(lease)
        if len(order) != 4:
            raise LedgerUnavailable("full", hint="free some space")
        await delivered(lease, receipt, owed=owed)

    home.ledger.delivered = fails  # type: ignore[method-assign]
    async with home.engine(flow(), transfers=1) as engine:
        summary = await engine.run_once(patience=0)
    assert (summary.delivered, summary.lost) == (1, 5)
    assert caplog.messages == ["full. Next: free some space"] * 2


async def test_the_end_of_an_attempt_is_no_lost_lease(home: House, caplog: pytest.LogCaptureFixture) -> None:
    """A heartbeat that is on its way when its transfer ends finds no lease: nobody has to hear of that."""
    for name in ("a", "b", "c", "d"):
        await home.put(name)
    home.dst.gates["commit"] = asyncio.Event()
    beat, asked, answered = home.ledger.heartbeat, asyncio.Event(), asyncio.Event()
    told: list[str] = []

    async def late(lease: Lease, seconds: float) -> Lease:
        asked.set()
        while not told:
            await asyncio.sleep(0.01)
        try:
            return await beat(lease, seconds)
        finally:
            answered.set()

    async with home.engine(flow(), lease=0.2) as engine, asyncio.timeout(60):
        await engine.discover("f")
        worker = engine.worker(["f"], report=lambda delivery: told.append(delivery.what))
        running = asyncio.create_task(worker.run())
        while home.dst.calls["commit"] < 4:
            await asyncio.sleep(0.01)
        # Not before: on a slow machine an attempt that records what it staged asks for its own lease, and would wait.
        home.ledger.heartbeat = late  # type: ignore[method-assign, assignment]
        await asked.wait()
        home.dst.gates.pop("commit").set()
        await answered.wait()
        worker.stop()
        await running
    assert told == ["delivered"] * 4
    assert not caplog.records
