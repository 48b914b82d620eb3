"""Files that must have come by a time of day, and which have not. Pure: the clock and the arrivals are arguments.

A file counts for a deadline if it came after the deadline before. If that one was missed, what came later the same day
was still owed for it: then only the deadline's own local day counts, from midnight on.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from crossdock.flows.filters import compile_glob
from crossdock.flows.flow import Expectation, Flow
from crossdock.flows.schedule import zone_of

__all__ = ["Arrival", "Due", "Late", "due", "late"]

_REPORTED_FOR = timedelta(days=1)
"""A deadline that passed longer ago is nobody's news."""
_WEEK = 8
"""Days back within which any weekday comes once more."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file that the flow took."""

    path: str
    """Below the flow's source."""
    size: int | None
    at: datetime
    """When it was complete and known: transfers are added then. Aware."""


@dataclass(frozen=True, slots=True)
class Due:
    """One deadline of an expectation, passed less than a day ago. Times are in UTC."""

    expectation: Expectation
    deadline: datetime
    previous: datetime | None
    """The deadline before; None: there was none within a week."""
    midnight: datetime
    """The start of the deadline's local day."""

    @property
    def key(self) -> str:
        """Names this deadline, and sorts by it."""
        return _key(self.expectation, self.deadline)

    def since(self, missed: Container[str]) -> datetime:
        """From when on a file counts. `missed`: keys of earlier deadlines that were."""
        if self.previous is None or _key(self.expectation, self.previous) in missed:
            return self.midnight if self.previous is None else max(self.midnight, self.previous)
        return self.previous


@dataclass(frozen=True, slots=True)
class Late:
    """Fewer files than expected had come."""

    due: Due
    arrived: int
    """Files that counted."""
    after: int
    """Files that came between the deadline and now."""

    @property
    def key(self) -> str:
        return self.due.key

    def __str__(self) -> str:
        wanted, deadline = self.due.expectation, self.due.deadline.astimezone(zone_of(self.due.expectation.timezone))
        size = f" of at least {wanted.min_size} bytes" if wanted.min_size else ""
        since = f", {self.after} since" if self.after else ""
        return (
            f"{self.arrived} of {wanted.min_count} files {wanted.match!r}{size} came by "
            f"{deadline:%Y-%m-%d %H:%M} {wanted.timezone}{since}"
        )


def due(flow: Flow, now: datetime) -> list[Due]:
    """The deadlines of the last day, one per expectation at most. Raises `ValueError` for an unknown zone."""
    found = []
    for expectation in flow.expect:
        today = now.astimezone(zone_of(expectation.timezone)).date()
        days = [today - timedelta(days=back) for back in range(2 * _WEEK)]
        passed = [
            (moment, day)
            for day in days
            if day.weekday() in expectation.days and (moment := _moment(expectation, day, expectation.by)) <= now
        ]
        if passed and now - passed[0][0] < _REPORTED_FOR:
            (deadline, day), *earlier = passed
            previous = earlier[0][0] if earlier else None
            found.append(Due(expectation, deadline, previous, _midnight(expectation, day)))
    return found


def late(flow: Flow, now: datetime, arrivals: Iterable[Arrival], missed: Container[str] = frozenset()) -> list[Late]:
    """Which expectations were not met by their last deadline. `arrivals` since `Due.since`, in any order."""
    arrivals = list(arrivals)
    found = []
    for one in due(flow, now):
        wanted, pattern, since = one.expectation, compile_glob(one.expectation.match), one.since(missed)
        counted = [
            arrival.at
            for arrival in arrivals
            if since < arrival.at <= now and (arrival.size or 0) >= wanted.min_size and pattern.match(arrival.path)
        ]
        in_time = sum(at <= one.deadline for at in counted)
        if in_time < wanted.min_count:
            found.append(Late(one, in_time, len(counted) - in_time))
    return found


def _moment(expectation: Expectation, day: date, at: time) -> datetime:
    """A local time in UTC; the later one where the clocks make it ambiguous."""
    zone = zone_of(expectation.timezone)
    local = datetime.combine(day, at.replace(tzinfo=None), zone)
    return max(local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))


def _midnight(expectation: Expectation, day: date) -> datetime:
    """The first moment of a local day, in UTC; where midnight is skipped, the day starts with the change."""
    return datetime.combine(day, time(), zone_of(expectation.timezone)).astimezone(UTC)


def _key(expectation: Expectation, deadline: datetime) -> str:
    return f"{deadline:%Y-%m-%dT%H:%M:%SZ} {expectation.match} {expectation.min_count} {expectation.min_size}"
