"""The nights on which clocks are changed, in zones that differ, and a clock that jumps: nothing is lost or doubled."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from itertools import pairwise

import pytest

from crossdock.errors import ConfigError
from crossdock.flows.expect import Arrival, Due, due, late
from crossdock.flows.flow import Destination, Expectation, Flow, Place, Rule
from crossdock.flows.plan import Planner
from crossdock.storage.base import Entry

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
HAVANA, CAIRO = "America/Havana", "Africa/Cairo"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def flow(by: time, zone: str, days: frozenset[int] = frozenset(range(7)), to: str = "{path}") -> Flow:
    expected = Expectation(match="*.csv", by=by, timezone=zone, days=days)
    rule = Rule(name="rules[0]", to=(Destination("lake", to),))
    return Flow(name="f", source=Place("bank"), rules=(rule,), expect=(expected,))


def only(found: list[Due]) -> Due:
    (one,) = found
    return one


@pytest.mark.parametrize(
    ("zone", "by", "evening", "deadline", "midnight"),
    [
        # The hour from 02:00 does not exist: as late as an hour later.
        (BERLIN, time(2, 30), "2026-03-29T12:00", "2026-03-29T01:30", "2026-03-28T23:00"),
        (NEW_YORK, time(2, 30), "2026-03-08T20:00", "2026-03-08T07:30", "2026-03-08T05:00"),
        # It exists twice: the second.
        (BERLIN, time(2, 30), "2026-10-25T12:00", "2026-10-25T01:30", "2026-10-24T22:00"),
        (NEW_YORK, time(1, 30), "2026-11-01T20:00", "2026-11-01T06:30", "2026-11-01T04:00"),
        # Half an hour: 02:00 to 02:30 is left out, 01:30 to 02:00 comes twice; 02:30 exists in both nights.
        (LORD_HOWE, time(2, 15), "2026-10-04T05:00", "2026-10-03T15:45", "2026-10-03T13:30"),
        (LORD_HOWE, time(2, 30), "2026-10-04T05:00", "2026-10-03T15:30", "2026-10-03T13:30"),
        (LORD_HOWE, time(1, 45), "2026-04-05T05:00", "2026-04-04T15:15", "2026-04-04T13:00"),
        (LORD_HOWE, time(2, 30), "2026-04-05T05:00", "2026-04-04T16:00", "2026-04-04T13:00"),
        # Midnight itself comes twice, or not at all: the day starts at its first moment.
        (HAVANA, time(6, 30), "2025-11-02T20:00", "2025-11-02T11:30", "2025-11-02T04:00"),
        (CAIRO, time(6, 30), "2026-04-24T20:00", "2026-04-24T03:30", "2026-04-23T22:00"),
        (HAVANA, time(0, 30), "2025-11-02T20:00", "2025-11-02T05:30", "2025-11-02T04:00"),
        (CAIRO, time(0, 30), "2026-04-24T20:00", "2026-04-23T22:30", "2026-04-23T22:00"),
    ],
)
def test_a_deadline_in_the_night_of_the_change(zone: str, by: time, evening: str, deadline: str, midnight: str) -> None:
    one = only(due(flow(by, zone), utc(evening)))
    assert (one.deadline, one.midnight) == (utc(deadline), utc(midnight))


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, LORD_HOWE, HAVANA, CAIRO])
@pytest.mark.parametrize("by", [time(0, 0), time(0, 30), time(1, 45), time(2, 0), time(2, 30), time(6, 30), time(23)])
def test_each_day_of_a_year_has_one_deadline(zone: str, by: time) -> None:
    """Told once each, in order, 23 to 25 hours apart, after the midnight of its day; each file counts for one."""
    the_flow = flow(by, zone)
    found: dict[str, Due] = {}
    at = utc("2026-01-02T00:00")
    while at < utc("2027-01-02T00:00"):
        for one in due(the_flow, at):
            assert found.setdefault(one.key, one) == one, "the same whenever it is asked for"
        at += 11 * HOUR
    deadlines = [found[key].deadline for key in sorted(found)]
    assert len(deadlines) in (365, 366)
    gaps = [later - earlier for earlier, later in pairwise(deadlines)]
    assert deadlines == sorted(deadlines)
    assert min(gaps) >= 23 * HOUR
    assert max(gaps) <= 25 * HOUR
    for one in found.values():
        assert one.midnight <= one.deadline <= one.midnight + 25 * HOUR
        assert one.previous is not None
        came = Arrival("a.csv", 1, one.previous + timedelta(seconds=1))
        assert late(the_flow, one.deadline, [came]) == []
        assert late(the_flow, one.deadline, [Arrival("a.csv", 1, one.previous)]), "that one was yesterday's"


@pytest.mark.parametrize(
    ("zone", "sunday"),
    [(BERLIN, "2026-03-29"), (BERLIN, "2026-10-25"), (NEW_YORK, "2026-11-01"), (LORD_HOWE, "2026-04-05")],
)
def test_days_at_the_change(zone: str, sunday: str) -> None:
    """A flow of the weekdays owes nothing on the Sunday; one of Sundays owes it on that day alone."""
    noon = utc(f"{sunday}T12:00")
    weekdays, sundays = flow(time(2, 30), zone, frozenset(range(5))), flow(time(2, 30), zone, frozenset({6}))
    assert due(weekdays, noon - 12 * HOUR) == due(weekdays, noon) == []
    one = only(due(sundays, noon))
    assert one.previous is not None
    assert 7 * DAY - HOUR <= one.deadline - one.previous <= 7 * DAY + HOUR
    assert due(sundays, noon - DAY) == due(sundays, noon + DAY) == []


@pytest.mark.parametrize(
    ("zone", "now", "written"),
    [
        (BERLIN, "2026-03-29T00:59:59", "20260329-0159+0100"),
        (BERLIN, "2026-03-29T01:00", "20260329-0300+0200"),
        (BERLIN, "2026-10-24T21:59:59", "20261024-2359+0200"),
        (BERLIN, "2026-10-24T22:00", "20261025-0000+0200"),
        (BERLIN, "2026-10-25T00:30", "20261025-0230+0200"),
        (BERLIN, "2026-10-25T01:30", "20261025-0230+0100"),
        (BERLIN, "2026-10-25T22:59:59", "20261025-2359+0100"),
        (BERLIN, "2026-10-25T23:00", "20261026-0000+0100"),
        (NEW_YORK, "2026-11-01T05:30", "20261101-0130-0400"),
        (NEW_YORK, "2026-11-01T06:30", "20261101-0130-0500"),
        (NEW_YORK, "2026-11-02T04:59", "20261101-2359-0500"),
        (LORD_HOWE, "2026-10-03T15:29", "20261004-0159+1030"),
        (LORD_HOWE, "2026-10-03T15:30", "20261004-0230+1100"),
        (LORD_HOWE, "2026-04-04T14:45", "20260405-0145+1100"),
        (LORD_HOWE, "2026-04-04T15:15", "20260405-0145+1030"),
    ],
)
def test_dates_of_templates(zone: str, now: str, written: str) -> None:
    """By the zone's own day, of the time of planning and of the file."""
    template = f"{{now:%Y%m%d-%H%M%z@{zone}}}/{{modified:%Y%m%d-%H%M%z@{zone}}}/{{now:%H%M}}"
    planner = Planner(flow(time(6, 30), zone, to=template))
    entry = Entry(path="a.csv", size=1, modified=utc(now))
    (place,) = planner.routes.route(entry, utc(now)).places
    assert place.path == f"{written}/{written}/{utc(now):%H%M}"


def test_a_time_that_the_zone_has_no_date_for() -> None:
    """A sender may set any: that file fails, and nothing else."""
    planner = Planner(flow(time(6, 30), BERLIN, to=f"{{modified:%Y@{BERLIN}}}/{{path}}"))
    entry = Entry(path="a.csv", size=1, modified=utc("9999-12-31T23:30"))
    with pytest.raises(ConfigError, match="9999-12-31 is at the end of what dates can be"):
        planner.routes.route(entry, utc("2026-11-21"))
