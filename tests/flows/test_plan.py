"""What a flow takes by its name, and what stands beside the files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from crossdock.flows.flow import After, Destination, Flow, Place, Rule, Settle
from crossdock.flows.plan import Beside, Planner, archive_pattern
from crossdock.storage.base import Entry

LAKE = (Destination("lake"),)


@dataclass(frozen=True)
class Once:
    first_seen: datetime
    last_seen: datetime
    count: int = 2


def test_names_that_are_taken() -> None:
    rules = (Rule(name="0", glob="*.log"), Rule(name="1", regex=r"in/.*", to=LAKE), Rule(name="2", regex="x", to=LAKE))
    settle = Settle(marker="{stem}.ok", manifest="MANIFEST")
    flow = Flow(name="f", source=Place("bank"), rules=rules, settle=settle, after=After(archive="in/.done"))
    planner = Planner(flow)
    names = [
        "in/a.csv",
        "x",
        "in/a.log",
        "y",
        "in/a.ok",
        "in/MANIFEST",
        "in/a.part",
        "in/.done",
        "in/.done/a\nb",
        "in/",
    ]
    assert [name for name in names if planner.takes(name)] == ["in/a.csv", "x"]
    assert planner.by_name("in/.doner/x") is None


def test_what_has_a_folders_name_and_bytes() -> None:
    """S3 may hold it. It was left alone as if it were nothing, and nobody told."""
    now = datetime(2026, 11, 24, tzinfo=UTC)
    planner = Planner(Flow(name="f", source=Place("bank"), rules=(Rule(name="to", to=LAKE),)))
    assert planner.skipped(Entry(path="a/", size=0), now) == "it stands for a folder"
    entry = Entry(path="a/", size=1)
    assert planner.skipped(entry, now) is None
    decided = planner.decide(entry, Once(now, now), Beside(), now)
    assert decided.verdict == "fail" and "no name is left of it" in decided.reason


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_manifest_as_windows_writes_it(ends: str) -> None:
    text = "\ufeff" + ends.join(["a.csv", "  ./b.csv ", "# why", "", f"{'0' * 64} *c d.csv", f"{'f' * 32}  e"])
    assert list(Planner.names_listed("in/MANIFEST", text)) == ["in/a.csv", "in/b.csv", "in/c d.csv", "in/e"]


def test_a_manifest_lists_names_of_any_letters() -> None:
    """sha256sum marks lines in whose names it escapes something; no name is two, for what Python takes for a line."""
    text = f"\\{'0' * 64}  a\\nb\\\\n\\r\n{'f' * 64}  c\\nd\ne\u2028f\x0cg\x85h\n\\i\\n\n\\{'a' * 64} *\\\\j\n"
    assert list(Planner.names_listed("M", text)) == ["a\nb\\n\r", "c\\nd", "e\u2028f\x0cg\x85h", "\\i\\n", "\\j"]


@pytest.mark.parametrize(
    "archive", [".done", "{folder}/.done/{name}", "{name}.done", "{folder}/.{name}", "x/{now:%Y}/{path}"]
)
def test_an_archive_of_its_own(archive: str) -> None:
    assert archive_pattern(archive)


@pytest.mark.parametrize(
    "archive",
    ["{path}", "{folder}/{now:%Y}/{name}", "{stem}_{now:%Y}{suffix}", "{name}.{now:%s}", "{stem}-{name}"],
)
def test_an_archive_that_any_name_could_lie_in(archive: str) -> None:
    with pytest.raises(ValueError, match="nothing tells"):
        archive_pattern(archive)


@pytest.mark.parametrize("marker", ["{name}.ok", "/{name}.ok", "{folder}/{name}.ok", "/ok/{path}"])
def test_a_marker_is_known_for_what_it_is(marker: str) -> None:
    """A slash at the start changes nothing: paths have none."""
    rule = Rule(name="0", to=LAKE)
    planner = Planner(Flow(name="f", source=Place("bank"), rules=(rule,), settle=Settle(marker=marker, seconds=0)))
    entry = Entry(path="in/a.csv", size=1)
    now = datetime(2026, 11, 21, tzinfo=UTC)
    (wanted, _), *_ = planner.waits(entry, Once(now, now), Beside())
    name = wanted.removeprefix("there is no ")
    assert planner.is_marker(name)
    assert not planner.is_marker("in/a.csv")
    assert list(planner.waits(entry, Once(now, now), Beside(markers={name: None}))) == []


@pytest.mark.parametrize(
    ("ages", "waits"),
    [([60], True), ([60, 90], True), ([60, 2], False), ([0], False), ([-5], False), ([60, None], False)],
)
def test_a_manifest_does_not_vouch_for_a_younger_file(ages: list[int | None], waits: bool) -> None:
    """It lists the one that had the name before; its sender may be writing the next."""
    now = datetime(2026, 11, 21, tzinfo=UTC)
    entry = Entry(path="in/a.csv", size=1, modified=now)
    beside = Beside()
    for age in ages:
        beside.note_listed(["in/a.csv"], None if age is None else now - timedelta(seconds=age))
    for seconds in (0, 30):
        settle = Settle(manifest="MANIFEST", sightings=1, seconds=seconds)
        planner = Planner(Flow(name="f", source=Place("bank"), rules=(Rule(name="0", to=LAKE),), settle=settle))
        seen = Once(now - timedelta(seconds=seconds), now)
        said = [why for why, _ in planner.waits(entry, seen, beside)]
        assert said == (["the manifest that lists it is older than the file"] if waits and not seconds else [])
        assert [why for why, _ in planner.waits(Entry(path="in/b.csv"), seen, beside)] == ["no manifest lists it"]
    assert list(planner.waits(Entry(path="in/a.csv", size=1), seen, beside)) == []


def test_a_function_cannot_change_what_was_listed() -> None:
    def function(entry: Entry) -> str:
        entry.path = entry.path.upper()
        return f"lake:{entry.path}"

    planner = Planner(Flow(name="f", source=Place("bank"), rules=(Rule(name="0", call=function),)))
    now = datetime(2026, 11, 21, tzinfo=UTC)
    decision = planner.decide(Entry(path="a.csv", size=1), Once(now, now), Beside(), now)
    assert (decision.entry.path, decision.places) == ("a.csv", (Place("lake", "A.CSV"),))
