"""The schema: what it refuses, how an older one is brought up to date, and which index serves which query."""

from __future__ import annotations

import asyncio
import math
import re
import sqlite3
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import LedgerError, LedgerUnavailable
from crossdock.ledger import sqlite_file
from crossdock.ledger.base import Lease, Query, State, Transfer
from crossdock.ledger.queries import load, migrations
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.ledger.sqlite_file import connect
from crossdock.testing.ledger.base import RECEIPT, add, claim_one, got, planned


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "crossdock.db"


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
        last = [await ledger.history(lease.id) for lease in leases]
        assert [(len(events), events[-1].now) for events in last] == [
            (3, State.DONE),
            (3, State.CANCELLED),
            (3, "done"),
        ]


@pytest.mark.parametrize(
    ("delivered", "change"),
    [
        (False, lambda ledger, lease: ledger.staged(lease, b"\xff\x00" + str(lease.id).encode())),
        (False, lambda ledger, lease: ledger.staged(lease, None)),
        (False, lambda ledger, lease: ledger.delivered(lease, {**RECEIPT, "number": lease.id})),
        (False, lambda ledger, lease: ledger.delivered(lease, RECEIPT, owed=False)),
        (False, lambda ledger, lease: ledger.retry_in(lease, 30.5, f"broken {lease.id}")),
        (False, lambda ledger, lease: ledger.released(lease, "stopped", seconds=lease.id)),
        (False, lambda ledger, lease: ledger.failed(lease, f"no {lease.id}")),
        (False, lambda ledger, lease: ledger.skipped(lease, "there")),
        (True, lambda ledger, lease: ledger.done(lease, f"archived {lease.id}")),
        (True, lambda ledger, lease: ledger.done(lease, "deleted", gone=True)),
        (True, lambda ledger, lease: ledger.retry_in(lease, 1.0, "archive full")),
    ],
)
async def test_many_at_once_and_one_by_one_come_to_the_same(
    tmp_path: Path, delivered: bool, change: Callable[[SqliteLedger, Lease], Coroutine[Any, Any, None]]
) -> None:
    updates = 0

    class Counting(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            nonlocal updates
            updates += sql.startswith("UPDATE")
            return super().execute(sql, *args)

    found: list[list[Transfer]] = []
    for name in ("at once", "one by one"):
        async with SqliteLedger(tmp_path / name, factory=Counting, clock=lambda: 1.8e9) as ledger:
            await add(ledger, *(f"f{number}" for number in range(120)))
            leases = await ledger.claim("w1", limit=120)
            if delivered:
                await asyncio.gather(*(ledger.delivered(lease, RECEIPT) for lease in leases))
            updates = 0
            if name == "at once":
                await asyncio.gather(*(change(ledger, lease) for lease in leases))
                assert updates == 3
            else:
                for lease in leases:
                    await change(ledger, lease)
            found.append(await ledger.find(Query(limit=200)))
    assert len(found[0]) == 120
    assert found[0] == found[1]


async def test_a_batch_is_added_whole_or_not_at_all(path: Path) -> None:
    """A row that the database cannot take undoes its own batch, and nobody else's in the common commit."""
    impossible = planned("c", delay=math.nan)
    async with SqliteLedger(path) as ledger:
        answers = await asyncio.gather(
            add(ledger, "a"),
            ledger.add([planned("b"), impossible], who="poll"),
            add(ledger, "d"),
            return_exceptions=True,
        )
        assert isinstance(answers[1], LedgerError)
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


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (Query(name="a"), "INDEX transfers_name"),
        (Query(target_name="a"), "INDEX transfers_target_name"),
        (Query(flow="f", target_name="a"), "INDEX transfers_target_name"),
        (Query(added_after=datetime.now(UTC)), "COVERING INDEX transfers_added"),
        (Query(flow="f", added_after=datetime.now(UTC)), "COVERING INDEX transfers_added"),
        (Query(states=frozenset({State.FAILED})), "INDEX transfers_state"),
    ],
)
async def test_what_is_asked_daily_uses_the_index(
    path: Path, monkeypatch: pytest.MonkeyPatch, query: Query, index: str
) -> None:
    """Where is a file, what came today, what failed: none of it reads all of the ledger."""
    told = plan(path, await asked(path, monkeypatch, query))
    assert any(index in line for line in told), told
    assert not any(line.startswith("SCAN") for line in told), told


@pytest.mark.parametrize(
    "query",
    [
        Query(states=frozenset({State.DONE})),
        Query(states=frozenset({State.DONE, State.FAILED})),
        Query(target="lake", states=frozenset({State.DONE})),
        Query(flow="f", states=frozenset({State.DONE})),
    ],
)
async def test_a_page_of_what_is_done_sorts_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, query: Query) -> None:
    """Nearly all of a ledger is: read by their index and sorted for each page, its time grew with the square."""
    told = plan(path, await asked(path, monkeypatch, query))
    assert not any("ORDER BY" in line for line in told), told


async def test_what_follows_a_change_reads_one_file_alone(path: Path) -> None:
    """A trigger that read all that is pending took twelve milliseconds a file beside 50,000 that wait."""
    async with SqliteLedger(path):
        pass
    connection = connect(path)
    triggers = [row["sql"] for row in connection.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger'")]
    connection.close()
    updates = [
        re.sub(r"\bNEW\.", ":", sql)
        for one in triggers
        for sql in re.findall(r"UPDATE transfers\s+SET.*?;", one, re.DOTALL)
    ]
    assert len(updates) == 6
    for sql in updates:
        reads = [line for line in plan(path, sql) if "SEARCH" in line or "SCAN" in line]
        one = ("(flow=? AND source=? AND path=?", "(rowid=?)")
        assert [line for line in reads if not any(each in line for each in one)] == []


async def asked(path: Path, monkeypatch: pytest.MonkeyPatch, query: Query) -> str:
    """The statement that a query becomes."""
    found: list[str] = []
    select = SqliteLedger._select

    async def selected(self: SqliteLedger, conditions: Sequence[str], params: Mapping[str, Any]) -> list[Any]:
        found.append(f"SELECT * FROM transfers WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT :limit")
        return await select(self, conditions, params)

    monkeypatch.setattr(SqliteLedger, "_select", selected)
    async with SqliteLedger(path) as ledger:
        await ledger.find(query)
    return found[0]


def plan(path: Path, sql: str) -> list[str]:
    connection = connect(path)
    try:
        params = dict.fromkeys(re.findall(r":(\w+)", sql), 1)
        return [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", params)]
    finally:
        connection.close()
