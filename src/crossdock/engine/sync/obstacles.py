"""What stands in the way of a sync: a target within its source, and files and folders where a file is to go."""

from __future__ import annotations

import asyncio
import re
import socket

from crossdock.errors import (
    Conflict,
    CrossdockError,
    NotADirectory,
    NotAFile,
    NotFound,
    PermissionDenied,
    Unsupported,
    located,
)
from crossdock.storage.storage import Storage

__all__ = ["Above", "Obstacles", "refuse_overlap"]


_HOST = re.compile(r"(?P<before>s?ftp:.*@|s3:https?://)(?P<host>[^:/@]+|[0-9a-f:]+)(?P<after>:\d+\b.*)")
"""In `Backend.store`."""


async def refuse_overlap(source: Storage, folder: str, target: Storage, to: str) -> None:
    """Raise `Conflict` where one of two folders is within the other, be it by another name of its server."""
    if not await _one_store(source.backend.store, target.backend.store):
        return
    here = f"{source.backend.address(folder)}/".lstrip("/")
    there = f"{target.backend.address(to)}/".lstrip("/")
    if here.startswith(there) or there.startswith(here):
        raise Conflict(
            f"sync {located(source.endpoint, folder)} → {located(target.endpoint, to)}: source and target overlap",
            hint="choose a target outside the source",
        )


async def _one_store(one: str | None, other: str | None) -> bool:
    if one is None or other is None or one == other:
        return one is not None and one == other
    here, there = _HOST.fullmatch(one), _HOST.fullmatch(other)
    if here is None or there is None or here["before"] != there["before"] or here["after"] != there["after"]:
        return False
    return not (await _addresses(here["host"])).isdisjoint(await _addresses(there["host"]))


async def _addresses(host: str) -> set[str]:
    """None where only a proxy, or a jump host, knows the name."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {str(address[0]) for *_, address in found}


class Above:
    """Of files in a listing's order, those below which others lie: only where there are no folders can they be."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def file(self, name: str) -> str | None:
        """The one above this file, which is the next."""
        while self._names and not name.startswith(self._names[-1]):
            self._names.pop()
        found = next((each for each in self._names if name.startswith(f"{each}/")), None)
        self._names.append(name)
        return found


class Obstacles:
    """Of one target, for a run that only says what it would do.

    It is asked once for each folder, and once for each file whose folder is there.
    """

    def __init__(self, target: Storage) -> None:
        self._target = target
        self._kinds: dict[str, str | None] = {}

    async def before(self, path: str) -> CrossdockError | None:
        """With what a write of this new file would be refused: its name is a folder's, or that of a folder is a file's.

        None also where the target does not tell: it has no folders, or nobody may look.
        """
        folders = self._target.capabilities.directories
        odd = not (path.isascii() and path.isprintable()) if folders else any(map(_is_byte, path))
        # Whether there can be such a name is known before anybody is asked, and raised; also below a new folder.
        found = await self._look(path) if odd else None
        if not folders:
            return None
        if found is not None:
            return self._taken(path, found)
        end = 0
        while (end := path.find("/", end + 1)) > 0:
            kind = await self._kind(folder := path[:end])
            if kind is None:
                return None
            if kind == "link":
                return await self._beyond(path)
            if kind != "dir":
                name = folder.rpartition("/")[2]
                return self._target.backend.error(NotADirectory, "write", path, f"{name!r} is not a folder")
        return None if odd else self._taken(path, await self._look(path))

    def _taken(self, path: str, kind: str | None) -> CrossdockError | None:
        return self._target.backend.error(NotAFile, "write", path, "it is a folder") if kind == "dir" else None

    async def _beyond(self, path: str) -> CrossdockError | None:
        """Below a link: some endpoints follow those, others refuse to, in the words with which they refuse a look."""
        try:
            return self._taken(path, (await self._target.stat(path)).kind)
        except (NotFound, Unsupported):
            return None
        except (NotADirectory, PermissionDenied) as error:
            return self._target.backend.error(type(error), "write", path, error.reason, hint=error.hint)

    async def _kind(self, folder: str) -> str | None:
        if folder not in self._kinds:
            self._kinds[folder] = await self._look(folder)
        return self._kinds[folder]

    async def _look(self, path: str) -> str | None:
        """None: nothing is there, or whoever writes may not look."""
        try:
            return (await self._target.stat(path)).kind
        except (NotFound, PermissionDenied, Unsupported):
            return None


def _is_byte(letter: str) -> bool:
    """Not UTF-8, in which such a store names its objects."""
    return "\ud800" <= letter <= "\udfff"
