"""The same with the ledger in PostgreSQL: workers are killed at every step, and so is the database's server."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta

import pytest

from crossdock.cli import leftovers
from tests.crash.flow_rig import LEASE, Rig, in_parallel, killed_anywhere, settle, settled, watched
from tests.crash.flow_worlds import PROBE, Driver
from tests.servers import Postgres

pytestmark = pytest.mark.usefixtures("environment")

STOPS = ["R1:before", "R1:after", "R3:after", "R4:before", "R5:chunk", "R7:before", "R7:after", "R8:after", "R9:after"]
STOPS += ["R10:before", "R10:after", "R11:after", "R12:before", "R12:after"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("job", ["pull"])
def test_killed_anywhere(rig: Rig, postgres: Postgres, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_AGE", timedelta(days=-1))
    killed_anywhere(rig, job, 0, dsn=postgres.dsn)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("postgres")
@pytest.mark.parametrize("job", ["pull"])
def test_the_server_crashes(rig: Rig, job: str) -> None:
    """At a step of a worker, which is told or finds it working again; nothing is lost, nothing comes twice."""
    told = 0
    with Postgres() as server:

        def scenario(number: int, driver: Driver) -> None:
            nonlocal told
            with ExitStack() as stack:
                world = rig.world(job, dsn=server.dsn)
                watched(stack, world, rig)
                ended = driver.run(world.order(point=STOPS[number], nth=1 + number % 2, how="stop", owner="first"))
                if "stopped" in ended:
                    server.crash()
                    if number % 3:
                        server.start_again()
                        ended = driver.go_on()
                    else:
                        ended = driver.go_on()
                        server.start_again()
                    told += "unavailable" in ended
                assert ended["ended"] == 0, ended
                try:
                    world.check_sources()
                    settle(world, driver, later=LEASE)
                    settled(world, driver, rig)
                    assert not [name for name in world.left() if PROBE not in name]
                except AssertionError as error:
                    raise AssertionError(f"the server crashed at {STOPS[number]}: {ended}") from error

        in_parallel(rig, len(STOPS), scenario, at_once=1)
    assert told
