"""What a flow takes by its name, and what stands beside the files."""

from __future__ import annotations

import pytest

from crossdock.flows.flow import After, Destination, Flow, Place, Rule, Settle
from crossdock.flows.plan import Planner, archive_pattern

LAKE = (Destination("lake"),)


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


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_manifest_as_windows_writes_it(ends: str) -> None:
    text = "\ufeff" + ends.join(["a.csv", "  ./b.csv ", "# why", "", f"{'0' * 64} *c d.csv", f"{'f' * 32}  e"])
    assert list(Planner.names_listed("in/MANIFEST", text)) == ["in/a.csv", "in/b.csv", "in/c d.csv", "in/e"]


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
