"""Behaviour wrapped round a backend: each layer is a `Backend` over a `Backend`.

Order, innermost first: Observe → Reopen (`retry`) → Limit → Throttle (`limits`) → Retry (`retry`). Retry is outermost,
so that a repeated operation queues for a slot and is observed again; with Limit outside Retry a waiting retry would
hold a slot that others need. Only a stream that has begun keeps its slot: see `Reopen`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TypeVar

from crossdock.errors import BackendFault, CrossdockError
from crossdock.storage.base import Backend, Capabilities, Entry, Expect, Leftover, Reader, WriteOptions, Writer

__all__ = ["Layer", "LayeredReader", "LayeredWriter", "Observe"]

log = logging.getLogger("crossdock.storage")
T = TypeVar("T")


class Layer(Backend):
    """Passes everything on; a layer overrides what it changes."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.endpoint = inner.endpoint

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return self.inner.capabilities

    @property
    def store(self) -> str | None:  # type: ignore[override]
        return self.inner.store

    async def _call(self, operation: str, path: str, action: Callable[[], Awaitable[T]], *, repeatable: bool) -> T:
        """Every one-shot operation passes through here."""
        return await action()

    def _reader(self, reader: Reader, path: str) -> Reader:
        return reader

    def _writer(self, writer: Writer, path: str) -> Writer:
        return writer

    async def open(self) -> None:
        await self._call("open", "", self.inner.open, repeatable=True)

    async def close(self) -> None:
        await self.inner.close()

    async def stat(self, path: str) -> Entry:
        return await self._call("stat", path, lambda: self.inner.stat(path), repeatable=True)

    def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        return self.inner.scan(path, recursive=recursive)

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        reader = await self._call(
            "read", path, lambda: self.inner.begin_read(path, offset=offset, pin=pin), repeatable=True
        )
        return self._reader(reader, path)

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        writer = await self._call("write", path, lambda: self.inner.begin_write(path, options), repeatable=False)
        return self._writer(writer, path)

    async def delete(self, path: str) -> None:
        await self._call("delete", path, lambda: self.inner.delete(path), repeatable=True)

    async def rename(self, path: str, target: str, *, overwrite: bool = False) -> None:
        await self._call("rename", path, lambda: self.inner.rename(path, target, overwrite=overwrite), repeatable=False)

    async def server_copy(self, address: str, path: str, options: WriteOptions, *, pin: Entry | None = None) -> Entry:
        return await self._call(
            "copy", path, lambda: self.inner.server_copy(address, path, options, pin=pin), repeatable=False
        )

    def address(self, path: str) -> str:
        return self.inner.address(path)

    async def make_dir(self, path: str) -> None:
        await self._call("mkdir", path, lambda: self.inner.make_dir(path), repeatable=True)

    async def remove_dir(self, path: str) -> None:
        await self._call("rmdir", path, lambda: self.inner.remove_dir(path), repeatable=True)

    async def delete_pinned(self, path: str, pin: Entry) -> None:
        await self._call("delete", path, lambda: self.inner.delete_pinned(path, pin), repeatable=True)

    async def set_tags(self, path: str, tags: Mapping[str, str], *, pin: Entry) -> None:
        await self._call("tag", path, lambda: self.inner.set_tags(path, tags, pin=pin), repeatable=True)

    async def digests(self, paths: Sequence[str], algorithm: str) -> list[str]:
        return await self._call("hash", paths[0], lambda: self.inner.digests(paths, algorithm), repeatable=True)

    async def discard(self, checkpoint: bytes) -> None:
        await self._call("discard", "", lambda: self.inner.discard(checkpoint), repeatable=True)

    def leftover(self, path: str, attempt: str) -> bytes | None:
        return self.inner.leftover(path, attempt)

    async def is_staged(self, checkpoint: bytes) -> bool | None:
        return await self._call("stat", "", lambda: self.inner.is_staged(checkpoint), repeatable=True)

    def leftovers(self, path: str) -> AsyncGenerator[Leftover]:
        return self.inner.leftovers(path)

    async def server(self) -> str | None:
        return await self._call("ask", "", self.inner.server, repeatable=True)

    async def prove_times(self, entry: Entry) -> None:
        await self._call("ask", entry.path, lambda: self.inner.prove_times(entry), repeatable=True)

    async def remarks(self) -> Sequence[tuple[str, str, str | None]]:
        return await self._call("ask", "", self.inner.remarks, repeatable=True)


class LayeredReader(Reader):
    def __init__(self, inner: Reader) -> None:
        self.inner = inner
        self.entry = inner.entry

    @property
    def changed(self) -> bool | None:  # type: ignore[override]
        return self.inner.changed

    async def read(self) -> bytes:
        return await self.inner.read()

    async def close(self) -> None:
        await self.inner.close()


class LayeredWriter(Writer):
    def __init__(self, inner: Writer) -> None:
        self.inner = inner
        self.offset = inner.offset

    @property
    def left(self) -> CrossdockError | None:  # type: ignore[override]
        return self.inner.left

    async def write(self, data: bytes) -> None:
        await self.inner.write(data)

    async def seal(self, expect: Expect) -> bytes | None:
        return await self.inner.seal(expect)

    async def commit(self, expect: Expect) -> Entry:
        return await self.inner.commit(expect)

    async def abort(self) -> None:
        await self.inner.abort()

    def checkpoint(self) -> bytes | None:
        return self.inner.checkpoint()

    async def suspend(self) -> None:
        await self.inner.suspend()

    async def leave(self) -> None:
        await self.inner.leave()


class Observe(Layer):
    """Logs every operation at DEBUG; a read or a write once, when it ends.

    What a backend lets out that is no error of ours, such as a mistake in reading what a server says, ends that
    operation as `BackendFault`, and not all that goes on beside it.
    """

    def _log(self, operation: str, path: str, started: float, outcome: str) -> None:
        log.debug("%s %s:%r %.3fs %s", operation, self.endpoint, path, time.monotonic() - started, outcome)

    async def _call(self, operation: str, path: str, action: Callable[[], Awaitable[T]], *, repeatable: bool) -> T:
        started = time.monotonic()
        try:
            result = await action()
        except BaseException as error:
            self._log(operation, path, started, repr(error))
            if _is_foreign(error):
                raise _fault(error, operation, self.endpoint, path) from error
            raise
        if operation not in ("read", "write"):
            self._log(operation, path, started, "done")
        return result

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        started, count = time.monotonic(), 0
        try:
            async with aclosing(self.inner.scan(path, recursive=recursive)) as pages:
                async for page in pages:
                    count += len(page)
                    yield page
        except Exception as error:
            self._log("list", path, started, repr(error))
            if _is_foreign(error):
                raise _fault(error, "list", self.endpoint, path) from error
            raise
        self._log("list", path, started, f"{count} entries")

    def _reader(self, reader: Reader, path: str) -> Reader:
        return _ObservedReader(reader, _Told(self._log, self.endpoint, path))

    def _writer(self, writer: Writer, path: str) -> Writer:
        return _ObservedWriter(writer, _Told(self._log, self.endpoint, path))


def _is_foreign(error: BaseException) -> bool:
    """Whether it is for nobody but who made the backend. Memory that ran out is the whole program's affair."""
    return isinstance(error, Exception) and not isinstance(error, (CrossdockError, MemoryError))


def _fault(error: BaseException, operation: str, endpoint: str, path: str) -> BackendFault:
    log.info("%s %s:%r failed", operation, endpoint, path, exc_info=error)
    return BackendFault(f"{type(error).__name__}: {error}", operation=operation, endpoint=endpoint, path=path)


class _Told:
    """Tells once how a stream ended."""

    def __init__(self, log: Callable[[str, str, float, str], None], endpoint: str, path: str) -> None:
        self._log, self._endpoint, self._path, self._started = log, endpoint, path, time.monotonic()
        self.size, self._told = 0, False

    def ended(self, operation: str, error: BaseException | None = None) -> None:
        """Checks the error, but not that of who goes on with what has ended."""
        if self._told:
            return
        self._told = True
        self._log(operation, self._path, self._started, f"{self.size} bytes" if error is None else repr(error))
        if error is not None:
            self.check(operation, error)

    def check(self, operation: str, error: BaseException) -> None:
        """Raises `BackendFault` for an error that is foreign to who called."""
        if _is_foreign(error):
            raise _fault(error, operation, self._endpoint, self._path) from error


class _ObservedReader(LayeredReader):
    def __init__(self, inner: Reader, told: _Told) -> None:
        super().__init__(inner)
        self._told = told

    async def read(self) -> bytes:
        try:
            data = await self.inner.read()
        except BaseException as error:
            self._told.ended("read", error)
            raise
        self._told.size += len(data)
        return data

    async def close(self) -> None:
        await self.inner.close()
        self._told.ended("read")


class _ObservedWriter(LayeredWriter):
    def __init__(self, inner: Writer, told: _Told) -> None:
        super().__init__(inner)
        self._told = told

    async def write(self, data: bytes) -> None:
        try:
            await self.inner.write(data)
        except BaseException as error:
            self._told.ended("write", error)
            raise
        self._told.size += len(data)

    async def seal(self, expect: Expect) -> bytes | None:
        try:
            return await self.inner.seal(expect)
        except BaseException as error:
            self._told.ended("write", error)
            raise

    async def commit(self, expect: Expect) -> Entry:
        try:
            entry = await self.inner.commit(expect)
        except BaseException as error:
            self._told.ended("write", error)
            raise
        self._told.ended("write")
        return entry

    async def abort(self) -> None:
        try:
            await self.inner.abort()
        except Exception as error:
            self._told.check("abort", error)
            raise
        self._told.ended("abort")
