"""Folders that are removed while the tree is walked: the rest is listed, and nothing is left out that is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from crossdock.errors import NotFound
from crossdock.storage.base import Backend, Entry
from crossdock.storage.layers import Layer
from crossdock.storage.local import LocalSettings, listing
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.storage import Storage

_FOLDERS = [f"in/{number:02}" for number in range(20)]
"""More than are listed ahead."""


@pytest.fixture(params=["at once", "by folder"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.setattr(listing, "_PAGE", 1)
    if request.param == "at once":
        return LocalSettings(root=tmp_path).backend("disk")
    return MemoryBackend()


async def _walked(storage: Storage, then: Callable[[], Awaitable[None]]) -> list[str]:
    """`then` happens when the first file has been shown."""
    found: list[str] = []
    async with aclosing(storage.walk("in")) as entries:
        async for entry in entries:
            found.append(entry.path)
            if len(found) == 1:
                await then()
    return found


async def _remove(storage: Storage, *folders: str) -> None:
    for folder in folders:
        await storage.delete(f"{folder}/name")
        await storage.remove_dir(folder)


async def _remove_all(storage: Storage) -> None:
    await _remove(storage, *_FOLDERS)
    await storage.remove_dir("in")


async def test_a_folder_that_is_removed_meanwhile_is_passed_over(backend: Backend) -> None:
    async with Storage(backend) as storage:
        for folder in _FOLDERS:
            await storage.write_bytes(f"{folder}/name", b"x")
        found = await _walked(storage, lambda: _remove(storage, "in/18", "in/19"))
    assert found == [f"{folder}/name" for folder in _FOLDERS[:18]]


async def test_folders_that_are_removed_with_those_above_them(backend: Backend) -> None:
    async with Storage(backend) as storage:
        for folder in ("in/0", "in/1/deep/deeper", "in/2"):
            await storage.write_bytes(f"{folder}/name", b"x")

        async def remove() -> None:
            await _remove(storage, "in/1/deep/deeper")
            for folder in ("in/1/deep", "in/1"):
                await storage.remove_dir(folder)

        assert await _walked(storage, remove) == ["in/0/name", "in/2/name"]


async def test_a_tree_that_is_removed_meanwhile_is_not_a_shorter_one(backend: Backend) -> None:
    async with Storage(backend) as storage:
        for folder in _FOLDERS:
            await storage.write_bytes(f"{folder}/name", b"x")
        with pytest.raises(NotFound):
            await _walked(storage, lambda: _remove_all(storage))


async def test_a_server_that_denies_a_folder_that_it_names_is_not_believed() -> None:
    """As vsftpd does what may not be entered."""

    class Mistaken(Layer):
        def scan(self, path, *, recursive=False):  # type: ignore[no-untyped-def]
            if path == "in/18":
                raise self.error(NotFound, "list", path, "no such folder")
            return super().scan(path, recursive=recursive)

        async def stat(self, path: str) -> Entry:
            if path == "in/18":
                raise self.error(NotFound, "stat", path, "no such folder")
            return await super().stat(path)

    async with Storage(Mistaken(MemoryBackend())) as storage:
        for folder in _FOLDERS:
            await storage.write_bytes(f"{folder}/name", b"x")
        with pytest.raises(NotFound):
            _ = [entry async for entry in storage.walk()]
