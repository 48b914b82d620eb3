"""Layers that hold back: so many at once, so many bytes a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from crossdock.storage.base import Backend, Entry, Expect, Reader, WriteOptions, Writer
from crossdock.storage.layers import Layer, LayeredReader, LayeredWriter
from crossdock.storage.rate import TokenBucket

__all__ = ["Limit", "Throttle"]

T = TypeVar("T")


class Limit(Layer):
    """At most `slots` open streams and running operations at once, listings included.

    A scan holds its slot only while the next page is being fetched, so that moving what is listed cannot wait for
    the listing to end.
    """

    def __init__(self, inner: Backend, slots: int) -> None:
        super().__init__(inner)
        self._slots = asyncio.Semaphore(slots)

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
        await self._slots.acquire()
        try:
            return _SlotReader(await self.inner.begin_read(path, offset=offset, pin=pin), self._slots)
        except BaseException:
            self._slots.release()
            raise

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        await self._slots.acquire()
        try:
            return _SlotWriter(await self.inner.begin_write(path, options), self._slots)
        except BaseException:
            self._slots.release()
            raise


class _Slot:
    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots: asyncio.Semaphore | None = slots

    def give_back(self) -> None:
        if self._slots is not None:
            self._slots.release()
            self._slots = None


class _SlotReader(LayeredReader):
    def __init__(self, inner: Reader, slots: asyncio.Semaphore) -> None:
        super().__init__(inner)
        self._slot = _Slot(slots)

    async def close(self) -> None:
        try:
            await self.inner.close()
        finally:
            self._slot.give_back()


class _SlotWriter(LayeredWriter):
    def __init__(self, inner: Writer, slots: asyncio.Semaphore) -> None:
        super().__init__(inner)
        self._slot = _Slot(slots)

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
