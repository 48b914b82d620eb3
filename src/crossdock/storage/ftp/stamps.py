"""When files were modified: asked for by MDTM, set by MFMT; and their sizes. Blocking, for a connection's thread."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from crossdock.storage.base import Entry
from crossdock.storage.ftp.connection import Connection
from crossdock.storage.ftp.dialects import parse_size, parse_time
from crossdock.storage.ftp.wire import Lost, Reply, Silent
from crossdock.storage.staging import temporary_path

__all__ = ["Ended", "completed", "lacks_times", "set_time", "stamp", "survives", "times", "untried"]

_TOGETHER = 32
"""MDTM commands sent in one go: their replies fit every socket buffer."""
_LATEST = 0xFFFFFFFF
"""Unix time; not every server knows later ones, or negative ones."""


class Ended(Lost):
    """The session ended as a file's time was set; after the second one in a row the server is not asked to any more."""


def stamp(connection: Connection, name: bytes, modified: datetime | None) -> tuple[bytes, ...]:
    """The command that sets a file's time; none, where there is none for it."""
    command = connection.features.sets_times
    if connection.learned.survives_stamps is False or command is None or modified is None:
        return ()
    if not 0 <= modified.timestamp() <= _LATEST:
        return ()
    return (command + modified.astimezone(UTC).strftime(" %Y%m%d%H%M%S ").encode() + name,)


def untried(connection: Connection) -> bool:
    """Whether setting a time may end the session: vsftpd's sandbox kills the process, unless it is off (Debian 13)."""
    return connection.features.sets_times == b"MDTM" and connection.learned.survives_stamps is None


def set_time(connection: Connection, stamp: Sequence[bytes], questions: Sequence[bytes]) -> list[Reply]:
    """Send the stamp, if there is one, and what else is asked for: the replies in this order. Raises `Ended`."""
    if not stamp or not untried(connection):
        return connection.wire.ask(*stamp, *questions)
    learned = connection.learned
    try:
        found = connection.wire.ask(*stamp)
        if "OOPS" in found[0].text:
            raise Lost(str(found[0]))
        found += connection.wire.ask(*(questions or (b"NOOP",)))
    except Silent:
        raise
    except Lost as error:
        if learned.lost_at_stamp:
            learned.survives_stamps = False
        learned.lost_at_stamp = connection.broken = True
        raise Ended(str(error)) from error
    learned.survives_stamps = True
    return found


def survives(connection: Connection, name: bytes, modified: datetime) -> bool:
    """Whether a file's time can be set and the session go on, tried with the time that it has."""
    try:
        set_time(connection, stamp(connection, name, modified) if untried(connection) else (), ())
    except Ended:
        return False
    return connection.learned.survives_stamps is not False


def lacks_times(connection: Connection, folder: bytes) -> bool:
    """Whether it is certain that no file's time can be set: asked to do so for a name that does not exist.

    In front of object stores (AWS Transfer Family) MFMT is offered; it is refused, or agreed to and not done.
    """
    if connection.learned.survives_stamps is False:
        return True
    if connection.features.sets_times != b"MFMT" or connection.features.server:
        return False
    name = folder + b"/" + temporary_path("probe", secrets.token_hex(6)).encode()
    reply = connection.wire.ask(b"MFMT 20000101000000 " + name)[0]
    return reply.good or reply.code in (500, 502, 504) or "support" in reply.text.lower()


def times(connection: Connection, names: Sequence[bytes]) -> list[datetime | None]:
    """When files were modified, asked for together; None: the server does not say."""
    features, learned = connection.features, connection.learned
    if learned.tells_times is None and features.known and "MDTM" not in features:
        # Not all is told by FEAT (goftp/server); whoever looks at a file asks for its time as well.
        learned.tells_times = connection.wire.ask(b"MDTM " + names[0])[0].code not in (500, 501, 502, 504)
    if learned.tells_times is False:
        return [None] * len(names)
    found: list[datetime | None] = []
    for start in range(0, len(names), _TOGETHER):
        replies = connection.wire.ask(*(b"MDTM " + name for name in names[start : start + _TOGETHER]))
        found += [parse_time(reply.lines[0].strip()) if reply.code == 213 else None for reply in replies]
    return found


def completed(connection: Connection, entries: Sequence[Entry], names: Sequence[bytes]) -> list[Entry]:
    """With what the facts of files leave unsaid: SIZE and MDTM tell it, and so does whoever looks at one of them."""
    found = list(entries)
    timeless = [number for number, entry in enumerate(found) if entry.modified is None]
    if timeless:
        for number, modified in zip(timeless, times(connection, [names[each] for each in timeless]), strict=True):
            found[number] = replace(found[number], modified=modified)
    unmeasured = [number for number, entry in enumerate(found) if entry.size is None]
    if "SIZE" not in connection.features:
        return found
    for start in range(0, len(unmeasured), _TOGETHER):
        some = unmeasured[start : start + _TOGETHER]
        for number, reply in zip(some, connection.wire.ask(*(b"SIZE " + names[each] for each in some)), strict=True):
            if reply.code == 213:
                found[number] = replace(found[number], size=parse_size(reply.lines[0].strip()))
    return found
