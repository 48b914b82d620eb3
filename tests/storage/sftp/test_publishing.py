"""How a written file gets its name: by renames, links and swaps, as far as the server can."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from crossdock.errors import (
    AlreadyExists,
    ConnectionFailed,
    InvalidPath,
    NotADirectory,
    NotAFile,
    NotFound,
    PermissionDenied,
    StorageError,
    Unsupported,
)
from crossdock.storage.base import WriteOptions
from crossdock.storage.sftp import SftpSettings
from crossdock.storage.sftp import codec as c
from crossdock.storage.storage import Storage
from crossdock.testing.fault_sftp import FaultySftpServer, SftpFault
from tests.storage.sftp.fake_server import FAILURE, MISSING, OK, FakeSftp, status
from tests.storage.sftp.places import DATA, leftovers, served


async def test_without_posix_rename_the_old_file_steps_aside() -> None:
    sftp = FakeSftp(x=b"old")
    sftp.extensions = []
    async with served(sftp) as (storage, _):
        await storage.write_bytes("x", b"new")
        await storage.write_bytes("y", b"first")
        await storage.rename("y", "x", overwrite=True)
    assert sftp.files == {b"/x": b"first"}


async def test_what_a_server_says_of_a_missing_file_does_not_matter() -> None:
    """Where even a file that is not there is a plain failure, to rename or to remove it."""
    sftp = FakeSftp()
    sftp.extensions = []

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        missing = kind in (c.RENAME, c.REMOVE, c.OPEN) and c.take(body, 0)[0] not in sftp.files
        return FAILURE if missing and not (kind == c.OPEN and b".crossdock-" in body) else None

    sftp.hook = hook
    async with served(sftp) as (storage, _):
        await storage.write_bytes("x", b"old")
        await storage.write_bytes("x", b"new")
        await storage.rename("x", "y", overwrite=True)
        await storage.delete("x")
        with pytest.raises(NotFound):
            await storage.read_bytes("x")
    assert sftp.files == {b"/y": b"new"}


async def test_a_file_that_appears_meanwhile_steps_aside_as_well() -> None:
    sftp = FakeSftp()
    sftp.extensions = []

    def hook(kind: int, body: bytes) -> None:
        if kind == c.RENAME and sftp.seen.count(c.RENAME) == 1:
            sftp.files[b"/x"] = bytearray(b"theirs")

    sftp.hook = hook
    async with served(sftp) as (storage, _):
        await storage.write_bytes("x", b"ours")
    assert sftp.files == {b"/x": b"ours"}


async def test_the_old_file_comes_back_if_the_new_cannot_take_its_place() -> None:
    sftp = FakeSftp(x=b"old")
    sftp.extensions = []
    renames = iter([None, status(3), None])
    sftp.hook = lambda kind, body: next(renames) if kind == c.RENAME else None
    async with served(sftp) as (storage, _):
        with pytest.raises(PermissionDenied):
            await storage.write_bytes("x", b"new")
    assert sftp.files == {b"/x": b"old"}


@pytest.mark.parametrize("how", ["drop", "lost"])
@pytest.mark.parametrize("step", [0, 1])
async def test_the_old_file_comes_back_after_the_connection_has_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Literal["drop", "lost"], step: int
) -> None:
    """It steps aside, the new one takes its place; lost: the server has done it and cannot say so."""
    (tmp_path / "x").write_bytes(b"old")
    fault = SftpFault(request="rename", how=how, after=step)
    async with FaultySftpServer(tmp_path, fault, without=frozenset({"posix-rename", "hardlink"})) as server:
        monkeypatch.setenv("FAULTY_PASSWORD", server.password)
        given = {"port": server.port, "user": server.user, "host_key": server.fingerprint, "root": "/"}
        settings = SftpSettings.model_validate({"host": server.host, "password": "env:FAULTY_PASSWORD", **given})
        async with Storage(settings.backend("faulty")) as storage:
            with pytest.raises(ConnectionFailed):
                await storage.write_bytes("x", b"new")
            assert fault.fired == 1
            assert [entry.path async for entry in storage.scan("")] == ["x"]
    assert (tmp_path / "x").read_bytes() == (b"new" if (how, step) == ("lost", 1) else b"old")


@pytest.mark.parametrize("code", [c.FAILURE, c.ALREADY_EXISTS])
async def test_a_posix_rename_that_does_not_replace(code: int) -> None:
    """Go's pkg/sftp offers it for servers whose rename is the plain one; found out once."""
    sftp = FakeSftp(x=b"old", y=b"mine")

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind == c.EXTENDED:
            name, at = c.take(body, 0)
            if name == b"posix-rename@openssh.com" and c.take(body, c.take(body, at)[1])[0] in sftp.files:
                return status(code)
        return None

    sftp.hook = hook
    async with served(sftp) as (storage, _):
        atomic = []
        for name in ("z", "x"):
            await storage.write_bytes(name, b"new")
            atomic.append(storage.capabilities.atomic_write)
        assert atomic == [True, False]
        await storage.rename("y", "x", overwrite=True)
    assert sftp.files == {b"/x": b"mine", b"/z": b"new"}


async def test_a_posix_rename_that_fails_for_another_reason() -> None:
    """Of a file that keeps its place there is no more to be learned: the next may be replaced in one step."""
    sftp = FakeSftp(x=b"old")
    sftp.hook = lambda kind, body: status(3) if kind in (c.EXTENDED, c.RENAME) else None
    async with served(sftp) as (storage, _):
        with pytest.raises(PermissionDenied):
            await storage.write_bytes("x", b"new")
        assert storage.capabilities.atomic_write
    assert sftp.files == {b"/x": b"old"}


async def test_an_old_file_does_not_come_back_in_the_place_of_the_new_one() -> None:
    """Servers of node's ssh2, for one, offer no posix-rename and replace by any."""
    sftp = FakeSftp(x=b"old")
    sftp.extensions = []

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind != c.RENAME:
            return None
        old, at = c.take(body, 0)
        new, _ = c.take(body, at)
        done = sftp.move(old, new)
        if old.endswith(b".part"):
            for connection in peer.connections:
                connection.abort()
        return done

    sftp.hook = hook
    async with served(sftp) as (storage, peer):
        with pytest.raises(ConnectionFailed):
            await storage.write_bytes("x", b"new")
    assert sftp.files[b"/x"] == b"new"


async def test_what_an_earlier_rename_left_is_not_in_the_way_of_the_next() -> None:
    sftp = FakeSftp(x=b"old")
    sftp.extensions = []
    sftp.hook = lambda kind, body: status(3) if kind == c.REMOVE else None
    async with served(sftp) as (storage, _):
        for number in range(3):
            sftp.files[b"/y"] = bytearray(b"%d" % number)
            await storage.rename("y", "x", overwrite=True)
            assert sftp.files[b"/x"] == b"%d" % number
            assert b"/y" not in sftp.files


async def test_create_new_needs_a_server_that_can() -> None:
    sftp = FakeSftp(x=b"old")
    async with served(sftp) as (storage, _):
        assert not storage.capabilities.create_new
        with pytest.raises(Unsupported):
            await storage.write_bytes("x", b"new", WriteOptions(overwrite=False))
        with pytest.raises(AlreadyExists):
            await storage.write_bytes("y", b"1")
            await storage.rename("y", "x")
    assert sftp.files[b"/x"] == b"old"


def linking(sftp: FakeSftp, kind: int, body: bytes) -> tuple[int, bytes] | None:
    """The server makes a hard link, which is all that it offers."""
    if kind != c.EXTENDED:
        return None
    _, at = c.take(body, 0)
    old, at = c.take(body, at)
    new, _ = c.take(body, at)
    if new in sftp.files or old not in sftp.files:
        return FAILURE if new in sftp.files else MISSING
    sftp.files[new] = sftp.files[old]
    return OK


async def test_create_new_by_hard_link() -> None:
    sftp = FakeSftp()
    sftp.extensions = [(b"hardlink@openssh.com", b"1")]
    sftp.hook = lambda kind, body: linking(sftp, kind, body)
    async with served(sftp) as (storage, _):
        assert storage.capabilities.create_new
        await storage.write_bytes("x", b"1", WriteOptions(overwrite=False))
        with pytest.raises(AlreadyExists):
            await storage.write_bytes("x", b"2", WriteOptions(overwrite=False))
        assert sftp.files == {b"/x": b"1"}
        sftp.hook = lambda kind, body: status(3) if kind == c.REMOVE else linking(sftp, kind, body)
        await storage.write_bytes("y", b"2", WriteOptions(overwrite=False))
        with pytest.raises(PermissionDenied, match="its old one as well"):
            await storage.rename("y", "z")
    assert sftp.files.pop(leftovers(sftp)[0]) == b"2"
    assert sftp.files == {b"/x": b"1", b"/y": b"2", b"/z": b"2"}


@pytest.mark.parametrize(("refusal", "kind"), [(MISSING, NotFound), (status(3), PermissionDenied)])
async def test_a_rename_that_cannot_remove_the_old_name_is_taken_back(
    refusal: tuple[int, bytes], kind: type[StorageError]
) -> None:
    """ProFTPD's mod_sftp; of two that archive one file at once, one finds it gone, and there were two copies."""
    sftp = FakeSftp(x=b"1")
    sftp.extensions = [(b"hardlink@openssh.com", b"1")]

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind == c.REMOVE and c.take(body, 0)[0] == b"/x":
            if refusal == MISSING:
                sftp.files[b"/faster"] = sftp.files.pop(b"/x")
            return refusal
        return linking(sftp, kind, body)

    sftp.hook = hook
    async with served(sftp) as (storage, _):
        with pytest.raises(kind):
            await storage.rename("x", "y")
    assert sftp.files == {b"/faster" if refusal == MISSING else b"/x": b"1"}


async def test_a_server_that_refuses_names_with_a_dot() -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: status(3) if kind == c.OPEN and b"/." in body else None
    async with served(sftp) as (storage, _):
        with pytest.raises(PermissionDenied, match="needs staging: none"):
            await storage.write_bytes("x", b"1")
    async with served(sftp, staging="none") as (storage, _):
        await storage.write_bytes("x", b"1")
    assert sftp.files == {b"/x": b"1"}


async def test_a_folder_that_another_made_in_a_drop_box() -> None:
    """Of several files for a new folder, one makes it; that it is there cannot be seen."""
    sftp = FakeSftp()

    def raced(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind == c.MKDIR:
            sftp.folders.add(c.take(body, 0)[0])
        return status(3) if kind in (c.STAT, c.LSTAT, c.FSTAT) else None

    sftp.hook = raced
    async with served(sftp, verify="none") as (storage, _):
        await storage.write_bytes("sub/x", b"1")
        with pytest.raises(StorageError):
            await storage.make_dir("sub")
    assert sftp.files == {b"/sub/x": b"1"}


@pytest.mark.parametrize("refusal", [status(c.OP_UNSUPPORTED), status(c.FAILURE, b"unsupported: Link")])
async def test_extensions_announced_and_refused_are_not_used(refusal: tuple[int, bytes]) -> None:
    """Go's library for servers announces all that it knows, whatever the server that uses it can do."""
    sftp = FakeSftp(x=b"old")
    sftp.extensions = [(b"hardlink@openssh.com", b"1"), (b"posix-rename@openssh.com", b"1")]
    sftp.hook = lambda kind, body: refusal if kind == c.EXTENDED else None
    async with served(sftp) as (storage, _):
        assert not storage.capabilities.create_new
        assert not storage.capabilities.atomic_write
        await storage.write_bytes("x", b"new")
        await storage.rename("x", "y")
        with pytest.raises(Unsupported):
            await storage.write_bytes("z", b"2", WriteOptions(overwrite=False))
    assert sftp.files == {b"/y": b"new"}


async def test_behind_a_plain_failure_the_reason_is_looked_for() -> None:
    """Many servers have one word for all that goes wrong."""
    sftp = FakeSftp(file=b"x")

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind in (c.LSTAT, c.STAT, c.OPEN, c.MKDIR, c.OPENDIR):
            name, _ = c.take(body, 0)
            odd = name.startswith(b"/file/") or len(name) > 256 or not name.isascii()
            missing = kind == c.OPEN and name.startswith(b"/new/") and b"/new" not in sftp.folders
            return FAILURE if odd or missing else None
        return FAILURE if kind == c.EXTENDED and (len(body) > 300 or not body.isascii()) else None

    sftp.hook = hook
    async with served(sftp) as (storage, _):
        assert not await storage.exists("file/below")
        with pytest.raises(NotFound):
            await storage.read_bytes("file/below")
        with pytest.raises(NotADirectory, match="/file"):
            await storage.write_bytes("file/below", b"1")
        with pytest.raises(NotADirectory, match="/file"):
            await storage.make_dir("file/below/that")
        with pytest.raises(InvalidPath, match="300 bytes"):
            await storage.write_bytes("n" * 300, b"1")
        with pytest.raises(InvalidPath, match="not plain ASCII"):
            await storage.write_bytes("\u00e9", b"1")
        assert leftovers(sftp) == []
        await storage.write_bytes("new/one", b"1")
    assert sftp.files == {b"/file": b"x", b"/new/one": b"1"}


async def test_a_folder_is_kept_where_the_server_would_replace_or_remove_it_as_a_file() -> None:
    """rclone renames onto folders, and removes files by RMDIR."""
    sftp = FakeSftp(file=b"x")
    sftp.folders.add(b"/folder")

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind == c.RMDIR:
            sftp.files.pop(c.take(body, 0)[0], None)
            return OK
        return None

    sftp.hook = hook
    async with served(sftp) as (storage, _):
        with pytest.raises(NotAFile):
            await storage.write_bytes("folder", b"1")
        with pytest.raises(NotAFile):
            await storage.rename("file", "folder", overwrite=True)
        with pytest.raises(NotADirectory):
            await storage.remove_dir("file")
    assert sftp.files == {b"/file": b"x"}


async def test_where_there_is_no_renaming_the_error_says_so_too() -> None:
    sftp = FakeSftp()
    sftp.extensions = []
    sftp.hook = lambda kind, body: status(8) if kind == c.RENAME else None
    async with served(sftp) as (storage, _):
        with pytest.raises(Unsupported, match=r"renaming it is refused.*staging: none.*\(partial files are seen\)$"):
            await storage.write_bytes("x", b"1")


async def test_where_renaming_is_forbidden_the_error_says_so() -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: status(3) if kind == c.RENAME or (kind == c.EXTENDED and b"rename" in body) else None
    async with served(sftp) as (storage, _):
        with pytest.raises(PermissionDenied, match="renaming it is refused") as caught:
            await storage.write_bytes("x", b"1")
        assert "staging: none" in str(caught.value.hint)
    assert sftp.files == {}


async def test_staging_none_writes_under_the_final_name() -> None:
    sftp = FakeSftp(x=b"old")
    async with served(sftp, staging="none") as (storage, _):
        assert not storage.capabilities.atomic_write and storage.capabilities.create_new
        assert storage.capabilities.in_place
        await storage.write_bytes("x", b"new")
        with pytest.raises(AlreadyExists):
            await storage.write_bytes("x", b"newer", WriteOptions(overwrite=False))
        assert sftp.files == {b"/x": b"new"}
        async with storage.write("y") as writer:
            await writer.write(DATA)
    assert sftp.files == {b"/x": b"new"}
    assert c.RENAME not in sftp.seen


async def test_a_write_only_drop_box_is_never_looked_at() -> None:
    sftp = FakeSftp()
    looks = (c.STAT, c.LSTAT, c.FSTAT, c.OPENDIR, c.READ, c.MKDIR)
    sftp.hook = lambda kind, body: status(3) if kind in looks else None
    async with served(sftp, verify="none") as (storage, _):
        entry = await storage.write_bytes("x", DATA)
        assert entry.size is None, "nobody said"
    assert sftp.files == {b"/x": DATA}
    assert not set(sftp.seen) & set(looks)


async def test_folders_are_made_only_when_missing() -> None:
    sftp = FakeSftp()
    async with served(sftp) as (storage, _):
        await storage.write_bytes("a/b/x", b"1")
        assert sftp.folders == {b"/", b"/a", b"/a/b"}
        sftp.seen.clear()
        await storage.write_bytes("a/b/y", b"1")
    assert not {c.MKDIR, c.STAT} & set(sftp.seen)


async def test_a_file_in_the_way_of_a_folder() -> None:
    sftp = FakeSftp(a=b"1")
    sftp.hook = lambda kind, body: FAILURE if kind == c.MKDIR else None
    async with served(sftp) as (storage, _):
        with pytest.raises(NotADirectory):
            await storage.write_bytes("a/x", b"1")
