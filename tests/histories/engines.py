"""Engines of a history: what they call, and whom they tell, passes the points at which something may happen."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast

from crossdock.engine.engine import Engine
from crossdock.engine.notices.notice import Notice, NotificationFailed
from crossdock.errors import CrossdockError
from crossdock.ledger.base import Ledger
from crossdock.storage.base import Backend
from crossdock.storage.shared import SharedReads
from crossdock.storage.storage import Storage
from tests.histories.drawing import Operation
from tests.histories.places import Place
from tests.histories.process import Desk, Eye, Killed, Process, acting, happenings
from tests.histories.scene import Scene
from tests.histories.served import Shelf

__all__ = ["Engines"]


class Engines:
    """`happen`: carries out what happens in the middle of a run."""

    def __init__(self, scene: Scene, ledger: Ledger, happen: Callable[[Operation], Awaitable[None]]) -> None:
        self._scene, self._ledger, self._happen = scene, ledger, happen
        self._kept: dict[str, tuple[dict[str, Any], Process, Engine]] = {}
        """Processes that stay from run to run, and the configuration they know."""
        self.opened: list[Backend] = []
        self.running = 0
        self.told: dict[str, list[Notice]] = defaultdict(list)
        """The notices that were received, by their ids."""

    # Operations

    async def do_run(self, who: str, stays: bool, found: Sequence[tuple[int, Operation]]) -> None:
        config, process, engine = self._kept.pop(who, (None, None, None)) if stays else (None, None, None)
        if process is None or engine is None or config is not self._scene.config:
            process, engine = self.new(who)
        process.points, process.requests, process.deaf, process.happenings = 0, 0, False, happenings(found)
        config = self._scene.config
        await self.use(process, engine, lambda engine: engine.run_once(patience=0.0))
        if not process.dead and stays:
            self._kept[who] = config, process, engine
        elif not process.dead:
            await engine.endpoints.close()

    async def do_both(self, first: Sequence[tuple[int, Operation]], other: Sequence[tuple[int, Operation]]) -> None:
        await asyncio.gather(self.do_run("a", False, first), self.do_run("b", False, other))

    # What they are made of

    def new(self, who: str, found: Sequence[tuple[int, Operation]] = ()) -> tuple[Process, Engine]:
        process = Process(happenings(found), self._happen)
        ledger = cast(Ledger, Desk(self._ledger, process))
        places = {"src": self._scene.source, **self._scene.targets}

        def opened(name: str) -> Storage:
            place = places[name]
            assert isinstance(place, Shelf), f"{name} is opened again"
            self.opened.append(backend := place.opened())
            return Storage(Eye(backend, process))

        flows, transfers, clock = self._scene.flows.values(), self._scene.config["transfers"], self._scene.clock
        engine = Engine(flows, opened, ledger, owner=who, transfers=transfers, clock=clock)
        engine.endpoints._clock = clock.seconds
        for name, place in places.items():
            if isinstance(place, Place):
                engine.endpoints._open[name] = Storage(SharedReads(Eye(place, process)))
        self._name_who_acts(engine)
        for actions in engine._actions.values():
            actions.outbox._send = partial(self._send, process)
        return process, engine

    def _name_who_acts(self, engine: Engine) -> None:
        attempt, look, house = engine._courier.attempt, engine.look, engine.keep_house

        async def attempted(lease: Any) -> Any:
            acting.set(lease.transfer.flow)
            return await attempt(lease)

        async def looked(flow: str, *, only: Iterable[str] | None = None, **more: Any) -> Any:
            acting.set(flow)
            for path in only or ():
                self._scene.looked_at(flow, path)
            return await look(flow, only=only, **more)

        async def kept_house(flow: str, **more: Any) -> Any:
            acting.set(flow)
            return await house(flow, **more)

        cast(Any, engine).look, cast(Any, engine).keep_house = looked, kept_house
        cast(Any, engine._courier).attempt = attempted

    async def _send(self, process: Process, to: object, notice: Notice) -> None:
        async def received() -> None:
            if process.deaf:
                raise failure()
            self.told[notice.id].append(notice)

        failure = partial(NotificationFailed, "the receiver is down", retryable=True, hint="wait")
        await process.call(f"tell {notice.kind}", received, failure)

    async def use(self, process: Process, engine: Engine, work: Callable[[Engine], Awaitable[object]]) -> None:
        """Until it ends, or is killed."""
        wire = self._scene.world.wire
        self.running += 1
        acting.set(None)
        wire.process = process if self.running == 1 else None
        try:
            async with asyncio.timeout(60):
                await work(engine)
        except Killed:
            process.dead = True
        except CrossdockError as error:
            self._scene.say(f"… {error}")
        finally:
            self.running -= 1
            wire.process = None
            shelves = [each for each in self._scene.targets.values() if isinstance(each, Shelf)]
            in_parts = self._scene.unpacks or any(each.shows_parts for each in shelves)
            for witness in self._scene.witnesses.values():
                witness.ended(killed=process.dead, failed=process.failed, in_parts=in_parts)
            if not self.running:
                self._scene.all_ended()
            process.happenings = {}
            self._scene.say(f"… {'killed' if process.dead else 'ended'} after {process.points} points")
