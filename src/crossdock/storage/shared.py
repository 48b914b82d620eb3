"""One read for several writers: who asks for the same file at the same time gets the chunks of one stream.

The slowest decides the speed, within reason: a reader that holds the others up for longer than `patience` goes on with
a stream of its own, at the offset it has reached.
"""

from __future__ import annotations

import asyncio
from collections import deque

from crossdock.storage.base import Backend, Entry, Reader
from crossdock.storage.layers import Layer
from crossdock.storage.limits import with_a_writer
from crossdock.storage.retry import OF_THE_WHOLE

__all__ = ["SharedReads"]

_DEPTH = 8
"""Chunks kept for those who are behind. Memory of a shared read: so many chunks, whatever the number of readers."""

_Key = tuple[str, str]


class SharedReads(Layer):
    """The outermost layer where a file may have several destinations.

    Who is to read a file that others read as well says so by `expect`; without it, a read is a read. He says so by
    `over` when he has read, or will not. A stream ends with the last who said that he is to read: others who were
    expected, and never came, keep nothing of it.
    """

    def __init__(self, inner: Backend, *, patience: float = 2.0) -> None:
        super().__init__(inner)
        self._patience = patience
        self._streams: dict[_Key, _Stream] = {}

    @property
    def sharing(self) -> bool:
        """Whether any file is being read for several."""
        return bool(self._streams)

    def expect(self, path: str, pin: Entry, readers: int) -> None:
        """The task that calls this is to read this very file, as one of so many: one task each, the others to come.

        For a file that is read for others already, whatever the number is, it joins them.
        """
        key = (path, pin.fingerprint)
        stream = self._streams.get(key)
        if stream is None:
            if readers < 2:
                return
            stream = self._streams[key] = _Stream(self.inner, path, pin, readers, self._patience)
        stream.members.add(asyncio.current_task())

    async def over(self, path: str, pin: Entry) -> None:
        """The task that calls this reads the file no more."""
        key = (path, pin.fingerprint)
        stream = self._streams.get(key)
        if stream is not None and stream.leave():
            del self._streams[key]
            await stream.close()

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        if self._streams and pin is not None and not offset:
            stream = self._streams.get((path, pin.fingerprint))
            if stream is not None and (reader := await stream.join()) is not None:
                return reader
        return await self.inner.begin_read(path, offset=offset, pin=pin)

    async def close(self) -> None:
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            await stream.close()
        await super().close()


class _Stream:
    """One reader, pumped into a window of chunks by a task of its own, so that no reader's end is another's."""

    def __init__(self, backend: Backend, path: str, pin: Entry, readers: int, patience: float) -> None:
        self.backend, self.path, self.pin = backend, path, pin
        self.missing, self._patience = readers, patience
        self.first = 0
        """Number of the first chunk that is kept."""
        self.chunks: deque[bytes] = deque()
        self.views: set[_View] = set()
        self.failure: Exception | None = None
        self.ended = False
        self.deserted = False
        """It was given up before its end, for want of readers."""
        self.reader: Reader | None = None
        self.news = asyncio.Condition()
        self.members: set[asyncio.Task[object] | None] = set()
        """Who said that he is to read, and not yet that it is over."""
        self._here: set[asyncio.Task[object] | None] = set()
        self._pump: asyncio.Task[None] | None = None

    async def join(self) -> Reader | None:
        """None: it is too late, or it is this task's second read, or nobody said that it would come."""
        task = asyncio.current_task()
        if self.first or self.deserted or task in self._here or task not in self.members or self.failure is not None:
            return None
        self._here.add(task)
        self.missing -= 1
        view = _View(self)
        self.views.add(view)
        if self._pump is None:
            self._pump = asyncio.create_task(self._run())
        async with self.news:
            self.news.notify_all()
            try:
                await self.news.wait_for(lambda: self.reader is not None or self.failure is not None)
            except BaseException:
                self.views.discard(view)
                raise
        if self.reader is None:
            self.views.discard(view)
            return None
        view.entry = self.reader.entry
        return view

    def leave(self) -> bool:
        """True for the last one."""
        task = asyncio.current_task()
        if task not in self.members:
            return False
        self.members.discard(task)
        if task not in self._here:
            self.missing -= 1
        return not self.members

    @property
    def can_go_on(self) -> bool:
        """Each reader alone, at the offset it has reached."""
        return self.backend.capabilities.read_offset and not isinstance(self.failure, OF_THE_WHOLE)

    async def close(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    async def _run(self) -> None:
        reader: Reader | None = None
        try:
            reader = await self.backend.begin_read(self.path, pin=self.pin)
            await self._tell(reader=reader)
            while not self.ended:
                await self._room()
                if not self.views and self.missing <= 0:
                    self.deserted = True
                    break
                data = await reader.read()
                self.ended = not data
                await self._tell(chunk=data)
        except Exception as error:  # noqa: BLE001 (met by those who read; else they would wait for ever)
            self.failure = error
            await self._tell()
        finally:
            if reader is not None:
                await reader.close()

    async def _tell(self, *, reader: Reader | None = None, chunk: bytes = b"") -> None:
        async with self.news:
            self.reader = reader or self.reader
            if chunk:
                self.chunks.append(chunk)
            self.news.notify_all()

    async def _room(self) -> None:
        """Wait until those who are behind have caught up, or have been waited for long enough."""
        async with self.news:
            self._trim()
            if len(self.chunks) < _DEPTH:
                return
            try:
                async with asyncio.timeout(self._patience):
                    await self.news.wait_for(lambda: self._trim() < _DEPTH)
            except TimeoutError:
                if self.missing > 0:
                    # Who has not come by now reads for himself.
                    self.missing = 0
                for view in self.views:
                    # One that has read nothing, as it waits for its writer, can begin anywhere.
                    alone = self.backend.capabilities.read_offset or not view.at
                    view.detached = view.detached or (alone and view.at <= self.first)
                await self.news.wait_for(lambda: self._trim() < _DEPTH or not self.views)

    def _trim(self) -> int:
        """Drop what everybody has; the number of chunks that are left."""
        behind = [view.at for view in self.views if not view.detached]
        least = 0 if self.missing > 0 else min(behind, default=self.first + len(self.chunks))
        while self.chunks and self.first < least:
            self.chunks.popleft()
            self.first += 1
        return len(self.chunks)


class _View(Reader):
    """What one of several sees of a stream."""

    entry: Entry

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self.at = 0
        self.detached = False
        self._offset = 0
        self._own: Reader | None = None

    @property
    def changed(self) -> bool | None:  # type: ignore[override]
        reader = self._own or self._stream.reader
        return None if reader is None else reader.changed

    async def read(self) -> bytes:
        stream = self._stream
        if self._own is None:
            async with stream.news:
                await stream.news.wait_for(self._can_go_on)
                if self._has_next():
                    data = stream.chunks[self.at - stream.first]
                    self.at += 1
                    self._offset += len(data)
                    stream.news.notify_all()
                    return data
                if stream.ended and not self.detached:
                    return b""
                if stream.failure is not None and not stream.can_go_on:
                    raise stream.failure
                stream.views.discard(self)
                stream.news.notify_all()
            with with_a_writer():
                self._own = await stream.backend.begin_read(stream.path, offset=self._offset, pin=self.entry)
        data = await self._own.read()
        self._offset += len(data)
        return data

    def _has_next(self) -> bool:
        return not self.detached and 0 <= self.at - self._stream.first < len(self._stream.chunks)

    def _can_go_on(self) -> bool:
        stream = self._stream
        return self._has_next() or self.detached or stream.ended or stream.failure is not None

    async def close(self) -> None:
        stream = self._stream
        stream.views.discard(self)
        try:
            async with stream.news:
                stream.news.notify_all()
        finally:
            if self._own is not None:
                await self._own.close()
