"""Questions to the server about names, and changes of names. Blocking, for a connection's thread."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from crossdock.errors import ConnectionFailed, NotFound, PermissionDenied, Throttled
from crossdock.storage.base import Entry, Kind
from crossdock.storage.ftp import data, stamps
from crossdock.storage.ftp.connection import Connection
from crossdock.storage.ftp.dialects import Listing, facts_of, parse_size, parse_time
from crossdock.storage.ftp.faults import kind_of_refusal
from crossdock.storage.ftp.wire import IsFile, IsFolder, Lost, Missing, Refused, Reply, Violation
from crossdock.storage.staging import temporary_path

__all__ = [
    "keeps_beginning",
    "kind_of",
    "list_folder",
    "look",
    "make_folders",
    "move",
    "move_beside",
    "questions",
    "remove",
    "remove_folder",
    "understood",
]

log = logging.getLogger("crossdock.storage.ftp")

_BLOCK = 256 * 1024
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
            found = found if len(replies) == 1 else _measured(connection, name, found, replies[1])
            lacks = found.kind == "file" and (found.size is None or found.modified is None)
            return stamps.completed(connection, [found], [name])[0] if lacks else found
    elif any(entered.good for entered in replies[2:]):
        return Entry(path="", kind="dir")
    elif reply.code == 213:
        size, modified = parse_size(reply.lines[0].strip()), replies[1]
        when = parse_time(modified.lines[0].strip()) if modified.code == 213 else None
        if size is not None:
            found = Entry(path="", size=size, modified=when)
            # Else whoever finds the file in a listing would never find the same one again.
            listed = _listed(connection, name) if connection.features.times_by_listing else None
            return found if listed is None else replace(listed, size=size if listed.size is None else listed.size)
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
    kind = kind_of_refusal(reply)
    if kind is NotFound:
        return
    if kind is ConnectionFailed or reply.code not in (450, 451, 501, 550, 553):
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


def _is_folder(connection: Connection, name: bytes, *, or_missing: bool = False) -> bool:
    """Raises `IsFile` where it has to be a folder `or_missing`, if the server tells."""
    if connection.features.describes(name):
        # Pure-FTPd lets each CWD that fails wait longer than the one before.
        reply = connection.wire.ask(b"MLST " + (name or b"/"))[0]
        kind = _described(reply).kind if reply.good else None
        if kind == "file" and or_missing:
            raise IsFile(name)
        if kind != "link":
            return kind == "dir"
    return connection.wire.ask(b"CWD " + (name or b"/"))[0].good


def kind_of(connection: Connection, name: bytes) -> Kind | None:
    """What a name is; None if there is no such thing. Raises `Refused`."""
    found = look(connection, name)
    return None if found is None else found.kind


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
            found = stream.read(_BLOCK)
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
    try:
        _fetch_all(connection, listing)
    except Refused as error:
        # The commands that list name no folder; the reply may.
        error.reply = replace(error.reply, about=folder)
        raise


def _fetch_all(connection: Connection, listing: Listing) -> None:
    """The folder that the session is in. Raises `Refused`."""
    if "MLSD" in connection.features or "MLST" in connection.features:
        _fetch(connection, b"MLSD -a" if connection.features.apache else b"MLSD", listing, facts=True)
        return
    refused = False
    while connection.lists_hidden is not False:
        passing = False
        try:
            _fetch(connection, b"LIST -a", listing, facts=False)
        except Refused as error:
            # Once it has listed them, this is about the folder: no listing is to lack hidden files from then on.
            if connection.lists_hidden or error.reply.code not in (*_NO_SUCH_COMMAND, 450, 451, 550):
                raise
            passing = error.reply.code not in _NO_SUCH_COMMAND and kind_of_refusal(error.reply) is not NotFound
        else:
            if listing.shows_itself:
                connection.lists_hidden = True
                return
        # What was listed may be a file called "-a", or the search for one.
        _fetch(connection, b"LIST", listing, facts=False)
        if refused or not passing:
            connection.lists_hidden = connection.lists_hidden or False
            return
        # Busy, perhaps, and no more: it is taken at its word once a listing worked in between.
        refused = True
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
    if "failed to open dir" in reply.text.lower():
        # vsftpd's good reply for a folder that may be entered and not be read.
        raise Refused(command, Reply(550, (b"permission denied: " + reply.text.encode(),)))
    if "truncated" in reply.text.lower():
        raise Violation(f"the server cut the listing off ({reply}); Pure-FTPd does so by its option -L")
    if stream.ragged is False:
        connection.learned.goodbyes = True
    return not stream.ragged


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
    while folder and not _is_folder(connection, folder, or_missing=True):
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
    _must_tell_apart(connection, new)
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
