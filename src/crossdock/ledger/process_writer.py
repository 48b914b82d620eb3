"""One SQLite connection in a process of its own, which shares no interpreter with whoever asks."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self, cast

from crossdock.errors import LedgerUnavailable
from crossdock.frames import Frames, packed
from crossdock.ledger.transactions import Connection, Operation
from crossdock.ledger.writer import Asked, Writer, closed, settle

__all__ = ["ProcessWriter"]

_NOT_ITS_OWN = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a terminal or a supervisor sends to all processes of a run: this one ends when the one that asks it has."""


class ProcessWriter(Writer):
    """The connection is used by another process (`crossdock.ledger.child`), which ends with its socket.

    `connect`, and what operations hold, can be pickled. If that process ends before it is told to, what it was asked
    may be done or not: `LedgerUnavailable`; the next operation starts another.
    """

    def __init__(
        self, connect: Callable[[], Connection], name: str, *, wrong: Callable[[], Exception | None] = lambda: None
    ) -> None:
        super().__init__(connect, name, wrong=wrong)
        self._other: _Other | None = None
        self._starting: asyncio.Task[None] | None = None
        self._opened, self._ended = False, True

    async def start(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), False
        try:
            await self._until_started()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        self._ended = True
        if self._starting is not None:
            await asyncio.wait([self._starting])
        self._hand_over(at_once=True)
        other, self._other = self._other, None
        if other is not None:
            await other.stop()

    async def ask(self, operation: Operation) -> Any:
        if self._ended:
            raise closed()
        if asyncio.get_running_loop() is not self._loop:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.ask(operation), self._loop))
        if self._other is None or self._other.gone:
            await self._until_started()
        return await self._collect(operation)

    async def _until_started(self) -> None:
        """By a task of its own, as whoever waits for it may be cancelled."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
            # Perhaps nobody waits any more.
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        try:
            gone, self._other = self._other, None
            if gone is not None:
                await gone.stop()
            # Before a file is made that is not the ledger which was in use.
            if self._opened and (wrong := self._wrong()) is not None:
                raise wrong
            other = await _Other.started(self._name, self._hand_over)
            try:
                await other.open(self._connect)
            except BaseException:
                await other.stop()
                raise
            self._other, self._opened = other, True
        finally:
            self._starting = None

    def _hand_over(self, *, at_once: bool = False) -> None:
        """Not while it is at something: what is asked for meanwhile is committed together."""
        if self._other is not None and self._other.busy and not at_once:
            return
        collected, self._collected = self._collected, []
        asked = [(operation, answer) for operation, answer in collected if not answer.done()]
        if not asked:
            return
        wrong = self._wrong() if any(operation.writes for operation, _ in asked) else None
        if wrong is None and self._other is not None:
            self._other.send(asked)
            return
        for _, answer in asked:
            answer.set_exception(wrong or closed())


class _Other(asyncio.Protocol):
    """That process, and the line to it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], answered: Callable[[], None]) -> None:
        self._name, self._process, self._answered = name, process, answered
        self._frames = Frames()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        """Answers come in the order in which was asked."""
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._transport: asyncio.WriteTransport

    @classmethod
    async def started(cls, name: str, answered: Callable[[], None]) -> Self:
        """`answered` is called when it has answered all that it was asked."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                # Some milliseconds, before anything is under way.
                process = _spawned(theirs.fileno())
        except OSError as error:
            ours.close()
            hint = "see how many processes this account may have, and how much memory is free"
            if error.errno in (errno.EMFILE, errno.ENFILE):
                hint = "raise the limit (ulimit -n), or ask for fewer --transfers"
            raise LedgerUnavailable(f"{name}: no process can be started for it: {error.strerror}", hint=hint) from error
        loop = asyncio.get_running_loop()
        _, other = await loop.create_unix_connection(lambda: cls(name, process, answered), sock=ours)
        return other

    @property
    def gone(self) -> bool:
        return self._over.is_set()

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    async def open(self, connect: Callable[[], Connection]) -> None:
        """Raises what `connect` raises."""
        self._transport.write(packed(connect))
        await self._opened

    def send(self, asked: Sequence[Asked]) -> None:
        answers = [answer for _, answer in asked]
        if self.gone:
            self._fail(answers)
            return
        self._transport.write(packed([operation for operation, _ in asked]))
        self._waiting.extend(answers)

    async def stop(self) -> None:
        """It answers what it was asked before."""
        if not self.gone:
            self._transport.write_eof()
        await self._over.wait()
        await asyncio.to_thread(self._process.wait)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        for value in self._frames.feed(data):
            if not self._opened.done():
                records, error = value
                for name, level, message in records:
                    logging.getLogger(name).log(level, "%s", message)
                settle(self._opened, (None, error))
                continue
            for answer in value:
                settle(self._waiting.popleft(), answer)
        if not self._waiting:
            self._answered()

    def connection_lost(self, _: Exception | None) -> None:
        self._over.set()
        self._fail([self._opened, *self._waiting])
        self._waiting.clear()
        self._answered()

    def _fail(self, answers: Iterable[asyncio.Future[Any]]) -> None:
        hint = "it is started again with what comes next; the system's log tells if memory ran out"
        for answer in answers:
            error = LedgerUnavailable(f"{self._name}: the process that writes it has ended", hint=hint)
            settle(answer, (None, error))


def _spawned(descriptor: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "crossdock.ledger.child", str(descriptor)]
    # It is born with them blocked, and leaves them so.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_ITS_OWN)
    try:
        return subprocess.Popen(
            command,
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
