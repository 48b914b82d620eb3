"""PostgreSQL: a server that is not there, goes away, falls silent, or wants another password."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from crossdock.config.ledgers import new_ledger
from crossdock.errors import LedgerError, LedgerUnavailable
from crossdock.ledger.base import Query
from crossdock.ledger.postgres import PostgresLedger
from crossdock.testing.ledger.base import add, planned
from tests.servers import Postgres
from tests.servers.ftp import write_certificate
from tests.servers.server import LOOPBACK, closed_ports


async def test_no_server(schema: str) -> None:
    with closed_ports(1) as (port,), pytest.raises(LedgerUnavailable, match="open") as caught:
        await PostgresLedger(f"postgresql://tester:hunter2@{LOOPBACK}:{port}/x").open()
    assert caught.value.hint
    assert "hunter2" not in str(caught.value)


async def test_a_database_that_is_not_there(postgres: Postgres) -> None:
    with pytest.raises(LedgerError, match='database "ledgr" does not exist') as caught:
        await PostgresLedger(postgres.dsn.rpartition("/")[0] + "/ledgr").open()
    assert str(caught.value.hint).startswith("have the database made")


async def test_a_host_that_cannot_be_is_told() -> None:
    with pytest.raises(LedgerError, match=r"no host has such a name") as caught:
        await PostgresLedger("postgresql://tester@a..b/x").open()
    assert caught.value.hint


async def test_an_address_that_says_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    lost = tmp_path / "lost.pem"
    mistakes = {
        f"verify-full&sslrootcert={lost}": f"sslrootcert: {lost} is not there",
        "yes": "one of: disable",
        "verify-full": f"{tmp_path}/.postgresql/root.crt",
    }
    for more, told in mistakes.items():
        with pytest.raises(LedgerError, match=told) as caught:
            await PostgresLedger(f"postgresql://tester@127.0.0.1/x?sslmode={more}").open()
        assert not isinstance(caught.value, LedgerUnavailable)
        assert caught.value.hint
        assert "\n" not in str(caught.value)


async def test_a_certificate_that_nobody_known_has_signed(tmp_path: Path) -> None:
    """All that is asked of a server up to then is whether it speaks TLS."""
    certificate, known = tmp_path / "server.pem", tmp_path / "known.pem"
    write_certificate(certificate)
    write_certificate(known)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"S")
        with suppress(OSError):
            await writer.start_tls(context)
        writer.close()

    async with await asyncio.start_server(answer, LOOPBACK, 0) as server:
        port = server.sockets[0].getsockname()[1]
        dsn = f"postgresql://tester@{LOOPBACK}:{port}/x?sslmode=verify-full&sslrootcert={known}"
        with pytest.raises(LedgerUnavailable, match=r"self.signed certificate.* sslrootcert"):
            await PostgresLedger(dsn).open()


async def test_the_server_that_may_be_written_to(postgres: Postgres, schema: str) -> None:
    """Of several: one is down, one stands by, and the third is what it was when the first failed."""
    standing_by = Postgres()
    with closed_ports(1) as (down,), standing_by:
        async with asyncio.timeout(60):
            raw = await asyncpg.connect(standing_by.dsn)
            await raw.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await raw.execute("SELECT pg_reload_conf()")
            await raw.close()
            while (raw := await asyncpg.connect(standing_by.dsn)) and not await _is_read_only(raw):
                await raw.close()
            await raw.close()
        hosts = ",".join(f"{LOOPBACK}:{port}" for port in (down, standing_by.port, postgres.port))
        ledger = f"postgresql://{postgres.user}@{hosts}/postgres?target_session_attrs=read-write"
        async with PostgresLedger(new_ledger(ledger)._dsn, schema=schema) as one:  # type: ignore[attr-defined]
            await add(one)
        async with PostgresLedger(postgres.dsn, schema=schema) as same:
            assert len(await same.find(Query())) == 1


async def _is_read_only(raw: Any) -> bool:
    return bool(await raw.fetchval("SHOW transaction_read_only") == "on")


async def test_a_server_that_gives_few_connections(postgres: Postgres, schema: str, raw: Any) -> None:
    """Fewer than a ledger would like to have: it goes on with those; without any it is away."""
    role = f"few_{schema}"
    await raw.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 2; GRANT CREATE ON DATABASE postgres TO {role}")
    dsn = postgres.dsn.replace(f"{postgres.user}@", f"{role}@")
    async with PostgresLedger(dsn, schema=schema) as ledger, PostgresLedger(dsn, schema=schema) as other:
        await asyncio.gather(*(add(one, f"f{number}") for number in range(20) for one in (ledger, other)))
        assert len(await ledger.find(Query())) == 20
    async with PostgresLedger(dsn, schema=schema) as ledger:
        await raw.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
        await ledger.find(Query())
        await raw.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role)
        with pytest.raises(LedgerUnavailable):
            while True:
                await asyncio.gather(*(ledger.find(Query()) for _ in range(20)))
    await raw.execute(f"DROP OWNED BY {role} CASCADE")
    await raw.execute(f"DROP ROLE {role}")


async def test_nobody_to_sign_in_as(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, say, that runs under a user id without a name."""
    monkeypatch.delenv("PGUSER", raising=False)

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nameless)
    with pytest.raises(LedgerError, match=r"has no name.*PGUSER"):
        await PostgresLedger("postgresql://127.0.0.1/ledger").open()


async def test_a_server_that_falls_silent_is_given_up_in_time(postgres: Postgres, schema: str) -> None:
    """Its machine, or the way to it, is gone without a word; also by those who wait for a connection of their own."""
    open_ = asyncio.Event()
    open_.set()
    relays: list[asyncio.Task[None]] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await open_.wait()
            writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(LOOPBACK, postgres.port)
        relays.extend(asyncio.create_task(pass_on(*ends)) for ends in ((reader, there[1]), (there[0], writer)))

    async with await asyncio.start_server(relay, LOOPBACK, 0) as server:
        port = server.sockets[0].getsockname()[1]
        dsn = f"postgresql://{postgres.user}@{LOOPBACK}:{port}/postgres"
        async with PostgresLedger(dsn, schema=schema, connections=1, timeout=2) as ledger:
            await add(ledger)
            open_.clear()
            async with asyncio.timeout(60):
                told = await asyncio.gather(*(add(ledger, f"f{n}") for n in range(5)), return_exceptions=True)
                assert [type(each) for each in told] == [LedgerUnavailable] * 5
                assert "no answer in time" in str(told[0])
                open_.set()
                await add(ledger, "g")
                assert len(await ledger.find(Query(name="g"))) == 1
        for each in relays:
            each.cancel()
        await asyncio.gather(*relays, return_exceptions=True)


async def test_a_session_that_is_ended_before_its_connection(postgres: Postgres, schema: str, raw: Any) -> None:
    """The server's last words come while nothing is asked of it; that it hung up is not known yet."""
    said, over, relays = asyncio.Event(), asyncio.Event(), list[asyncio.Task[None]]()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        last = b""
        while data := await reader.read(65536):
            last = data
            writer.write(data)
            if b"terminating connection" in data:
                said.set()
        if b"terminating connection" in last:
            await over.wait()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(LOOPBACK, postgres.port)
        relays.extend(asyncio.create_task(pass_on(*ends)) for ends in ((reader, there[1]), (there[0], writer)))

    async def ended(connection: Any) -> None:
        await raw.execute("SELECT pg_terminate_backend($1)", await connection.fetchval("SELECT pg_backend_pid()"))
        await said.wait()
        for _ in range(10):
            await asyncio.sleep(0)

    async with await asyncio.start_server(relay, LOOPBACK, 0) as server:
        port = server.sockets[0].getsockname()[1]
        dsn = f"postgresql://{postgres.user}@{LOOPBACK}:{port}/postgres"
        async with PostgresLedger(dsn, schema=schema, connections=1, timeout=5) as ledger:
            with pytest.raises(LedgerUnavailable):
                await ledger._run("add", ended)
            await add(ledger, "b")
            assert len(await ledger.find(Query())) == 1
        over.set()
        await asyncio.gather(*relays)


async def test_a_lost_connection_is_told_and_replaced(postgres: Postgres, schema: str, raw: Any) -> None:
    """The server ends the session in the middle of a transaction: nothing of it is kept, the next call works."""
    async with PostgresLedger(postgres.dsn, schema=schema, connections=1) as ledger:
        await add(ledger)
        await raw.execute(f"BEGIN; LOCK TABLE {schema}.transfers IN EXCLUSIVE MODE")
        adding = asyncio.create_task(ledger.add([planned("b")], who="poll"))
        waiting = f"SELECT pid FROM pg_locks WHERE NOT granted AND relation = '{schema}.transfers'::regclass"
        while (pid := await raw.fetchval(waiting)) is None:
            await asyncio.sleep(0)
        await raw.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(LedgerUnavailable, match=r"terminat|broke"):
            await adding
        await raw.execute("ROLLBACK")
        assert [each.entry.path for each in await ledger.find(Query())] == ["outbox/a.csv"]
        (again,) = await ledger.add([planned("b")], who="poll")
        assert again.new


async def test_who_stands_still_in_a_transaction_holds_up_no_other(
    postgres: Postgres, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a host that is paused, or has lost its power: the server would keep its locks for as long as it stands."""
    monkeypatch.setattr("crossdock.ledger.postgres._STANDING_STILL", 1.0)
    async with (
        PostgresLedger(postgres.dsn, schema=schema) as one,
        PostgresLedger(postgres.dsn, schema=schema, timeout=20) as other,
    ):
        still, awake = asyncio.Event(), asyncio.Event()

        async def stand(connection: Any) -> None:
            await connection.execute("SELECT pg_advisory_xact_lock(3600042, hashtext($1))", schema)
            still.set()
            await awake.wait()
            await connection.execute("SELECT 1")

        standing = asyncio.create_task(one._run("add", stand))
        await still.wait()
        try:
            await add(other)
        finally:
            awake.set()
        with pytest.raises(LedgerUnavailable):
            await standing
        assert [each.entry.path for each in await one.find(Query())] == ["outbox/a.csv"]


async def test_a_password_that_is_changed(postgres: Postgres, schema: str, raw: Any) -> None:
    """Connections that are there go on; new ones read it anew, and until it is right the ledger only is away."""
    access, role = postgres.base / "data/pg_hba.conf", f"r{schema}"
    before, written = access.read_text(), ["one"]
    await raw.execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'one'")
    access.write_text(f"host all {role} {LOOPBACK}/32 scram-sha-256\n{before}")
    await raw.execute("SELECT pg_reload_conf()")
    dsn = postgres.dsn.replace(f"{postgres.user}@", f"{role}@")
    try:
        while await raw.fetchval("SELECT count(*) FROM pg_hba_file_rules WHERE $1 = ANY (user_name)", role) == 0:
            await asyncio.sleep(0)
        async with PostgresLedger(dsn, password=lambda: written[-1], schema=schema) as ledger:
            await add(ledger, "a")
            await raw.execute(f"ALTER ROLE {role} PASSWORD 'two'")
            await add(ledger, "b")
            await raw.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role)
            with pytest.raises(LedgerUnavailable):
                await _until_cut_off(ledger)
            with pytest.raises(LedgerUnavailable, match=r"password authentication failed.*may sign in"):
                await ledger.counts()
            written.append("two")
            assert len(await ledger.find(Query())) == 2
    finally:
        access.write_text(before)
        await raw.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        await raw.execute("SELECT pg_reload_conf()")
        await raw.execute(f"DROP ROLE {role}")


async def _until_cut_off(ledger: PostgresLedger) -> None:
    while True:
        await ledger.counts()


async def test_a_home_that_may_not_be_looked_into(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's, as in a container: asyncpg looks for a key there. Raised by hand: root may look everywhere."""

    async def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/home/ops/.postgresql/postgresql.key")

    monkeypatch.setattr(asyncpg.connect_utils, "_connect", refused)
    with pytest.raises(LedgerUnavailable, match=r"'/home/ops/\.postgresql/postgresql\.key'\. Next: .* set HOME"):
        await PostgresLedger(postgres.dsn).open()


async def test_many_are_asked_for_without_waiting_in_between(postgres: Postgres, schema: str) -> None:
    """However far away the server is: what is asked for after an answer came is counted."""
    turns, answered = 0, False

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool) -> None:
        nonlocal turns, answered
        with closing(writer), suppress(OSError):
            while data := await reader.read(65536):
                turns += answered and not back
                answered = back
                writer.write(data)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(LOOPBACK, postgres.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(passed(reader, server_writer, back=False))
            group.create_task(passed(server_reader, writer, back=True))

    async with await asyncio.start_server(relay, LOOPBACK, 0) as server:
        port = server.sockets[0].getsockname()[1]
        dsn = postgres.dsn.replace(f":{postgres.port}/", f":{port}/")
        async with PostgresLedger(dsn, schema=schema) as ledger:
            names = [f"{number}" for number in range(400)]
            for action in (
                lambda: ledger.see("f", "s", [planned(name).entry for name in names]),
                lambda: ledger.add([planned(name) for name in names], who="poll"),
                lambda: ledger.add([planned(name) for name in names], who="poll"),
                lambda: ledger.cancel(range(1, 401), who="me", why="not wanted"),
            ):
                before = turns
                assert len(await action()) == 400
                assert turns - before < 40
