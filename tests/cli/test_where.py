"""where: did it come, where is it now, and what comes next; also for what nobody has seen."""

from __future__ import annotations

import hashlib
import os
import socket
import zipfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from crossdock.ledger.base import Ledger, Planned
from crossdock.storage.base import Entry
from tests.cli.conftest import Cli
from tests.cli.flow_files import configure, in_ledger, put

TWO: dict[str, Any] = {"to": ["lake:{path}", "staging:copy/{name}"], "after": {"archive": ".done"}}


@pytest.fixture
def moved(cli: Cli, tmp_path: Path) -> Cli:
    configure(tmp_path, **TWO)
    put(tmp_path, {"a/report.csv": "report", "b/report.csv": "another", "note[1].txt": "note"})
    assert cli("run", "--once").code == 1, "two reports for one place are a clash"
    (tmp_path / "partner/out/b/report.csv").rename(tmp_path / "partner/out/b/second.csv")
    assert cli("run", "--once").code == 0
    return cli


def test_everything_about_a_file(moved: Cli) -> None:
    result = moved("where", "--json", "a/report.csv")
    assert result.code == 0
    (row,) = result.rows
    assert (row["known"], row["flow"], row["source"], row["path"], row["size"]) == (
        True, "pull", "partner", "out/a/report.csv", 6,
    )  # fmt: skip
    assert (row["archived"], row["kept_until"], row["gone"]) == ("out/.done/a/report.csv", None, True)
    lake, staging = row["destinations"]
    for there, path in ((lake, "a/report.csv"), (staging, "copy/report.csv")):
        assert (there["state"], there["target_path"], there["attempts"]) == ("done", path, 1)
        assert (there["stored_size"], there["sha256"]) == (6, hashlib.sha256(b"report").hexdigest())
        assert row["came"] <= there["delivered"] <= there["changed"]
    text = moved("where", "a/report.csv").out
    assert text.startswith("out/a/report.csv, from partner by flow pull\n  came      ")
    assert f"bytes, sha256 {hashlib.sha256(b'report').hexdigest()}, 1 attempt" in text
    assert "  archived  partner:out/.done/a/report.csv\n" in text


def test_how_long_the_archive_keeps_it(moved: Cli, tmp_path: Path) -> None:
    """It was there once; whether it still is, the ledger cannot say."""
    places = moved("where", "--json", "a/report.csv").rows[0]["destinations"]
    changed = datetime.fromisoformat(next(each["changed"] for each in places if "archived as" in each["why"]))
    configure(tmp_path, **TWO | {"after": {"archive": ".done", "keep": "30d"}})
    kept = changed + timedelta(days=30)
    assert moved("where", "--json", "a/report.csv").rows[0]["kept_until"] == kept.isoformat()
    said = f"  archived  partner:out/.done/a/report.csv, to be kept until {kept:%Y-%m-%d %H:%M:%SZ}\n"
    assert said in moved("where", "a/report.csv").out
    configure(tmp_path, **TWO | {"after": {"archive": ".done", "keep": "1ms"}})
    assert "out/.done/a/report.csv, and may be removed since 20" in moved("where", "a/report.csv").out


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("report.csv", ["out/a/report.csv"]),
        ("second.csv", ["out/b/second.csv"]),
        ("out/b/second.csv", ["out/b/second.csv"]),
        (".//./b/second.csv", ["out/b/second.csv"]),
        ("partner:out/b/second.csv", ["out/b/second.csv"]),
        ("lake:b/second.csv", ["out/b/second.csv"]),
        ("copy/second.csv", ["out/b/second.csv"]),
        ("*.csv", ["out/a/report.csv", "out/b/second.csv"]),
        ("copy/*", ["out/a/report.csv", "out/b/second.csv", "out/note[1].txt"]),
        ("note[1].txt", ["out/note[1].txt"]),
    ],
)
def test_by_whatever_name(moved: Cli, name: str, paths: list[str]) -> None:
    result = moved("where", "--json", name)
    assert result.code == 0
    assert sorted(row["path"] for row in result.rows) == paths
    assert all(len(row["destinations"]) == 2 for row in result.rows)


@pytest.mark.parametrize(
    "name", ["eport.csv", "REPORT.CSV", "out/report.csv", "x[", "?", "*.xml", "lake:out/a/report.csv"]
)
def test_names_that_are_none(moved: Cli, name: str) -> None:
    result = moved("where", name)
    assert result.code == 4
    assert f"the ledger knows no file {name.removeprefix('lake:')}" in result.out


def test_by_its_name_in_the_archive(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, after={"archive": ".done"})
    for content in ("first", "second!"):
        put(tmp_path, {"a/b.csv": content})
        assert cli("run", "--once").code == 0
    for asked, size in {"b~1.csv": 7, "partner:out/.done/a/b~1.csv": 7, ".done/a/b.csv": 5}.items():
        (row,) = cli("where", "--json", asked).rows
        assert (row["known"], row["path"], row["size"]) == (True, "out/a/b.csv", size)
    assert cli("where", "lake:.done/a/b.csv").code == 4


def test_a_number_that_a_version_got(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, on_conflict="version")
    put(tmp_path, {"a.csv": "first"})
    assert cli("run", "--once").code == 0
    put(tmp_path, {"a.csv": "second!"})
    assert cli("run", "--once").code == 0
    (row,) = cli("where", "--json", "a~1.csv").rows
    assert (row["size"], row["destinations"][0]["target_path"]) == (7, "in/a~1.csv")
    newest, oldest = cli("where", "--json", "a.csv").rows
    assert (newest["size"], oldest["size"]) == (7, 5)
    one = cli("where", "--json", "--limit", "1", "a.csv")
    assert one.rows == [newest]
    assert "1 older file of that name" in one.err


def test_what_comes_next(cli: Cli, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        down = {
            "type": "sftp", "host": "127.0.0.1", "port": taken.getsockname()[1], "user": "x",
            "host_key": "SHA256:" + "A" * 43, "password": "env:PASSWORD",
        }  # fmt: skip
        os.environ["PASSWORD"] = "x"
        try:
            configure(tmp_path, endpoints={"staging": down}, to=["lake:", "staging:"])
            put(tmp_path, {"a.csv": "a"})
            assert cli("run", "--once").code == 1
        finally:
            del os.environ["PASSWORD"]
    row: dict[str, Any] = cli("where", "--json", "a.csv").rows[0]
    lake, staging = row["destinations"]
    assert (lake["state"], staging["state"]) == ("done", "pending")
    assert f"[127.0.0.1]:{down['port']}" in staging["why"]
    assert staging["next"].startswith("attempt ")
    assert " (in " in staging["next"], "when the next attempt is"
    text = cli("where", "a.csv").out
    assert "next: attempt " in text
    assert "127.0.0.1" in text


def test_what_was_unpacked(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, rules=[{"match": {"glob": "*.zip"}, "to": "lake:un/{stem}", "transform": "unzip"}])
    put(tmp_path, {"day.zip": ""})
    with zipfile.ZipFile(tmp_path / "partner/out/day.zip", "w") as archive:
        archive.writestr("a.csv", "one")
        archive.writestr("sub/b.csv", "two!")
    result = cli("run", "--once")
    assert result.code == 0, result.err
    text = cli("where", "day.zip").out
    for name, data in {"a.csv": b"one", "sub/b.csv": b"two!"}.items():
        assert (tmp_path / "lake/un/day" / name).read_bytes() == data
        assert f"lake:un/day/{name}, {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}\n" in text
    for asked in ("b.csv", "sub/b.csv", "lake:un/day/sub/b.csv", "un/**/b.*"):
        assert cli("where", "--flow", "pull", "--", asked).out == text
    for asked in ("c.csv", "partner:b.csv"):
        assert cli("where", asked).code == 4


def test_why_it_was_given_up_and_not_only_what_failed_before(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path)
    put(tmp_path, {"a.csv": "a"})
    cli("run", "--once")

    async def tried(ledger: Ledger) -> None:
        added = await ledger.add(
            [Planned(flow="pull", source="partner", entry=Entry(path="out/c.csv"), target="lake", target_path="c.csv")],
            who="poll",
        )
        (lease,) = await ledger.claim("w1")
        assert lease.id == added[0].id
        await ledger.retry_in(lease, 0.0, "the wire broke")
        (lease,) = await ledger.claim("w1")
        await ledger.skipped(lease, "the source changed")

    in_ledger(tmp_path, tried)
    told = cli("where", "c.csv").out
    assert "the source changed\n" in told
    assert "last error: the wire broke\n" in told
    assert cli("transfers", "list", "--name", "c.csv").out.endswith(": the source changed\n")
    (row,) = cli("transfers", "list", "--json", "--name", "c.csv").rows
    assert "why          the source changed\nerror        the wire broke\n" in cli("transfers", "show", row["id"]).out
    assert "; the source changed; last error: the wire broke\n" in cli("explain", "pull", "c.csv").out


def meets_another(cli: Cli, tmp_path: Path, on_conflict: str) -> None:
    configure(tmp_path, on_conflict=on_conflict)
    put(tmp_path, {"a.csv": "new"})
    (tmp_path / "lake/in").mkdir()
    (tmp_path / "lake/in/a.csv").write_text("other")
    cli("run", "--once")


def test_failed(cli: Cli, tmp_path: Path) -> None:
    meets_another(cli, tmp_path, "fail")
    text = cli("where", "a.csv").out
    assert "  failed  lake:in/a.csv, " in text
    assert "last error: " in text
    assert "next: nothing, until: crossdock transfers retry 1" in text


def test_what_can_be_done_about_it(cli: Cli, tmp_path: Path) -> None:
    """Of what was skipped, and of what waits for long; of a source that is down nobody says what it holds."""
    meets_another(cli, tmp_path, "skip")
    assert "next: nothing; to send it after all: crossdock transfers retry 1\n" in cli("where", "a.csv").out
    assert cli("transfers", "retry", "1").code == 0

    async def put_off(ledger: Ledger) -> None:
        (lease,) = await ledger.claim("w1")
        await ledger.retry_in(lease, 3000, "the disk is full")

    in_ledger(tmp_path, put_off)
    assert "(in 50 min); at once: crossdock transfers retry 1\n" in cli("where", "a.csv").out
    (tmp_path / "partner").rename(tmp_path / "unmounted")
    assert "of a file that may be at the source or not; then attempt 2 at " in cli("explain", "pull", "a.csv").out


def test_what_the_ledger_does_not_know(cli: Cli, tmp_path: Path) -> None:
    other = {"source": "staging:", "to": "lake:{path}", "include": "*.xml", "settle": "none"}
    configure(tmp_path, more={"other": other})
    put(tmp_path, {"sub/a.csv": "new"})
    (tmp_path / "staging/a.csv").write_text("not an xml")
    result = cli("where", "a.csv")
    assert result.code == 4
    assert result.out.startswith("the ledger knows no file a.csv\n")
    assert "pull: partner:out/sub/a.csv is at the source; 'to' takes every file, to lake:in/sub/a.csv" in result.out
    assert "more: crossdock explain pull sub/a.csv" in result.out
    assert "other: staging:a.csv is at the source; it is left out: no include rule matches" in result.out
    rows = cli("where", "--json", "a.csv").rows
    assert [(row["known"], row["flow"], row["path"]) for row in rows] == [
        (False, "pull", "out/sub/a.csv"), (False, "other", "a.csv"),
    ]  # fmt: skip
    assert [row["flow"] for row in cli("where", "--json", "partner:a.csv").rows] == ["pull"]
    assert [row["flow"] for row in cli("where", "--json", "--flow", "other", "a.csv").rows] == ["other"]
    assert not (tmp_path / "crossdock.db").exists(), "looking notes nothing"
    nowhere = cli("where", "b.csv")
    assert "nor does the source of pull, other hold it" in nowhere.out
    assert cli("where", "/").code == 2
    assert cli("where", "--flow", "pul", "a.csv").code == 3


def test_a_source_that_is_down(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, source="partner:nowhere")
    result = cli("where", "a.csv")
    assert result.code == 4
    assert "pull: the source could not be looked at: " in result.err
    assert "nor does" not in result.out


def test_an_archive_that_cannot_be_written_to(cli: Cli, tmp_path: Path) -> None:
    """It is delivered all the same; what is tried again, until when, and what to do is said."""
    configure(tmp_path, after={"archive": ".done"}, retry={"base": "1h", "longest": "1h"})
    put(tmp_path, {"a": "a", ".done": "a file where the folder should be"})
    result = cli("run", "--once")
    assert result.code == 1
    assert result.err.startswith("pull: partner:out/a: delivered; what follows failed, again in ")
    assert "1 transfer delivered, 1 B, in " in result.err and "; 1 to be tried again, the first in " in result.err
    for text in (cli("where", "a").out, cli("explain", "pull", "a").out, cli("transfers", "show", "1").out):
        assert "; tried until it succeeds: mend what the error names, or take it out of the flow's 'after'" in text
    configure(tmp_path)
    assert cli("transfers", "retry", "1").code == 0
    again = cli("run", "--once")
    assert again.code == 0
    assert again.err.startswith("1 transfer delivered, 33 B, in ") and "; 1 finished." in again.err, "the other file"
    assert "  done  lake:in/a, " in cli("where", "a").out


@pytest.mark.parametrize("command", [["where", "a"], ["transfers", "list"], ["transfers", "retry", "--all"], ["late"]])
def test_a_ledger_that_cannot_be_looked_at(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    """Of another account's folder, say; that it is not there yet would be wrong."""
    configure(tmp_path)
    result = cli(*command, "--ledger", "x" * 300)
    assert (result.code, result.out) == (5, "")
    assert result.err.startswith(f"crossdock: open ledger {'x' * 300}: File name too long\nNext: see that its folder")


def test_in_a_folder_without_any(cli: Cli) -> None:
    """Not "the ledger knows no file": whoever asks is in the wrong place."""
    result = cli("where", "a.csv")
    assert (result.code, result.out) == (4, "")
    assert "there is no ledger yet\nNext: 'crossdock run' makes it; if it is elsewhere" in result.err
