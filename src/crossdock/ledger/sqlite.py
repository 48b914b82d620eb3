"""The ledger in an SQLite file: the embedded default, for one host."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from crossdock.errors import LedgerError, LedgerUnavailable
from crossdock.ledger.base import MAX_RESCUES, Added
from crossdock.ledger.queries import load
from crossdock.ledger.relational import Params, SqlLedger
from crossdock.ledger.rows import Row
from crossdock.ledger.sqlite_file import connect, file_id, translated
from crossdock.ledger.writer import Connection, Together, Writer

__all__ = ["SqliteLedger"]

_QUERIES = load("sqlite")
_PARAMETER = re.compile(r":(\w+)")
_AT_ONCE = 50
"""Transfers that one statement changes."""
_READS = frozenset({"identity", "get", "siblings", "history", "page", "counts", "marks", "due marks"})


class SqliteLedger(SqlLedger):
    """A ledger in the file `path`, which is made (mode 0600) if it is not there. `clock`: seconds since 1970.

    Several processes of one host may share it. Within a process, whatever is asked for at the same time is committed
    together. Once the file is found damaged, moved or replaced nothing is read or written any more.
    """

    target_name = "replace(target_path, rtrim(target_path, replace(target_path, '/', '')), '')"
    most = "+state"

    def __init__(
        self,
        path: Path | str,
        *,
        clock: Callable[[], float] = time.time,
        max_rescues: int = MAX_RESCUES,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> None:
        self.where = str(path)
        self.max_rescues = max_rescues
        self._path, self._clock, self._factory = Path(path), clock, factory
        self._writer: Writer | None = None
        self._damaged: LedgerError | None = None
        self._file: tuple[int, int] | None = None

    def _connect(self) -> Connection:
        connection = connect(self._path, factory=self._factory)
        self._file = file_id(self._path)
        return connection

    def _moved(self) -> LedgerError | None:
        """SQLite goes on with a file whose name is gone; what it writes there nobody finds again."""
        if file_id(self._path) != self._file:
            self._damaged = LedgerError(
                f"ledger {self.where}: the file was removed, moved or replaced while it was in use",
                hint="put it back, or an older copy that sends again what it has forgotten; "
                "if there is none, everything is sent anew",
            )
        return self._damaged

    async def open(self) -> None:
        if self._writer is None:
            writer = Writer(self._connect, self._translate, f"ledger {self.where}", wrong=self._moved)
            await writer.start()
            self._writer = writer
            try:
                self.id = (await self._rows("identity", {}))[0]["id"]
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.stop()

    def _translate(self, error: sqlite3.Error) -> LedgerError:
        found = translated(error, self.where)
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            self._damaged = found
        return found

    async def _ask(
        self,
        action: Callable[[Connection], Any],
        *,
        writes: bool,
        together: Together | None = None,
        value: Any = None,
    ) -> Any:
        if self._damaged is not None:
            raise self._damaged
        if self._writer is None:
            raise LedgerUnavailable(f"ledger {self.where}: it is not open", hint="open it first")
        try:
            return await self._writer.ask(action, writes=writes, together=together, value=value)
        except sqlite3.Error as error:
            raise self._translate(error) from error

    async def _rows(self, statement: str, params: Params) -> list[Row]:
        sql, params = _QUERIES[statement], {"now": self._clock(), **params}
        found: list[Row] = await self._ask(
            lambda connection: connection.execute(sql, params).fetchall(), writes=statement not in _READS
        )
        return found

    async def _change(self, statement: str, params: Params) -> bool:
        sql, params = _QUERIES[statement], {"now": self._clock(), **params}
        done: bool = await self._ask(
            lambda connection: bool(connection.execute(sql, params).fetchall()),
            writes=True,
            together=_together(statement),
            value=params,
        )
        return done

    async def _each(self, statement: str, params: Sequence[Params]) -> list[Row]:
        if not params:
            return []
        sql, now = _QUERIES[statement], self._clock()

        def action(connection: Connection) -> list[Row]:
            return [row for each in params for row in connection.execute(sql, {"now": now, **each})]

        found: list[Row] = await self._ask(action, writes=statement not in _READS)
        return found

    async def _add(self, rows: Sequence[Params]) -> list[Added]:
        if not rows:
            return []
        insert, known, now = _QUERIES["add"], _QUERIES["known"], self._clock()

        def action(connection: Connection) -> list[Added]:
            found = []
            for row in rows:
                new = connection.execute(insert, {"now": now, **row}).fetchall()
                id = (new or connection.execute(known, row).fetchall())[0]["id"]
                found.append(Added(id, bool(new)))
            return found

        added: list[Added] = await self._ask(action, writes=True)
        return added

    async def _claim(self, params: Params, flows: Sequence[str] | None, without: Sequence[str]) -> list[Row]:
        candidates = _QUERIES["candidates" if flows is None else "candidates of flows"]
        sql = f"{candidates}\n{_QUERIES['claim']}"
        params = {"now": self._clock(), "flows": json.dumps(flows), "without": json.dumps(without), **params}
        found: list[Row] = await self._ask(lambda connection: connection.execute(sql, params).fetchall(), writes=True)
        return found

    async def _select(self, conditions: Sequence[str], params: Params) -> list[Row]:
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        sql = f"SELECT * FROM transfers{where} ORDER BY id DESC LIMIT :limit"
        found: list[Row] = await self._ask(lambda connection: connection.execute(sql, params).fetchall(), writes=False)
        return found

    def _like(self, pattern: str) -> tuple[str, str]:
        return "GLOB", pattern.replace("[", "[[]")

    async def _unknown(self, flow: str, source: str, files: Sequence[tuple[str, str]], fresh: float) -> list[bool]:
        sql, touch, now = _QUERIES["known file"], _QUERIES["seen"], self._clock()
        params = [{"flow": flow, "source": source, "path": path, "fingerprint": print_} for path, print_ in files]

        def look(connection: Connection) -> list[Row]:
            return [connection.execute(sql, each).fetchone() for each in params]

        found: list[Row] = await self._ask(look, writes=False)
        stale = [
            {"now": now, **each}
            for each, row in zip(params, found, strict=True)
            if row["id"] is not None and row["seen_at"] < now - fresh
        ]
        if stale:
            await self._ask(lambda connection: connection.executemany(touch, stale), writes=True)
        return [row["id"] is None for row in found]


@cache
def _together(statement: str) -> Together:
    """A statement that changes one transfer, for as many as were asked for."""

    def change(connection: Connection, values: Sequence[Params]) -> bool:
        changed = 0
        for start in range(0, len(values), _AT_ONCE):
            some = values[start : start + _AT_ONCE]
            sql, names = _for_many(statement, len(some))
            changed += connection.execute(sql, [each[name] for each in some for name in names]).rowcount
        return changed == len(values)

    return change


@cache
def _for_many(statement: str, number: int) -> tuple[str, list[str]]:
    """The statement over so many rows of parameters, whose names it tells; it returns nothing."""
    text = _QUERIES[statement].removesuffix("RETURNING id")
    names = list(dict.fromkeys(_PARAMETER.findall(text)))
    columns = ", ".join(f"column{place} AS {name}_" for place, name in enumerate(names, start=1))
    rows = ", ".join([f"({', '.join('?' * len(names))})"] * number)
    given = f"FROM (SELECT {columns} FROM (VALUES {rows}))"
    return _PARAMETER.sub(r"\1_", text).replace("\nWHERE ", f"\n{given}\nWHERE "), names
