"""Layers that hold back: so many at once, so many bytes a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from typing import Self, TypeVar

from crossdock.storage.base import Backend, Entry, Expect, Reader, WriteOptions, Writer
from crossdock.storage.layers import Layer, LayeredReader, LayeredWriter
from crossdock.storage.rate import TokenBucket

__all__ = ["Limit", "Throttle", "with_a_writer"]

T = TypeVar("T")

_has_writer = ContextVar("_has_writer", default=False)


@contextmanager
def with_a_writer() -> Iterator[None]:
    """What is opened to read in this block is for somebody who has a writer: he waits for no reader who has none."""
    before = _has_writer.set(True)
    try:
        yield
    finally:
        _has_writer.reset(before)


class Limit(Layer):
    """At most `slots` open streams and running operations at once, listings included; fewer than 3 count as 3.

    Whoever copies holds a reader while waiting for a writer, and both while looking at the source again. So that those
    in possession never wait for each other, the last slot is no stream's, and the last but one no reader's, except for
    a reader that is opened `with_a_writer`.

    A scan holds its slot only while the next page is being fetched, so that moving what is listed cannot wait for
    the listing to end.
    """

    def __init__(self, inner: Backend, slots: int) -> None:
        super().__init__(inner)
        slots = max(slots, 3)
        self._slots = asyncio.Semaphore(slots)
        self._for_writing = (asyncio.Semaphore(slots - 1), self._slots)
        self._for_reading = (asyncio.Semaphore(slots - 2), *self._for_writing)

    async def _call(self, operation: str, path: str, action: Callable[[], Awaitable[T]], *, repeatable: bool) -> T:
        async with self._slots:
            return await action()

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        async with aclosing(self.inner.scan(path, recursive=recursive)) as pages:
            while True:
                async with self._slots:
                    page = await anext(pages, None)
                if page is None:
                    return
                yield page

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        slot = await _Slot.taken(*((self._slots,) if _has_writer.get() else self._for_reading))
        try:
            return _SlotReader(await self.inner.begin_read(path, offset=offset, pin=pin), slot)
        except BaseException:
            slot.give_back()
            raise

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        slot = await _Slot.taken(*self._for_writing)
        try:
            return _SlotWriter(await self.inner.begin_write(path, options), slot)
        except BaseException:
            slot.give_back()
            raise


class _Slot:
    """One of each of several semaphores, always taken in the same order."""

    def __init__(self) -> None:
        self._taken: list[asyncio.Semaphore] = []

    @classmethod
    async def taken(cls, *semaphores: asyncio.Semaphore) -> Self:
        slot = cls()
        try:
            for semaphore in semaphores:
                await semaphore.acquire()
                slot._taken.append(semaphore)
        except BaseException:
            slot.give_back()
            raise
        return slot

    def give_back(self) -> None:
        """Safe to repeat."""
        while self._taken:
            self._taken.pop().release()


class _SlotReader(LayeredReader):
    def __init__(self, inner: Reader, slot: _Slot) -> None:
        super().__init__(inner)
        self._slot = slot

    async def read(self) -> bytes:
        data = await self.inner.read()
        if not data:
            # Whoever has read all goes on to other things, which may be another read here.
            self._slot.give_back()
        return data

    async def close(self) -> None:
        try:
            await self.inner.close()
        finally:
            self._slot.give_back()


class _SlotWriter(LayeredWriter):
    def __init__(self, inner: Writer, slot: _Slot) -> None:
        super().__init__(inner)
        self._slot = slot

    async def commit(self, expect: Expect) -> Entry:
        entry = await self.inner.commit(expect)
        self._slot.give_back()
        return entry

    async def abort(self) -> None:
        try:
            await self.inner.abort()
        finally:
            self._slot.give_back()

    async def suspend(self) -> None:
        try:
            await self.inner.suspend()
        finally:
            self._slot.give_back()

    async def leave(self) -> None:
        try:
            await self.inner.leave()
        finally:
            self._slot.give_back()


class Throttle(Layer):
    """Bounds the bytes a second that are read from and written to an endpoint."""

    def __init__(self, inner: Backend, bucket: TokenBucket) -> None:
        super().__init__(inner)
        self._bucket = bucket

    def _reader(self, reader: Reader, path: str) -> Reader:
        return _ThrottledReader(reader, self._bucket)

    def _writer(self, writer: Writer, path: str) -> Writer:
        return _ThrottledWriter(writer, self._bucket)


class _ThrottledReader(LayeredReader):
    def __init__(self, inner: Reader, bucket: TokenBucket) -> None:
        super().__init__(inner)
        self._bucket = bucket

    async def read(self) -> bytes:
        data = await self.inner.read()
        await self._bucket.take(len(data))
        return data


class _ThrottledWriter(LayeredWriter):
    def __init__(self, inner: Writer, bucket: TokenBucket) -> None:
        super().__init__(inner)
        self._bucket = bucket

    async def write(self, data: bytes) -> None:
        await self._bucket.take(len(data))
        await self.inner.write(data)
