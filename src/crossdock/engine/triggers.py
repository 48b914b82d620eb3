"""What starts a flow by the clock. A folder's changes: `engine.watch`."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from crossdock.errors import CrossdockError
from crossdock.flows.flow import Flow, Trigger
from crossdock.flows.schedule import Ticks, schedule_of
from crossdock.ledger.base import LEASE, Ledger, Mark

__all__ = ["TICK", "ticks", "until_next"]

log = logging.getLogger("crossdock.engine")

TICK = "tick"
"""The kind of the ledger's marks: `TICK/NUMBER` for each time that somebody took or kept it, then `TICK/000000`."""
SCHEDULE = "tick.schedule"
"""The kind of the mark of the schedule by which a flow runs, made when it was first seen."""
_FIRST, _END = 999_999, 0
"""Numbers count down: the newest mark is the first in the ledger's order, however long a run takes."""
_NAP = 30.0
"""Seconds of one wait at most: a clock that was set, or a machine that slept, is noticed so soon."""
_REMEMBERED = timedelta(hours=2)
"""Marks of ticks are dropped when they are older: no scheduler's clock is so wrong."""
_FORGOTTEN_TOGETHER = 100


async def ticks(
    flow: Flow,
    ledger: Ledger,
    clock: Callable[[], datetime],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    *,
    draw: Callable[[float, float], float] = random.uniform,
    lease: float = LEASE,
) -> AsyncGenerator[datetime]:
    """The moments at which the flow is due, each in time and to one scheduler only of all that share the ledger.

    Whoever takes a tick does not ask for the next before its run has ended, so runs never overlap. Ticks that passed
    meanwhile, or while nobody asked (a machine that slept, a daemon that was stopped), are one tick, the last of
    them. A flow that the ledger has never seen starts at once with `every`, and at its next time with `cron`, as does
    one whose line was changed since. Jitter delays the start by up to `trigger.jitter` seconds. A tick whose run was
    broken off is taken again: at once if this generator was closed before the end of the run, and after `lease`
    seconds if its scheduler was killed. Ends at once if the flow has no schedule. Raises `LedgerUnavailable`.
    """
    schedule = schedule_of(flow.trigger)
    if schedule is None:
        return
    runs = 0
    due = await _first(flow, schedule, ledger, clock())
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
        run = _Run(flow, ledger, tick, clock, timedelta(seconds=lease))
        held = await run.take()
        if held is None:
            log.debug("flow %s: the tick of %s", flow.name, tick)
            async with run:
                yield tick
            if runs % _FORGOTTEN_TOGETHER == 0:
                await _forget(flow, ledger, tick, clock())
            runs += 1
        # Set back during the run: what was next may be hours off by now.
        due = schedule.next(min(now, clock()))
        if held is not None:
            due = min(due, held)


class _Run:
    """One tick's run: a lease in the ledger, made of marks, as one of them is made by one scheduler only.

    Once taken, `async with run:` keeps it ours until the block has ended; broken off, it is given back. Raises
    `LedgerUnavailable`.
    """

    def __init__(
        self, flow: Flow, ledger: Ledger, tick: datetime, clock: Callable[[], datetime], lease: timedelta
    ) -> None:
        self._flow, self._ledger, self._tick, self._clock, self._lease = flow.name, ledger, tick, clock, lease
        self._number = _FIRST

    async def take(self) -> datetime | None:
        """None: it is ours. Else when to ask again: when the lease of who has it is over, or never, if it has ended."""
        while not await self._hold(self._clock() + self._lease):
            last = next(iter(await self._marks(limit=1)), None)
            # None: it ended so long ago that it was forgotten meanwhile.
            if last is None or _number(last) == _END:
                return datetime.max.replace(tzinfo=UTC)
            until = datetime.fromisoformat(last.value["until"])
            if until > self._clock():
                return until
            self._number = _number(last) - 1
        return None

    async def __aenter__(self) -> None:
        self._keeping = asyncio.create_task(self._keep())

    async def __aexit__(self, broken_off: type[BaseException] | None, *_: object) -> None:
        ours = not self._keeping.done()
        self._keeping.cancel()
        await asyncio.wait([self._keeping])
        if broken_off is None:
            await self._ledger.mark(self._flow, TICK, _key(self._tick, _END))
            while between := [mark.key for mark in await self._marks() if _number(mark) not in (_FIRST, _END)]:
                await self._ledger.unmark(self._flow, TICK, between)
        elif ours:
            self._number -= 1
            # A ledger that cannot be told: others find it out when the lease is over.
            with suppress(CrossdockError):
                await self._hold(self._clock())

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 3)
            self._number -= 1
            with suppress(CrossdockError):
                if not await self._hold(self._clock() + self._lease):
                    log.debug("flow %s: the tick of %s: another scheduler has it now", self._flow, self._tick)
                    return

    async def _hold(self, until: datetime) -> bool:
        value = {"until": until.astimezone(UTC).isoformat()}
        return await self._ledger.mark(self._flow, TICK, _key(self._tick, self._number), value=value)

    async def _marks(self, limit: int = 1000) -> list[Mark]:
        """Of this tick, the newest first."""
        before = _key(self._tick)
        found = await self._ledger.marks(self._flow, TICK, after=before, limit=limit)
        return [mark for mark in found if mark.key.startswith(before)]


def until_next(trigger: Trigger, now: datetime) -> float:
    """Seconds until the next tick; for ever, if there is no schedule."""
    schedule = schedule_of(trigger)
    return math.inf if schedule is None else (schedule.next(now) - now).total_seconds()


async def _first(flow: Flow, schedule: Ticks, ledger: Ledger, now: datetime) -> datetime:
    latest = schedule.latest(now)
    expected = await _expected(flow, schedule, ledger, latest, now)
    if latest is None or (flow.trigger.cron and not expected):
        return schedule.next(now)
    return schedule.next(now) if await _has_ended(flow, ledger, latest) else latest


async def _expected(flow: Flow, schedule: Ticks, ledger: Ledger, latest: datetime | None, now: datetime) -> bool:
    """Whether the latest tick came after the flow got this schedule, or the one before it has missed one of its own."""
    trigger, key = flow.trigger, repr(schedule)
    value = {"cron": trigger.cron, "every": trigger.every, "timezone": trigger.timezone}
    new = await ledger.mark(flow.name, SCHEDULE, key, value=value)
    known = await ledger.marks(flow.name, SCHEDULE)
    if not new:
        return latest is not None and any(mark.at < latest for mark in known if mark.key == key)
    before = [mark for mark in known if mark.key != key]
    if not before:
        # Never seen, or run by a version that made no such marks.
        return bool(await ledger.marks(flow.name, TICK, limit=1))
    await ledger.unmark(flow.name, SCHEDULE, [mark.key for mark in before])
    last = schedule_of(Trigger(**before[-1].value))
    missed = None if last is None else last.latest(now)
    return missed is not None and before[-1].at < missed and not await _has_ended(flow, ledger, missed)


async def _has_ended(flow: Flow, ledger: Ledger, tick: datetime) -> bool:
    # Of a tick that was long ago, its last mark is the only one that `Ledger.prune` has left.
    last = next(iter(await ledger.marks(flow.name, TICK, after=_key(tick), limit=1)), None)
    return last is not None and last.key == _key(tick, _END)


async def _forget(flow: Flow, ledger: Ledger, last: datetime, now: datetime) -> None:
    """Drop the marks of ticks that were long ago, whoever took them; those of the last one stay."""
    before = min(_key(last), _key(now - _REMEMBERED))
    while old := [mark.key for mark in await ledger.marks(flow.name, TICK) if mark.key < before]:
        await ledger.unmark(flow.name, TICK, old)


def _key(tick: datetime, number: int | None = None) -> str:
    return f"{tick.astimezone(UTC).isoformat()}/{'' if number is None else f'{number:06}'}"


def _number(mark: Mark) -> int:
    return int(mark.key.rpartition("/")[2])
