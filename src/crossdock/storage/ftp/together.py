"""Commands sent along with a transfer: their replies, told from the transfer's own. Blocking, for one thread."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crossdock.storage.ftp.wire import Lost, Reply, Violation

if TYPE_CHECKING:
    from crossdock.storage.ftp.connection import Connection

__all__ = ["agreed", "doubts", "last_word", "queued"]

log = logging.getLogger("crossdock.storage.ftp")

_ANSWERS = frozenset((213, 450, 500, 501, 502, 503, 504, 530, 550, 553))
"""What SIZE and MDTM are answered with; the rest of the codes is about transfers, names or the connection."""


def agreed(connection: Connection, behind: int) -> Reply:
    """The first reply to a transfer; if it is the last one, those to what was sent along have been read as well."""
    with doubts(connection, behind):
        reply = connection.wire.reply()
        if reply.good and behind:
            raise _violation(connection, reply)
        if reply.code >= 200:
            # After 421 nothing follows.
            _queued(connection, 0 if reply.code == 421 else behind)
            connection.pending = False
    return reply


@contextmanager
def doubts(connection: Connection, behind: int) -> Iterator[None]:
    """Should the first attempt to send commands along with a transfer fail, there is no other.

    What lies between may drop them, and not every server that calls itself vsFTPd is one.
    """
    try:
        yield
    except (Lost, Violation) as error:
        if not behind or connection.learned.queues is not None or connection.broken:
            raise
        connection.learned.queues = False
        log.info("commands are sent one by one from now on: %s", error)
        if isinstance(error, Violation):
            raise Lost(f"sending commands together fails: {error}") from error
        raise


def last_word(connection: Connection, *, behind: bool) -> Reply:
    """The last reply to a transfer that was agreed to."""
    with doubts(connection, behind):
        reply = connection.wire.final()
        if behind and reply.code == 213:
            raise _violation(connection, reply)
    return reply


def queued(connection: Connection, count: int) -> list[Reply]:
    """The replies to questions that were sent along with a transfer, once it has ended. Raises `Lost`, `Violation`."""
    with doubts(connection, count):
        found = _queued(connection, count)
    if count:
        connection.learned.queues = True
    return found


def _queued(connection: Connection, count: int) -> list[Reply]:
    found: list[Reply] = []
    while len(found) < count:
        found.append(connection.wire.final())
        if found[-1].code == 421:
            raise Lost(str(found[-1]))
        if found[-1].code not in _ANSWERS:
            raise _violation(connection, found[-1])
    return found


def _violation(connection: Connection, reply: Reply) -> Violation:
    connection.wire.alive = False
    return Violation(f"a reply that nobody asked for: {reply}")
