"""What many ask of one SQLite connection at the same time, as one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast

__all__ = ["LOOK_UP", "MOST", "Action", "Answer", "Bundled", "Connection", "Operation", "transact"]

Connection = sqlite3.Connection
Answer = tuple[Any, BaseException | None]
"""What an action returned, or what it raised."""
MOST = 1000
"""Operations in one transaction."""
LOOK_UP = 200_000
"""Of SQLite's own steps, after which it asks whether to go on: a tenth of a second or so."""


class Action(Protocol):
    """What is done for one value."""

    def __call__(self, connection: Connection, value: Any, /) -> Any: ...


class Bundled(Action, Protocol):
    """An action that returns True; equal ones can be done for many values at once."""

    def all(self, connection: Connection, values: Sequence[Any], /) -> bool:
        """False: not all of them were done, and what was counts for nothing."""


class Operation(NamedTuple):
    action: Action
    value: Any
    writes: bool
    bundled: bool = False
    """The action is `Bundled`."""


def transact(connection: Connection, operations: Sequence[Operation]) -> list[Answer]:
    """The answers, in order, once all is committed. An action that raises is undone alone.

    If the transaction failed nothing was done, and the `sqlite3.Error` is the answer to all.
    """
    begin = "BEGIN IMMEDIATE" if any(each.writes for each in operations) else "BEGIN"
    try:
        connection.execute(begin)
        answers = _quickly(connection, operations)
        if answers is None:
            connection.execute("ROLLBACK")
            connection.execute(begin)
            answers = [_guarded(connection, each) for each in operations]
        connection.execute("COMMIT")
    except (sqlite3.Error, MemoryError) as error:
        _roll_back(connection)
        return [(None, _out_of_memory() if isinstance(error, MemoryError) else error)] * len(operations)
    return answers


def _quickly(connection: Connection, operations: Sequence[Operation]) -> list[Answer] | None:
    """In as few statements as can be: each hands the interpreter's lock over. None: something went wrong."""
    answers: list[Answer] = [(True, None)] * len(operations)
    bundles: dict[Bundled, list[Any]] = {}
    for number, each in enumerate(operations):
        if each.bundled:
            bundles.setdefault(cast(Bundled, each.action), []).append(each.value)
            continue
        answers[number] = _alone(each.action, connection, each.value)
        if answers[number][1] is not None:
            return None
    if not all(_alone(action.all, connection, values)[0] for action, values in bundles.items()):
        return None
    return answers


def _guarded(connection: Connection, operation: Operation) -> Answer:
    """Errors of the database end the transaction, all others (a constraint, too) only this action."""
    connection.execute("SAVEPOINT action")
    result, error = _alone(operation.action, connection, operation.value)
    if error is not None:
        connection.execute("ROLLBACK TO action")
    connection.execute("RELEASE action")
    return result, error


def _alone(action: Callable[[Connection, Any], Any], connection: Connection, value: Any) -> Answer:
    """Raises what ends the transaction."""
    try:
        return action(connection, value), None
    except (sqlite3.OperationalError, sqlite3.InternalError, MemoryError):
        raise
    except Exception as error:
        if type(error) is sqlite3.DatabaseError:
            raise
        return None, error


def _out_of_memory() -> sqlite3.Error:
    """What Python makes of SQLITE_NOMEM as a `MemoryError`, without saying so."""
    error = sqlite3.OperationalError("out of memory")
    error.sqlite_errorcode = sqlite3.SQLITE_NOMEM
    return error


def _roll_back(connection: Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        # Whoever locked or broke the file will be met again, and reported, at the next BEGIN.
        pass
