"""Every ledger keeps every promise."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from pathlib import Path

import asyncpg
import pytest

from crossdock.ledger.base import Ledger
from crossdock.ledger.memory import MemoryLedger
from crossdock.ledger.postgres import PostgresLedger
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.testing.ledger_suite import LedgerClock, LedgerSuite
from tests.ledger.clocks import WallClock
from tests.servers import Postgres


class TestMemory(LedgerSuite):
    @pytest.fixture
    def clock(self) -> WallClock:
        return WallClock()

    @pytest.fixture
    async def ledger(self, clock: WallClock) -> AsyncGenerator[Ledger]:
        async with MemoryLedger(clock=clock.now) as ledger:
            yield ledger


class TestSqlite(LedgerSuite):
    @pytest.fixture
    def clock(self) -> WallClock:
        return WallClock()

    @pytest.fixture
    async def ledger(self, clock: WallClock, tmp_path: Path) -> AsyncGenerator[Ledger]:
        async with SqliteLedger(tmp_path / "crossdock.db", clock=clock.now) as ledger:
            yield ledger

    @pytest.fixture
    async def second(self, ledger: Ledger, clock: WallClock, tmp_path: Path) -> AsyncGenerator[Ledger]:
        async with SqliteLedger(tmp_path / "crossdock.db", clock=clock.now) as second:
            yield second


class TestSqliteInItsOwnProcess(LedgerSuite):
    @pytest.fixture
    def clock(self) -> WallClock:
        return WallClock()

    @pytest.fixture
    async def ledger(self, clock: WallClock, tmp_path: Path) -> AsyncGenerator[Ledger]:
        async with SqliteLedger(tmp_path / "crossdock.db", clock=clock.now, own_process=True) as ledger:
            yield ledger

    @pytest.fixture
    async def second(self, ledger: Ledger, clock: WallClock, tmp_path: Path) -> AsyncGenerator[Ledger]:
        async with SqliteLedger(tmp_path / "crossdock.db", clock=clock.now, own_process=True) as second:
            yield second


class PostgresClock(LedgerClock):
    """Puts an offset into the database's `ledger_now()`."""

    def __init__(self, dsn: str, schema: str) -> None:
        self._dsn, self._schema, self._offset = dsn, schema, 0.0

    async def move(self, seconds: float) -> None:
        self._offset += seconds
        connection = await asyncpg.connect(self._dsn)
        try:
            await connection.execute(
                f"CREATE OR REPLACE FUNCTION {self._schema}.ledger_now() RETURNS DOUBLE PRECISION LANGUAGE sql STABLE "
                f"AS $$ SELECT CAST(extract(epoch FROM now()) AS DOUBLE PRECISION) + {self._offset} $$"
            )
        finally:
            await connection.close()


class TestPostgres(LedgerSuite):
    @pytest.fixture
    def schema(self) -> str:
        return f"t{secrets.token_hex(6)}"

    @pytest.fixture
    def clock(self, postgres: Postgres, schema: str, ledger: Ledger) -> PostgresClock:
        return PostgresClock(postgres.dsn, schema)

    @pytest.fixture
    async def ledger(self, postgres: Postgres, schema: str) -> AsyncGenerator[Ledger]:
        async with PostgresLedger(postgres.dsn, schema=schema) as ledger:
            yield ledger

    @pytest.fixture
    async def second(self, ledger: Ledger, postgres: Postgres, schema: str) -> AsyncGenerator[Ledger]:
        async with PostgresLedger(postgres.socket_dsn, schema=schema) as second:
            yield second
