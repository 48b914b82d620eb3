"""One SFTP channel: requests out, replies in, matched by id. No task per request; a reply completes a future.

Requests made within one turn of the event loop leave in one channel write. A cancelled waiter does not disturb the
stream: its late reply is dropped by id, and a handle that arrives for nobody is closed.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import asyncssh

from crossdock.storage.sftp import codec
from crossdock.storage.sftp.codec import OFFSET_LENGTH, U32, Attrs, Violation, text
from crossdock.storage.sftp.replies import Lost, Reply, SameHandle, Silent, Status, checked, handle_of
from crossdock.storage.sftp.transport import Outlet, outlet

__all__ = ["DEFAULT_REQUEST", "Lost", "Reply", "SameHandle", "Session", "Silent", "Status", "checked", "handle_of"]

_LONGEST_PACKET = 256 * 1024 + 1024
_SMALLEST_LIMIT, _LARGEST_LIMIT = 4096, 255 * 1024
DEFAULT_REQUEST = 32 * 1024
"""What every server must take (draft-ietf-secsh-filexfer-02 §3)."""
_FLUSH_AT = 64 * 1024
_NEVER_BEGAN = "the server ended the SFTP session before it began; this account may have no SFTP"
_HEAD = struct.Struct(">IBI")
_DATA_HEAD = 13
"""Bytes before the data in a DATA packet: length, type, id, length of the data."""
_REPLIES = frozenset((codec.STATUS, codec.HANDLE, codec.DATA, codec.NAME, codec.ATTRS, codec.EXTENDED_REPLY))


class Session(asyncssh.SSHClientSession[bytes]):
    """An SFTP session on one channel. `timeout`: seconds of silence, while replies are owed, before it is given up."""

    def __init__(self, timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._chan: Any = None
        self._pending: dict[int, asyncio.Future[Reply]] = {}
        self._last_id = 0
        self._outlet: Outlet | None = None
        self._buffer = bytearray()
        self._missing = 4
        self._rest = 0
        self._pieces: list[bytes | memoryview] = []
        self._owner: asyncio.Future[Reply] | None = None
        self._out: list[bytes | memoryview] = []
        self._out_size = 0
        self._flushing = False
        self._paused: asyncio.Event = asyncio.Event()
        self._paused.set()
        self._version: asyncio.Future[bytes] | None = None
        self._began = False
        self._watch: asyncio.TimerHandle | None = None
        self._heard = self._loop.time()
        self._written = self._taken = 0
        self._orphans: set[asyncio.Future[Reply]] = set()
        self._opening: dict[int, bytes] = {}
        self._handles: dict[bytes, bytes] = {}
        self.failure: Exception | None = None
        self.on_end: Callable[[], None] | None = None
        """Called once when the session can no longer be used."""
        self.extensions: dict[bytes, bytes] = {}
        self.file_systems: dict[bytes, str] = {}
        """Folder → which it is on; kept by `disks`."""
        self.read_limit = self.write_limit = DEFAULT_REQUEST
        self.load = 0
        """Streams and operations under way; kept by the pool."""
        self.parting = 0
        """Of these, writers that only wait in order to give up."""
        self.vague: bool | None = None
        """Of what is missing the server only says that it failed. None: not yet known."""

    # -- asyncssh's side ------------------------------------------------------------------------------------------

    def connection_made(self, chan: Any) -> None:
        self._chan = chan
        self._outlet = outlet(chan)
        chan.set_write_buffer_limits(high=2 << 20, low=1 << 20)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(Lost(str(exc) if exc else "the server closed the connection" if self._began else _NEVER_BEGAN))

    def eof_received(self) -> bool:
        self.fail(Lost("the server ended the SFTP session" if self._began else _NEVER_BEGAN))
        return False

    def pause_writing(self) -> None:
        self._paused.clear()

    def resume_writing(self) -> None:
        self._paused.set()

    def data_received(self, data: bytes | memoryview, datatype: int | None) -> None:
        if datatype is not None or self.failure is not None:
            return
        self._heard = self._loop.time()
        if self._rest:
            size = len(data)
            if size < self._rest:
                self._pieces.append(data)
                self._rest -= size
                return
            view = memoryview(data)
            self._complete(view[: self._rest])
            if size == self._rest:
                self._rest = 0
                return
            data, self._rest = view[self._rest :], 0
        view, buffer = memoryview(data), self._buffer
        if buffer:
            buffer += view
            if len(buffer) < self._missing:
                return
            view, self._buffer = memoryview(buffer), bytearray()
        try:
            self._packets(view)
        except Violation as error:
            self.fail(error)

    def _packets(self, view: memoryview) -> None:
        """Take out every whole packet, and keep what is left."""
        at, total = 0, len(view)
        self._missing = 4
        while total - at >= 4:
            length = U32.unpack_from(view, at)[0]
            if not 5 <= length <= _LONGEST_PACKET:
                raise _too_long(length, bytes(view[at : at + 64]))
            end = at + 4 + length
            if end > total:
                if total - at >= _DATA_HEAD and view[at + 4] == codec.DATA and self._version is None:
                    self._begin(view[at:], end - total)
                    return
                data = total - at < 5 or view[at + 4] == codec.DATA
                self._missing = min(length + 4, _DATA_HEAD) if data else length + 4
                break
            self._packet(view[at + 4], view[at + 5 : end])
            at = end
        if at < total:
            self._buffer = bytearray(view[at:])

    def _begin(self, view: memoryview, rest: int) -> None:
        """Data of which the beginning is here: what comes is collected, and joined once."""
        _, _, reply_id = _HEAD.unpack_from(view)
        if U32.unpack_from(view, 9)[0] != len(view) + rest - _DATA_HEAD:
            raise _other_length()
        self._owner = self._pending.pop(reply_id, None)
        if self._owner is None:
            raise _unasked(reply_id)
        self._pieces.append(view[_DATA_HEAD:])
        self._rest = rest

    def _complete(self, last: memoryview) -> None:
        owner, self._owner = self._owner, None
        self._pieces.append(last)
        data = b"".join(self._pieces)
        self._pieces.clear()
        if owner is not None and not owner.done():
            owner.set_result((codec.DATA, data))

    def _packet(self, kind: int, body: memoryview) -> None:
        if kind in _REPLIES and self._version is None:
            data = kind == codec.DATA
            if data and (len(body) < 8 or U32.unpack_from(body, 4)[0] != len(body) - 8):
                raise _other_length()
            if kind == codec.STATUS and len(body) < 8:
                raise Violation("a status without a code")
            reply_id = U32.unpack_from(body)[0]
            if self._opening and (path := self._opening.pop(reply_id, None)) is not None and kind == codec.HANDLE:
                self._opened(path, bytes(body[4:]))
            future = self._pending.pop(reply_id, None)
            if future is None:
                raise _unasked(reply_id)
            if not future.done():
                future.set_result((kind, bytes(body[8:] if data else body[4:])))
        elif kind == codec.VERSION and self._version is not None:
            if not self._version.done():
                self._version.set_result(bytes(body))
            self._version = None
        else:
            raise Violation(f"a packet of type {kind} out of place")

    def _opened(self, path: bytes, handle: bytes) -> None:
        # Before any reply that follows: it might hold another file's bytes.
        if self._handles.setdefault(handle, path) != path:
            raise SameHandle("the server gave one handle to two open files, and mixes them up")

    # -- our side -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Agree on version 3, learn the extensions and limits. Raises `Violation`, `Lost`."""
        waiting = self._version = self._loop.create_future()
        try:
            self._send([_HEAD.pack(5, codec.INIT, 3)])
        except OSError as error:
            # A program that is no SFTP server may have ended by now; what it said is known.
            raise self.failure or Lost(_NEVER_BEGAN) from error
        self._guard()
        version, self.extensions = codec.parse_version(await waiting)
        self._began = True
        if version != 3:
            raise Violation(f"the server speaks SFTP version {version}, crossdock version 3")
        if b"limits@openssh.com" in self.extensions:
            try:
                found = checked(await self.extended(b"limits@openssh.com"), codec.EXTENDED_REPLY)
            except Status:
                return
            if len(found) >= 32:
                reads, writes = (int.from_bytes(found[at : at + 8], "big") for at in (8, 16))
                self.read_limit = _sane_limit(reads)
                self.write_limit = _sane_limit(writes)

    @property
    def alive(self) -> bool:
        return self.failure is None

    @property
    def tells_late_times(self) -> bool:
        """Apache MINA takes times after 2038, and ends each session that is to tell one: its folder is not listed."""
        return b"acl-supported" not in self.extensions

    def request(self, kind: int, *parts: bytes | memoryview) -> asyncio.Future[Reply]:
        """Send; the future holds the reply, `Lost` or `Violation`. Cancel it to drop the reply."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self.failure is not None:
            _fail(future, self.failure)
            return future
        number = self._last_id = (self._last_id + 1) & 0xFFFFFFFF
        while number in self._pending:
            number = self._last_id = (self._last_id + 1) & 0xFFFFFFFF
        if not self._pending:
            self._heard = self._loop.time()
            if self._watch is None:
                self._guard()
        self._pending[number] = future
        if kind == codec.CLOSE:
            self._handles.pop(bytes(parts[0]), None)
        elif kind in (codec.OPEN, codec.OPENDIR):
            self._opening[number] = bytes(parts[0])
        length = 5 + sum(map(len, parts))
        self._out += (_HEAD.pack(length, kind, number), *parts)
        self._out_size += length + 4
        if self._out_size >= _FLUSH_AT:
            self._flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return future

    def extended(self, name: bytes, *parts: bytes) -> asyncio.Future[Reply]:
        return self.request(codec.EXTENDED, text(name), *parts)

    def read(self, handle: bytes, offset: int, length: int) -> asyncio.Future[Reply]:
        return self.request(codec.READ, handle, OFFSET_LENGTH.pack(offset, length))

    def write(self, handle: bytes, offset: int, size: int, *parts: bytes | memoryview) -> asyncio.Future[Reply]:
        """`size` bytes, in as many parts as they come in; they must not change before the reply."""
        return self.request(codec.WRITE, handle, OFFSET_LENGTH.pack(offset, size), *parts)

    async def open(self, path: bytes, flags: int) -> bytes:
        """A file's handle. Cancelled meanwhile, the handle is closed when it arrives."""
        return await self._handle(self.request(codec.OPEN, text(path), U32.pack(flags), codec.NO_ATTRS))

    async def open_folder(self, path: bytes) -> bytes:
        return await self._handle(self.request(codec.OPENDIR, text(path)))

    async def _handle(self, future: asyncio.Future[Reply]) -> bytes:
        try:
            return handle_of(await asyncio.shield(future))
        except asyncio.CancelledError:
            self._orphans.add(future)
            future.add_done_callback(self._close_orphan)
            raise

    def _close_orphan(self, future: asyncio.Future[Reply]) -> None:
        self._orphans.discard(future)
        if future.exception() is None and future.result()[0] == codec.HANDLE:
            self.request(codec.CLOSE, future.result()[1])

    async def settled(self) -> None:
        """Wait until no handle can arrive any more for an opener that was cancelled."""
        if self._orphans:
            await asyncio.wait(set(self._orphans))

    async def status(self, kind: int, *parts: bytes) -> None:
        """A request that is answered by a status alone. Raises `Status`."""
        checked(await self.request(kind, *parts), codec.STATUS)

    async def attrs(self, kind: int, *parts: bytes) -> Attrs:
        return codec.parse_attrs(checked(await self.request(kind, *parts), codec.ATTRS))[0]

    async def writable(self) -> None:
        """Wait until the channel has room: what is not yet with the network stays bounded."""
        if not self._paused.is_set():
            await self._paused.wait()
        if self.failure is not None:
            raise self.failure

    def _flush(self) -> None:
        self._flushing = False
        if self._out and self.failure is None:
            out, self._out = self._out, []
            self._written, self._out_size = self._written + self._out_size, 0
            try:
                self._send(out)
            except OSError as error:
                self.fail(Lost(str(error)))

    def _send(self, parts: list[bytes | memoryview]) -> None:
        if self._outlet is not None:
            self._outlet.write(parts)
        else:
            self._chan.write(b"".join(parts))

    def _granted(self) -> int:
        """Bytes that the server has made room for: it grows as the server takes what we send, fast or slowly."""
        return self._written - int(self._chan.get_write_buffer_size()) + getattr(self._chan, "_send_window", 0)

    def _guard(self) -> None:
        self._taken = self._granted()
        self._watch = self._loop.call_later(self._timeout, self._check)

    def _check(self) -> None:
        """Silence is no byte heard, and none of ours taken either: a slow upload is not silent."""
        self._watch = None
        if self.failure is not None or not (self._pending or self._owner or self._version):
            return
        if (taken := self._granted()) != self._taken:
            self._taken, self._heard = taken, self._loop.time()
        left = self._heard + self._timeout - self._loop.time()
        if left <= 0.001:
            self.fail(Silent(f"no answer for {self._timeout:g} seconds"))
        else:
            self._watch = self._loop.call_later(left, self._check)

    def fail(self, error: Exception) -> None:
        """End the session: every waiter gets `error`."""
        if self.failure is not None:
            return
        self.failure = error
        if self._watch is not None:
            self._watch.cancel()
        waiting, self._pending = self._pending, {}
        for future in waiting.values():
            _fail(future, error)
        if self._version is not None:
            _fail(self._version, error)
            self._version = None
        if self._owner is not None:
            _fail(self._owner, error)
            self._owner = None
        self._out.clear()
        self._pieces.clear()
        self._paused.set()
        if self.on_end is not None:
            self.on_end()


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        # Marked as seen: a read-ahead that nobody waits for is no reason to log.
        future.exception()


def _sane_limit(value: int) -> int:
    """0 means that the server does not say; it may also say what we would not allow it."""
    return DEFAULT_REQUEST if value < _SMALLEST_LIMIT else min(value, _LARGEST_LIMIT)


def _other_length() -> Violation:
    return Violation("data of another length than announced")


def _unasked(reply_id: int) -> Violation:
    return Violation(f"a reply to request {reply_id}, which is not open")


def _too_long(length: int, start: bytes) -> Violation:
    if start.isascii() and min(start[:4]) >= ord("\t"):
        shown = start.decode("ascii").strip().split("\n")[0]
        return Violation(f"instead of SFTP the server sends text ({shown!r}); a login script there prints it")
    return Violation(f"a packet of {length} bytes")
