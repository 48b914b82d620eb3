"""The file: where it may be, who may read it, which journal, and what is no ledger."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import LedgerError, LedgerUnavailable
from crossdock.ledger import sqlite_file
from crossdock.ledger.base import Query
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.ledger.sqlite_file import connect, file_system, wal_is_safe
from crossdock.ledger.transactions import Operation
from crossdock.ledger.writer import ThreadWriter
from crossdock.testing.ledger.base import add, claim_one


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "crossdock.db"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY", 0.05)


@pytest.fixture
def wal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "wal_is_safe", lambda version: True)


@pytest.fixture
def no_wal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "wal_is_safe", lambda version: False)


def pragma(path: Path, name: str) -> Any:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]
    finally:
        connection.close()


def is_wal(path: Path) -> bool:
    return path.read_bytes()[18] == 2


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 44, 9), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_only_where_it_is_mended(version: tuple[int, int, int], safe: bool) -> None:
    assert wal_is_safe(version) is safe


async def test_a_new_ledger_without_wal(path: Path, no_wal: None) -> None:
    async with SqliteLedger(path) as ledger:
        await add(ledger)
    assert not is_wal(path)
    connection = connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    connection.close()


async def test_a_new_ledger_with_wal(path: Path, wal: None) -> None:
    async with SqliteLedger(path) as ledger, SqliteLedger(path) as second:
        await add(ledger)
        await claim_one(second)
        assert path.with_name(path.name + "-wal").exists()
    assert is_wal(path)
    assert not path.with_name(path.name + "-wal").exists()


async def test_a_wal_ledger_is_never_downgraded(
    path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Under an old SQLite it is used by one process alone, and says so."""
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_file, "wal_is_safe", lambda version: True)
        async with SqliteLedger(path) as ledger:
            await add(ledger)
    monkeypatch.setattr(sqlite_file, "wal_is_safe", lambda version: False)
    with caplog.at_level(logging.WARNING, "crossdock.ledger"):
        async with SqliteLedger(path) as ledger:
            await claim_one(ledger)
            with pytest.raises(LedgerUnavailable):
                await SqliteLedger(path).open()
    assert "for this process alone" in caplog.text
    assert is_wal(path)


@pytest.mark.usefixtures("wal")
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
async def test_only_the_owner_may_read_it(path: Path, suffix: str) -> None:
    async with SqliteLedger(path) as ledger:
        await add(ledger)
        assert stat.S_IMODE(path.with_name(path.name + suffix).stat().st_mode) == 0o600


async def test_nothing_else_is_left_in_the_folder(path: Path) -> None:
    async with SqliteLedger(path) as ledger:
        await add(ledger)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_many_open_a_new_ledger_at_once(path: Path) -> None:
    ledgers = [SqliteLedger(path) for _ in range(8)]
    await asyncio.gather(*(ledger.open() for ledger in ledgers))
    ids = await asyncio.gather(*(add(ledger, f"f{number}") for number, ledger in enumerate(ledgers)))
    assert len(await ledgers[0].find(Query())) == len(ids) == 8
    await asyncio.gather(*(ledger.close() for ledger in ledgers))


async def test_who_asks_from_another_loop_is_answered_there(path: Path) -> None:
    """Though it was done together with what this loop asked for."""
    async with SqliteLedger(path) as ledger:
        go, asked = threading.Event(), threading.Event()
        holding = asyncio.create_task(
            ledger._ask(Operation(lambda connection, value: go.wait(value), 20, writes=False))
        )
        await asyncio.sleep(0)
        ours = asyncio.create_task(add(ledger, "a"))

        async def ask() -> list[int]:
            adding = asyncio.create_task(add(ledger, "b"))
            await asyncio.sleep(0)
            asked.set()
            return await adding

        theirs = asyncio.create_task(asyncio.to_thread(asyncio.run, ask()))
        await asyncio.to_thread(asked.wait, 20)
        go.set()
        async with asyncio.timeout(60):
            await asyncio.gather(holding, ours, theirs)
        assert len(await ledger.find(Query())) == 2


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"])
def test_network_file_systems_are_refused(tmp_path: Path, kind: str) -> None:
    mounts = tmp_path / "mounts"
    share = tmp_path / os.fsdecode("Größe 1\\2 \v\r\x85".encode() + b"\xff")
    share.mkdir()
    escaped = os.fsencode(share).replace(b"\\", b"\\134").replace(b" ", b"\\040")
    mounts.write_bytes(b"/dev/vda / ext4 rw 0 0\nserver:/x %s %s rw 0 0\n" % (escaped, kind.encode()))
    with pytest.raises(LedgerError, match=f"network file system .{kind}.") as caught:
        connect(share / "crossdock.db", mounts=mounts)
    assert "PostgreSQL" in str(caught.value)
    assert list(share.iterdir()) == []
    connect(tmp_path / "crossdock.db", mounts=mounts).close()


def test_the_deepest_and_latest_mount_counts(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("a / ext4 rw 0 0\nb /srv nfs rw 0 0\nc /srv/local xfs rw 0 0\nd /srv ext4 rw 0 0\n")
    assert file_system(Path("/srv/local/x.db"), mounts) == "xfs"
    assert file_system(Path("/srv/x.db"), mounts) == "ext4"
    assert file_system(Path("/srvx/x.db"), mounts) == "ext4"
    assert file_system(Path("/x"), tmp_path / "none") == ""


def damaged(path: Path) -> Iterator[tuple[str, bytes]]:
    whole = path.read_bytes()
    yield "empty", b""
    yield "cut to less than a head", whole[:10]
    yield "text", b"flow;state\n" * 100
    yield "zeros", bytes(len(whole))


async def test_what_is_no_ledger_is_refused_and_left_alone(path: Path) -> None:
    async with SqliteLedger(path) as ledger:
        await add(ledger)
    for name, content in damaged(path):
        path.write_bytes(content)
        with pytest.raises(LedgerError) as caught:
            await SqliteLedger(path).open()
        assert not caught.value.retryable, name
        assert str(path) in str(caught.value)
        assert "backup" in str(caught.value.hint), name
        assert path.read_bytes() == content, name


@pytest.mark.parametrize("own_process", [False, True])
async def test_a_damaged_ledger_stops_everything(path: Path, own_process: bool) -> None:
    """Refused when it is met; nothing is read or written after that, not even what is sound, and nothing made anew."""
    async with SqliteLedger(path) as ledger:
        await add(ledger, *(f"f{number}" for number in range(500)))
    connection = sqlite3.connect(path)
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema WHERE tbl_name = 'transfers'"))
    connection.close()
    content = bytearray(path.read_bytes())
    for page in roots.values():
        content[(page - 1) * size : page * size] = b"\xa5" * size
    path.write_bytes(content)
    async with SqliteLedger(path, own_process=own_process) as ledger:
        assert await ledger.marks("f", "kind") == []
        with pytest.raises(LedgerError, match="damaged") as caught:
            await ledger.find(Query())
        assert not caught.value.retryable
        with pytest.raises(LedgerError, match="damaged"):
            await ledger.mark("f", "kind", "key")
    assert path.read_bytes() == content


async def test_another_programs_database_is_refused(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE transfers (id INTEGER)")
    connection.close()
    with pytest.raises(LedgerError, match="another program's"):
        await SqliteLedger(path).open()


async def test_a_newer_schema_is_refused(path: Path) -> None:
    async with SqliteLedger(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO migrations VALUES (999, 0)")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match="version 999"):
        await SqliteLedger(path).open()


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
async def test_a_log_without_its_ledger_is_refused(path: Path, suffix: str) -> None:
    path.with_name(path.name + suffix).write_bytes(b"x" * 100)
    with pytest.raises(LedgerError, match="not the ledger it belongs to"):
        await SqliteLedger(path).open()
    assert not path.exists()


async def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match="No such file"):
        await SqliteLedger(tmp_path / "none" / "crossdock.db").open()


async def test_a_lock_is_waited_for(path: Path) -> None:
    async with SqliteLedger(path) as ledger:
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN EXCLUSIVE")
        adding = asyncio.create_task(add(ledger))
        await asyncio.to_thread(other.execute, "ROLLBACK")
        assert len(await adding) == 1
        other.close()


async def test_a_lock_that_stays_is_told(path: Path, impatient: None) -> None:
    async with SqliteLedger(path) as ledger:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerUnavailable, match="locked"):
            await add(ledger)
        other.execute("ROLLBACK")
        other.close()
        assert len(await add(ledger)) == 1


async def test_who_asked_has_ended_with_his_loop(path: Path) -> None:
    """What he asked is done, nobody hears of it, and the others go on."""

    def ask() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(add(ledger, "a"))
        loop.run_until_complete(asyncio.sleep(0))
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()

    async with SqliteLedger(path) as ledger:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        await asyncio.to_thread(ask)
        other.execute("ROLLBACK")
        other.close()
        assert len(await add(ledger, "b")) == 1
        assert [each.entry.path for each in await ledger.find(Query())] == ["b", "a"]


async def test_what_nobody_waits_for_is_not_read_to_its_end(path: Path) -> None:
    """Ctrl-C during a search of a large ledger waited for all of it."""
    begun, steps = asyncio.Event(), 0
    loop = asyncio.get_running_loop()

    def step() -> int:
        nonlocal steps
        if steps == 0:
            loop.call_soon_threadsafe(begun.set)
        steps += 1
        return 1

    def count(connection: sqlite3.Connection, to: int) -> Any:
        numbers = f"WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT {to})"
        return connection.execute(f"{numbers} SELECT sum(step()) FROM n").fetchone()[0]

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.create_function("step", 0, step)
        return connection

    writer = ThreadWriter(connect, "test")
    await writer.start()
    reading = asyncio.create_task(writer.ask(Operation(count, 10_000_000, writes=False)))
    await begun.wait()
    reading.cancel()
    await asyncio.wait([reading])
    assert await writer.ask(Operation(count, 500_000, writes=True)) == 500_000
    await writer.stop()
    await writer.stop()
    with pytest.raises(sqlite3.ProgrammingError, match="the ledger is closed"):
        await writer.ask(Operation(count, 1, writes=False))
    assert steps < 10_000_000
