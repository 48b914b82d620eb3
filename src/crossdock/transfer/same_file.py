"""Whether a file would be copied onto itself, by another endpoint's name: who then removes the source loses it."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from weakref import WeakKeyDictionary

from crossdock.errors import (
    AuthenticationFailed,
    InvalidPath,
    NotFound,
    PermissionDenied,
    StorageError,
    Unsupported,
    located,
)
from crossdock.storage.base import Backend, Entry, Expect, WriteOptions
from crossdock.storage.staging import temporary_path
from crossdock.storage.storage import Storage
from crossdock.storage.waiting import to_its_end

__all__ = ["refuse_itself"]

_KEPT = 1000
_ZONES, _MINUTE = 900.0, 60.0
"""Seconds: some servers tell times by a zone of their own, or to the minute."""
_Folders = dict[tuple[str, str], bool]
_KNOWN: WeakKeyDictionary[Backend, WeakKeyDictionary[Backend, _Folders]] = WeakKeyDictionary()
"""Folders of two local endpoints that were compared: a tree is copied with one look at each."""


async def refuse_itself(
    source: Storage, path: str, target: Storage, to: str, options: WriteOptions, *, closely: bool
) -> None:
    """Raise `InvalidPath` if both are names of one file, as far as their endpoints tell; `closely`: or it is shown.

    `options`: with whose `attempt` and `staged` something is put there for a moment, to be found after a crash.
    """
    if await _is_itself(source, path, target, to):
        name = located(source.endpoint, path)
    elif closely and await _is_by_another_name(source, path, target, to, options):
        name = f"{located(source.endpoint, path)}, by another name"
    else:
        return
    hint = "send it somewhere else"
    raise target.backend.error(InvalidPath, "write", to, f"this is the source itself, {name}", hint=hint)


async def _is_itself(source: Storage, path: str, target: Storage, to: str) -> bool:
    one, other = source.backend, target.backend
    if one is other:
        return path == to
    if one.store is None or one.store != other.store:
        return False
    if one.store != "local":
        return one.address(path) == other.address(to)
    folder, _, name = path.rpartition("/")
    there, _, called = to.rpartition("/")
    if name != called:
        return False
    known = _KNOWN.setdefault(one, WeakKeyDictionary()).setdefault(other, {})
    if (folder, there) not in known:
        found = await asyncio.to_thread(_one_folder, one, folder, other, there)
        if found is None:
            return False
        if len(known) >= _KEPT:
            known.clear()
        known[folder, there] = found
    return known[folder, there]


def _one_folder(one: Backend, folder: str, other: Backend, there: str) -> bool | None:
    """By what the system says, which knows of mounts; None: one of them is not there yet."""
    try:
        return Path(one.address(folder)).samefile(other.address(there))
    except OSError:
        return None


async def _is_by_another_name(source: Storage, path: str, target: Storage, to: str, options: WriteOptions) -> bool:
    """One server may have two names, or take `A` for `a`.

    One look for each pair of folders; where what it finds may be the source, what is put beside it is looked for there.
    """
    folder, _, name = path.rpartition("/")
    there, _, called = to.rpartition("/")
    one, other = source.backend, target.backend
    if name.casefold() != called.casefold() or (path == to and one is other):
        return False
    if name == called and one.store is not None and one.store == other.store:
        return False  # They do tell.
    apart = _KNOWN.setdefault(one, WeakKeyDictionary()).setdefault(other, {})
    if name == called and (folder, there) in apart:
        return False
    found = await _look(target, to)
    # Looked at afterwards: what was not there a moment ago may have come since.
    here = await _look(source, path)
    if _may_be(here, found) and await _shows(source, path, target, to, options):
        return True
    if name == called and here is not None:
        if len(apart) >= _KEPT:
            apart.clear()
        apart[folder, there] = False
    return False


async def _look(storage: Storage, path: str) -> Entry | None:
    """None also in a drop box, where nobody may look."""
    try:
        return await storage.stat(path)
    except (NotFound, PermissionDenied, Unsupported):
        return None


def _may_be(one: Entry | None, other: Entry | None) -> bool:
    """By all that both entries tell."""
    if one is None or other is None or other.kind != "file":
        return False
    told = ((one.size, other.size), (one.etag, other.etag), (one.version, other.version))
    if any(here is not None and there is not None and here != there for here, there in told):
        return False
    if one.modified is None or other.modified is None:
        return True
    rest = (one.modified - other.modified).total_seconds() % _ZONES
    return min(rest, _ZONES - rest) <= _MINUTE


async def _shows(source: Storage, path: str, target: Storage, to: str, options: WriteOptions) -> bool:
    """Whether the source shows what is put beside the target's file for a moment. False, too, if nobody may do so."""
    attempt = options.attempt or secrets.token_hex(6)
    put = temporary_path(to, attempt)
    folder, slash, name = path.rpartition("/")
    mark = put.rpartition("/")[2]
    seen = mark if name == to.rpartition("/")[2] else mark.swapcase()
    token = target.backend.leftover(put, attempt)
    if token is not None and options.staged is not None:
        await options.staged(token)
    try:
        # Not by `Storage`, which keeps such names for itself.
        writer = await target.backend.begin_write(put, WriteOptions(size=0, attempt=attempt))
        try:
            await writer.commit(Expect(size=0))
        finally:
            await writer.abort()
    except StorageError as error:
        if error.retryable or isinstance(error, AuthenticationFailed):
            raise
        return False
    try:
        return await _look(source, f"{folder}{slash}{seen}") is not None
    finally:
        await to_its_end(target.backend.delete(put))
