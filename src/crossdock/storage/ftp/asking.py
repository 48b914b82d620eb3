"""Questions to the server about names, and changes of names. Blocking, for a connection's thread."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from crossdock.errors import NotFound, PermissionDenied, Throttled
from crossdock.storage.base import Entry, Kind
from crossdock.storage.ftp import data
from crossdock.storage.ftp.connection import Connection
from crossdock.storage.ftp.dialects import Listing, facts_of, parse_size, parse_time
from crossdock.storage.ftp.faults import kind_of_refusal
from crossdock.storage.ftp.wire import IsFile, IsFolder, Lost, Missing, Refused, Reply, Violation
from crossdock.storage.staging import temporary_path

__all__ = [
    "kind_of",
    "lacks_times",
    "list_folder",
    "look",
    "make_folders",
    "move",
    "move_beside",
    "questions",
    "remove",
    "remove_folder",
    "stamp",
    "times",
    "understood",
]

_BLOCK = 256 * 1024
_TOGETHER = 32
"""MDTM commands sent in one go: their replies fit every socket buffer."""
_LATEST = 0xFFFFFFFF
"""Unix time; not every server knows later ones, or negative ones."""
_NO_SUCH_COMMAND = (500, 501, 502, 504)


def look(connection: Connection, name: bytes) -> Entry | None:
    """Describe a name, in an entry without a path. None: there is no such name. Raises `Refused`."""
    return understood(connection, name, connection.wire.ask(*questions(connection, name)))


def questions(connection: Connection, name: bytes) -> tuple[bytes, ...]:
    """What `look` asks, for those who send something else along with it; `understood` takes the replies."""
    if connection.features.describes(name):
        # ProFTPD's MLST takes a link for a file as long as the link's target is named; its SIZE follows it.
        measured = (b"SIZE " + name,) if connection.features.server == "proftpd" else ()
        return b"MLST " + name, *measured
    # Twisted's server and others tell of a folder's size as well.
    entered = () if connection.features.vsftpd else (b"CWD " + (name or b"/"),)
    return b"SIZE " + name, b"MDTM " + name, *entered


def understood(connection: Connection, name: bytes, replies: Sequence[Reply]) -> Entry | None:
    """The answer to `questions`; asks more if that does not settle it. Raises `Refused`."""
    reply = replies[0]
    if connection.features.describes(name):
        if reply.good:
            found = _described(reply)
            return found if len(replies) == 1 else _measured(connection, name, found, replies[1])
    elif any(entered.good for entered in replies[2:]):
        return Entry(path="", kind="dir")
    elif reply.code == 213:
        size, modified = parse_size(reply.lines[0].strip()), replies[1]
        when = parse_time(modified.lines[0].strip()) if modified.code == 213 else None
        if size is not None:
            found = Entry(path="", size=size, modified=when)
            # Else whoever finds the file in a listing would never find the same one again.
            return (_listed(connection, name) or found) if connection.features.times_by_listing else found
        # ftp-srv says "213 File status" of an empty file.
        listed = _listed(connection, name)
        return replace(listed or Entry(path=""), modified=when)
    elif len(replies) == 2 and _is_folder(connection, name):
        return Entry(path="", kind="dir")
    elif reply.code in _NO_SUCH_COMMAND and reply.code != 501:
        return _listed(connection, name)
    if kind_of_refusal(reply) in (PermissionDenied, Throttled) or reply.code in (450, 451):
        # It may be there, and in use, or the question be forbidden. Of what is missing, fineftp and aioftp say 451.
        listed = _listed(connection, name)
        if listed is not None:
            return listed
    _must_be_missing(connection, name, reply)
    return None


def _measured(connection: Connection, name: bytes, found: Entry, size: Reply) -> Entry:
    """What MLST told, unless SIZE tells twice that this is about a link. A file that grows has MLST follow."""
    said = size.lines[0].strip()
    if found.kind != "file" or size.code != 213 or parse_size(said) in (None, found.size):
        return found
    replies = connection.wire.ask(*questions(connection, name))
    again = _described(replies[0]) if replies[0].good else None
    if again == found and replies[1].code == 213 and replies[1].lines[0].strip() == said:
        return replace(found, kind="link", size=None)
    return again or found


def _listed(connection: Connection, name: bytes) -> Entry | None:
    """What the listing of the folder above says of a file, where the server answers neither MLST nor SIZE."""
    folder, _, last = name.rpartition(b"/")
    if not last:
        return None  # the root: none is above
    listing = Listing(prefix="", encoding="latin-1")
    try:
        list_folder(connection, folder or b"/", listing)
        while page := listing.page():
            for entry in page:
                if entry.path.encode("latin-1") == last:
                    return replace(entry, path="")
    except (IsFile, Missing):
        pass
    finally:
        listing.close()
    return None


def _described(reply: Reply) -> Entry:
    for line in reply.lines[1:-1]:
        # RFC 3659 begins it with a space; not all do.
        stripped = line.removeprefix(b" ")
        if b"=" not in stripped:
            continue
        # The folder that is asked about may call itself cdir.
        found = facts_of(stripped)
        return Entry(path="", kind="dir") if found is None else found[0]
    raise Violation(f"an answer to MLST without facts: {reply.text[:100]!r}")


def _must_be_missing(connection: Connection, name: bytes, reply: Reply) -> None:
    """Raises `Refused` unless the refusal means that there is no such name.

    Few servers say why. A folder that may be entered hides nothing from its owner: what cannot be described there is
    not there.
    """
    if kind_of_refusal(reply) is NotFound:
        return
    if reply.code not in (450, 451, 501, 550, 553):
        raise Refused(b"MLST", reply)
    above = name.rpartition(b"/")[0]
    if not above or _is_folder(connection, above):
        return
    found = look(connection, above)
    if found is None or found.kind == "file":
        return
    # It may have been made meanwhile.
    if not _is_folder(connection, above):
        raise Refused(b"MLST", reply)


def _is_folder(connection: Connection, name: bytes) -> bool:
    if connection.features.describes(name):
        # Pure-FTPd lets each CWD that fails wait longer than the one before.
        reply = connection.wire.ask(b"MLST " + (name or b"/"))[0]
        kind = _described(reply).kind if reply.good else None
        if kind != "link":
            return kind == "dir"
    return connection.wire.ask(b"CWD " + (name or b"/"))[0].good


def kind_of(connection: Connection, name: bytes) -> Kind | None:
    """What a name is; None if there is no such thing. Raises `Refused`."""
    found = look(connection, name)
    return None if found is None else found.kind


def stamp(connection: Connection, name: bytes, modified: datetime | None) -> tuple[bytes, ...]:
    """The command that sets a file's time; none, where there is none for it."""
    command = connection.features.sets_times
    if command is None or modified is None or not 0 <= modified.timestamp() <= _LATEST:
        return ()
    return (command + modified.astimezone(UTC).strftime(" %Y%m%d%H%M%S ").encode() + name,)


def lacks_times(connection: Connection, folder: bytes) -> bool:
    """Whether it is certain that no file's time can be set: asked to do so for a name that does not exist.

    In front of object stores (AWS Transfer Family) MFMT is offered; it is refused, or agreed to and not done.
    """
    if connection.features.sets_times != b"MFMT" or connection.features.server:
        return False
    name = folder + b"/" + temporary_path("probe", secrets.token_hex(6)).encode()
    reply = connection.wire.ask(b"MFMT 20000101000000 " + name)[0]
    return reply.good or reply.code in (500, 502, 504) or "support" in reply.text.lower()


def times(connection: Connection, names: Sequence[bytes]) -> list[datetime | None]:
    """When files were modified, asked for together; None: the server does not say."""
    found: list[datetime | None] = []
    for start in range(0, len(names), _TOGETHER):
        replies = connection.wire.ask(*(b"MDTM " + name for name in names[start : start + _TOGETHER]))
        found += [parse_time(reply.lines[0].strip()) if reply.code == 213 else None for reply in replies]
    return found


def list_folder(connection: Connection, folder: bytes, listing: Listing) -> None:
    """Fill in all of a listing, complete by the server's word. Raises `Refused`, `IsFile`, `Missing`."""
    command = b"CWD " + folder
    reply = connection.wire.ask(command)[0]
    if not reply.good:
        found = look(connection, folder)
        if found is not None and found.kind != "dir":
            raise IsFile(folder)
        # The root is always there: what is refused is to look at it.
        if found is None and folder != b"/":
            raise Missing("no such folder, or none that the account may enter")
        # It may have been made meanwhile.
        connection.wire.must(command)
    if "MLSD" in connection.features or "MLST" in connection.features:
        _fetch(connection, b"MLSD -a" if connection.features.apache else b"MLSD", listing, facts=True)
        return
    if connection.lists_hidden:
        try:
            _fetch(connection, b"LIST -a", listing, facts=False)
        except Refused as error:
            if error.reply.code not in (*_NO_SUCH_COMMAND, 450, 550):
                raise
        else:
            if listing.shows_itself:
                return
        # What was listed may be a file called "-a", or the search for one.
        connection.lists_hidden = False
    _fetch(connection, b"LIST", listing, facts=False)


def _fetch(connection: Connection, command: bytes, listing: Listing, *, facts: bool) -> None:
    listing.begin(facts=facts)
    if not _received(connection, command, listing):
        learned = connection.learned
        if learned.goodbyes:
            raise Lost("TLS ended without its goodbye, which this server has said before: the listing may be cut short")
        if learned.goodbyes is None:
            # Not every server says it. Cut within its first record, a listing would look empty.
            listing.begin(facts=facts)
            learned.goodbyes = _received(connection, command, listing)
    listing.rewind()


def _received(connection: Connection, command: bytes, listing: Listing) -> bool:
    """Whether its end is certain, by TLS's goodbye; in clear text there is none."""
    stream = data.begin(connection, command)
    while block := stream.read(_BLOCK):
        listing.add(block)
    reply = data.finish(connection, stream)
    if "truncated" in reply.text.lower():
        raise Violation(f"the server cut the listing off ({reply}); Pure-FTPd does so by its option -L")
    if stream.ragged is False:
        connection.learned.goodbyes = True
    return not stream.ragged


def make_folders(connection: Connection, folder: bytes) -> None:
    """Make a folder and those above it. Raises `Refused`, `IsFile`."""
    missing: list[bytes] = []
    while folder and not _is_folder(connection, folder):
        missing.append(folder)
        folder = folder.rpartition(b"/")[0]
    while missing:
        name = missing.pop()
        reply = connection.wire.ask(b"MKD " + name)[0]
        # Made by somebody else meanwhile is as good as made.
        if not reply.good and not _is_folder(connection, name):
            if look(connection, name) is not None:
                raise IsFile(name)
            raise Refused(b"MKD", reply)


def move(connection: Connection, old: bytes, new: bytes) -> None:
    """Raises `Refused`; its command tells which half was."""
    # Sent together: after an RNFR that was refused, RNTO is out of sequence and does nothing (RFC 959 §5.4).
    first, second = connection.wire.ask(b"RNFR " + old, b"RNTO " + new)
    if first.code != 350:
        raise Refused(b"RNFR", first)
    if not second.good:
        raise Refused(b"RNTO", second)


def move_beside(connection: Connection, old: bytes, new: bytes) -> None:
    """`move`, that never replaces: a server may refuse that for one moment alone, as while a file is in use."""
    if kind_of(connection, new) is not None:
        raise Refused(b"RNTO", Reply(550, (b"the file exists",)))
    move(connection, old, new)


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
    if reply.code < 500:
        # Apache FtpServer and aioftp say no more than that they cannot, which is no matter of time.
        listing = Listing(prefix="", encoding="latin-1")
        try:
            list_folder(connection, name, listing)
            if listing.page():
                reply = Reply(550, (b"the folder is not empty: " + reply.text.encode(),))
        finally:
            listing.close()
    raise Refused(b"RMD", reply)
