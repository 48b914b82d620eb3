"""Folders that show a name twice, as they may while names come and go in them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from crossdock.storage.base import Backend, Capabilities, Entry
from crossdock.storage.layers import Layer
from crossdock.storage.local import LocalSettings
from crossdock.storage.local.listing import Listing
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.storage import Storage

FILES = ("a", "a-b", "d/e", "d/f", "z")


class Doubled(Layer):
    """In one page, and across two."""

    def __init__(self, inner: Backend, *, recursive: bool) -> None:
        super().__init__(inner)
        self._recursive = recursive

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return replace(self.inner.capabilities, recursive_scan=self._recursive)

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        if recursive:
            shown = [entry async for entry in Storage(self.inner).walk(path)]
        else:
            shown = [entry async for page in super().scan(path) for entry in page]
        for entry in shown:
            yield [entry, entry]
            yield [entry]


async def put(storage: Storage) -> None:
    for name in FILES:
        await storage.write_bytes(name, b"1")


@pytest.mark.parametrize("recursive", [False, True])
async def test_a_walk_shows_it_once(recursive: bool) -> None:
    memory = MemoryBackend("memory")
    await put(Storage(memory))
    async with Storage(Doubled(memory, recursive=recursive)) as storage:
        assert [entry.path async for entry in storage.walk()] == list(FILES)


async def test_a_walk_of_a_local_folder_shows_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Listing.page
    monkeypatch.setattr(Listing, "page", lambda self: [entry for each in page(self) for entry in (each, each)])
    async with Storage(LocalSettings(root=tmp_path).backend("local")) as storage:
        await put(storage)
        assert [entry.path async for entry in storage.walk()] == list(FILES)
