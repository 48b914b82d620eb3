"""What is behind a status that says no more than "failure"."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from crossdock.errors import (
    AlreadyExists,
    InvalidPath,
    NoSpace,
    NotADirectory,
    NotAFile,
    NotFound,
    ProtocolViolation,
    StorageError,
    Throttled,
)
from crossdock.storage.sftp import codec
from crossdock.storage.sftp.calls import Calls, kind_of, kind_of_mode
from crossdock.storage.sftp.codec import text
from crossdock.storage.sftp.disks import is_full
from crossdock.storage.sftp.faults import hint_for, translated
from crossdock.storage.sftp.wire import Session, Status, checked
from crossdock.storage.staging import temporary_path

__all__ = ["below_file", "explain", "lacks_folder", "lacks_times", "not_moved", "refused"]

_LONGEST_NAME = 255
"""Bytes; NAME_MAX of nearly every file system."""


async def explain(
    calls: Calls, session: Session, operation: str, path: str, error: Status, *, creates: bool = False
) -> StorageError:
    """The error behind a status; where the server says no more than "failure", look for the reason."""
    plain = translated(error, operation, calls.backend.endpoint, path)
    if error.code not in (codec.FAILURE, codec.PERMISSION_DENIED) or type(plain) in (NoSpace, Throttled):
        return plain
    if calls.settings.verify == "none":
        return plain
    name = calls.full(path, operation)
    fails, hidden = error.code == codec.FAILURE, False
    try:
        kind = await kind_of(session, name)
        if kind == "dir":
            return calls.backend.error(NotAFile, operation, path, "it is a folder")
        if kind is None and not creates:
            return calls.backend.error(NotFound, operation, path, "no such file", hint=hint_for(NotFound))
        if creates and fails:
            if calls.settings.staging == "none" and kind is not None:
                return calls.backend.error(AlreadyExists, operation, path, "the file exists")
            if await is_full(session, name.rpartition(b"/")[0] or b"/"):
                return calls.backend.error(
                    NoSpace, operation, path, "the server's disk is full", hint=hint_for(NoSpace)
                )
    except Status as again:
        if creates and again.code == error.code == codec.PERMISSION_DENIED:
            hint = "write verify: none at this endpoint, where nothing may be looked at; or ask for the permission"
            return calls.backend.error(type(plain), operation, path, plain.reason, hint=hint)
        fails = fails and again.code == codec.FAILURE
        hidden = not creates
    above = await below_file(calls, session, name) if fails or hidden else ""
    if above and not creates:
        return calls.backend.error(NotFound, operation, path, "no such file", hint=hint_for(NotFound))
    if fails and creates:
        if above:
            return calls.backend.error(NotADirectory, operation, path, f"{above!r} is a file")
        doubt = _doubtful(path)
        if doubt is not None:
            return calls.backend.error(InvalidPath, operation, path, f"{doubt} ({error})", hint=hint_for(InvalidPath))
    if fails and operation in ("read", "write"):
        reason = f"the server failed and gave no reason ({error})"
        return calls.backend.error(ProtocolViolation, operation, path, reason, hint=hint_for(ProtocolViolation))
    if not fails and operation == "write" and calls.settings.staging == "rename" and not calls.openssh:
        hint = f"{plain.hint}; a server that refuses names with a dot in front needs staging: none"
        return calls.backend.error(type(plain), operation, path, plain.reason, hint=hint)
    return plain


async def not_moved(
    calls: Calls, session: Session, operation: str, path: str, error: Status, *, overwrite: bool
) -> StorageError:
    """Why nothing could get the name `path`."""
    try:
        there = await kind_of(session, calls.full(path, operation)) if error.code not in codec.MISSING else None
    except Status:
        there = None
    if there == "dir":
        return calls.backend.error(NotAFile, operation, path, "a folder has this name")
    if there is not None and not overwrite:
        return calls.backend.error(AlreadyExists, operation, path, "the file exists")
    found = await explain(calls, session, operation, path, error, creates=True)
    told = isinstance(found, (InvalidPath, NoSpace, NotADirectory))
    return found if told else translated(error, operation, calls.backend.endpoint, path)


def _doubtful(path: str) -> str | None:
    """Why a server may not take a name that it failed to create."""
    names = [part.encode("utf-8", "surrogateescape") for part in path.split("/")]
    longest = max(map(len, names))
    if longest > _LONGEST_NAME:
        return f"the server does not take a name of {longest} bytes"
    if not path.isascii() or not path.isprintable():
        return "the server fails at this name, which is not plain ASCII"
    return None


async def below_file(calls: Calls, session: Session, name: bytes) -> str:
    """The file that is where `name` needs a folder; "" if there is none, or the server does not say."""
    folder = name.rpartition(b"/")[0]
    while folder:
        try:
            attrs = await session.attrs(codec.STAT, text(folder))
        except Status as error:
            if error.code not in (*codec.MISSING, codec.FAILURE):
                return ""
        else:
            found = kind_of_mode(attrs.permissions) in ("dir", None)
            return "" if found else folder.decode(calls.settings.encoding, "replace")
        folder = folder.rpartition(b"/")[0]
    return ""


async def lacks_folder(session: Session, name: bytes, error: Status) -> bool:
    """Whether nothing could be made under `name` because the folder above is missing, whatever the server calls it.

    Maverick does not permit it.
    """
    if error.code not in (codec.FAILURE, codec.PERMISSION_DENIED):
        return error.code in codec.MISSING
    try:
        return await kind_of(session, name.rpartition(b"/")[0] or b"/") is None
    except Status:
        return False


async def refused(session: Session, folder: bytes, names: Iterable[bytes]) -> list[bytes]:
    """Of these extensions the ones that are announced and not there: asked about a name that does not exist.

    Libraries for servers (Go's pkg/sftp) announce what the server that uses them refuses; SeaweedFS does so by a
    failure that says so in words.
    """
    asked = text(folder + b"/" + temporary_path("probe", secrets.token_hex(6)).encode())
    waiting = [(name, session.extended(name, asked, asked)) for name in names if name in session.extensions]
    found = []
    for name, future in waiting:
        try:
            checked(await future, codec.STATUS)
        except Status as error:
            if is_unsupported(error):
                found.append(name)
    return found


def is_unsupported(error: Status) -> bool:
    """The server has no such operation, whether the code says so or the words."""
    in_words = error.code == codec.FAILURE and "support" in error.message.lower()
    return error.code == codec.OP_UNSUPPORTED or in_words


async def lacks_times(calls: Calls, session: Session, folder: bytes) -> bool:
    """Whether it is certain that no file's time can be set: asked to do so for a name that does not exist.

    In front of object stores (AWS Transfer Family, Azure) SETSTAT is refused, or agreed to and not done.
    """
    if calls.settings.verify == "none":
        return False
    name = text(folder + b"/" + temporary_path("probe", secrets.token_hex(6)).encode())
    looked, stamped = session.request(codec.LSTAT, name), session.request(codec.SETSTAT, name, codec.times(0))
    try:
        checked(await looked, codec.ATTRS)
        there = True
    except Status as error:
        there = error.code not in codec.MISSING
    try:
        checked(await stamped, codec.STATUS)
    except Status as error:
        # Where only what is there may be changed, the name could not be told to be missing.
        calls.doubts_times = there and error.code == codec.FAILURE
        return is_unsupported(error) or (error.code == codec.PERMISSION_DENIED and not there)
    return not there
