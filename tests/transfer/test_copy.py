"""One attempt at one file: what the receipt says, and that every failure publishes nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import (
    Conflict,
    ConnectionFailed,
    IntegrityError,
    InvalidPath,
    NoSpace,
    NotAFile,
    NotFound,
    SourceChanged,
    Truncated,
)
from crossdock.storage.base import Backend, Capabilities, Entry, Expect, Reader, WriteOptions, Writer
from crossdock.storage.layers import Layer, LayeredReader
from crossdock.storage.limits import Limit
from crossdock.storage.local import LocalSettings
from crossdock.storage.storage import Storage
from crossdock.transfer.copy import CopyOptions, copy
from tests.transfer.places import CONTENT, pair
from tests.transfer.transforms.running import everything


class Without(Layer):
    """The same backend with other capabilities."""

    def __init__(self, inner: Backend, **changes: object) -> None:
        super().__init__(inner)
        self._changed = replace(inner.capabilities, **changes)  # type: ignore[arg-type]

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return self._changed


class Tampered(Without):
    """Passes every chunk of a read through `tamper(number, chunk)`; None ends the stream in silence."""

    def __init__(self, inner: Backend, tamper: Callable[[int, bytes], bytes | None], **changes: object) -> None:
        super().__init__(inner, **changes)
        self._tamper = tamper

    def _reader(self, reader: Reader, path: str) -> Reader:
        outer = self

        class Reading(LayeredReader):
            count = 0
            ended = False

            async def read(self) -> bytes:
                data = await self.inner.read()
                changed = None if self.ended else outer._tamper(self.count, data)
                self.count += 1
                self.ended = changed is None
                return changed or b""

        return Reading(reader)


async def test_receipt_joins_source_and_target_by_the_digest() -> None:
    """The digest is of the bytes that passed, size and times are those of both sides, and it all fits into JSON."""
    async with pair() as (source, target):
        seen: list[int] = []
        receipt = await copy(source, "in/file.bin", target, "out/file.bin", progress=seen.append)
        assert await target.read_bytes("out/file.bin") == CONTENT
        assert receipt.sha256 == hashlib.sha256(CONTENT).hexdigest()
        assert (receipt.size, receipt.method, receipt.verified, receipt.atomic) == (3_000_001, "stream", "size", True)
        assert (receipt.source, receipt.target) == ("one:in/file.bin", "two:out/file.bin")
        assert receipt.source_entry.modified == receipt.target_entry.modified
        assert sum(seen) == 3_000_001
        assert json.loads(json.dumps(receipt.as_json()))["sha256"] == receipt.sha256


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1_048_577])
async def test_sizes_around_the_inline_bounds(size: int) -> None:
    """Small files skip the read-ahead and the hashing thread; the bytes and the digest are the same."""
    async with pair() as (source, target):
        await source.write_bytes("f", CONTENT[:size])
        receipt = await copy(source, "f", target, "f")
        assert receipt.sha256 == hashlib.sha256(CONTENT[:size]).hexdigest()
        assert await target.read_bytes("f") == CONTENT[:size]


async def test_within_one_store_the_store_copies() -> None:
    """No byte passes through here, so there is no digest; forcing the stream gives one."""
    async with pair() as (source, _):
        receipt = await copy(source, "in/file.bin", source, "b")
        assert (receipt.method, receipt.sha256, receipt.verified) == ("server", None, "size")
        receipt = await copy(source, "in/file.bin", source, "c", options=CopyOptions(server_side=False))
        assert receipt.method == "stream"
        assert await source.read_bytes("b") == await source.read_bytes("c") == CONTENT


async def test_onto_itself_is_refused() -> None:
    async with pair() as (source, _):
        with pytest.raises(InvalidPath, match="the source itself"):
            await copy(source, "in/file.bin", source, "in/file.bin")
        assert await source.read_bytes("in/file.bin") == CONTENT


@pytest.mark.parametrize("decides", [True, False])
async def test_no_overwrite(decides: bool) -> None:
    """The same bytes are a success, other bytes a conflict that leaves the target alone; both where the endpoint
    decides and where it has to be looked at first."""
    async with pair() as (source, memory):
        target = Storage(Without(memory.backend, create_new=decides))
        options = CopyOptions(overwrite=False)
        first = await copy(source, "in/file.bin", target, "f", options=options)
        assert first.method == "stream"
        assert bool(first.notes) is not decides
        again = await copy(source, "in/file.bin", target, "f", options=options)
        assert (again.method, again.verified, again.sha256) == ("present", "digest", first.sha256)
        for other in (b"other", CONTENT[:-1] + b"?"):
            await memory.write_bytes("f", other)
            with pytest.raises(Conflict, match="exists with other content"):
                await copy(source, "in/file.bin", target, "f", options=options)
            assert await memory.read_bytes("f") == other


@pytest.mark.parametrize("decides", [True, False])
async def test_a_folder_in_the_way_is_no_file_that_is_kept(decides: bool) -> None:
    async with pair() as (source, memory):
        await memory.write_bytes("f/inner", b"1")
        target = Storage(Without(memory.backend, create_new=decides))
        with pytest.raises(NotAFile, match="a folder has this name"):
            await copy(source, "in/file.bin", target, "f", options=CopyOptions(overwrite=False))
        assert await everything(memory) == ["f/inner"]


async def test_what_was_in_the_way_is_gone_by_then() -> None:
    """Its receiver has taken it: the name is free, and the next attempt has it."""
    options = CopyOptions(overwrite=False)
    async with pair() as (source, memory):
        await memory.write_bytes("f", bytes(len(CONTENT)))
        begin_read = memory.backend.begin_read

        async def taken(path: str, **more: Any) -> Reader:
            await memory.delete(path)
            return await begin_read(path, **more)

        memory.backend.begin_read = taken  # type: ignore[method-assign]
        with pytest.raises(IntegrityError, match="is gone") as caught:
            await copy(source, "in/file.bin", memory, "f", options=options)
        assert caught.value.retryable
        assert (await copy(source, "in/file.bin", memory, "f", options=options)).method == "stream"


async def test_no_overwrite_keeps_no_slot() -> None:
    """Where the name is taken while it is written."""
    options = CopyOptions(overwrite=False)
    async with pair() as (source, memory), asyncio.timeout(30):
        target = Storage(Limit(memory.backend, 3))
        for name in ("f", "g", "h"):

            def take(_: int, name: str = name) -> None:
                memory.backend._files.setdefault(name, memory.backend._files["taken"])  # type: ignore[attr-defined]

            await memory.write_bytes("taken", b"other")
            with pytest.raises(Conflict):
                await copy(source, "in/file.bin", target, name, options=options, progress=take)
        assert await everything(memory) == ["f", "g", "h", "taken"]


@pytest.mark.parametrize("decides", [True, False])
async def test_no_overwrite_on_the_server(*, decides: bool) -> None:
    async with pair() as (plain, _):
        source = Storage(Without(plain.backend, create_new=decides))
        await source.write_bytes("same", CONTENT)
        await source.write_bytes("other", b"other")
        options = CopyOptions(overwrite=False)
        assert (await copy(source, "in/file.bin", source, "new", options=options)).method == "server"
        assert (await copy(source, "in/file.bin", source, "same", options=options)).method == "present"
        with pytest.raises(Conflict):
            await copy(source, "in/file.bin", source, "other", options=options)
        assert await source.read_bytes("other") == b"other"


async def test_stream_that_ends_early_publishes_nothing() -> None:
    """A reader that stops in silence is caught by the size that was seen at the start."""
    async with pair() as (source, target):
        short = Storage(Tampered(source.backend, lambda number, chunk: chunk if number < 3 else None))
        await target.write_bytes("f", b"old")
        with pytest.raises(Truncated):
            await copy(short, "in/file.bin", target, "f")
        assert await target.read_bytes("f") == b"old"
        assert await everything(target) == ["f"]


async def test_stream_that_grows_publishes_nothing() -> None:
    async with pair() as (source, target):
        longer = Storage(Tampered(source.backend, lambda number, chunk: chunk + b"!" if number == 2 else chunk))
        with pytest.raises(SourceChanged):
            await copy(longer, "in/file.bin", target, "f")
        assert await everything(target) == []


@pytest.mark.parametrize("change", ["replace", "delete"])
async def test_source_that_changes_behind_an_open_stream(change: str) -> None:
    """Where reads are not pinned the source is looked at again before anything is published."""
    async with pair() as (source, target):

        def tamper(number: int, chunk: bytes) -> bytes:
            if number == 1:
                files = source.backend._files  # type: ignore[attr-defined]
                if change == "delete":
                    del files["in/file.bin"]
                else:
                    files["in/file.bin"] = type(files["in/file.bin"])(CONTENT[::-1], datetime.now(UTC))
            return chunk

        loose = Storage(Tampered(source.backend, tamper, pinned_reads=False))
        with pytest.raises(SourceChanged, match="nothing was published"):
            await copy(loose, "in/file.bin", target, "f")
        assert await everything(target) == []


async def test_a_source_that_is_written_to_while_it_is_read(tmp_path: Path) -> None:
    """Its reader tells it at the end; the size is the same."""
    file = tmp_path / "f"
    file.write_bytes(CONTENT)

    def write(_: int) -> None:
        with file.open("r+b") as open_file:
            open_file.write(b"changed")
        os.utime(file, (1, 1))

    async with Storage(LocalSettings(root=tmp_path).backend("disk")) as disk, pair() as (_, target):
        with pytest.raises(SourceChanged, match="nothing was published"):
            await copy(disk, "f", target, "f", progress=write)
        assert await everything(target) == []


async def test_pin_refuses_what_is_no_longer_the_listed_file() -> None:
    async with pair() as (source, target):
        listed = await source.stat("in/file.bin")
        await source.write_bytes("in/file.bin", CONTENT[::-1])
        with pytest.raises(SourceChanged):
            await copy(source, "in/file.bin", target, "f", pin=listed)
        assert await everything(target) == []


class Failing(Layer):
    """Fails the nth write, or the commit (n = None), with the given error."""

    def __init__(self, inner: Backend, error: type[Exception], nth: int | None) -> None:
        super().__init__(inner)
        self._error, self._nth = error, nth

    def _failure(self) -> Exception:
        if issubclass(self._error, (NoSpace, ConnectionFailed)):
            return self.error(self._error, "write", "f", "as told")
        return self._error("as told")

    def _writer(self, writer: Writer, path: str) -> Writer:
        outer, count = self, 0

        class Writing(Writer):
            async def write(self, data: bytes) -> None:
                nonlocal count
                count += 1
                if count == outer._nth:
                    raise outer._failure()
                await writer.write(data)

            async def commit(self, expect: Expect) -> Entry:
                if outer._nth is None:
                    raise outer._failure()
                return await writer.commit(expect)

            async def abort(self) -> None:
                await writer.abort()

            def checkpoint(self) -> bytes | None:
                return writer.checkpoint()

            async def suspend(self) -> None:
                await writer.suspend()

        return Writing()


@pytest.mark.parametrize("nth", [1, 5, None])
@pytest.mark.parametrize("error", [NoSpace, ConnectionFailed, IntegrityError, RuntimeError])
async def test_target_that_fails(error: type[Exception], nth: int | None) -> None:
    """Whatever the target raises and wherever: it comes out as it is, the old file stays, no temporary does."""
    async with pair() as (source, memory):
        await memory.write_bytes("f", b"old")
        with pytest.raises(error, match="as told"):
            await copy(source, "in/file.bin", Storage(Failing(memory.backend, error, nth)), "f")
        assert await memory.read_bytes("f") == b"old"
        assert await everything(memory) == ["f"]


async def test_failed_attempt_can_be_resumed() -> None:
    """With a taker for checkpoints, what is staged is kept, and the next attempt writes only what is missing."""
    async with pair() as (source, memory):
        tokens: list[bytes] = []
        with pytest.raises(ConnectionFailed):
            broken = Storage(Failing(memory.backend, ConnectionFailed, 5))
            await copy(source, "in/file.bin", broken, "f", on_checkpoint=tokens.append)
        assert len(await everything(memory)) == 1
        writes: list[int] = []

        class Counting(Layer):
            def _writer(self, writer: Writer, path: str) -> Writer:
                inner = writer.write

                async def write(data: bytes) -> None:
                    writes.append(len(data))
                    await inner(data)

                writer.write = write  # type: ignore[method-assign]
                return writer

        seen: list[int] = []
        receipt = await copy(
            source,
            "in/file.bin",
            Storage(Counting(memory.backend)),
            "f",
            options=CopyOptions(resume=tokens[0]),
            progress=seen.append,
        )
        assert await memory.read_bytes("f") == CONTENT
        assert receipt.sha256 == hashlib.sha256(CONTENT).hexdigest()
        assert 0 < sum(writes) < len(CONTENT)
        assert sum(seen) == len(CONTENT)
        assert await everything(memory) == ["f"]


async def test_nothing_is_left_on_a_full_disk() -> None:
    """What is kept to be resumed would take the room that every file there waits for."""
    async with pair() as (source, memory):
        tokens: list[bytes] = []
        with pytest.raises(NoSpace):
            full = Storage(Failing(memory.backend, NoSpace, 5))
            await copy(source, "in/file.bin", full, "f", on_checkpoint=tokens.append)
        assert (tokens, await everything(memory)) == ([], [])


async def test_checkpoint_whose_bytes_are_gone_starts_again() -> None:
    async with pair() as (source, memory):
        tokens: list[bytes] = []
        with pytest.raises(ConnectionFailed):
            broken = Storage(Failing(memory.backend, ConnectionFailed, 5))
            await copy(source, "in/file.bin", broken, "f", on_checkpoint=tokens.append)
        await memory.discard(tokens[0])
        assert await everything(memory) == []
        receipt = await copy(source, "in/file.bin", memory, "f", options=CopyOptions(resume=tokens[0]))
        assert await memory.read_bytes("f") == CONTENT
        assert any("first byte" in note for note in receipt.notes)


async def test_missing_source_leaves_the_target_alone(tmp_path: Path) -> None:
    async with Storage(LocalSettings(root=str(tmp_path)).backend("disk")) as disk, pair() as (source, _):  # type: ignore[arg-type]
        with pytest.raises(NotFound, match="one:missing"):
            await copy(source, "missing", disk, "f")
        assert list(tmp_path.iterdir()) == []


async def test_options_reach_the_writer() -> None:
    """Attributes of the source travel along, those of the options win."""
    seen: list[WriteOptions] = []

    class Spying(Layer):
        async def begin_write(self, path: str, options: WriteOptions) -> Writer:
            seen.append(options)
            return await super().begin_write(path, options)

    async with pair() as (source, target):
        options = CopyOptions(attributes={"content-type": "text/csv"}, keep_modified=False)
        await copy(source, "in/file.bin", Storage(Spying(target.backend)), "f", options=options)
    assert (seen[0].size, seen[0].modified, dict(seen[0].attributes)) == (3_000_001, None, {"content-type": "text/csv"})
