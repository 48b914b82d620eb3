"""Disks that fill up and fail at the nth write, and writers killed at any moment: what was acknowledged is there."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import LedgerError, LedgerUnavailable
from crossdock.ledger.base import Lease, Query, State
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.ledger.sqlite_file import connect
from crossdock.testing.ledger.base import RECEIPT, planned

WRITES = 200


class Failing(sqlite3.Connection):
    """Fails once, at the statement number `at`, with `code`."""

    at, count, code = 0, 0, sqlite3.SQLITE_FULL

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        cls = type(self)
        cls.count += 1
        if cls.count == cls.at:
            if cls.code == sqlite3.SQLITE_NOMEM:
                raise MemoryError  # As Python makes it of that.
            error = sqlite3.OperationalError("disk")
            error.sqlite_errorcode = cls.code
            raise error
        return super().execute(sql, *args)


def whole(path: Path) -> None:
    """The file is sound, and its history agrees with its states."""
    connection = connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    last = "SELECT state FROM events WHERE transfer = t.id ORDER BY id DESC LIMIT 1"
    torn = connection.execute(f"SELECT id FROM transfers t WHERE state IS NOT ({last})").fetchall()
    assert torn == []
    connection.close()


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_NOMEM]
)
async def test_the_nth_statement_fails(tmp_path: Path, code: int) -> None:
    """At every n: told as LedgerUnavailable, nothing of that call kept, all before and after it kept."""
    path = tmp_path / "crossdock.db"
    Failing.at = 0
    async with SqliteLedger(path, factory=Failing) as ledger:
        failures = 0
        for at in range(1, WRITES):
            Failing.count, Failing.at, Failing.code = 0, at, code
            failed = 0

            async def call(make: Any) -> Any:
                nonlocal failed
                before = await snapshot(path)
                try:
                    return await make()
                except LedgerUnavailable as error:
                    failed += 1
                    assert error.retryable
                    assert error.hint
                    assert await snapshot(path) == before
                    return await make()

            plans = [planned(f"{at}/{number}") for number in range(3)]
            added = await call(lambda plans=plans: ledger.add(plans, who="poll"))
            assert [each.new for each in added] == [True] * 3
            leases: list[Lease] = await call(lambda: ledger.claim("w1", limit=3))
            assert len(leases) == 3
            await call(lambda leases=leases: ledger.staged(leases[0], b"x"))
            await call(lambda leases=leases: ledger.delivered(leases[0], RECEIPT))
            await call(lambda leases=leases: ledger.done(leases[0], gone=True))
            assert await call(lambda at=at: ledger.mark("statements", "tick", f"{at}"))
            await call(lambda at=at: ledger.unmark("statements", "tick", [f"{at - 1}", "none"]))
            await call(lambda leases=leases: ledger.retry_in(leases[1], 10**6, "busy"))
            await call(lambda leases=leases: ledger.failed(leases[2], "gone"))
            failures += failed
            if not failed:
                break
        assert failures > 20
        Failing.at = 0
        counts = await ledger.counts()
        rounds = counts["statements", State.DONE]
        assert counts == {("statements", state): rounds for state in (State.DONE, State.PENDING, State.FAILED)}
    whole(path)


async def snapshot(path: Path) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        found = connection.execute("SELECT id, state, gone, fence, checkpoint FROM transfers ORDER BY id DESC LIMIT 9")
        rest = connection.execute("SELECT (SELECT max(id) FROM events), (SELECT group_concat(key) FROM marks)")
        return [*found.fetchall(), rest.fetchone()]
    finally:
        connection.close()


async def test_a_full_disk(tmp_path: Path) -> None:
    """SQLite's own SQLITE_FULL: nothing is taken on, what is there stays, and space makes it go on."""
    path = tmp_path / "crossdock.db"
    made: list[sqlite3.Connection] = []

    class Kept(sqlite3.Connection):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            made.append(self)

    async with SqliteLedger(path, factory=Kept) as ledger:
        kept = 0
        connection = made[-1]
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        for room in range(1, 40):
            connection.execute(f"PRAGMA max_page_count = {pages + room}")
            with pytest.raises(LedgerUnavailable, match="full") as caught:
                for number in range(10_000):
                    await ledger.add([planned(f"{room}/{number}/{n}") for n in range(5)], who="poll")
                    kept += 5
            assert "space" in str(caught.value.hint)
            assert sum((await ledger.counts()).values()) == kept
        connection.execute("PRAGMA max_page_count = 1000000")
        await ledger.add([planned("at last")], who="poll")
    whole(path)


LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from crossdock.errors import LedgerError, LedgerUnavailable
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.testing.ledger.base import planned

async def main(path):
    async with SqliteLedger(path) as ledger:
        await ledger.add([planned("first")], who="poll")
        kept, size, failures = 1, Path(path).stat().st_size, 0
        for room in range(0, 60, 2):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + room * 1500, resource.RLIM_INFINITY))
            for number in range(30):
                try:
                    await ledger.add([planned(f"{room}/{number}/{n}") for n in range(7)], who="poll")
                    kept += 7
                except LedgerUnavailable:
                    failures += 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert sum((await ledger.counts()).values()) == kept, (room, kept)
        await ledger.add([planned("last")], who="poll")
        assert failures > 10, failures
        print(kept + 1, end="")

asyncio.run(main(sys.argv[1]))
"""


def test_a_disk_that_refuses_writes(tmp_path: Path) -> None:
    """The operating system's error (a file size limit) in the middle of pages and journals, at many places."""
    path = tmp_path / "crossdock.db"
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM transfers").fetchone()[0] == int(done.stdout)
    connection.close()
    whole(path)


KILLED = """
import asyncio, sys
from crossdock.ledger.base import State
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.testing.ledger.base import RECEIPT, planned

def told(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

async def worker(ledger, turn, name):
    for number in range(10_000):
        path = f"{turn}/{name}/{number}"
        (added,) = await ledger.add([planned(path)], who="poll")
        told("pending", added.id)
        (lease,) = await ledger.claim(f"w{turn}") or [None]
        if lease is None:
            continue
        told("running", lease.id, lease.fence)
        # On a slow machine the leases of those who were killed end meanwhile.
        if lease.transfer.state is State.RUNNING:
            await ledger.delivered(lease, RECEIPT)
            told("delivered", lease.id)
        await ledger.done(lease)
        told("done", lease.id)

async def main(path, turn):
    async with SqliteLedger(path) as ledger:
        await asyncio.gather(*(worker(ledger, turn, name) for name in range(5)))

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""
ORDER = ["pending", "running", "delivered", "done"]


async def test_a_killed_writer_loses_nothing_it_was_told(tmp_path: Path) -> None:
    """SIGKILL at a random acknowledgement, again and again, on one file."""
    path = tmp_path / "crossdock.db"
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    told: dict[int, str] = {}
    fences: dict[int, int] = {}
    for turn in range(6):
        command = [sys.executable, "-c", KILLED, str(path), str(turn)]
        stop = chance.randrange(5, 400)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for number, line in enumerate(child.stdout):
                if number == stop:
                    child.send_signal(signal.SIGKILL)
                if line.endswith("\n"):
                    new, which, *fence = line.split()
                    told[int(which)] = max(told.get(int(which), "pending"), new, key=ORDER.index)
                    if fence:
                        fences[int(which)] = int(fence[0])
        assert child.returncode == -signal.SIGKILL
        async with SqliteLedger(path) as ledger:
            for id, state in told.items():
                found = await ledger.get(id)
                assert found is not None, f"seed {seed}: {id} was {state}"
                assert ORDER.index(found.state) >= ORDER.index(state), f"seed {seed}: {found}"
                assert found.fence >= fences.get(id, 0), f"seed {seed}: {found}"
            assert len(await ledger.find(Query(limit=10**6))) >= len(told)
        whole(path)


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_a_file_that_is_no_longer_there(tmp_path: Path, how: str) -> None:
    """What would be written to it would be lost: nothing is, and a new ledger does not take its place unasked."""
    path = tmp_path / "ledger.db"
    async with SqliteLedger(tmp_path / "other.db"):
        pass
    async with SqliteLedger(path) as ledger:
        await ledger.mark("f", "kind", "before")
        if how == "removed":
            path.rename(tmp_path / "kept.db")
        else:
            (tmp_path / "other.db").replace(path)
        for _ in range(2):
            with pytest.raises(LedgerError, match="removed, moved or replaced") as caught:
                await ledger.mark("f", "kind", "after")
            assert not caught.value.retryable
            assert caught.value.hint is not None
    assert path.exists() == (how == "replaced")


async def test_a_file_that_is_moved_as_it_is_written_to(tmp_path: Path) -> None:
    """After it was looked at. SQLite calls it read-only, which may pass; or, in WAL mode, notices nothing."""
    path = tmp_path / "ledger.db"

    class Moved(sqlite3.Connection):
        at = "nothing"

        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if sql == self.at:
                path.rename(tmp_path / "kept.db")
                type(self).at = "nothing"
            return super().execute(sql, *args)

    async with SqliteLedger(path, factory=Moved) as ledger:
        await ledger.mark("f", "kind", "before")
        Moved.at = "BEGIN IMMEDIATE"
        with pytest.raises(LedgerError, match="removed, moved or replaced") as caught:
            for name in ("after", "and again"):
                await ledger.mark("f", "kind", name)
        assert not caught.value.retryable
        assert Moved.at == "nothing"
    assert not path.exists()


async def test_an_opening_that_is_cancelled_leaves_no_draft(tmp_path: Path) -> None:
    entered, go = threading.Event(), threading.Event()

    class Held(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            entered.set()
            go.wait(30)
            return super().execute(sql, *args)

    opening = asyncio.create_task(SqliteLedger(tmp_path / "crossdock.db", factory=Held).open())
    await asyncio.to_thread(entered.wait, 30)
    opening.cancel()
    asyncio.get_running_loop().call_later(0.05, go.set)
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert [path.name for path in tmp_path.iterdir()] == ["crossdock.db"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("receipt", "{"),
        ("receipt", "[]"),
        ("receipt", "[" * 100_000),
        ("modified", "soon"),
        ("changed_at", 1e300),
        ("checkpoint", 1 << 62),
    ],
)
async def test_a_row_that_was_changed_by_hand(tmp_path: Path, column: str, value: object) -> None:
    async with SqliteLedger(tmp_path / "ledger.db") as ledger:
        await ledger.add([planned()], who="me")
        connection = sqlite3.connect(tmp_path / "ledger.db")
        connection.execute(f"UPDATE transfers SET {column} = ?", (value,))
        connection.commit()
        connection.close()
        with pytest.raises(LedgerError, match="transfer 1 in the ledger is not as it was written") as caught:
            await ledger.get(1)
        assert caught.value.hint
        with pytest.raises(LedgerError, match="not as it was written"):
            [line async for line in ledger.export()]
