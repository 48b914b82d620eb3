"""Any backend, failing on purpose at an exact byte, entry or call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, TypeVar

from crossdock.errors import ConnectionFailed, StorageError
from crossdock.storage.base import Backend, Entry, Expect, Reader, Writer
from crossdock.storage.layers import Layer, LayeredReader, LayeredWriter

__all__ = ["Fault", "FaultyBackend", "flipped"]

T = TypeVar("T")
How = Literal["die", "stall", "end", "grow", "flip", "lost"]


@dataclass(slots=True, kw_only=True, eq=False)
class Fault:
    """One thing that goes wrong.

    `operation`: "open", "stat", "list", "read", "write", "commit", "abort", "delete", "rename", "copy", "mkdir",
    "rmdir" or "discard"; "begin read" and "begin write" are the opening of a stream.

    `how`:
    - die: raise `error`. Bytes before `at` have been read or written; entries before `at` have been listed.
    - stall: never return, until cancelled.
    - end: (read, list) end in silence at `at`, as if that were all: the lie that the contract forbids.
    - grow: (read) more bytes after the end, of a file that grew.
    - flip: (read, write) one bit of byte `at` is wrong.
    - lost: do it, then raise `error`: the reply did not come back.
    """

    operation: str
    how: How = "die"
    at: int = 0
    """Byte or entry, counted from 0, where it happens."""
    path: str | None = None
    """Only for this path; None: for any."""
    after: int = 0
    """Let so many operations pass first."""
    times: int | None = 1
    """How often; None: always."""
    error: type[StorageError] = ConnectionFailed
    fired: int = 0
    """How often it has happened."""


class FaultyBackend(Layer):
    """`inner`, with faults. Each happens at the first operation that it fits, in the order given."""

    def __init__(self, inner: Backend, *faults: Fault) -> None:
        super().__init__(inner)
        self.faults = list(faults)

    def add(self, fault: Fault) -> Fault:
        self.faults.append(fault)
        return fault

    def due(self, operation: str, path: str) -> Fault | None:
        """The fault that this operation meets, now used up once; None: all goes well."""
        for fault in self.faults:
            if fault.operation != operation or fault.path not in (None, path):
                continue
            if fault.times is not None and fault.fired >= fault.times:
                continue
            if fault.after > 0:
                fault.after -= 1
                continue
            fault.fired += 1
            return fault
        return None

    def failure(self, fault: Fault, operation: str, path: str) -> StorageError:
        return self.error(fault.error, operation, path, f"fault on purpose ({fault.how} at {fault.at})")

    async def meet(self, fault: Fault, operation: str, path: str) -> None:
        """Stall, or raise the fault's error."""
        if fault.how == "stall":
            await asyncio.Event().wait()
        raise self.failure(fault, operation, path)

    async def around(self, operation: str, path: str, action: Callable[[], Awaitable[T]]) -> T:
        """Call `action` unless a fault strikes before it, or instead of its answer."""
        fault = self.due(operation, path)
        if fault is not None and fault.how != "lost":
            await self.meet(fault, operation, path)
        result = await action()
        if fault is not None:
            raise self.failure(fault, operation, path)
        return result

    async def _call(self, operation: str, path: str, action: Callable[[], Awaitable[T]], *, repeatable: bool) -> T:
        return await self.around(f"begin {operation}" if operation in ("read", "write") else operation, path, action)

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        fault = self.due("list", path)
        count = 0
        async with aclosing(self.inner.scan(path, recursive=recursive)) as pages:
            async for page in pages:
                for entry in page:
                    if fault is not None and count == fault.at:
                        if fault.how == "end":
                            return
                        await self.meet(fault, "list", path)
                    count += 1
                    yield [entry]
        if fault is not None and fault.how != "end":
            await self.meet(fault, "list", path)

    def _reader(self, reader: Reader, path: str) -> Reader:
        return _FaultyReader(self, reader, path, self.due("read", path))

    def _writer(self, writer: Writer, path: str) -> Writer:
        return _FaultyWriter(self, writer, path, self.due("write", path))


class _FaultyReader(LayeredReader):
    """Counts from where the stream was opened; a stream opened again counts from 0 again."""

    def __init__(self, backend: FaultyBackend, inner: Reader, path: str, fault: Fault | None) -> None:
        super().__init__(inner)
        self._backend, self._path, self._fault = backend, path, fault
        self._position = 0
        self._ahead = b""

    async def read(self) -> bytes:
        fault = self._fault
        if fault is None:
            return await self.inner.read()
        if fault.how in ("die", "stall", "end", "lost") and self._position >= fault.at:
            if fault.how == "end":
                return b""
            await self._backend.meet(fault, "read", self._path)
        data = self._ahead or await self.inner.read()
        self._ahead = b""
        if fault.how == "grow":
            if not data:
                self._fault = None
                return b"grown"
        elif fault.how == "flip":
            data = flipped(data, fault.at - self._position)
        elif self._position + len(data) > fault.at:
            data, self._ahead = data[: fault.at - self._position], data[fault.at - self._position :]
        elif not data and fault.how != "end":
            # The stream is shorter than `at`: the fault strikes at its end instead.
            await self._backend.meet(fault, "read", self._path)
        self._position += len(data)
        return data


class _FaultyWriter(LayeredWriter):
    def __init__(self, backend: FaultyBackend, inner: Writer, path: str, fault: Fault | None) -> None:
        super().__init__(inner)
        self._backend, self._path, self._fault = backend, path, fault
        self._position = 0

    async def write(self, data: bytes) -> None:
        fault = self._fault
        if fault is not None and fault.how == "flip":
            data = flipped(data, fault.at - self._position)
        elif fault is not None and self._position + len(data) > fault.at:
            if head := data[: max(0, fault.at - self._position)]:
                await self.inner.write(head)
            await self._backend.meet(fault, "write", self._path)
        self._position += len(data)
        await self.inner.write(data)

    async def commit(self, expect: Expect) -> Entry:
        return await self._backend.around("commit", self._path, lambda: self.inner.commit(expect))

    async def abort(self) -> None:
        await self._backend.around("abort", self._path, self.inner.abort)


def flipped(data: bytes, at: int) -> bytes:
    """`data` with the lowest bit of byte `at` turned, if there is such a byte."""
    if not 0 <= at < len(data):
        return data
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
