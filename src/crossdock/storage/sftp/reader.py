"""Reading: requests ahead of the reader, data strictly in order, and every byte accounted for."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from crossdock.errors import NotAFile, SourceChanged, Truncated
from crossdock.storage.base import Entry, Reader
from crossdock.storage.sftp import codec
from crossdock.storage.sftp.calls import Calls, entry_of
from crossdock.storage.sftp.codec import Violation, parse_attrs, parse_status, text
from crossdock.storage.sftp.connect import Connection
from crossdock.storage.sftp.faults import Translate
from crossdock.storage.sftp.pool import Pool
from crossdock.storage.sftp.reasons import explain
from crossdock.storage.sftp.wire import DEFAULT_REQUEST, Reply, Status, checked

__all__ = ["SftpReader", "open_reader"]

log = logging.getLogger("crossdock.storage.sftp")

_CAREFUL_REQUEST = 16 * 1024
_SMALLEST_REQUEST = 4 * 1024


class _Ahead:
    """One request under way: `length` bytes at `offset`."""

    __slots__ = ("future", "length", "offset")

    def __init__(self, offset: int, length: int, future: asyncio.Future[Reply]) -> None:
        self.offset, self.length, self.future = offset, length, future


def request_size(pool: Pool, connection: Connection) -> int:
    """Bytes to ask for at once: the server's limit, or what this server has been found to serve."""
    limit = connection.session.read_limit
    return min(limit, pool.read_size) if pool.read_size else limit


async def open_reader(calls: Calls, path: str, offset: int, pin: Entry | None) -> SftpReader:
    """OPEN, then FSTAT and the first READs in one go."""
    name = calls.full(path, "read")
    if pin is not None and pin.kind in ("dir", "other"):
        # Opening a pipe would block the server.
        raise calls.backend.error(NotAFile, "read", path, "it is no regular file")
    pool = calls.pool
    connection = await pool.acquire(stream=True, wait=True, size=pin.size if pin is not None else None)
    session = connection.session
    with Translate("read", calls.backend.endpoint, path):
        try:
            handle = await session.open(name, codec.FOR_READING)
        except Status as error:
            try:
                raise await explain(calls, session, "read", path, error) from error
            finally:
                pool.release(connection)
        except BaseException:
            pool.release(connection)
            raise
        reader = SftpReader(calls, pool, connection, path, handle, offset)
        described = session.request(codec.FSTAT, handle)
        try:
            reader.first(pin.size if pin is not None else None)
            reader.described(await _entry(calls, connection, path, described), pin)
        except BaseException:
            described.cancel()
            reader.let_go()
            raise
    return reader


async def _entry(calls: Calls, connection: Connection, path: str, described: asyncio.Future[Reply]) -> Entry | None:
    """What was opened; None: it may be read, and not be looked at."""
    try:
        attrs = parse_attrs(checked(await described, codec.ATTRS))[0]
    except Status as error:
        # Servers without FSTAT can still be asked by name.
        log.debug("no FSTAT for %s:%r: %s", calls.backend.endpoint, path, error)
        try:
            attrs = await connection.session.attrs(codec.STAT, text(calls.full(path, "read")))
        except Status:
            return None
    return entry_of(path, attrs)


class SftpReader(Reader):
    """Up to `window` bytes are requested ahead; a short answer's gap is asked for again before anything is skipped."""

    def __init__(self, calls: Calls, pool: Pool, connection: Connection, path: str, handle: bytes, offset: int) -> None:
        self._calls, self._pool, self._connection = calls, pool, connection
        self._endpoint = calls.backend.endpoint
        self._session = connection.session
        self._path, self._handle = path, handle
        self._chunk = request_size(pool, connection)
        self._window = calls.settings.window
        self._single, self._alone = pool.careful, False
        self._start = self._next = self._reached = offset
        self._queue: deque[_Ahead] = deque()
        self._ahead = 0
        self._size: int | None = None
        self._ended = False
        self._released = False
        self._again: asyncio.Future[Reply] | None = None
        self._blind = False

    def first(self, size: int | None) -> None:
        """The first requests, before the size is known for certain: all of a small file, and one byte's worth more."""
        if size is not None and size - self._start <= self._chunk:
            if size > self._start:
                self._ask(self._start, size - self._start)
        else:
            self._ask(self._start, self._chunk)
        if not self._single or not self._queue:
            self._ask(self._next, self._chunk)
            if self._calls.openssh and size is not None and self._next > size:
                # Others may answer it before the reads, as node's ssh2 does: it would not see what changed meanwhile.
                self._look_again()

    def described(self, entry: Entry | None, pin: Entry | None) -> None:
        """Take note of what was opened. Raises `NotAFile`, `SourceChanged`."""
        if entry is None:
            self._blind = True
            entry = pin or Entry(path=self._path)
        if entry.kind in ("dir", "other"):
            what = "it is a folder" if entry.kind == "dir" else "it is no regular file"
            raise self._calls.backend.error(NotAFile, "read", self._path, what)
        if pin is not None and (
            (None not in (pin.size, entry.size) and pin.size != entry.size)
            or (None not in (pin.modified, entry.modified) and pin.modified != entry.modified)
        ):
            reason = "the file is no longer the one that was listed"
            raise SourceChanged.at("read", self._endpoint, self._path, reason, hint="list it again")
        self.entry = entry
        self._size = entry.size

    def _look_again(self) -> None:
        """Ask, behind the last read, what the name stands for by then."""
        if self._again is None and not self._blind:
            name = text(self._calls.full(self._path, "read"))
            self._again = self._session.request(codec.STAT, name)

    async def _looked_again(self) -> None:
        self._look_again()
        if self._again is None or self._blind:
            self.changed = False
            return
        try:
            attrs = parse_attrs(checked(await self._again, codec.ATTRS))[0]
        except Status as error:
            # IBM Sterling has no name any more for a file that it gives out once: what was opened can still be asked.
            try:
                attrs = await self._session.attrs(codec.FSTAT, self._handle)
            except Status:
                self.changed = True if error.code == codec.NO_SUCH_FILE else None
                return
        now = entry_of(self._path, attrs)
        self.changed = (now.size, now.modified) != (self.entry.size, self.entry.modified)
        if self._size is not None and now.size is not None and self._size < self._reached < now.size:
            reason = "the file grows while it is read"
            raise SourceChanged.at("read", self._endpoint, self._path, reason, hint="wait until its writer is done")

    def _ask(self, offset: int, length: int) -> None:
        self._queue.append(_Ahead(offset, length, self._session.read(self._handle, offset, length)))
        self._next = offset + length
        self._ahead += length

    def _fill(self) -> None:
        size = self._size
        while not self._queue or (self._ahead < self._window and not self._single):
            if size is None or self._next > size:
                # Past the known end one request at a time is enough, to see whether the file has grown.
                if size is not None and self._queue:
                    self._look_again()
                    return
                length = self._chunk
            elif self._next == size:
                length = self._chunk
            else:
                length = min(self._chunk, size - self._next)
            self._ask(self._next, length)

    async def read(self) -> bytes:
        if self._ended:
            return b""
        with Translate("read", self._endpoint, self._path):
            while True:
                self._fill()
                head = self._queue[0]
                kind, data = await head.future
                if kind != codec.DATA:
                    if await self._refused(kind, data):
                        continue
                    await self._end(head, (kind, data))
                    return b""
                self._queue.popleft()
                self._ahead -= head.length
                # What was refused among others, and is given alone, shows what the server bears.
                self._pool.careful = self._pool.careful or self._alone
                got = len(data)
                if not 0 < got <= head.length:
                    raise Violation(f"{got} bytes where 1 to {head.length} were due")
                self._reached = head.offset + got
                if got < head.length:
                    await self._short(head, got)
                return data

    async def _refused(self, kind: int, reply: bytes) -> bool:
        """Some bear only a few requests at once, and fail the others: these are made again, one at a time."""
        if self._single or len(self._queue) < 2 or kind != codec.STATUS or parse_status(reply)[0] != codec.FAILURE:
            return False
        await asyncio.wait([ahead.future for ahead in self._queue])
        self._next, self._ahead = self._queue[0].offset, 0
        self._queue.clear()
        self._single = self._alone = True
        return True

    async def _short(self, head: _Ahead, got: int) -> None:
        """Ask for the rest, unless the file ends here: then a later request tells, and is under way already."""
        gap, rest = head.offset + got, head.length - got
        if gap == self._size and self._queue:
            kind, payload = await self._queue[0].future
            if kind == codec.STATUS and codec.parse_status(payload)[0] == codec.EOF:
                return
        elif self._size is not None and gap < self._size and got >= _SMALLEST_REQUEST:
            # It serves less than it was asked for: ask this server for that much from now on.
            self._chunk = self._pool.read_size = min(self._chunk, got)
        self._queue.appendleft(_Ahead(gap, rest, self._session.read(self._handle, gap, rest)))
        self._ahead += rest

    async def _end(self, head: _Ahead, reply: Reply) -> None:
        """The server said end of file, or failed."""
        try:
            checked(reply, codec.DATA)
        except Status as error:
            if error.code != codec.EOF:
                raise await explain(self._calls, self._session, "read", self._path, error) from error
        if self._size is not None and self._reached < self._size and self._start < self._size:
            await self._looked_again()
            if self.changed:
                # No fault of the server's: nothing is learned of it, which would slow down all that follows.
                reason = f"the file was replaced or cut while it was read: {self._reached} of {self._size} bytes came"
                raise SourceChanged.at("read", self._endpoint, self._path, reason, hint="wait until its writer is done")
            raise self._truncated(f"the server ended it after {self._reached} of {self._size} bytes")
        for later in list(self._queue)[1:]:
            if (await later.future)[0] == codec.DATA:
                raise self._truncated(f"the server left out bytes {head.offset} to {later.offset}")
        self._queue.clear()
        self._ended = True
        await self._looked_again()

    def _truncated(self, reason: str) -> Truncated:
        self._pool.careful = True
        self._pool.read_size = DEFAULT_REQUEST if self._chunk > DEFAULT_REQUEST else _CAREFUL_REQUEST
        hint = "it is tried again with smaller requests, one at a time"
        return Truncated.at("read", self._endpoint, self._path, reason, hint=hint)

    async def close(self) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Drop what is under way, close the handle without waiting, and return the connection."""
        if self._released:
            return
        self._released = self._ended = True
        for ahead in self._queue:
            ahead.future.cancel()
        if self._again is not None:
            self._again.cancel()
        self._queue.clear()
        self._calls.close_quietly(self._session, self._handle, self._path)
        self._pool.release(self._connection)
