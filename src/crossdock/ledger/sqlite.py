"""The ledger in an SQLite file: the embedded default, for one host."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from crossdock.errors import LedgerError, LedgerUnavailable
from crossdock.ledger.base import MAX_RESCUES, Added
from crossdock.ledger.queries import load
from crossdock.ledger.relational import Params, SqlLedger
from crossdock.ledger.rows import Row
from crossdock.ledger.sqlite_actions import Add, Change, Each, Noted, Rows, SeenFiles
from crossdock.ledger.sqlite_file import connect, file_id, translated
from crossdock.ledger.transactions import Connection, Operation
from crossdock.ledger.writer import ThreadWriter, Writer

__all__ = ["SqliteLedger"]

_QUERIES = load("sqlite")
_READS = frozenset({"identity", "get", "siblings", "history", "page", "counts", "marks", "due marks"})


class SqliteLedger(SqlLedger):
    """A ledger in the file `path`, which is made (mode 0600) if it is not there. `clock`: seconds since 1970.

    `own_process`: the file is read and written by a process of its own, for much work at once; else by a thread.

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
        own_process: bool = False,
    ) -> None:
        self.where = str(path)
        self.max_rescues = max_rescues
        self._path, self._clock, self._own_process = Path(path), clock, own_process
        self._connect: Callable[[], Connection] = partial(connect, self._path, factory=factory)
        self._writer: Writer | None = None
        self._damaged: LedgerError | None = None
        self._file: tuple[int, int] | None = None

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
            writer = self._new_writer()
            await writer.start()
            self._writer, self._file = writer, file_id(self._path)
            try:
                self.id = (await self._rows("identity", {}))[0]["id"]
            except BaseException:
                await self.close()
                raise

    def _new_writer(self) -> Writer:
        name = f"ledger {self.where}"
        if self._own_process and _has_interpreter():
            from crossdock.ledger.process_writer import ProcessWriter

            return ProcessWriter(self._connect, name, wrong=self._moved)
        return ThreadWriter(self._connect, name, wrong=self._moved)

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.stop()

    def _translate(self, error: sqlite3.Error) -> LedgerError:
        # Between a look at its name and what is written SQLite notices it, and calls the file read-only.
        if isinstance(error, sqlite3.OperationalError) and (moved := self._moved()) is not None:
            return moved
        found = translated(error, self.where)
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            self._damaged = found
        return found

    async def _ask(self, operation: Operation) -> Any:
        if self._damaged is not None:
            raise self._damaged
        if self._writer is None:
            raise LedgerUnavailable(f"ledger {self.where}: it is not open", hint="open it first")
        try:
            return await self._writer.ask(operation)
        except sqlite3.Error as error:
            raise self._translate(error) from error

    async def _rows(self, statement: str, params: Params) -> list[Row]:
        action, value = Rows(_QUERIES[statement]), {"now": self._clock(), **params}
        found: list[Row] = await self._ask(Operation(action, value, writes=statement not in _READS))
        return found

    async def _change(self, statement: str, params: Params) -> bool:
        action, value = Change(_QUERIES[statement]), {"now": self._clock(), **params}
        done: bool = await self._ask(Operation(action, value, writes=True, bundled=True))
        return done

    async def _each(self, statement: str, params: Sequence[Params]) -> list[Row]:
        if not params:
            return []
        now = self._clock()
        action, value = Each(_QUERIES[statement]), [{"now": now, **each} for each in params]
        found: list[Row] = await self._ask(Operation(action, value, writes=statement not in _READS))
        return found

    async def _add(self, rows: Sequence[Params]) -> list[Added]:
        if not rows:
            return []
        now = self._clock()
        action, value = Add(_QUERIES["add"], _QUERIES["known"]), [{"now": now, **row} for row in rows]
        return [Added(id, new) for id, new in await self._ask(Operation(action, value, writes=True))]

    async def _claim(self, params: Params, flows: Sequence[str] | None, without: Sequence[str]) -> list[Row]:
        candidates = _QUERIES["candidates" if flows is None else "candidates of flows"]
        params = {"now": self._clock(), "flows": json.dumps(flows), "without": json.dumps(without), **params}
        action = Rows(f"{candidates}\n{_QUERIES['claim']}")
        found: list[Row] = await self._ask(Operation(action, params, writes=True))
        return found

    async def _select(self, conditions: Sequence[str], params: Params) -> list[Row]:
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        action = Rows(f"SELECT * FROM transfers{where} ORDER BY id DESC LIMIT :limit")
        found: list[Row] = await self._ask(Operation(action, params, writes=False))
        return found

    def _like(self, pattern: str) -> tuple[str, str]:
        return "GLOB", pattern.replace("[", "[[]")

    async def _unknown(self, flow: str, source: str, files: Sequence[tuple[str, str]], fresh: float) -> list[bool]:
        params = [{"flow": flow, "source": source, "path": path, "fingerprint": print_} for path, print_ in files]
        found = await self._ask(Operation(SeenFiles(_QUERIES["known file"]), params, writes=False))
        now = self._clock()
        stale = [
            {"now": now, **each}
            for each, (id, seen_at) in zip(params, found, strict=True)
            if id is not None and seen_at < now - fresh
        ]
        if stale:
            await self._ask(Operation(Noted(_QUERIES["seen"]), stale, writes=True))
        return [id is None for id, _ in found]


def _has_interpreter() -> bool:
    """A program that Python is built into (one that is frozen, uWSGI) has none to start, but would begin itself."""
    return "py" in Path(sys.executable or "").name.lower() and not getattr(sys, "frozen", False)
