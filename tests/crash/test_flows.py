"""kill −9 before and after every step of the protocol, at random bytes and moments: no file is lost, none comes twice.

An engine in a process of its own (`flow_driver`) is killed at a named point, or stopped past its lease, or its ledger
fails; then others finish the work, and the invariants are looked at from outside (`flow_worlds`):
(I1) every file ends in exactly one state, (I2) content is the source's, (I3) no reader saw anything else under a final
name, (I4) one visible publication, (I5) no temporary and no upload is left, (I6) no source is touched too early.

Seeded: `CROSSDOCK_SEED` repeats a run, `CROSSDOCK_KILLS` is how many there are in all (`make crash RUNS=…`).
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import pytest

from crossdock.cli import leftovers
from crossdock.config.config import Location
from crossdock.storage.registry import new_storage, settings_class
from tests.crash.flow_driver import JOBS
from tests.crash.flow_worlds import CONTENTS, PROBE, Driver, Observer, World, quiet
from tests.servers import Ceph, OpenSSH
from tests.storage import s3_places

SEED = int(os.environ.get("CROSSDOCK_SEED") or random.SystemRandom().randrange(1 << 32))
KILLS = int(os.environ.get("CROSSDOCK_KILLS", "300"))
AT_ONCE = 3
"""Scenarios at once in each worker of pytest: most of their time is spent waiting for servers."""
LEASE = 30.0
STEPS = [f"R{step}:{side}" for step in (0, 1, 3, 4, 6, 7, 8, 9, 10, 11, 12) for side in ("before", "after")]
PAIRS = [
    (first, second) for first in ("R7:after", "R8:before", "R8:after") for second in ("discard:after", "R10:recovered")
]
"""Kills of the one who cleans up after a kill."""


@dataclass
class Rig:
    """What the scenarios of one worker of pytest share."""

    openssh: OpenSSH
    ceph: Ceph
    peer: s3_places.BotoPeer
    disk: Path
    observer: Observer
    drivers: SimpleQueue[Driver] = field(default_factory=SimpleQueue)
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def world(self, job: str, **more: Any) -> World:
        with self.lock:
            self.count += 1
            name = f"{job}-{os.getpid()}-{self.count}"
        return World(job, name, self.openssh, self.ceph, self.peer, self.disk, **more)


@pytest.fixture(scope="session")
def rig(openssh: OpenSSH, ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    keys = {"AWS_ACCESS_KEY_ID": ceph.access_key, "AWS_SECRET_ACCESS_KEY": ceph.secret_key}
    observer = Observer()
    with s3_places.bucket(ceph, versioned=True) as peer:
        found = Rig(openssh, ceph, peer, tmp_path_factory.mktemp("flows"), observer)
        drivers = [Driver(keys) for _ in range(AT_ONCE)]
        for driver in drivers:
            found.drivers.put(driver)
        try:
            yield found
        finally:
            observer.close()
            for driver in drivers:
                driver.close()


def settle(world: World, driver: Driver, *, lease: float = LEASE, later: float = 0.0) -> None:
    """Others work until nothing is open; each comes after the leases that it finds have ended."""
    for turn in range(1, 7):
        quiet(urlsplit(world.ceph.endpoint_url).port or 0)
        ended = driver.run(world.order(owner=f"helper {turn}", lease=lease, later=later + turn * (lease + 1)))
        assert ended["ended"] == 0, ended
        world.check_sources()
        rows = world.rows()
        if rows and not world.open():
            return
    raise AssertionError(f"still open: {world.open()}")


def settled(world: World, driver: Driver, rig: Rig, *, lease: float = LEASE, later: float = 0.0) -> None:
    """The invariants at the end, and that another run has nothing to do."""
    world.check_end()
    ended = driver.run(world.order(owner="afterwards", later=later + 100 * lease, lease=lease))
    assert (ended["ended"], ended["delivered"], ended["said"]) == (0, 0, []), ended
    world.check_end()
    rig.observer.drain()
    for target in world.targets:
        for path in world.expected(target):
            if world.endpoints[target]["type"] != "s3":
                assert rig.observer.published[path] == 1, f"{path}: {rig.observer.published[path]} times"
    assert not rig.observer.wrong, rig.observer.wrong


async def clean(world: World) -> None:
    """What `crossdock doctor --clean` does about uploads, once they are old enough."""
    for name, settings in world.endpoints.items():
        if settings["type"] == "s3":
            model = settings_class("s3").model_validate(settings)
            async with new_storage(name, model) as storage:
                async for _ in leftovers.found(storage, Location(name, model, "", True), clean=True):
                    pass


@pytest.fixture(autouse=True)
def environment(ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ceph.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ceph.secret_key)


def watched(stack: ExitStack, world: World, rig: Rig) -> None:
    stack.callback(world.remove)
    for target in world.targets:
        if world.endpoints[target]["type"] != "s3":
            stack.enter_context(rig.observer.on(world.root(target), world.expected(target)))


def in_parallel(rig: Rig, count: int, scenario: Callable[[int, Driver], None], *, at_once: int = AT_ONCE) -> None:
    """All scenarios, several at once; every failure is told with its number."""
    failures: list[str] = []

    def one(number: int) -> None:
        if failures:
            return
        driver = rig.drivers.get()
        try:
            scenario(number, driver)
        except Exception:  # noqa: BLE001 - told by the thread that waits
            failures.append(f"seed {SEED}, scenario {number}: {traceback.format_exc()}")
        finally:
            rig.drivers.put(driver)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(count)))
    assert not failures, "\n".join(failures)


def in_peace(rig: Rig, job: str, **more: Any) -> dict[str, int]:
    """A run that nobody disturbs; which points it reaches how often. `more`: of the world."""
    driver = rig.drivers.get()
    try:
        with ExitStack() as stack:
            world = rig.world(job, **more)
            watched(stack, world, rig)
            ended = driver.run(world.order())
            assert ended["ended"] == 0, ended
            settled(world, driver, rig)
            assert not world.left()
            reached: dict[str, int] = ended["reached"]
            return reached
    finally:
        rig.drivers.put(driver)


@pytest.mark.timeout(60 + 3 * KILLS)
@pytest.mark.parametrize("job", list(JOBS))
def test_killed_anywhere(rig: Rig, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_AGE", timedelta(days=-1))
    killed_anywhere(rig, job, KILLS // len(JOBS))


def killed_anywhere(rig: Rig, job: str, kills: int, **more: Any) -> None:
    """At least so many, and one at each point. `more`: of the worlds."""
    print(f"CROSSDOCK_SEED={SEED}")
    port = urlsplit(rig.ceph.endpoint_url).port or 0
    reached = in_peace(rig, job, **more)
    points = sorted(reached)
    assert {"R0:after", "R1:before", "R1:after", "R3:before", "R3:after", "R4:before", "R9:after", "R10:before"} <= {
        *points
    }
    count = max(len(points) + len(PAIRS), kills)
    struck: Counter[str] = Counter()
    swept = 0

    def scenario(number: int, driver: Driver, certain: str = "") -> None:
        nonlocal swept
        draw = random.Random(f"{SEED}:{job}:{certain}:{number}")
        after = 0.0
        if number < len(points):
            point = points[number]
        elif draw.random() < 0.3:
            point, after = "", draw.uniform(0.02, 0.6)
        else:
            point = draw.choice(points)
        # Not all that a calm run reaches is reached every time.
        nth = draw.randint(1, max(1, reached[point] * 2 // 3)) if point else 1
        again, times = draw.choice(["", "", "discard:after", "discard:before", *points]), draw.randint(1, 3)
        if len(points) <= number < len(points) + len(PAIRS):
            point, again = PAIRS[number - len(points)]
            after, nth, times = 0.0, 1, 1
        if certain:
            point, after, nth = certain, 0.0, 1
        with ExitStack() as stack:
            world = rig.world(job, **more)
            watched(stack, world, rig)
            ended = driver.run(world.order(point=point, nth=nth, after=after, owner="first"))
            if ended["ended"] < 0:
                struck[ended.get("struck", "at random")] += 1
                quiet(port)
            else:
                assert ended["ended"] == 0, ended
            world.check_sources()
            if again:
                ended = driver.run(world.order(point=again, nth=times, owner="second", later=LEASE + 1))
                assert ended["ended"] in (0, -9), ended
                struck["twice"] += ended["ended"] < 0
                quiet(port)
                world.check_sources()
            try:
                settle(world, driver, later=2 * LEASE)
                settled(world, driver, rig)
                if left := world.left():
                    swept += len(left)
                    asyncio.run(clean(world))
                    assert not world.left()
            except AssertionError as error:
                raise AssertionError(f"killed at {point or after} ({nth}), then {again or 'not again'}") from error

    in_parallel(rig, count, scenario)
    missed = sorted(set(points) - set(struck))
    in_parallel(rig, len(missed), lambda number, driver: scenario(number, driver, missed[number]))
    missed = sorted(set(points) - set(struck))
    assert not missed, f"seed {SEED}: never killed at {missed}"
    print(f"{job}: {sum(struck.values())} kills in {count} scenarios at {len(struck)} points; {swept} leftovers swept")


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


@pytest.mark.timeout(120)
@pytest.mark.parametrize("job", ["fan-in", "mirror"])
def test_two_workers_on_one_ledger(rig: Rig, job: str) -> None:
    contents = {f"{number:03}.dat": f"{number}".encode() * number for number in range(60)}

    def scenario(number: int, driver: Driver) -> None:
        other = rig.drivers.get()
        try:
            with ExitStack() as stack:
                world = rig.world(job, contents=contents)
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


@pytest.mark.timeout(120)
def test_a_file_that_kills_its_workers(rig: Rig) -> None:
    """It fails after so many rescues, and keeps nobody from the others."""
    poison = "small.csv"

    def scenario(number: int, driver: Driver) -> None:
        with ExitStack() as stack:
            world = rig.world("mirror")
            watched(stack, world, rig)
            deaths = 0
            for turn in range(8):
                ended = driver.run(world.order(poison=poison, later=turn * (LEASE + 1)))
                deaths += ended["ended"] < 0
                if ended["ended"] == 0:
                    break
            assert deaths == 4
            states = {row["path"]: row["state"] for row in world.rows()}
            assert states.pop(poison) == "failed"
            assert states == dict.fromkeys(sorted(set(CONTENTS) - {poison}), "done")
            failed = next(row for row in world.rows() if row["path"] == poison)
            assert "its lease ended 4 times in a row" in failed["error"]

    in_parallel(rig, 1, scenario)


@pytest.mark.timeout(240)
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
