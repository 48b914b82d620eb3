"""The file: where it may be, who may read it, which journal, and what is no ledger."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import LedgerError, LedgerUnavailable
from crossdock.ledger import sqlite_file
from crossdock.ledger.base import Query, State
from crossdock.ledger.queries import load, migrations
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.ledger.sqlite_file import connect, file_system, wal_is_safe
from crossdock.testing.ledger.base import RECEIPT, add, claim_one, entry, got, planned


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


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"])
def test_network_file_systems_are_refused(tmp_path: Path, kind: str) -> None:
    mounts = tmp_path / "mounts"
    share = tmp_path / "my share"
    share.mkdir()
    escaped = str(share).replace(" ", "\\040")
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {escaped} {kind} rw 0 0\n")
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


async def test_a_damaged_ledger_stops_everything(path: Path) -> None:
    """Refused when it is met; nothing is read or written after that, and nothing made anew."""
    async with SqliteLedger(path) as ledger:
        await add(ledger, *(f"f{number}" for number in range(500)))
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    content[2 * size :] = b"\xa5" * (len(content) - 2 * size)
    path.write_bytes(content)
    ledger = SqliteLedger(path)
    with pytest.raises(LedgerError, match="damaged"):
        await ledger.open()
        await ledger.claim("w1")
    with pytest.raises(LedgerError):
        await ledger.add([planned("new")], who="poll")
    await ledger.close()
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


async def test_invariants_hold_against_any_writer(path: Path) -> None:
    """The schema itself refuses what no state allows."""
    async with SqliteLedger(path) as ledger:
        first, second = [each.id for each in await ledger.add([planned(), planned(flow="copies")], who="poll")]
        await claim_one(ledger)
    connection = connect(path)
    for change in (
        f"state = 'unheard of' WHERE id = {second}",
        f"state = 'running', owner = 'w9' WHERE id = {second}",
        f"state = 'running' WHERE id = {second}",
        f"owner = 'w9' WHERE id = {second}",
        f"ready_at = NULL WHERE id = {second}",
        f"state = 'done', ready_at = NULL WHERE id = {second}",
        f"state = 'failed', ready_at = NULL WHERE id = {second}",
        f"state = 'cancelled' WHERE id = {second}",
        f"owner = NULL WHERE id = {first}",
        f"fence = -1 WHERE id = {first}",
        f"flow = 'copies' WHERE id = {first}",
        f"gone = 1 WHERE id = {first}",
        f"gone = 1 WHERE id = {second}",
        f"gone = 2, state = 'skipped', ready_at = NULL WHERE id = {second}",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(f"UPDATE transfers SET {change}")
    connection.close()


async def test_what_many_ask_at_once_is_committed_together(path: Path) -> None:
    commits = 0

    class Counting(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            nonlocal commits
            commits += sql == "COMMIT"
            return super().execute(sql, *args)

    async with SqliteLedger(path, factory=Counting) as ledger:
        await add(ledger, *(f"f{number}" for number in range(300)))
        leases = await ledger.claim("w1", limit=300)
        before = commits
        await asyncio.gather(*(ledger.delivered(lease, RECEIPT, owed=False) for lease in leases))
        assert commits - before < 20
        assert await ledger.counts() == {("statements", State.DONE): 300}


async def test_one_refusal_in_a_common_commit_spares_the_others(path: Path) -> None:
    async with SqliteLedger(path) as ledger:
        await add(ledger, "a", "b", "c")
        leases = await ledger.claim("w1", limit=3)
        await ledger.cancel([leases[1].id], who="me", why="no")
        answers = await asyncio.gather(
            *(ledger.delivered(lease, RECEIPT, owed=False) for lease in leases), return_exceptions=True
        )
        assert [type(answer).__name__ for answer in answers] == ["NoneType", "LeaseLost", "NoneType"]


async def test_a_batch_is_added_whole_or_not_at_all(path: Path) -> None:
    """A row that the database cannot take undoes its own batch, and nobody else's in the common commit."""
    impossible = planned("c", entry=entry("c", size=1 << 70))
    async with SqliteLedger(path) as ledger:
        answers = await asyncio.gather(
            add(ledger, "a"),
            ledger.add([planned("b"), impossible], who="poll"),
            add(ledger, "d"),
            return_exceptions=True,
        )
        assert isinstance(answers[1], OverflowError)
        assert [each.entry.path for each in await ledger.find(Query())] == ["d", "a"]


async def test_cancelled_waiting_harms_nobody(path: Path) -> None:
    async with SqliteLedger(path) as ledger:
        tasks = [asyncio.create_task(add(ledger, f"f{number}")) for number in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        kept = [answer[0] for answer in answers if isinstance(answer, list)]
        assert len(kept) == 25
        found = {each.id for each in await ledger.find(Query())}
        assert found.issuperset(kept)


OLD_ROWS = """
INSERT INTO transfers (flow, source, path, fingerprint, target, target_path, name, state, ready_at, receipt, error,
                       why, changed_by, changed_at, added_at, seen_at)
VALUES ('statements', 'bank', 'waits', 'f1', 'lake', 'in/w', 'w', 'pending', 1, NULL, NULL, '', 'poll', 1, 1, 1),
       ('statements', 'bank', 'done', 'f2', 'lake', 'in/d', 'd', 'done', NULL, '{}', NULL, '', 'w1', 1, 1, 1),
       ('statements', 'bank', 'failed', 'f3', 'lake', 'in/f', 'f', 'failed', NULL, NULL, 'no', '', 'w1', 1, 1, 1)
"""


@pytest.fixture
def old(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger of schema version 1 with three transfers."""
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_file, "migrations", lambda dialect: {1: migrations(dialect)[1]})
        connection = connect(path)
    connection.execute(OLD_ROWS)
    connection.close()
    return path


def columns(path: Path) -> tuple[int, set[str]]:
    connection = sqlite3.connect(path)
    try:
        version = connection.execute("SELECT max(version) FROM migrations").fetchone()[0]
        return version, {row[1] for row in connection.execute("PRAGMA table_info(transfers)")}
    finally:
        connection.close()


async def test_an_older_ledger_is_brought_up_to_date(old: Path) -> None:
    """By all who open it at once; with what it held, its history too, and all that is new works."""
    assert columns(old)[0] == 1
    ledgers = [SqliteLedger(old) for _ in range(4)]
    await asyncio.gather(*(ledger.open() for ledger in ledgers))
    assert len({ledger.id for ledger in ledgers}) == 1
    ledger = ledgers[0]
    found = await ledger.find(Query())
    assert [(each.entry.path, each.state, each.gone) for each in found] == [
        ("failed", State.FAILED, False),
        ("done", State.DONE, False),
        ("waits", State.PENDING, False),
    ]
    assert [len(await ledger.history(each.id)) for each in found] == [1, 1, 1]
    lease = await claim_one(ledger)
    await ledger.delivered(lease, RECEIPT)
    await ledger.done(lease, gone=True)
    assert (await got(ledger, lease.id)).gone
    assert await ledger.mark("statements", "tick", "06:00")
    await asyncio.gather(*(each.close() for each in ledgers))
    assert columns(old)[0] == max(migrations("sqlite"))


@pytest.mark.parametrize("word", ["CREATE TABLE ledger", "ALTER TABLE", "DROP INDEX", "CREATE TABLE marks"])
async def test_a_step_that_fails_leaves_the_older_ledger(old: Path, word: str) -> None:
    """All of a version or nothing of it; and the next to open it goes on."""

    class Full(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if word in sql:
                error = sqlite3.OperationalError("disk")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return super().execute(sql, *args)

    before = columns(old)
    with pytest.raises(LedgerUnavailable):
        await SqliteLedger(old, factory=Full).open()
    assert columns(old) == before
    async with SqliteLedger(old) as ledger:
        assert len(await ledger.find(Query())) == 3


async def test_each_ledger_has_an_id_of_its_own(path: Path) -> None:
    """Random, and not known before it is open."""
    found = set()
    for number in range(8):
        ledger = SqliteLedger(path.with_name(f"{number}.db"))
        assert ledger.id == ""
        async with ledger:
            found.add(ledger.id)
    assert len(found) == 8


async def test_claims_use_the_index(path: Path) -> None:
    """The cost of a claim does not grow with the ledger: no scan, no sorting of what is there."""
    async with SqliteLedger(path):
        pass
    queries = load("sqlite")
    for name, index in (("candidates", "transfers_ready"), ("candidates of flows", "transfers_ready_by_flow")):
        told = plan(path, f"{queries[name]} {queries['claim']}")
        assert any(f"INDEX {index} " in line for line in told), told
        assert not any(line.startswith("SCAN") and "transfers" in line for line in told), told


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("known", "transfers_identity"),
        ("known file", "transfers_identity"),
        ("seen", "transfers_identity"),
        ("siblings", "transfers_identity"),
        ("supersede", "transfers_identity"),
        ("done and gone", "PRIMARY KEY"),
        ("marks", "PRIMARY KEY"),
        ("due marks", "marks_due"),
        ("unmark", "PRIMARY KEY"),
    ],
)
async def test_looking_up_uses_the_index(path: Path, name: str, index: str) -> None:
    """No scan of the ledger for what concerns one file or one mark."""
    async with SqliteLedger(path):
        pass
    told = plan(path, load("sqlite")[name])
    assert any(index in line for line in told), told
    assert not any(line.startswith("SCAN") and ("transfers" in line or "marks" in line) for line in told), told


def plan(path: Path, sql: str) -> list[str]:
    connection = connect(path)
    try:
        params = dict.fromkeys(re.findall(r":(\w+)", sql), 1)
        return [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", params)]
    finally:
        connection.close()
