"""The demo, and what a terminal shows."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from crossdock.cli.output import human_size, human_time
from crossdock.cli.progress import Progress
from crossdock.demo.partner import Partner, partner
from tests.cli.conftest import PROGRAM, Cli, contents


def on_a_terminal(argv: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and all that was written, with a terminal as stdin, stdout and stderr."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    running = subprocess.Popen(argv, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            data = os.read(ours, 65536)
        except OSError:
            break
        if not data:
            break
        written += data
    os.close(ours)
    return running.wait(timeout=60), written.decode(errors="replace")


def test_demo(cli: Cli, tmp_path: Path) -> None:
    result = cli("demo", "--keep", "kept")
    assert result.code == 0, result.err
    assert "15 digests of the sender, both receivers and the ledger agree" in result.out
    assert "0 transfers delivered: nothing is moved twice" in result.out
    assert "0 of 1 files 'end_of_day_*.csv' came by" in result.out
    archived = contents(tmp_path / "kept/partner/.done")
    assert contents(tmp_path / "kept/store") == contents(tmp_path / "kept/copy") == archived
    assert len(archived) == len(contents(tmp_path / "kept/partner")) == 15
    assert (tmp_path / "kept/store/large.bin").stat().st_size == 64 * 1024 * 1024
    again = cli("demo", "--keep", "kept")
    assert again.code == 2, "never into a folder that exists"
    assert again.err.startswith("crossdock: cannot make kept: File exists; name a new folder\nNext: ")


def test_a_demo_without_room(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not what is printed that found no place."""
    shell = ["sh", "-c", f"ulimit -f 1000; exec {PROGRAM} demo --keep kept"]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    told = f"crossdock: write the demo's files to {tmp_path}/kept/partner: File too large\nNext: free some space there"
    assert (done.returncode, done.stderr.startswith(told)) == (7, True), done.stderr

    def nowhere(*_: object) -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "mkdtemp", nowhere)
    result = cli("demo")
    assert (result.code, result.err.startswith("crossdock: cannot make a temporary folder: No usable")) == (2, True)


def test_demo_on_a_terminal_shows_progress_and_leaves_nothing(tmp_path: Path) -> None:
    code, written = on_a_terminal(["env", f"TMPDIR={tmp_path}", PROGRAM, "demo"], tmp_path)
    assert code == 0, written
    assert "large.bin" in written
    assert "/s" in written
    assert list(tmp_path.iterdir()) == []


def test_progress_respects_quiet_and_no_color(tree: Path, tmp_path: Path) -> None:
    assert on_a_terminal([PROGRAM, "-q", "sync", "in", "out"], tmp_path) == (0, "")
    (tmp_path / "big").write_bytes(os.urandom(1_000_000))
    code, written = on_a_terminal(["env", "NO_COLOR=1", PROGRAM, "cp", "big", "b2", "--bwlimit", "800K"], tmp_path)
    assert code == 0
    assert "big" in written
    assert "\x1b[3" not in written, "no colours"


def test_what_needs_nothing_is_counted_on_a_terminal(tree: Path, tmp_path: Path) -> None:
    """A sync of a million files that are there already looks as if nothing happened else."""
    files = sum(path.is_file() for path in tree.rglob("*"))
    assert subprocess.run([PROGRAM, "sync", "in", "out"], cwd=tmp_path, timeout=60).returncode == 0
    (tmp_path / "out/extra").touch()
    code, written = on_a_terminal([PROGRAM, "sync", "in", "out", "--delete", "--max-delete", "1"], tmp_path)
    assert code == 0
    assert f"0 files done, {files} skipped, 1 deleted" in written


def test_rm_asks_on_a_terminal(tree: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    running = subprocess.Popen([PROGRAM, "rm", "-r", "in"], cwd=tmp_path, stdin=theirs, stderr=subprocess.PIPE)
    os.write(ours, b"n\n")
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert b"with all that is below?" in err
    assert tree.exists()
    os.write(ours, b"y\n")
    assert subprocess.run([PROGRAM, "rm", "-r", "in"], cwd=tmp_path, stdin=theirs, timeout=60).returncode == 0
    assert not tree.exists()
    os.close(ours)
    os.close(theirs)


def test_counters() -> None:
    progress = Progress()
    progress.moved("a", 0, 100)
    progress.moved("b", 0, None)
    progress.moved("a", 60, 100)
    progress.moved("a", -60, 100)
    progress.moved("a", 100, 100)
    progress.moved("b", 7, None)
    assert (progress.moved_bytes, progress.known_bytes) == (107, 100)
    progress.ended("a")
    progress.ended("b")
    progress.ended("never started")
    assert (progress.moved_bytes, progress.known_bytes, progress.ended_files) == (107, 107, 2)
    progress.moved("c", 0, 50)
    progress.ended("c")
    assert progress.moved_bytes == progress.known_bytes == 157, "copied within the store"
    progress.moved("d", 30, 50)
    progress.ended("d", failed=True)
    assert (progress.moved_bytes, progress.known_bytes, progress.ended_files) == (157, 157, 3)


def test_numbers() -> None:
    assert [human_size(size) for size in (0, 999, 1024, 123456, 5 * 1024**3)] == [
        "0 B", "999 B", "1 KiB", "121 KiB", "5 GiB",
    ]  # fmt: skip
    assert [human_time(seconds) for seconds in (0.44, 12.3, 185, 3603)] == ["0.4 s", "12 s", "3:05", "1:00:03"]


def test_a_partner_that_is_not_reached(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is told."""

    @asynccontextmanager
    async def another(folder: Path, keys: Path) -> AsyncGenerator[Partner]:
        async with partner(folder, keys) as server:
            yield replace(server, fingerprint=f"SHA256:{'A' * 43}")

    monkeypatch.setattr("crossdock.demo.command.partner", another)
    result = cli("demo")
    assert (result.code, "presents" in result.err) == (7, True), result.err
