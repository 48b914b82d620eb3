"""SFTP version 3 on the wire: packets to bytes and back (draft-ietf-secsh-filexfer-02, OpenSSH's PROTOCOL file).

Names are bytes here; nothing a peer says is believed before its length is checked.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = [
    "OFFSET_LENGTH",
    "U32",
    "Attrs",
    "Violation",
    "names",
    "parse_attrs",
    "parse_name",
    "parse_status",
    "parse_version",
    "text",
]

INIT, VERSION = 1, 2
OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = 3, 4, 5, 6, 7, 8, 9, 10
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME = 11, 12, 13, 14, 15, 16, 17, 18
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED, EXTENDED_REPLY = 101, 102, 103, 104, 105, 200, 201

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = 0, 1, 2, 3, 4, 5
NO_CONNECTION, CONNECTION_LOST, OP_UNSUPPORTED, ALREADY_EXISTS = 6, 7, 8, 11
MISSING = (NO_SUCH_FILE, 10)
"""Status codes that say that a name is not there; 10 is of a later version (no such path)."""

FOR_READING, FOR_WRITING, CREATE, TRUNCATE, EXCLUSIVE = 0x01, 0x02, 0x08, 0x10, 0x20

A_SIZE, A_OWNER, A_PERMISSIONS, A_TIMES, A_EXTENDED = 0x01, 0x02, 0x04, 0x08, 0x80000000
_ALL = A_SIZE | A_OWNER | A_PERMISSIONS | A_TIMES

LONGEST_HANDLE = 256
MOST_EXTENSIONS = 256

U32 = struct.Struct(">I")
U64 = struct.Struct(">Q")
OFFSET_LENGTH = struct.Struct(">QI")
_PAIR = struct.Struct(">II")
_FULL = struct.Struct(">IQIIIII")
_u32 = U32.unpack_from


class Violation(Exception):
    """The peer said what the protocol does not allow."""


class Attrs(NamedTuple):
    """What a server tells of a file; None: it did not."""

    size: int | None = None
    permissions: int | None = None
    modified: int | None = None
    """Seconds since 1970, unsigned 32 bits."""


NO_ATTRS = struct.pack(">I", 0)


def text(value: bytes) -> bytes:
    """A length-prefixed string."""
    return U32.pack(len(value)) + value


def times(modified: int) -> bytes:
    """Attributes that set access and modification time."""
    return struct.pack(">III", A_TIMES, modified, modified)


def size(value: int) -> bytes:
    """Attributes that set the size."""
    return struct.pack(">IQ", A_SIZE, value)


def take(data: bytes, at: int, longest: int = 1 << 18) -> tuple[bytes, int]:
    """The string at `at` and where it ends. Raises `Violation`."""
    try:
        (length,) = _u32(data, at)
    except struct.error:
        raise Violation("a string's length is cut off") from None
    end = at + 4 + length
    if length > longest or end > len(data):
        raise Violation(f"a string of {length} bytes in a packet of {len(data)}")
    return data[at + 4 : end], end


def parse_attrs(data: bytes, at: int = 0) -> tuple[Attrs, int]:
    """The attributes at `at` and where they end. Raises `Violation`."""
    try:
        (flags,) = _u32(data, at)
        if flags == _ALL:
            _, length, _, _, mode, _, modified = _FULL.unpack_from(data, at)
            return Attrs(length, mode, modified), at + 32
        at += 4
        found: list[int | None] = [None, None, None]
        if flags & A_SIZE:
            (found[0],) = U64.unpack_from(data, at)
            at += 8
        if flags & A_OWNER:
            at += 8
        if flags & A_PERMISSIONS:
            (found[1],) = _u32(data, at)
            at += 4
        if flags & A_TIMES:
            found[2] = _PAIR.unpack_from(data, at)[1]
            at += 8
        if flags & A_EXTENDED:
            (count,) = _u32(data, at)
            at += 4
            if count > MOST_EXTENSIONS:
                raise Violation(f"{count} extended attributes")
            for _ in range(2 * count):
                _, at = take(data, at)
    except struct.error:
        raise Violation("attributes are cut off") from None
    if at > len(data):
        raise Violation("attributes are cut off")
    return Attrs(*found), at


def names(data: bytes) -> list[tuple[bytes, bytes, Attrs]]:
    """(name, long name, attributes) of each entry of a NAME reply. Raises `Violation`."""
    found: list[tuple[bytes, bytes, Attrs]] = []
    add, total = found.append, len(data)
    try:
        (count,) = _u32(data, 0)
        # The shortest entry: two empty strings and no attributes.
        if count * 12 > total - 4:
            raise Violation(f"{count} names in a packet of {total} bytes")
        at = 4
        for _ in range(count):
            start = at + 4
            middle = start + _u32(data, at)[0]
            end = middle + 4 + _u32(data, middle)[0]
            # What almost every server sends, without a call each.
            if total - end >= 32 and (fields := _FULL.unpack_from(data, end))[0] == _ALL:
                attrs, at = Attrs(fields[1], fields[4], fields[6]), end + 32
            else:
                attrs, at = parse_attrs(data, end)
            add((data[start:middle], data[middle + 4 : end], attrs))
    except struct.error:
        raise Violation("a name is cut off") from None
    return found


def parse_name(data: bytes) -> bytes:
    """The one name of a REALPATH reply. Raises `Violation`."""
    found = names(data)
    if len(found) != 1:
        raise Violation(f"{len(found)} names where one was due")
    return found[0][0]


def parse_status(data: bytes) -> tuple[int, str]:
    """(code, message) of a STATUS reply, which holds a code at least: some servers leave the message out."""
    try:
        message = take(data, 4)[0]
    except Violation:
        message = b""
    return _u32(data, 0)[0], message[:500].decode("utf-8", "replace")


def parse_version(data: bytes) -> tuple[int, dict[bytes, bytes]]:
    """(version, extension → its data) of a VERSION reply. Raises `Violation`."""
    if len(data) < 4:
        raise Violation("a version reply without a version")
    at, found = 4, {}
    while at < len(data):
        name, at = take(data, at)
        found[name], at = take(data, at)
        if len(found) > MOST_EXTENSIONS:
            raise Violation("too many extensions")
    return _u32(data, 0)[0], found
