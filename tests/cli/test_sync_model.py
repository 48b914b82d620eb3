"""Random trees and options: `sync` does what a second, simple account of it says, and `--dry-run` tells that before."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.cli.conftest import Cli
from tests.cli.sync_model import Options, expected, options, plant, snapshot

_TOLD = ("action", "reason", "size", "kind", "error")


def synced(cli: Cli, folder: Path, asked: Options, *more: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and by name what was said; in the report it is the same."""
    argv = ["--json", "--report", "report", "--retries", "0", *asked.argv(), *more]
    result = cli("sync", "in", "out", *argv)
    rows = [row for row in result.rows if "summary" not in row]
    report = [json.loads(line) for line in (folder / "report").read_text().splitlines()]
    assert sorted(map(json.dumps, rows)) == sorted(map(json.dumps, report))
    found = {row["path"]: row for row in rows}
    assert len(found) == len(rows), "one line for each file"
    actions = [row["action"] for row in rows]
    for row in result.rows[len(rows) :]:
        counts = {key: value for key, value in row["summary"].items() if key not in ("size", "seconds")}
        assert counts == {key: actions.count(key) for key in ("copy", "skip", "delete", "fail")}
        assert result.code == (1 if "fail" in actions else 0)
    return result.code, found


@pytest.mark.parametrize("seed", range(60))
def test_random_trees(cli: Cli, tmp_path: Path, seed: int) -> None:
    random, now = Random(seed), time.time_ns()
    plant(tmp_path / "in", tmp_path / "out", random, now)
    asked = options(random)
    source, target = snapshot(tmp_path / "in"), snapshot(tmp_path / "out")
    wanted = expected(source, target, asked, now)
    planned = synced(cli, tmp_path, asked, "--dry-run")
    assert snapshot(tmp_path / "out") == target
    code, done = synced(cli, tmp_path, asked)
    assert {name: row["action"] for name, row in done.items()} == wanted.outcomes
    assert (code == 7) is wanted.refused
    assert planned[0] == code
    for name in planned[1].keys() | done.keys():
        dry, wet = planned[1].get(name, {}), done.get(name, {})
        assert [dry.get(key) for key in _TOLD] == [wet.get(key) for key in _TOLD]
    held = snapshot(tmp_path / "out")
    assert held == wanted.target
    assert snapshot(tmp_path / "in") == source
    # Once more: what a bound on deleting refused may be within it by now, and nothing else is done.
    again = expected(source, held, asked, now)
    assert "copy" not in again.outcomes.values()
    code, done = synced(cli, tmp_path, asked)
    assert {name: row["action"] for name, row in done.items()} == again.outcomes
    assert snapshot(tmp_path / "out") == again.target
