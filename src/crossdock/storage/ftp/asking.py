"""Questions to the server about names. Blocking, for a connection's thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crossdock.errors import ConnectionFailed, NotFound, PermissionDenied, Throttled
from crossdock.storage.base import Entry, Kind
from crossdock.storage.ftp import data, stamps
from crossdock.storage.ftp.connection import Connection
from crossdock.storage.ftp.dialects import Listing, facts_of, parse_size, parse_time
from crossdock.storage.ftp.faults import is_emptiness, kind_of_refusal
from crossdock.storage.ftp.wire import IsFile, Lost, Missing, Refused, Reply, Violation

__all__ = ["is_folder", "kind_of", "list_folder", "look", "questions", "understood"]

_BLOCK = 256 * 1024
_NO_SUCH_COMMAND = (500, 501, 502, 504)


def look(connection: Connection, name: bytes) -> Entry | None:
    """Describe a name, in an entry without a path. None: there is no such name. Raises `Refused`."""
    return understood(connection, name, connection.wire.ask(*questions(connection, name)))


def questions(connection: Connection, name: bytes) -> tuple[bytes, ...]:
    """What `look` asks, for those who send something else along with it; `understood` takes the replies."""
    if connection.describes(name):
        # ProFTPD's MLST takes a link for a file as long as the link's target is named; its SIZE follows it.
        measured = (b"SIZE " + name,) if connection.features.server == "proftpd" else ()
        return b"MLST " + name, *measured
    # Twisted's server and others tell of a folder's size as well.
    entered = () if connection.features.vsftpd else (b"CWD " + (name or b"/"),)
    return b"SIZE " + name, b"MDTM " + name, *entered


def understood(connection: Connection, name: bytes, replies: Sequence[Reply]) -> Entry | None:
    """The answer to `questions`; asks more if that does not settle it. Raises `Refused`."""
    reply = replies[0]
    if connection.describes(name):
        if _unknown(connection, reply):
            return look(connection, name)
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
    elif len(replies) == 2 and is_folder(connection, name):
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


def _unknown(connection: Connection, reply: Reply) -> bool:
    """Whether this answer to MLST tells that FEAT has lied: from then on it is not asked."""
    if connection.learned.describes is None:
        connection.learned.describes = reply.code not in (500, 502)
    return connection.learned.describes is False


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
    if not above or is_folder(connection, above):
        return
    found = look(connection, above)
    if found is None or found.kind == "file":
        return
    # It may have been made meanwhile.
    if not is_folder(connection, above):
        raise Refused(b"MLST", reply)


def is_folder(connection: Connection, name: bytes, *, or_missing: bool = False) -> bool:
    """Raises `IsFile` where it has to be a folder `or_missing`, if the server tells."""
    if connection.describes(name):
        # Pure-FTPd lets each CWD that fails wait longer than the one before.
        reply = connection.wire.ask(b"MLST " + (name or b"/"))[0]
        kind = _described(reply).kind if reply.good else None
        if kind == "file" and or_missing:
            raise IsFile(name)
        if kind != "link" and not _unknown(connection, reply):
            return kind == "dir"
    return connection.wire.ask(b"CWD " + (name or b"/"))[0].good


def kind_of(connection: Connection, name: bytes) -> Kind | None:
    """What a name is; None if there is no such thing. Raises `Refused`."""
    found = look(connection, name)
    return None if found is None else found.kind


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
    learned = connection.learned
    if connection.features.names & {"MLSD", "MLST"} and learned.lists_facts is not False:
        try:
            _fetch(connection, b"MLSD -a" if connection.features.apache else b"MLSD", listing, facts=True)
        except Refused as error:
            if learned.lists_facts or error.reply.code not in (500, 502):
                raise
            learned.lists_facts = False
        else:
            learned.lists_facts = True
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
    try:
        certain = _received(connection, command, listing)
    except Refused as error:
        if not is_emptiness(error.reply):
            raise
        listing.begin(facts=facts)
        return
    if not certain:
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
