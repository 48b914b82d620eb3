"""The time that a file is to bear: set while it is open, and by its name where that does not last."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from crossdock.storage.sftp import codec
from crossdock.storage.sftp.calls import Calls
from crossdock.storage.sftp.codec import Attrs, text
from crossdock.storage.sftp.wire import Reply, Session, Status
from crossdock.storage.staging import lasts

__all__ = ["Stamp"]

log = logging.getLogger("crossdock.storage.sftp")

_LATEST, _SIGNED = 0xFFFFFFFF, 0x7FFFFFFF


class Stamp:
    """Of one file, `name` at the server."""

    def __init__(self, calls: Calls, name: bytes, modified: datetime | None) -> None:
        self._calls, self._name, self._modified = calls, name, modified
        self.sent: asyncio.Future[Reply] | None = None
        """The answer to what was asked of the open file."""

    @property
    def is_late(self) -> bool:
        """After 2038."""
        return (self._seconds() or 0) > _SIGNED

    def send(self, session: Session, handle: bytes) -> None:
        seconds = self._seconds()
        if seconds is not None:
            self.sent = session.request(codec.FSETSTAT, handle, codec.times(seconds))

    def _seconds(self) -> int | None:
        """The time to set; None: there is none, or the server cannot be told."""
        if self._modified is None:
            return None
        seconds = int(self._modified.timestamp())
        return seconds if 0 <= seconds <= (_LATEST if self._calls.late_times else _SIGNED) else None

    def settled(self, attrs: Attrs, size: int) -> bool:
        """All that was written had been done when the server described the file. Go's pkg/sftp does not wait for it."""
        if attrs.size is not None and attrs.size < size:
            return False
        return self.sent is None or not self._calls.keeps_times or self._seconds() == attrs.modified

    async def by_name(self, session: Session, attrs: Attrs | None) -> Attrs | None:
        """For servers that change no open file, or do so before they have written it."""
        seconds = self._seconds()
        if seconds is None or not self._calls.keeps_times:
            return await session.attrs(codec.LSTAT, text(self._name))
        try:
            await session.status(codec.SETSTAT, text(self._name), codec.times(seconds))
        except Status as error:
            log.info(
                "the server keeps no modification time: %s:%r: %s", self._calls.backend.endpoint, self._name, error
            )
            if error.code not in codec.MISSING:
                self._calls.cannot_stamp()
            return attrs
        found = attrs and await session.attrs(codec.LSTAT, text(self._name))
        if (
            found
            and found.modified is not None
            and not lasts(datetime.fromtimestamp(seconds, UTC), datetime.fromtimestamp(found.modified, UTC))
        ):
            self._calls.cannot_stamp()
        return found
