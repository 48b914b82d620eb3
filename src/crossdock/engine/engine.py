"""The engine: looks at sources, and works the ledger off.

Whoever runs flows (the command line, a daemon, a function in a cloud, a scheduler's task, the gateway) calls
`discover`, `notice` or `run_once`, or has it all done by `serving`; there is no second engine. All state is in the
ledger: any number of engines may work on one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from inspect import isawaitable
from pathlib import Path
from typing import get_args

from crossdock.engine.actions import Actions
from crossdock.engine.delivery import Courier, Delivery, Step
from crossdock.engine.discovery import Discovery, add, look, to_look_again
from crossdock.engine.endpoints import Endpoints, LeftAlone
from crossdock.engine.late import check_late
from crossdock.engine.outlast import outlast
from crossdock.engine.poisoned import check_poisoned
from crossdock.engine.summary import Summary
from crossdock.engine.worker import Worker
from crossdock.errors import ConfigError, CrossdockError, LedgerError, shown
from crossdock.flows.flow import Flow, OnConflict, Order, Unmatched
from crossdock.flows.plan import Planner
from crossdock.flows.schedule import schedule_of
from crossdock.ledger.base import LEASE, Ledger, Query, State, Transfer
from crossdock.storage.storage import Storage

__all__ = ["STUCK_SHOWN", "Engine", "FileEvent", "LeftAlone"]

log = logging.getLogger("crossdock.engine")

PATIENCE = 5.0
"""Seconds that `run_once` waits for files to settle."""
STUCK_SHOWN = 3
"""Files of each flow, which no rule can move, that a run names; the others are counted."""
_COUNTED = 1000
_NOT_DONE = frozenset({State.PENDING, State.RUNNING, State.DELIVERED})


@dataclass(frozen=True, slots=True)
class FileEvent:
    """Somebody says that there is a file."""

    endpoint: str
    path: str
    acknowledge: Callable[[], object] = lambda: None
    """Called, and awaited if it can be, once all that follows is recorded; an event without it comes again."""


class Engine:
    """Runs flows. `new_storage` makes an unopened storage by endpoint name. The ledger is open, and the caller's.

    `folder`: what relative paths in transforms' options start from.
    `async with Engine(…) as engine:` closes the endpoints that it opened.
    """

    def __init__(
        self,
        flows: Iterable[Flow],
        new_storage: Callable[[str], Storage],
        ledger: Ledger,
        *,
        owner: str | None = None,
        transfers: int = 16,
        lease: float = LEASE,
        folder: Path | None = None,
        report: Callable[[Delivery], None] = lambda delivery: None,
        progress: Callable[[Transfer, int], None] | None = None,
        step: Step = lambda name: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.planners: Mapping[str, Planner] = _planners(flows)
        self.ledger, self.clock = ledger, clock
        self.owner = owner or f"{socket.gethostname()}:{os.getpid()}"
        self.endpoints = Endpoints(new_storage)
        self._actions = {
            name: Actions(planner.flow, self.endpoints, ledger, clock=clock) for name, planner in self.planners.items()
        }
        self._courier = Courier(
            self.planners,
            self.endpoints,
            ledger,
            self._actions,
            folder=folder,
            progress=progress,
            step=step,
            lease=lease,
        )
        self._transfers, self._lease, self._report, self._step = transfers, lease, report, step

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.endpoints.close()

    def planner(self, flow: str) -> Planner:
        """Raises `ConfigError` for a flow that is not known."""
        try:
            return self.planners[flow]
        except KeyError:
            known = ", ".join(sorted(self.planners)) or "none"
            raise ConfigError(f"no flow is called {flow!r}", hint=f"write one of: {known}") from None

    def names(self, flows: str | Iterable[str] | None) -> list[str]:
        """What a caller named, one or several; None: all flows. Raises `ConfigError` for one that is not known."""
        found = list(self.planners) if flows is None else [flows] if isinstance(flows, str) else list(flows)
        for name in found:
            self.planner(name)
        return found

    async def look(self, flow: str, *, only: Iterable[str] | None = None, delivers: bool = False) -> Discovery:
        """List a flow's source and decide; only sightings are recorded. Raises what the listing raises.

        `delivers`: a target is opened as soon as a file is seen that goes there at once.
        """
        planner = self.planner(flow)
        source = planner.flow.source.endpoint
        left = self.endpoints.left_alone(source, planner.flow.source.path)
        if left is not None:
            raise left
        try:
            storage = await self.endpoints.storage(source)
            found = await look(
                planner,
                storage,
                self.ledger,
                self.clock(),
                only=only,
                has_folders=self.endpoints.has_folders,
                something=lambda entry: self._open_targets(planner.routes.targets(entry.path)) if delivers else None,
            )
        except LedgerError:
            raise
        except CrossdockError as error:
            self.endpoints.failed(source, error)
            raise
        self.endpoints.worked(source)
        return found

    async def discover(self, flow: str, *, only: Iterable[str] | None = None, delivers: bool = False) -> Discovery:
        """`look`, and add what is new to the ledger. `delivers`: targets are opened meanwhile, as they come next."""
        self._step("R0:after")
        with self._courier.taken.look() as taken:
            found = await self.look(flow, only=only, delivers=delivers)
            if delivers:
                self._open_targets({place.endpoint for decision in found.moves for place in decision.places})
            self._step("R1:before")
            if await add(self.planner(flow), found, self.ledger, who=self.owner, taken=taken):
                self._courier.steps.planned(flow, found.added)
        self._step("R1:after")
        return found

    def _open_targets(self, names: Iterable[str]) -> None:
        for name in names:
            if not self.endpoints.pause(name)[0]:
                self.endpoints.begin(name)

    async def notice(self, event: FileEvent) -> list[int]:
        """Add what follows from an event, in every flow that it concerns; then it is acknowledged. The new ids.

        While the file settles, or a rule that breaks keeps it, it is not: the event comes again, and is the next look.
        """
        added: list[int] = []
        again = False
        for name, planner in self.planners.items():
            if planner.flow.source.endpoint != event.endpoint or not event.path.startswith(planner.prefix):
                continue
            # A marker or a manifest lies beside the file, and an event for one speaks of others.
            found = await self.discover(name, only=None if planner.looks_beside else [event.path])
            added += found.added
            path = event.path[len(planner.prefix) :]
            for each in found.stuck(planner.flow):
                if each.entry.path == path:
                    log.warning("flow %s: %s: %s", name, shown(path), each.reason)
                    again = True
            settles = any(each.verdict == "settle" and each.entry.path == path for each in found.new)
            again = again or settles or found.waiting > 0
        if again:
            return added
        self._step("R2:before")
        if isawaitable(answer := event.acknowledge()):
            await answer
        self._step("R2:after")
        return added

    def worker(self, flows: Iterable[str], *, report: Callable[[Delivery], None] | None = None) -> Worker:
        """A worker on the flows' transfers, for callers that only work off what others discover."""
        return Worker(
            self.ledger,
            self._courier,
            flows,
            owner=self.owner,
            transfers=self._transfers,
            lease=self._lease,
            report=report or self._report,
            step=self._step,
            usable=lambda name: not self.endpoints.pause(self.planner(name).flow.source.endpoint)[0],
        )

    async def run_once(
        self,
        flows: str | Iterable[str] | None = None,
        *,
        patience: float = PATIENCE,
        outlasting: Callable[[int, float], object] | None = None,
    ) -> Summary:
        """Look at every source and work off what the ledger holds for these flows (all of them by default).

        Files that settle are looked at again after pauses of no more than `patience` seconds in all. A source that
        cannot be listed does not stop the other flows. Raises what the ledger raises.

        `outlasting`: what workers hold that were killed is waited for, a minute at most; called before that with the
        number of transfers, and seconds. Without it, what others hold is left to them or to the next run.
        """
        names = self.names(flows)
        summary = Summary()

        def report(delivery: Delivery) -> None:
            summary.count(delivery)
            self._report(delivery)

        looking = names
        settling: dict[str, int] = {}
        left: dict[str, int] = {}
        while True:
            found = await self._discover_all(looking, summary)
            settling |= {one.flow: sum(each.verdict == "settle" for each in one.new) for one in found}
            left |= {one.flow: one.waiting for one in found}
            await self._work_off(names, report)
            looking, pause = to_look_again(found, patience)
            if not looking:
                break
            patience -= pause
            await asyncio.sleep(pause)
        if outlasting is not None:
            work_off = partial(self._work_off, names, report)
            await outlast(self.ledger, names, self.clock, work_off, outlasting)
        summary.settling, summary.left = sum(settling.values()), sum(left.values())
        for name in names:
            await self.unfinished(name, summary)
        everybody = await self.ledger.find(Query(states=_NOT_DONE, limit=_COUNTED))
        summary.parked = Counter(each.flow for each in everybody if each.flow not in self.planners)
        for name in names:
            summary.removed += await self.keep_house(name, report=report)
        return summary

    async def _work_off(self, flows: Iterable[str], report: Callable[[Delivery], None]) -> None:
        await self.worker(flows, report=report).run(until_idle=True)

    async def unfinished(self, flow: str, summary: Summary) -> None:
        """Add transfers that wait for their next attempt, and that are under way at others; of the newest 1,000."""
        found = await self.ledger.find(Query(flow=flow, states=_NOT_DONE, limit=_COUNTED))
        now = self.clock()
        waits = [each.ready - now for each in found if each.owner is None and each.ready is not None]
        for wait in (each.total_seconds() for each in waits):
            if wait > 0:
                summary.waiting += 1
                summary.again_in = wait if summary.again_in is None else min(wait, summary.again_in)
        summary.held += sum(each.owner is not None for each in found)

    async def _discover_all(self, names: list[str], summary: Summary) -> list[Discovery]:
        async def one(name: str) -> Discovery | None:
            try:
                found = await self.discover(name, delivers=True)
            except LedgerError:
                raise
            except CrossdockError as error:
                summary.errors[name] = error
                return None
            summary.errors.pop(name, None)
            return found

        first = not summary.listed
        everything = [found for found in await asyncio.gather(*(one(name) for name in names)) if found is not None]
        for found in everything:
            summary.found += len(found.added)
            if first:
                summary.listed += found.listed
                unmatched = sum(each.verdict == "unmatched" for each in found.new)
                summary.unmatched += unmatched
                if self.planner(found.flow).flow.unmatched == "fail":
                    summary.refused += unmatched
                stuck = found.stuck(self.planner(found.flow).flow)
                summary.clashes += sum(each.verdict in ("clash", "fail") for each in stuck)
                summary.stuck += [(found.flow, each.entry.path, each.reason) for each in stuck[:STUCK_SHOWN]]
        return everything

    async def keep_house(self, flow: str, *, report: Callable[[Delivery], None] | None = None) -> int:
        """What is due by the clock alone. The number of archived files that were removed.

        What is late and was not before is told, notices that wait are sent, and transfers reported that failed at a
        claim. Raises what the ledger raises.
        """
        actions = self._actions[flow]
        for each in await check_poisoned(flow, self.ledger, self.clock(), actions):
            (report or self._report)(Delivery(transfer=each, what="failed", reason=each.why))
        removed = await actions.sweep()
        await check_late(self.planner(flow).flow, self.ledger, self.clock, actions.outbox)
        return removed


def _planners(flows: Iterable[Flow]) -> dict[str, Planner]:
    """By name. Raises `ConfigError` for what no file could say either: a flow may have been built in Python."""
    found: dict[str, Planner] = {}
    for flow in flows:
        try:
            if flow.name in found:
                raise ValueError("another flow has that name, by which the ledger knows its files")
            if not flow.rules:
                raise ValueError("it has no rules, so it would move nothing")
            for value, known in ((flow.on_conflict, OnConflict), (flow.unmatched, Unmatched), (flow.order, Order)):
                if value not in get_args(known):
                    raise ValueError(f"{value!r} is none of {', '.join(get_args(known))}")
            schedule_of(flow.trigger)
            found[flow.name] = Planner(flow)
        except ValueError as error:
            raise ConfigError(f"flow {flow.name}: {error}", hint="mend the crossdock.Flow of this name") from error
    return found
