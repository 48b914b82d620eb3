"""A flow that was built in Python, which no `check` has seen: an engine refuses what it could not run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import crossdock
from crossdock.errors import ConfigError
from crossdock.ledger.memory import MemoryLedger
from crossdock.storage.local import LocalSettings

RULE = crossdock.Rule(name="all", to=(crossdock.Destination("there"),))
FLOW = crossdock.Flow(
    name="day", source=crossdock.Place("here"), rules=(RULE,), settle=crossdock.Settle(sightings=1, seconds=0)
)
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"rules": ()}, "it has no rules, so it would move nothing"),
    ({"rules": (replace(RULE, regex="a", glob="b"),)}, "rule all: both a regex and a glob; keep one of them"),
    ({"rules": (replace(RULE, call=lambda entry: None),)}, "rule all: both a function and destinations"),
    ({"on_conflict": "skp"}, "'skp' is none of overwrite, skip, fail, version"),
    ({"order": "size"}, "'size' is none of oldest, newest, name"),
    ({"unmatched": "refuse"}, "'refuse' is none of ignore, fail"),
    ({"trigger": crossdock.Trigger(cron="daily")}, "1 fields in the cron line 'daily'"),
    ({"trigger": crossdock.Trigger(cron="0 5 * * *", timezone="Mars")}, "Mars"),
]


@pytest.mark.parametrize(("change", "reason"), WRONG, ids=[reason for _, reason in WRONG])
def test_what_cannot_be_run_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        crossdock.Engine([replace(FLOW, **change)], _nowhere, MemoryLedger())
    assert str(caught.value).startswith("flow day: ")
    assert reason in str(caught.value)


def test_two_flows_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="flow day: another flow has that name"):
        crossdock.Engine([FLOW, replace(FLOW, order="name")], _nowhere, MemoryLedger())


async def test_one_runs(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "here/a.csv").write_bytes(b"1")

    def storage(name: str) -> crossdock.Storage:
        return crossdock.new_storage(name, LocalSettings(root=tmp_path / name))

    async with MemoryLedger() as ledger, crossdock.Engine([FLOW], storage, ledger) as engine:
        done = await engine.run_once("day")
        with pytest.raises(ConfigError, match="no flow is called 'night'"):
            await engine.run_once("night")
    assert (done.delivered, done.good) == (1, True)
    assert (tmp_path / "there/a.csv").read_bytes() == b"1"


def _nowhere(name: str) -> crossdock.Storage:
    raise AssertionError(name)
