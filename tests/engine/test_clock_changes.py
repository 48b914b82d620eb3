"""A wall clock that is changed while files settle, and while archived ones are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossdock.flows.flow import After, Settle
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.storage.local import LocalSettings
from tests.engine.bench import DAY, Bench, Fragile
from tests.engine.clocks import Clock
from tests.engine.places import House, flow

HOUR = 3600.0
SLOW = flow(settle=Settle(sightings=2, seconds=30.0))


async def test_a_clock_that_is_set_back_holds_a_settling_file_no_longer_than_its_time(home: House) -> None:
    await home.put("a")
    assert (await home.run(SLOW)).settling == 1
    home.clock.move(-2 * HOUR)
    assert (await home.run(SLOW)).settling == 1
    home.clock.move(29)
    assert (await home.run(SLOW)).settling == 1, "what passed before the jump is not known"
    home.clock.move(1)
    assert (await home.run(SLOW)).delivered == 1


async def test_a_clock_that_is_set_ahead_does_not_let_a_file_through_that_grows(home: House) -> None:
    """The time that seems to have passed counts; that the file is the same as before is still asked for."""
    await home.put("a")
    assert (await home.run(SLOW)).settling == 1
    await home.put("a", b"grown")
    home.clock.move(2 * HOUR)
    assert (await home.run(SLOW)).settling == 1
    await home.put("a", b"grown again")
    home.clock.move(2 * HOUR)
    assert (await home.run(SLOW)).settling == 1
    home.clock.move(30)
    assert (await home.run(SLOW)).delivered == 1
    assert home.dst.hold("a") == b"grown again"


@pytest.mark.parametrize("start", ["2026-03-28T12:00:00", "2026-10-24T12:00:00"])
async def test_keep_counts_time_that_passes(tmp_path: Path, start: str) -> None:
    """Two days are 48 hours, also in the night in which the zone of the machine or of the flow changes its clocks."""
    clock = Clock(start)
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    after = After(archive=".done", keep=2 * DAY)
    async with SqliteLedger(tmp_path / "crossdock.db", clock=clock.seconds) as ledger:
        bench = Bench(
            Fragile(LocalSettings(root=tmp_path / "source").backend("bank")), tmp_path / "target", ledger, clock
        )
        async with bench.storage:
            (lease,) = await bench.delivered(await bench.write())
            assert (await bench.follow(lease, after))[1]
            clock.move(2 * DAY - 1)
            assert await bench.actions(after).sweep() == 0
            clock.move(-2 * HOUR)
            assert await bench.actions(after).sweep() == 0, "nothing is removed earlier by a clock that is set back"
            clock.move(2 * HOUR + 2)
            assert await bench.actions(after).sweep() == 1
