"""Listings: MLSD's facts (RFC 3659 §7), and the dialects of LIST that Unix and DOS servers speak.

LIST tells times to the minute at best, in the server's own zone, and without a year: they are not taken. What a LIST
leaves unsaid is asked for by MDTM, or is None.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from tempfile import SpooledTemporaryFile

from crossdock.storage.base import Entry, Kind
from crossdock.storage.ftp.wire import Violation

__all__ = ["Listing", "facts_of", "parse_size", "parse_time"]

_MOST_LINE = 64 * 1024
_IN_MEMORY = 8 * 1024 * 1024
"""Bytes of a listing before it goes to a temporary file: no connection is held while its pages are used."""
_PAGE = 1000
_MOST_DIGITS = 18

_TIME = re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:\.(\d{1,6})\d*)?")
_KINDS: dict[bytes, Kind] = {b"file": "file", b"dir": "dir", b"os.unix=slink": "link", b"os.unix=symlink": "link"}
_UNIX = re.compile(
    # Behind the number of links: else a group's number would be the day, and four digits of a size the year.
    rb"([-dlbcpsD])[-rwxsStTlLaA?]{9}[+.@]?\s+(?:\d+\s+)?(?:\S+\s+){0,8}?(\d+)\s+"
    # Months in any language, such as "нояб." and "11月".
    rb"(?:\d{0,2}[^\s\d:]{1,16}\s+\d{1,2}[^\s\d:]{0,3}|\d{1,2}\.?\s+[^\s\d:]{1,16}|\d{4}-\d\d-\d\d)"
    rb"\s+(?:\d{1,2}:\d\d(?::\d\d(?:\.\d+)?(?: [-+]\d{4})?)?|\d{4}) (.+)",
    re.DOTALL,
)
_DOS = re.compile(
    rb"(?:\d\d[-./]\d\d[-./]\d{2,4}|\d{4}-\d\d-\d\d)\s+\d\d:\d\d(?:\s?[AP]M)?\s+"
    rb"(?:(<DIR>|<JUNCTION>|<SYMLINKD?>) {1,10}|(\d+) )(.+)",
    re.DOTALL,
)
_UNIX_KINDS: dict[bytes, Kind] = {b"-": "file", b"d": "dir", b"l": "link"}
_ITSELF = re.compile(rb" \.\r?\n")
_TOTAL = re.compile(rb"[^\s\d+,./:;?=-]{2,40}:? \d+")
"""The line with which ls begins, in any language: "total 12", "insgesamt 12"."""


def parse_time(value: bytes) -> datetime | None:
    """`YYYYMMDDHHMMSS[.sss]`, which is UTC (RFC 3659 §2.3); None for what is no time."""
    match = _TIME.fullmatch(value)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    micro = int(match[7].ljust(6, b"0")) if match[7] else 0
    try:
        return datetime(year, month, day, hour, minute, min(second, 59), micro, tzinfo=UTC)
    except ValueError:
        return None


def parse_size(value: bytes) -> int | None:
    """Bytes; None for what is no size, or more than any file has."""
    return int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else None


def facts_of(line: bytes) -> tuple[Entry, bytes] | None:
    """`fact=value;…; name` as an entry without a path, and the name. None: the folder itself, or the one above."""
    facts, space, name = line.partition(b" ")
    if not space or (facts and b"=" not in facts):
        raise Violation(f"a line of facts without a name: {line[:100]!r}")
    kind: Kind | None = None
    size: int | None = None
    modified: datetime | None = None
    for fact in facts.split(b";"):
        key, _, value = fact.partition(b"=")
        key = key.lower()
        if key == b"type":
            lowered = value.lower()
            if lowered in (b"cdir", b"pdir"):
                return None
            kind = _KINDS.get(lowered) or ("link" if lowered.startswith(b"os.unix=slink") else "other")
        elif key == b"size":
            size = parse_size(value)
        elif key == b"modify":
            modified = parse_time(value)
    kind = kind or "file"
    return Entry(path="", kind=kind, size=size if kind == "file" else None, modified=modified), name


def _unix_or_dos(line: bytes) -> tuple[Entry, bytes] | None:
    if match := _UNIX.fullmatch(line):
        letter, size, name = match.groups()
        kind = _UNIX_KINDS.get(letter, "other")
        if kind == "link":
            name = name.partition(b" -> ")[0]
        return Entry(path="", kind=kind, size=parse_size(size) if kind == "file" else None), name
    if match := _DOS.fullmatch(line):
        mark, size, name = match.groups()
        if mark is None:
            return Entry(path="", size=parse_size(size)), name
        return Entry(path="", kind="dir" if mark == b"<DIR>" else "link"), name
    if _TOTAL.fullmatch(line.strip()):
        return None
    # To leave it out would be a shorter listing, from which a deletion might be concluded.
    raise Violation(f"a line of the listing that is understood as no dialect: {line[:100]!r}")


class Listing:
    """A whole listing as it came, turned into entries a page at a time. Raises `Violation` for names that lead out."""

    def __init__(self, *, prefix: str, encoding: str) -> None:
        self.tells_times = True
        self._prefix, self._encoding = prefix, encoding
        self._spool: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - see close

    def begin(self, *, facts: bool) -> None:
        """What follows is in this form, and all that there is."""
        self.tells_times = facts
        self._spool.seek(0)
        self._spool.truncate()

    def add(self, data: bytes) -> None:
        self._spool.write(data)

    @property
    def shows_itself(self) -> bool:
        """The folder is among its own entries: the server understood `-a`."""
        found = _ITSELF.search(self._spool.read(_MOST_LINE)) is not None
        self.rewind()
        return found

    def rewind(self) -> None:
        self._spool.seek(0)

    def page(self) -> list[Entry]:
        """Up to a page of entries; empty at the end."""
        found: list[Entry] = []
        parse = facts_of if self.tells_times else _unix_or_dos
        while len(found) < _PAGE:
            line = self._spool.readline(_MOST_LINE)
            if not line:
                break
            if not line.endswith(b"\n"):
                # What follows may be missing as well, though the server calls it complete.
                raise Violation(f"a listing with a line without an end: {line[:100]!r}")
            if not line.endswith(b"\r\n"):
                line = self._with_its_rest(line)
            line = line.rstrip(b"\r\n")
            # jsftpd lists an empty folder as an empty line.
            parsed = parse(line) if line.strip() else None
            if parsed is None:
                continue
            entry, name = parsed
            if name in (b".", b".."):
                continue
            if entry.kind == "dir":
                # What lists as `ls -F` does marks a folder so.
                name = name.removesuffix(b"/")
            if not name or b"/" in name or b"\0" in name:
                raise Violation(f"a listing with the name {name[:100]!r}")
            path = self._prefix + name.decode(self._encoding, "surrogateescape")
            found.append(replace(entry, path=path))
        return found

    def _with_its_rest(self, line: bytes) -> bytes:
        """A name with a line break in it goes on behind that, in what is no line by itself, up to the next CR LF.

        Where the server ends all lines with LF alone, nothing is added: what a listing hides must not look deleted.
        """
        behind, whole = self._spool.tell(), line
        while (more := self._spool.readline(_MOST_LINE)).strip():
            try:
                (facts_of if self.tells_times else _unix_or_dos)(more.rstrip(b"\r\n"))
                break
            except Violation:
                whole += more
            if more.endswith(b"\r\n"):
                return whole
        self._spool.seek(behind)
        return line

    def close(self) -> None:
        self._spool.close()
