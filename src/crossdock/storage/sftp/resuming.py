"""Whether the server keeps what an earlier attempt staged: looked at before it is built upon, and after."""

from __future__ import annotations

from crossdock.errors import NotFound
from crossdock.storage.sftp import codec
from crossdock.storage.sftp.calls import Calls
from crossdock.storage.sftp.wire import Session, Status, checked

__all__ = ["Witness", "kept", "shortened", "witness"]

_SAMPLE = 4096

Witness = tuple[int, bytes]
"""Where in the temporary some bytes are, and which. Not zeros alone: those are what a server fills a gap with."""


async def shortened(calls: Calls, session: Session, name: bytes, handle: bytes, size: int) -> bool:
    """Cut the open temporary off. False: the server spoils it.

    paramiko's server library empties the file and fills it up with zeros (paramiko/sftp_server.py, set_file_attr).
    """
    last = min(_SAMPLE, size)
    before = await _bytes(calls, session, name, size - last, last)
    checked(await session.request(codec.FSETSTAT, handle, codec.size(size)), codec.STATUS)
    return bool(before.strip(b"\0")) and await _bytes(calls, session, name, size - last, last) == before


async def witness(calls: Calls, session: Session, name: bytes, path: str, offset: int) -> Witness | None:
    """Of the first `offset` bytes of what is staged. None: none is needed, or it may not be read. Raises `NotFound`.

    To be asked before it is opened for writing: SeaweedFS makes what is missing then, whatever the flags are.
    """
    if calls.openssh:
        return None
    size = min(_SAMPLE, offset)
    for start in dict.fromkeys((offset - size, 0, (offset - size) // 2)):
        try:
            found = await _bytes(calls, session, name, start, size)
        except Status as error:
            if error.code not in (*codec.MISSING, codec.EOF):
                return None
            reason = f"the {offset} staged bytes are gone"
            raise calls.backend.error(NotFound, "resume", path, reason, hint="start it again") from error
        if found.strip(b"\0"):
            return start, found
    reason = "what is staged begins and ends with zeros: whether the server keeps it could not be told"
    raise calls.backend.error(NotFound, "resume", path, reason, hint="start it again")


async def kept(calls: Calls, session: Session, name: bytes, before: Witness) -> bool:
    """Whether the same bytes are still there.

    SeaweedFS (4.48) makes a new file of what one handle has written: where others wrote before, there are zeros.
    """
    start, held = before
    found = await _bytes(calls, session, name, start, len(held))
    return bool(found) and held.startswith(found)


async def _bytes(calls: Calls, session: Session, name: bytes, start: int, size: int) -> bytes:
    handle = await session.open(name, codec.FOR_READING)
    try:
        return checked(await session.read(handle, start, size), codec.DATA)
    finally:
        calls.close_quietly(session, handle, name.decode(calls.settings.encoding, "surrogateescape"))
