"""Writing: a small file in one hop to the thread, a large one in chunks, published by a rename."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

from crossdock.errors import NotFound, ProtocolViolation
from crossdock.storage.base import Entry, Expect, WriteOptions
from crossdock.storage.ftp import asking, changing, data, stamps
from crossdock.storage.ftp.calls import Calls
from crossdock.storage.ftp.connection import Connection
from crossdock.storage.ftp.digests import Own, difference, own_digest
from crossdock.storage.ftp.faults import Translate, kind_of_refusal, no_rename
from crossdock.storage.ftp.securing import about_session
from crossdock.storage.ftp.swapping import swap
from crossdock.storage.ftp.tls import SessionRefused
from crossdock.storage.ftp.wire import IsFolder, Lost, Refused, Reply, Violation
from crossdock.storage.staging import StagedWriter, Stored, lasts, taken

__all__ = ["FtpWriter"]

log = logging.getLogger("crossdock.storage.ftp")

T = TypeVar("T")

_CHUNK, _WINDOW = 512 * 1024, 4 * 1024 * 1024
"""The latter: bytes on their way through the thread."""


class FtpWriter(StagedWriter):
    """Nothing is sent before there is a chunk's worth, or the end."""

    def __init__(self, calls: Calls, path: str, options: WriteOptions) -> None:
        super().__init__(calls.backend.endpoint, path, options)
        self._calls, self._pool = calls, calls.pool
        self._direct = calls.settings.staging == "none"
        if self._direct:
            self.temporary = path
        self._target = calls.full(self.temporary, "write")
        self._final = calls.full(path, "write")
        self._connection: Connection | None = None
        self._stream: data.Data | None = None
        self._touched = options.resume is not None
        self._before: Entry | None = None
        """What was there, where the file is written under its final name."""
        self._parts: list[bytes] = []
        self._buffered = 0
        self._jobs: deque[tuple[Future[None], int]] = deque()
        self._under_way = 0
        self._sent = 0
        self._staged = 0
        """Bytes under the temporary's name when the write was resumed; beyond `offset` they are written over."""
        self._expect = Expect()
        self._own: Own | None = None
        self._at_once = self._published = False
        self._refusal: Refused | None = None

    # -- in the thread ----------------------------------------------------------------------------------------------

    def _begin(self, connection: Connection, parts: list[bytes]) -> None:
        """Open the stream, with the folders that it needs, and send what there is."""
        if self._direct and not self._touched:
            self._before = asking.look(connection, self._target)
            if self._before is not None and self._before.kind == "dir":
                raise IsFolder("a folder has this name")
        self._touched = True
        above = self._target.rpartition(b"/")[0]
        if connection.features.careless and above not in self._calls.folders:
            changing.make_folders(connection, above)
            self._calls.folders.add(above)
        self._own = own_digest(connection) if self._calls.settings.verify == "digest" and not self.offset else None
        try:
            self._stream = self._opened(connection)
        except Refused as error:
            if self.offset or error.reply.code < 450:
                raise
            # Even if none was missing: somebody else may have made it meanwhile.
            changing.make_folders(connection, above)
            self._stream = self._opened(connection)
        self._send(connection, parts)

    def _opened(self, connection: Connection) -> data.Data:
        if not self.offset:
            return data.begin(connection, b"STOR " + self._target)
        if self.offset == self._staged:
            # Servers that forbid to restart an upload in its middle may still append.
            try:
                return data.begin(connection, b"APPE " + self._target)
            except Refused as error:
                log.debug("no APPE: %s", error)
        try:
            if changing.keeps_beginning(connection, self._target):
                return data.begin(connection, b"STOR " + self._target, offset=self.offset)
            reason = "the server loses what is before the place where a file is gone on with (REST, STOR)"
        except Refused as error:
            reason = f"the server offers REST and refuses it ({error})"
        self._calls.cannot_append()
        hint = "it is tried again from the start"
        raise self._calls.backend.error(ProtocolViolation, "resume", self.path, reason, hint=hint)

    def _send(self, connection: Connection, parts: list[bytes]) -> None:
        assert self._stream is not None
        try:
            for part in parts:
                self._stream.write(part)
                self._sent += len(part)
                if self._own is not None:
                    self._own.update(part)
        except Lost as error:
            raise self._reason(connection, error) from error
        connection.used = time.monotonic()

    def _reason(self, connection: Connection, error: Lost) -> Exception:
        """A server that ends a transfer says why: the disk is full, or the TLS session is not the one it wants."""
        reply = None if connection.broken else connection.stop_transfer()
        if reply is None or reply.good:
            return error
        if about_session(connection, reply):
            return SessionRefused(str(reply))
        return self._late(Refused(b"STOR", reply))

    def _late(self, error: Refused) -> Exception:
        """A folder that was there, and is not any more: the next attempt makes it again."""
        if kind_of_refusal(error.reply) is not NotFound:
            return error
        self._calls.folders.discard(self._target.rpartition(b"/")[0])
        return Lost(f"the folder is gone ({error})")

    def _complete(self, connection: Connection, parts: list[bytes]) -> Stored:
        """Send the rest, hear the server's last word, set the time, and look at what is stored."""
        stored = self._in_one_go(connection, parts) if self._at_once and connection.queues else None
        if stored is None:
            if self._stream is None:
                self._begin(connection, parts)
            else:
                self._send(connection, parts)
            assert self._stream is not None
            self._end(connection, self._stream)
        return self._looked(connection, stored)

    def _looked(self, connection: Connection, stored: Stored | None = None) -> Stored:
        if stored is None:
            # The time is set along with it.
            stamp, questions = self._asks(connection)
            stored = self._answered(connection, len(stamp), stamps.set_time(connection, stamp, questions))
        if self._at_once and stored.size in (None, self.size):
            self._move(connection, stored)
        return stored

    def _in_one_go(self, connection: Connection, parts: list[bytes]) -> Stored | None:
        """All of a small file; None if the server wants it otherwise: step by step it says why."""
        if self.offset or connection.features.digests or not (connection.invites and data.invitation(connection)):
            return None
        stamp, questions = self._asks(connection)
        if stamp and stamps.untried(connection):
            return None
        self._touched = True
        try:
            replies = data.send_whole(connection, b"STOR " + self._target, parts, *stamp, *questions)
        except Lost as error:
            raise self._reason(connection, error) from error
        except Refused as error:
            raise self._late(error) from error
        return None if replies is None else self._answered(connection, len(stamp), replies)

    def _move(self, connection: Connection, stored: Stored) -> None:
        """Publish without another hop, unless the server has something against it, which `_rename` looks into."""
        if connection.broken:
            raise Lost("the transfer was given up")
        try:
            self._to_final(connection, stored)
            self._published = True
        except Refused as error:
            self._refusal = error

    def _to_final(self, connection: Connection, stored: Stored) -> None:
        if connection.features.careless and asking.kind_of(connection, self._final) == "dir":
            raise IsFolder("a folder has this name")
        changing.move(connection, self._target, self._final, was=stored.entry)

    def _end(self, connection: Connection, stream: data.Data) -> None:
        try:
            stream.end()
        except Lost as error:
            raise self._reason(connection, error) from error
        try:
            data.finish(connection, stream, patience=data.LAST_WORD)
        except Refused as error:
            raise self._late(error) from error
        self._stream = None

    def _asks(self, connection: Connection) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        looks = self._calls.settings.verify != "none"
        stamp = stamps.stamp(connection, self._target, self.options.modified)
        return stamp, asking.questions(connection, self._target) if looks else ()

    def _answered(self, connection: Connection, stamps: int, replies: Sequence[Reply]) -> Stored:
        if stamps and not replies[0].good:
            self._calls.not_stamped(self.path, replies[0])
        if self._calls.settings.verify == "none":
            return Stored(None)
        found = asking.understood(connection, self._target, replies[stamps:])
        if found is None:
            raise taken(self._calls.backend, self.temporary, self.path)
        if found.kind == "dir":
            raise IsFolder("the server takes what was sent for a folder")
        if stamps and replies[0].good and not lasts(self.options.modified, found.modified):
            self._calls.cannot_stamp()
        self._compare(connection)
        return Stored(found.size, replace(found, path=self.path, kind="file"))

    def _compare(self, connection: Connection) -> None:
        expected = dict(self._expect.digests)
        if self._own is not None:
            expected[self._own.algorithm] = self._own.hexdigest()
        wrong = difference(connection, self._target, expected) if self._calls.settings.verify == "digest" else None
        if wrong is not None:
            raise self._mismatch(wrong)

    # -- on the event loop ------------------------------------------------------------------------------------------

    async def reopen(self) -> None:
        """Look at what an earlier attempt staged, and go on from there. Raises `NotFound` if it is gone."""
        found = await self._calls.call("resume", self.path, asking.look, self._target)
        if found is None:
            raise self._calls.backend.error(
                NotFound, "resume", self.path, "the staged bytes are gone", hint="start the file again"
            )
        self._staged = found.size or 0
        # What was on the wire when the attempt ended may not have arrived; what did is a beginning of the file.
        self.offset = self.size = min(self.offset, self._staged)

    async def _append(self, data: bytes) -> None:
        self._parts.append(data)
        self._buffered += len(data)
        if self._buffered < _CHUNK:
            return
        with Translate("write", self.endpoint, self.path):
            if self._stream is None:
                await self._with_ladder(self._begin, self._taken()[0])
                return
            assert self._connection is not None
            while self._jobs and (self._under_way + self._buffered > _WINDOW or self._jobs[0][0].done()):
                await self._settle()
            parts, size = self._taken()
            self._jobs.append((self._connection.begin(self._send, self._connection, parts), size))
            self._under_way += size

    def _taken(self) -> tuple[list[bytes], int]:
        found, self._parts = self._parts, []
        size, self._buffered = self._buffered, 0
        return found, size

    async def _settle(self) -> None:
        assert self._connection is not None
        future, size = self._jobs.popleft()
        await self._too_late(self._connection.wait(future))
        self._under_way -= size

    async def _too_late(self, work: Awaitable[T]) -> T:
        """What comes after the first chunk: if the session is refused now, the next attempt goes another way."""
        try:
            return await work
        except SessionRefused as error:
            if self._connection is not None and self._pool.step_down(self._connection):
                raise self._calls.lost("write", self.path, str(error)) from error
            raise

    async def _with_ladder(self, work: object, parts: list[bytes]) -> object:
        pool = self._pool
        while True:
            if self._connection is None:
                self._connection = await pool.acquire("write")
            connection = self._connection
            try:
                return await connection.run(work, connection, parts)  # type: ignore[arg-type]
            except SessionRefused:
                self._stream, self._sent = None, 0
                if not pool.step_down(connection):
                    raise
                self._release()
            except Refused as error:
                raise self._calls.explained(error, "write", self.path) or error from error

    def _safe_size(self) -> int:
        # What the kernel has taken. It may not all arrive: `reopen` looks.
        return self.offset + self._sent if self._sent and self._calls.backend.capabilities.resume_write else 0

    async def seal(self, expect: Expect) -> bytes | None:
        # What is still here whole is sent and published in one hop: to be told of it sooner would prove nothing anyway.
        return None if self._stream is None and self._sealed is None else await super().seal(expect)

    async def _verified(self, expect: Expect) -> Stored:
        self._expect = expect
        return await super()._verified(expect)

    async def _seal(self) -> Stored:
        with Translate("write", self.endpoint, self.path):
            while self._jobs:
                await self._settle()
            parts, _ = self._taken()
            try:
                if self._stream is None or self._connection is None:
                    self._at_once = not self._direct
                    found = await self._with_ladder(self._complete, parts)
                else:
                    found = await self._too_late(self._connection.run(self._complete, self._connection, parts))
            except stamps.Ended:
                found = await self._go_on()
        assert isinstance(found, Stored)
        return found

    async def _go_on(self) -> object:
        """The file is there, whole, but the session has ended as its time was set: another one takes it from here."""
        self._calls.lost_at_stamp()
        self._release()
        try:
            return await self._with_ladder(lambda connection, _: self._looked(connection), [])
        except stamps.Ended:
            return await self._go_on()

    async def _publish(self, stored: Stored) -> Entry:
        assert self._connection is not None
        if not self._direct and not self._published:
            with Translate("write", self.endpoint, self.path):
                await self._rename(self._connection, stored)
        self._release()
        return stored.entry or Entry(path=self.path)

    async def _rename(self, connection: Connection, stored: Stored) -> None:
        calls = self._calls
        try:
            if self._refusal is not None:
                raise self._refusal
            await connection.run(self._to_final, connection, stored)
            return
        except Refused as error:
            there = await connection.run(asking.kind_of, connection, self._final)
            if there == "dir":
                raise IsFolder("a folder has this name") from error
            if error.command == "RNFR" and kind_of_refusal(error.reply) is NotFound:
                raise taken(calls.backend, self.temporary, self.path) from error
            if there is None or error.command == "RNFR":
                explained = calls.explained(error, "write", self.path)
                raise explained or no_rename(error, self.endpoint, self.path) from error
        await swap(calls, connection, self.temporary, self.path, self.attempt, self._release)

    # -- giving up --------------------------------------------------------------------------------------------------

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)

    def _drop_stream(self) -> None:
        """The connection goes with the stream, once the server has said that it has ended it."""
        self._jobs.clear()
        self._taken()
        self._stream = None

    async def _remove(self) -> None:
        connection = self._connection
        try:
            self._drop_stream()
            if connection is not None and connection.pending:
                connection.broken = True
                connection.end_data()
                await connection.run(connection.stop_transfer)
            self._release()
            if self._touched:
                await self._calls.call("abort", self.path, self._undo)
        finally:
            self._release()

    def _undo(self, connection: Connection) -> None:
        # A file that the server did not let us replace is not ours to remove.
        if self._before is None or asking.look(connection, self._target) != self._before:
            changing.remove(connection, self._target)

    async def _let_go(self) -> None:
        connection, stream = self._connection, self._stream
        try:
            if connection is not None and stream is not None and connection.pending and connection.alive_in_transfer:
                await connection.run(self._end, connection, stream)
        except (Lost, Refused, SessionRefused, Violation) as error:
            log.info("%s:%r is kept as far as it arrived: %s", self.endpoint, self.temporary, error)
            if connection is not None:
                connection.broken = True
        finally:
            self._drop_stream()
            self._release()
