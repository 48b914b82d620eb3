"""From a folder's listing to entries: names checked, kinds found out."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from crossdock.storage.base import Entry, Kind
from crossdock.storage.sftp import codec
from crossdock.storage.sftp.codec import Attrs, Violation, text
from crossdock.storage.sftp.wire import Session, Status, checked

if TYPE_CHECKING:
    from asyncio import Future

    from crossdock.storage.sftp.backend import SftpBackend
    from crossdock.storage.sftp.wire import Reply

__all__ = ["MISSING", "kind_of_mode", "listed"]

MISSING = (codec.NO_SUCH_FILE, 10)
"""Status codes that say that a name is not there; 10 is of a later version (no such path)."""
_KINDS: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}
_TYPE, _FILE = 0o170000, stat.S_IFREG
_SELF_AND_PARENT = (b".", b"..")
_SLASH = ord("/")
"""A number: bytes are looked up in bytes seven times as slowly."""
_LETTERS: dict[bytes, Kind] = {b"-": "file", b"d": "dir", b"l": "link"}


def kind_of_mode(mode: int | None) -> Kind | None:
    """None: the server did not say."""
    file_type = stat.S_IFMT(mode) if mode is not None else 0
    return _KINDS.get(file_type, "other") if file_type else None


async def listed(
    backend: SftpBackend, session: Session, prefix: str, found: list[tuple[bytes, bytes, Attrs]]
) -> list[Entry]:
    """The entries of one reply to READDIR; what the server left unsaid is asked for, all at once.

    Raises `Violation` for a name that would lead out of the folder.
    """
    entries: list[Entry] = []
    follow = backend.settings.links == "follow"
    encoding = backend.settings.encoding
    asked: list[tuple[int, Future[Reply]]] = []
    for raw, longname, attrs in found:
        if raw in _SELF_AND_PARENT:
            continue
        if not raw or _SLASH in raw or 0 in raw:
            raise Violation(f"a listing with the name {raw[:100]!r}")
        path = prefix + raw.decode(encoding, "surrogateescape")
        size, mode, seconds = attrs
        if mode is not None and mode & _TYPE == _FILE and seconds is not None:
            # Nearly all of a long listing, so without a call.
            entries.append(Entry(path=path, size=size, modified=datetime.fromtimestamp(seconds, UTC)))
            continue
        kind = kind_of_mode(mode)
        if kind is None or (follow and kind == "link"):
            how = codec.LSTAT if kind is None and not follow else codec.STAT
            asked.append((len(entries), session.request(how, text(backend.full(path, "list")))))
            kind = kind or _LETTERS.get(longname[:1], "file")
        entries.append(backend.entry(path, attrs, kind))
    gone: set[int] = set()
    for at, future in asked:
        try:
            attrs = codec.parse_attrs(checked(await future, codec.ATTRS))[0]
        except Status as error:
            # Removed since it was listed, unless it is a link that leads nowhere.
            if error.code in MISSING and entries[at].kind != "link":
                gone.add(at)
            continue
        kind = kind_of_mode(attrs.permissions) or entries[at].kind
        entries[at] = backend.entry(entries[at].path, attrs, kind)
    return [entry for at, entry in enumerate(entries) if at not in gone] if gone else entries
