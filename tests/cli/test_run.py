"""run --once: what it moves, what it says, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM, Cli
from tests.cli.moving import configure, daemon, put, to_one_place, until


def test_the_exit_code_and_the_summary(cli: Cli, home: Path) -> None:
    configure(home)
    (home / "in/a").write_bytes(b"1")
    result = cli("run", "--once")
    assert (result.code, result.err) == (0, result.err)
    assert result.err.startswith("1 transfer delivered, 1 B")
    assert (home / "out/a").read_bytes() == b"1"
    (home / "in/b").write_bytes(b"2")
    (home / "out/b").mkdir()
    result = cli("run", "--once", "--json")
    assert result.code == 1
    assert [row["what"] for row in result.rows[:-1]] == ["failed"]
    assert result.rows[-1]["summary"]["failed"] == 1
    assert result.err.splitlines()[-1] == "Next: mend what failed, then: crossdock transfers retry --all"
    (home / "out/b").rmdir()
    assert cli("transfers", "retry", "--all").code == 0
    result = cli("run", "--once")
    assert (result.code, (home / "out/b").read_bytes(), "Next:" in result.err) == (0, b"2", False)
    (home / "in").rename(home / "gone")
    gone = cli("run", "--once")
    assert gone.code == 4, "one flow, whose source is not there"
    assert "Next: " in gone.err
    assert cli("run", "other").code == 3
    assert "did you mean move?" in cli("run", "mov").err


def test_what_waits_is_told_with_when_and_what_to_do(cli: Cli, home: Path) -> None:
    configure(home)
    (home / "in/a").write_bytes(b"1")
    (home / "in/b").write_bytes(b"2")
    (home / "out").rename(home / "gone")
    result = cli("run", "--once")
    assert result.code == 1
    assert re.search(
        r"; 2 to be tried again, the first in (\d+|\d\.\d) s\.\n"
        r"Next: run it again then; or at once, after: crossdock transfers retry --all\n\Z",
        result.err,
    ), result.err
    summary = cli("run", "--once", "--json").rows[-1]["summary"]
    assert summary["waiting"] == 2 and 0 < summary["again_in"] <= 60, summary
    quiet = cli("run", "--once", "-q")
    assert quiet.code == 1
    assert re.search(r"^2 transfers to be tried again, the first in (\d+|\d\.\d) s\n\Z", quiet.err, re.M), quiet.err
    (home / "gone").rename(home / "out")
    assert cli("transfers", "retry", "--all").code == 0
    result = cli("run", "--once")
    assert (result.code, "Next:" in result.err) == (0, False), result.err
    assert "again_in" not in cli("run", "--once", "--json").rows[-1]["summary"]
    assert [(home / "out" / name).read_bytes() for name in "ab"] == [b"1", b"2"]


@pytest.mark.parametrize("option", ["--dry-run", "-n"])
def test_what_would_be_moved_is_another_command(cli: Cli, home: Path, option: str) -> None:
    configure(home)
    result = cli("run", "--once", option)
    assert (result.code, result.err.splitlines()[-1]) == (2, "Next: crossdock plan shows what a run would move")


def test_what_a_killed_worker_holds_is_waited_for(cli: Cli, home: Path) -> None:
    """Its lease lasts for a while: whoever runs it again finds all delivered when that ends."""
    configure(home)
    (home / "in/big").touch()
    os.truncate(home / "in/big", 1 << 30)
    with daemon(home) as (process, _):
        until(lambda: any((home / "out").glob(".crossdock-*")), "it is under way")
        process.kill()
    # As if most of the minute had passed by.
    with closing(sqlite3.connect(home / "crossdock.db")) as ledger, ledger:
        changed = ledger.execute("UPDATE transfers SET ready_at = ready_at - 54 WHERE owner IS NOT NULL")
        assert changed.rowcount == 1
    result = cli("run", "--once")
    assert result.code == 0, result.err
    said = r"1 transfer is held by another worker; if it was killed, for [1-6](\.\d)? s more: waiting\n"
    assert re.match(said + r"1 transfer delivered, 1 GiB, in .*\.\n\Z", result.err), result.err
    assert os.path.getsize(home / "out/big") == 1 << 30
    assert [each.name for each in (home / "out").iterdir()] == ["big"]


def test_an_extra_that_is_not_installed_fails_no_file(cli: Cli, home: Path) -> None:
    """Once it is, what waits goes out, and nobody has to know that it was tried before."""
    configure(home)
    (home / "in/a").write_bytes(b"1")
    text = (home / "crossdock.yaml").read_text()
    (home / "crossdock.yaml").write_text(text.replace("{type: local, root: out}", "{type: s3, bucket: lake}"))
    without = "import sys; sys.modules['aiohttp'] = None; from crossdock.__main__ import main; main()"
    said = subprocess.run([sys.executable, "-c", without, "run", "--once"], cwd=home, capture_output=True, text=True)
    assert re.match(
        r"move: src:a: again in 5:0\d: endpoint dst: type s3 needs the package aiohttp\. "
        r"Next: pip install 'crossdock\[s3\]'\n0 transfers delivered, .*; 1 to be tried again, "
        r"the first in [45]:\d\d\.\nNext: run it again then; or at once, after: crossdock transfers retry --all\n\Z",
        said.stderr,
    ), said.stderr
    assert said.returncode == 1
    (waiting,) = cli("transfers", "list", "--json").rows
    assert (waiting["state"], waiting["attempts"]) == ("pending", 0)
    (home / "crossdock.yaml").write_text(text)
    assert cli("transfers", "retry", "--all").code == 0


def test_what_waits_for_a_flow_that_is_gone_is_told(cli: Cli, home: Path) -> None:
    configure(home)
    (home / "in/a").write_bytes(b"1")
    text = (home / "crossdock.yaml").read_text()
    away = '{type: sftp, host: 127.0.0.1, port: 1, user: u, password: "env:HOME", host_key: "SHA256:' + "A" * 43 + '"}'
    (home / "crossdock.yaml").write_text(text.replace("{type: local, root: out}", away))
    assert cli("run", "--once").code == 1
    (home / "crossdock.yaml").write_text(text.replace("  move:", "  other:"))
    result = cli("run", "--once")
    assert (result.code, (home / "out/a").read_bytes()) == (0, b"1")
    assert "left in the ledger: 1 transfer of the flow move, which the configuration lacks\nNext: " in result.err
    assert "next: nothing: the configuration has no flow move any more" in cli("where", "a").out
    assert cli("run", "--once", "--json").rows[-1]["summary"]["parked"] == {"move": 1}
    assert cli("transfers", "cancel", "--flow", "move").code == 0
    assert "left in the ledger" not in cli("run", "--once").err


def test_files_that_settle_are_waited_for_with_patience(cli: Cli, home: Path) -> None:
    configure(home)
    text = (home / "crossdock.yaml").read_text().replace("settle: none", "settle: {for: 1s}")
    (home / "crossdock.yaml").write_text(text)
    (home / "in/a").write_bytes(b"1")
    result = cli("run", "--once", "--patience", "0s")
    assert "1 settling" in result.err
    assert not (home / "out/a").exists()
    assert cli("run", "--once").code == 0
    assert (home / "out/a").read_bytes() == b"1"


def test_what_no_rule_can_move_is_named(cli: Cli, home: Path) -> None:
    configure(home)
    to_one_place(home)
    for name in "abcde":
        put(home, name, b"1")
    result = cli("run", "--once")
    assert result.code == 1
    assert result.err == (
        "move: a is not moved: b goes to dst:one as well\n"
        "move: b is not moved: a goes to dst:one as well\n"
        "move: c is not moved: a goes to dst:one as well\n"
        "Next: crossdock explain move a\n"
        f"0 transfers delivered, 0 B, in {result.err.rpartition(' in ')[2].partition(';')[0]};"
        " 5 not moved because of a rule.\n"
    )
    file = home / "crossdock.yaml"
    file.write_text(file.read_text().replace('to: "dst:one"', "rules: [{match: x, to: 'dst:'}]\n    unmatched: fail"))
    assert "move: a is not moved: no rule matches\n" in cli("run", "--once").err


@pytest.mark.parametrize("conflict", ["overwrite", "skip", "fail"])
def test_a_flow_whose_function_sends_files_to_themselves(cli: Cli, tmp_path: Path, conflict: str) -> None:
    """Where a function sends them is not known to `check`."""
    (tmp_path / "x/in").mkdir(parents=True)
    (tmp_path / "x/in/a.csv").write_text("a")
    (tmp_path / "routing.py").write_text("def out(entry):\n    return 'all:in/' + entry.path\n")
    (tmp_path / "crossdock.yaml").write_text(
        "endpoints: {all: {type: local, root: x}, in: {type: local, root: x/in}}\n"
        "flows: {f: {source: 'in:', rules: [{to: 'python:routing.out'}], settle: none, "
        f"after: {{delete: true}}, on_conflict: {conflict}}}}}\n"
    )
    result = cli("run", "--once")
    assert (result.code, "this is the source itself" in result.err) == (1, True), result.err
    assert (tmp_path / "x/in/a.csv").read_text() == "a"


def test_what_was_done_is_told_when_it_is_stopped(home: Path) -> None:
    configure(home)
    (home / "in/a").write_bytes(b"1")
    (home / "in/big").touch()
    os.truncate(home / "in/big", 8 << 30)
    for command in (["run", "--once"], ["apply", "plan"]):
        subprocess.run([PROGRAM, "plan", "--out", "plan"], cwd=home, check=True, capture_output=True)
        with subprocess.Popen([PROGRAM, *command], cwd=home, stderr=subprocess.PIPE, text=True) as process:
            until(lambda: (home / "out/a").exists() and any((home / "out").glob(".crossdock-*")), "it is under way")
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        # The file is there a moment before the ledger knows.
        done = "(1 transfer delivered, 1 B|0 transfers delivered, 0 B)"
        assert process.returncode == 130 and re.fullmatch(f"stopped: {done}; the rest is for the next run\n", err), err
        assert not any((home / "out").glob(".crossdock-*"))
        (home / "crossdock.db").unlink()
        (home / "out/a").unlink()
