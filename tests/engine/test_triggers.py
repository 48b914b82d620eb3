"""Ticks: in time, once, and never two runs at once. Hints of a watched folder."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crossdock.engine.triggers import TICK, ticks
from crossdock.engine.watch import watch
from crossdock.flows.flow import Flow, Place, Rule, Trigger
from crossdock.ledger.base import LEASE
from crossdock.ledger.sqlite import SqliteLedger
from tests.engine.clocks import Clock


def flow(trigger: Trigger) -> Flow:
    return Flow(name="statements", source=Place("bank"), rules=(Rule(name="rules[0]"),), trigger=trigger)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: Clock) -> AsyncIterator[SqliteLedger]:
    async with SqliteLedger(tmp_path / "crossdock.db", clock=clock.seconds) as ledger:
        yield ledger


async def take(found: AsyncGenerator[datetime], count: int = 1) -> list[str]:
    return [f"{await anext(found):%d %H:%M:%S}" for _ in range(count)]


async def test_every_starts_at_once_and_then_in_time(ledger: SqliteLedger, clock: Clock) -> None:
    clock.move(61)
    found = ticks(flow(Trigger(every=300)), ledger, clock, clock.sleep)
    assert await take(found) == ["20 06:00:00"]
    assert clock.naps == []
    assert await take(found, 3) == ["20 06:05:00", "20 06:10:00", "20 06:15:00"]
    assert clock.now == datetime(2026, 11, 20, 6, 15, tzinfo=UTC)
    assert max(clock.naps) <= 30


async def test_cron_waits_for_its_time_the_first_time_only(ledger: SqliteLedger, clock: Clock) -> None:
    the_flow = flow(Trigger(cron="0 6,18 * * *", timezone="Europe/Berlin"))
    assert await take(ticks(the_flow, ledger, clock, clock.sleep)) == ["20 17:00:00"]
    assert clock.now == datetime(2026, 11, 20, 17, tzinfo=UTC)
    # The daemon was down for two days: four ticks are one.
    clock.move(2 * 86400)
    async with aclosing(ticks(the_flow, ledger, clock, clock.sleep)) as found:
        assert await take(found) == ["22 17:00:00"]
        assert clock.now == datetime(2026, 11, 22, 17, tzinfo=UTC)
    await asleep(the_flow, ledger, clock)
    # Restarted with nothing missed.
    assert await take(ticks(the_flow, ledger, clock, clock.sleep)) == ["23 05:00:00"]


@pytest.mark.parametrize("before", [Trigger(cron="0 6 * * *"), Trigger(every=86400)])
async def test_a_changed_line_waits_for_its_next_time(ledger: SqliteLedger, clock: Clock, before: Trigger) -> None:
    """What it would have started before it was written nobody missed; what the one before it missed is made up for."""
    old, new = flow(before), flow(Trigger(cron="30 5 * * *"))
    await asleep(old, ledger, clock)
    clock.move(86400 + 60)
    assert len(await asleep(old, ledger, clock)) == 1
    assert await asleep(new, ledger, clock) == []
    clock.move(86400)
    assert await asleep(new, ledger, clock) == ["22 05:30:00"]
    clock.move(86400)
    assert len(await asleep(old, ledger, clock)) == 1
    assert await asleep(new, ledger, clock) == []


@pytest.mark.parametrize("missed", [True, False])
async def test_a_month_is_not_too_long_to_be_remembered(ledger: SqliteLedger, clock: Clock, missed: bool) -> None:
    """Marks of the last tick are old by the time of the next; a tick that nobody took is taken, and none twice."""
    the_flow = flow(Trigger(cron="0 6 1 * *"))
    async with aclosing(ticks(the_flow, ledger, clock, clock.sleep)) as found:
        assert await take(found) == ["01 06:00:00"]
    clock.move(60)
    assert await asleep(the_flow, ledger, clock) == ["01 06:00:00"]
    clock.move(30 * 86400 + 3600)
    await ledger.prune()
    clock.move(3 * 86400 if missed else 3600)
    assert f"{clock.now:%m-%d}" == ("01-03" if missed else "12-31")
    assert await asleep(the_flow, ledger, clock) == (["01 06:00:00"] if missed else [])


async def test_ticks_of_long_ago_are_forgotten(ledger: SqliteLedger, clock: Clock) -> None:
    """A flow of every minute makes thousands of marks a day."""
    async with aclosing(ticks(flow(Trigger(every=60)), ledger, clock, clock.sleep)) as found:
        await take(found, 202)
        marks = await ledger.marks("statements", TICK)
    assert 240 < len(marks) < 260


async def asleep(the_flow: Flow, ledger: SqliteLedger, clock: Clock) -> list[str]:
    """What a scheduler takes until it waits for the next tick."""
    waits = asyncio.Event()
    taken: list[str] = []

    async def sleep(seconds: float) -> None:
        waits.set()
        await asyncio.Event().wait()

    async def scheduler() -> None:
        nonlocal taken
        async for tick in ticks(the_flow, ledger, clock, sleep):
            taken = [*taken, f"{tick:%d %H:%M:%S}"]

    task = asyncio.create_task(scheduler())
    await waits.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return taken


async def test_a_run_that_was_broken_off_is_made_by_who_comes_next(ledger: SqliteLedger, clock: Clock) -> None:
    """Not a day later."""
    the_flow = flow(Trigger(cron="0 6 * * *"))
    async with aclosing(ticks(the_flow, ledger, clock, clock.sleep)) as found:
        assert await take(found) == ["21 06:00:00"]
    assert await asleep(the_flow, ledger, clock) == ["21 06:00:00"]
    assert await asleep(the_flow, ledger, clock) == [], "that run did end"
    assert await take(ticks(the_flow, ledger, clock, clock.sleep)) == ["22 06:00:00"]


async def test_a_run_of_a_killed_scheduler_is_made_once_its_lease_is_over(ledger: SqliteLedger, clock: Clock) -> None:
    """Also by one that has lost the tick, and has no other for a day."""
    the_flow = flow(Trigger(cron="0 6 * * *"))
    killed = ticks(the_flow, ledger, clock, clock.sleep)
    assert await take(killed) == ["21 06:00:00"]
    clock.move(LEASE - 1)
    assert await asleep(the_flow, ledger, clock) == []
    assert await take(ticks(the_flow, ledger, clock, clock.sleep)) == ["21 06:00:00"]
    assert clock.now == datetime(2026, 11, 21, 6, 1, tzinfo=UTC)


async def test_a_run_that_another_has_taken_over_is_not_given_back(
    ledger: SqliteLedger, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """By one whose machine slept for longer than its lease."""
    caplog.set_level(logging.DEBUG, "crossdock")
    the_flow = flow(Trigger(cron="0 6 * * *"))
    slept = ticks(the_flow, ledger, clock, clock.sleep, lease=0.6)
    assert await take(slept) == ["21 06:00:00"]
    clock.move(1)
    other = ticks(the_flow, ledger, clock, clock.sleep)
    assert await take(other) == ["21 06:00:00"]
    async with asyncio.timeout(60):
        while "another scheduler has it now" not in caplog.text:
            await asyncio.sleep(0.01)
    await slept.aclose()
    assert await asleep(the_flow, ledger, clock) == []
    await other.aclose()


async def test_a_run_that_goes_on_is_left_to_its_scheduler(tmp_path: Path, clock: Clock) -> None:
    """A second one that starts while the first is in the middle of it does not begin it again."""
    the_flow = flow(Trigger(every=365 * 86400))
    taken: list[datetime] = []
    looks = asyncio.Event()

    async def nap(seconds: float) -> None:
        looks.set()
        await asyncio.sleep(0.01)

    async def second(other: SqliteLedger) -> None:
        async with aclosing(ticks(the_flow, other, clock, nap, lease=0.6)) as found:
            async for tick in found:
                taken[:] = [*taken, tick]

    path = tmp_path / "crossdock.db"
    async with SqliteLedger(path) as ledger, SqliteLedger(path) as other, asyncio.timeout(60):
        async with aclosing(ticks(the_flow, ledger, clock, nap, lease=0.6)) as found:
            await anext(found)
            began = asyncio.create_task(second(other))
            for number in range(1, 7):
                while not any(
                    each.key.endswith(f"/{999_999 - number}") for each in await ledger.marks("statements", TICK)
                ):
                    await asyncio.sleep(0.01)
                clock.move(0.5)
                for _ in range(2):
                    looks.clear()
                    await looks.wait()
            assert taken == []
        clock.move(0.6)
        while not taken:
            await asyncio.sleep(0.01)
        began.cancel()
        await asyncio.wait([began])
    assert len(taken) == 1, "what the first gave back was taken once"


async def test_a_run_of_many_hours_is_left_to_its_scheduler(ledger: SqliteLedger, clock: Clock) -> None:
    """Its source may be down overnight: its lease was made longer more often than one page of marks tells."""
    the_flow = flow(Trigger(cron="0 6 * * *"))
    found = ticks(the_flow, ledger, clock, clock.sleep)
    await anext(found)
    for number in range(1, 1501):
        clock.move(LEASE / 3)
        until = (clock.now + timedelta(seconds=LEASE)).isoformat()
        key = f"2026-11-21T06:00:00+00:00/{999_999 - number}"
        assert await ledger.mark("statements", TICK, key, value={"until": until})
    async with asyncio.timeout(60):
        assert await asleep(the_flow, ledger, clock) == []
    assert await take(found) == ["22 06:00:00"]
    marks = await ledger.marks("statements", TICK)
    assert [mark.key.rpartition("/")[2] for mark in marks] == ["000000", "999999", "999999"]


async def test_two_schedulers_take_each_tick_once(ledger: SqliteLedger, clock: Clock, tmp_path: Path) -> None:
    taken: list[datetime] = []
    end = datetime(2026, 11, 20, 7, tzinfo=UTC)

    async def nap(seconds: float) -> None:
        # Whoever is to wake first moves the clock.
        await asyncio.sleep(0)
        clock.move(min(seconds, 1))

    async def scheduler(own: SqliteLedger) -> None:
        async for tick in ticks(flow(Trigger(every=60)), own, clock, nap):
            if clock.now >= end:
                return
            taken.append(tick)

    async with SqliteLedger(tmp_path / "crossdock.db", clock=clock.seconds) as other:
        await asyncio.wait(
            [asyncio.create_task(scheduler(own)) for own in (ledger, other)], return_when=asyncio.FIRST_COMPLETED
        )
    assert len(taken) == len(set(taken)) == 60
    assert taken == sorted(taken)


async def test_runs_that_take_longer_than_the_period(ledger: SqliteLedger, clock: Clock) -> None:
    """Ticks during a run are one, and it is taken at once after the run."""
    found = ticks(flow(Trigger(every=60)), ledger, clock, clock.sleep)
    assert await take(found) == ["20 06:00:00"]
    clock.move(60 * 5 + 10)
    clock.naps.clear()
    assert await take(found) == ["20 06:05:00"]
    assert clock.naps == []
    assert await take(found) == ["20 06:06:00"]


async def test_jitter_is_bounded(ledger: SqliteLedger, clock: Clock) -> None:
    the_flow = flow(Trigger(every=600, jitter=60))
    async with aclosing(ticks(the_flow, ledger, clock, clock.sleep)) as found:
        for number in range(20):
            tick = await anext(found)
            late = (clock.now - tick).total_seconds()
            assert tick.minute % 10 == 0
            assert 0 <= late <= 60, number
    asked: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    found = ticks(the_flow, ledger, clock, clock.sleep, draw=draw)
    tick = await anext(found)
    assert (clock.now - tick).total_seconds() == 60
    assert set(asked) == {(0.0, 60.0)}


async def test_a_clock_that_is_set_back_doubles_nothing_and_stops_nothing(ledger: SqliteLedger, clock: Clock) -> None:
    jumps = [-7200.0]

    async def set_back(seconds: float) -> None:
        if clock.now == datetime(2026, 11, 20, 7, 0, 30, tzinfo=UTC) and jumps:
            clock.move(jumps.pop())
        await clock.sleep(seconds)

    found = ticks(flow(Trigger(cron="0,30 * * * *")), ledger, clock, set_back)
    assert await take(found, 2) == ["20 06:30:00", "20 07:00:00"]
    # 06:30 and 07:00 come again, and are known.
    assert await take(found, 4) == ["20 05:30:00", "20 06:00:00", "20 07:30:00", "20 08:00:00"]


async def test_a_clock_that_is_set_back_during_a_run_stops_nothing_either(ledger: SqliteLedger, clock: Clock) -> None:
    """The flow rested until its old time came again."""
    found = ticks(flow(Trigger(cron="0,30 * * * *")), ledger, clock, clock.sleep)
    assert await take(found, 2) == ["20 06:30:00", "20 07:00:00"]
    clock.move(-7200)
    assert await take(found, 4) == ["20 05:30:00", "20 06:00:00", "20 07:30:00", "20 08:00:00"]


async def test_old_ticks_are_forgotten_but_not_the_last(ledger: SqliteLedger, clock: Clock) -> None:
    found = ticks(flow(Trigger(every=60)), ledger, clock, clock.sleep)
    await take(found, 600)
    marks = await ledger.marks("statements", TICK, limit=1000)
    assert 200 < len(marks) < 660
    assert max(mark.key for mark in marks) == "2026-11-20T15:59:00+00:00/999999"


async def test_ticks_of_a_scheduler_that_was_stopped_are_forgotten(ledger: SqliteLedger, clock: Clock) -> None:
    """One that is started anew before it has dropped any, each time, would leave them all."""
    for _ in range(20):
        async with aclosing(ticks(flow(Trigger(every=60)), ledger, clock, clock.sleep)) as found:
            await take(found, 60)
    assert len(await ledger.marks("statements", TICK)) < 600


async def test_on_demand_there_are_none(ledger: SqliteLedger, clock: Clock) -> None:
    assert [tick async for tick in ticks(flow(Trigger()), ledger, clock, clock.sleep)] == []


async def test_a_watched_folder_gives_hints(tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    (folder / "deep").mkdir(parents=True)
    hints = watch(folder)
    try:
        await asyncio.wait_for(anext(hints), 60)
        for path in (folder / "a.csv", folder / "deep" / ".hidden~", folder / "node_modules"):
            path.write_bytes(b"x")
            await asyncio.wait_for(anext(hints), 60)
        # No change, no hint.
        waiting = asyncio.ensure_future(anext(hints))
        done, _ = await asyncio.wait([waiting], timeout=2.5)
        assert not done
        (folder / "deep" / "b.csv").write_bytes(b"y")
        await asyncio.wait_for(waiting, 60)
    finally:
        await hints.aclose()


async def test_a_folder_that_is_missing_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, naps = tmp_path / "inbox", list[float]()

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            folder.mkdir()

    hints = watch(folder, sleep=nap)
    try:
        with caplog.at_level(logging.WARNING):
            await asyncio.wait_for(anext(hints), 60)
    finally:
        await hints.aclose()
    assert naps == [60.0, 60.0]
    assert str(folder) in caplog.text


async def test_a_folder_that_is_made_anew_is_watched_again(tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()

    async def nap(seconds: float) -> None:
        assert not (folder / "a.csv").exists()

    hints = watch(folder, sleep=nap)
    try:
        await asyncio.wait_for(anext(hints), 60)
        folder.rename(tmp_path / "old")
        folder.mkdir()
        # That the old one went, and that the new one is watched.
        for _ in range(2):
            await asyncio.wait_for(anext(hints), 60)
        (folder / "a.csv").write_bytes(b"x")
        await asyncio.wait_for(anext(hints), 60)
    finally:
        await hints.aclose()
