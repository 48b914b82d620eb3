"""When a flow starts on its own: by a cron line in a time zone, or every so many seconds. Pure: no clock, no waiting.

Cron lines have five fields and are read as Debian's cron reads them (crontab(5), by the library `cronsim`), which
settles the two nights a year on which clocks are changed: a line that names its minute and its hour starts once, right
after the gap if its time does not exist, and at the first of two equal times; a line with "*" in either field starts
by the time that passes. Ticks of `every` are multiples of it since 1970, so that schedulers agree on them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from heapq import merge
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from crossdock.flows.flow import Trigger

__all__ = ["RESCAN", "Every", "Schedule", "Ticks", "schedule_of", "zone_of"]

RESCAN = 300.0
"""Seconds between the rescans of a watched folder, if the flow names no other time."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOOK_BACK = tuple(timedelta(hours=hours) for hours in (1, 24, 200, 1500, 10_000, 80_000))


class Ticks(ABC):
    """Moments, always the same ones. All times are aware; answers are in UTC."""

    @abstractmethod
    def next(self, after: datetime) -> datetime:
        """The first tick later than `after`."""

    @abstractmethod
    def latest(self, now: datetime) -> datetime | None:
        """The last tick not later than `now`; None if there was none for years."""


class Schedule(Ticks):
    """A cron line of five fields. Raises `ValueError` for one that cannot be read, or that never comes."""

    def __init__(self, text: str, zone: str = "UTC") -> None:
        self.text, self.zone = text, zone_of(zone)
        fields = text.split()
        if len(fields) != 5:
            what = "a shorthand" if text.startswith("@") else f"{len(fields)} fields"
            raise ValueError(
                f"{what} in the cron line {text!r}; write five: minute, hour, day of month, month, day of week"
            )
        try:
            next(CronSim(text, datetime(2024, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            raise ValueError(f"the cron line {text!r}: {str(error).lower()}") from None
        except StopIteration:
            raise ValueError(f"the cron line {text!r} never comes") from None

    def next(self, after: datetime) -> datetime:
        if any(field.startswith("*") for field in self.text.split()[:2]):
            return self._next_by_what_passes(after)
        found = CronSim(self.text, after.astimezone(self.zone))
        while (tick := next(found).astimezone(UTC)) <= after:
            # After the first of two equal hours, or for a time in the gap, the library's answer can be too early.
            pass
        return tick

    def latest(self, now: datetime) -> datetime | None:
        for back in _LOOK_BACK:
            tick, last = self.next(now - back), None
            while tick <= now:
                last, tick = tick, self.next(tick)
            if last is not None:
                return last
        return None

    def _next_by_what_passes(self, after: datetime) -> datetime:
        # The library goes on by whole hours: it misses ticks where clocks change by less, and none at one offset.
        while True:
            until = after + timedelta(weeks=52)
            offsets = {self._offset(after + timedelta(weeks=weeks)) for weeks in range(0, 54, 2)}
            for tick, offset in merge(*(self._ticks(after, offset) for offset in offsets)):
                if tick > until:
                    # By then clocks may have been changed for good, to none of these offsets.
                    break
                if self._offset(tick) == offset:
                    return tick
            after = until

    def _ticks(self, after: datetime, offset: timedelta) -> Iterator[tuple[datetime, timedelta]]:
        for tick in CronSim(self.text, after.astimezone(timezone(offset))):
            yield tick.astimezone(UTC), offset

    def _offset(self, at: datetime) -> timedelta:
        return at.astimezone(self.zone).utcoffset() or timedelta()

    def __repr__(self) -> str:
        return f"Schedule({self.text!r}, {self.zone.key!r})"


class Every(Ticks):
    """Every so many seconds, at least one. Raises `ValueError`."""

    def __init__(self, seconds: float) -> None:
        if seconds < 1:
            raise ValueError(f"every {seconds:g}s is too often; write 1s or more")
        self.period = timedelta(seconds=seconds)

    def next(self, after: datetime) -> datetime:
        return _EPOCH + ((after - _EPOCH) // self.period + 1) * self.period

    def latest(self, now: datetime) -> datetime:
        return _EPOCH + ((now - _EPOCH) // self.period) * self.period

    def __repr__(self) -> str:
        return f"Every({self.period.total_seconds():g})"


def schedule_of(trigger: Trigger) -> Ticks | None:
    """What starts the flow by the clock; None: nothing does. Raises `ValueError`."""
    if trigger.every and trigger.cron:
        raise ValueError("both every and cron are given; write one of them")
    if trigger.cron:
        return Schedule(trigger.cron, trigger.timezone)
    if trigger.every:
        return Every(trigger.every)
    return Every(RESCAN) if trigger.watch else None


def zone_of(name: str) -> ZoneInfo:
    """A time zone by its name in the IANA database. Raises `ValueError`."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"no time zone is named {name!r}; write one such as Europe/London or UTC") from None
