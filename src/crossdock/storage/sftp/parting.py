"""Giving up a write on a slow line, which holds some MiB that would have to arrive before the file can be removed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from crossdock.errors import ConnectionFailed
from crossdock.storage.sftp.connect import Connection
from crossdock.storage.sftp.pool import Pool
from crossdock.storage.sftp.replies import Lost, Reply

__all__ = ["catch_up", "reconnected"]

_LONG = 3.0
"""Seconds that are waited for what is under way, where nobody else would be disturbed."""
_LONGEST = 10.0
"""Seconds to sign in again after that."""


class _CutShort(Lost):
    """A connection that served nobody any more but those who gave up."""


async def catch_up(pool: Pool, connection: Connection, under_way: Sequence[asyncio.Future[Reply]]) -> None:
    """Wait for what is under way; but where that takes long, cut all connections that serve none but who gives up.

    All of them: else the first to sign in again would rather take one of the others, and be held up there.
    """
    session = connection.session
    if all(future.done() for future in under_way):
        return
    session.parting += 1
    try:
        _, late = await asyncio.wait(under_way, timeout=_LONG)
        if late:
            pool.cut_parting(_CutShort("given up, as what is under way takes long"))
    finally:
        session.parting -= 1


async def reconnected(pool: Pool, connection: Connection | None, endpoint: str) -> Connection:
    """Another one. Not as a stream, which might wait for a connection to itself; not for long where one was cut."""
    short = connection is not None and isinstance(connection.session.failure, _CutShort)
    try:
        async with asyncio.timeout(_LONGEST if short else None):
            return await pool.acquire()
    except TimeoutError as error:
        raise ConnectionFailed("not reached again in time", operation="connect", endpoint=endpoint) from error
