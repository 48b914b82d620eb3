"""One SQLite connection in a thread of its own; what many tasks ask for at the same time is committed together."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from crossdock.ledger.transactions import LOOK_UP, MOST, Answer, Connection, Operation, transact

__all__ = ["Asked", "ThreadWriter", "Writer", "closed", "settle"]

Asked = tuple[Operation, asyncio.Future[Any]]


class Writer(ABC):
    """Does operations on the connection that `connect` opens elsewhere; who was answered comes before who asks then.

    An operation's answer is given after its transaction was committed, and never if that failed: then all operations
    of the transaction fail, with the `sqlite3.Error`. One whose action raises is undone alone.
    `wrong` is asked before what writes is begun: what it returns is raised instead.
    """

    def __init__(
        self, connect: Callable[[], Connection], name: str, *, wrong: Callable[[], Exception | None] = lambda: None
    ) -> None:
        self._connect, self._name, self._wrong = connect, name, wrong
        self._collected: list[Asked] = []
        """Of one turn of the loop: to wake the other side for each would cost more than most actions."""

    @abstractmethod
    async def start(self) -> None:
        """Raises what `connect` raises."""

    @abstractmethod
    async def stop(self) -> None:
        """After what was asked for before. Safe to repeat."""

    @abstractmethod
    async def ask(self, operation: Operation) -> Any:
        """What the action returns, once it is durable. Cancelling does not undo what was already begun."""

    def _collect(self, operation: Operation) -> asyncio.Future[Any]:
        """Handed over at the end of this turn of the loop, with whatever else is asked for in it."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._collected.append((operation, answer))
        if len(self._collected) == 1:
            loop.call_soon(self._hand_over)
        return answer

    @abstractmethod
    def _hand_over(self) -> None:
        """What was collected goes to the other side."""


def closed() -> sqlite3.ProgrammingError:
    """What is raised for who asks too late."""
    return sqlite3.ProgrammingError("the ledger is closed")


def settle(asked: asyncio.Future[Any], answer: Answer) -> None:
    """In the asker's loop, who may not wait any more."""
    result, error = answer
    if asked.done():
        return
    if error is None:
        asked.set_result(result)
    else:
        asked.set_exception(error)


class ThreadWriter(Writer):
    """The connection is used by a thread."""

    def __init__(
        self, connect: Callable[[], Connection], name: str, *, wrong: Callable[[], Exception | None] = lambda: None
    ) -> None:
        super().__init__(connect, name, wrong=wrong)
        self._queue: SimpleQueue[list[Asked] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._reading: Sequence[Asked] = ()
        """What the thread is at, if none of it writes."""
        self._ended = True

    async def start(self) -> None:
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
        self._ended = True
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    async def ask(self, operation: Operation) -> Any:
        if self._ended:
            raise closed()
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return await self._collect(operation)
        answer: asyncio.Future[Any] = loop.create_future()
        self._queue.put([(operation, answer)])
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
            _tell([self._opened], [(None, error)])
            return
        _tell([self._opened], [(None, None)])
        connection.set_progress_handler(self._for_nobody, LOOK_UP)
        try:
            while batch := self._next():
                batch = [(operation, answer) for operation, answer in batch if not answer.cancelled()]
                _tell([answer for _, answer in batch], self._answers(connection, batch))
        finally:
            self._ended = True
            connection.close()

    def _for_nobody(self) -> bool:
        """What is being read, nobody waits for any more: SQLite ends it."""
        return bool(self._reading) and all(answer.cancelled() for _, answer in self._reading)

    def _next(self) -> list[Asked]:
        """What waits; empty once the end was asked for and everything before it is done."""
        asked = self._queue.get()
        batch: list[Asked] = []
        while asked is not None:
            batch += asked
            if len(batch) >= MOST or self._queue.empty():
                return batch
            asked = self._queue.get()
        if batch:
            self._queue.put(None)
        return batch

    def _answers(self, connection: Connection, batch: Sequence[Asked]) -> Sequence[Answer]:
        writes = any(operation.writes for operation, _ in batch)
        if writes and (wrong := self._wrong()) is not None:
            return [(None, wrong)] * len(batch)
        self._reading = () if writes else batch
        return transact(connection, [operation for operation, _ in batch])


def _tell(asked: Sequence[asyncio.Future[Any]], answers: Sequence[Answer]) -> None:
    """Each in the loop that waits for it."""

    def deliver(loop: asyncio.AbstractEventLoop) -> None:
        for future, answer in zip(asked, answers, strict=True):
            if future.get_loop() is loop:
                settle(future, answer)

    for loop in {future.get_loop() for future in asked}:
        try:
            loop.call_soon_threadsafe(deliver, loop)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            pass
