"""What the SQLite ledger does on its connection: each can be pickled, for a process of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from crossdock.ledger.transactions import Connection

__all__ = ["Add", "Change", "Each", "Noted", "Rows", "SeenFiles"]

_PARAMETER = re.compile(r":(\w+)")
_AT_ONCE = 50
"""Transfers that one statement changes."""

Params = Mapping[str, Any]
Row = dict[str, Any]


class Rows(NamedTuple):
    """The rows of a statement."""

    sql: str

    def __call__(self, connection: Connection, params: Params) -> list[Row]:
        return [dict(row) for row in connection.execute(self.sql, params)]


class Each(NamedTuple):
    """The rows of a statement with each of the parameters, in order."""

    sql: str

    def __call__(self, connection: Connection, many: Sequence[Params]) -> list[Row]:
        return [dict(row) for params in many for row in connection.execute(self.sql, params)]


class Noted(NamedTuple):
    """A statement with each of the parameters, which gives no rows."""

    sql: str

    def __call__(self, connection: Connection, many: Sequence[Params]) -> None:
        connection.executemany(self.sql, many)


class Change(NamedTuple):
    """A statement that changes one transfer; whether it did."""

    sql: str

    def __call__(self, connection: Connection, params: Params) -> bool:
        return bool(connection.execute(self.sql, params).fetchall())

    def all(self, connection: Connection, values: Sequence[Params]) -> bool:
        """By one statement for many of them: whether it did so for all."""
        changed = 0
        for start in range(0, len(values), _AT_ONCE):
            some = values[start : start + _AT_ONCE]
            sql, names = _for_many(self.sql, len(some))
            changed += connection.execute(sql, [each[name] for each in some for name in names]).rowcount
        return changed == len(values)


class Add(NamedTuple):
    """(id, whether it is new) of each that is to be added."""

    insert: str
    known: str

    def __call__(self, connection: Connection, many: Sequence[Params]) -> list[tuple[int, bool]]:
        found = []
        for params in many:
            new = connection.execute(self.insert, params).fetchall()
            found.append(((new or connection.execute(self.known, params).fetchall())[0]["id"], bool(new)))
        return found


class SeenFiles(NamedTuple):
    """(id, when it was last noted to be there) of each file, None where there is no transfer."""

    sql: str

    def __call__(self, connection: Connection, many: Sequence[Params]) -> list[tuple[int | None, float | None]]:
        return [tuple(connection.execute(self.sql, params).fetchone()) for params in many]


@cache
def _for_many(statement: str, number: int) -> tuple[str, list[str]]:
    """The statement over so many rows of parameters, whose names it tells; it returns nothing."""
    text = statement.removesuffix("RETURNING id")
    names = list(dict.fromkeys(_PARAMETER.findall(text)))
    columns = ", ".join(f"column{place} AS {name}_" for place, name in enumerate(names, start=1))
    values = ", ".join([f"({', '.join('?' * len(names))})"] * number)
    given = f"FROM (SELECT {columns} FROM (VALUES {values}))"
    return _PARAMETER.sub(r"\1_", text).replace("\nWHERE ", f"\n{given}\nWHERE "), names
