"""Changes of names: made, moved, removed. Blocking, for a connection's thread."""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress

from crossdock.errors import NotFound
from crossdock.storage.base import Entry
from crossdock.storage.ftp import data
from crossdock.storage.ftp.asking import is_folder, kind_of, list_folder, look
from crossdock.storage.ftp.connection import Connection
from crossdock.storage.ftp.dialects import Listing
from crossdock.storage.ftp.faults import kind_of_refusal
from crossdock.storage.ftp.wire import IsFile, IsFolder, Missing, Refused, Reply
from crossdock.storage.staging import temporary_path

__all__ = ["keeps_beginning", "make_folders", "move", "move_beside", "remove", "remove_folder"]

log = logging.getLogger("crossdock.storage.ftp")


def keeps_beginning(connection: Connection, name: bytes) -> bool:
    """Whether REST and STOR leave what is before that place, tried beside `name`. Raises `Refused`.

    bftpd empties the file first: with zeros at its beginning, it then has the size that it should.
    """
    learned = connection.learned
    if learned.keeps_beginning is None and not connection.features.server:
        probe = name.rpartition(b"/")[0] + b"/" + temporary_path("probe", secrets.token_hex(6)).encode()
        try:
            _store(connection, probe, b"ab")
            _store(connection, probe, b"c", offset=1)
            stream = data.begin(connection, b"RETR " + probe)
            found = stream.read(16)
            data.finish(connection, stream)
        finally:
            if connection.alive:
                remove(connection, probe)
        learned.keeps_beginning = found == b"ac"
    return learned.keeps_beginning is not False


def _store(connection: Connection, name: bytes, content: bytes, *, offset: int = 0) -> None:
    stream = data.begin(connection, b"STOR " + name, offset=offset)
    stream.write(content)
    stream.end()
    data.finish(connection, stream, patience=data.LAST_WORD)


def _must_tell_apart(connection: Connection, name: bytes) -> None:
    """Raises `Refused` if the server takes letters beyond ASCII for one another, as it might `name` and another.

    Java without a locale stores each of them as "?": of two files one would be lost. Tried once, beside `name`.
    """
    learned, settings = connection.learned, connection.settings
    if name.isascii() or connection.features.server or settings.encoding not in ("utf-8", "utf8"):
        return
    if learned.tells_apart is None and settings.staging == "rename":
        probe = name.rpartition(b"/")[0] + b"/" + temporary_path("probe", secrets.token_hex(6)).encode()
        one, other = (probe + letter.encode() for letter in "éü")
        try:
            _store(connection, one, b"")
            learned.tells_apart = look(connection, other) is None
            remove(connection, one)
        except Refused as error:
            if learned.tells_apart is None:
                if error.reply.code < 500 or error.reply.code == 552:
                    raise  # It could not say now; then it is not to be believed for good.
                learned.tells_apart = True
            log.debug("no file beside %r: %s", name, error)
    if learned.tells_apart is False:
        raise Refused(b"RNTO", Reply(501, (b"an illegal name: letters beyond ASCII all become one at this server",)))


def make_folders(connection: Connection, folder: bytes) -> None:
    """Make a folder and those above it. Raises `Refused`, `IsFile`."""
    _must_tell_apart(connection, folder)
    missing: list[bytes] = []
    # Asked beforehand: ProFTPD 1.3.9 says of a file that MKD has made a folder of it.
    while folder and not is_folder(connection, folder, or_missing=True):
        missing.append(folder)
        folder = folder.rpartition(b"/")[0]
    while missing:
        name = missing.pop()
        reply = connection.wire.ask(b"MKD " + name)[0]
        # Made by somebody else meanwhile is as good as made.
        if not reply.good and not is_folder(connection, name):
            if look(connection, name) is not None:
                raise IsFile(name)
            raise Refused(b"MKD", reply)


def move(connection: Connection, old: bytes, new: bytes, *, was: Entry | None = None, free: bool = False) -> None:
    """Raises `Refused`; its command tells which half was.

    `was`: the old name's entry, if known; `free`: nothing had the new name. Some servers refuse what they have done.
    """
    _must_tell_apart(connection, new)
    # Sent together: after an RNFR that was refused, RNTO is out of sequence and does nothing (RFC 959 §5.4).
    first, second = connection.wire.ask(b"RNFR " + old, b"RNTO " + new)
    if first.code != 350:
        raise Refused(b"RNFR", first)
    if not second.good and not _moved(connection, old, new, was, free=free):
        raise Refused(b"RNTO", second)


def _moved(connection: Connection, old: bytes, new: bytes, was: Entry | None, *, free: bool) -> bool:
    if was is None and not free:
        return False
    found = look(connection, new)
    if found is None or not (free or (was is not None and (found.size, found.modified) == (was.size, was.modified))):
        return False
    return look(connection, old) is None


def move_beside(connection: Connection, old: bytes, new: bytes) -> None:
    """`move`, that never replaces: a server may refuse that for one moment alone, as while a file is in use."""
    if kind_of(connection, new) is not None:
        raise Refused(b"RNTO", Reply(550, (b"the file exists",)))
    move(connection, old, new, free=True)


def remove(connection: Connection, name: bytes) -> None:
    """Delete a file; what is missing is already deleted. Raises `Refused`, `IsFolder`."""
    reply = connection.wire.ask(b"DELE " + name)[0]
    if reply.good or kind_of_refusal(reply) is NotFound:
        return
    kind = kind_of(connection, name)
    if kind == "dir":
        raise IsFolder("it is a folder")
    if kind is not None:
        raise Refused(b"DELE", reply)


def remove_folder(connection: Connection, name: bytes) -> None:
    """Remove an empty folder; what is missing is already removed. Raises `Refused`, `IsFile`."""
    # ftp-srv deletes a file by RMD as well.
    if connection.features.careless and kind_of(connection, name) not in ("dir", None):
        raise IsFile(name)
    if not connection.features.server and _holds_names(connection, name):
        # MinimalFTP deletes all that is below as well.
        raise Refused(b"RMD", Reply(550, (b"the folder is not empty",)))
    reply = connection.wire.ask(b"RMD " + name)[0]
    if reply.good:
        return
    kind = kind_of(connection, name)
    if kind is None:
        return
    if kind != "dir":
        raise IsFile(name)
    # Apache FtpServer, and Windows, do not remove the folder that a session is in, as after a listing.
    reply = connection.wire.ask(b"CWD /", b"RMD " + name)[1]
    if reply.good:
        return
    # Apache FtpServer and aioftp say no more than that they cannot, which is no matter of time.
    with suppress(Refused):
        if reply.code < 500 and _holds_names(connection, name):
            reply = Reply(550, (b"the folder is not empty: " + reply.text.encode(),))
    raise Refused(b"RMD", reply)


def _holds_names(connection: Connection, folder: bytes) -> bool:
    listing = Listing(prefix="", encoding="latin-1")
    try:
        list_folder(connection, folder, listing)
        return bool(listing.page())
    except Missing:
        return False
    finally:
        listing.close()
