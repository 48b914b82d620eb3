"""Whether a file would be copied onto itself, by another endpoint's name: who then removes the source loses it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from weakref import WeakKeyDictionary

from crossdock.storage.base import Backend
from crossdock.storage.storage import Storage

__all__ = ["is_itself"]

_KEPT = 1000
_Folders = dict[tuple[str, str], bool]
_KNOWN: WeakKeyDictionary[Backend, WeakKeyDictionary[Backend, _Folders]] = WeakKeyDictionary()
"""Folders of two local endpoints that were compared: a tree is copied with one look at each."""


async def is_itself(source: Storage, path: str, target: Storage, to: str) -> bool:
    """Both are names of one file, as far as their endpoints can tell."""
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
