"""Local disk: calls that fail, files and roots that go away, threads that cannot be stopped."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import (
    AlreadyExists,
    ConnectionFailed,
    InvalidPath,
    NoSpace,
    NotFound,
    PermissionDenied,
    StorageError,
    Throttled,
    Unsupported,
)
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.local import LocalSettings, renaming
from crossdock.storage.local.backend import LocalBackend
from crossdock.storage.staging import is_temporary
from crossdock.storage.storage import Storage


def failing(monkeypatch: pytest.MonkeyPatch, call: str, number: int, *, only: str = "") -> None:
    """Have `os.call` fail with `errno` for names that contain `only`."""
    real: Callable[..., Any] = getattr(os, call)

    def fails(*arguments: Any, **named: Any) -> Any:
        if only in str(arguments[0]):
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    monkeypatch.setattr(os, call, fails)


def _no_renameat2(*_: object) -> int:
    ctypes.set_errno(errno.EINVAL)
    return -1


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
            ("fchmod", errno.EIO, ConnectionFailed),
            ("utime", errno.EIO, ConnectionFailed),
            ("rename", errno.EROFS, PermissionDenied),
            ("rename", errno.EACCES, PermissionDenied),
            ("rename", errno.EINVAL, InvalidPath),
            ("rename", errno.EBUSY, Throttled),
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

    async def test_what_could_not_be_made_is_not_removed(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A read-only file system says so also of what is not there."""
        failing(monkeypatch, "open", errno.EROFS, only=".crossdock-")
        failing(monkeypatch, "unlink", errno.EROFS)
        writer = await storage.begin_write("x", WriteOptions())
        await writer.write(b"1")
        with pytest.raises(PermissionDenied, match="write disk:x: read-only file system"):
            await writer.commit(Expect(size=1))
        await writer.abort()

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
        """A file system that cannot promise not to replace says so, instead of replacing perhaps.

        A rename, as an archive asks for, looks just before, as at servers that know no better.
        """
        monkeypatch.setattr(renaming, "_renameat2", _no_renameat2)
        failing(monkeypatch, "link", number)
        with pytest.raises(Unsupported):
            await storage.write_bytes("name", b"x", WriteOptions(overwrite=False))
        assert os.listdir(root) == []
        await storage.write_bytes("name", b"x")
        await storage.rename("name", "other")
        await storage.write_bytes("name", b"y")
        with pytest.raises(AlreadyExists):
            await storage.rename("name", "other")
        assert ((root / "name").read_bytes(), (root / "other").read_bytes()) == (b"y", b"x")

    async def test_a_name_that_cannot_be(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        """What vfat says of a colon: the name's fault, not the disk's."""
        failing(monkeypatch, "mkdir", errno.EINVAL)
        with pytest.raises(InvalidPath):
            await storage.write_bytes("a:b/name", b"x")
        monkeypatch.setattr(renaming, "_renameat2", _no_renameat2)
        failing(monkeypatch, "link", errno.EINVAL)
        await storage.write_bytes("name", b"x")
        with pytest.raises(InvalidPath):
            await storage.rename("name", "a:b")

    async def test_a_quota_that_shows_when_a_file_is_closed(
        self, storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on NFS: told as what it is, and nothing stays open."""
        before = set(os.listdir("/proc/self/fd"))
        real, told = os.close, False

        def close(descriptor: int) -> None:
            nonlocal told
            is_staged = is_temporary(os.readlink(f"/proc/self/fd/{descriptor}"))
            real(descriptor)
            if is_staged:
                told = True
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        writer = await storage.begin_write("name", WriteOptions())
        await writer.write(bytes(2 << 20))
        monkeypatch.setattr(os, "close", close)
        with pytest.raises(NoSpace):
            await writer.suspend()
        async with storage.write("other") as other:
            await other.write(bytes(2 << 20))
        monkeypatch.undo()
        assert told
        assert [is_temporary(name) for name in os.listdir(root)] == [True]
        assert len(set(os.listdir("/proc/self/fd"))) == len(before)

    @pytest.mark.parametrize("call", ["renameat2", "link"])
    async def test_creating_takes_hard_links_or_a_rename_that_never_replaces(
        self, storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        """One of them will do: Linux links nobody else's files (protected_hardlinks), vfat knows no links at all."""
        if call == "link":
            monkeypatch.setattr(renaming, "_renameat2", _no_renameat2)
        else:
            failing(monkeypatch, "link", errno.EPERM)
        await storage.write_bytes("name", b"x", WriteOptions(overwrite=False))
        await storage.rename("name", "d/other")
        assert (root / "d" / "other").read_bytes() == b"x"
        await storage.write_bytes("name", b"y")
        with pytest.raises(AlreadyExists):
            await storage.rename("name", "d/other")
        tree = LocalBackend(LocalSettings(root=root), "disk").tree
        with tree.parent("name", "rename") as (folder, name), pytest.raises(FileExistsError):
            renaming.rename_new(folder, name, folder, "d")
        assert sorted(os.listdir(root)) == ["d", "name"]

    async def test_where_case_does_not_count_a_name_can_change_its_case(
        self, storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The old name then still leads to the file, which is not to be taken for another link of it."""
        await storage.write_bytes("name", b"x")
        real = os.lstat

        def looked(path: str, *, dir_fd: int | None = None) -> os.stat_result:
            try:
                return real(path, dir_fd=dir_fd)
            except FileNotFoundError:
                return real(path.swapcase(), dir_fd=dir_fd)

        removed: list[str] = []
        monkeypatch.setattr(os, "lstat", looked)
        monkeypatch.setattr(os, "unlink", lambda name, **_: removed.append(name))
        await storage.rename("name", "NAME", overwrite=True)
        assert removed == []
        assert os.listdir(root) == ["NAME"]

    async def test_a_mount_may_give_less_than_was_asked_for(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = os.urandom((2 << 20) + 5)
        await storage.write_bytes("large", data)
        await storage.write_bytes("small", data[:3000])
        read, pread = os.read, os.pread
        monkeypatch.setattr(os, "read", lambda file, size: read(file, min(size, 100_000 if size > 100_000 else 1000)))
        monkeypatch.setattr(os, "pread", lambda file, size, at: pread(file, min(size, 1000), at))
        wanted = [hashlib.sha256(data).hexdigest(), hashlib.sha256(data[:3000]).hexdigest()]
        assert await storage.digests(["large", "small"], "sha256") == wanted
        assert await storage.read_bytes("large") == data
        assert await storage.read_bytes("small") == data[:3000]

    async def test_modes_that_cannot_be_kept_are_no_error(
        self, storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """vfat and some network mounts have neither modes nor exact times."""
        failing(monkeypatch, "fchmod", errno.EPERM)
        failing(monkeypatch, "utime", errno.EACCES)
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
            async with Storage(LocalSettings(root=tmp_path / "missing").backend("disk")):
                pass
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("fails", [False, True])
    async def test_cancelling_waits_for_the_thread(
        self, storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
    ) -> None:
        """A thread cannot be stopped: what it makes after its task was cancelled is removed all the same."""
        real, entered, go_on = os.open, threading.Event(), threading.Event()

        def slow(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
            if is_temporary(str(path)):
                entered.set()
                go_on.wait(30)
                if fails:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(path, flags, *arguments, **named)

        monkeypatch.setattr(os, "open", slow)
        task = asyncio.create_task(storage.write_bytes("name", b"x"))
        assert await asyncio.to_thread(entered.wait, 30)
        for _ in range(2):
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


async def test_its_threads_end_with_it(tmp_path: Path) -> None:
    def of_it() -> list[str]:
        return [thread.name for thread in threading.enumerate() if "short-lived" in thread.name]

    async with Storage(LocalSettings(root=tmp_path).backend("short-lived")) as storage:
        await storage.write_bytes("a", b"x")
        assert [entry.path async for entry in storage.walk()] == ["a"]
        assert len(of_it()) > 1
    assert of_it() == []
