"""Which expected files are late."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Any

import pytest

from crossdock.flows.expect import Arrival, Due, Late, due, late
from crossdock.flows.flow import Expectation, Flow, Place, Rule

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def flow(*expected: Expectation) -> Flow:
    return Flow(name="statements", source=Place("bank", "outbox"), rules=(Rule(name="rules[0]"),), expect=expected)


def daily(by: time = time(6, 30), zone: str = "UTC", **more: Any) -> Expectation:
    return Expectation(match="**/pay_*.csv", by=by, timezone=zone, **more)


def arrival(at: str, path: str = "a/pay_1.csv", size: int | None = 100) -> Arrival:
    return Arrival(path, size, utc(at))


def only(found: list[Due]) -> Due:
    (one,) = found
    return one


NOW = utc("2026-11-20T06:35")  # A Friday.


@pytest.mark.parametrize(
    ("arrivals", "arrived", "after"),
    [
        ([], 0, 0),
        ([arrival("2026-11-20T06:31")], 0, 1),
        ([arrival("2026-11-19T06:29")], 0, 0),
        ([arrival("2026-11-19T06:30")], 0, 0),
        ([arrival("2026-11-20T06:00", "a/other.csv")], 0, 0),
        ([arrival("2026-11-20T06:00", size=9)], 0, 0),
        ([arrival("2026-11-20T06:00", size=None)], 0, 0),
        ([arrival("2026-11-20T06:00")], 1, 0),
    ],
)
def test_late(arrivals: list[Arrival], arrived: int, after: int) -> None:
    """Two are wanted: what came before the last deadline, after this one, elsewhere or too small, does not count."""
    (found,) = late(flow(daily(min_count=2, min_size=10)), NOW, arrivals)
    assert (found.arrived, found.after) == (arrived, after)


@pytest.mark.parametrize("first", ["2026-11-19T06:30:01", "2026-11-19T23:00", "2026-11-20T06:30"])
def test_met(first: str) -> None:
    arrivals = [arrival(first), arrival("2026-11-20T06:30", "pay_2.csv")]
    assert late(flow(daily(min_count=2, min_size=10)), NOW, arrivals) == []


def test_after_a_miss_only_the_same_day_counts() -> None:
    """Yesterday's file that came late yesterday is not today's."""
    the_flow = flow(daily())
    yesterday = only(due(the_flow, utc("2026-11-19T06:30")))
    straggler = arrival("2026-11-19T08:00")
    assert late(the_flow, NOW, [straggler]) == []
    assert len(late(the_flow, NOW, [straggler], {yesterday.key})) == 1
    assert late(the_flow, NOW, [straggler, arrival("2026-11-20T00:01")], {yesterday.key}) == []


def test_days_and_how_long_a_deadline_is_news() -> None:
    the_flow = flow(daily(days=frozenset({0, 4})))
    assert due(the_flow, utc("2026-11-20T06:29:59")) == []
    friday = only(due(the_flow, NOW))
    assert (friday.deadline, friday.previous) == (utc("2026-11-20T06:30"), utc("2026-11-16T06:30"))
    assert only(due(the_flow, utc("2026-11-21T06:29"))) == friday
    assert due(the_flow, utc("2026-11-21T06:30")) == []
    assert only(due(the_flow, utc("2026-11-23T07:00"))).previous == friday.deadline
    assert due(flow(daily(days=frozenset())), NOW) == []


@pytest.mark.parametrize(
    ("by", "now", "deadline", "midnight"),
    [
        (time(6, 30), "2026-03-28T12:00", "2026-03-28T05:30", "2026-03-27T23:00"),
        (time(6, 30), "2026-03-29T12:00", "2026-03-29T04:30", "2026-03-28T23:00"),
        # Does not exist: as late as 03:30. Exists twice: the second.
        (time(2, 30), "2026-03-29T12:00", "2026-03-29T01:30", "2026-03-28T23:00"),
        (time(2, 30), "2026-10-25T12:00", "2026-10-25T01:30", "2026-10-24T22:00"),
    ],
)
def test_zones_and_the_nights_on_which_clocks_change(by: time, now: str, deadline: str, midnight: str) -> None:
    one = only(due(flow(daily(by, BERLIN)), utc(now)))
    assert (one.deadline, one.midnight) == (utc(deadline), utc(midnight))


def test_the_day_is_the_zones_own() -> None:
    """In Auckland it is Saturday already."""
    auckland = daily(time(1, 0), "Pacific/Auckland", days=frozenset({5}))
    assert only(due(flow(auckland), utc("2026-11-20T13:00"))).deadline == utc("2026-11-20T12:00")


def test_words() -> None:
    found = late(flow(daily(time(7, 30), BERLIN, min_count=2, min_size=10)), NOW, [arrival("2026-11-20T06:33")])
    assert [str(one) for one in found] == [
        "0 of 2 files '**/pay_*.csv' of at least 10 bytes came by 2026-11-20 07:30 Europe/Berlin, 1 since"
    ]


def test_keys_sort_by_deadline_and_tell_expectations_apart() -> None:
    the_flow = flow(daily(), daily(min_count=2), daily(time(5, 0)))
    keys = [one.key for one in due(the_flow, NOW)]
    assert len(set(keys)) == 3
    assert min(keys) == keys[2]
    assert isinstance(late(the_flow, NOW, [])[0], Late)
