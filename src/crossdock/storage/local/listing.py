"""Folders of a local disk, read page by page in threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

from crossdock.errors import NotFound
from crossdock.storage.base import Entry, distinct
from crossdock.storage.local.tree import Tree

__all__ = ["Listing", "Walk"]

_PAGE = 1000
"""Names that are looked at in one call of a thread: some milliseconds on a disk that is cached."""


class Listing:
    """One folder, in the order of the disk."""

    def __init__(self, tree: Tree, path: str) -> None:
        self._tree, self.path = tree, path
        self._prefix = f"{path}/" if path else ""
        self._names: Iterator[os.DirEntry[str]] | None = None
        self._descriptor: int | None = None

    def page(self) -> list[Entry]:
        """The next entries, as many as a page holds; [] at the end."""
        with self._tree.told("list", self.path):
            if self._names is None:
                self._names = self._open()
            entry, prefix = self._tree.entry, self._prefix
            found: list[Entry] = []
            while not found and (names := list(islice(self._names, _PAGE))):
                for name in names:
                    try:
                        found.append(entry(prefix + name.name, name.stat(follow_symlinks=False)))
                    except FileNotFoundError:
                        continue  # deleted since its name was read
            return found

    def _open(self) -> Iterator[os.DirEntry[str]]:
        folder = self._tree.folder(self.path, "list")
        try:
            self._descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
        return os.scandir(self._descriptor)

    def close(self) -> None:
        """Safe to repeat."""
        if self._names is not None:
            self._names.close()  # type: ignore[attr-defined]
            self._names = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Walk:
    """All files below a folder, in ascending order of their paths' code points.

    One call reads many small folders, or a part of a large one. Memory: the folders on the way down.
    """

    def __init__(self, tree: Tree, path: str) -> None:
        self._tree, self._path = tree, path
        self._listing: Listing | None = Listing(tree, path)
        self._read: list[Entry] = []
        """What the folder that is being read has shown so far."""
        self._due: list[Entry] = []
        """The next one last; a folder stands for all that is below it."""

    def page(self) -> list[Entry] | None:
        """The next entries, perhaps none yet; None at the end."""
        found: list[Entry] = []
        looked = 0
        while looked < _PAGE:
            if self._listing is not None:
                names = self._next_of(self._listing)
                looked += len(names) + 1
                self._read += names
                if not names:
                    self.close()
                    self._read.sort(key=_order, reverse=True)
                    self._due += distinct(self._read)
                    self._read = []
            elif self._due:
                entry = self._due.pop()
                if entry.kind == "dir":
                    self._listing = Listing(self._tree, entry.path)
                else:
                    found.append(entry)
            else:
                return found or None
        return found

    def _next_of(self, listing: Listing) -> list[Entry]:
        try:
            return listing.page()
        except NotFound:
            if listing.path == self._path:
                raise
            # The folder was removed since its name was read; was all of the tree?
            os.close(self._tree.folder(self._path, "list"))
            self._read = []
            return []

    def close(self) -> None:
        """Safe to repeat."""
        if self._listing is not None:
            self._listing.close()
            self._listing = None


def _order(entry: Entry) -> str:
    """Names below a folder are longer by the slash, which sorts after "-" and "."."""
    return entry.path + "/" if entry.kind == "dir" else entry.path
