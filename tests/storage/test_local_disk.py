"""What only a real file system can do: links, special files, full disks, modes, mounts that vanish."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from crossdock.errors import (
    ConfigError,
    ConnectionFailed,
    InvalidPath,
    NoSpace,
    NotAFile,
    NotFound,
    PermissionDenied,
    StorageError,
    Unsupported,
)
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.local import LocalBackend, LocalSettings
from crossdock.storage.registry import parse_url
from crossdock.storage.staging import is_temporary, temporary_path
from crossdock.storage.storage import Storage

OUTSIDE = b"not yours"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(OUTSIDE)
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
async def storage(root: Path) -> AsyncGenerator[Storage]:
    async with Storage(LocalBackend("disk", root)) as storage:
        yield storage


def failing(monkeypatch: pytest.MonkeyPatch, call: str, number: int, *, only: str = "") -> None:
    """Have `os.call` fail with `errno` for names that contain `only`."""
    real: Callable[..., Any] = getattr(os, call)

    def fails(*arguments: Any, **named: Any) -> Any:
        if only in str(arguments[0]):
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    monkeypatch.setattr(os, call, fails)


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
        async with Storage(LocalBackend("disk", tmp_path / "alias")) as storage:
            await storage.write_bytes("name", b"x")
        assert (root / "name").read_bytes() == b"x"

    @pytest.mark.parametrize("path", ["../outside/secret", "a/../../outside/secret", "/etc/passwd", ".."])
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

    @pytest.mark.parametrize("seconds", [0, -1, -(2**31), 2**31, 2**32, 2**33])
    async def test_any_time_is_told(self, storage: Storage, root: Path, seconds: int) -> None:
        """Before 1970 and after 2106 too, as far as the file system keeps it."""
        (root / "name").write_bytes(b"x")
        os.utime(root / "name", (seconds, seconds))
        kept = os.stat(root / "name").st_mtime_ns // 10**9
        modified = (await storage.stat("name")).modified
        assert modified is not None
        assert int((modified - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) == kept


class TestFaults:
    @pytest.mark.parametrize(
        ("call", "number", "kind"),
        [
            ("pwrite", errno.ENOSPC, NoSpace),
            ("pwrite", errno.EDQUOT, NoSpace),
            ("pwrite", errno.EFBIG, Unsupported),
            ("pwrite", errno.EIO, ConnectionFailed),
            ("fsync", errno.EIO, ConnectionFailed),
            ("fsync", errno.ENOSPC, NoSpace),
            ("rename", errno.EROFS, PermissionDenied),
            ("rename", errno.EACCES, PermissionDenied),
        ],
    )
    @pytest.mark.parametrize("size", [10, 3 << 20])
    async def test_a_write_that_fails_leaves_nothing(
        self,
        storage: Storage,
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
        call: str,
        number: int,
        kind: type[StorageError],
        size: int,
    ) -> None:
        """Full disk, quota, broken disk: the right error, no temporary, and the old file as it was."""
        await storage.write_bytes("name", b"old")
        failing(monkeypatch, call, number)
        with pytest.raises(kind) as caught:
            await storage.write_bytes("name", bytes(size))
        assert isinstance(caught.value, StorageError)
        assert caught.value.retryable is kind.retryable
        monkeypatch.undo()
        assert os.listdir(root) == ["name"]
        assert (root / "name").read_bytes() == b"old"

    async def test_a_file_that_cannot_fit_is_refused_at_once(self, storage: Storage, root: Path) -> None:
        """The size declared is held against the free space before any byte is written."""
        with pytest.raises(NoSpace):
            async with storage.write("name", WriteOptions(size=1 << 60)) as writer:
                await writer.write(bytes(1 << 20))
        assert os.listdir(root) == []

    @pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
    async def test_without_hard_links_creating_is_refused(
        self, storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        """A file system that cannot promise not to replace says so, instead of replacing perhaps."""
        failing(monkeypatch, "link", number)
        with pytest.raises(Unsupported):
            await storage.write_bytes("name", b"x", WriteOptions(overwrite=False))
        assert os.listdir(root) == []
        await storage.write_bytes("name", b"x")

    async def test_modes_that_cannot_be_kept_are_no_error(
        self, storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """vfat and some network mounts have neither modes nor exact times."""
        failing(monkeypatch, "fchmod", errno.EPERM)
        failing(monkeypatch, "utime", errno.EPERM)
        await storage.write_bytes("a/name", b"x")
        assert (root / "a" / "name").read_bytes() == b"x"

    async def test_a_root_that_vanished_does_not_look_like_deleted_files(self, storage: Storage, root: Path) -> None:
        """An unmounted disk is a failed connection, not an empty one: nobody may conclude that files are gone."""
        await storage.write_bytes("name", b"x")
        root.rename(root.parent / "elsewhere")
        for action in (
            storage.stat("name"),
            storage.exists("name"),
            storage.read_bytes("name"),
            storage.delete("name"),
        ):
            with pytest.raises(ConnectionFailed):
                await action
        with pytest.raises(ConnectionFailed):
            await storage.write_bytes("name", b"x")
        with pytest.raises(ConnectionFailed):
            _ = [entry async for entry in storage.scan()]
        assert not root.exists()

    async def test_a_root_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        """A mount that is missing is not filled up underneath."""
        with pytest.raises(NotFound):
            async with Storage(LocalBackend("disk", tmp_path / "missing")):
                pass
        assert os.listdir(tmp_path) == []

    async def test_cancelling_waits_for_the_thread(
        self, storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A thread cannot be stopped: what it makes after its task was cancelled is removed all the same."""
        real, entered, go_on = os.open, threading.Event(), threading.Event()

        def slow(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
            if is_temporary(str(path)):
                entered.set()
                go_on.wait(30)
            return real(path, flags, *arguments, **named)

        monkeypatch.setattr(os, "open", slow)
        task = asyncio.create_task(storage.write_bytes("name", b"x"))
        assert await asyncio.to_thread(entered.wait, 30)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0.1)
        assert not done
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert os.listdir(root) == []

    async def test_descriptors_are_given_back(self, storage: Storage, root: Path) -> None:
        """After successes, failures and streams left early, as many files are open as before."""
        (root / "file").write_bytes(bytes(3 << 20))
        (root / "link").symlink_to("file")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            async with storage.read("file") as reader:
                await reader.read()
            async with storage.write("new") as writer:
                await writer.write(bytes(2 << 20))
            await storage.write_bytes("made/new", b"x")
            _ = [entry async for entry in storage.walk()]
            for path in ("link", "link/x", "file/x", "missing/x", "n" * 300):
                with pytest.raises(StorageError):
                    await storage.read_bytes(path)
                with pytest.raises(StorageError):
                    await storage.write_bytes(f"file/{path}", b"x")
        assert len(os.listdir("/proc/self/fd")) == before


class TestModes:
    async def test_modes_are_as_set_whatever_the_umask(self, tmp_path: Path) -> None:
        """0640 and 0750 unless the endpoint says otherwise; a temporary is its owner's alone."""
        old = os.umask(0o077)
        try:
            async with Storage(LocalBackend("disk", tmp_path)) as storage:
                async with storage.write("a/b/name") as writer:
                    await writer.write(bytes(2 << 20))
                    (staged,) = (tmp_path / "a" / "b").iterdir()
                    assert is_temporary(staged.name)
                    assert staged.stat().st_mode & 0o777 == 0o600
                await storage.write_bytes("a/b/name", b"x")
            async with Storage(LocalBackend("disk", tmp_path, file_mode=0o664, dir_mode=0o775)) as storage:
                await storage.write_bytes("c/name", b"x")
        finally:
            os.umask(old)
        modes = {path: (tmp_path / path).stat().st_mode & 0o777 for path in ("a", "a/b", "a/b/name", "c", "c/name")}
        assert modes == {"a": 0o750, "a/b": 0o750, "a/b/name": 0o640, "c": 0o775, "c/name": 0o664}

    @pytest.mark.parametrize("fsync", [True, False])
    async def test_fsync_can_be_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: bool) -> None:
        """With it, the file and its folder are flushed before `commit` returns."""
        flushed: list[str] = []
        real = os.fsync

        def noted(file: int) -> None:
            flushed.append(os.readlink(f"/proc/self/fd/{file}"))
            real(file)

        monkeypatch.setattr(os, "fsync", noted)
        async with Storage(LocalBackend("disk", tmp_path, fsync=fsync)) as storage:
            await storage.write_bytes("name", b"x")
        if fsync:
            assert is_temporary(flushed[0])
            assert flushed[1:] == [str(tmp_path)]
        else:
            assert flushed == []

    async def test_a_temporary_in_the_way_is_not_followed(
        self, storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A link planted under the temporary's name, were it guessed, is refused, and its target is untouched."""
        monkeypatch.setattr("secrets.token_hex", lambda _: "0123456789ab")
        (root / temporary_path("name", "0123456789ab")).symlink_to("../outside/secret")
        with pytest.raises(StorageError):
            await storage.write_bytes("name", b"x")
        assert (root.parent / "outside" / "secret").read_bytes() == OUTSIDE


class TestSettings:
    def test_a_url_is_a_name_in_its_folder(self) -> None:
        """Links above the last component are as the user meant; with a slash at the end it is the folder."""
        assert [(str(s.root), path) for s, path in (parse_url("file:///a/b%20c/d%2Be"), parse_url("file:///a/b/"))] == [
            ("/a/b c", "d+e"),
            ("/a/b", ""),
        ]

    def test_options_in_a_url(self) -> None:
        """Every setting can be given."""
        settings, _ = parse_url("file:///a/b?fsync=false&file_mode=0600")
        assert isinstance(settings, LocalSettings)
        assert (settings.fsync, settings.file_mode) == (False, "0600")

    @pytest.mark.parametrize("url", ["file://host/a", "file:a/b", "file:///a?nonsense=1", "file:///a?file_mode=9"])
    def test_a_wrong_url_is_refused(self, url: str) -> None:
        """With a message that names it."""
        with pytest.raises(ConfigError, match=re.escape(url)):
            parse_url(url)

    @pytest.mark.parametrize("mode", [416, "rw-r-----", "640 ", "07777"])
    def test_modes_are_octal_digits_in_quotes(self, mode: object) -> None:
        """YAML reads an unquoted 0640 as the number 416."""
        with pytest.raises(ValidationError, match="octal digits in quotes"):
            LocalSettings.model_validate({"root": "/tmp", "file_mode": mode})


async def test_chunks_written_out_of_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one chunk is held up the next is written; one that fails ends the write, and only what is before counts."""
    go_on, later = threading.Event(), threading.Event()
    written: list[int] = []
    pwrite = os.pwrite

    def slow(descriptor: int, data: memoryview, at: int) -> int:
        if at == 1 << 20:
            later.wait(10)
            go_on.wait(10)
        if at >= 3 << 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(at >> 20)
        if at == 2 << 20:
            later.set()
        return pwrite(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", slow)
    chunks = [bytes([n]) * (1 << 20) for n in range(6)]
    async with Storage(LocalSettings(root=tmp_path).backend("disk")) as storage:
        writer = await storage.begin_write("x", WriteOptions())
        for chunk in chunks[:3]:
            await writer.write(chunk)
        await asyncio.to_thread(later.wait, 10)
        assert written == [0, 2]
        token = writer.checkpoint()
        assert token is not None and json.loads(token)["offset"] == 1 << 20
        go_on.set()
        with pytest.raises(NoSpace):
            for chunk in chunks[3:]:
                await writer.write(chunk)
            await writer.commit(Expect())
        token = writer.checkpoint()
        assert token is not None and json.loads(token)["offset"] == 3 << 20
        await writer.suspend()
        monkeypatch.undo()
        again = await storage.begin_write("x", WriteOptions(resume=token))
        assert again.offset == 3 << 20
        for chunk in chunks[3:]:
            await again.write(chunk)
        await again.commit(Expect(size=6 << 20))
    assert (tmp_path / "x").read_bytes() == b"".join(chunks)
    assert [name.name for name in tmp_path.iterdir()] == ["x"]
