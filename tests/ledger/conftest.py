"""PostgreSQL for the tests of this folder: a schema of its own, and a connection past our code."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from typing import Any

import asyncpg
import pytest

from tests.servers import Postgres


@pytest.fixture
def schema() -> str:
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
async def raw(postgres: Postgres) -> AsyncGenerator[Any]:
    connection = await asyncpg.connect(postgres.dsn)
    yield connection
    await connection.close()
