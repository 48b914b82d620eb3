"""Archives: all of their members or none."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import tempfile
import threading
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import CrossdockError, InvalidPath, NoSpace, NotAFile, SourceChanged, TransformFailed
from crossdock.storage.base import WriteOptions, Writer
from crossdock.storage.layers import Layer
from crossdock.storage.storage import Storage
from crossdock.transfer.copy import CopyOptions, Staged, copy
from crossdock.transfer.transforms import step
from crossdock.transfer.unpack import unpack
from tests.servers import Gpg
from tests.transfer.transforms.own import HERE
from tests.transfer.transforms.running import (
    BIG,
    FILES,
    PLAIN,
    both,
    everything,
    run,
    source_with,
    target_of,
    unpacked,
    zipped,
)


@both
async def test_every_member_becomes_a_file_with_a_receipt(kind: str, tmp_path: Path) -> None:
    data = zipped(FILES | {"folder/": b""})
    staged: list[Staged] = []
    members: list[str] = []

    async def on_staged(told: Staged) -> None:
        staged.append(told)

    async def on_members(paths: Any) -> None:
        assert not await everything(target)
        members.extend(paths)

    async with target_of(kind, tmp_path) as target:
        receipts = await unpacked(data, target, on_staged=on_staged, on_members=on_members)
        assert await everything(target) == sorted(f"out/{name}" for name in FILES)
        assert members == [f"out/{name}" for name in FILES]
        for receipt, (name, content) in zip(receipts, FILES.items(), strict=True):
            assert await target.read_bytes(f"out/{name}") == content
            assert (receipt.source, receipt.target) == (f"source:in/a.zip!/{name}", f"target:out/{name}")
            assert (receipt.size, receipt.sha256) == (len(content), hashlib.sha256(content).hexdigest())
            assert (receipt.read_size, receipt.read_sha256) == (len(data), hashlib.sha256(data).hexdigest())
            assert receipt.source_entry.path == "in/a.zip"
            assert receipt.target_entry.modified == datetime(2026, 1, 31, 12, 30, tzinfo=UTC)
            assert receipt.transforms == ("unzip",)
        assert [one.sha256 for one in staged if one.sha256] == [receipt.sha256 for receipt in receipts]


async def test_into_the_root_with_times_of_a_zone_and_names_of_an_encoding() -> None:
    data = zipped({"gr__e": b"1"}).replace(b"gr__e", b"gr\x81\xe1e")
    async with target_of("memory", Path()) as target:
        (receipt,) = await unpacked(data, target, {"names": "cp850", "timezone": "Europe/Berlin"}, to="")
        assert receipt.target == "target:grüße"
        assert receipt.target_entry.modified == datetime(2026, 1, 31, 11, 30, tzinfo=UTC)


async def test_steps_before_change_the_archive_and_steps_after_each_member(gpg: Gpg) -> None:
    here = {"home": str(gpg.home), "program": gpg.program}
    data = run("pgp_encrypt", zipped({"a": b"1\r\n", "b": b"2\r\n"}), here | {"recipients": gpg.alice})
    async with target_of("memory", Path()) as target:
        receipts = await unpacked(
            data, target, before=(step("pgp_decrypt", here),), after=(step("lines", {"to": "lf"}), step("gzip"))
        )
        assert run("gunzip", await target.read_bytes("out/a")) == b"1\n"
        assert receipts[0].transforms == ("pgp_decrypt", "unzip", "lines", "gzip")
        assert receipts[0].read_sha256 == hashlib.sha256(data).hexdigest()


async def test_the_writers_of_python_and_of_streams_are_read(tmp_path: Path) -> None:
    """Stored members, data descriptors (written without seeking), 64-bit records, a comment."""
    stream = io.BytesIO()

    class Unseekable(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            return stream.write(data)

    with zipfile.ZipFile(Unseekable(), "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a", BIG)
        with archive.open("b", "w", force_zip64=True) as member:
            member.write(b"64 bits")
        archive.comment = b"a comment"
    async with target_of("memory", Path()) as target:
        await unpacked(stream.getvalue(), target)
        assert await target.read_bytes("out/a") == BIG
        assert await target.read_bytes("out/b") == b"64 bits"


async def test_a_directory_of_64_bits_is_read() -> None:
    """70,000 members are more than the old directory can count; the limit may be raised."""
    data = zipped({f"{number:05}": b"" for number in range(70_000)})
    async with target_of("memory", Path()) as target:
        with pytest.raises(TransformFailed, match="over 10000 members"):
            await unpacked(data, target)
        assert await everything(target) == []
    opened, names = step("unzip", {"max_members": 100_000}).splitter().open(io.BytesIO(data), "x")
    assert len(names) == 70_000
    await opened.close()


@both
async def test_a_later_member_that_a_later_step_refuses(kind: str, tmp_path: Path) -> None:
    """The first is not published either: each member passes all steps before any is."""
    async with target_of(kind, tmp_path) as target:
        with pytest.raises(TransformFailed, match="charset of source:"):
            await unpacked(zipped({"a": b"fine", "b": b"\xff"}), target, after=(step("charset", {"from": "utf-8"}),))
        with pytest.raises(TransformFailed, match="the trailer is missing"):
            await unpacked(zipped({"a": b"fine"}), target, after=(step(f"{HERE}:RaisesAtTheEnd"),))
        assert await everything(target) == []


async def test_a_member_that_cannot_be_at_the_target() -> None:
    """Found before the first member is published."""
    async with target_of("memory", Path()) as target:
        with pytest.raises(InvalidPath, match=r"target:out/\.crossdock.*reserved"):
            await unpacked(zipped({"a": b"1", ".crossdock-01234567-0123456789ab.part": b"2"}), target)
        assert await everything(target) == []


class Full(Layer):
    """The second file does not fit."""

    count = 0

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        self.count += 1
        if self.count == 2:
            raise self.error(NoSpace, "write", path, "the disk is full")
        return await self.inner.begin_write(path, options)


async def test_a_target_that_fails_in_the_middle_is_gone_on_with() -> None:
    """Members that were published are whole, and again the same."""
    async with target_of("memory", Path()) as target:
        with pytest.raises(NoSpace):
            await unpacked(PLAIN, Storage(Full(target.backend)))
        assert await everything(target) == ["out/a.csv"]
        assert await target.read_bytes("out/a.csv") == FILES["a.csv"]
        async with source_with(PLAIN) as source:
            options = CopyOptions(transforms=(step("unzip"),), overwrite=False)
            receipts = await unpack(source, "in/a.zip", target, "out", options=options)
        assert [receipt.method for receipt in receipts] == ["present", "stream", "stream", "stream"]
        assert len(await everything(target)) == 4


async def test_a_folder_in_the_place_of_a_member_is_no_file_that_is_kept() -> None:
    async with source_with(PLAIN) as source, target_of("memory", Path()) as target:
        await target.write_bytes("out/sub/empty/inner", b"1")
        options = CopyOptions(transforms=(step("unzip"),), overwrite=False)
        with pytest.raises(NotAFile, match="a folder has this name"):
            await unpack(source, "in/a.zip", target, "out", options=options)
        assert await everything(target) == ["out/sub/empty/inner"]


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_no_room_to_keep_the_archive(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the disk's fault, not the archive's: to be tried again."""
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: os.fdopen(os.open("/dev/full", os.O_RDWR), "w+b"))
    async with target_of("memory", Path()) as target:
        with pytest.raises(NoSpace, match=r"unzip source:in/a\.zip: no room on the local disk"):
            await unpacked(zipped({"a": os.urandom(size)}), target)
        assert await everything(target) == []


async def test_a_source_that_changed() -> None:
    async with source_with(PLAIN) as source, target_of("memory", Path()) as target:
        listed = await source.stat("in/a.zip")
        await source.write_bytes("in/a.zip", zipped({"other": b""}))
        with pytest.raises(SourceChanged):
            await unpack(
                source, "in/a.zip", target, "out", pin=listed, options=CopyOptions(transforms=(step("unzip"),))
            )
        assert await everything(target) == []


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The temporary files that are made."""
    found: list[Any] = []
    real = tempfile.TemporaryFile

    def noting(**options: Any) -> Any:
        found.append(real(**options))
        return found[-1]

    monkeypatch.setattr("crossdock.transfer.unpack.tempfile.TemporaryFile", noting)
    return found


async def test_cancelling_leaves_nothing(tmp_path: Path, opened: list[Any]) -> None:
    """Neither at the target nor in the temporary folder, and no open file."""
    spool = tmp_path / "spool"
    spool.mkdir()
    reached = asyncio.Event()

    class Waiting(Layer):
        async def begin_write(self, path: str, options: WriteOptions) -> Writer:
            reached.set()
            await asyncio.Event().wait()
            raise AssertionError

    async with target_of("memory", Path()) as memory:
        task = asyncio.create_task(unpacked(PLAIN, Storage(Waiting(memory.backend)), {"spool": str(spool)}))
        await reached.wait()
        assert list(spool.iterdir()) == []
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [file.closed for file in opened] == [True]
        assert await everything(memory) == []


async def test_cancelling_as_the_temporary_file_is_made(
    tmp_path: Path, opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made in a thread, which goes on: what that makes is closed as well."""
    real, begun, go_on = tempfile.TemporaryFile, threading.Event(), threading.Event()

    def waiting(**options: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return real(**options)

    monkeypatch.setattr("crossdock.transfer.unpack.tempfile.TemporaryFile", waiting)
    async with target_of("memory", tmp_path) as target:
        task = asyncio.create_task(unpacked(PLAIN, target))
        assert await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        ended, _ = await asyncio.wait([task], timeout=0)
        assert not ended
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [file.closed for file in opened] == [True]
        assert await everything(target) == []


async def test_an_archive_that_cannot_be_closed(opened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its temporary file is, all the same."""

    def fails(_: zipfile.ZipFile) -> None:
        monkeypatch.undo()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with target_of("memory", Path()) as target:
        archive = zipped({"a": b"one"})
        monkeypatch.setattr(zipfile.ZipFile, "close", fails)
        with pytest.raises(OSError, match="Input/output error"):
            await unpacked(archive, target)
    assert [file.closed for file in opened] == [True]


async def test_copy_and_unpack_are_not_taken_for_each_other() -> None:
    async with source_with(PLAIN) as source, target_of("memory", Path()) as target:
        with pytest.raises(ValueError, match="many files of one"):
            await copy(source, "in/a.zip", target, "out", options=CopyOptions(transforms=(step("unzip"),)))
        with pytest.raises(ValueError, match="exactly one step"):
            await unpack(source, "in/a.zip", target, "out", options=CopyOptions(transforms=(step("gzip"),)))


@pytest.mark.parametrize("options", [{"timezone": "Mars/Olympus"}, {"names": "klingon"}, {"max_members": 0}])
def test_options_are_checked_with_the_configuration(options: dict[str, Any]) -> None:
    with pytest.raises(CrossdockError):
        step("unzip", options)
