"""plan and apply: what is planned is what is done, and what drifted is not."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from crossdock.cli.plan import _save
from crossdock.errors import CrossdockError
from tests.cli.conftest import PROGRAM, Cli, contents
from tests.cli.flow_files import configure, put

TWO: dict[str, Any] = {"to": ["lake:{path}", "staging:copy/{name}"]}


@pytest.fixture
def planned(cli: Cli, tmp_path: Path) -> Cli:
    """p.json: a.csv and sub/b.csv, each to lake and staging."""
    configure(tmp_path, **TWO)
    put(tmp_path, {"a.csv": "one", "sub/b.csv": "two!"})
    assert cli("plan", "--out", "p.json").code == 0
    return cli


def test_a_plan_changes_nothing_and_says_all(planned: Cli, tmp_path: Path) -> None:
    saved = json.loads((tmp_path / "p.json").read_text())
    *rows, summary = planned("plan", "--json").rows
    assert rows == saved["transfers"]
    assert summary["summary"] == {"transfers": 4, "size": 14, "requests": {}, "waiting": {}, "held": {}, "errors": {}}
    assert {(row["path"], row["target"], row["target_path"]) for row in rows} == {
        ("out/a.csv", "lake", "a.csv"),
        ("out/a.csv", "staging", "copy/a.csv"),
        ("out/sub/b.csv", "lake", "sub/b.csv"),
        ("out/sub/b.csv", "staging", "copy/b.csv"),
    }
    assert all(row["reason"] == "'to' takes every file" for row in rows)
    assert all(row["fingerprint"].startswith(f":{row['size']}:{row['modified']}") for row in rows)
    text = planned("plan")
    assert "partner:out/sub/b.csv → staging:copy/b.csv ('to' takes every file)" in text.out
    assert text.err.startswith("4 transfers to add, 14 B")
    assert planned("transfers", "list", "--json").rows == []
    assert contents(tmp_path / "lake") == {}


def test_apply_does_exactly_that(planned: Cli, tmp_path: Path) -> None:
    put(tmp_path, {"later.csv": "not in the plan"})
    dry = planned("apply", "--dry-run", "p.json")
    assert (dry.code, dry.err) == (0, "4 of 4 transfers as planned; nothing was done\n")
    assert contents(tmp_path / "lake") == {}
    result = planned("apply", "--json", "p.json")
    assert result.code == 0
    assert [row["what"] for row in result.rows] == ["delivered"] * 4
    assert "4 transfers added, 4 delivered (14 B)" in result.err
    assert contents(tmp_path / "lake") == {"a.csv": b"one", "sub/b.csv": b"two!"}
    assert contents(tmp_path / "staging") == {"copy/a.csv": b"one", "copy/b.csv": b"two!"}
    assert planned("run", "--once").code == 0
    assert contents(tmp_path / "lake")["later.csv"] == b"not in the plan"


def test_what_waits_is_not_done(planned: Cli, tmp_path: Path) -> None:
    (tmp_path / "staging").rmdir()
    result = planned("apply", "p.json")
    assert (result.code, "2 delivered (7 B), 2 to be tried again, the first in " in result.err) == (1, True), result
    assert result.err.splitlines()[-1] == "Next: run it again then; or at once, after: crossdock transfers retry --all"


def test_a_plan_can_be_cut(planned: Cli, tmp_path: Path) -> None:
    """Rows that the user takes out are not done."""
    plan = json.loads((tmp_path / "p.json").read_text())
    plan["transfers"] = [row for row in plan["transfers"] if row["target"] == "staging"]
    (tmp_path / "p.json").write_text(json.dumps(plan))
    assert planned("apply", "p.json").code == 0
    assert contents(tmp_path / "lake") == {}
    assert contents(tmp_path / "staging") == {"copy/a.csv": b"one", "copy/b.csv": b"two!"}


def test_caps_are_those_of_the_plan(cli: Cli, tmp_path: Path) -> None:
    """What came since, and would go first, does not push a planned file out."""
    configure(tmp_path, max_files=1)
    put(tmp_path, {"a.csv": "planned"})
    assert cli("plan", "--out", "p.json").code == 0
    put(tmp_path, {"older.csv": "later"})
    os.utime(tmp_path / "partner/out/older.csv", (1, 1))
    assert cli("apply", "p.json").code == 0
    assert contents(tmp_path / "lake") == {"in/a.csv": b"planned"}


def change(folder: Path) -> None:
    put(folder, {"a.csv": "ONE!"})


def same_size(folder: Path) -> None:
    put(folder, {"a.csv": "eno"})
    os.utime(folder / "partner/out/a.csv", (1e9, 1e9))


def remove(folder: Path) -> None:
    (folder / "partner/out/a.csv").unlink()


def reroute(folder: Path) -> None:
    configure(folder, rules=[{"match": "a.*", "to": "lake:elsewhere/"}, {"to": TWO["to"]}])


def leave_out(folder: Path) -> None:
    configure(folder, exclude="a.*", **TWO)


def one_more(folder: Path) -> None:
    """The file would have a transfer, and so get no other: the new destination would never have it."""
    more = [*TWO["to"], "lake:more/{path}"]
    configure(folder, rules=[{"match": "a.*", "to": more}, {"to": TWO["to"]}])


def unrule(folder: Path) -> None:
    configure(folder, rules=[{"match": "sub/.*", "to": TWO["to"]}])


def packed(folder: Path) -> None:
    """Nobody was asked whether it may go as something else."""
    configure(folder, rules=[{"match": "a.*", "to": TWO["to"], "transform": ["gzip"]}, {"to": TWO["to"]}])


def clash(folder: Path) -> None:
    put(folder, {"other/a.csv": "goes to staging:copy/a.csv as well"})


@pytest.mark.parametrize(
    ("drift", "reason"),
    [
        (change, "the file changed"),
        (same_size, "the file changed"),
        (remove, "the file is gone"),
        (reroute, r"it goes to lake:elsewhere/a.csv now (rule rules[0] matches a.*)"),
        (leave_out, "it is left out now: excluded by 'a.*'"),
        (unrule, "it goes to nowhere now (no rule matches)"),
        (one_more, "it goes to lake:more/a.csv as well now (rule rules[0] matches a.*)"),
        (packed, "it goes through gzip now"),
        (clash, "other/a.csv goes to staging:copy/a.csv as well"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_drift(planned: Cli, tmp_path: Path, drift: Any, reason: str) -> None:
    drift(tmp_path)
    result = planned("apply", "p.json")
    assert result.code == 1
    for place in ("lake:a.csv", "staging:copy/a.csv"):
        assert f"drifted: pull: partner:out/a.csv → {place}: {reason}\n" in result.err
    assert "2 of 4 transfers as planned; nothing was done\nNext: --partial" in result.err
    assert planned("transfers", "list", "--json").rows == []
    assert contents(tmp_path / "lake") == contents(tmp_path / "staging") == {}
    partial = planned("apply", "--json", "--partial", "p.json")
    assert partial.code == 1
    assert [row["drifted"] for row in partial.rows if "drifted" in row] == [reason] * 2
    assert contents(tmp_path / "lake") == {"sub/b.csv": b"two!"}
    assert contents(tmp_path / "staging") == {"copy/b.csv": b"two!"}


def test_another_source(planned: Cli, tmp_path: Path) -> None:
    """Whose files are taken for those that were planned, by their paths, sizes and times."""
    shutil.copytree(tmp_path / "partner/out", tmp_path / "staging/out", copy_function=shutil.copy2)
    configure(tmp_path, source="staging:out", **TWO)
    result = planned("apply", "--partial", "p.json")
    assert result.code == 1
    assert result.err.count(": the flow's source is staging:out now\n") == 4
    assert contents(tmp_path / "lake") == {}


def test_what_is_not_changed_on_its_way_any_more(cli: Cli, tmp_path: Path) -> None:
    """It was planned to be, and the plan says so: it may have been for secrecy."""
    configure(tmp_path, to="lake:", transform=["gzip"])
    put(tmp_path, {"a.csv": "one"})
    assert "→ lake:a.csv ('to' takes every file; through gzip)" in cli("plan", "--out", "p.json").out
    assert json.loads((tmp_path / "p.json").read_text())["transfers"][0]["through"] == ["gzip"]
    configure(tmp_path, to="lake:")
    result = cli("apply", "p.json")
    assert (result.code, contents(tmp_path / "lake")) == (1, {})
    assert "lake:a.csv: it goes through no transform now" in result.err
    configure(tmp_path, to="lake:", transform=["gzip"])
    assert cli("apply", "p.json").code == 0


def test_already_in_the_ledger(planned: Cli, tmp_path: Path) -> None:
    assert planned("run", "--once").code == 0
    (tmp_path / "lake/a.csv").write_text("somebody else's since")
    result = planned("apply", "--partial", "p.json")
    assert result.code == 1
    assert result.err.count("it is in the ledger already: transfer ") == 4
    assert (tmp_path / "lake/a.csv").read_text() == "somebody else's since"


def test_sent_and_archived_already(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, after={"archive": ".done"})
    put(tmp_path, {"a.csv": "one"})
    cli("plan", "--out", "p.json")
    assert cli("apply", "p.json").code == 0
    result = cli("apply", "p.json")
    assert result.code == 1
    assert "it is in the ledger already: transfer 1 to lake, done" in result.err


def test_a_flow_that_is_no_more(planned: Cli, tmp_path: Path) -> None:
    configure(tmp_path, more={"other": {"source": "staging:x", "to": "lake:"}})
    text = (tmp_path / "p.json").read_text().replace('"flow": "pull"', '"flow": "gone"')
    (tmp_path / "p.json").write_text(text)
    result = planned("apply", "p.json")
    assert result.code == 1
    assert result.err.count("its flow is no longer in the configuration") == 4


def test_plans_that_are_none(planned: Cli, tmp_path: Path) -> None:
    good = json.loads((tmp_path / "p.json").read_text())
    forged = [good["transfers"][0] | {"size": 99}]
    for text, said in {
        "": "no JSON",
        "[]": "not a plan that",
        "{}": "not a plan that",
        json.dumps(good | {"version": 2}): "another version",
        json.dumps(good | {"ledger": "0" * 16}): "another ledger",
        json.dumps(good | {"transfers": forged}): "the fingerprint",
        json.dumps(good | {"transfers": [{}]}): "not a plan",
        "[" * 100_000: "no JSON",
        **{
            json.dumps(good | {"transfers": [good["transfers"][0] | {key: junk}]}): f"{key} is not a"
            for key, junk in {
                "path": {},
                "flow": [],
                "target_path": 5,
                "size": "x",
                "requests": ["x"],
                "etag": 1,
            }.items()
        },
    }.items():
        (tmp_path / "bad.json").write_text(text)
        result = planned("apply", "bad.json")
        assert result.code == 3, text
        assert said in result.err
        assert result.err.startswith("crossdock: bad.json: ")
        assert "Next: " in result.err
    assert planned("apply", "nope.json").code == 2
    assert planned("plan", "--out", "nope/p.json").code == 2
    before = (tmp_path / "crossdock.yaml").read_bytes()
    assert "is no plan" in planned("plan", "--out", "crossdock.yaml").err
    assert planned("plan", "--out", ".").code == 2
    long = planned("plan", "--out", "x" * 300)
    assert (long.code, "File name too long" in long.err) == (2, True)
    assert (tmp_path / "crossdock.yaml").read_bytes() == before
    assert planned("transfers", "list", "--json").rows == []


def test_a_plan_for_which_there_is_no_room(planned: Cli, tmp_path: Path) -> None:
    """It is no mistake of the command line; the plan that was there stays."""
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(CrossdockError, match=r"write the plan p\.json: File too large") as caught:
            _save("p.json", "x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.hint == "make room there, or name a file on another disk with --out"
    assert contents(tmp_path) == before


def test_names_that_are_not_utf8(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path)
    name = os.fsdecode(b"latin\xe9\x1b[31m.csv")
    put(tmp_path, {name: "x"})
    result = cli("plan", "--out", "p.json")
    assert "\x1b" not in result.out
    assert cli("apply", "p.json").code == 0
    assert contents(tmp_path / "lake") == {f"in/{name}": b"x"}


def test_what_is_not_moved_now(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, rules=[{"match": r"(.*/)?x\.csv", "to": "lake:{name}"}, {"match": "(.*)[.]csv", "to": "lake:"}],
              max_files=1)  # fmt: skip
    put(tmp_path, {"a/x.csv": "1", "b/x.csv": "2", "note.txt": "3", "c.csv": "4", "d.csv": "5"})
    result = cli("plan")
    assert result.code == 1, "a clash is a fault of the rules"
    assert "not now: pull: a/x.csv: clash: b/x.csv goes to lake:x.csv as well" in result.out
    assert "not now: pull: note.txt: unmatched: no rule matches" in result.out
    assert "not now: pull: 1 file more than max_files or max_bytes allow" in result.out
    assert "1 transfer to add" in result.err


def test_settling_and_patience(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, settle={"for": "0.2s", "sightings": 2})
    put(tmp_path, {"a.csv": "1"})
    impatient = cli("plan", "--patience", "0")
    assert impatient.err.startswith("0 transfers to add")
    assert "not now: pull: a.csv: settle: unchanged for 0 of 0.2 s" in impatient.out
    assert cli("plan", "--out", "p.json").err.startswith("1 transfer to add")
    assert cli("apply", "p.json").code == 0
    assert contents(tmp_path / "lake") == {"in/a.csv": b"1"}


def test_a_plan_ends_as_a_run_does(cli: Cli, tmp_path: Path) -> None:
    """Files that no rule takes, where that is a failure; and one that a function sends to an endpoint that is none."""
    (tmp_path / "own.py").write_text("def to(entry):\n    return 'nowhere:x' if 'a' in entry.path else 'lake:b'\n")
    configure(tmp_path, rules=[{"match": "[ab][.]csv", "to": "python:own.to"}], unmatched="fail")
    put(tmp_path, {"a.csv": "one", "b.csv": "two", "c.txt": "three"})
    result = cli("plan", "--json")
    *rows, summary = result.rows
    assert [row.get("target_path") or (row["below"], row["verdict"]) for row in rows] == [
        "b",
        ("a.csv", "fail"),
        ("c.txt", "unmatched"),
    ]
    reason = "rule rules[0]: python:own.to sends it to nowhere:x, but no endpoint is called that"
    assert rows[1]["reason"] == reason
    assert (result.code, summary["summary"]["transfers"]) == (1, 1)
    ran = cli("run", "--once")
    assert (ran.code, f"pull: a.csv is not moved: {reason}\n" in ran.err) == (1, True), ran.err
    (tmp_path / "own.py").write_text("def to(entry):\n    return 'lake:mended'\n")
    mended = subprocess.run([PROGRAM, "run", "--once"], cwd=tmp_path, capture_output=True, text=True)
    assert "1 transfer delivered" in mended.stderr
    assert contents(tmp_path / "lake") == {"b": b"two", "mended": b"one"}
    (tmp_path / "partner" / "out" / "a.csv").unlink()
    assert (cli("plan").code, cli("run", "--once").code) == (1, 1)


def test_what_the_ledger_holds_is_told(cli: Cli, tmp_path: Path) -> None:
    """A run works it off besides what is new."""
    configure(tmp_path, to="lake:{path}")
    put(tmp_path, {"a.csv": "one"})
    (tmp_path / "lake").rmdir()
    (tmp_path / "lake").write_text("in its way")
    assert cli("run", "--once").code == 1
    assert cli("transfers", "retry", "--all").code == 0
    put(tmp_path, {"b.csv": "two"})
    result = cli("plan")
    assert "besides: pull: 1 transfer that the ledger holds already, and a run works off\n" in result.out
    assert result.err.startswith("1 transfer to add")


def test_a_source_that_cannot_be_listed(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, more={"broken": {"source": "partner:nowhere", "to": "lake:b/", "settle": "none"}})
    put(tmp_path, {"a.csv": "1"})
    result = cli("plan")
    assert result.code == 1
    assert "1 transfer to add" in result.err
    assert "crossdock: flow broken:\ncrossdock: list partner:nowhere" in result.err
    assert cli("plan", "broken").code == 4
