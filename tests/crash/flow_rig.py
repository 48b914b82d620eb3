"""What the scenarios of `test_flows` share: drivers, an observer, and how a run is settled and looked at."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from crossdock.cli import leftovers
from crossdock.config.config import Location
from crossdock.storage.registry import new_storage, settings_class
from tests.crash.flow_observer import Observer
from tests.crash.flow_worlds import Driver, World, quiet
from tests.servers import Ceph, OpenSSH
from tests.storage.s3 import places as s3_places

SEED = int(os.environ.get("CROSSDOCK_SEED") or 20261121)
KILLS = int(os.environ.get("CROSSDOCK_KILLS", "300"))
AT_ONCE = 3
"""Scenarios at once in each worker of pytest: most of their time is spent waiting for servers."""
LEASE = 30.0
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
                place = Location(name, model, "", True)
                async for _ in leftovers.found(storage, place, clean=True, cleaning="", undecided=_none):
                    pass


async def _none() -> dict[str, int]:
    """No temporary lies in a bucket."""
    return {}


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
            assert world.left() == []
            reached: dict[str, int] = ended["reached"]
            return reached
    finally:
        rig.drivers.put(driver)


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
                    assert world.left() == []
            except AssertionError as error:
                raise AssertionError(f"killed at {point or after} ({nth}), then {again or 'not again'}") from error

    in_parallel(rig, count, scenario)
    missed = sorted(set(points) - set(struck))
    in_parallel(rig, len(missed), lambda number, driver: scenario(number, driver, missed[number]))
    missed = sorted(set(points) - set(struck))
    assert not missed, f"seed {SEED}: never killed at {missed}"
    print(f"{job}: {sum(struck.values())} kills in {count} scenarios at {len(struck)} points; {swept} leftovers swept")
