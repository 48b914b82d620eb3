"""A run that waits for what others hold: until a lease of one who was killed ends, and for nobody who lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from crossdock.engine import outlast
from crossdock.engine.engine import Engine
from crossdock.ledger.base import Lease
from tests.engine.places import House, flow


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlast, "_LOOK_AGAIN", 0.01)


class Told:
    """What the run said before it waited; `then` happens in that moment."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.said: list[tuple[int, float]] = []
        self._then = then

    def __call__(self, number: int, seconds: float) -> None:
        self.said.append((number, seconds))
        self._then()


async def claimed(home: House, lease: float = 60.0, number: int = 1) -> list[Lease]:
    for each in range(number):
        await home.put(f"a{each}")
    async with home.engine(flow()) as engine:
        await engine.discover("f")
    leases = await home.ledger.claim("dead", lease=lease, limit=number)
    assert len(leases) == number
    return leases


async def test_what_a_killed_worker_holds_is_moved_when_its_lease_ends(home: House) -> None:
    await claimed(home, number=2)
    assert (await home.run(flow())).held == 2
    told = Told(lambda: home.clock.move(59))

    async def passes() -> None:
        while not told.said:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert not home.said, "its lease lasts"
        home.clock.move(1.5)

    async with asyncio.timeout(60), home.engine(flow()) as engine:
        passing = asyncio.create_task(passes())
        summary = await engine.run_once(patience=0, outlasting=told)
        await passing
    assert told.said == [(2, 60.0)]
    assert (summary.delivered, summary.held, summary.good) == (2, 0, True)
    assert [home.dst.hold(f"a{each}") for each in range(2)] == [b"data", b"data"]


async def test_what_a_killed_worker_had_delivered_is_finished(home: House) -> None:
    (lease,) = await claimed(home)
    await home.ledger.delivered(lease, {"target": "a0", "size": 4}, owed=True)
    async with asyncio.timeout(60), home.engine(flow()) as engine:
        summary = await engine.run_once(patience=0, outlasting=Told(lambda: home.clock.move(61)))
    assert (summary.followed, summary.held) == (1, 0)
    assert await home.state("a0") == "done"


async def test_who_lives_is_not_waited_for(home: House) -> None:
    """It shows by its heartbeat, by what it finishes, and by what it takes on next."""
    leases = await claimed(home, number=3)

    async def lives() -> None:
        await home.ledger.skipped(leases[0], "not wanted")
        await home.ledger.released(leases[1], "the worker was stopped")
        assert await home.ledger.claim("alive", lease=60.0)
        home.clock.move(1)
        await home.ledger.heartbeat(leases[2], 60.0)

    living: list[asyncio.Task[None]] = []
    told = Told(lambda: living.append(asyncio.create_task(lives())))
    async with asyncio.timeout(60), home.engine(flow()) as engine:
        summary = await engine.run_once(patience=0, outlasting=told)
    assert [task.result() for task in living] == [None]
    assert (told.said, summary.held, summary.delivered) == ([(3, 60.0)], 2, 0)


async def test_what_waits_for_its_next_attempt_by_then_is_counted(home: House) -> None:
    (lease,) = await claimed(home)
    failing: list[asyncio.Task[None]] = []
    told = Told(lambda: failing.append(asyncio.create_task(home.ledger.retry_in(lease, 30.0, "the disk is full"))))
    async with asyncio.timeout(60), home.engine(flow()) as engine:
        summary = await engine.run_once(patience=0, outlasting=told)
    assert (summary.waiting, summary.held, summary.again_in) == (1, 0, 30.0)


async def test_a_lease_of_an_hour_is_not_waited_for(home: House) -> None:
    await claimed(home, lease=3600.0)
    told = Told()
    async with asyncio.timeout(60), home.engine(flow()) as engine:
        summary = await engine.run_once(patience=0, outlasting=told)
    assert (told.said, summary.held) == ([], 1)


async def test_nobody_is_waited_for_where_nobody_holds_anything(home: House) -> None:
    await home.put("a")
    told = Told()
    async with home.engine(flow()) as engine:
        summary = await engine.run_once(patience=0, outlasting=told)
    assert (told.said, summary.delivered) == ([], 1)


async def test_what_nobody_takes_over_is_not_waited_for_forever(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as where an endpoint is left alone just then."""
    await claimed(home)

    async def nothing(*_: object) -> None:
        home.clock.move(10)

    monkeypatch.setattr(Engine, "_work_off", nothing)
    async with asyncio.timeout(60), home.engine(flow()) as engine:
        assert (await engine.run_once(patience=0, outlasting=Told())).held == 1
