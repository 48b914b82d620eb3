"""Names that a target may take for one another, as Windows, macOS and some FTP servers do with `A.csv` and `a.csv`."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from contextlib import aclosing, suppress

from crossdock.errors import (
    AlreadyExists,
    CrossdockError,
    InvalidPath,
    NotADirectory,
    NotFound,
    PermissionDenied,
    Unsupported,
)
from crossdock.storage.storage import Storage

__all__ = ["Twins"]

_MANY = 1000
"""Names to hold without asking whether there is need."""


class Twins:
    """The names of one run; of a large one no longer than until the target is seen to tell `A` from `a`, as most do."""

    def __init__(self, target: Storage) -> None:
        self._target = target
        # A store without folders compares bytes.
        self._seen: dict[str, str] | None = {} if target.capabilities.directories else None
        self._asked = False

    async def learn(self, held: Iterable[str]) -> None:
        """Once there are many names, ask by the first of these files of the target that has a letter."""
        if self._asked or self._seen is None or len(self._seen) < _MANY:
            return
        for path in held:
            folder, slash, name = path.rpartition("/")
            other = "".join(letter.swapcase() if letter.isascii() else letter for letter in name)
            if other != name:
                self._asked = True
                with suppress(CrossdockError):  # who does not know takes them for one
                    if not await self._holds(f"{folder}{slash}{other}"):
                        self._seen = None
                return

    def add(self, name: str) -> bool:
        """Whether one came before that this may be taken for."""
        return self._seen is not None and self._seen.setdefault(_folded(name), name) != name

    async def refused(self, name: str, path: str) -> CrossdockError | None:
        """Why a file that `add` told of, and that was not listed at the target, must not be written to `path` there."""
        try:
            if self._seen is None or not await self._holds(path):
                return None
        except CrossdockError as error:
            return error
        reason = f"the target takes this name for that of {self._seen[_folded(name)]!r}, another file of the source"
        hint = "rename one of them, or leave one out with --exclude"
        return self._target.backend.error(AlreadyExists, "write", path, reason, hint=hint)

    async def same(self, name: str, path: str, *, rehearsed: bool) -> bool:
        """Whether this file of the target is by now one that was added under another name; `rehearsed`: would be."""
        if self._seen is None or _folded(name) not in self._seen:
            return False
        other = path.removesuffix(name) + self._seen[_folded(name)]
        if rehearsed and not await self._holds(other):
            return False
        parts, others = path.split("/"), other.split("/")
        end = next(at for at, part in enumerate(parts) if part != others[at])
        async with aclosing(self._target.scan("/".join(parts[:end]))) as entries:
            listed = {entry.path async for entry in entries}
        return not {"/".join(parts[: end + 1]), "/".join(others[: end + 1])} <= listed

    async def _holds(self, path: str) -> bool:
        try:
            await self._target.stat(path)
        except (NotFound, NotADirectory, InvalidPath, Unsupported, PermissionDenied):
            return False  # or so that writing fails as well
        return True


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
