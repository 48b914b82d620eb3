"""transfers: what is shown, what is changed, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

import crossdock.cli.transfers as module
from crossdock.cli.transfers import transfers
from crossdock.ledger.base import Ledger, Query, Transfer
from crossdock.ledger.sqlite import SqliteLedger
from tests.cli.conftest import Cli
from tests.cli.flow_files import configure, in_ledger, put


@pytest.fixture
def three(cli: Cli, tmp_path: Path) -> Cli:
    """inv_1 and inv_2 failed (their places were taken), note was delivered."""
    configure(tmp_path, on_conflict="fail")
    out = tmp_path / "partner/out"
    (out / "sub").mkdir(parents=True)
    for name, text in {"inv_1.csv": "one", "sub/inv_2.csv": "two!", "note.txt": "note"}.items():
        (out / name).write_text(text)
    (tmp_path / "lake/in/sub").mkdir(parents=True)
    for name in ("inv_1.csv", "sub/inv_2.csv"):
        (tmp_path / "lake/in" / name).write_text("other")
    assert cli("run", "--once").code == 1
    return cli


def test_list(three: Cli) -> None:
    rows = three("transfers", "list", "--json").rows
    assert [row["id"] for row in rows] == [3, 2, 1]
    states = {row["path"]: row["state"] for row in rows}
    assert states == {"out/inv_1.csv": "failed", "out/sub/inv_2.csv": "failed", "out/note.txt": "done"}
    note = next(row for row in rows if row["path"] == "out/note.txt")
    assert note["sha256"] == hashlib.sha256(b"note").hexdigest()
    assert (note["target"], note["target_path"], note["size"], note["attempts"]) == ("lake", "in/note.txt", 4, 1)
    lines = three("transfers", "list").out.splitlines()
    assert len({line.index("partner:") for line in lines}) == 1, "aligned"
    failed = next(line for line in lines if "inv_2" in line)
    assert "partner:out/sub/inv_2.csv → lake:in/sub/inv_2.csv: " in failed


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["--state", "failed"], {"inv_1.csv", "inv_2.csv"}),
        (["--state", "failed", "--state", "done"], {"inv_1.csv", "inv_2.csv", "note.txt"}),
        (["--match", "inv_*"], {"inv_1.csv", "inv_2.csv"}),
        (["--match", "*_[12].csv"], {"inv_1.csv", "inv_2.csv"}),
        (["--match", "out/*.csv"], {"inv_1.csv"}),
        (["--match", "out/**/*.csv"], {"inv_1.csv", "inv_2.csv"}),
        (["--match", "sub/"], {"inv_2.csv"}),
        (["--match", "/sub/"], set()),
        (["--match", "in?_1.csv"], {"inv_1.csv"}),
        (["--name", "note.txt"], {"note.txt"}),
        (["--name", "out/note.txt"], set()),
        (["--target", "lake"], {"inv_1.csv", "inv_2.csv", "note.txt"}),
        (["--target", "lake:in/sub/*"], {"inv_2.csv"}),
        (["--target", "staging"], set()),
        (["--flow", "pull", "--match", "*.txt"], {"note.txt"}),
        (["--flow", "other"], set()),
        (["--since", "1h"], {"inv_1.csv", "inv_2.csv", "note.txt"}),
        (["--since", "2999-01-01"], set()),
        (["--before", "1h"], set()),
        (["--before", "2999-01-01T00:00:00+02:00"], {"inv_1.csv", "inv_2.csv", "note.txt"}),
    ],
)
def test_filters(three: Cli, filters: list[str], names: set[str]) -> None:
    rows = three("transfers", "list", "--json", *filters).rows
    assert {row["path"].rpartition("/")[2] for row in rows} == names


def test_filters_that_are_wrong(three: Cli) -> None:
    for wrong in (["--match", "[a"], ["--target", "lake:{a"], ["--since", "soon"], ["--state", "lost"]):
        assert three("transfers", "list", *wrong).code == 2


def test_a_name_that_nobody_knows(three: Cli, tmp_path: Path) -> None:
    """Else a flow that is written wrong looks like one of which nothing failed."""
    for command, wrong, near in (("list", "--flow=pul", "pull"), ("retry", "--flow=pul", "pull"),
                                 ("cancel", "--target=lak:x", "lake")):  # fmt: skip
        result = three("transfers", command, wrong)
        assert (result.code, f"did you mean {near}?" in result.err) == (3, True), result.err
    assert three("transfers", "list", "--flow", "pull", "--state", "running").code == 0
    (tmp_path / "crossdock.yaml").unlink()
    assert three("transfers", "list", "--flow", "pul").code == 0, "who has the ledger alone knows no names"
    configure(tmp_path)
    text = (tmp_path / "crossdock.yaml").read_text()
    (tmp_path / "crossdock.yaml").write_text(text.replace("pull", "renamed"))
    assert len(three("transfers", "list", "--flow", "pull", "--json").rows) == 3, "the ledger still knows it"


def test_pages(three: Cli) -> None:
    first = three("transfers", "list", "--json", "--limit", "2")
    assert [row["id"] for row in first.rows] == [3, 2]
    assert "--below 2" in first.err
    rest = three("transfers", "list", "--json", "--limit", "2", "--below", "2")
    assert [row["id"] for row in rest.rows] == [1]
    assert "more" not in rest.err


def test_pages_with_a_glob_are_full(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path)
    out = tmp_path / "partner/out"
    out.mkdir()
    for number in range(40):
        (out / f"{number:02}.{'csv' if number % 20 == 0 else 'txt'}").touch()
    assert cli("run", "--once").code == 0
    found = cli("transfers", "list", "--json", "--match", "*.csv", "--limit", "1")
    assert len(found.rows) == 1
    assert f"--below {found.rows[0]['id']}" in found.err


def test_no_more_than_a_batch_is_held(three: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million transfers took gigabytes: to be listed, and twice that to be changed."""
    monkeypatch.setattr(module, "_BATCH", 1)
    held: list[int] = []
    print_ = module._print

    def counted(found: Sequence[Transfer], as_json: bool) -> None:
        held.append(len(found))
        print_(found, as_json)

    monkeypatch.setattr(module, "_print", counted)
    assert [row["id"] for row in three("transfers", "list", "--json").rows] == [3, 2, 1]
    listed = three("transfers", "list", "--limit", "2")
    assert [line.split()[0] for line in listed.out.splitlines()] == ["3", "2"]
    assert "the next page: --below 2" in listed.err
    failed = [row["id"] for row in reversed(three("transfers", "list", "--json", "--state", "failed").rows)]
    for options, state in ((["--dry-run"], "failed"), ([], "pending")):
        retried = three("transfers", "retry", "--all", *options)
        assert [line.split()[:2] for line in retried.out.splitlines()] == [[str(id), state] for id in failed]
        assert "2 transfers" in retried.err
    assert max(held) == 1


@pytest.mark.parametrize("how", ["run", "apply"])
def test_what_waits_for_an_endpoint_says_so(cli: Cli, tmp_path: Path, how: str) -> None:
    """All of it, though few of them were tried."""
    configure(tmp_path)
    (tmp_path / "partner/out").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(tmp_path / "lake")
    for number in range(60):
        (tmp_path / f"partner/out/{number}.csv").write_text("x")
    if how == "run":
        assert "60 to be tried again" in cli("run", "--once").err
    else:
        assert cli("plan", "--out", "p.json").code == 0
        assert "60 to be tried again" in cli("apply", "p.json").err
    lines = cli("transfers", "list").out.splitlines()
    assert len(lines) == 60
    assert all(" pending " in line and "lake" in line.partition(": ")[2] for line in lines)
    (tmp_path / "lake").mkdir()
    assert cli("transfers", "retry", "--all").code == 0
    assert "60 transfers delivered" in cli("run", "--once").err


def test_show(three: Cli) -> None:
    done, failed = (
        next(row["id"] for row in three("transfers", "list", "--json", "--name", name).rows)
        for name in ("note.txt", "inv_1.csv")
    )
    row = three("transfers", "show", str(done), "--json").rows[0]
    assert row["receipt"]["sha256"] == hashlib.sha256(b"note").hexdigest()
    assert [(each["from"], each["to"]) for each in row["history"]] == [
        (None, "pending"), ("pending", "running"), ("running", "done"),
    ]  # fmt: skip
    text = three("transfers", "show", str(done), str(failed)).out
    assert f"sha256       {hashlib.sha256(b'note').hexdigest()}" in text
    assert "running → failed" in text
    assert f"next         nothing, until: crossdock transfers retry {failed}" in text
    missing = three("transfers", "show", str(done), "99")
    assert (missing.code, missing.out) == (4, "")
    assert "no such transfer" in missing.err
    assert "Next: crossdock transfers list" in missing.err


@pytest.mark.parametrize("wrong", ["0", "-1", "x", str(1 << 63), "9" * 30])
def test_numbers_that_no_transfer_has(three: Cli, wrong: str) -> None:
    for command in (["show", "--"], ["retry", "--"], ["cancel", "--"], ["list", "--below"]):
        result = three("transfers", *command, wrong)
        assert (result.code, result.out) == (2, "")
        assert "write the number of a transfer" in result.err
    assert three("transfers", "list", "--since", "9999999d").code == 2
    assert three("transfers", "list", "--limit", "9" * 30).code == 2


def test_retry_by_filter(three: Cli, tmp_path: Path) -> None:
    before = three("transfers", "list", "--json").rows
    dry = three("transfers", "retry", "--flow", "pull", "--match", "inv_*", "--dry-run")
    assert dry.code == 0
    assert "2 transfers would be made to be tried again" in dry.err
    assert three("transfers", "list", "--json").rows == before, "a dry run changes nothing"
    (tmp_path / "lake/in/inv_1.csv").unlink()
    result = three("transfers", "retry", "--flow", "pull", "--match", "inv_*", "--why", "mended", "--json")
    assert [(row["outcome"], row["state"]) for row in result.rows] == [("changed", "pending"), ("changed", "pending")]
    three("run", "--once")
    assert (tmp_path / "lake/in/inv_1.csv").read_text() == "one"
    assert (tmp_path / "lake/in/sub/inv_2.csv").read_text() == "other", "a place that is still taken"
    history = three("transfers", "show", "--json", str(result.rows[0]["id"])).rows[0]["history"]
    assert any((each["from"], each["to"], each["why"]) == ("failed", "pending", "mended") for each in history)
    again = three("transfers", "retry", "--all", "--dry-run", "--json").rows
    assert [row["path"] for row in again] == ["out/sub/inv_2.csv"]


def test_all_are_looked_for_flow_by_flow(three: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of an index; of all flows together, each page of a hundred thousand would be sorted anew."""
    configure(tmp_path, on_conflict="fail", more={"again": {"source": "partner:out", "to": "lake:in/", "settle": "none",
                                                            "on_conflict": "fail"}})  # fmt: skip
    assert three("run", "again", "--once").code == 1
    asked: list[str | None] = []
    find = SqliteLedger.find

    async def finding(self: SqliteLedger, query: Query) -> list[Transfer]:
        asked.append(query.flow)
        return await find(self, query)

    monkeypatch.setattr(SqliteLedger, "find", finding)
    rows = three("transfers", "retry", "--all", "--json").rows
    assert [(row["id"], row["flow"], row["outcome"]) for row in rows] == [
        (row["id"], row["flow"], "changed") for row in sorted(rows, key=lambda row: int(row["id"]))
    ]
    assert (len(rows), {row["flow"] for row in rows}, asked) == (4, {"pull", "again"}, ["again", "pull"])


def test_retry_by_id(three: Cli) -> None:
    rows = three("transfers", "list", "--json").rows
    ids = {row["path"]: str(row["id"]) for row in rows}
    result = three("transfers", "retry", ids["out/inv_1.csv"], ids["out/note.txt"])
    assert result.code == 1
    assert f"transfer {ids['out/note.txt']} stays as it is: done; next: nothing, unless the file changes" in result.err
    assert "1 transfer made to be tried again" in result.err
    states = {row["path"]: row["state"] for row in three("transfers", "list", "--json").rows}
    assert states == {"out/inv_1.csv": "pending", "out/sub/inv_2.csv": "failed", "out/note.txt": "done"}
    assert three("transfers", "retry", "99", ids["out/sub/inv_2.csv"]).code == 4
    assert {row["id"]: row["state"] for row in three("transfers", "list", "--json").rows}[
        int(ids["out/sub/inv_2.csv"])
    ] == "failed", "an unknown id: nothing is done"


def test_nothing_is_changed_by_an_empty_filter(three: Cli) -> None:
    before = three("transfers", "list", "--json").rows
    for action in ("retry", "cancel"):
        result = three("transfers", action)
        assert result.code == 2
        assert "--all" in result.err
    assert three("transfers", "retry", "1", "--all").code == 2
    assert three("transfers", "retry", "1", "--flow", "pull").code == 2
    assert three("transfers", "retry", "--state", "done").code == 2
    assert three("transfers", "cancel", "--state", "done").code == 2
    assert three("transfers", "list", "--json").rows == before


def test_cancel(three: Cli, tmp_path: Path) -> None:
    three("transfers", "retry", "--all")
    for name in ("inv_1.csv", "sub/inv_2.csv"):
        (tmp_path / "lake/in" / name).unlink()
    assert len(three("transfers", "cancel", "--all", "--dry-run", "--json").rows) == 2
    result = three("transfers", "cancel", "--match", "inv_1*", "--json")
    assert [(row["outcome"], row["state"]) for row in result.rows] == [("changed", "cancelled")]
    assert three("run", "--once").code == 0
    assert not (tmp_path / "lake/in/inv_1.csv").exists()
    assert (tmp_path / "lake/in/sub/inv_2.csv").read_text() == "two!"
    assert three("transfers", "cancel", "1", "2", "3").code == 1, "none of them is open"


def test_what_failed_and_is_not_wanted_any_more(three: Cli) -> None:
    assert [row["path"] for row in three("transfers", "cancel", "--match", "inv_1*", "--json").rows] == [
        "out/inv_1.csv"
    ]
    assert three("transfers", "retry", "--all", "--json").rows[0]["path"] == "out/sub/inv_2.csv"
    (row,) = three("transfers", "list", "--state", "cancelled", "--json").rows
    assert (row["path"], row["why"]) == ("out/inv_1.csv", "cancelled by hand")
    assert three("transfers", "retry", str(row["id"]), "--json").rows[0]["state"] == "pending", "wanted after all"


def test_export(three: Cli) -> None:
    lines = [json.loads(line) for line in three("transfers", "export").out.splitlines()]
    assert [line["id"] for line in lines] == [1, 2, 3]
    assert all(line["history"][0]["to"] == "pending" for line in lines)
    assert {line["path"]: line["state"] for line in lines}["out/note.txt"] == "done"


def test_prune(three: Cli, tmp_path: Path) -> None:
    for age in ("1d", "99999999999999d"):
        assert three("transfers", "prune", "--older-than", age).code == 2
    assert "0 transfers dropped" in three("transfers", "prune").err
    (tmp_path / "partner/out/note.txt").unlink()
    three("run", "--once")
    with sqlite3.connect(tmp_path / "crossdock.db") as connection:
        connection.execute("UPDATE transfers SET changed_at = changed_at - 864000, seen_at = seen_at - 864000")
    connection.close()
    assert "1 transfer dropped" in three("transfers", "prune", "--older-than", "5d").err
    left = {row["path"] for row in three("transfers", "list", "--json").rows}
    assert left == {"out/inv_1.csv", "out/sub/inv_2.csv"}, "failed ones are kept"


def test_names_cannot_drive_the_terminal(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path)
    out = tmp_path / "partner/out"
    out.mkdir()
    (out / "red\x1b[31m.csv").touch()
    cli("run", "--once")
    for command in (["transfers", "list"], ["transfers", "show", "1"], ["where", "*.csv"]):
        text = cli(*command).out
        assert "\x1b" not in text
        assert "\\x1b[31m" in text


def test_without_a_ledger(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path)
    for command in (["list"], ["show", "1"], ["export"], ["retry", "--all"]):
        result = cli("transfers", *command)
        assert result.code == 4
        assert "there is no ledger yet" in result.err
    assert not (tmp_path / "crossdock.db").exists(), "looking makes nothing"
    assert cli("transfers", "list", "--ledger", "elsewhere.db").code == 4


def test_a_root_that_is_missing_is_no_file_that_is_gone(cli: Cli, tmp_path: Path) -> None:
    """A mount that comes late, when the machine starts: what waits for it waits on, and loses no attempt."""
    configure(tmp_path)
    put(tmp_path, {"a": "1"})

    def run() -> tuple[str, int]:
        cli("transfers", "retry", "--flow", "pull")
        cli("run", "--once")
        (row,) = cli("transfers", "list", "--json").rows
        return row["state"], row["attempts"]

    (tmp_path / "lake").rename(tmp_path / "unmounted")
    assert cli("run", "--once").code == 1
    assert run() == ("pending", 0), "its target is missing"
    (tmp_path / "unmounted").rename(tmp_path / "lake")
    (tmp_path / "partner").rename(tmp_path / "unmounted")
    assert run() == ("pending", 0), "its source is missing"
    (tmp_path / "unmounted").rename(tmp_path / "partner")
    (tmp_path / "partner/out").rename(tmp_path / "partner/unmounted")
    assert run() == ("pending", 0), "the folder at its source is missing"
    (tmp_path / "partner/unmounted").rename(tmp_path / "partner/out")
    assert run()[0] == "done"
    assert (tmp_path / "lake/in/a").read_text() == "1"


def test_a_lease_that_is_held(three: Cli, tmp_path: Path) -> None:
    three("transfers", "retry", "--name", "inv_1.csv")

    async def claim(ledger: Ledger) -> None:
        assert len(await ledger.claim("host-b:77", lease=3600)) == 1

    in_ledger(tmp_path, claim)
    row = three("transfers", "list", "--json", "--state", "running").rows[0]
    assert row["owner"] == "host-b:77"
    assert "host-b:77 holds it until" in three("transfers", "show", str(row["id"])).out
    refused = three("transfers", "retry", str(row["id"]))
    assert refused.code == 1
    assert "stays as it is: running" in refused.err
    assert three("transfers", "cancel", str(row["id"])).code == 0
    assert three("transfers", "list", "--json", "--name", "inv_1.csv").rows[0]["state"] == "cancelled"


def test_every_option_is_described() -> None:
    for name, command in transfers.commands.items():
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts}"


def test_the_help_says_whole_sentences(cli: Cli) -> None:
    for command in ([], ["transfers"]):
        assert "..." not in cli(*command, "--help").out.replace("[ARGS]...", "")
