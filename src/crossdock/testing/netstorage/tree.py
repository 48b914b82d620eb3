"""What a CP code holds: files, links and explicit folders, by whole name; implicit folders follow from them."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["File", "Node", "Tree"]


@dataclass(frozen=True, slots=True)
class File:
    """A file, or with `target` a symbolic link. `changed`: seconds with decimals, as the ETag tells."""

    data: bytes
    mtime: int
    md5: str
    changed: float
    target: bytes | None = None

    @classmethod
    def of(cls, data: bytes, mtime: int, changed: float, target: bytes | None = None) -> File:
        return cls(data, mtime, hashlib.md5(data, usedforsecurity=False).hexdigest(), changed, target)


@dataclass(frozen=True, slots=True)
class Node:
    """One line of a listing. `name` as the action writes it; a folder has `mtime` only if it is explicit."""

    kind: str
    name: bytes
    file: File | None = None
    mtime: int | None = None
    files: int = 0
    size: int = 0


class Tree:
    """Names are bytes without a leading slash, "CPCODE/…"; a folder's name ends with a slash (as in NetStorage 4)."""

    def __init__(self, cp_code: str) -> None:
        self.top = cp_code.encode()
        self._files: dict[bytes, File] = {}
        self._folders: dict[bytes, int] = {}
        self._names: list[bytes] | None = None

    # -- changing -------------------------------------------------------------------------------------------------

    def put(self, name: bytes, file: File) -> None:
        self._files[name] = file
        self._names = None

    def take(self, name: bytes) -> File | None:
        """Remove a file; None: there was none."""
        self._names = None
        return self._files.pop(name, None)

    def make(self, folder: bytes, mtime: int) -> None:
        self._folders.setdefault(folder + b"/", mtime)
        self._names = None

    def unmake(self, folder: bytes) -> bool:
        self._names = None
        return self._folders.pop(folder + b"/", None) is not None

    # -- looking --------------------------------------------------------------------------------------------------

    def file(self, name: bytes) -> File | None:
        return self._files.get(name)

    def files(self) -> dict[bytes, File]:
        return self._files

    def explicit(self, folder: bytes) -> int | None:
        """When the folder was made; None: it was not."""
        return self._folders.get(folder + b"/")

    def names(self) -> list[bytes]:
        """Every name, in the order of the bytes."""
        if self._names is None:
            self._names = sorted([*self._files, *self._folders])
        return self._names

    def below(self, folder: bytes) -> Iterator[bytes]:
        """Names below a folder, in order, without its own."""
        names, prefix = self.names(), folder + b"/"
        at = bisect_left(names, prefix)
        while at < len(names) and names[at].startswith(prefix):
            if names[at] != prefix:
                yield names[at]
            at += 1

    def is_folder(self, folder: bytes, *, implicit: bool) -> bool:
        if folder == self.top or self.explicit(folder) is not None:
            return True
        return implicit and next(self.below(folder), None) is not None

    def folder(self, folder: bytes, name: bytes) -> Node:
        """A folder as a line of an answer."""
        below = [self._files[each] for each in self.below(folder) if each in self._files]
        return Node(
            "dir",
            name,
            mtime=self.explicit(folder),
            files=len(below) + 1,
            size=sum(len(file.data) for file in below),
        )

    def children(self, folder: bytes) -> list[Node]:
        """Direct children, in the order of their names' bytes."""
        cut = len(folder) + 1
        files: list[Node] = []
        folders: dict[bytes, None] = {}
        for name in self.below(folder):
            first, slash, _ = name[cut:].partition(b"/")
            if slash:
                folders[first] = None
            else:
                file = self._files[name]
                files.append(Node("symlink" if file.target is not None else "file", first, file))
        nodes = [self.folder(folder + b"/" + first, first) for first in folders]
        return sorted([*files, *nodes], key=lambda node: (node.name, node.kind))

    def usage(self, folder: bytes) -> tuple[int, int]:
        """(files, bytes) below."""
        found = [self._files[name] for name in self.below(folder) if name in self._files]
        return len(found), sum(len(file.data) for file in found)
