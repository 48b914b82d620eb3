"""Reading: the size is known beforehand, the server's last word is heard, and the file looked at again at the end."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from dataclasses import replace

from crossdock.errors import NotAFile, SourceChanged, Truncated
from crossdock.storage.base import Entry, Reader
from crossdock.storage.ftp import data, together
from crossdock.storage.ftp.asking import questions, understood
from crossdock.storage.ftp.calls import Calls
from crossdock.storage.ftp.connection import Connection
from crossdock.storage.ftp.dialects import parse_size
from crossdock.storage.ftp.faults import Translate
from crossdock.storage.ftp.securing import Unsecured
from crossdock.storage.ftp.tls import SessionRefused
from crossdock.storage.ftp.wire import IsFolder, Lost, Missing, Refused, Violation

__all__ = ["FtpReader"]

_CHUNK = 1024 * 1024
_AHEAD = 2
"""Chunks being received, or waiting, while the reader's caller is busy with one."""
_TURNS = 3
"""Attempts at a file that is replaced meanwhile, as long as nothing of it was handed out."""


class FtpReader(Reader):
    """A file that fits in a chunk is looked at, fetched and looked at again in one hop to the thread."""

    def __init__(self, calls: Calls, path: str, offset: int) -> None:
        self._calls, self._path, self._offset = calls, path, offset
        self._endpoint = calls.backend.endpoint
        self._name = calls.full(path, "read")
        self._position = self._delivered = offset
        self._first: bytes | None = None
        self._queue: deque[Future[bytes]] = deque()
        # Kept: whoever closes the endpoint first leaves the pool, which others of the account may go on using.
        self._pool = calls.pool
        self._connection: Connection | None = None
        self._stream: data.Data | None = None
        self._behind = False
        """The file is looked at again without being asked again."""
        self._ended = False

    async def open(self, pin: Entry | None) -> None:
        pool = self._pool
        with Translate("read", self._endpoint, self._path):
            while True:
                connection = self._connection = await pool.acquire("read")
                try:
                    self._first = await connection.run(self._begin, connection, pin)
                    break
                except SessionRefused:
                    self._position = self._offset
                    if not pool.step_down(connection):
                        raise
                    self._release()
        self._after()

    # -- in the thread ----------------------------------------------------------------------------------------------

    def _begin(self, connection: Connection, pin: Entry | None) -> bytes:
        """The first chunk. A file that fits in it, and was not the one that was looked at, is fetched again."""
        errors: list[SourceChanged | Truncated] = []
        while True:
            try:
                return self._opened(connection, pin)
            except (SourceChanged, Truncated) as error:
                errors.append(error)
                if (pin is not None and isinstance(error, SourceChanged)) or not connection.alive:
                    raise
            if len(errors) == _TURNS:
                # Of a file that was seen to change, fewer bytes than expected are no wonder.
                raise next((error for error in errors if isinstance(error, SourceChanged)), errors[-1])
            self._position, self._ended = self._offset, False

    def _opened(self, connection: Connection, pin: Entry | None) -> bytes:
        asked = questions(connection, self._name)
        replies = connection.wire.ask(*asked, *data.invitation(connection))
        found = understood(connection, self._name, replies[: len(asked)])
        if found is None:
            raise Missing("no such file")
        if found.kind == "dir":
            raise IsFolder("it is a folder")
        if found.kind == "other":
            raise self._calls.backend.error(NotAFile, "read", self._path, "it is no regular file")
        if found.kind == "link":
            reply = connection.wire.ask(b"SIZE " + self._name)[0]
            found = replace(found, size=parse_size(reply.lines[0].strip()) if reply.code == 213 else None)
        self.entry = replace(found, path=self._path)
        if pin is not None and pin.fingerprint != self.entry.fingerprint:
            reason = "the file is no longer the one that was listed"
            raise SourceChanged.at("read", self._endpoint, self._path, reason, hint="list it again")
        # A size of 0 is believed once nothing has come: some servers tell it of what they make as it is fetched.
        if self.entry.size is not None and 0 < self.entry.size <= self._offset:
            self._ended, self.changed = True, False
            return b""
        # Had more to be asked, the invitation may have been used up by a listing.
        told = connection.describes(self._name) or parse_size(replies[0].lines[0].strip()) is not None
        settled = replies[0].good and told and not connection.features.times_by_listing
        invited = replies[-1] if len(replies) > len(asked) and settled else None
        # Answered once all is sent, which is not the same as received, unless that is done in the same call.
        self._behind = connection.queues and self.entry.size is not None and self.entry.size < _CHUNK
        behind = asked if self._behind else ()
        try:
            self._stream = data.begin(
                connection, b"RETR " + self._name, offset=self._offset, invited=invited, behind=behind
            )
        except Unsecured:
            if self.entry.size != 0:
                raise
            self._ended, self.changed = True, False
            return b""
        first = self._next(connection)
        if self.entry.size is not None and self._position > self.entry.size:
            # Another file. If this is its end, the connection can go on.
            self._next(connection)
            raise self._changed()
        return first

    def _next(self, connection: Connection) -> bytes:
        if self._ended:
            return b""
        assert self._stream is not None
        left = -1 if self.entry.size is None else self.entry.size - self._position
        # One byte more than there should be: then the end shows in the same call.
        wanted = min(_CHUNK, left + 1) if left >= 0 else _CHUNK
        found = self._stream.read(wanted, end=left)
        self._position += len(found)
        connection.used = time.monotonic()
        if len(found) < wanted:
            self._finish(connection, self._stream)
            self._ended = True
        return found

    def _finish(self, connection: Connection, stream: data.Data) -> None:
        try:
            data.finish(connection, stream, behind=self._behind)
        except Refused as error:
            self._look_again(connection)
            if self.changed:
                raise self._changed() from error
            raise
        self._look_again(connection)
        size = self.entry.size
        if size is None and stream.ragged:
            raise self._truncated(
                "TLS ended without its goodbye and the server tells no size: nothing proves that "
                f"the {self._position} bytes are all",
                "ask the server's operator for SIZE or MLST",
            )
        if size is None or self._position == size:
            return
        if self.changed or self._position > size or stream.told in (self._position, self._position - self._offset):
            raise self._changed()
        reason = f"the server ended at byte {self._position} of {size} and called it complete"
        raise self._truncated(reason, "try again; if it stays so, ask the server's operator")

    def _truncated(self, reason: str, hint: str) -> Truncated:
        return Truncated.at("read", self._endpoint, self._path, reason, hint=hint)

    def _look_again(self, connection: Connection) -> None:
        asked = questions(connection, self._name)
        replies = together.queued(connection, len(asked)) if self._behind else connection.wire.ask(*asked)
        again = understood(connection, self._name, replies)
        self.changed = again is None or (
            self.entry.kind != "link" and replace(again, path=self._path).fingerprint != self.entry.fingerprint
        )

    def _changed(self) -> SourceChanged:
        reason = "the file changed while it was read"
        return SourceChanged.at("read", self._endpoint, self._path, reason, hint="wait until its writer is done")

    # -- on the event loop ------------------------------------------------------------------------------------------

    async def read(self) -> bytes:
        if self._first:
            found, self._first = self._first, None
            self._delivered += len(found)
            self._ask()
            return found
        while self._queue:
            self._ask()
            if found := await self._arrived(self._queue.popleft()):
                self._delivered += len(found)
                return found
        if not self._ended or self._delivered != self._position:
            raise self._calls.lost("read", self._path, "the stream was closed, or has failed before")
        return b""

    async def _arrived(self, future: Future[bytes]) -> bytes:
        connection = self._connection
        with Translate("read", self._endpoint, self._path):
            try:
                found = future.result() if connection is None or future.done() else await connection.wait(future)
            except (Lost, Violation):
                if connection is not None:
                    connection.broken = True
                raise
        self._after()
        return found

    def _ask(self) -> None:
        while self._connection is not None and not self._ended and len(self._queue) < _AHEAD:
            self._queue.append(self._connection.begin(self._next, self._connection))

    def _after(self) -> None:
        """At the end the connection is free, before the last chunks are used."""
        if self._ended and all(future.done() for future in self._queue):
            self._release()

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)

    async def close(self) -> None:
        if self._connection is not None and ((self._stream is not None and not self._ended) or self._connection.broken):
            # The server may still be sending: nothing that it says can be told from the next answer.
            self._connection.kill()
        self._queue.clear()
        self._first = None
        self._release()
