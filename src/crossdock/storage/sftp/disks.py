"""Of the file system that a folder is on, what the server tells (statvfs@openssh.com: OpenSSH's PROTOCOL)."""

from __future__ import annotations

import asyncio

from crossdock.storage.sftp import codec
from crossdock.storage.sftp.codec import text
from crossdock.storage.sftp.replies import Reply, Status, checked
from crossdock.storage.sftp.wire import Session

__all__ = ["Asked", "identity", "is_full"]

_STATVFS = b"statvfs@openssh.com"
_NUMBERS = 11


def _numbers(reply: Reply) -> list[int]:
    """f_bsize, f_frsize, f_blocks, f_bfree, f_bavail, f_files, f_ffree, f_favail, f_fsid, f_flag, f_namemax.

    Empty where some are missing.
    """
    found = checked(reply, codec.EXTENDED_REPLY)
    if len(found) < 8 * _NUMBERS:
        return []
    return [int.from_bytes(found[at : at + 8], "big") for at in range(0, 8 * _NUMBERS, 8)]


async def is_full(session: Session, folder: bytes) -> bool:
    if _STATVFS not in session.extensions:
        return False
    found = _numbers(await session.extended(_STATVFS, text(folder)))
    if not found:
        return False
    block, available, files, free_files = found[1], found[4], found[5], found[7]
    return block * available < session.write_limit or (files > 0 and free_files == 0)


class Asked:
    """Which file system it is: sent beside other requests, for the first file of each folder in a session."""

    def __init__(self, session: Session, folder: bytes) -> None:
        self._known, self._folder = session.file_systems, folder
        self._future: asyncio.Future[Reply] | None = None
        if folder not in self._known and _STATVFS in session.extensions:
            self._future = session.extended(_STATVFS, text(folder))

    async def told(self) -> str:
        """Empty where the server does not tell."""
        if self._future is not None:
            try:
                found = _numbers(await self._future)
            except Status:
                found = []
            self._known[self._folder] = f"{found[8]:x}" if found else ""
        return self._known.get(self._folder, "")


async def identity(session: Session, folder: bytes) -> str:
    """As it is now: a mount may be missing."""
    session.file_systems.pop(folder, None)
    return await Asked(session, folder).told()
