"""What starts a flow by the clock. A folder's changes: `engine.watch`."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

from crossdock.flows.flow import Flow, Trigger
from crossdock.flows.schedule import Ticks, schedule_of
from crossdock.ledger.base import Ledger

__all__ = ["RUN", "TICK", "ticks", "until_next"]

log = logging.getLogger("crossdock.engine")

TICK = "tick"
"""The kind of the ledger's marks: one for each tick that was taken."""
RUN = "tick.run"
"""One for each whose run has come to its end, whatever that was."""
_NAP = 30.0
"""Seconds of one wait at most: a clock that was set, or a machine that slept, is noticed so soon."""
_REMEMBERED = timedelta(hours=2)
"""Marks of ticks are dropped when they are older: no scheduler's clock is so wrong."""
_DROPPED_TOGETHER = 100


def _now() -> datetime:
    return datetime.now(UTC)


async def ticks(
    flow: Flow,
    ledger: Ledger,
    clock: Callable[[], datetime] = _now,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    *,
    draw: Callable[[float, float], float] = random.uniform,
) -> AsyncGenerator[datetime]:
    """The moments at which the flow is due, each in time and to one scheduler only of all that share the ledger.

    Whoever takes a tick does not ask for the next before its run has ended, so runs never overlap. Ticks that passed
    meanwhile, or while nobody asked (a machine that slept, a daemon that was stopped), are one tick, the last of
    them. A flow that the ledger has never seen starts at once with `every`, and at its next time with `cron`. Jitter
    delays the start by up to `trigger.jitter` seconds. A tick whose run was broken off (a ledger that failed, a
    crash, a reload) is taken again by whoever starts next. Ends at once if the flow has no schedule. Raises
    `LedgerUnavailable`.
    """
    schedule = schedule_of(flow.trigger)
    if schedule is None:
        return
    taken: list[tuple[datetime, str]] = []
    due = await _first(flow, schedule, ledger, clock())
    broken_off = await _broken_off(flow, ledger)
    while True:
        delay = timedelta(seconds=draw(0.0, flow.trigger.jitter) if flow.trigger.jitter else 0.0)
        now = clock()
        while (wait := (due + delay - now).total_seconds()) > 0:
            await sleep(min(wait, _NAP))
            before, now = now, clock()
            if now < before:
                # Set back: what was next may be hours off by now.
                due = schedule.next(now)
        tick = schedule.latest(now) or due
        if await ledger.mark(flow.name, TICK, _key(tick)) or _key(tick) == broken_off:
            log.debug("flow %s: the tick of %s", flow.name, tick)
            taken.append((tick, _key(tick)))
            yield tick
            await ledger.mark(flow.name, RUN, _key(tick))
            taken = await _forget(flow, ledger, taken, clock())
        broken_off = None
        due = schedule.next(now)


def until_next(trigger: Trigger, now: datetime) -> float:
    """Seconds until the next tick; for ever, if there is no schedule."""
    schedule = schedule_of(trigger)
    return math.inf if schedule is None else (schedule.next(now) - now).total_seconds()


async def _first(flow: Flow, schedule: Ticks, ledger: Ledger, now: datetime) -> datetime:
    latest = schedule.latest(now)
    if latest is None or (flow.trigger.cron and not await ledger.marks(flow.name, TICK, limit=1)):
        return schedule.next(now)
    return latest


async def _broken_off(flow: Flow, ledger: Ledger) -> str | None:
    """The key of the last tick, if its run did not end."""
    keys = []
    for kind in (TICK, RUN):
        last = ""
        while page := await ledger.marks(flow.name, kind, after=last or None):
            last = page[-1].key
        keys.append(last)
    taken, run = keys
    return taken if taken > run else None


async def _forget(
    flow: Flow, ledger: Ledger, taken: list[tuple[datetime, str]], now: datetime
) -> list[tuple[datetime, str]]:
    old = [key for tick, key in taken[:-1] if now - tick > _REMEMBERED]
    if len(old) < _DROPPED_TOGETHER:
        return taken
    for kind in (TICK, RUN):
        await ledger.unmark(flow.name, kind, old)
    return [item for item in taken if item[1] not in set(old)]


def _key(tick: datetime) -> str:
    return tick.astimezone(UTC).isoformat()
