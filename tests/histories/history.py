"""Histories: lists of operations, played with real engines between endpoints that a witness watches."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from crossdock.flows.explain import retriable
from crossdock.ledger.base import OPEN, Ledger, Query, State, Transfer
from tests.engine.clocks import Clock
from tests.histories.drawing import Operation
from tests.histories.engines import Engines
from tests.histories.operators import Operators
from tests.histories.owners import Owners
from tests.histories.scene import Scene
from tests.histories.served import Shelf
from tests.histories.witness import Witness
from tests.histories.world import World

__all__ = ["Failure", "play"]


class Failure(AssertionError):
    """What went wrong, and all that led to it."""


class Game:
    """One history."""

    def __init__(self, first: dict[str, Any], world: World, ledger: Ledger, clock: Clock) -> None:
        self.scene, self.ledger, self._clock = Scene(first, world, clock), ledger, clock
        self.engines = Engines(self.scene, ledger, self._happen)
        self._operators = Operators(self.scene, ledger, self.engines)
        self._actors = (Owners(self.scene), self._operators, self.engines)

    async def do(self, operation: Operation) -> None:
        self.scene.say(str(operation))
        found = await self.ledger.find(Query(states=OPEN, limit=1000))
        self.scene.open_paths = frozenset((each.flow, each.entry.path) for each in found)
        name = f"do_{operation[0]}"
        actor = next(each for each in self._actors if hasattr(each, name))
        done = getattr(actor, name)(*operation[1:])
        if done is not None:
            await done
        self._judge()

    async def _happen(self, operation: Operation) -> None:
        """In the middle of a run."""
        if operation[0] != "jump":
            await self.do(operation)
            return
        self.scene.move_clock(operation[1])
        for witness in self.scene.witnesses.values():
            witness.doubles_allowed |= self.engines.running > 1
            witness.jumped = True

    def _judge(self) -> None:
        for witness in self.scene.witnesses.values():
            if witness.wrong:
                raise Failure(witness.wrong[0])

    # In the end

    async def end(self) -> None:
        """All is in order again, and time goes by."""
        self.scene.say("quiet")
        rows = await self._quiet()
        witnesses, targets = self.scene.witnesses, self.scene.targets
        for each in rows:
            self._check_row(each, witnesses[each.flow])
        for name, witness in witnesses.items():
            witness.check_end(self.scene.source_of(name), targets)
        for place in targets.values():
            # Who finds the source gone does not remove what may replace others, nor what is in an archive: nobody can
            # tell it from those, or knows its name. Nor does anybody once it was cancelled.
            given_up = [
                each
                for each in rows
                if each.target == place.endpoint
                if each.state is State.CANCELLED
                or (each.state is State.SKIPPED and (self.scene.unpacks or witnesses[each.flow].may_replace))
            ]
            over = tuple(f"{each.target_path}/" for each in given_up)
            parts = place.parts() if isinstance(place, Shelf) else []
            if parts := [each for each in parts if not each.endswith(".done") and not f"{each}/".startswith(over)]:
                witnesses["f"].object_(f"of these at {place.endpoint} only a part is there: {parts}")
        for place in (self.scene.source, *targets.values()):
            # What one has left that failed or was killed, and then was cancelled or replaced, `doctor --clean` removes.
            excused = any(each.waived or each.failed or each.unmarked for each in witnesses.values())
            if (left := place.left()) and not excused:
                witnesses["f"].object_(f"left at {place.endpoint}: {left}")
        self._judge()

    async def _quiet(self) -> list[Transfer]:
        """Run until nothing changes any more."""
        before: object = None
        same = 0
        for turn in range(40):
            self._clock.move((61.0, 3700.0, 61.0, 90000.0)[turn % 4])
            failed = await self.ledger.find(Query(states=frozenset({State.FAILED}), limit=1000))
            await self.ledger.requeue([each.id for each in failed if retriable(each)], who="cli", why="by hand")
            await self.do(("run", "z", False, ()))
            rows = await self.ledger.find(Query(limit=5000))
            now = [(each.id, each.state, each.gone) for each in rows]
            same = same + 1 if now == before else 0
            before = now
            if same > 3:
                break
        return rows

    def _check_row(self, each: Transfer, witness: Witness) -> None:
        if each.state in OPEN and not self._in_the_way(each):
            witness.object_(f"for ever {each.state}: {each.entry.path} → {each.target}: {each.why}")
        if "is not sent otherwise" in (each.error or ""):
            self._operators.waive(each)
        elif each.state is State.FAILED and retriable(each) and not self._conflicts(each):
            witness.object_(f"failed again: {each.entry.path} → {each.target}: {each.error}")
        told = self.engines.told[f"{self.ledger.id}-{each.id}"]
        if len({notice.body() for notice in told}) > 1:
            witness.object_(f"of transfer {each.id} was told in several words")
        if each.state is State.DONE and witness.tells and not told:
            witness.object_(f"of transfer {each.id} nobody was told")
        if told and (each.receipt is None or (len(told) > 1 and not witness.broken)):
            witness.object_(f"of transfer {each.id} was told {len(told)} times, which is {each.state}")

    def _conflicts(self, each: Transfer) -> bool:
        """Somebody has to decide."""
        place = self.scene.targets[each.target]
        if self.scene.unpacks:
            lies = any(path.startswith(f"{each.target_path}/") for path in place.names())
            return (self.scene.flows[each.flow].on_conflict == "fail" and lies) or not place.fits(
                f"{each.target_path}/member"
            )
        taken = self.scene.flows[each.flow].on_conflict == "fail" and place.node(each.target_path) is not None
        return taken or not place.fits(each.target_path)

    def _in_the_way(self, each: Transfer) -> bool:
        """It is told, and tried until somebody tidies up: the archive, or where the source is to be."""
        flow, source = self.scene.flows[each.flow], self.scene.source_of(each.flow)
        if flow.source.path and not source.is_folder(flow.source.path):
            return True
        if each.state is State.DELIVERED and not source.fits(each.entry.path) and not source.is_folder(each.entry.path):
            return True
        root = f"{flow.source.path}/" if flow.source.path else ""
        archive = f"{root}{flow.after.archive}/{each.entry.path.removeprefix(root)}"
        return each.state is State.DELIVERED and not source.fits(archive) and not source.is_folder(archive)

    async def told(self, error: BaseException) -> str:
        lines = [f"{type(error).__name__}: {error}", *self.scene.story]
        for each in reversed(await self.ledger.find(Query(limit=1000))):
            lines.append(
                f"  transfer {each.id} {each.entry.path} {each.fingerprint} → {each.target}:{each.target_path}: "
                f"{each.state} gone={each.gone}"
            )
            history = await self.ledger.history(each.id)
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
            return await game.told(error)
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, *(each.close() for each in game.engines.opened), return_exceptions=True)
    return None


def play(first: dict[str, Any], operations: Sequence[Operation], world: World | None = None) -> str | None:
    """What went wrong, if something did."""
    state = random.getstate()
    random.seed(1)
    try:
        return asyncio.run(_played(first, operations, world or World()))
    finally:
        random.setstate(state)
