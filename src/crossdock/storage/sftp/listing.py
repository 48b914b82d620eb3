"""Listings: pages as the server makes them, names checked, kinds found out."""

from __future__ import annotations

import stat
from asyncio import Future
from collections import deque
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

from crossdock.errors import NotADirectory, NotFound
from crossdock.storage.base import Entry, Kind
from crossdock.storage.sftp import codec
from crossdock.storage.sftp.calls import Calls, entry_of, kind_of, kind_of_mode
from crossdock.storage.sftp.codec import Attrs, Violation, text
from crossdock.storage.sftp.faults import Translate, hint_for
from crossdock.storage.sftp.wire import Reply, Session, Status, checked

__all__ = ["scan"]

_LISTS_AHEAD = 4
_EMPTY_REPLIES = 16
_TYPE, _FILE = 0o170000, stat.S_IFREG
_SELF_AND_PARENT = (b".", b"..")
_SLASH = ord("/")
"""A number: bytes are looked up in bytes seven times as slowly."""
_LETTERS: dict[bytes, Kind] = {b"-": "file", b"d": "dir", b"l": "link"}


async def scan(calls: Calls, path: str) -> AsyncGenerator[list[Entry]]:
    """The direct children, in pages as the server makes them. Raises `NotADirectory`, `NotFound`."""
    # The handle stays, the right to the connection does not: nothing is held between two pages.
    async with calls.session("list", path) as session:
        handle = await _open_folder(calls, session, path)
    queue: deque[Future[Reply]] = deque()
    prefix = path + "/" if path else ""
    empty = 0
    named = False
    try:
        while True:
            with Translate("list", calls.backend.endpoint, path):
                while len(queue) < _LISTS_AHEAD:
                    queue.append(session.request(codec.READDIR, handle))
                try:
                    found = codec.names(checked(await queue.popleft(), codec.NAME))
                except Status as error:
                    if error.code == codec.EOF:
                        if not named:
                            await _must_be_folder(calls, session, path)
                        return
                    raise await _no_folder(calls, session, path, error) from error
                empty = 0 if found else empty + 1
                named = named or bool(found)
                if empty > _EMPTY_REPLIES:
                    raise Violation("a listing that does not end and names nothing")
                page = await _listed(calls, session, prefix, found)
            yield page
    finally:
        for future in queue:
            future.cancel()
        calls.close_quietly(session, handle, path)


async def _open_folder(calls: Calls, session: Session, path: str) -> bytes:
    try:
        return await session.open_folder(calls.full(path, "list"))
    except Status as error:
        raise await _no_folder(calls, session, path, error) from error


async def _no_folder(calls: Calls, session: Session, path: str, error: Status) -> Exception:
    """OpenSSH says "no such file" of what is no folder, others "failure", and some only when its names are read.

    Maverick does not permit to list what is below a missing folder.
    """
    unclear = (codec.FAILURE, codec.PERMISSION_DENIED)
    if error.code not in (*codec.MISSING, *unclear):
        return error
    kind = await kind_of(session, calls.full(path, "list"))
    if kind in ("file", "other"):
        return calls.backend.error(NotADirectory, "list", path, "it is no folder")
    if kind is None and error.code in unclear:
        return calls.backend.error(NotFound, "list", path, "no such folder", hint=hint_for(NotFound))
    return error


async def _must_be_folder(calls: Calls, session: Session, path: str) -> None:
    """Nothing was named, not even "." and "..": SeaweedFS lists what is missing, and a file, as an empty folder."""
    try:
        attrs = await session.attrs(codec.STAT, text(calls.full(path, "list")))
    except Status as error:
        if error.code in codec.MISSING:
            raise calls.backend.error(NotFound, "list", path, "no such folder", hint=hint_for(NotFound)) from error
        return
    if kind_of_mode(attrs.permissions) in ("file", "other"):
        raise calls.backend.error(NotADirectory, "list", path, "it is no folder")


async def _listed(calls: Calls, session: Session, prefix: str, found: list[tuple[bytes, bytes, Attrs]]) -> list[Entry]:
    """The entries of one reply to READDIR; what the server left unsaid is asked for, all at once.

    Raises `Violation` for a name that would lead out of the folder.
    """
    entries: list[Entry] = []
    follow = calls.settings.links == "follow"
    encoding = calls.settings.encoding
    asked: list[tuple[int, bool, Future[Reply]]] = []
    for raw, longname, attrs in found:
        if raw in _SELF_AND_PARENT:
            continue
        if raw.endswith(b"/") and kind_of_mode(attrs.permissions) == "dir":
            # How some mark a folder, as object stores do; more of it is refused.
            raw = raw[:-1]
        if not raw or _SLASH in raw or 0 in raw:
            raise Violation(f"a listing with the name {raw[:100]!r}")
        path = prefix + raw.decode(encoding, "surrogateescape")
        size, mode, seconds = attrs
        if mode is not None and mode & _TYPE == _FILE and seconds is not None and size is not None:
            # Nearly all of a long listing, so without a call.
            entries.append(Entry(path=path, size=size, modified=datetime.fromtimestamp(seconds, UTC)))
            continue
        kind = kind_of_mode(mode)
        # Some list less of a file than they tell of it when they are asked.
        meagre = kind == "file" and calls.lists_less and (size is None or seconds is None)
        if kind is None or meagre or (follow and kind == "link"):
            how = codec.STAT if follow else codec.LSTAT
            asked.append((len(entries), kind is None, session.request(how, text(calls.full(path, "list")))))
            kind = kind or _LETTERS.get(longname[:1], "file")
        entries.append(entry_of(path, attrs, kind))
    gone: set[int] = set()
    led: list[int] = []
    for at, untold, future in asked:
        try:
            attrs = codec.parse_attrs(checked(await future, codec.ATTRS))[0]
        except Status as error:
            # Removed since it was listed, unless it is a link that leads nowhere.
            if untold and error.code in codec.MISSING and entries[at].kind != "link":
                gone.add(at)
            continue
        kind = kind_of_mode(attrs.permissions) or entries[at].kind
        if kind == "file" and attrs.size is None and attrs.modified is None:
            calls.lists_less = False
        if (entries[at].kind, kind) == ("link", "dir"):
            led.append(at)
        entries[at] = entry_of(entries[at].path, attrs, kind)
    if led:
        await _leave_loops(calls, session, prefix, entries, led)
    return [entry for at, entry in enumerate(entries) if at not in gone] if gone else entries


async def _leave_loops(calls: Calls, session: Session, prefix: str, entries: list[Entry], led: list[int]) -> None:
    """A link to a folder above stays a link: followed, it would show all that is there again and again."""
    parts = prefix.split("/")[:-1]
    folders = ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]
    names = [calls.full(path, "list") for path in (*folders, *(entries[at].path for at in led))]
    waiting = [session.request(codec.REALPATH, text(name)) for name in names]
    found = [await _real(future) for future in waiting]
    above = [real + b"/" for real in found[: len(folders)] if real is not None]
    for at, target in zip(led, found[len(folders) :], strict=True):
        if target is not None and any(real.startswith(target + b"/") for real in above):
            entries[at] = Entry(path=entries[at].path, kind="link")


async def _real(future: Future[Reply]) -> bytes | None:
    """Where a name leads, without links; None: the server does not say."""
    try:
        return codec.parse_name(checked(await future, codec.NAME)).rstrip(b"/")
    except Status:
        return None
