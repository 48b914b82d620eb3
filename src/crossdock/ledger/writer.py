"""One SQLite connection in a thread of its own; what many tasks ask for at the same time is committed together."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["Connection", "Together", "Writer"]

T = TypeVar("T")
Connection = sqlite3.Connection
Together = Callable[[Connection, Sequence[Any]], bool]
"""One action for many values. False: not all of them were done, and what was counts for nothing."""
_Answer = tuple[asyncio.Future[Any], Any, BaseException | None]
_TOGETHER = 1000
"""Operations in one transaction, at most."""
_LOOK_UP = 200_000
"""Of SQLite's own steps, after which it asks whether to go on: a tenth of a second or so."""


@dataclass(slots=True)
class _Asked:
    action: Callable[[Connection], Any]
    writes: bool
    answer: asyncio.Future[Any]
    together: Together | None
    value: Any


class Writer:
    """Runs actions on the connection that `connect` opens (in the thread); who was answered comes before who asks then.

    An action's answer is given after its transaction was committed, and never if that failed: then all actions of the
    transaction fail, with what `translate` makes of the error. An action that raises is undone alone.
    `wrong` is asked before each transaction that writes: what it returns is raised instead.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        translate: Callable[[sqlite3.Error], Exception],
        name: str,
        *,
        wrong: Callable[[], Exception | None] = lambda: None,
    ) -> None:
        self._connect, self._translate, self._wrong = connect, translate, wrong
        self._queue: SimpleQueue[list[_Asked] | None] = SimpleQueue()
        self._collected: list[_Asked] = []
        """Of one turn of the loop: waking the thread for each would cost more than most actions."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._reading: Sequence[_Asked] = ()
        """What the thread is at, if none of it writes."""
        self._ended = True

    async def start(self) -> None:
        """Raises what `connect` raises."""
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._ended = False
        self._thread.start()
        try:
            await asyncio.shield(self._opened)
        except asyncio.CancelledError:
            # A program that ended meanwhile would leave behind what `connect` makes on its way.
            await self.stop()
            raise

    async def stop(self) -> None:
        """After what was asked for before. Safe to repeat."""
        if not self._ended:
            self._ended = True
            self._hand_over()
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    async def ask(
        self, action: Callable[[Connection], T], *, writes: bool, together: Together | None = None, value: Any = None
    ) -> T:
        """The action's result, once it is durable. Cancelling does not undo what was already begun.

        `together`: does for this value and others what their actions would do one by one, each with the result True.
        """
        if self._ended:
            raise self._translate(sqlite3.ProgrammingError("the ledger is closed"))
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        asked = _Asked(action, writes, answer, together, value)
        if loop is not self._loop:
            self._queue.put([asked])
        else:
            self._collected.append(asked)
            if len(self._collected) == 1:
                loop.call_soon(self._hand_over)
        return await answer

    def _hand_over(self) -> None:
        collected, self._collected = self._collected, []
        if collected:
            self._queue.put(collected)

    def _run(self) -> None:
        try:
            connection = self._connect()
        except Exception as error:  # noqa: BLE001 - handed to whoever waits in start()
            self._ended = True
            _tell([(self._opened, None, error)])
            return
        _tell([(self._opened, None, None)])
        connection.set_progress_handler(self._for_nobody, _LOOK_UP)
        try:
            while batch := self._next():
                self._transact(connection, batch)
        finally:
            self._ended = True
            connection.close()

    def _for_nobody(self) -> bool:
        """What is being read, nobody waits for any more: SQLite ends it."""
        return bool(self._reading) and all(asked.answer.cancelled() for asked in self._reading)

    def _next(self) -> list[_Asked]:
        """What waits; empty once the end was asked for and everything before it is done."""
        asked = self._queue.get()
        batch: list[_Asked] = []
        while asked is not None:
            batch += asked
            if len(batch) >= _TOGETHER or self._queue.empty():
                return batch
            asked = self._queue.get()
        if batch:
            self._queue.put(None)
        return batch

    def _transact(self, connection: Connection, batch: Sequence[_Asked]) -> None:
        batch = [asked for asked in batch if not asked.answer.cancelled()]
        writes = any(asked.writes for asked in batch)
        if writes and (wrong := self._wrong()) is not None:
            _tell([(asked.answer, None, wrong) for asked in batch])
            return
        begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
        self._reading = () if writes else batch
        try:
            connection.execute(begin)
            answers = _quickly(connection, batch)
            if answers is None:
                connection.execute("ROLLBACK")
                connection.execute(begin)
                answers = [(asked.answer, *_guarded(connection, asked)) for asked in batch]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            _roll_back(connection)
            answers = [(asked.answer, None, self._translate(error)) for asked in batch]
        _tell(answers)


def _quickly(connection: Connection, batch: Sequence[_Asked]) -> list[_Answer] | None:
    """In as few statements as can be: each hands the interpreter's lock over. None: something went wrong."""
    answers: list[_Answer] = []
    bundles: dict[Together, list[_Asked]] = {}
    for asked in batch:
        if asked.together is not None:
            bundles.setdefault(asked.together, []).append(asked)
            continue
        result, error = _alone(connection, asked.action)
        if error is not None:
            return None
        answers.append((asked.answer, result, None))
    for together, those in bundles.items():
        values = [asked.value for asked in those]
        done, _ = _alone(connection, lambda connection: together(connection, values))  # noqa: B023 - called at once
        if not done:
            return None
        answers += [(asked.answer, True, None) for asked in those]
    return answers


def _guarded(connection: Connection, asked: _Asked) -> tuple[Any, BaseException | None]:
    """Errors of the database end the transaction, all others (a constraint, too) only this action."""
    connection.execute("SAVEPOINT action")
    result, error = _alone(connection, asked.action)
    if error is not None:
        connection.execute("ROLLBACK TO action")
    connection.execute("RELEASE action")
    return result, error


def _alone(connection: Connection, action: Callable[[Connection], T]) -> tuple[T | None, BaseException | None]:
    """Raises what ends the transaction."""
    try:
        return action(connection), None
    except (sqlite3.OperationalError, sqlite3.InternalError):
        raise
    except Exception as error:
        if type(error) is sqlite3.DatabaseError:
            raise
        return None, error


def _roll_back(connection: Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        # Whoever locked or broke the file will be met again, and reported, at the next BEGIN.
        pass


def _tell(answers: Sequence[_Answer]) -> None:
    """Each in the loop that waits for it."""

    def deliver(loop: asyncio.AbstractEventLoop) -> None:
        for answer, result, error in answers:
            if answer.get_loop() is not loop or answer.done():
                continue
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

    for loop in {answer.get_loop() for answer, _, _ in answers}:
        try:
            loop.call_soon_threadsafe(deliver, loop)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            pass
