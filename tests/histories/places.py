"""Endpoints in memory, whose owner hears of every file that comes, is replaced or goes under a final name."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from crossdock.errors import SourceChanged
from crossdock.storage.base import Entry
from crossdock.storage.memory import MemoryBackend, _Node
from crossdock.storage.staging import is_temporary

__all__ = ["Place"]

Heard = Callable[["Place", str, bytes | None, bytes | None], None]
"""(place, path, what was there, what is there)"""


class _Files(dict[str, _Node]):
    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def __setitem__(self, path: str, node: _Node) -> None:
        before = self.get(path)
        super().__setitem__(path, node)
        self.place.heard(self.place, path, None if before is None else before.data, node.data)

    def pop(self, path: str, *default: Any) -> Any:
        before = self.get(path)
        found = super().pop(path, *default)
        if before is not None:
            self.place.heard(self.place, path, before.data, None)
        return found


class Place(MemoryBackend):
    """`etags`: as an object store tells a file, by its content; otherwise by size and time."""

    def __init__(self, endpoint: str, heard: Heard, *, etags: bool = False) -> None:
        super().__init__(endpoint)
        self.heard, self.etags = heard, etags
        self._files: dict[str, _Node] = _Files(self)
        self.listed: Callable[[Place, str, bytes], None] = lambda place, path, data: None
        self.by_hand = False
        if etags:
            self.capabilities = replace(self.capabilities, pinned_delete=True)

    def _entry(self, path: str, node: _Node) -> Entry:
        etag = hashlib.md5(node.data).hexdigest() if self.etags else None
        return Entry(path=path, size=len(node.data), modified=node.modified, etag=etag)

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        async for page in super().scan(path, recursive=recursive):
            for entry in page:
                if (node := self._files.get(entry.path)) is not None:
                    self.listed(self, entry.path, node.data)
            yield page

    async def delete_pinned(self, path: str, pin: Entry) -> None:
        node = self._files.get(path)
        if node is not None and self._entry(path, node).fingerprint != pin.fingerprint:
            raise SourceChanged.at("delete", self.endpoint, path, "another file has its name", hint="list it again")
        self._files.pop(path, None)

    # What its owner does, past every engine

    def names(self) -> list[str]:
        return sorted(path for path in self._files if not is_temporary(path))

    def left(self) -> list[str]:
        """What attempts have staged or put aside."""
        return sorted([*self._staged, *(path for path in self._files if is_temporary(path))])

    def node(self, path: str) -> _Node | None:
        return self._files.get(path)

    def is_folder(self, path: str) -> bool:
        return path in self._folders

    def fits(self, path: str) -> bool:
        """No file lies where a folder of it would be, and no folder where it would."""
        parts = path.split("/")
        return path not in self._folders and not any("/".join(parts[:n]) in self._files for n in range(1, len(parts)))

    def put(self, path: str, data: bytes, modified: datetime) -> None:
        self.by_hand = True
        try:
            self._make_parents(path, "write")
            self._files[path] = _Node(data, modified)
        finally:
            self.by_hand = False

    def take(self, path: str) -> None:
        self.by_hand = True
        try:
            self._files.pop(path, None)
        finally:
            self.by_hand = False

    def move(self, path: str, to: str) -> None:
        node = self._files[path]
        self.take(path)
        self.put(to, node.data, node.modified)

    def tidy(self) -> None:
        """Remove the folders in which nothing lies."""
        for folder in sorted(self._folders - {""}, reverse=True):
            if not any(path.startswith(f"{folder}/") for path in (*self._files, *self._folders)):
                self._folders.discard(folder)
