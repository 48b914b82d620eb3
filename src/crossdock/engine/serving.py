"""Runs flows by their triggers: by the clock, a folder's changes or events, for as long as it is asked to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Protocol

from crossdock.engine.discovery import Discovery
from crossdock.engine.engine import Engine, FileEvent
from crossdock.engine.triggers import ticks, until_next
from crossdock.engine.verdicts import may_pass
from crossdock.engine.watch import watch
from crossdock.errors import CrossdockError, LedgerError, LedgerUnavailable, located

__all__ = ["GRACE", "EventSource", "Looked", "serve"]

log = logging.getLogger("crossdock.engine")

GRACE = 30.0
"""Seconds that a stopped engine waits for the transfers under way; then they are broken off, and left to the next."""
_AGAIN = 5.0
"""Seconds until a ledger that failed is asked again."""
_REPEATED = 60.0
"""Seconds until it is said again that it fails."""
_HOUSE = 60.0
_PRUNED = "pruned"
"""The kind of the ledger's marks, of no flow: one for each day on which somebody pruned it."""
_SOONEST = 1.0
_KEEP_LOOKING = 60.0
"""Seconds for which a poll looks again at files that settle, or ten times the flow's own `settle`."""

Looked = Callable[[str, Discovery | CrossdockError], None]
"""Told of a look: the flow, and what was found or why it failed."""


def _log_failure(flow: str, found: Discovery | CrossdockError) -> None:
    if isinstance(found, CrossdockError):
        log.warning("flow %s: %s", flow, found)


class EventSource(Protocol):
    """Where events come from: a queue, a notification, a gateway's upload."""

    def events(self) -> AsyncIterator[FileEvent]: ...


async def serve(
    engine: Engine,
    stop: asyncio.Event,
    flows: str | Iterable[str] | None = None,
    *,
    sources: Iterable[EventSource] = (),
    looked: Looked = _log_failure,
    grace: float = GRACE,
) -> None:
    """Run the flows by their triggers until `stop` is set; then finish what is under way, for `grace` seconds.

    `looked` is told of every look at a source; by default, failures are logged. Raises what the ledger raises, but
    not while transfers are under way that may outlast its failure.
    """
    await _Serving(engine, engine.names(flows), looked).run(stop, sources, grace)


class _Serving:
    def __init__(self, engine: Engine, names: Sequence[str], looked: Looked) -> None:
        self._engine, self._names, self._looked = engine, names, looked
        self._worker = engine.worker(names)
        # A flow's looks never overlap, whatever starts them.
        self._locks = {name: asyncio.Lock() for name in names}
        self._quiet_until = 0.0

    async def run(self, stop: asyncio.Event, sources: Iterable[EventSource], grace: float) -> None:
        tasks = [asyncio.create_task(self._hear(source)) for source in sources]
        tasks.append(asyncio.create_task(self._outlasting(self._keep_house)))
        for name in self._names:
            tasks.append(asyncio.create_task(self._outlasting(partial(self._tick, name))))
            if self._engine.planner(name).flow.trigger.watch:
                tasks.append(asyncio.create_task(self._outlasting(partial(self._watch, name))))
        stopped = asyncio.create_task(stop.wait())
        working = asyncio.create_task(self._worker.run())
        try:
            pending = {*tasks, working, stopped}
            while not stopped.done():
                ended, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
            self._worker.stop()
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await working
        finally:
            for task in (*tasks, working, stopped):
                task.cancel()
            await asyncio.gather(*tasks, working, stopped, return_exceptions=True)

    async def _outlasting(self, work: Callable[[], Awaitable[None]]) -> None:
        """Begun anew when the ledger fails, while transfers are under way that may outlast that."""
        while True:
            try:
                return await work()
            except LedgerUnavailable as error:
                if not self._worker.busy:
                    raise
                now = asyncio.get_running_loop().time()
                if now >= self._quiet_until:
                    self._quiet_until = now + _REPEATED
                    log.warning("%s", error)
            await asyncio.sleep(_AGAIN)

    async def _hear(self, source: EventSource) -> None:
        async for event in source.events():
            await self._outlasting(partial(self._notice, event))

    async def _notice(self, event: FileEvent) -> None:
        try:
            if await self._engine.notice(event):
                self._worker.wake()
        except LedgerError:
            raise
        except CrossdockError as error:
            # Not acknowledged: it comes again.
            log.warning("the event for %s: %s", located(event.endpoint, event.path), error)

    async def _tick(self, name: str) -> None:
        # Closed in any case: the tick of a run that is broken off is given back.
        async with aclosing(ticks(self._engine.planner(name).flow, self._engine.ledger, self._engine.clock)) as found:
            async for _ in found:
                await self._poll(name)

    async def _watch(self, name: str) -> None:
        source = self._engine.planner(name).flow.source
        while True:
            try:
                storage = await self._engine.endpoints.storage(source.endpoint)
            except CrossdockError:
                # Told by the flow's ticks, which find the same; a folder may be mounted later.
                await asyncio.sleep(_HOUSE)
            else:
                break
        async for _ in watch(storage.backend.address(source.path)):
            await self._poll(name)

    async def _poll(self, name: str) -> None:
        """Look, and look again while files settle, or when a source that cannot be listed may be back."""
        loop = asyncio.get_running_loop()
        engine, flow, until = self._engine, self._engine.planner(name).flow, 0.0
        async with self._locks[name]:
            while True:
                try:
                    found = await engine.discover(name)
                except LedgerError:
                    raise
                except CrossdockError as error:
                    self._looked(name, error)
                    wait = max(_HOUSE, engine.endpoints.pause(flow.source.endpoint)[0])
                    if not may_pass(error) or until_next(flow.trigger, engine.clock()) <= wait:
                        return
                    await asyncio.sleep(wait)
                    continue
                self._looked(name, found)
                if found.added:
                    self._worker.wake()
                until = until or loop.time() + max(_KEEP_LOOKING, 10 * flow.settle.seconds)
                if found.due is None or loop.time() + found.due > until:
                    return
                await asyncio.sleep(max(_SOONEST, found.due))

    async def _keep_house(self) -> None:
        ledger, pruned = self._engine.ledger, ""
        while True:
            for name in self._names:
                await self._engine.keep_house(name)
            today = f"{self._engine.clock():%Y-%m-%d}"
            # Once a day, however often this is started anew, and one of all that share the ledger.
            if today != pruned and await ledger.mark("", _PRUNED, today):
                await ledger.prune()
            pruned = today
            await asyncio.sleep(_HOUSE)
