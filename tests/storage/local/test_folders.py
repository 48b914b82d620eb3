"""Local disk: folders that others change at the same time, or that let us do less than most."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import ConnectionFailed, NotADirectory, PermissionDenied, StorageError
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.local import LocalSettings
from crossdock.storage.storage import Storage


async def test_a_folder_that_another_makes_at_the_same_time(
    storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir

    def made(*arguments: Any, **named: Any) -> None:
        real(*arguments, **named)
        real(*arguments, **named)

    monkeypatch.setattr(os, "mkdir", made)
    await storage.write_bytes("a/b/name", b"x")
    assert (root / "a" / "b" / "name").read_bytes() == b"x"


async def test_a_file_that_is_removed_while_its_folder_is_listed(
    storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (root / name).write_bytes(b"x")
    real = os.scandir

    def scan(folder: int) -> Iterator[os.DirEntry[str]]:
        yield from real(folder)
        os.unlink(root / "b")

    monkeypatch.setattr(os, "scandir", scan)
    assert sorted([entry.path async for entry in storage.scan()]) == ["a", "c"]


def _unflushed(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    """Flushing a folder fails, or opening it for that."""
    real = getattr(os, call)

    def fails(what: int | str, *arguments: Any, **named: Any) -> Any:
        if what == "." if call == "open" else os.path.isdir(f"/proc/self/fd/{what}"):
            raise OSError(number, os.strerror(number))
        return real(what, *arguments, **named)

    monkeypatch.setattr(os, call, fails)


@pytest.mark.parametrize(("call", "number"), [("open", errno.EACCES), ("fsync", errno.EINVAL)])
async def test_a_folder_that_cannot_be_flushed(
    storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """A drop box may be entered but not read; not every file system knows of it."""
    _unflushed(monkeypatch, call, number)
    await storage.write_bytes("name", b"x")
    monkeypatch.undo()
    assert (root / "name").read_bytes() == b"x"


async def test_a_disk_that_fails_as_the_name_is_flushed(
    storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there, perhaps not for long: that is no success. Nothing else is left, and nothing taken back."""
    _unflushed(monkeypatch, "fsync", errno.EIO)
    writer = await storage.begin_write("name", WriteOptions())
    await writer.write(b"x")
    with pytest.raises(ConnectionFailed):
        await writer.commit(Expect(size=1))
    await writer.abort()
    monkeypatch.undo()
    assert writer.left is None
    assert [(file.name, file.read_bytes()) for file in root.iterdir()] == [("name", b"x")]


@pytest.mark.parametrize(
    ("what", "error", "text"),
    [("file", NotADirectory, "is not a folder"), ("loop", PermissionDenied, "a symbolic link is in the way")],
)
async def test_a_root_that_is_none(tmp_path: Path, what: str, error: type[StorageError], text: str) -> None:
    place = tmp_path / what
    if what == "loop":
        place.symlink_to(place)
    else:
        place.write_bytes(b"x")
    with pytest.raises(error, match=text):
        async with Storage(LocalSettings(root=place).backend("disk")):
            pass


async def test_whether_something_is_staged_in_a_folder_that_is_gone(storage: Storage, root: Path) -> None:
    """Its being gone says nothing: a mount may be missing."""
    writer = await storage.begin_write("a/name", WriteOptions())
    await writer.write(b"x")
    token = await writer.seal(Expect(size=1))
    assert token is not None and await storage.is_staged(token) is True
    (root / "a").rename(root / "b")
    assert await storage.is_staged(token) is None
    (root / "b").rename(root / "a")
    await writer.abort()
    assert await storage.is_staged(token) is False
