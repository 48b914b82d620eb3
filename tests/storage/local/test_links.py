"""Local disk: links, which lead nowhere, and what is no ordinary file."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import (
    InvalidPath,
    NotAFile,
    NotFound,
    PermissionDenied,
    StorageError,
)
from crossdock.storage.base import WriteOptions
from crossdock.storage.local import LocalSettings
from crossdock.storage.local.tree import utc
from crossdock.storage.staging import temporary_path, token_of
from crossdock.storage.storage import Storage

OUTSIDE = b"not yours"


@pytest.fixture(autouse=True)
def outside(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(OUTSIDE)


class TestLinks:
    @pytest.mark.parametrize("target", ["../outside", "/", ".", "missing", "loop", "inside"])
    async def test_a_link_is_shown_and_never_followed(self, storage: Storage, root: Path, target: str) -> None:
        """Whatever it points to, a link is of kind "link", and nothing is read, written, listed or made through it."""
        (root / "inside").mkdir()
        (root / "inside" / "secret").write_bytes(b"inside")
        (root / "loop").symlink_to(target)
        assert (await storage.stat("loop")).kind == "link"
        assert {entry.path: entry.kind async for entry in storage.scan()} == {"loop": "link", "inside": "dir"}
        assert [entry.path async for entry in storage.walk()] == ["inside/secret", "loop"]
        for action in (
            storage.stat("loop/secret"),
            storage.read_bytes("loop"),
            storage.read_bytes("loop/secret"),
            storage.write_bytes("loop", b"x"),
            storage.write_bytes("loop/secret", b"x"),
            storage.write_bytes("loop/new/file", b"x"),
            storage.make_dir("loop"),
            storage.make_dir("loop/new"),
            storage.delete("loop/secret"),
            storage.rename("inside/secret", "loop/stolen"),
            storage.rename("loop/secret", "stolen"),
        ):
            with pytest.raises(PermissionDenied, match="symbolic link"):
                await action
        with pytest.raises(PermissionDenied, match="symbolic link"):
            _ = [entry async for entry in storage.scan("loop")]
        assert (root / "inside" / "secret").read_bytes() == b"inside"
        assert (root.parent / "outside" / "secret").read_bytes() == OUTSIDE
        assert os.listdir(root.parent / "outside") == ["secret"]

    async def test_deleting_a_link_spares_its_target(self, storage: Storage, root: Path) -> None:
        """The link goes, what it points to stays."""
        (root / "link").symlink_to("../outside/secret")
        await storage.delete("link")
        assert not os.path.lexists(root / "link")
        assert (root.parent / "outside" / "secret").read_bytes() == OUTSIDE

    async def test_a_folder_swapped_for_a_link_during_a_write(self, storage: Storage, root: Path) -> None:
        """A link put in the place of a folder while a file is written does not lead the file outside."""
        async with storage.write("in/name") as writer:
            await writer.write(bytes(2 << 20))
            (root / "in").rename(root / "moved")
            (root / "in").symlink_to("../outside")
        assert os.listdir(root / "moved") == []
        assert os.listdir(root.parent / "outside") == ["secret"]

    async def test_the_root_may_be_a_link(self, root: Path, tmp_path: Path) -> None:
        """What the user names is meant."""
        (tmp_path / "alias").symlink_to(root)
        async with Storage(LocalSettings(root=tmp_path / "alias").backend("disk")) as storage:
            await storage.write_bytes("name", b"x")
        assert (root / "name").read_bytes() == b"x"

    @pytest.mark.parametrize("path", ["../outside/secret", "a/../../outside/secret", "/etc/passwd", "..", "\ud800"])
    async def test_the_backend_itself_refuses_to_climb(self, storage: Storage, path: str) -> None:
        """Even without `Storage` in front, which checks paths first."""
        backend = storage.backend
        for action in (backend.stat(path), backend.begin_read(path), backend.delete(path)):
            with pytest.raises(InvalidPath):
                await action
        with pytest.raises(InvalidPath):
            await backend.begin_write(path, WriteOptions())
        with pytest.raises(InvalidPath):
            await storage.discard(b'{"path": "../outside/secret", "attempt": "0123456789ab", "offset": 1}')

    async def test_a_temporary_in_the_way_is_not_followed(
        self, storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A link planted under the temporary's name, were it guessed, is refused, and its target is untouched."""
        monkeypatch.setattr("secrets.token_hex", lambda _: "0123456789ab")
        (root / temporary_path("name", "0123456789ab")).symlink_to("../outside/secret")
        with pytest.raises(StorageError):
            await storage.write_bytes("name", b"x")
        assert (root.parent / "outside" / "secret").read_bytes() == OUTSIDE

    @pytest.mark.parametrize("what", ["link", "hard link", "fifo", "open fifo", "folder"])
    async def test_what_took_the_place_of_what_was_staged_is_not_gone_on_with(
        self, storage: Storage, root: Path, what: str
    ) -> None:
        """Who may write to the folder could have had another's file written to, or a thread wait for ever."""
        secret, token = root.parent / "outside" / "secret", token_of("name", "0123456789ab", 4)
        staged = root / temporary_path("name", "0123456789ab")
        readers = []
        if what == "link":
            staged.symlink_to(secret)
        elif what == "hard link":
            staged.hardlink_to(secret)
        elif what == "folder":
            staged.mkdir()
        else:
            os.mkfifo(staged)
            readers += [os.open(staged, os.O_RDONLY | os.O_NONBLOCK)] if what == "open fifo" else []
        with pytest.raises(NotFound if what != "folder" else NotAFile):
            await storage.begin_write("name", WriteOptions(resume=token))
        for reader in readers:
            os.close(reader)
        assert secret.read_bytes() == OUTSIDE


class TestSpecialFiles:
    async def test_what_is_no_file_is_not_read(self, storage: Storage, root: Path) -> None:
        """Fifos and sockets are of kind "other"; reading or writing them is NotAFile at once, never a wait."""
        os.mkfifo(root / "fifo")
        with socket.socket(socket.AF_UNIX) as listener:
            folder = os.open(root, os.O_RDONLY)
            listener.bind(f"/proc/self/fd/{folder}/socket")  # the path of a socket may have 107 bytes
            os.close(folder)
            for name in ("fifo", "socket"):
                assert (await storage.stat(name)).kind == "other"
                for action in (storage.read_bytes(name), storage.write_bytes(name, b"x")):
                    with pytest.raises(NotAFile):
                        await action
        assert sorted(os.listdir(root)) == ["fifo", "socket"]

    async def test_a_hard_link_renamed_onto_its_twin(self, storage: Storage, root: Path) -> None:
        """rename(2) would do nothing and say that it succeeded; the old name must be gone all the same."""
        (root / "one").write_bytes(b"x")
        os.link(root / "one", root / "two")
        await storage.rename("one", "two", overwrite=True)
        assert os.listdir(root) == ["two"]
        os.link(root / "two", root.parent / "elsewhere")
        await storage.rename("two", "two", overwrite=True)
        assert (root / "two").read_bytes() == b"x"
        await storage.rename("two", "three", overwrite=True)
        assert os.listdir(root) == ["three"]

    async def test_overwriting_spares_a_hard_link(self, storage: Storage, root: Path) -> None:
        """The other name of the old file keeps the old bytes."""
        (root / "one").write_bytes(b"old")
        os.link(root / "one", root / "two")
        await storage.write_bytes("one", b"new")
        assert ((root / "one").read_bytes(), (root / "two").read_bytes()) == (b"new", b"old")

    async def test_a_sparse_file_is_read_whole(self, storage: Storage, root: Path) -> None:
        """Holes are zeros."""
        with open(root / "sparse", "wb") as file:
            file.seek(5 << 20)
            file.write(b"end")
        assert await storage.read_bytes("sparse") == bytes(5 << 20) + b"end"

    async def test_a_file_swapped_for_a_fifo_as_it_is_opened(
        self, storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (root / "name").write_bytes(b"x")
        before, real = len(os.listdir("/proc/self/fd")), os.open

        def swapped(path: str, *arguments: Any, **named: Any) -> int:
            if path == "name":
                os.unlink(root / "name")
                os.mkfifo(root / "name")
            return real(path, *arguments, **named)

        monkeypatch.setattr(os, "open", swapped)
        with pytest.raises(NotAFile):
            await storage.read_bytes("name")
        monkeypatch.undo()
        assert len(os.listdir("/proc/self/fd")) == before

    def test_a_time_after_the_last_year_is_none(self) -> None:
        assert utc(2**63) is not None
        assert utc(10**21) is None

    @pytest.mark.parametrize("seconds", [0, -1, -(2**31), 2**31, 2**32, 2**33])
    async def test_any_time_is_told(self, storage: Storage, root: Path, seconds: int) -> None:
        """Before 1970 and after 2106 too, as far as the file system keeps it."""
        (root / "name").write_bytes(b"x")
        os.utime(root / "name", (seconds, seconds))
        kept = os.stat(root / "name").st_mtime_ns // 10**9
        modified = (await storage.stat("name")).modified
        assert modified is not None
        assert int((modified - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) == kept
