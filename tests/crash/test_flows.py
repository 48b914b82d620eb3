"""kill −9 before and after every step of the protocol, at random bytes and moments: no file is lost, none comes twice.

An engine in a process of its own (`flow_driver`) is killed at a named point, or stopped past its lease, or its ledger
fails; then others finish the work, and the invariants are looked at from outside (`flow_worlds`):
(I1) every file ends in exactly one state, (I2) content is the source's, (I3) no reader saw anything else under a final
name, (I4) one visible publication, (I5) no temporary and no upload is left, (I6) no source is touched too early.

Seeded: `CROSSDOCK_SEED` throws anew, as `make crash` does each time; `CROSSDOCK_KILLS` is how many there are in all.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta

import pytest

from crossdock.cli import leftovers
from tests.crash.flow_driver import JOBS
from tests.crash.flow_rig import KILLS, LEASE, SEED, Rig, in_parallel, killed_anywhere, settle, settled, watched
from tests.crash.flow_worlds import CONTENTS, PROBE, Driver

pytestmark = pytest.mark.usefixtures("environment")


@pytest.mark.timeout(60 + 3 * KILLS)
@pytest.mark.parametrize("job", list(JOBS))
def test_killed_anywhere(rig: Rig, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_AGE", timedelta(days=-1))
    killed_anywhere(rig, job, KILLS // len(JOBS))


HANDOVER = ["R3:after", "R4:before", "R5:chunk", "R6:after", "R7:before", "R7:after", "R9:after", "R10:before"]
HANDOVER += ["R10:after", "R11:before", "R11:after", "R12:before", "R12:after", "delete:before", "rename:before"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("job", ["pull", "pull-delete", "push", "mirror", "fan-out"])
def test_stopped_past_its_lease(rig: Rig, job: str) -> None:
    """SIGSTOP at a step, SIGCONT when another has done the work: nothing is published again, or recorded."""
    print(f"CROSSDOCK_SEED={SEED}")
    lease = 0.5
    stopped: Counter[str] = Counter()

    def scenario(number: int, driver: Driver) -> None:
        point = HANDOVER[number]
        draw = random.Random(f"{SEED}:{job}:{point}")
        other = rig.drivers.get()
        try:
            with ExitStack() as stack:
                world = rig.world(job)
                watched(stack, world, rig)
                nth = draw.randint(1, 2)
                # One at a time: else another of its transfers may be stopped while it is being published.
                order = world.order(point=point, nth=nth, how="stop", owner="late", lease=lease, transfers=1)
                ended = driver.run(order)
                if "stopped" not in ended:
                    return
                stopped[point] += 1
                held = {row["id"] for row in world.rows() if row["owner"] == "late"}
                # Its leases end within a second: the clocks of those who take over are that much ahead.
                time.sleep(lease / 2)
                settle(world, other, lease=lease)
                before = {id: world.events(id) for id in held}
                ended = driver.go_on()
                assert ended["ended"] == 0, ended
                try:
                    for id, events in before.items():
                        assert world.events(id) == events, "the late worker recorded something"
                    settled(world, other, rig, lease=lease)
                    assert not [name for name in world.left() if PROBE not in name]
                except AssertionError as error:
                    raise AssertionError(f"stopped at {point} ({nth}); {ended}") from error
        finally:
            rig.drivers.put(other)

    in_parallel(rig, len(HANDOVER), scenario, at_once=1)
    assert len(stopped) > len(HANDOVER) // 2, stopped


@pytest.mark.timeout(300)
@pytest.mark.parametrize("job", ["fan-in", "mirror"])
def test_two_workers_on_one_ledger(rig: Rig, job: str) -> None:
    contents = {f"{number:03}.dat": f"{number}".encode() * number for number in range(60)}

    def scenario(number: int, driver: Driver) -> None:
        other = rig.drivers.get()
        try:
            with ExitStack() as stack:
                world = rig.world(job, contents=contents, overlaps=True)
                watched(stack, world, rig)
                world.order()
                with ThreadPoolExecutor(2) as pool:
                    runs = [
                        pool.submit(each.run, world.order(owner=name)) for each, name in ((driver, "a"), (other, "b"))
                    ]
                    ended = [run.result() for run in runs]
                assert [each["ended"] for each in ended] == [0, 0], ended
                assert not [each for each in ended if "unavailable" in each], ended
                assert sum(each["delivered"] for each in ended) == len(contents) * len(world.targets)
                settled(world, driver, rig)
        finally:
            rig.drivers.put(other)

    in_parallel(rig, 2, scenario, at_once=1)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("job", "kills"), [("mirror", 4), ("fan-in", 6)])
def test_a_file_that_kills_its_workers(rig: Rig, job: str, kills: int) -> None:
    """It fails after so many rescues, leaves nothing behind, and keeps nobody from the others."""
    poison = "big.bin"

    def scenario(number: int, driver: Driver) -> None:
        with ExitStack() as stack:
            world = rig.world(job)
            watched(stack, world, rig)
            deaths = 0
            for turn in range(12):
                ended = driver.run(world.order(poison=poison, later=turn * (LEASE + 1)))
                deaths += ended["ended"] < 0
                if ended["ended"] == 0:
                    break
            assert deaths == kills
            rows = world.rows()
            assert {(row["path"], row["state"]) for row in rows if row["path"] != poison} == {
                (path, "done") for path in CONTENTS if path != poison
            }
            for failed in [row for row in rows if row["path"] == poison]:
                assert (failed["state"], failed["checkpoint"]) == ("failed", None)
                assert "its lease ended 4 times in a row" in failed["error"]
            folders = [world.root(target) for target in world.targets if target != "lake"]
            assert not [path for folder in folders for path in folder.rglob(".crossdock-*")]
            assert all(each.startswith("upload ") for each in world.left())  # without a part, as `left` sees to

    in_parallel(rig, 1, scenario)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("hours", [2, -2])
@pytest.mark.parametrize("job", ["pull-delete", "push"])
def test_clocks_jump(rig: Rig, job: str, hours: int) -> None:
    """The clocks of ledger and engine jump at a step, and it is killed at another; nothing is lost or doubled."""
    points = ["R1:before", "R3:after", "R5:chunk", "R7:after", "R10:before", "R11:after"]

    def scenario(number: int, driver: Driver) -> None:
        with ExitStack() as stack:
            world = rig.world(job)
            watched(stack, world, rig)
            jump = hours * 3600.0
            ended = driver.run(world.order(point=points[number], how="jump", jump=jump, nth=1))
            assert ended["ended"] == 0, ended
            # Somebody whose clock never jumped goes on, later than every lease and wait of the other time.
            settle(world, driver, later=max(jump, 0.0))
            settled(world, driver, rig, later=7200.0)

    in_parallel(rig, len(points), scenario)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR])
@pytest.mark.parametrize("job", ["pull-delete", "fan-in"])
def test_the_ledger_fails(rig: Rig, job: str, code: int) -> None:
    """At its nth statement: the run stops and says so, or goes on; the next one completes."""
    driver = rig.drivers.get()
    try:
        calm = rig.world(job)
        statements = driver.run(calm.order())["statements"]
        calm.remove()
    finally:
        rig.drivers.put(driver)
    draw = random.Random(f"{SEED}:{job}:{code}")
    count = min(statements, max(10, KILLS // 12))
    places = sorted(draw.sample(range(1, statements + 1), count))
    unavailable = 0

    def scenario(number: int, driver: Driver) -> None:
        nonlocal unavailable
        with ExitStack() as stack:
            world = rig.world(job)
            watched(stack, world, rig)
            ended = driver.run(world.order(how="fail", nth=places[number], code=code))
            assert ended["ended"] == 0, ended
            unavailable += "unavailable" in ended
            try:
                world.check_sources()
                settle(world, driver, later=LEASE)
                settled(world, driver, rig)
                assert not [name for name in world.left() if PROBE not in name]
            except AssertionError as error:
                raise AssertionError(f"statement {places[number]} failed: {ended}") from error

    in_parallel(rig, count, scenario)
    assert unavailable
