"""Two trees side by side: their ordered listings merged by name, a page at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from crossdock.errors import NotFound
from crossdock.storage.base import Entry
from crossdock.storage.storage import Storage

__all__ = ["Pair", "merged"]

Pair = tuple[str, Entry | None, Entry | None]
"""A name relative to both folders, and what it stands for at the source and at the target."""


async def merged(
    source: Storage,
    folder: str,
    target: Storage,
    to: str,
    *,
    without: Callable[[str], bool] | None = None,
    without_there: Callable[[str], bool] | None = None,
) -> AsyncGenerator[list[Pair]]:
    """All names of both trees, in code-point order, many at a time. A target that is not there yet is empty.

    `without`, `without_there`: as `Storage.walk_pages` takes them, for names relative to the folders.
    """
    ours = _Side(source, folder, missing_is_empty=False, without=without)
    theirs = _Side(target, to, missing_is_empty=True, without=without_there)
    async with aclosing(ours.pages), aclosing(theirs.pages):
        await _both(ours.more(), theirs.more())
        while ours.names or theirs.names:
            yield _decided(ours, theirs)
            await _both(ours.more(), theirs.more())


class _Side:
    """What one tree has listed and not yet been merged: `names` (relative to the folder) and their `entries`."""

    def __init__(
        self, storage: Storage, folder: str, *, missing_is_empty: bool, without: Callable[[str], bool] | None
    ) -> None:
        self._storage = storage
        self._skip = skip = len(folder) + 1 if folder else 0
        self.pages = storage.walk_pages(folder, without=without and (lambda path: without(path[skip:])))
        self._missing_is_empty = missing_is_empty
        self.names: list[str] = []
        self.entries: list[Entry] = []
        self.ended = False

    async def more(self) -> None:
        """Get the next page, if this one is used up."""
        while not self.names and not self.ended:
            try:
                page = await anext(self.pages, None)
            except NotFound:
                if not self._missing_is_empty:
                    raise
                if not self._storage.capabilities.directories:
                    await self._storage.check_store()
                page = None
            # What vanishes after it was listed is an error: else the rest of the target would count as missing.
            self._missing_is_empty = self._missing_is_empty and not page
            self.ended = page is None
            self.entries = page or []
            skip = self._skip
            self.names = [entry.path[skip:] for entry in self.entries]

    def keep(self, start: int) -> None:
        """What comes before `start` is merged."""
        self.names, self.entries = self.names[start:], self.entries[start:]


def _decided(ours: _Side, theirs: _Side) -> list[Pair]:
    """Every pair that is certain: up to where one side runs out of names that it has listed."""
    pairs: list[Pair] = []
    at, there = 0, 0
    while at < len(ours.names) and there < len(theirs.names):
        name, other = ours.names[at], theirs.names[there]
        if name == other:
            pairs.append((name, ours.entries[at], theirs.entries[there]))
            at += 1
            there += 1
        elif name < other:
            pairs.append((name, ours.entries[at], None))
            at += 1
        else:
            pairs.append((other, None, theirs.entries[there]))
            there += 1
    if theirs.ended and there == len(theirs.names):
        pairs += [(name, entry, None) for name, entry in zip(ours.names[at:], ours.entries[at:], strict=True)]
        at = len(ours.names)
    if ours.ended and at == len(ours.names):
        pairs += [(name, None, entry) for name, entry in zip(theirs.names[there:], theirs.entries[there:], strict=True)]
        there = len(theirs.names)
    ours.keep(at)
    theirs.keep(there)
    return pairs


async def _both(ours: Coroutine[Any, Any, None], theirs: Coroutine[Any, Any, None]) -> None:
    """Side by side; both have ended when this returns or raises."""
    for result in await asyncio.gather(ours, theirs, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
