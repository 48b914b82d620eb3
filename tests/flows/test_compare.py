"""Whether a file must be moved again, by what two endpoints tell of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from crossdock.flows.compare import UNSURE, Comparison
from crossdock.storage.base import SECONDS_32, Capabilities, Entry

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
EXACT, SECOND = timedelta(microseconds=1), timedelta(seconds=1)


def kept(precision: timedelta | None, *, listed: bool = True) -> Capabilities:
    return Capabilities(mtime_precision=precision, lists_mtime=listed)


@pytest.mark.parametrize(
    ("theirs", "ours", "newer", "said"),
    [
        (kept(EXACT), kept(EXACT), 0, None),
        (kept(EXACT), kept(EXACT), 0.1, "modification time differs"),
        (kept(EXACT), kept(SECOND), 0.9, None),
        (kept(SECOND), kept(EXACT), 0.9, None),
        (kept(SECOND), kept(EXACT), 1, "modification time differs"),
        # A source on which nobody can set times has some all the same.
        (kept(None), kept(EXACT), 60, "modification time differs"),
        (kept(None), kept(EXACT), 0, None),
        (kept(EXACT), kept(None), 60, "source is newer"),
        (kept(EXACT), kept(None), -60, None),
        (kept(EXACT), kept(EXACT, listed=False), 60, UNSURE),
        (kept(EXACT), kept(EXACT, listed=False), 0, UNSURE),
        (kept(EXACT, listed=False), kept(EXACT), 60, UNSURE),
        (kept(EXACT, listed=False), kept(EXACT), 0, None),
    ],
)
def test_by_time(theirs: Capabilities, ours: Capabilities, newer: float, said: str | None) -> None:
    source = Entry(path="a", size=5, modified=NOW + timedelta(seconds=newer))
    assert Comparison(theirs, ours).difference(source, Entry(path="a", size=5, modified=NOW)) == said
    assert Comparison(theirs, ours).difference(source, Entry(path="a", size=6, modified=NOW)) == "size differs"
    assert Comparison(theirs, ours).difference(source, Entry(path="a", size=5)) is None
    assert Comparison(theirs, ours).difference(source, Entry(path="a")) == "neither size nor time is told"


def test_times_within_a_window_are_equal() -> None:
    """FAT keeps even seconds; some servers tell times that are whole hours off."""
    modified = NOW + timedelta(seconds=7.9)
    source = Entry(path="a", size=5, modified=modified)
    for precision, listed in ((EXACT, True), (SECOND, True), (SECOND, False)):
        compared = Comparison(kept(EXACT), kept(precision, listed=listed), window=timedelta(seconds=2))
        for seconds, same in ((6, True), (8, True), (5, False), (10, False)):
            target = Entry(path="a", size=5, modified=NOW + timedelta(seconds=seconds))
            assert (compared.difference(source, target, listed=False) is None) is same
    hour = Comparison(kept(EXACT), kept(None), window=timedelta(hours=1))
    assert hour.difference(source, Entry(path="a", size=5, modified=modified - timedelta(hours=1))) is None
    earlier = Entry(path="a", size=5, modified=modified - timedelta(hours=1.1))
    assert hour.difference(source, earlier) == "source is newer"


@pytest.mark.parametrize(("year", "kept"), [(1601, SECONDS_32[0]), (2200, SECONDS_32[1])])
def test_a_time_that_the_target_cannot_keep(year: int, kept: datetime) -> None:
    """It bears the nearest; by any other, it is another file."""
    source = Entry(path="a", size=5, modified=datetime(year, 1, 1, tzinfo=UTC))
    theirs, ours = Capabilities(mtime_precision=EXACT), Capabilities(mtime_precision=SECOND, mtime_range=SECONDS_32)
    assert Comparison(theirs, ours).difference(source, Entry(path="a", size=5, modified=kept)) is None
    for other in (NOW, kept + SECOND):
        told = Comparison(theirs, ours).difference(source, Entry(path="a", size=5, modified=other))
        assert told == "modification time differs"
    # And back: the file that was not kept exactly is no other one.
    assert Comparison(ours, theirs).difference(Entry(path="a", size=5, modified=kept), source) is None
    back = Comparison(ours, theirs).difference(Entry(path="a", size=5, modified=NOW), source)
    assert back == "modification time differs"
    # What a server tells beyond what it can be made to keep.
    assert Comparison(ours, theirs).difference(source, source) is None
