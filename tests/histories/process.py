"""A process that runs engines, and can be killed, failed or visited between any two of its calls.

Endpoints and ledger outlive it. All that it asks of them passes a numbered point before and after the call; what is to
happen at a point is said beforehand, so that a history is the same whenever it is run.
"""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, TypeVar

from crossdock.errors import ConnectionFailed, LedgerUnavailable
from crossdock.ledger.memory import MemoryLedger
from crossdock.ledger.transactions import Connection, Operation, transact
from crossdock.storage.base import Backend, Entry, Expect, Reader, Writer
from crossdock.storage.layers import Layer, LayeredReader, LayeredWriter

__all__ = ["Desk", "Eye", "InlineLedger", "Killed", "Process", "acting"]

T = TypeVar("T")
acting: ContextVar[str | None] = ContextVar("acting", default=None)
"""The flow for which an engine does what it does just now."""
Happening = tuple[Any, ...]
"""("kill",), ("fault",), ("jump", seconds), or an operation of the history that somebody does in that moment.

("deaf",): from then on nobody takes notices.
"""


class Killed(BaseException):
    """The process ends here; whatever it tries from now on, too."""


class Process:
    """`happenings`: by the number of the point. `do` carries out those that are operations."""

    def __init__(self, happenings: dict[int, Happening], do: Callable[[Happening], Awaitable[None]]) -> None:
        self.happenings, self._do = happenings, do
        self.points = self.requests = 0
        self.dead = self.failed = self.deaf = False
        self.trace: list[str] = []

    async def point(self, what: str, failure: Callable[[], Exception] | None = None) -> None:
        await asyncio.sleep(0)
        if self.dead:
            raise Killed
        self.points += 1
        happening = self.happenings.get(self.points)
        self.trace.append(f"{self.points} {what}" + (f" ← {happening}" if happening else ""))
        if happening is None:
            return
        if happening[0] == "kill":
            self.dead = True
            raise Killed
        if happening[0] == "deaf":
            self.deaf = True
        elif happening[0] != "fault":
            await self._do(happening)
        elif failure is not None:
            self.failed = True
            raise failure()

    def request(self) -> str | None:
        """What becomes of one that a server has got: "drop" or "lost", if the connection breaks, before or after it.

        What is to happen to them is said by numbers below 0: ("cut", how) or, if the process is killed, ("die", how).
        """
        if self.dead:
            return "drop"
        self.requests += 1
        happening = self.happenings.get(-self.requests)
        if happening is None:
            return None
        self.dead = happening[0] == "die"
        self.failed = True
        self.trace.append(f"request {self.requests} ← {happening}")
        return str(happening[1])

    async def call(self, what: str, action: Callable[[], Awaitable[T]], failure: Callable[[], Exception]) -> T:
        await self.point(f"before {what}", failure)
        found = await action()
        await self.point(f"after {what}", failure)
        return found


class Eye(Layer):
    """An endpoint as one process sees it."""

    def __init__(self, inner: Backend, process: Process) -> None:
        super().__init__(inner)
        self.process = process

    def failure(self, operation: str, path: str) -> Callable[[], Exception]:
        return lambda: ConnectionFailed("lost", operation=operation, endpoint=self.endpoint, path=path)

    async def _call(self, operation: str, path: str, action: Callable[[], Awaitable[T]], *, repeatable: bool) -> T:
        what = f"{operation} {self.endpoint}:{path}"
        return await self.process.call(what, action, self.failure(operation, path))

    async def close(self) -> None:
        """The next process uses it."""

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        await self.process.point(f"list {self.endpoint}:{path}", self.failure("list", path))
        async with aclosing(self.inner.scan(path, recursive=recursive)) as pages:
            async for page in pages:
                yield page
        await self.process.point(f"listed {self.endpoint}:{path}", self.failure("list", path))

    def _reader(self, reader: Reader, path: str) -> Reader:
        return _Reader(reader, self, path)

    def _writer(self, writer: Writer, path: str) -> Writer:
        return _Writer(writer, self, path)


class _Reader(LayeredReader):
    def __init__(self, inner: Reader, eye: Eye, path: str) -> None:
        super().__init__(inner)
        self._eye, self._path = eye, path

    async def read(self) -> bytes:
        await self._eye.process.point("read", self._eye.failure("read", self._path))
        return await self.inner.read()


class _Writer(LayeredWriter):
    def __init__(self, inner: Writer, eye: Eye, path: str) -> None:
        super().__init__(inner)
        self._eye, self._path = eye, path

    async def _call(self, operation: str, action: Callable[[], Awaitable[T]]) -> T:
        return await self._eye._call(operation, self._path, action, repeatable=False)

    async def write(self, data: bytes) -> None:
        await self._call("append", lambda: self.inner.write(data))

    async def seal(self, expect: Expect) -> bytes | None:
        return await self._call("seal", lambda: self.inner.seal(expect))

    async def commit(self, expect: Expect) -> Entry:
        return await self._call("publish", lambda: self.inner.commit(expect))

    async def abort(self) -> None:
        await self._call("abort", self.inner.abort)

    async def suspend(self) -> None:
        await self._call("suspend", self.inner.suspend)

    async def leave(self) -> None:
        await self._call("leave", self.inner.leave)


class Desk:
    """A ledger as one process sees it."""

    def __init__(self, ledger: Any, process: Process) -> None:
        self._ledger, self._process = ledger, process

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._ledger, name)
        if inspect.isasyncgenfunction(found):
            return lambda *args, **more: self._each(name, found, *args, **more)
        if not inspect.iscoroutinefunction(found):
            return found

        async def called(*args: Any, **more: Any) -> Any:
            return await self._process.call(f"ledger.{name}", lambda: found(*args, **more), _unavailable)

        return called

    async def _each(self, name: str, found: Any, *args: Any, **more: Any) -> AsyncGenerator[Any]:
        await self._process.point(f"ledger.{name}", _unavailable)
        async with aclosing(found(*args, **more)) as each:
            async for one in each:
                yield one


def _unavailable() -> Exception:
    return LedgerUnavailable("ledger: it fails", hint="wait")


class InlineLedger(MemoryLedger):
    """Without a thread: who asks first is answered first, whatever the machine does besides."""

    _inline: Connection | None = None

    async def open(self) -> None:
        if self._inline is None:
            self._inline = self._connect()
            self._inline.execute("UPDATE ledger SET id = '0123456789abcdef'")
            self.id = (await self._rows("identity", {}))[0]["id"]

    async def close(self) -> None:
        inline, self._inline = self._inline, None
        if inline is not None:
            inline.close()

    async def _ask(self, operation: Operation) -> Any:
        assert self._inline is not None
        try:
            ((found, error),) = transact(self._inline, [operation])
            if error is not None:
                raise error
        except sqlite3.Error as failed:
            raise self._translate(failed) from failed
        return found


def happenings(found: Sequence[tuple[int, Happening]]) -> dict[int, Happening]:
    """As a history has them."""
    return dict(found)
