"""PostgreSQL: several hosts, and a pool in transaction mode between."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from crossdock.errors import LedgerError, LedgerUnavailable
from crossdock.ledger.base import Query, State
from crossdock.ledger.postgres import PostgresLedger
from crossdock.ledger.queries import migrations
from crossdock.storage.base import Entry
from crossdock.testing.ledger.base import RECEIPT, add, claim_one, entry, got, planned, unknown
from tests.servers import Postgres
from tests.servers.server import LOOPBACK


async def test_the_server_runs_as_nobody_special(postgres: Postgres, raw: Any) -> None:
    assert postgres.version.startswith("PostgreSQL ")
    assert await raw.fetchval("SHOW listen_addresses") == LOOPBACK
    assert (postgres.base / "data").stat().st_uid == postgres.uid != 0


async def test_many_open_a_new_ledger_at_once(postgres: Postgres, schema: str) -> None:
    ledgers = [PostgresLedger(postgres.dsn, schema=schema, connections=1) for _ in range(6)]
    await asyncio.gather(*(ledger.open() for ledger in ledgers))
    await asyncio.gather(*(add(ledger, f"f{number}") for number, ledger in enumerate(ledgers)))
    assert len(await ledgers[0].find(Query())) == 6
    await asyncio.gather(*(ledger.close() for ledger in ledgers))


async def test_two_schemas_are_two_ledgers(postgres: Postgres, schema: str) -> None:
    async with PostgresLedger(postgres.dsn, schema=schema) as one:
        await add(one)
        async with PostgresLedger(postgres.dsn, schema=f"{schema}b") as two:
            assert await two.find(Query()) == []


@pytest.mark.parametrize("name", ["", "Upper", "a-b", "a;drop", "x" * 64, "1a", 'a"b'])
def test_odd_schemas_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="schema"):
        PostgresLedger("postgresql://x", schema=name)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_of_another_encoding(postgres: Postgres, raw: Any, encoding: str) -> None:
    name = f"of_{encoding.lower()}_{secrets.token_hex(4)}"
    await raw.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    ledger = PostgresLedger(postgres.dsn.removesuffix("postgres") + name)
    if encoding == "LATIN1":
        with pytest.raises(LedgerError, match="LATIN1, cannot hold every file's name") as caught:
            await ledger.open()
        assert "UTF8" in str(caught.value)
    else:
        async with ledger:
            await add(ledger, "\N{THUMBS UP SIGN}")
            assert (await claim_one(ledger)).transfer.entry.path == "\N{THUMBS UP SIGN}"
    await raw.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_newer_schema_is_refused(postgres: Postgres, schema: str, raw: Any) -> None:
    async with PostgresLedger(postgres.dsn, schema=schema):
        pass
    await raw.execute(f"INSERT INTO {schema}.migrations VALUES (999, now())")
    with pytest.raises(LedgerError, match="version 999"):
        await PostgresLedger(postgres.dsn, schema=schema).open()


async def test_an_older_ledger_is_brought_up_to_date(postgres: Postgres, schema: str, raw: Any) -> None:
    """By all who open it at once; with what it held, and all that is new works."""
    await raw.execute(f"CREATE SCHEMA {schema}; SET search_path TO {schema}")
    await raw.execute("CREATE TABLE migrations (version INTEGER PRIMARY KEY, at TIMESTAMPTZ NOT NULL)")
    await raw.execute(migrations("postgres")[1])
    await raw.execute("INSERT INTO migrations VALUES (1, now())")
    await raw.execute(
        "INSERT INTO transfers (flow, source, path, fingerprint, target, target_path, name, state, ready_at, "
        "receipt, why, changed_by, changed_at, added_at, seen_at) VALUES "
        "('statements', 'bank', 'waits', 'f1', 'lake', 'in/waits', 'waits', 'pending', 1, NULL, '', 'poll', 1, 1, 1), "
        "('statements', 'bank', 'done', 'f2', 'lake', 'in/done', 'done', 'done', NULL, '{}', '', 'w1', 1, 1, 1)"
    )
    ledgers = [PostgresLedger(postgres.dsn, schema=schema, connections=1) for _ in range(4)]
    await asyncio.gather(*(ledger.open() for ledger in ledgers))
    assert len({ledger.id for ledger in ledgers}) == 1
    found = await ledgers[0].find(Query())
    assert [(each.entry.path, each.state, each.gone) for each in found] == [
        ("done", State.DONE, False),
        ("waits", State.PENDING, False),
    ]
    lease = await claim_one(ledgers[1])
    await ledgers[1].delivered(lease, RECEIPT)
    await ledgers[1].done(lease, gone=True)
    assert [each.gone for each in await ledgers[2].find(Query())] == [False, True]
    assert await ledgers[3].mark("statements", "tick", "06:00")
    assert await raw.fetchval("SELECT max(version) FROM migrations") == max(migrations("postgres"))
    await asyncio.gather(*(ledger.close() for ledger in ledgers))


async def test_a_long_step_of_the_schema_is_waited_for(
    postgres: Postgres, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large ledger could never be brought up to date else."""
    longer = {**migrations("postgres"), 1000: "SELECT pg_sleep(3)"}
    monkeypatch.setattr("crossdock.ledger.postgres.migrations", lambda dialect: longer)
    async with PostgresLedger(postgres.dsn, schema=schema, timeout=2) as ledger:
        await add(ledger)


async def test_siblings_of_many_hosts_end_at_once(postgres: Postgres, schema: str, raw: Any) -> None:
    """Whoever ends first waits for the file's rows, in their order: no deadlock that the server must break."""
    async with PostgresLedger(postgres.dsn, schema=schema) as ledger:
        ids = [(await add(ledger, target=target))[0] for target in "abc"]
        leases = await ledger.claim("w1", limit=3)
        await asyncio.gather(*(ledger.delivered(lease, RECEIPT) for lease in leases))
        # Held by another session until both of the others wait.
        await raw.execute(f"BEGIN; SELECT id FROM {schema}.transfers WHERE id = {ids[0]} FOR UPDATE")
        ending = [asyncio.create_task(ledger.done(lease, gone=True)) for lease in (leases[2], leases[1])]
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR UPDATE OF o%'"
        )
        while await raw.fetchval(waiting) < 2:
            # What a transaction has seen of the others it sees again, unless it asks for more.
            await raw.execute("SELECT pg_stat_clear_snapshot()")
        await raw.execute("ROLLBACK")
        await asyncio.gather(*ending)
        assert [(await got(ledger, id)).state for id in ids] == [State.DELIVERED, State.DONE, State.DONE]
        assert [(await got(ledger, id)).gone for id in ids] == [True, True, True]


@pytest.mark.parametrize("how", ["cancelled", "done", "delivered"])
async def test_what_ends_in_the_moment_in_which_a_later_file_is_delivered(
    postgres: Postgres, schema: str, raw: Any, how: str
) -> None:
    """By another host, whose transaction is open still: put back, the earlier file is new all the same."""
    async with PostgresLedger(postgres.dsn, schema=schema) as ledger:
        await add(ledger)
        lease = await claim_one(ledger)
        if how == "done":
            await ledger.delivered(lease, RECEIPT)
        await ledger.add([planned(entry=entry(size=6), target="staging")], who="poll")
        later = await claim_one(ledger)
        change = {
            "cancelled": "ready_at = ready_at + 1",
            "done": "state = 'done', owner = NULL, ready_at = NULL",
            "delivered": "state = 'delivered', receipt = '{}'",
        }[how]
        await raw.execute(f"SET search_path TO {schema}")
        await raw.execute(f"BEGIN; UPDATE transfers SET {change} WHERE id = {lease.id}")
        delivering = asyncio.create_task(ledger.delivered(later, RECEIPT, owed=False))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%nothing owed%'"
        while not delivering.done() and not await raw.fetchval(waiting):
            await raw.execute("SELECT pg_stat_clear_snapshot()")
            await asyncio.sleep(0)
        await raw.execute("COMMIT")
        await delivering
        if how == "cancelled":
            await ledger.cancel([lease.id], who="me", why="no")
        assert (await got(ledger, lease.id)).state == how
        assert await unknown(ledger, [entry(), entry(size=6)]) == [entry().path]


async def test_several_files_of_one_name_are_delivered_at_once(postgres: Postgres, schema: str, raw: Any) -> None:
    """Whoever marks the earlier ones locks them from the latest on: no deadlock that the server must break."""
    async with PostgresLedger(postgres.dsn, schema=schema) as ledger:
        for size in range(6):
            await ledger.add([planned(entry=entry(size=size), target=f"t{size}")], who="poll")
        leases = await ledger.claim("w1", limit=9)
        before = await raw.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        # Held by another session until all wait.
        await raw.execute(f"BEGIN; SELECT id FROM {schema}.transfers WHERE id = {leases[0].id} FOR UPDATE")
        ending = [asyncio.create_task(ledger.delivered(lease, RECEIPT)) for lease in leases[1:]]
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%delivered%'"
        while await raw.fetchval(waiting) < len(ending):
            await raw.execute("SELECT pg_stat_clear_snapshot()")
            await asyncio.sleep(0)
        await raw.execute("ROLLBACK")
        await asyncio.gather(*ending)
        assert len(await unknown(ledger, [each.transfer.entry for each in leases])) == 4
        await raw.execute("SELECT pg_stat_clear_snapshot()")
        assert before == await raw.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")


async def test_two_change_the_same_transfers_by_hand(postgres: Postgres, schema: str) -> None:
    """Whatever order they name them in: no deadlock."""
    async with PostgresLedger(postgres.dsn, schema=schema) as ledger:
        ids = await add(ledger, *(f"f{number}" for number in range(60)))
        changed = await asyncio.gather(
            *(ledger.requeue(each, who="me", why="now") for _ in range(10) for each in (ids, ids[::-1]))
        )
        assert changed == [ids] * 20


async def test_two_look_at_one_source(postgres: Postgres, schema: str) -> None:
    """One notes what is listed while another forgets what it took on, which goes by age: no deadlock."""
    entries = [entry(f"f{number:02}") for number in range(60)]
    paths = [one.path for one in entries]
    async with PostgresLedger(postgres.dsn, schema=schema) as ledger:

        async def look(listed: Sequence[Entry]) -> None:
            assert [each.path for each in await ledger.see("f", "bank", listed)] == [one.path for one in listed]

        await asyncio.gather(
            *(
                work
                for _ in range(10)
                for work in (look(entries), ledger.forget("f", "bank", paths[::-1]), look(entries[::-1]))
            )
        )


async def test_a_deadlock_is_tried_again(postgres: Postgres, schema: str, raw: Any) -> None:
    """It is no outage: the server ended one of two, and the other goes on."""
    async with PostgresLedger(postgres.dsn, schema=schema) as ledger:
        await raw.execute(f"""
            CREATE SEQUENCE {schema}.turns;
            CREATE FUNCTION {schema}.meet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF nextval('{schema}.turns') < 5 THEN
                    RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01';
                END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER meet BEFORE INSERT ON {schema}.sightings FOR EACH ROW EXECUTE FUNCTION {schema}.meet()""")
        assert [each.count for each in await ledger.see("f", "bank", [entry("a"), entry("b")])] == [1, 1]
        # For ever, it is told.
        await raw.execute(f"ALTER SEQUENCE {schema}.turns RESTART INCREMENT BY -1 MINVALUE -100 MAXVALUE 1")
        with pytest.raises(LedgerUnavailable, match="deadlock"):
            await ledger.see("f", "bank", [entry("c")])


async def test_what_is_asked_daily_has_an_index(postgres: Postgres, schema: str, raw: Any) -> None:
    """Which a table of a few rows is read without, unless it must not be."""
    async with PostgresLedger(postgres.dsn, schema=schema) as ledger:
        name = ledger.target_name
    await raw.execute(f"SET search_path TO {schema}; SET enable_seqscan TO off; SET enable_sort TO off")
    for condition, index in ((f"{name} = 'a'", "transfers_target_name"), ("added_at > 1", "transfers_added")):
        told = await raw.fetch(f"EXPLAIN SELECT count(*) FROM transfers WHERE {condition}")
        assert any(index in line[0] for line in told), told


async def test_the_rights_that_it_needs(postgres: Postgres, schema: str, raw: Any) -> None:
    """To make its tables, a schema of its own; once they are there, no more than their rows."""
    await raw.execute(f"CREATE ROLE {schema} LOGIN; CREATE SCHEMA {schema} AUTHORIZATION {schema}")
    dsn = postgres.dsn.replace(f"//{postgres.user}@", f"//{schema}@")
    async with PostgresLedger(dsn, schema=schema) as ledger:
        await add(ledger)
    other = f"{schema}b"
    async with PostgresLedger(postgres.dsn, schema=other) as ledger:
        await add(ledger)
    await raw.execute(
        f"GRANT USAGE ON SCHEMA {other} TO {schema}; "
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {other} TO {schema}"
    )
    async with PostgresLedger(dsn, schema=other) as ledger:
        await add(ledger, "b")
        lease = await claim_one(ledger)
        await ledger.delivered(lease, RECEIPT)
        await ledger.done(lease, gone=True)
        assert await ledger.mark("statements", "tick", "06:00")
        assert await ledger.prune() == 0


async def test_the_longest_paths(postgres: Postgres, schema: str) -> None:
    """As long as it says that they may be, both of them, and nothing in them that could be compressed."""
    async with PostgresLedger(postgres.dsn, schema=schema) as ledger:
        assert ledger.longest_path is not None
        path, to = (secrets.token_urlsafe(ledger.longest_path)[: ledger.longest_path] for _ in "ab")
        listed = entry(path, etag=secrets.token_hex(64), version=secrets.token_hex(64))
        (added,) = await ledger.add([planned(entry=listed, target_path=to, flow="f" * 60, source="s" * 60)], who="poll")
        lease = await claim_one(ledger)
        assert (lease.id, lease.transfer.entry.path, lease.transfer.target_path) == (added.id, path, to)
        assert (await ledger.see("statements", "bank", [listed]))[0].count == 1
        assert await ledger.mark("statements", "archive", f".done/{path}")


@pytest.mark.parametrize("told", ["etag", "version"])
async def test_what_an_endpoint_tells_at_length(postgres: Postgres, schema: str, told: str) -> None:
    """A store whose ETags no index takes must not keep all flows' files from being recorded."""
    longs: list[dict[str, Any]] = [{told: secrets.token_hex(5000)} for _ in "ab"]
    listed, other = (entry("a", 5, **long) for long in longs)
    async with PostgresLedger(postgres.dsn, schema=schema) as ledger:
        added = await ledger.add([planned(entry=listed), planned(entry=other)], who="poll")
        assert [each.new for each in added] == [True, True]
        assert (await got(ledger, added[0].id)).entry.fingerprint == listed.fingerprint != other.fingerprint


async def test_isolation_is_ours_not_the_databases(postgres: Postgres, schema: str, raw: Any) -> None:
    """Two that change one row wait for each other, where a stricter level would refuse the second."""
    await raw.execute("ALTER ROLE CURRENT_USER SET default_transaction_isolation = 'serializable'")
    try:
        others = [PostgresLedger(postgres.dsn, schema=schema, connections=1) for _ in range(6)]
        await asyncio.gather(*(other.open() for other in others))
        await asyncio.gather(*(other.close() for other in others))
        async with PostgresLedger(postgres.dsn, schema=schema) as ledger:
            await add(ledger)
            lease = await claim_one(ledger)
            await asyncio.gather(*(ledger.heartbeat(lease, 60 + number) for number in range(50)))
            assert (await got(ledger, lease.id)).state is State.RUNNING
    finally:
        await raw.execute("ALTER ROLE CURRENT_USER RESET default_transaction_isolation")


async def test_nothing_outlives_its_transaction(postgres: Postgres, schema: str) -> None:
    """So that PgBouncer may hand each transaction to another session."""
    async with PostgresLedger(postgres.dsn, schema=schema, connections=1) as ledger:
        await add(ledger, "a", "b")
        await ledger.delivered(await claim_one(ledger), RECEIPT)
        async with ledger._pool.acquire() as connection:
            assert await connection.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
            assert schema not in await connection.fetchval("SHOW search_path")
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            assert await connection.fetchval(held) == 0


async def test_invariants_hold_against_any_writer(postgres: Postgres, schema: str, raw: Any) -> None:
    async with PostgresLedger(postgres.dsn, schema=schema) as ledger:
        first, second = [each.id for each in await ledger.add([planned(), planned(flow="copies")], who="poll")]
        await claim_one(ledger)
    for change in (
        f"state = 'unheard of' WHERE id = {second}",
        f"state = 'running', owner = 'w9' WHERE id = {second}",
        f"state = 'running' WHERE id = {second}",
        f"ready_at = NULL WHERE id = {second}",
        f"state = 'done', ready_at = NULL WHERE id = {second}",
        f"state = 'failed', ready_at = NULL WHERE id = {second}",
        f"owner = NULL WHERE id = {first}",
        f"flow = 'copies' WHERE id = {first}",
        f"gone = 1 WHERE id = {second}",
        f"gone = 2, state = 'skipped', ready_at = NULL WHERE id = {second}",
    ):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await raw.execute(f"UPDATE {schema}.transfers SET {change}")


async def test_many_hosts_claim_and_finish(postgres: Postgres, schema: str) -> None:
    """No deadlock, no transfer twice, with claims of all and of some flows mixed."""
    ledgers = [PostgresLedger(postgres.dsn, schema=schema, connections=4) for _ in range(4)]
    await asyncio.gather(*(ledger.open() for ledger in ledgers))
    await add(ledgers[0], *(f"f{number}" for number in range(200)))
    await add(ledgers[0], *(f"g{number}" for number in range(200)), flow="copies")
    done: list[int] = []

    async def worker(number: int) -> None:
        ledger = ledgers[number % 4]
        while len(done) < 400:
            flows = [None, ["copies"], ["copies", "statements"]][number % 3]
            leases = await ledger.claim(f"w{number}", limit=9, flows=flows if len(done) < 200 else None)
            for lease in leases:
                await ledger.delivered(lease, RECEIPT, owed=False)
                done.append(lease.id)

    await asyncio.gather(*(worker(number) for number in range(12)))
    assert sorted(done) == sorted(set(done))
    counts = await ledgers[0].counts()
    assert counts == {("statements", State.DONE): 200, ("copies", State.DONE): 200}
    await asyncio.gather(*(ledger.close() for ledger in ledgers))
