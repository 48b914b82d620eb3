"""Writing: a small file in three round trips, a large one pipelined in order, published by a rename."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import replace

from crossdock.errors import (
    ConnectionFailed,
    NotAFile,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    StorageError,
    Unsupported,
)
from crossdock.storage.base import Entry, Expect, WriteOptions
from crossdock.storage.sftp import codec
from crossdock.storage.sftp.calls import Calls, entry_of, kind_of, kind_told
from crossdock.storage.sftp.changing import make_parents, publish
from crossdock.storage.sftp.codec import Attrs, Violation, parse_attrs, text
from crossdock.storage.sftp.connect import Connection
from crossdock.storage.sftp.disks import Asked
from crossdock.storage.sftp.faults import Translate
from crossdock.storage.sftp.parting import catch_up, reconnected
from crossdock.storage.sftp.reasons import explain, lacks_folder
from crossdock.storage.sftp.replies import is_ok
from crossdock.storage.sftp.resuming import Witness, kept, shortened, witness
from crossdock.storage.sftp.stamping import Stamp
from crossdock.storage.sftp.wire import Lost, Reply, Session, Status, checked
from crossdock.storage.staging import StagedWriter, Stored, taken, token_of

__all__ = ["SftpWriter"]

log = logging.getLogger("crossdock.storage.sftp")

_FSYNC = b"fsync@openssh.com"
_NO_RESUMING = (PermissionDenied, ProtocolViolation, Unsupported)


class SftpWriter(StagedWriter):
    """Nothing is sent before there is a full request's worth, or the end: then OPEN, and the rest follows."""

    def __init__(self, calls: Calls, path: str, options: WriteOptions) -> None:
        super().__init__(calls.backend.endpoint, path, options)
        self._calls, self._pool = calls, calls.pool
        self._direct = calls.settings.staging == "none"
        if self._direct:
            self.temporary = path
        self._target = calls.full(self.temporary, "write")
        self._final = calls.full(path, "write")
        self._stamp = Stamp(calls, self._target, options.modified)
        self._connection: Connection | None = None
        self._handle: bytes | None = None
        self._touched, self._made = options.resume is not None, False
        self._parts: deque[bytes | memoryview] = deque()
        self._buffered = 0
        self._sent = self._acked = self.offset
        self._queue: deque[tuple[asyncio.Future[Reply], int]] = deque()
        self._limit, self._spoilt = 0, False
        self._found = 0
        """Bytes of the temporary when it was opened to be resumed."""
        self._witness: Witness | None = None
        self._disk = ""
        self._there: asyncio.Future[Reply] | None = None
        """What has the final name, where the server might put a file in place of a folder."""

    # -- the connection -------------------------------------------------------------------------------------------

    async def _session(self) -> Session:
        if self._connection is None:
            self._connection = await self._pool.acquire(stream=True, size=self.options.size)
            self._limit = self._connection.session.write_limit
            self._calls.late_times &= self._connection.session.tells_late_times
        return self._connection.session

    def _release(self) -> None:
        if self._connection is not None:
            self._pool.release(self._connection)
            self._connection = None

    async def _why(self, session: Session, error: Status) -> StorageError:
        return await explain(self._calls, session, "write", self.path, error, creates=True)

    async def _open(self) -> bytes:
        if self._handle is not None:
            return self._handle
        session = await self._session()
        # What is made is made empty: node's ssh2 knows the flags of fopen(3) alone, where "wx" empties as well.
        flags = codec.FOR_WRITING | codec.CREATE | codec.TRUNCATE
        if self.options.resume is not None:
            self._witness = await witness(self._calls, session, self._target, self.path, self.offset)
            # "r+": by the right to write alone, Erlang's server empties the file, and ssh2 knows no such flags.
            flags = codec.FOR_READING | codec.FOR_WRITING
        elif not (self._direct and self.options.overwrite):
            flags |= codec.EXCLUSIVE
        self._touched = True
        try:
            handle = await session.open(self._target, flags)
        except Status as error:
            self._touched = self.options.resume is not None
            if self.options.resume is not None and error.code not in codec.MISSING:
                # What is written there may not be read.
                flags = codec.FOR_WRITING
            elif self.options.resume is None and await lacks_folder(session, self._target, error):
                await make_parents(self._calls, session, self.path, "write")
            elif error.code != codec.PERMISSION_DENIED or self._calls.openssh:
                # Else it is Maverick's word, and somebody may have made the folder meanwhile.
                raise await self._why(session, error) from error
            self._touched = True
            try:
                handle = await session.open(self._target, flags)
            except Status as again:
                self._touched = self.options.resume is not None
                found = await self._why(session, again)
                if self.options.resume is not None and isinstance(found, _NO_RESUMING):
                    # In front of object stores (AWS Transfer Family, Azure), what is there is not opened to be changed.
                    self._calls.cannot_resume()
                    reason = f"the server does not go on with a file: {found.reason}"
                    found = self._calls.backend.error(Unsupported, "resume", self.path, reason)
                raise found from again
        self._made, self._handle = True, handle
        if self.options.resume is not None:
            await self._continue(session, handle)
        return handle

    async def reopen(self) -> None:
        """Open what an earlier attempt staged. Raises `NotFound` if it is gone, `Unsupported` if it is of no use."""
        try:
            with Translate("resume", self.endpoint, self.path):
                await self._open()
        except (NotFound, Unsupported):
            # What may be there is of no use to anybody, and nobody would come back for it.
            await self.abort()
            raise
        except BaseException:
            await self._let_go()
            raise

    async def _continue(self, session: Session, handle: bytes) -> None:
        stored = (await self._described(session, session.request(codec.FSTAT, handle))).size or 0
        if stored < self.offset:
            raise self._calls.backend.error(
                NotFound, "resume", self.path, f"{stored} of {self.offset} staged bytes are left", hint="start it again"
            )
        # What was sent but not acknowledged is written over; only what is still beyond the end then is cut off.
        self._found = stored

    # -- writing --------------------------------------------------------------------------------------------------

    async def _append(self, data: bytes) -> None:
        with Translate("write", self.endpoint, self.path):
            if self._connection is None:
                await self._session()
            self._parts.append(data)
            self._buffered += len(data)
            if self._buffered >= self._limit:
                await self._send(whole=False)

    async def _send(self, *, whole: bool) -> None:
        """Send full requests; with `whole` also what is left."""
        session = await self._session()
        handle = await self._open()
        while self._buffered >= self._limit or (whole and self._buffered):
            size = min(self._limit, self._buffered)
            await self._room(size)
            await session.writable()
            parts = self._cut(size)
            self._queue.append((session.write(handle, self._sent, size, *parts), size))
            self._sent += size
            self._buffered -= size

    def _cut(self, size: int) -> list[bytes | memoryview]:
        """The next `size` bytes, which are there, without copying them."""
        found: list[bytes | memoryview] = []
        while size:
            part = self._parts.popleft()
            if len(part) > size:
                view = memoryview(part)
                self._parts.appendleft(view[size:])
                part = view[:size]
            found.append(part)
            size -= len(part)
        return found

    async def _room(self, needed: int) -> None:
        """Wait until `needed` more bytes fit the window; errors of earlier requests come to light here."""
        window = max(self._calls.settings.window, self._limit)
        while self._queue and (self._queue[0][0].done() or self._sent - self._acked + needed > window):
            await self._acknowledge()

    async def _acknowledge(self) -> None:
        future, length = self._queue[0]
        try:
            checked(await future, codec.STATUS)
        except Status as error:
            assert self._connection is not None
            raise await self._why(self._connection.session, error) from error
        self._queue.popleft()
        self._acked += length

    def _safe_size(self) -> int:
        while self._queue and is_ok(self._queue[0][0]):
            self._acked += self._queue.popleft()[1]
        return self._acked if self._calls.backend.capabilities.resume_write and not self._spoilt else 0

    async def seal(self, expect: Expect) -> bytes | None:
        await self._verified(expect)
        return None if self._direct else token_of(self.path, self.attempt, self.size, disk=self._disk)

    # -- the end --------------------------------------------------------------------------------------------------

    async def _seal(self) -> Stored:
        try:
            return await self._flushed()
        except ConnectionFailed:
            if self._stamp.is_late:
                log.warning("%s ended the session, perhaps over a time after 2038: none is set again", self.endpoint)
                # To look at what was staged would end the next session, too.
                self._calls.late_times, self._spoilt = False, True
            raise

    async def _flushed(self) -> Stored:
        with Translate("write", self.endpoint, self.path):
            session = await self._session()
            handle = await self._open()
            # A small file's data, and the last of a large one's, leaves together with what follows.
            await self._send(whole=True)
            looks = self._calls.settings.verify == "size"
            if self._found > self._sent:
                await self._cut_off(session, handle)
            self._stamp.send(session, handle)
            synced = self._sync(session, handle)
            disk = Asked(session, self._target.rpartition(b"/")[0] or b"/") if self._calls.openssh else None
            described = session.request(codec.FSTAT, handle) if looks else None
            if looks and not self._direct and not self._calls.openssh:
                self._there = session.request(codec.LSTAT, text(self._final))
            await self._before_close(self._stamp.sent, synced, described)
            closed = session.request(codec.CLOSE, handle)
            self._handle = None
            while self._queue:
                await self._acknowledge()
            stamped = self._stamp.sent
            restamp = stamped is not None and not await self._tolerate(stamped) and self._calls.keeps_times
            if synced is not None:
                await self._synced(session, synced)
            self._disk = await disk.told() if disk is not None else ""
            try:
                checked(await closed, codec.STATUS)
            except Status as error:
                raise await self._why(session, error) from error
            try:
                with Translate("write", self.endpoint, self.path):
                    attrs = await self._looked_at(session, described, restamp=restamp)
            except NotFound as error:
                raise taken(self._calls.backend, self.temporary, self.path) from error
        if attrs is None:
            return Stored(None)
        return Stored(attrs.size, replace(entry_of(self.path, attrs), kind="file"))

    async def _looked_at(
        self, session: Session, described: asyncio.Future[Reply] | None, *, restamp: bool
    ) -> Attrs | None:
        """What is stored, now that it is closed, with its time. None: it may not be looked at."""
        attrs = await self._described(session, described) if described is not None else None
        if self._witness is not None and not await kept(self._calls, session, self._target, self._witness):
            self._calls.cannot_resume()
            raise self._mismatch("the server does not keep what was staged when it is opened again")
        if restamp or (attrs is not None and not self._stamp.settled(attrs, self._sent)):
            attrs = await self._stamp.by_name(session, attrs)
        return attrs

    async def _before_close(self, *others: asyncio.Future[Reply] | None) -> None:
        """Where several requests are answered at once (node's ssh2), writes behind CLOSE end in another file."""
        waiting = [future for future, _ in self._queue] + [future for future in others if future is not None]
        if waiting and not self._calls.openssh:
            await asyncio.wait(waiting)

    async def _cut_off(self, session: Session, handle: bytes) -> None:
        """Shorten the temporary to what was written. Raises `IntegrityError` if the server spoils it."""
        while self._queue:
            await self._acknowledge()
        if not await shortened(self._calls, session, self._target, handle, self._sent):
            raise self._mismatch("the server does not shorten a file without spoiling it")

    def _sync(self, session: Session, handle: bytes) -> asyncio.Future[Reply] | None:
        wanted = self._calls.settings.fsync and _FSYNC in session.extensions
        return session.extended(_FSYNC, handle) if wanted else None

    async def _tolerate(self, future: asyncio.Future[Reply], what: str = "") -> bool:
        try:
            checked(await future, codec.STATUS)
        except Status as error:
            if what:
                log.info("the server does not %s %s:%r: %s", what, self.endpoint, self.path, error)
            return False
        return True

    async def _synced(self, session: Session, future: asyncio.Future[Reply]) -> None:
        try:
            checked(await future, codec.STATUS)
        except Status as error:
            if error.code != codec.OP_UNSUPPORTED:
                raise await self._why(session, error) from error

    async def _described(self, session: Session, future: asyncio.Future[Reply]) -> Attrs:
        try:
            return parse_attrs(checked(await future, codec.ATTRS))[0]
        except Status:
            try:
                return await session.attrs(codec.LSTAT, text(self._target))
            except Status as error:
                raise await self._why(session, error) from error

    async def _publish(self, stored: Stored) -> Entry:
        with Translate("write", self.endpoint, self.path):
            session = await self._session()
            if not self._direct:
                try:
                    if self._there is not None:
                        kind, payload = await self._there
                        if kind == codec.ATTRS and await self._is_folder(session, payload):
                            raise self._calls.backend.error(NotAFile, "write", self.path, "a folder has this name")
                    overwrite = self.options.overwrite
                    await publish(self._calls, session, self.temporary, self.path, self.attempt, overwrite=overwrite)
                except NotFound as error:
                    raise taken(self._calls.backend, self.temporary, self.path) from error
                except (PermissionDenied, Unsupported) as error:
                    raise type(error)(
                        f"the file was written, and renaming it is refused: {error.reason}",
                        operation="write",
                        endpoint=self.endpoint,
                        path=self.path,
                        hint="write staging: none at this endpoint (partial files are seen)"
                        + (f", or {error.hint}" if isinstance(error, PermissionDenied) else ""),
                    ) from error
        self._release()
        return stored.entry or Entry(path=self.path)

    async def _is_folder(self, session: Session, described: bytes) -> bool:
        return await kind_told(session, self._final, parse_attrs(described)[0]) == "dir"

    # -- giving up ------------------------------------------------------------------------------------------------

    async def _remove(self) -> None:
        try:
            with Translate("abort", self.endpoint, self.path):
                await self._clean_up()
        finally:
            self._release()

    async def _clean_up(self) -> None:
        self._parts.clear()
        if not self._touched:
            return
        if self._direct and not self._made:
            reason = "whether the server has made it, or has another's file there, was not heard"
            raise self._calls.backend.error(ConnectionFailed, "abort", self.path, reason)
        before = self._connection
        if before is not None:
            await catch_up(self._pool, before, [future for future, _ in self._queue])
        await self._before_close()
        for future, _ in self._queue:
            future.cancel()
        self._queue.clear()
        if self._connection is not None and not self._connection.session.alive:
            self._release()
            self._handle = None
        self._connection = self._connection or await reconnected(self._pool, before, self.endpoint)
        session = self._connection.session
        if self._handle is not None:
            handle, self._handle = self._handle, None
            await self._tolerate(session.request(codec.CLOSE, handle), "close")
        else:
            await session.settled()
        try:
            await session.status(codec.REMOVE, text(self._target))
        except Status as error:
            vague = error.code == codec.FAILURE and self._calls.settings.verify == "size"
            if error.code not in codec.MISSING and not (vague and await kind_of(session, self._target) is None):
                raise

    async def _let_go(self) -> None:
        try:
            if self._connection is not None and self._connection.session.alive and self._handle is not None:
                await self._before_close()
                session, handle, self._handle = self._connection.session, self._handle, None
                synced = self._sync(session, handle)
                closed = session.request(codec.CLOSE, handle)
                if synced is not None:
                    await self._tolerate(synced, "flush")
                await self._tolerate(closed, "close")
        except (Lost, Violation) as error:
            log.info("%s:%r is kept as far as it was acknowledged: %s", self.endpoint, self.path, error)
        finally:
            for future, _ in self._queue:
                future.cancel()
            self._release()
