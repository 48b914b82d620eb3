"""Histories: lists of operations, played with real engines between endpoints that a witness watches."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from crossdock.engine import saved
from crossdock.engine.engine import Engine
from crossdock.errors import CrossdockError, LedgerUnavailable
from crossdock.flows.explain import retriable
from crossdock.flows.flow import Place as Location
from crossdock.ledger.base import OPEN, Ledger, Query, State, Transfer
from crossdock.storage.base import Backend
from crossdock.storage.memory import MemorySettings
from crossdock.storage.shared import SharedReads
from crossdock.storage.storage import Storage
from tests.engine.clocks import Clock
from tests.histories.configuration import ARCHIVES, FIRST, flow_of
from tests.histories.contents import MEMBERS, packed, plain
from tests.histories.places import Place
from tests.histories.process import Desk, Eye, Killed, Process, happenings
from tests.histories.served import Shelf
from tests.histories.witness import Witness
from tests.histories.world import World

__all__ = ["Failure", "Operation", "play"]

Operation = tuple[Any, ...]
PATHS = ("a.csv", "b.csv", "d/a.csv", "d/b.csv", "d")


class Failure(AssertionError):
    """What went wrong, and all that led to it."""


class Game:
    """One history."""

    def __init__(self, first: dict[str, Any], world: World, ledger: Ledger, clock: Clock) -> None:
        self.config = {**FIRST, **first}
        self.world, self.ledger, self.clock = world, ledger, clock
        self.witness = Witness(self._still_owed, self._held)
        self.witness.unpacks = self.unpacks = self.config["transform"] == "unzip"
        self.source = world.place("src", self._at_source, etags=bool(self.config["etags"]))
        self.source.listed = lambda place, path, data: self.witness.listed(place, path, cast(bytes, plain(data)))
        self.targets = {name: world.place(name, self._at_target, etags=False) for name in ("d1", "d2")}
        self.opened: list[Backend] = []
        self.count = 0
        self.known: dict[tuple[str, int, datetime], bytes] = {}
        self.past: dict[str, list[tuple[bytes, datetime]]] = {}
        self.kept: dict[str, tuple[Process, Engine]] = {}
        self.plan: str | None = None
        self.running = 0
        self.failed = False
        self._configure({})

    def _configure(self, change: dict[str, Any]) -> None:
        self.config = {**self.config, **change}
        self.flow = flow_of(self.config)
        self.kept = {}
        self.witness.configured(self.flow)

    def _still_owed(self, path: str, content: bytes) -> bool:
        return path in self._open_paths

    def _at_source(self, place: Any, path: str, before: bytes | None, after: bytes | None) -> None:
        self.witness.at_source(place, path, plain(before), plain(after))

    def _at_target(self, place: Any, path: str, before: bytes | None, after: bytes | None) -> None:
        """Of an archive's files: when the last of them is there."""
        if self.unpacks and path.endswith(MEMBERS):
            path, _, member = path.rpartition("/")
            if after is not None and not place.by_hand:
                if member == MEMBERS[0]:
                    return
                after = self._unpacked(place, path) or b"of several archives"
                before = None
        self.witness.at_target(place, path, plain(before), plain(after))

    def _unpacked(self, place: Any, path: str) -> bytes | None:
        """None: not the files of one archive, or not all."""
        first, second = (place.node(f"{path}/{member}") for member in MEMBERS)
        return first.data if first and second and second.data == first.data + b"2" else None

    def _held(self, place: Location) -> bytes | None:
        shelf = self.targets[place.endpoint]
        if self.unpacks:
            return self._unpacked(shelf, place.path)
        node = shelf.node(place.path)
        return None if node is None else plain(node.data)

    _open_paths: frozenset[str] = frozenset()

    async def _note_open(self) -> None:
        found = await self.ledger.find(Query(states=OPEN, limit=1000))
        self._open_paths = frozenset(each.entry.path for each in found)

    # The owners

    def _write(self, path: str, data: bytes, modified: datetime) -> bool:
        """False: no endpoint could tell it from another one."""
        if not self.source.fits(path):
            return False
        key = (path, len(data), modified)
        if self.known.setdefault(key, data) != data:
            return False
        self.source.put(path, data, modified)
        self.past.setdefault(path, []).append((data, modified))
        return True

    def _new(self, size: int) -> bytes:
        self.count += 1
        data = f"#{self.count}".encode().ljust(size, b".")
        return packed(data) if self.unpacks else data

    def do_put(self, number: int, size: int, when: str) -> None:
        path = PATHS[number % len(PATHS)]
        before = self.source.node(path)
        modified = self.clock().replace(microsecond=0)
        if when == "same" and before is not None:
            modified = before.modified
        elif when == "older":
            modified -= timedelta(days=1)
        data = self._new(size)
        while not self._write(path, data, modified):
            if not self.source.fits(path):
                return
            modified += timedelta(seconds=1)

    def do_grow(self, number: int) -> None:
        path = PATHS[number % len(PATHS)]
        if (node := self.source.node(path)) is not None and len(node.data) < 60:
            self.do_put(number, len(node.data) + 5, "now")

    def do_delete(self, number: int) -> None:
        self.source.take(PATHS[number % len(PATHS)])

    def do_back(self, number: int, which: int) -> None:
        path = PATHS[number % len(PATHS)]
        now = self.source.node(path)
        past = [each for each in self.past.get(path, []) if now is None or each[0] != now.data]
        if past:
            self._write(path, *past[-1 - which % len(past)])

    def do_rename(self, number: int, other: int) -> None:
        path, to = PATHS[number % len(PATHS)], PATHS[other % len(PATHS)]
        node = self.source.node(path)
        if node is None or path == to or not self.source.fits(to):
            return
        if self.known.setdefault((to, len(node.data), node.modified), node.data) != node.data:
            return
        self.source.move(path, to)
        self.past.setdefault(to, []).append((node.data, node.modified))

    def do_folder(self, number: int) -> None:
        """A folder becomes a file, or a file a folder."""
        if self.source.node("d") is not None:
            self.source.take("d")
            self.do_put(2 + number % 2, 12, "now")
            return
        for path in [path for path in self.source.names() if path.startswith("d/")]:
            self.source.take(path)
        self.source.tidy()
        self.do_put(4, 12, "now")

    def _archived(self) -> list[str]:
        return [path for path in self.source.names() if path.startswith(ARCHIVES)]

    def do_unarchive(self, which: int) -> None:
        if found := self._archived():
            path = found[which % len(found)]
            node = self.source.node(path)
            assert node is not None
            to = path.partition("/")[2]
            while to.startswith(ARCHIVES):
                to = to.partition("/")[2]
            stem, dot, suffix = to.rpartition(".")
            to = f"{(stem or suffix).partition('~')[0]}{dot if stem else ''}{suffix if stem else ''}"
            if self.source.fits(to) and self.known.setdefault((to, len(node.data), node.modified), node.data) == (
                node.data
            ):
                self.source.move(path, to)
                self.past.setdefault(to, []).append((node.data, node.modified))

    def do_tamper(self, which: int, how: str) -> None:
        found = self._archived()
        if how == "stranger":
            self._write(f".done/{PATHS[which % 4]}", self._new(13), self.clock().replace(microsecond=0))
        elif found:
            path = found[which % len(found)]
            if how == "change":
                self._write(path, self._new(14), self.clock().replace(microsecond=0))
            else:
                self.source.take(path)

    def do_receive(self, name: str, which: int, how: str) -> None:
        place = self.targets[name]
        if found := place.names():
            # What is taken in the moment of publishing is sent again where a server's word for it does not count.
            self.witness.doubles_allowed |= isinstance(place, Shelf) and (self.witness.killed or self.failed)
            path = found[which % len(found)]
            if how == "take":
                place.take(path)
            else:
                place.put(path, b"altered", self.clock())

    def do_repoint(self, name: str) -> None:
        """The endpoint stands for another place."""
        self.targets[name] = self.world.place(name, self._at_target, etags=False)
        self._configure({})

    def do_clock(self, seconds: float) -> None:
        self.clock.move(seconds)

    def do_configure(self, name: str, value: Any) -> None:
        if self.running:
            return
        self._configure({name: value})

    # Commands

    async def do_retry(self, which: int) -> None:
        found = [each for each in await self.ledger.find(Query(limit=1000)) if retriable(each)]
        if found:
            await self.ledger.requeue([found[which % len(found)].id], who="cli", why="by hand")

    async def do_cancel(self, which: int) -> None:
        states = frozenset({State.PENDING, State.RUNNING, State.FAILED})
        if found := await self.ledger.find(Query(states=states, limit=1000)):
            each = found[which % len(found)]
            await self.ledger.cancel([each.id], who="cli", why="by hand")
            self._waive(each)

    def _waive(self, each: Transfer) -> None:
        entry = each.entry
        for (path, size, modified), data in self.known.items():
            told = (modified == entry.modified) if entry.etag is None else (hashlib.md5(data).hexdigest() == entry.etag)
            if (path, size) == (entry.path, entry.size) and told:
                self.witness.waived.add((path, cast(bytes, plain(data)), Location(each.target, each.target_path)))

    async def do_prune(self) -> None:
        await self.ledger.prune(timedelta(days=2))

    async def do_plan(self) -> None:
        async with self._engine("plan", Process({}, self._do)) as engine:
            made = await saved.make(engine, ["f"], lambda name: MemorySettings())
            self.plan = saved.dump(made.rows, self.ledger.id)

    async def do_apply(self, found: Sequence[tuple[int, Operation]]) -> None:
        if self.plan is None:
            return
        rows, self.plan = saved.load(self.plan, self.ledger.id), None
        process = Process(happenings(found), self._do)

        async def work(engine: Engine) -> None:
            good, _ = await saved.check(engine, rows)
            await saved.start(engine, good)
            await engine.worker(["f"]).run(until_idle=True)

        await self._in(process, self._engine("apply", process), work)

    # Engines

    def _engine(self, who: str, process: Process) -> Engine:
        ledger = cast(Ledger, Desk(self.ledger, process))
        places = {"src": self.source, **self.targets}

        def opened(name: str) -> Storage:
            place = places[name]
            assert isinstance(place, Shelf), f"{name} is opened again"
            self.opened.append(backend := place.opened())
            return Storage(Eye(backend, process))

        engine = Engine([self.flow], opened, ledger, owner=who, transfers=self.config["transfers"], clock=self.clock)
        engine.endpoints._clock = self.clock.seconds
        for name, place in places.items():
            if isinstance(place, Place):
                engine.endpoints._open[name] = Storage(SharedReads(Eye(place, process)))
        return engine

    async def _in(self, process: Process, engine: Engine, work: Callable[[Engine], Awaitable[object]]) -> None:
        self.running += 1
        self.world.wire.process = process if self.running == 1 else None
        try:
            async with asyncio.timeout(60):
                await work(engine)
        except Killed:
            self.witness.killed = True
        except LedgerUnavailable as error:
            self.witness.say(f"… {error}")
        except CrossdockError as error:
            self.witness.say(f"… {error}")
        finally:
            self.running -= 1
            self.world.wire.process = None
            self.witness.killed |= process.dead
            self.failed |= process.failed
            if process.dead or process.failed:
                # Nothing proves to the next attempt that a file is there whole, or all of them.
                in_place = any(isinstance(each, Shelf) and each.shows_parts for each in self.targets.values())
                self.witness.doubles_allowed |= self.unpacks or in_place
            process.happenings = {}
            self.witness.say(f"… {'killed' if process.dead else 'ended'} after {process.points} points")

    async def do_run(self, who: str, stays: bool, found: Sequence[tuple[int, Operation]]) -> None:
        process, engine = self.kept.pop(who, (None, None)) if stays else (None, None)
        if process is None or engine is None:
            process = Process({}, self._do)
            engine = self._engine(who, process)
        process.points, process.requests, process.happenings = 0, 0, happenings(found)
        config = self.config
        await self._in(process, engine, lambda engine: engine.run_once(patience=0.0))
        if not process.dead and stays and config is self.config:
            self.kept[who] = (process, engine)

    async def do_both(self, first: Sequence[tuple[int, Operation]], other: Sequence[tuple[int, Operation]]) -> None:
        await asyncio.gather(self.do_run("a", False, first), self.do_run("b", False, other))

    async def _do(self, operation: Operation) -> None:
        """In the middle of a run."""
        if operation[0] == "jump":
            self.clock.move(operation[1])
            self.witness.doubles_allowed = self.witness.doubles_allowed or self.running > 1
            return
        await self.do(operation)

    async def do(self, operation: Operation) -> None:
        self.witness.say(str(operation))
        await self._note_open()
        done = getattr(self, f"do_{operation[0]}")(*operation[1:])
        if done is not None:
            await done
        if self.witness.wrong:
            raise Failure(self.witness.wrong[0])

    async def end(self) -> None:
        """All is in order again, and time goes by."""
        self.witness.say("quiet")
        before: object = None
        same = 0
        for turn in range(40):
            self.clock.move((61.0, 3700.0, 61.0, 90000.0)[turn % 4])
            failed = await self.ledger.find(Query(states=frozenset({State.FAILED}), limit=1000))
            await self.ledger.requeue([each.id for each in failed if retriable(each)], who="cli", why="by hand")
            await self.do(("run", "z", False, ()))
            rows = await self.ledger.find(Query(limit=5000))
            now = [(each.id, each.state, each.gone) for each in rows]
            same = same + 1 if now == before else 0
            before = now
            if same > 3:
                break
        for each in rows:
            if each.state in OPEN and not self._in_the_way(each):
                self.witness.object_(f"for ever {each.state}: {each.entry.path} → {each.target}: {each.why}")
            if "is not sent otherwise" in (each.error or ""):
                self._waive(each)
            elif each.state is State.FAILED and retriable(each) and not self._conflicts(each):
                self.witness.object_(f"failed again: {each.entry.path} → {each.target}: {each.error}")
        self.witness.check_end(self.source, self.targets)
        for place in self.targets.values():
            if isinstance(place, Shelf) and (parts := [each for each in place.parts() if not each.endswith(".done")]):
                self.witness.object_(f"of these at {place.endpoint} only a part is there: {parts}")
        for place in (self.source, *self.targets.values()):
            # What one has left that failed or was killed, and then was cancelled or replaced, `doctor --clean` removes.
            if (left := place.left()) and not self.witness.waived and not self.failed:
                self.witness.object_(f"left at {place.endpoint}: {left}")
        if self.witness.wrong:
            raise Failure(self.witness.wrong[0])

    def _conflicts(self, each: Transfer) -> bool:
        """Somebody has to decide."""
        place = self.targets[each.target]
        taken = self.config["on_conflict"] == "fail" and place.node(each.target_path) is not None
        return taken or not place.fits(each.target_path)

    def _in_the_way(self, each: Transfer) -> bool:
        """It is told, and tried until somebody tidies the archive up."""
        archive = f"{self.config['archive']}/{each.entry.path}"
        return each.state is State.DELIVERED and not self.source.fits(archive) and not self.source.is_folder(archive)


async def _told(game: Game, error: BaseException) -> str:
    lines = [f"{type(error).__name__}: {error}", *game.witness.story]
    for each in reversed(await game.ledger.find(Query(limit=1000))):
        lines.append(
            f"  transfer {each.id} {each.entry.path} {each.fingerprint} → {each.target}:{each.target_path}: "
            f"{each.state} gone={each.gone}"
        )
        history = await game.ledger.history(each.id)
        lines += [f"      {event.was} → {event.now} {event.who}: {event.why}" for event in history]
    return "\n".join(lines)


async def _played(first: dict[str, Any], operations: Sequence[Operation], world: World) -> str | None:
    clock = Clock()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with world.opened(clock) as ledger:
        game = Game(first, world, ledger, clock)
        try:
            for operation in operations:
                await game.do(operation)
            await game.end()
        except Exception as error:  # noqa: BLE001 - told by whoever plays it
            return await _told(game, error)
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, *(each.close() for each in game.opened), return_exceptions=True)
    return None


def play(first: dict[str, Any], operations: Sequence[Operation], world: World | None = None) -> str | None:
    """What went wrong, if something did."""
    state = random.getstate()
    random.seed(1)
    try:
        return asyncio.run(_played(first, operations, world or World()))
    finally:
        random.setstate(state)
