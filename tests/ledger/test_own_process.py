"""The ledger's file in the hands of a process of its own: it outlives signals, is replaced, and never stays behind."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import LedgerError, LedgerUnavailable
from crossdock.ledger.base import Query
from crossdock.ledger.process_writer import ProcessWriter
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.ledger.sqlite_actions import Rows
from crossdock.ledger.transactions import Connection, Operation
from crossdock.testing.ledger.base import add


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "crossdock.db"


@pytest.fixture
async def ledger(path: Path) -> AsyncGenerator[SqliteLedger]:
    async with SqliteLedger(path, own_process=True) as ledger:
        yield ledger


def process(ledger: SqliteLedger) -> subprocess.Popen[bytes]:
    writer = ledger._writer
    assert isinstance(writer, ProcessWriter)
    assert writer._other is not None
    return writer._other._process


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Every process that is started from here on."""
    found: list[subprocess.Popen[bytes]] = []

    class Kept(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            found.append(self)

    monkeypatch.setattr(subprocess, "Popen", Kept)
    return found


async def test_it_ends_with_the_ledger(path: Path) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    async with SqliteLedger(path, own_process=True) as ledger:
        other = process(ledger)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
        adding = [asyncio.create_task(add(ledger, f"f{number}")) for number in range(20)]
        await asyncio.sleep(0)
    assert other.returncode == 0
    assert sorted(id for (id,) in [await each for each in adding]) == list(range(1, 21))


@pytest.mark.parametrize(("name", "frozen"), [("python-app", True), ("server", False)])
async def test_a_program_that_python_is_built_into_does_not_begin_itself_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str, frozen: bool
) -> None:
    """Each would open the ledger, and begin one more of itself."""
    program, begun = path.with_name(name), path.with_name("begun")
    program.write_text(f"#!/bin/sh\ntouch {begun}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    async with SqliteLedger(path, own_process=True) as ledger:
        assert await add(ledger, "a") == [1]
    assert not begun.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_what_a_supervisor_tells_all_processes_of_a_run(ledger: SqliteLedger, number: signal.Signals) -> None:
    other = process(ledger)
    other.send_signal(number)
    assert len(await add(ledger)) == 1
    assert process(ledger) is other and other.poll() is None


async def test_one_that_is_killed_is_replaced(ledger: SqliteLedger) -> None:
    """What it was asked is not known to be done; what others ask meanwhile waits for the next one."""
    await add(ledger, "a")
    first = process(ledger)
    first.send_signal(signal.SIGSTOP)
    asked = [asyncio.create_task(add(ledger, name)) for name in ("b", "c")]
    await asyncio.sleep(0.01)
    asked.append(asyncio.create_task(add(ledger, "d")))
    await asyncio.sleep(0)
    first.kill()
    for task in asked:
        with pytest.raises(LedgerUnavailable, match=r"crossdock\.db: the process that writes it has ended"):
            await task
    await asyncio.gather(*(add(ledger, name) for name in "abcd"))
    assert sorted(each.entry.path for each in await ledger.find(Query())) == [*"abcd"]
    assert process(ledger) is not first
    assert first.returncode == -signal.SIGKILL


async def test_a_file_that_is_gone_is_not_made_anew(ledger: SqliteLedger, path: Path) -> None:
    """An empty ledger would send everything again."""
    await add(ledger)
    path.unlink()
    process(ledger).kill()
    process(ledger).wait()
    for _ in range(2):
        with pytest.raises(LedgerError, match=r"removed, moved or replaced|has ended"):
            await ledger.find(Query())
        with pytest.raises(LedgerError, match="removed, moved or replaced"):
            await add(ledger, "b")
    assert not path.exists()


async def test_a_file_that_is_replaced_is_not_written(ledger: SqliteLedger, path: Path) -> None:
    path.rename(path.with_name("old.db"))
    with pytest.raises(LedgerError, match="removed, moved or replaced"):
        await add(ledger)


async def test_what_opening_raises(path: Path) -> None:
    path.write_bytes(b"hello, I am no database at all")
    errors = []
    for own_process in (False, True):
        with pytest.raises(LedgerError) as caught:
            await SqliteLedger(path, own_process=own_process).open()
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


async def test_it_ends_with_an_opening_that_fails_or_is_cancelled(
    path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    opening = asyncio.create_task(SqliteLedger(path, own_process=True).open())
    while not started:
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert started[0].returncode == 0
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE ledger")
    connection.close()
    ledger = SqliteLedger(path, own_process=True)
    with pytest.raises(LedgerError, match="no such table: ledger"):
        await ledger.open()
    assert started[1].returncode == 0
    with pytest.raises(LedgerUnavailable, match="it is not open"):
        await ledger.find(Query())


async def test_none_is_started_for_who_asks_too_late(path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    """As another loop may, that has asked while the ledger was being closed."""
    async with SqliteLedger(path, own_process=True) as ledger:
        writer = ledger._writer
        assert writer is not None
    with pytest.raises(sqlite3.ProgrammingError, match="the ledger is closed"):
        await writer.ask(Operation(Rows("SELECT 1"), {}, writes=False))
    assert len(started) == 1


async def test_what_opening_says_is_in_our_log(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whose form is the run's: a line on stderr would be none of JSON."""
    async with SqliteLedger(path):
        pass
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    connection.close()
    said: list[list[tuple[str, int, str]]] = []
    for own_process in (False, True):
        caplog.clear()
        async with SqliteLedger(path, own_process=own_process) as ledger:
            assert len(await add(ledger, str(own_process))) == 1
        said.append(caplog.record_tuples)
    assert said[0] == said[1]


class Odd:
    """An action of whose results one cannot be sent."""

    def __call__(self, connection: Connection, value: Any) -> Any:
        error = ValueError("odd", threading.Lock()) if value else ValueError("even")
        raise error


async def test_errors_of_actions_come_back(ledger: SqliteLedger) -> None:
    with pytest.raises(ValueError, match="even"):
        await ledger._ask(Operation(Odd(), 0, writes=True))
    with pytest.raises(LedgerError, match="odd"):
        await ledger._ask(Operation(Odd(), 1, writes=True))
    with pytest.raises(LedgerError, match="no such table: none"):
        await ledger._ask(Operation(Rows("SELECT * FROM none"), {}, writes=False))
    assert len(await add(ledger)) == 1


async def test_who_asks_from_another_loop_is_answered_there(ledger: SqliteLedger) -> None:
    async def ask() -> list[int]:
        return await add(ledger, "b")

    theirs = asyncio.create_task(asyncio.to_thread(asyncio.run, ask()))
    assert len(await add(ledger, "a")) == 1
    assert len(await theirs) == 1


async def test_what_nobody_waits_for_is_not_read_to_its_end(path: Path) -> None:
    """Ctrl-C during a search of a large ledger."""
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 100000000000) SELECT sum(x) FROM n"
    async with SqliteLedger(path, own_process=True) as ledger:
        other = process(ledger)
        reading = asyncio.create_task(ledger._ask(Operation(Rows(numbers), {}, writes=False)))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
    assert other.returncode == 0


async def test_whoever_starts_it_is_gone_at_once() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        command = [sys.executable, "-m", "crossdock.ledger.child", str(theirs.fileno())]
        done = subprocess.run(command, pass_fds=[theirs.fileno()], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


_KILLED = """\
import asyncio, sys
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.testing.ledger.base import add

async def main():
    async with SqliteLedger(sys.argv[1], own_process=True) as ledger:
        await add(ledger, "a")
        print(ledger._writer._other._process.pid, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        asked = asyncio.create_task(add(ledger, "b"))
        while not ledger._writer._other.busy:
            await asyncio.sleep(0)
        print("asked", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("at_work", [False, True])
async def test_it_ends_with_whoever_is_killed(path: Path, at_work: bool) -> None:
    """By the end of its stdout, which the other would have inherited, nothing could be told: it has none.

    What it was asked before it does, and nobody hears of it.
    """
    command = [sys.executable, "-c", _KILLED, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as parent:
        assert parent.stdin is not None and parent.stdout is not None and parent.stderr is not None
        pid = int(parent.stdout.readline())
        watched = os.pidfd_open(pid)
        if at_work:
            os.kill(pid, signal.SIGSTOP)
            print(file=parent.stdin, flush=True)
            assert parent.stdout.readline() == "asked\n"
        parent.kill()
        assert parent.stdout.read() == ""
        os.kill(pid, signal.SIGCONT)
        # It has its stderr.
        assert await asyncio.to_thread(parent.stderr.read) == ""
    try:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(watched, ended.set)
        async with asyncio.timeout(60):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(watched)
        os.close(watched)
    async with SqliteLedger(path) as ledger:
        assert [each.entry.path for each in await ledger.find(Query())] == (["b", "a"] if at_work else ["a"])


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EAGAIN, "temporarily unavailable. Next: see how many processes this account may have"),
        (errno.EMFILE, r"Too many open files. Next: raise the limit \(ulimit -n\)"),
    ],
)
async def test_no_process_can_be_started(path: Path, number: int, told: str) -> None:
    """As where an account has as many as it may."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", refused)
        with pytest.raises(LedgerUnavailable, match=f"no process can be started .*{told}"):
            await SqliteLedger(path, own_process=True).open()
