"""The ledger in PostgreSQL (12 or later): for several hosts that work together. Needs the extra `postgres`.

Time is the database's (`ledger_now()`). Nothing outlives a transaction on its connection, so that a pool in transaction
mode (PgBouncer) may stand between: no prepared statements, no LISTEN, no session locks.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import asyncpg

from crossdock.errors import LedgerError, LedgerUnavailable, SecretUnavailable
from crossdock.ledger.base import MAX_RESCUES, Added
from crossdock.ledger.queries import load, migrations
from crossdock.ledger.relational import Params, SqlLedger
from crossdock.ledger.rows import Row

__all__ = ["PostgresLedger"]

T = TypeVar("T")
_QUERIES = load("postgres")
_ADD = f"""WITH new AS ({_QUERIES["add"]})
SELECT id, TRUE AS new FROM new
UNION ALL SELECT id, FALSE FROM ({_QUERIES["known"]}) AS known WHERE NOT EXISTS (SELECT 1 FROM new)"""
_PARAMETER = re.compile(r"(?<![:\w]):([a-z]\w*)")
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_CONNECTING = 15.0
"""Seconds for a new connection."""
_MIGRATING = 86400.0
"""Seconds for one step of the schema: an index over many millions of rows is made anew."""
_STANDING_STILL = 20.0
"""Seconds without a word in a transaction, after which the server ends it. Of a host that has lost its power, or stands
still, others would wait for what it has locked: for hours, until the server finds its connection dead."""
_BATCH = 500
"""Statements sent without waiting for answers in between."""
_TRIES = 5
"""Of a claim that met another one at the same place, and of what the server ended as a deadlock."""
_CUT_OFF = (asyncpg.ConnectionDoesNotExistError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_PASSING = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # of a connection that was cut off between two messages
    OSError,
    TimeoutError,
)


class PostgresLedger(SqlLedger):
    """A ledger in a schema of the database at `dsn` (postgresql://user@host/database, libpq's environment respected).

    `password` is asked for each connection. `connections`: at most so many, made when they are needed. `timeout`:
    seconds for one statement.
    """

    # An index takes 2,704 bytes: two paths, names, and what the file was listed as.
    longest_path = 1100
    target_name = "substring(target_path FROM '[^/]*$')"

    def __init__(
        self,
        dsn: str,
        *,
        password: Callable[[], str] | None = None,
        schema: str = "crossdock",
        connections: int = 8,
        timeout: float = 60.0,
        max_rescues: int = MAX_RESCUES,
    ) -> None:
        if not _SCHEMA.fullmatch(schema):
            raise ValueError(f"schema {schema!r}: small letters, digits and _ only")
        address = urlsplit(dsn)
        hosts = (re.sub(r":(?:5432)?$", "", host).lower() for host in address.netloc.rpartition("@")[2].split(","))
        self.where = f"postgresql://{','.join(hosts)}{address.path}#{schema}"
        self.max_rescues = max_rescues
        self._dsn, self._password, self._schema = dsn, password, schema
        self._connections, self._timeout = connections, timeout
        self._pool: Any = None
        self._free = asyncio.Semaphore(connections)

    async def open(self, *, tables: bool = True) -> None:
        """Without `tables` none are made or looked at: whether the server lets us in is all that is asked."""
        if self._pool is not None:
            return
        for name, value in parse_qsl(urlsplit(self._dsn).query):
            # The driver would tell neither.
            if name in _FILES and not os.access(value, os.R_OK):
                reason = f"{name}: {value} is not there, or may not be read"
                raise LedgerError(f"open ledger {self.where}: {reason}", hint="see the path, and whose the file is")
        async with self._reported("open"):
            pool = await asyncpg.create_pool(
                self._dsn,
                password=None if self._password is None else partial(asyncio.to_thread, self._password),
                # With a minimum the pool would keep it up by itself, and print tracebacks while the server is away.
                min_size=0,
                max_size=self._connections,
                timeout=min(_CONNECTING, self._timeout),
                command_timeout=self._timeout,
                statement_cache_size=0,
                max_inactive_connection_lifetime=300,
            )
            try:
                async with pool.acquire() as connection:
                    if tables:
                        self.id = await self._migrate(connection)
            except KeyError as error:  # from getpass.getuser(); an OSError since Python 3.13
                await pool.close()
                reason = "it names no user, and the account that this process runs as has no name"
                hint = "write postgresql://USER@HOST/DATABASE, or set PGUSER"
                raise LedgerError(f"open ledger {self.where}: {reason}", hint=hint) from error
            except UnicodeError as error:
                await pool.close()
                hint = "write postgresql://USER@HOST/DATABASE"
                raise LedgerError(f"open ledger {self.where}: no host has such a name: {error}", hint=hint) from error
            except BaseException:
                await pool.close()
                raise
        self._pool = pool

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def _migrate(self, connection: Any) -> str:
        """Bring the schema up to date, and tell the ledger's id."""
        scripts = migrations("postgres")
        encoding = await connection.fetchval("SHOW server_encoding")
        if encoding not in ("UTF8", "SQL_ASCII"):
            # The first name of a file with a letter that it lacks would end every flow.
            raise LedgerError(
                f"open ledger {self.where}: the database's encoding, {encoding}, cannot hold every file's name",
                hint="create it with ENCODING 'UTF8' TEMPLATE template0",
            )
        async with connection.transaction(isolation="read_committed"):
            await connection.execute(_patience())
            # Two that open a new ledger at once take turns; the number is arbitrary.
            await connection.execute("SELECT pg_advisory_xact_lock(3600041)")
            # Asked first: IF NOT EXISTS wants the right to make what is there already.
            if await connection.fetchval("SELECT to_regnamespace($1)", self._schema) is None:
                await connection.execute(f"CREATE SCHEMA {self._schema}")
            await connection.execute(f"SET LOCAL search_path TO {self._schema}")
            if await connection.fetchval("SELECT to_regclass($1)", f"{self._schema}.migrations") is None:
                await connection.execute(
                    "CREATE TABLE migrations (version INTEGER PRIMARY KEY, at TIMESTAMPTZ NOT NULL)"
                )
            known = await connection.fetchval("SELECT coalesce(max(version), 0) FROM migrations")
            if known > max(scripts):
                raise LedgerError(
                    f"open ledger {self.where}: its schema is version {known}, this crossdock knows {max(scripts)}",
                    hint="upgrade crossdock",
                )
            for version, script in scripts.items():
                if version > known:
                    await connection.execute(script, timeout=_MIGRATING)
                    await connection.execute("INSERT INTO migrations VALUES ($1, now())", version)
            return str(await connection.fetchval(_QUERIES["identity"]))

    @asynccontextmanager
    async def _reported(self, operation: str) -> AsyncGenerator[None]:
        """Errors of the driver as those of the ledger."""
        try:
            yield
        except asyncpg.ClientConfigurationError as error:
            raise LedgerError(
                f"{operation} in ledger {self.where}: {_said(error)}",
                hint="mend the ledger's address, or libpq's environment (PG…)",
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise LedgerUnavailable(
                f"{operation} in ledger {self.where}: {error.verify_message}",
                hint="see that sslrootcert holds who signed the server's certificate, and that it is for this address",
            ) from error
        except _PASSING as error:
            hint = "see that the database server runs and can be reached; nothing is taken on until then"
            if isinstance(error, PermissionError):
                # Of its socket, or of ~/.postgresql, which asyncpg looks into.
                hint = "let this account read that; below a home folder that is not its own, set HOME to another"
            raise LedgerUnavailable(
                f"{operation} in ledger {self.where}: {_said(error) or 'no answer in time'}", hint=hint
            ) from error
        except (asyncpg.InvalidAuthorizationSpecificationError, SecretUnavailable) as error:
            # Being changed, perhaps: what is under way may outlast that, and who is started anew may read another.
            raise LedgerUnavailable(
                f"{operation} in ledger {self.where}: {_said(error)}",
                hint="see that its account may sign in with this password; one that comes from env: needs a restart",
            ) from error
        except asyncpg.PostgresError as error:
            hint = "see that the user may use database and schema"
            if isinstance(error, asyncpg.InvalidCatalogNameError):
                hint = "have the database made, with the encoding UTF8, or mend its name in the ledger's address"
            raise LedgerError(f"{operation} in ledger {self.where}: {_said(error)}", hint=hint) from error

    @asynccontextmanager
    async def _connection(self, pool: Any) -> AsyncGenerator[Any]:
        """One of the pool's. Where the server gives no more of them, there are so many fewer from then on."""
        while True:
            async with asyncio.timeout(self._timeout):
                await self._free.acquire()
            try:
                connection = await pool.acquire(timeout=self._timeout)
                break
            except asyncpg.TooManyConnectionsError:
                if self._connections == 1:
                    self._free.release()
                    raise
                self._connections -= 1
            except BaseException:
                self._free.release()
                raise
        try:
            yield connection
        finally:
            try:
                await pool.release(connection)
            finally:
                self._free.release()

    async def _run(self, operation: str, action: Callable[[Any], Awaitable[T]]) -> T:
        """In one transaction, with the schema in sight for just as long."""
        if self._pool is None:
            raise LedgerUnavailable(f"{operation} in ledger {self.where}: it is not open", hint="open it first")
        tries = _TRIES
        async with self._reported(operation), self._connection(self._pool) as connection:
            while True:
                try:
                    # The level that the statements are made for, whatever is the database's own.
                    async with connection.transaction(isolation="read_committed"):
                        await connection.execute(f"{_patience()}; SET LOCAL search_path TO {self._schema}")
                        return await action(connection)
                except asyncpg.DeadlockDetectedError:
                    # Of two that waited for each other the server ended this one; nothing of it was done.
                    tries -= 1
                    if not tries:
                        raise

    async def _fetch(self, operation: str, sql: str, params: Params) -> list[Row]:
        text, names = _positional(sql)

        async def action(connection: Any) -> list[Row]:
            return _rows(await connection.fetch(text, *(params[name] for name in names)))

        return await self._run(operation, action)

    async def _rows(self, statement: str, params: Params) -> list[Row]:
        return await self._fetch(statement, _QUERIES[statement], params)

    async def _each(self, statement: str, params: Sequence[Params]) -> list[Row]:
        return await self._many(statement, _QUERIES[statement], params)

    async def _many(self, operation: str, sql: str, params: Sequence[Params], *, locked: str = "") -> list[Row]:
        """Run it with each of the parameters; `locked`: a statement to run first."""
        if not params:
            return []
        text, names = _positional(sql)

        async def action(connection: Any) -> list[Row]:
            if locked:
                await connection.execute(locked, self._schema)
            prepared = await connection.prepare(text)
            found: list[Row] = []
            for start in range(0, len(params), _BATCH):
                batch = [[each[name] for name in names] for each in params[start : start + _BATCH]]
                found += _rows(await prepared.fetchmany(batch))
            return found

        return await self._run(operation, action)

    async def _add(self, rows: Sequence[Params]) -> list[Added]:
        # Two that add the same files in another order would otherwise wait for each other for ever.
        lock = "SELECT pg_advisory_xact_lock(3600042, hashtext($1))"
        found = await self._many("add", _ADD, rows, locked=lock)
        return [Added(row["id"], row["new"]) for row in found]

    async def _claim(self, params: Params, flows: Sequence[str] | None, without: Sequence[str]) -> list[Row]:
        candidates = _QUERIES["candidates" if flows is None else "candidates of flows"]
        sql, params = f"{candidates}\n{_QUERIES['claim']}", {"flows": flows, "without": without, **params}
        for _ in range(_TRIES):
            try:
                return await self._fetch("claim", sql, params)
            except LedgerError as error:
                if not isinstance(error.__cause__, asyncpg.UniqueViolationError):
                    raise
                # Another claim has just begun on the same place: not ours, then.
                await asyncio.sleep(random.uniform(0, 0.05))
        return []

    async def _select(self, conditions: Sequence[str], params: Params) -> list[Row]:
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return await self._fetch("find", f"SELECT * FROM transfers{where} ORDER BY id DESC LIMIT :limit", params)

    def _like(self, pattern: str) -> tuple[str, str]:
        escaped = re.sub(r"([\\%_])", r"\\\1", pattern)
        return "LIKE", escaped.replace("*", "%").replace("?", "_")

    async def _unknown(self, flow: str, source: str, files: Sequence[tuple[str, str]], fresh: float) -> list[bool]:
        paths, fingerprints = [path for path, _ in files], [fingerprint for _, fingerprint in files]
        params = {"flow": flow, "source": source, "paths": paths, "fingerprints": fingerprints, "fresh": fresh}
        rows = await self._rows("known files", params)
        if any(row["stale"] for row in rows):
            await self._rows("seen", params)
        known = {row["number"] for row in rows}
        return [number not in known for number in range(1, len(files) + 1)]


def _patience() -> str:
    return f"SET LOCAL idle_in_transaction_session_timeout TO {_STANDING_STILL * 1000:.0f}"


def _said(error: Exception) -> str:
    """In one line, as a log has them."""
    if (isinstance(error, _CUT_OFF) and "connection" in str(error)) or "connection_lost()" in str(error):
        # Some of the driver's words for that name methods.
        return "the connection broke"
    return "; ".join(str(error).splitlines())


def _rows(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    return list(records)


@cache
def _positional(sql: str) -> tuple[str, list[str]]:
    """With $1, $2 … for the names, and the names in that order."""
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found[1] == "now":
            return "ledger_now()"
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    return _PARAMETER.sub(number, sql), names
