"""sync from the command line: what is moved, what is said, and what is never deleted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM, Cli, contents


def test_twice(cli: Cli, tree: Path, tmp_path: Path) -> None:
    assert cli("sync", "in", "out").err.startswith("5 files copied")
    assert contents(tmp_path / "out") == contents(tree)
    assert cli("sync", "in", "out").err.startswith("0 files copied (0 B), 5 skipped")


def test_include_and_exclude_keep_their_order(cli: Cli, tree: Path) -> None:
    def copied(*rules: str) -> list[str]:
        rows = cli("sync", "--json", "--dry-run", "in", "out", *rules).rows
        return sorted(row["path"] for row in rows if row.get("action") == "copy")

    assert copied("--include", "b.csv", "--exclude", "*.csv", "--include", "*") == [
        "a.txt", "latin\udce9\x1b[31m.txt", "sub/b.csv", "sub/deep/-rf",
    ]  # fmt: skip
    assert copied("--exclude=*.csv", "--include=b.csv", "--include=sub/") == ["sub/deep/-rf"]
    assert copied("--include", "/*.txt") == ["a.txt", "latin\udce9\x1b[31m.txt"]
    assert copied("--max-size", "1K", "--exclude", "sub/deep/") == ["a.txt", "latin\udce9\x1b[31m.txt", "sub/b.csv"]
    assert copied("--min-age", "1h") == []
    assert cli("sync", "--include", "[a", "in", "out").code == 2
    for option, much in (("--min-age", "40000d"), ("--max-age", "9" * 400 + "d"), ("--max-size", "9" * 17 + "T")):
        result = cli("sync", option, much, "in", "out")
        assert (result.code, "more than anybody can mean" in result.err) == (2, True), result.err


def test_dry_run_says_what_and_why_and_does_nothing(cli: Cli, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.txt").write_bytes(b"older")
    result = cli("sync", "-n", "in", "out")
    assert "would copy a.txt (size differs)" in result.out
    assert "would copy sub/b.csv (new)" in result.out
    assert result.err.startswith("would be 5 files copied")
    assert contents(tmp_path / "out") == {"a.txt": b"older"}
    (tmp_path / "out/b.txt").write_bytes(b"more")
    result = cli("sync", "-n", "in", "out", "--delete", "--max-delete", "0")
    assert (result.code, result.err.splitlines()[0]) == (
        7,
        "ended early: would be 5 files copied (1.97 KiB), 0 skipped",
    )


def test_report_and_json_are_the_same(cli: Cli, tree: Path, tmp_path: Path) -> None:
    result = cli("sync", "--json", "--report", "r.jsonl", "in", "out")
    *rows, summary = result.rows
    assert [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()] == rows
    assert summary["summary"] | {"seconds": 0} == {
        "copy": 5, "skip": 0, "delete": 0, "fail": 0, "size": 2014, "seconds": 0,
    }  # fmt: skip
    assert all(row["reason"] == "new" and len(row["sha256"]) == 64 for row in rows)
    for report in ("in/a.txt", "out/r.jsonl"):
        before = contents(tree)
        result = cli("sync", "--delete", "--report", report, "in", "out")
        assert (result.code, "write it elsewhere, or add --exclude /" in result.err) == (2, True)
        assert contents(tree) == before
    assert cli("sync", "--delete", "--report", "out/r.jsonl", "in", "out", "--exclude", "/r.jsonl").code == 0
    assert (tmp_path / "out/r.jsonl").exists()
    assert cli("sync", "--report", "nope/r", "in", "out").code == 2
    result = cli("sync", "--report", "/dev/full", "in", "out")
    assert result.code == 7
    assert "crossdock: write the report /dev/full: No space left on device\nNext: " in result.err


def test_delete_is_bounded(cli: Cli, tree: Path, tmp_path: Path) -> None:
    cli("sync", "in", "out")
    for name in ("x", "y"):
        (tmp_path / "out" / name).touch()
    assert cli("sync", "in", "out").code == 0
    assert (tmp_path / "out/x").exists(), "never without --delete"
    result = cli("sync", "--delete", "in", "out")
    assert result.code == 7
    assert "--max-delete" in result.err
    assert (tmp_path / "out/x").exists()
    result = cli("sync", "--delete", "--max-delete", "2", "in", "out")
    assert result.code == 0
    assert "2 deleted" in result.err
    assert contents(tmp_path / "out") == contents(tree)
    (tmp_path / "empty").mkdir()
    assert cli("sync", "--delete", "--max-delete", "100%", "empty", "out").code == 7
    assert contents(tmp_path / "out") == contents(tree)


@pytest.mark.parametrize("bound", ["x", "101%", "-1", "", "1.5"])
def test_bounds_that_are_none(cli: Cli, tree: Path, bound: str) -> None:
    assert cli("sync", f"--max-delete={bound}", "in", "out").code == 2


def test_one_bad_file_does_not_stop_the_others(cli: Cli, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "out/sub").mkdir(parents=True)
    (tmp_path / "out/sub/b.csv").mkdir()
    (tmp_path / "out/sub/b.csv/inside").touch()
    result = cli("sync", "in", "out")
    assert result.code == 1
    assert "sub/b.csv" in result.err
    assert "4 files copied" in result.err
    assert "1 failed" in result.err


def test_into_itself(cli: Cli, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    for target in ("in", "in/sub/x", ".", "link/sub"):
        result = cli("sync", "in", target)
        assert result.code == 7
        assert "overlap" in result.err
    assert len(contents(tree)) == 5


def test_checksum_finds_what_time_hides(cli: Cli, tree: Path, tmp_path: Path) -> None:
    cli("sync", "in", "out")
    target = tmp_path / "out/a.txt"
    before = target.stat()
    target.write_bytes(b"eno\n")
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cli("sync", "in", "out").err.startswith("0 files copied")
    assert cli("sync", "--checksum", "in", "out").err.startswith("1 file copied")
    assert target.read_bytes() == b"one\n"
    os.utime(target, (1, 1))
    assert cli("sync", "--checksum", "--dry-run", "in", "out").err.startswith("would be 0 files copied")
    assert cli("sync", "--checksum", "in", "out").err.startswith("0 files copied"), "content counts instead of time"


def test_a_window_for_times(cli: Cli, tree: Path, tmp_path: Path) -> None:
    cli("sync", "in", "out")
    target = tmp_path / "out/a.txt"
    target.write_bytes(b"ONE\n")
    made = (tree / "a.txt").stat().st_mtime_ns
    os.utime(target, ns=(made, made + 2 * 10**9))
    assert cli("sync", "in", "out", "--modify-window", "2s").err.startswith("0 files copied")
    assert cli("sync", "in", "out", "--modify-window", "1s").err.startswith("1 file copied")
    assert contents(tmp_path / "out") == contents(tree)


def test_several_processes(cli: Cli, tree: Path, tmp_path: Path) -> None:
    result = cli("sync", "--processes", "2", "--json", "in", "out")
    assert result.code == 0
    assert contents(tmp_path / "out") == contents(tree)


@pytest.mark.parametrize("killed", [1, 3])
def test_processes_that_are_killed(tmp_path: Path, killed: int) -> None:
    """What they were at fails and is told; the others, if any are left, do the rest, and nobody waits for the dead."""
    (tmp_path / "in").mkdir()
    for number in range(300):
        (tmp_path / "in" / f"{number:03}").write_bytes(b"x" * 20_000)
    command = [PROGRAM, "sync", "in", "out", "--processes", "3", "--transfers", "6", "--bwlimit", "3M", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "out").is_dir() or len(list((tmp_path / "out").iterdir())) < 10:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children[:killed]:
            os.kill(int(child), signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"Traceback" not in err
    *rows, last = [json.loads(line) for line in out.splitlines()]
    failed = [row for row in rows if row["action"] == "fail"]
    assert 0 < len(failed) <= (6 if killed < 3 else 299)
    assert all("the process that was to move it has ended" in row["error"] for row in failed)
    assert last["summary"]["copy"] == 300 - len(failed)
    arrived = [path for path in (tmp_path / "out").iterdir() if path.name.isdigit()]
    assert {path.read_bytes() for path in arrived} == {b"x" * 20_000}


def test_a_source_that_is_not_there(cli: Cli) -> None:
    assert cli("sync", "nope", "out").code == 4


def test_a_source_that_is_a_file(cli: Cli, tree: Path) -> None:
    result = cli("sync", "in/a.txt", "out")
    assert result.code == 7
    assert "crossdock cp" in result.err
