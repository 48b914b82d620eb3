"""What operators do in a history: they configure, and give commands."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

from crossdock.engine import saved
from crossdock.engine.engine import Engine
from crossdock.flows.explain import retriable
from crossdock.flows.flow import Place as Location
from crossdock.ledger.base import Ledger, Query, State, Transfer
from crossdock.storage.memory import MemorySettings
from tests.histories.contents import plain
from tests.histories.drawing import Operation
from tests.histories.engines import Engines
from tests.histories.scene import Scene

__all__ = ["Operators"]

_STOPPABLE = frozenset({State.PENDING, State.RUNNING, State.FAILED})


class Operators:
    def __init__(self, scene: Scene, ledger: Ledger, engines: Engines) -> None:
        self._scene, self._ledger, self._engines = scene, ledger, engines
        self._plan: str | None = None

    def do_configure(self, name: str, value: Any) -> None:
        if not self._engines.running:
            self._scene.configure({name: value})

    def do_repoint(self, name: str) -> None:
        self._scene.repoint(name)

    def do_clock(self, seconds: float) -> None:
        self._scene.move_clock(seconds)

    async def do_retry(self, which: int) -> None:
        found = [each for each in await self._ledger.find(Query(limit=1000)) if retriable(each)]
        if found:
            await self._ledger.requeue([found[which % len(found)].id], who="cli", why="by hand")

    async def do_cancel(self, which: int) -> None:
        if found := await self._ledger.find(Query(states=_STOPPABLE, limit=1000)):
            each = found[which % len(found)]
            await self._ledger.cancel([each.id], who="cli", why="by hand")
            self.waive(each)

    def waive(self, each: Transfer) -> None:
        """Its file need not arrive."""
        entry = each.entry
        for (endpoint, path, size, modified), data in self._scene.known.items():
            told = (modified == entry.modified) if entry.etag is None else (hashlib.md5(data).hexdigest() == entry.etag)
            if (endpoint, path, size) == (each.source, entry.path, entry.size) and told:
                place = Location(each.target, each.target_path)
                self._scene.witnesses[each.flow].waive(path, cast(bytes, plain(data)), place)

    async def do_prune(self) -> None:
        await self._ledger.prune(timedelta(days=2))

    async def do_plan(self) -> None:
        _, planning = self._engines.new("plan")
        async with planning as engine:
            made = await saved.make(engine, list(self._scene.flows), lambda name: MemorySettings())
            self._plan = saved.dump(made.rows, self._ledger.id)

    async def do_apply(self, found: Sequence[tuple[int, Operation]]) -> None:
        if self._plan is None:
            return
        rows, self._plan = saved.load(self._plan, self._ledger.id), None

        async def work(engine: Engine) -> None:
            good, _ = await saved.check(engine, rows)
            await saved.start(engine, good)
            await engine.worker(list(self._scene.flows)).run(until_idle=True)

        await self._engines.use(*self._engines.new("apply", found), work)
