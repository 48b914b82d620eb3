"""run, as a daemon that is told to stop and to read its configuration again."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crossdock.cli import daemon as daemons
from crossdock.cli.session import Session
from crossdock.engine.delivery import Delivery
from crossdock.errors import LedgerUnavailable
from crossdock.storage.base import Entry
from tests.cli.conftest import PROGRAM
from tests.cli.moving import configure, daemon, put, to_one_place, until
from tests.servers import Postgres
from tests.servers.server import closed_ports


def test_what_no_rule_can_move_is_named_by_a_daemon(home: Path) -> None:
    """Once, until it is something else."""
    configure(home)
    to_one_place(home)
    # In folders, which come and go whole: it may look at any moment.
    for folder, names in (("in/z", "bcd"), ("later", "ef")):
        (home / folder).mkdir()
        for name in names:
            (home / folder / name).write_bytes(b"1")
    put(home, "a", b"1")
    with daemon(home) as (process, said):
        until(lambda: "Next: crossdock explain move a\n" in said(), "the files are named")
        assert "move: 1 more file not moved because of a rule\n" in said()
        (home / "in/z").rename(home / "gone")
        until((home / "out/one").exists, "the clash is over")
        assert said().count("a is not moved") == 1, said()
        (home / "later").rename(home / "in/y")
        until(lambda: "y/e is not moved: y/f goes to dst:one as well" in said(), "another one")
        process.send_signal(signal.SIGTERM)
        assert ended(process, said) == 0


def children(process: subprocess.Popen[bytes]) -> list[int]:
    """One, if its ledger is a file."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_a_daemon_whose_ledger_s_process_is_killed(home: Path) -> None:
    """By hand, or when memory runs out: the next file is recorded by another."""
    configure(home)
    with daemon(home) as (process, said):
        put(home, "a", b"1")
        until((home / "out/a").exists, "the first file")
        (first,) = children(process)
        os.kill(first, signal.SIGKILL)
        put(home, "b", b"2")
        until((home / "out/b").exists, "the file after that")
        with closing(sqlite3.connect(home / "crossdock.db")) as ledger:
            # The first may not have been recorded yet; then it was given back, and looked at again.
            asked = "SELECT count(*) FROM transfers WHERE state = 'done'"
            until(lambda: ledger.execute(asked).fetchone()[0] == 2, "both are recorded")
        (second,) = children(process)
        assert second != first
        process.send_signal(signal.SIGTERM)
        assert ended(process, said) == 0


def test_a_daemon(home: Path) -> None:
    configure(home)
    with (home / "log").open("w+b") as log:
        daemon = subprocess.Popen([PROGRAM, "run", "--json"], cwd=home, stdout=subprocess.PIPE, stderr=log)
        try:
            put(home, "a", b"1")
            until((home / "out/a").exists, "the first file")
            said = (home / "log").read_text
            (home / "crossdock.yaml").write_text("flows: {move: {sorce: x}}\n")
            daemon.send_signal(signal.SIGHUP)
            until(lambda: "the configuration stays as it was" in said(), "a wrong configuration is refused")
            put(home, "b", b"2")
            until((home / "out/b").exists, "the old configuration still works")
            configure(home, to="new/")
            daemon.send_signal(signal.SIGHUP)
            until(lambda: "the configuration was read again" in said(), "a new configuration is taken")
            put(home, "c", b"3")
            until((home / "out/new/c").exists, "by the new rules")
            daemon.send_signal(signal.SIGTERM)
            out, _ = daemon.communicate(timeout=60)
        finally:
            if daemon.poll() is None:
                daemon.kill()
                daemon.wait()
    assert daemon.returncode == 0, said()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["what"], row["target"]) for row in rows] == [
        ("delivered", "dst:a"), ("delivered", "dst:b"), ("delivered", "dst:new/c"),
    ]  # fmt: skip
    assert not list((home / "out").rglob(".crossdock-*"))


def ended(process: subprocess.Popen[bytes], said: Callable[[], str]) -> int:
    code = process.wait(timeout=60)
    assert "Traceback" not in said()
    return code


def test_a_reload_while_it_starts_is_not_lost(home: Path) -> None:
    """Nor does it end the daemon, though nothing of it stands yet."""
    configure(home)
    file, first = home / "crossdock.yaml", home / "first"
    file.rename(first)
    os.mkfifo(file)
    with (home / "log").open("w+b") as log:
        process = subprocess.Popen([PROGRAM, "run"], cwd=home, stdout=subprocess.DEVNULL, stderr=log)
        try:
            # Returns when the daemon has begun to read.
            with file.open("w") as configuration:
                process.send_signal(signal.SIGHUP)
                configure_new(home)
                configuration.write(first.read_text())
            put(home, "a", b"1")
            until(lambda: process.poll() is not None or (home / "out/new/a").exists(), "it runs by what is there now")
            process.send_signal(signal.SIGTERM)
            assert ended(process, (home / "log").read_text) == 0
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def configure_new(home: Path) -> None:
    """In the place of what is being read."""
    (home / "crossdock.yaml").unlink()
    configure(home, to="new/")


@pytest.mark.parametrize("wrong", ["tests", "ledger", "removed"])
def test_a_reload_that_fails_late_keeps_the_old_configuration(home: Path, wrong: str) -> None:
    """Rules that fail their tests, and a ledger that cannot be opened, are found only when it is tried."""
    configure(home)
    with daemon(home) as (process, said):
        text = (home / "crossdock.yaml").read_text()
        match wrong:
            case "tests":
                configure(home, more='trigger: {every: 1s}\n    tests: [{file: a, to: "dst:b"}]')
            case "ledger":
                (home / "crossdock.yaml").write_text(f"ledger: nowhere/l.db\n{text}")
            case "removed":
                (home / "crossdock.yaml").unlink()
        process.send_signal(signal.SIGHUP)
        until(lambda: "the configuration stays as it was" in said(), "it is refused")
        put(home, "a", b"1")
        until((home / "out/a").exists, "the old one still works")
        process.send_signal(signal.SIGTERM)
        assert ended(process, said) == 0


def test_a_second_ctrl_c_breaks_off(home: Path) -> None:
    configure(home)
    (home / "in/big").touch()
    os.truncate(home / "in/big", 8 << 30)
    with daemon(home) as (process, said):
        until(lambda: any((home / "out").glob(".crossdock-*")), "it is under way")
        process.send_signal(signal.SIGINT)
        until(lambda: "stopping" in said(), "the first is heard")
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert ended(process, said) == 130
    assert not any((home / "out").iterdir())


def test_what_a_daemon_did_is_told(home: Path) -> None:
    configure(home)
    with daemon(home) as (process, said):
        for name in "abc":
            put(home, name, b"12")
        until(lambda: len(list((home / "out").glob("[abc]"))) == 3, "they come")
        process.send_signal(signal.SIGTERM)
        assert ended(process, said) == 0
        assert "Z move: 3 transfers delivered, 6 B\n" in said()
        assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ \S", line) for line in said().splitlines()), said()


def test_a_mishap_of_many_files_is_told_in_a_few_lines(home: Path) -> None:
    """And with the command that sends them, which no message of a single file names."""
    configure(home, more="trigger: {every: 1s}\n    on_conflict: fail")
    for number in range(40):
        put(home, f"file{number}", b"new")
        (home / f"out/file{number}").write_bytes(b"of somebody else")
    with daemon(home) as (process, said):
        with closing(sqlite3.connect(home / "crossdock.db")) as ledger:
            asked = "SELECT count(*) FROM transfers WHERE state = 'failed'"
            until(lambda: ledger.execute(asked).fetchone()[0] == 40, "all fail")
        process.send_signal(signal.SIGTERM)
        assert ended(process, said) == 0
        told = said()
    assert told.count(": failed: ") == 5, told
    assert "Z move: 35 more transfers failed: crossdock transfers list --flow move --state failed\n" in told
    assert told.count("Z Next: mend what failed, then: crossdock transfers retry --flow move\n") == 1, told


def test_a_terminal_that_is_closed_ends_a_daemon(home: Path) -> None:
    """What is under way ends first, though nobody reads what is said of it."""
    configure(home)
    (home / "in/big").touch()
    os.truncate(home / "in/big", 1 << 28)
    pid, terminal = pty.fork()
    if pid == 0:
        # The tests themselves may run under nohup(1).
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.chdir(home)
        os.execv(PROGRAM, [PROGRAM, "run"])
    try:
        # Or, on a machine that let us wait, is there already.
        until(lambda: any((home / "out").iterdir()), "it is under way")
        os.close(terminal)
        deadline = time.monotonic() + 60
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < deadline, "it ends"
            time.sleep(0.02)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    assert [path.name for path in (home / "out").iterdir()] == ["big"]
    assert (home / "out/big").stat().st_size == 1 << 28


_COUNTING = """\
from crossdock.cli import daemon as daemons, run
from crossdock.cli.main import main

bad = daemons.Daemon._bad

def counted(*arguments):
    with open("failures", "a") as file:
        file.write("x")
    bad(*arguments)

daemons.Daemon._bad = counted
daemons._AGAIN = 0.05
main()
"""
"""A daemon that counts what fails in the file `failures`, told or not, and that asks again for a ledger at once."""


def fails_again(home: Path) -> None:
    """Waits until it has failed twice more."""
    count = (home / "failures").stat().st_size
    until(lambda: (home / "failures").stat().st_size >= count + 2, "it fails again and again")


def test_what_ends_a_daemon_has_its_time(home: Path) -> None:
    configure(home)
    with daemon(home) as (process, said):
        put(home, "a", b"1")
        until((home / "out/a").exists, "it works")
        (home / "crossdock.db").rename(home / "elsewhere")
        put(home, "b", b"1")
        assert ended(process, said) == 7
        *_, error, next_step = said().splitlines()
        assert re.match(r"[-0-9]{10} [:0-9]{8}Z crossdock: ledger .* was removed, moved or replaced", error), said()
        assert re.match(r"[-0-9]{10} [:0-9]{8}Z Next: put it back", next_step), said()


def test_a_flow_without_a_trigger_is_told(home: Path) -> None:
    configure(home, more="")
    with daemon(home) as (process, said):
        until(lambda: "move has no trigger" in said() and "run move --once\n" in said(), "what would look")
        process.send_signal(signal.SIGTERM)
        assert ended(process, said) == 0


def test_an_error_that_goes_on_is_told_once(home: Path) -> None:
    """A source that is away does not end the daemon, whether it is watched or not, and does not fill its log."""
    configure(home, more="trigger: {every: 1s, watch: true}")
    (home / "in").rename(home / "away")
    with daemon(home, program=(sys.executable, "-c", _COUNTING)) as (process, said):
        until(lambda: "is not a folder" in said(), "it is told")
        fails_again(home)
        assert said().count("is not a folder") == 1, said()
        (home / "away").rename(home / "in")
        until(lambda: "can be listed again" in said(), "so is its return")
        put(home, "a", b"1")
        until((home / "out/a").exists, "and its files come")
        process.send_signal(signal.SIGTERM)
        assert ended(process, said) == 0


def test_what_waits_for_an_endpoint_that_is_down_is_told_once(home: Path) -> None:
    """Not for each of its files, each time."""
    configure(home)
    file = home / "crossdock.yaml"
    with closed_ports(1) as (port,):
        away = f"{{type: ftp, host: 127.0.0.1, port: {port}, user: a, password: 'env:HOME'}}"
        file.write_text(file.read_text().replace("{type: local, root: out}", away))
        for number in range(60):
            put(home, f"file{number}", b"1")
        with daemon(home) as (process, said):
            with closing(sqlite3.connect(home / "crossdock.db")) as ledger:
                # The history has no line of those that are put off together; how many those are, the moment decides.
                asked = "SELECT count(*) FROM transfers WHERE why LIKE '%is left alone%'"
                until(lambda: ledger.execute(asked).fetchone()[0] >= 40, "many were to go there")
            until(lambda: "what is to go to dst waits" in said(), "which is told once it is recorded")
            assert said().count("move: what is to go to dst waits: dst is left alone after: connect dst: ") == 1, said()
            # Those that waited for their turn, at most as many as are under way at once, each have failed.
            assert said().count("is left alone") <= 16, said()
            process.send_signal(signal.SIGTERM)
            assert ended(process, said) == 0


def test_a_ledger_without_room_is_told_once(home: Path) -> None:
    """It can be opened and read all the same, which is not yet good news."""
    configure(home)
    with daemon(home, program=(sys.executable, "-c", _COUNTING)) as (process, said):
        put(home, "a", b"1")
        until((home / "out/a").exists, "it works")
        with closing(sqlite3.connect(home / "crossdock.db")) as ledger:
            done = "SELECT count(*) FROM transfers WHERE state = 'done'"
            until(lambda: ledger.execute(done).fetchone()[0] == 1, "nothing is left to be recorded")
        # Of every file that it, or its ledger's process, writes; SQLite takes it for a full disk.
        for pid in (process.pid, *children(process)):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, ((home / "crossdock.db").stat().st_size, -1))
        # All at once: of a few there would be room to begin with, and then each of them would tell that it ran out.
        (home / "later").mkdir()
        for number in range(300):
            (home / f"later/file number {number}").write_bytes(b"1")
        (home / "later").rename(home / "in/more")
        until(lambda: "Next: " in said(), "no room")
        fails_again(home)
        assert (said().count("Next: "), said().count("again"), said().count("running")) == (1, 0, 1), said()
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (-1, -1))
        for pid in children(process):
            with suppress(ProcessLookupError):  # Of a ledger that was just given up; the next has the limit lifted.
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (-1, -1))
        until(lambda: "the ledger can be used again" in said(), "it goes on")
        until(lambda: len(list((home / "out/more").glob("file*"))) == 300, "everything comes")
        process.send_signal(signal.SIGTERM)
        assert ended(process, said) == 0


async def test_what_a_ledger_without_room_cannot_record_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Not for each transfer that was under way."""
    command: Any = daemons.Daemon(Session(), (), {"as_json": False})
    error = LedgerUnavailable("the disk is full", hint="free some space")
    for path in "abc":
        transfer: Any = SimpleNamespace(flow="move", source="src", target=f"dst:{path}", entry=Entry(path=path))
        command.tell(Delivery(transfer=transfer, what="lost", reason=str(error), error=error))
    assert capsys.readouterr().err.count("the disk is full") == 1


async def test_a_ledger_that_fails_in_many_words_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Each statement that was under way when its server went down has its own."""
    command: Any = daemons.Daemon(Session(), (), {"as_json": False})
    for operation in ("claim", "staged", "delivered", "claim"):
        error = LedgerUnavailable(f"{operation} in ledger postgresql://db: the connection broke", hint="see it")
        transfer: Any = SimpleNamespace(flow="move", source="src", target="dst:a", entry=Entry(path="a"))
        command.tell(Delivery(transfer=transfer, what="lost", reason=str(error), error=error))
    assert capsys.readouterr().err.count("the connection broke") == 1


@pytest.mark.usefixtures("postgres")
def test_a_ledger_that_is_gone_for_a_while(home: Path) -> None:
    """The database's server crashes, and comes back, under a daemon."""
    configure(home)
    with Postgres() as server, daemon(home, "--ledger", server.dsn) as (process, said):
        put(home, "a", b"1")
        until((home / "out/a").exists, "it works")
        server.crash()
        until(lambda: "Next: see that the database server runs" in said(), "the ledger is away")
        put(home, "b", b"2")
        server.start_again()
        until((home / "out/b").exists, "it goes on")
        assert "the ledger can be used again" in said()
        process.send_signal(signal.SIGTERM)
        assert ended(process, said) == 0
