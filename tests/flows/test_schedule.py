"""When a flow is due, the nights on which clocks change included."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdock.flows.flow import Trigger
from crossdock.flows.schedule import RESCAN, Every, Schedule, Ticks, schedule_of, zone_of

BERLIN = "Europe/Berlin"
LINES = ["30 2 * * *", "15,45 1-3 * * *", "*/20 * * * *", "*/30 2 * * *", "5 */2 * * *", "0 6 * * 1-5", "0 0 29 2 *"]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def local(schedule: Schedule, after: str, count: int) -> list[str]:
    """The next ticks as the zone's clocks show them, with their offset from UTC in hours."""
    at, found = utc(after), []
    for _ in range(count):
        at = schedule.next(at)
        there = at.astimezone(schedule.zone)
        offset = there.utcoffset()
        assert offset is not None
        found.append(f"{there:%d %H:%M}+{offset.seconds // 3600}")
    return found


@pytest.mark.parametrize(
    ("line", "after", "expected"),
    [
        # The night of 29 March 2026 has no 02:00 to 03:00.
        ("30 2 * * *", "2026-03-28T12:00", ["29 03:00+2", "30 02:30+2"]),
        ("15,30 2 * * *", "2026-03-28T12:00", ["29 03:00+2", "30 02:15+2", "30 02:30+2"]),
        ("0 3 * * *", "2026-03-28T12:00", ["29 03:00+2", "30 03:00+2"]),
        ("*/30 * * * *", "2026-03-29T00:15", ["29 01:30+1", "29 03:00+2", "29 03:30+2"]),
        # That of 25 October has it twice.
        ("30 2 * * *", "2026-10-24T12:00", ["25 02:30+2", "26 02:30+1"]),
        ("30 2 * * *", "2026-10-25T00:45", ["26 02:30+1"]),
        ("30 2 * * *", "2026-10-25T01:15", ["26 02:30+1"]),
        ("*/30 2 * * *", "2026-10-24T12:00", ["25 02:00+2", "25 02:30+2", "25 02:00+1", "25 02:30+1", "26 02:00+1"]),
    ],
)
def test_the_nights_on_which_clocks_change(line: str, after: str, expected: list[str]) -> None:
    assert local(Schedule(line, BERLIN), after, len(expected)) == expected


@pytest.mark.parametrize(
    ("line", "after", "expected"),
    [
        # Half an hour: 01:30 to 02:00 comes twice on 5 April, 02:00 to 02:30 is left out on 4 October.
        ("45 * * * *", "2026-04-04T14:30", ["14:45", "15:15", "16:15"]),
        ("*/15 1 * * *", "2026-04-04T13:30", ["14:00", "14:15", "14:30", "14:45", "15:00", "15:15"]),
        ("*/15 2 * * *", "2026-04-04T13:30", ["15:30", "15:45", "16:00", "16:15"]),
        ("45 * * * *", "2026-10-03T15:00", ["15:15", "15:45", "16:45"]),
        ("0 * * * *", "2026-10-03T14:15", ["14:30", "16:00", "17:00"]),
        # What names its minute and its hour starts once.
        ("45 1 * * *", "2026-04-04T13:30", ["14:45", "15:15"]),
        ("15 2 * * *", "2026-10-03T13:30", ["15:30", "15:15"]),
    ],
)
def test_clocks_that_change_by_half_an_hour(line: str, after: str, expected: list[str]) -> None:
    schedule, at, found = Schedule(line, "Australia/Lord_Howe"), utc(after), []
    for _ in expected:
        at = schedule.next(at)
        found.append(f"{at:%H:%M}")
    assert found == expected


def test_a_rare_line_where_clocks_were_changed_for_good() -> None:
    """Years without a tick lie between two of them, and another offset is right at the second."""
    schedule = Schedule("0 * 29 2 *", "Asia/Qyzylorda")
    assert schedule.next(utc("2017-10-07T00:00")) == utc("2020-02-28T19:00")
    assert schedule.latest(utc("2026-11-22T00:00")) == utc("2024-02-29T18:00")


@given(
    st.sampled_from(LINES),
    st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)),
)
def test_ticks_ascend_and_the_latest_is_the_one_before_the_next(line: str, zone: str, at: datetime) -> None:
    schedule, now = Schedule(line, zone), at.replace(tzinfo=UTC)
    latest, following = schedule.latest(now), schedule.next(now)
    assert latest is not None
    assert latest <= now < following < schedule.next(following)
    assert schedule.next(latest) == following
    assert schedule.latest(following) == following
    assert schedule.latest(following - timedelta(seconds=1)) == latest


@given(st.integers(1, 100_000), st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)))
def test_every(seconds: int, at: datetime) -> None:
    now, every = at.replace(tzinfo=UTC), Every(seconds)
    latest = every.latest(now)
    assert latest <= now < every.next(now) == latest + timedelta(seconds=seconds)
    assert latest.timestamp() % seconds == 0
    assert every.next(latest - timedelta(microseconds=1)) == latest


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("* * * * * *", "6 fields"),
        ("", "0 fields"),
        ("@daily", "a shorthand"),
        ("61 * * * *", "bad minute"),
        ("0 0 * * FOO", "bad day-of-week"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("0 0 31 2,4 *", "bad day-of-month"),
        ("0 0 */3 2 1#5", "never comes"),  # a fifth Monday is the 29th, which is none of the days
    ],
)
def test_lines_that_cannot_be(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Schedule(line)


@pytest.mark.parametrize("name", ["Europe", "Mars/Base", "../etc/passwd", "/etc/localtime", "", "Europe/\0"])
def test_zones_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        zone_of(name)


def test_what_a_trigger_means() -> None:
    def kind(trigger: Trigger) -> str:
        found: Ticks | None = schedule_of(trigger)
        return repr(found)

    assert kind(Trigger()) == "None"
    assert kind(Trigger(every=90)) == "Every(90)"
    assert kind(Trigger(watch=True)) == f"Every({RESCAN:g})"
    assert kind(Trigger(watch=True, every=10)) == "Every(10)"
    assert kind(Trigger(cron="0 6 * * *", timezone=BERLIN)) == "Schedule('0 6 * * *', 'Europe/Berlin')"
    for wrong, reason in (
        (Trigger(every=5, cron="0 6 * * *"), "both every and cron"),
        (Trigger(every=0.5), "too often"),
        (Trigger(cron="0 6 * * *", timezone="X"), "no time zone"),
    ):
        with pytest.raises(ValueError, match=reason):
            schedule_of(wrong)
