"""ZIP archives (PKWARE's APPNOTE): looked at whole before a single member is given out.

A ZIP's members can only be told for certain by the directory at its end, so that an archive is first kept in a
temporary file. Archives can lie in many ways, and readers differ in what they then see; whatever is not plain is
refused: bytes before or after it, members that overlap, names that differ between the directory and the member.
Archives inside the archive are files like any other: they are not opened.
"""

from __future__ import annotations

import asyncio
import codecs
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Any
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from crossdock.errors import CrossdockError, NotFound, TransformFailed, shown
from crossdock.storage.base import Backend, Capabilities, Entry, Reader, WriteOptions, Writer
from crossdock.storage.settings import ByteSize, FilePath
from crossdock.transfer.transforms.base import Growth, Refused, Splitter
from crossdock.transfer.transforms.members import Unpacking

__all__ = ["Unzip", "UnzipOptions"]

_CHUNK = 256 * 1024
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1 | 0x40
_LOCAL = struct.Struct("<4s5H3L2H")
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_PER_MEMBER = 1024
"""Bytes of the directory for each member that is allowed: it is held in memory."""
_LONGEST_NAME = 4096
"""Characters. Systems have no longer paths, and each slash would be a folder to make."""
_HINT = "have the archive made again with a plain zip program"


class UnzipOptions(Unpacking):
    """The bounds are on all members together."""

    max_members: int = Field(default=10_000, gt=0)
    max_archive: ByteSize = Field(default=4 * 1024**3, gt=0)
    """Bytes of the archive itself, which is kept on local disk while it is unpacked."""
    spool: FilePath | None = None
    """The folder for that; by default the system's (TMPDIR)."""
    names: str = "cp437"
    """Encoding of the names that are not marked as UTF-8."""
    timezone: str = "UTC"
    """Of the members' times, which a ZIP gives without one."""

    @field_validator("names")
    @classmethod
    def _encoding(cls, name: str) -> str:
        try:
            codecs.getincrementaldecoder(name)
            "".encode(name)
        except LookupError:
            raise ValueError(f"no encoding is called {name!r}; write cp437, cp850, shift_jis, utf-8, …") from None
        return name

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"no time zone is called {name!r}; write UTC, Europe/London, …") from None
        return name


class Unzip(Splitter):
    """Each member becomes a file below the rule's target; folders are made as needed."""

    Options = UnzipOptions
    options: UnzipOptions

    @property
    def spool_limit(self) -> int:
        return self.options.max_archive

    @property
    def spool_folder(self) -> Path | None:
        return self.options.spool

    def open(self, file: IO[bytes], endpoint: str) -> tuple[Backend, Sequence[str]]:
        options = self.options
        end, count = _directory(file, options.max_members)
        try:
            archive = zipfile.ZipFile(file, metadata_encoding=options.names)
        except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, struct.error) as error:
            raise Refused(f"not a valid ZIP archive: {error}", hint=_HINT) from error
        members = archive.infolist()
        if len(members) != count:
            raise Refused(f"its directory lists {len(members)} members and says {count}", hint=_HINT)
        for member in members:
            _check(member)
        _check_layout(file, members, end)
        files = [member for member in members if not member.is_dir()]
        _check_names(members)
        growth = Growth(ratio=options.max_ratio, size=options.max_size)
        # As declared; the readers hold each member to its declaration.
        growth.took(sum(member.compress_size for member in files))
        growth.gave(sum(member.file_size for member in files))
        zone = ZoneInfo(options.timezone)
        return _Members(endpoint, archive, {member.filename: member for member in files}, zone), [
            member.filename for member in files
        ]


def _too_many(limit: int) -> Refused:
    return Refused(f"over {limit} members", hint="raise the option max_members if that is right")


def _directory(file: IO[bytes], max_members: int) -> tuple[int, int]:
    """Where the directory starts, and its number of members. Raises `Refused` unless all that is said of it agrees.

    Looked at before `zipfile` does, which reads the whole directory into memory.
    """
    size = file.seek(0, 2)
    if not size:
        raise Refused("the file is empty, not a ZIP archive", hint=_HINT)
    tail = min(size, _END.size + 0xFFFF)
    file.seek(size - tail)
    data = file.read(tail)
    at = data.rfind(b"PK\5\6")
    if at < 0 or len(data) - at < _END.size:
        raise Refused("not a ZIP archive, or cut off: its directory is missing", hint="have the file sent again")
    _, disk, first, here, count, length, start, comment = _END.unpack_from(data, at)
    if at + _END.size + comment != len(data):
        raise Refused("something follows the end of the archive, or it is cut off", hint="have the file sent again")
    end = size - tail + at
    locator = _read(file, end - _LOCATOR.size, _LOCATOR)
    if locator is not None and locator[0] == b"PK\6\7":
        end -= _LOCATOR.size + _END64.size
        record = _read(file, end, _END64)
        if record is None or record[0] != b"PK\6\6" or locator[2] != end:
            raise Refused("not a valid ZIP archive: its 64-bit directory is not where it should be", hint=_HINT)
        disk, first, here, count, length, start = record[4:]
    if disk or first or here != count:
        raise Refused("one part of an archive of several", hint="have it made in one part")
    if count > max_members or length > max_members * _PER_MEMBER:
        raise _too_many(max_members)
    if start + length != end:
        raise Refused("not a plain ZIP archive: its directory is not where it says", hint=_HINT)
    return int(start), int(count)


def _read(file: IO[bytes], at: int, what: struct.Struct) -> tuple[Any, ...] | None:
    if at < 0:
        return None
    file.seek(at)
    data = file.read(what.size)
    return what.unpack(data) if len(data) == what.size else None


def _check(member: zipfile.ZipInfo) -> None:
    """One member by itself: its name, its kind, and how it is packed."""
    name = shown(member.orig_filename[:_LONGEST_NAME])
    # The name is not the original one where an extra field gives it in Unicode, or after a NUL.
    bad = _bad_name(member.orig_filename) or _bad_name(member.filename)
    if bad is not None:
        raise Refused(f"the member {name} {bad}", hint="have the archive made with plain relative names")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if kind == stat.S_IFLNK else "not a file"
        raise Refused(f"the member {name} is {what}", hint="have the archive made of plain files")
    if member.is_dir():
        if member.file_size or kind == stat.S_IFREG:
            raise Refused(f"the member {name} is a folder with content", hint=_HINT)
    elif kind == stat.S_IFDIR:
        raise Refused(f"the member {name} is a folder by its mode, a file by its name", hint=_HINT)
    if member.flag_bits & _ENCRYPTED:
        raise Refused(
            f"the member {name} is encrypted",
            hint="agree on PGP with its sender: archives' passwords are not handled",
        )
    if member.compress_type not in _METHODS:
        raise Refused(f"the member {name} is packed by method {member.compress_type}, not deflate", hint=_HINT)


def _bad_name(name: str) -> str | None:
    """Why a member of this name could land elsewhere, or be taken for another; None: it could not."""
    if len(name) > _LONGEST_NAME:
        return f"has a name of over {_LONGEST_NAME} characters"
    if "\0" in name or any(unicodedata.category(letter) == "Cc" for letter in name):
        return "has a control character in its name"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has an absolute name"
    if "\\" in name:
        return "has a backslash in its name"
    parts = name.removesuffix("/").split("/")
    if ".." in parts:
        return "leads out of the archive's folder"
    if "" in parts or "." in parts:
        return "has an empty part in its name"
    return None


def _check_names(members: Sequence[zipfile.ZipInfo]) -> None:
    """No two of the same name, and no file where another needs a folder."""
    names = (unicodedata.normalize("NFC", member.filename) for member in members)
    # What lies in a folder comes right behind it: no name has a control character.
    for name, following in pairwise(sorted(names, key=lambda name: name.replace("/", "\0"))):
        if name == following:
            raise Refused(f"two members are called {shown(name)}", hint=_HINT)
        if following.startswith(f"{name}/"):
            raise Refused(f"{shown(name)} is both a file and a folder", hint=_HINT)


def _check_layout(file: IO[bytes], members: Sequence[zipfile.ZipInfo], end: int) -> None:
    """Members lie one after the other, from the first byte to the directory, and each says the same of itself."""
    free = 0
    for member in sorted(members, key=lambda found: found.header_offset):
        at = member.header_offset
        header = _read(file, at, _LOCAL)
        if header is None or header[0] != b"PK\3\4":
            raise Refused(f"the member {shown(member.filename)} is not where the directory says", hint=_HINT)
        names, extra = header[9], header[10]
        if at < free:
            raise Refused(f"the member {shown(member.filename)} overlaps another", hint=_HINT)
        if free == 0 and at != 0:
            raise Refused("something precedes the archive", hint=_HINT)
        if header[2] & _ENCRYPTED or header[3] != member.compress_type:
            raise Refused(f"the member {shown(member.filename)} is not packed as the directory says", hint=_HINT)
        free = at + _LOCAL.size + names + extra + member.compress_size
        if free > end:
            raise Refused(f"the member {shown(member.filename)} runs into the directory", hint=_HINT)


class _Members(Backend):
    """The files in an archive, to read."""

    def __init__(
        self, endpoint: str, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], zone: ZoneInfo
    ) -> None:
        self.endpoint = endpoint
        self.capabilities = Capabilities(pinned_reads=True)
        self._archive, self._members, self._zone = archive, members, zone

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        self._archive.close()

    def _member(self, path: str, operation: str) -> zipfile.ZipInfo:
        if path not in self._members:
            raise self.error(NotFound, operation, path, "no such member")
        return self._members[path]

    def _entry(self, path: str, member: zipfile.ZipInfo) -> Entry:
        try:
            modified = datetime(*member.date_time, tzinfo=self._zone).astimezone(UTC)
        except ValueError:
            # Month 0 or second 60: many programs write no time at all.
            modified = None
        return Entry(path=path, size=member.file_size, modified=modified, etag=f"crc:{member.CRC:08x}")

    async def stat(self, path: str) -> Entry:
        return self._entry(path, self._member(path, "stat"))

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        yield [self._entry(name, member) for name, member in self._members.items() if name.startswith(path)]

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        member = self._member(path, "read")
        return _MemberReader(self._archive, member, self._entry(path, member), self.endpoint)

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        raise self._unsupported("write", path)

    async def delete(self, path: str) -> None:
        raise self._unsupported("delete", path)


class _MemberReader(Reader):
    """Unpacks in a thread, 256 KiB at a time; size and CRC are verified at the end."""

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, entry: Entry, endpoint: str) -> None:
        self.entry = entry
        self._open = partial(archive.open, member)
        self._file: IO[bytes] | None = None
        self._name = f"{endpoint}:{shown(entry.path)}"
        self._left = member.file_size

    async def read(self) -> bytes:
        return await asyncio.to_thread(self._read)

    def _read(self) -> bytes:
        try:
            if self._file is None:
                self._file = self._open()
            data = self._file.read(_CHUNK)
        except CrossdockError:
            raise
        except (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError, NotImplementedError) as error:
            raise self._failed(str(error)) from error
        self._left -= len(data)
        if not data and self._left:
            raise self._failed(f"it ends {self._left} bytes early")
        return data

    def _failed(self, reason: str) -> TransformFailed:
        return TransformFailed(
            f"transform unzip of {self._name}: damaged: {reason}; nothing was published",
            hint="have the file sent again",
        )

    async def close(self) -> None:
        if self._file is not None:
            self._file.close()
