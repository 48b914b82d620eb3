"""The ledger in this process's memory: for tests, and for runs that need remember nothing."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from crossdock.ledger.base import MAX_RESCUES
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.ledger.sqlite_file import migrate, prepare
from crossdock.ledger.transactions import Connection

__all__ = ["MemoryLedger"]


class MemoryLedger(SqliteLedger):
    """An SQLite ledger without a file; it lives until it is closed."""

    def __init__(self, *, clock: Callable[[], float] = time.time, max_rescues: int = MAX_RESCUES) -> None:
        super().__init__(":memory:", clock=clock, max_rescues=max_rescues)
        self._connect = _connect


def _connect() -> Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    prepare(connection)
    migrate(connection)
    return connection
