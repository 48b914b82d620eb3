"""explain: every reason why a file is moved or is not, and what it costs to ask."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from crossdock.engine import saved
from crossdock.ledger.base import Ledger, Planned
from tests.cli.conftest import Cli, contents
from tests.cli.flow_files import configure, in_ledger, put
from tests.servers import OpenSSH

RULES = [
    {"name": "invoices", "match": r"(?P<who>[a-z]+)/inv_\d+\.csv", "to": ["lake:{who}/{name}", "staging:{path}"]},
    {"name": "csv", "match": {"glob": "**/*.csv"}, "to": "lake:other/{path}"},
    {"name": "left", "match": r"keep/.*", "to": "none"},
]


def test_rule_by_rule(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, rules=RULES)
    put(tmp_path, {"acme/inv_7.csv": "seven"})
    row = cli("explain", "--json", "pull", "acme/inv_7.csv").rows[0]
    assert (row["there"], row["verdict"], row["size"], row["known"]) == (True, "move", 5, False)
    first, second, third = row["rules"]
    assert first == {
        "rule": "invoices",
        "matches": True,
        "decides": True,
        "why": r"matches (?P<who>[a-z]+)/inv_\d+\.csv",
        "to": ["lake:acme/inv_7.csv", "staging:acme/inv_7.csv"],
    }
    assert (second["matches"], second["decides"], second["to"]) == (True, False, [])
    assert second["why"] == "would match as well; invoices comes first"
    assert (third["matches"], third["why"]) == (False, "does not match keep/.*")
    assert [target["said"] for target in row["targets"]] == ["free", "free"]
    assert row["next"] == ["sends it to lake:acme/inv_7.csv and staging:acme/inv_7.csv"]
    text = cli("explain", "pull", "partner:out/acme/inv_7.csv").out
    assert r"rules     → invoices matches (?P<who>[a-z]+)/inv_\d+\.csv: lake:acme/inv_7.csv and staging:" in text
    assert "ledger    does not know it" in text
    assert cli("transfers", "list", "--json").rows == [], "nothing is added"
    assert "lake:acme/inv_7.csv and staging:" in cli("explain", "pull", "/out/acme/inv_7.csv").out
    assert cli("explain", "pull", "partner:elsewhere/x").code == 2
    assert cli("explain", "pull", "/acme/inv_7.csv").code == 2
    assert cli("explain", "pul", "x").code == 3


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("ACME/inv_7.csv", "; only upper and lower case differ"),
        ("x/acme/inv_7.csv", "; only 'acme/inv_7.csv' of it would, and a rule must match the whole path"),
        ("acme/report.txt", r"does not match (?P<who>[a-z]+)/inv_\d+\.csv"),
    ],
)
def test_why_a_rule_does_not_match(cli: Cli, tmp_path: Path, path: str, why: str) -> None:
    configure(tmp_path, rules=RULES)
    put(tmp_path, {"other.txt": ""})
    result = cli("explain", "--json", "pull", path)
    assert result.code == 4, "neither at the source nor in the ledger"
    assert why in result.rows[0]["rules"][0]["why"]
    assert result.rows[0]["next"] == ["nothing: the source does not hold it"]


@pytest.mark.parametrize(
    ("path", "flow", "expected"),
    [
        ("a.tmp", {}, "its sender uses such names while it writes (settle.temporary)"),
        ("a.bak", {"exclude": "*.bak"}, "excluded by '*.bak'"),
        ("a.txt", {"include": "*.csv"}, "no include rule matches"),
        ("big.csv", {"max_size": 3}, "larger than 3 bytes"),
        (".done/a.csv", {"after": {"archive": ".done"}}, "it lies in the flow's own archive"),
    ],
)
def test_what_is_left_out(cli: Cli, tmp_path: Path, path: str, flow: dict[str, Any], expected: str) -> None:
    settings = {"settle": {"for": 0, "sightings": 1}} | flow
    configure(tmp_path, **settings)
    put(tmp_path, {path: "12345"})
    row = cli("explain", "--json", "pull", path).rows[0]
    assert row["left_out"] == expected
    assert row["next"] == [f"leaves it alone: {expected}"]


def test_unmatched_and_left_on_purpose(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, rules=RULES, unmatched="fail")
    put(tmp_path, {"note.txt": "x", "keep/note.txt": "x"})
    assert cli("explain", "--json", "pull", "note.txt").rows[0]["next"] == [
        "no rule takes it, so it fails (unmatched: fail)"
    ]
    assert "leaves it where it is: rule left" in cli("explain", "pull", "keep/note.txt").out


def test_a_file_that_settles(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, settle={"for": "1h", "sightings": 3, "min_size": 10, "marker": "{name}.ok"})
    put(tmp_path, {"a.csv": "12345"})
    first, second = (cli("explain", "--json", "pull", "a.csv").rows[0] for _ in range(2))
    assert first["verdict"] == "settle"
    assert first["settling"]["missing"] == [
        "5 bytes, smaller than settle.min_size (10)",
        "there is no a.csv.ok",
        "unchanged for 0 of 3600 s",
        "seen unchanged 1 of 3 times",
    ]
    assert (first["settling"]["count"], second["settling"]["count"]) == (1, 2), "a look is a look"
    assert second["settling"]["first_seen"] == first["settling"]["first_seen"]
    put(tmp_path, {"a.csv": "1234567890", "a.csv.ok": ""})
    third = cli("explain", "--json", "pull", "a.csv").rows[0]["settling"]
    assert third["missing"] == ["unchanged for 0 of 3600 s", "seen unchanged 1 of 3 times"], "it changed: anew"
    text = cli("explain", "pull", "a.csv").out
    assert "missing: seen unchanged 2 of 3 times" in text
    assert "once it is finished" in text
    assert "it is a marker of another file" in cli("explain", "pull", "a.csv.ok").out


@pytest.mark.parametrize(
    ("marker", "beside", "deeper"),
    [("{name}.ok", "a.csv.ok", "sub/b.csv.ok"), ("{stem}.ok", "a.ok", "sub/b.ok"),
     ("ok/{name}", "ok/a.csv", "sub/ok/b.csv"), ("{folder}/.ok/{stem}", ".ok/a", "sub/.ok/b"),
     ("{path}.ok", "a.csv.ok", "sub/b.csv.ok")],
)  # fmt: skip
def test_markers_wherever_they_lie(cli: Cli, tmp_path: Path, marker: str, beside: str, deeper: str) -> None:
    configure(tmp_path, settle={"for": 0, "sightings": 1, "marker": marker})
    put(tmp_path, {"a.csv": "a", "sub/b.csv": "b"})
    for path in ("a.csv", "sub/b.csv"):
        assert cli("explain", "--json", "pull", path).rows[0]["verdict"] == "settle"
    put(tmp_path, {beside: "", deeper: ""})
    for path in ("a.csv", "sub/b.csv"):
        assert cli("explain", "--json", "pull", path).rows[0]["verdict"] == "move", path
    for path in (beside, deeper):
        assert cli("explain", "--json", "pull", path).rows[0]["left_out"] == "it is a marker of another file"


def test_manifests(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, settle={"for": 0, "sightings": 1, "manifest": "MANIFEST"})
    put(tmp_path, {"day/a.csv": "a", "day/b.csv": "b", "day/MANIFEST": f"# done\n{'0' * 64}  a.csv\n"})
    assert cli("explain", "--json", "pull", "day/a.csv").rows[0]["verdict"] == "move"
    assert cli("explain", "--json", "pull", "day/b.csv").rows[0]["settling"]["missing"] == ["no manifest lists it"]
    assert cli("explain", "--json", "pull", "day/MANIFEST").rows[0]["left_out"] == "it is a manifest"
    before = (tmp_path / "partner/out/day/a.csv").stat().st_mtime - 60
    os.utime(tmp_path / "partner/out/day/MANIFEST", (before, before))
    missing = cli("explain", "--json", "pull", "day/a.csv").rows[0]["settling"]["missing"]
    assert missing == ["the manifest that lists it is older than the file"]
    assert cli("run", "--once").code == 0
    assert not (tmp_path / "lake/in/day/a.csv").exists(), "its sender may still be writing it"


def test_files_in_each_others_way(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, to="lake:{name}", on_conflict="skip")
    put(tmp_path, {"a/x.csv": "one", "b/x.csv": "two", "y.csv": "new"})
    (tmp_path / "lake/y.csv").write_text("there")
    row = cli("explain", "--json", "pull", "a/x.csv").rows[0]
    assert row["verdict"] == "clash"
    assert row["next"][0].startswith("does not move it: b/x.csv goes to lake:x.csv as well")
    said = cli("explain", "--json", "pull", "y.csv").rows[0]["targets"][0]["said"]
    assert said.startswith("taken by a file of 5 bytes, which stays, and this file is skipped")


def test_caps(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, max_files=2)
    put(tmp_path, {f"{number}.csv": "x" for number in range(4)})
    for number in range(4):
        os.utime(tmp_path / f"partner/out/{number}.csv", (1000 + number, 1000 + number))
    assert cli("explain", "--json", "pull", "1.csv").rows[0]["next"] == ["sends it to lake:in/1.csv"]
    row = cli("explain", "--json", "pull", "3.csv").rows[0]
    assert row["next"] == ["leaves it for a later run: 2 files go first (max_files, max_bytes)"]


def test_what_the_ledger_knows(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, on_conflict="fail")
    put(tmp_path, {"a.csv": "new", "b.csv": "b"})
    (tmp_path / "lake/in").mkdir()
    (tmp_path / "lake/in/a.csv").write_text("other")
    cli("run", "--once")
    row = cli("explain", "--json", "pull", "a.csv").rows[0]
    assert row["known"]
    assert row["transfers"][0]["state"] == "failed"
    assert row["next"] == [
        f"transfer {row['transfers'][0]['id']} to lake: nothing, until: "
        f"crossdock transfers retry {row['transfers'][0]['id']}"
    ]
    assert cli("explain", "--json", "pull", "b.csv").rows[0]["next"][0].endswith("nothing, unless the file changes")
    put(tmp_path, {"b.csv": "changed"})
    row = cli("explain", "--json", "pull", "b.csv").rows[0]
    assert (row["known"], row["verdict"]) == (False, "move")
    assert "of an earlier version of the file" in cli("explain", "pull", "b.csv").out


def test_a_file_that_is_what_it_was_before(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path)
    for text in ("first", "second"):
        put(tmp_path, {"a.csv": text})
        os.utime(tmp_path / "partner/out/a.csv", (len(text), len(text)))
        assert cli("run", "--once").code == 0
    put(tmp_path, {"a.csv": "first"})
    os.utime(tmp_path / "partner/out/a.csv", (5, 5))
    row = cli("explain", "--json", "pull", "a.csv").rows[0]
    assert not row["known"], "another of its name was delivered since"
    assert row["next"] == ["sends it to lake:in/a.csv"]


def test_a_place_that_was_added_to_a_rule(cli: Cli, tmp_path: Path) -> None:
    put(tmp_path, {"a.csv": "a"})
    for to in (["lake:in/{path}"], ["lake:new/{path}", "staging:{now}/{path}"], ["lake:new/{path}", "staging:{path}"]):
        configure(tmp_path, to=to)
        assert cli("run", "--once").code == 0
        *_, last = cli("explain", "--json", "pull", "a.csv").rows[0]["next"]
        if to[-1] == "staging:{path}":
            assert (
                last
                == "staging:a.csv: nothing: it was planned before a rule sent it there; crossdock cp takes it there"
            )
        else:
            assert last == "transfer 1 to lake: nothing, unless the file changes"
    assert len(cli("transfers", "list", "--json").rows) == 1


def test_who_holds_it(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path)
    put(tmp_path, {"a.csv": "a"})
    assert cli("plan", "--out", "p.json").code == 0

    async def hold(ledger: Ledger) -> None:
        (row,) = saved.load((tmp_path / "p.json").read_text(), ledger.id)
        planned = Planned(
            flow="pull", source="partner", entry=row.entry, target="lake", target_path=row.target_path, why="by hand"
        )
        await ledger.add([planned], who="test")
        assert await ledger.claim("host-b:77", lease=3600)

    in_ledger(tmp_path, hold)
    row = cli("explain", "--json", "pull", "a.csv").rows[0]
    assert row["transfers"][0]["owner"] == "host-b:77"
    assert "attempt 1 is under way: host-b:77 holds it until" in row["next"][0]

    _age(tmp_path, 7200)
    row = cli("explain", "--json", "pull", "a.csv").rows[0]
    assert "the lease of host-b:77 ended" in row["next"][0]
    assert "the next worker takes it over" in row["next"][0]


def _age(folder: Path, seconds: int) -> None:
    connection = sqlite3.connect(folder / "crossdock.db")
    with connection:
        connection.execute("UPDATE transfers SET ready_at = ready_at - ?", (seconds,))
    connection.close()


def test_a_source_that_cannot_be_listed(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, source="partner:nowhere")
    result = cli("explain", "--json", "pull", "a.csv")
    assert result.code == 4
    assert "nowhere" in result.rows[0]["error"]
    assert result.rows[0]["next"][0].startswith("nothing, unless the source can be listed: ")
    assert result.rows[0]["rules"][0]["decides"], "the rules can be told all the same"


def test_over_openssh(cli: Cli, openssh: OpenSSH, tmp_path: Path) -> None:
    root = openssh.folder / f"explain-{tmp_path.name}-{os.getpid()}"
    (root / "out").mkdir(parents=True)
    (root / "out/a.csv").write_text("over ssh")
    openssh.own()
    configure(tmp_path, endpoints={"partner": openssh.settings(root=str(root))}, after={"archive": ".done"})
    row = cli("explain", "--json", "pull", "a.csv").rows[0]
    assert (row["verdict"], row["size"]) == ("move", 8)
    assert cli("where", "a.csv").code == 4
    assert cli("plan", "--out", "p.json").code == 0
    assert cli("apply", "p.json").code == 0
    assert contents(tmp_path / "lake") == {"in/a.csv": b"over ssh"}
    row = cli("explain", "--json", "pull", "a.csv").rows[0]
    assert row["next"] == ["nothing: the source does not hold it; it was archived as out/.done/a.csv"]
    assert cli("where", "--json", "a.csv").rows[0]["archived"] == "out/.done/a.csv"
    assert (root / "out/.done/a.csv").read_text() == "over ssh"
