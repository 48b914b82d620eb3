"""Transforms between real storages: the receipt tells both sides, and whatever fails publishes nothing."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import Conflict, CrossdockError, NoSpace, SourceChanged, TransformFailed, Truncated
from crossdock.storage.base import Entry, Reader, WriteOptions, Writer
from crossdock.storage.layers import Layer
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.storage import Storage
from crossdock.transfer.copy import CopyOptions, copy
from crossdock.transfer.transforms import Step, step
from tests.servers import Gpg
from tests.transfer.test_copy import Tampered, Without
from tests.transfer.transforms.own import HERE, Counts, Seen
from tests.transfer.transforms.running import both, everything, target_of

CONTENT = hashlib.shake_256(b"through").digest(1_500_000) + b"a line\n" * 100_000
PACKED = gzip.compress(CONTENT)


def steps(*wanted: str | tuple[str, dict[str, Any]]) -> CopyOptions:
    found: list[Step] = [step(one) if isinstance(one, str) else step(*one) for one in wanted]
    return CopyOptions(transforms=tuple(found))


@asynccontextmanager
async def source_with(data: bytes) -> AsyncIterator[Storage]:
    async with Storage(MemoryBackend("source")) as storage:
        await storage.write_bytes("in/f.gz", data, WriteOptions(modified=datetime(2026, 1, 31, tzinfo=UTC)))
        yield storage


@both
async def test_the_receipt_tells_what_was_read_and_what_is_stored(kind: str, tmp_path: Path) -> None:
    async with source_with(PACKED) as source, target_of(kind, tmp_path) as target:
        seen: list[int] = []
        receipt = await copy(source, "in/f.gz", target, "out/f", options=steps("gunzip"), progress=seen.append)
        assert await target.read_bytes("out/f") == CONTENT
        assert (receipt.size, receipt.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
        assert (receipt.read_size, receipt.read_sha256) == (len(PACKED), hashlib.sha256(PACKED).hexdigest())
        assert (receipt.method, receipt.verified, receipt.transforms) == ("stream", "size", ("gunzip",))
        assert receipt.target_entry.modified == datetime(2026, 1, 31, tzinfo=UTC)
        assert sum(seen) == len(PACKED)
        report = json.loads(json.dumps(receipt.as_json()))
        assert (report["read_size"], report["transforms"]) == (len(PACKED), ["gunzip"])


async def test_without_transforms_nothing_is_different() -> None:
    async with source_with(CONTENT) as source, target_of("memory", Path()) as target:
        report = (await copy(source, "in/f.gz", target, "f")).as_json()
        assert "read_sha256" not in report
        assert "read_size" not in report


@both
async def test_several_in_a_row(kind: str, tmp_path: Path) -> None:
    """Each one's end is passed through those after it."""
    text = "Grüße\r\n".encode("latin-1") * 300_000
    options = steps("gunzip", ("charset", {"from": "latin-1"}), ("lines", {"to": "lf"}), "gzip")
    async with source_with(gzip.compress(text)) as source, target_of(kind, tmp_path) as target:
        await copy(source, "in/f.gz", target, "f", options=options)
        assert gzip.decompress(await target.read_bytes("f")) == "Grüße\n".encode() * 300_000


FAILING = [
    ("gunzip", PACKED[:-1], r"gunzip of source:in/f\.gz: the gzip data is cut off; nothing was published"),
    ("gunzip", PACKED + b"garbage", "follows its end"),
    ("gunzip", b"", "empty"),
    (("gunzip", {"max_size": "1M"}), PACKED, "over 1048576 bytes"),
    (("charset", {"from": "utf-8"}), b"a" * 3_000_000 + b"\xff", r"byte 3000000 \(0xff\)"),
    (f"{HERE}:Raises", CONTENT, r"Raises of source:in/f\.gz: KeyError: 'customer' \(own\.py, line 23\); nothing"),
    (f"{HERE}:RaisesAtTheEnd", CONTENT, r"the trailer is missing \(own\.py, line \d+\)"),
    (f"{HERE}:RaisesAtOnce", CONTENT, "RuntimeError: no licence"),
    (f"{HERE}:Exits", CONTENT, "SystemExit: usage: mask FILE"),
    (f"{HERE}:GivesText", CONTENT, "TypeError: it gave str, not bytes"),
    (f"{HERE}:GivesNothing", CONTENT, "TypeError: it gave NoneType, not bytes; nothing"),
    ("csv_to_parquet", b"a,b\n" + b"1,2\n" * 3_000_000 + b"1\n", "row 3000002"),
    ("unzstd", CONTENT, "not valid zstd"),
]


async def test_one_that_cannot_tidy_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file is published, the other transforms are closed, and the log says what went wrong."""
    Seen.reset()
    Seen.let.set()
    async with source_with(CONTENT) as source, target_of("memory", tmp_path) as target:
        await copy(source, "in/f.gz", target, "f", options=steps(f"{HERE}:Seen", f"{HERE}:ClosesBadly"))
        assert await target.read_bytes("f") == CONTENT
    assert Seen.calls[-1] == "close"
    assert "ClosesBadly of source:in/f.gz: stop: RuntimeError: nothing to stop" in caplog.text
    assert "ClosesBadly of source:in/f.gz: close: SystemExit: nothing to close" in caplog.text


@both
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(("wanted", "data", "said"), FAILING)
async def test_what_fails_publishes_nothing(
    wanted: Any, data: bytes, said: str, existing: bool, kind: str, tmp_path: Path
) -> None:
    """Nor does it leave a temporary, nor touch what is there. It names the transform, the file and the next step."""
    async with source_with(data) as source, target_of(kind, tmp_path) as target:
        if existing:
            await target.write_bytes("f", b"old")
        with pytest.raises(TransformFailed, match=said) as failed:
            await copy(source, "in/f.gz", target, "f", options=steps(wanted))
        assert failed.value.hint
        assert not failed.value.retryable
        assert await everything(target) == (["f"] if existing else [])
        if existing:
            assert await target.read_bytes("f") == b"old"
        assert await source.read_bytes("in/f.gz") == data


async def test_the_reason_does_not_repeat_the_file() -> None:
    """It is kept in the ledger, and sent by mail."""
    pytest.importorskip("pyarrow")
    names = ",".join(f"column {number}" for number in range(10_000))
    async with source_with(f"{names}\n".encode()) as source, Storage(MemoryBackend("target")) as target:
        with pytest.raises(TransformFailed, match="no column is called price") as failed:
            await copy(source, "in/f.gz", target, "f", options=steps(("csv_to_parquet", {"types": {"price": "int64"}})))
        assert len(str(failed.value)) < 2000


@both
async def test_pgp_between_storages(kind: str, gpg: Gpg, tmp_path: Path) -> None:
    """A change that gpg only finds at the end, when all of the content was staged."""
    here = {"home": str(gpg.home), "program": gpg.program}
    decrypt = steps(("pgp_decrypt", {**here, "signed_by": gpg.bob}), "gunzip")
    encrypt = steps(("pgp_encrypt", {**here, "recipients": gpg.alice, "sign_by": gpg.bob, "compress": False}))
    async with source_with(PACKED) as source, target_of(kind, tmp_path) as target:
        await copy(source, "in/f.gz", target, "f.pgp", options=encrypt)
        receipt = await copy(target, "f.pgp", target, "f", options=decrypt)
        assert receipt.transforms == ("pgp_decrypt", "gunzip")
        assert await target.read_bytes("f") == CONTENT
        packed = await target.read_bytes("f.pgp")
        for data in (packed[:-1], packed[:-40] + bytes([packed[-40] ^ 1]) + packed[-39:], packed[:700_000]):
            await source.write_bytes("in/f.gz", data)
            with pytest.raises(TransformFailed, match="pgp_decrypt of source:"):
                await copy(source, "in/f.gz", target, "g", options=decrypt)
        assert await everything(target) == ["f", "f.pgp"]


async def test_within_one_store_the_bytes_pass_through_here() -> None:
    async with source_with(PACKED) as source:
        receipt = await copy(source, "in/f.gz", source, "f", options=steps("gunzip"))
        assert receipt.method == "stream"
        assert await source.read_bytes("f") == CONTENT


@pytest.mark.parametrize("decides", [True, False])
async def test_no_overwrite_compares_what_would_be_stored(decides: bool) -> None:
    async with source_with(PACKED) as source, target_of("memory", Path()) as memory:
        target = Storage(Without(memory.backend, create_new=decides))
        options = CopyOptions(overwrite=False, transforms=steps("gunzip").transforms)
        await copy(source, "in/f.gz", target, "f", options=options)
        again = await copy(source, "in/f.gz", target, "f", options=options)
        assert (again.method, again.sha256) == ("present", hashlib.sha256(CONTENT).hexdigest())
        assert again.read_sha256 == hashlib.sha256(PACKED).hexdigest()
        await memory.write_bytes("f", PACKED)
        with pytest.raises(Conflict):
            await copy(source, "in/f.gz", target, "f", options=options)
        assert await memory.read_bytes("f") == PACKED


async def test_a_stream_that_ends_early_is_not_judged_by_its_transform() -> None:
    """`Truncated` is retried, a refused file is not; and no transform is asked to bless a part of a file."""
    Seen.reset()
    Seen.let.set()
    async with source_with(CONTENT) as source, target_of("memory", Path()) as target:
        short = Storage(Tampered(source.backend, lambda number, chunk: chunk if number < 3 else None))
        with pytest.raises(Truncated):
            await copy(short, "in/f.gz", target, "f", options=steps(f"{HERE}:Seen"))
        assert Seen.calls == ["feed"] * 3 + ["stop", "close"]
        with pytest.raises(Truncated):
            await copy(short, "in/f.gz", target, "f", options=steps("gzip", "gunzip"))
        assert await everything(target) == []


async def test_a_source_that_changed_is_not_blamed_on_its_content() -> None:
    """The transform fails because the file was replaced under it: to be taken again, not given up."""
    async with source_with(PACKED) as source, target_of("memory", Path()) as target:

        def tamper(number: int, chunk: bytes) -> bytes:
            if number == 1:
                files = source.backend._files  # type: ignore[attr-defined]
                files["in/f.gz"] = type(files["in/f.gz"])(CONTENT, datetime.now(UTC))
                return bytes(len(chunk))
            return chunk

        loose = Storage(Tampered(source.backend, tamper, pinned_reads=False))
        with pytest.raises(SourceChanged) as changed:
            await copy(loose, "in/f.gz", target, "f", options=steps("gunzip"))
        assert isinstance(changed.value.__cause__, TransformFailed)
        assert await everything(target) == []


class Failing(Layer):
    """The third chunk that is written fails."""

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        writer = await self.inner.begin_write(path, options)
        inner, count = writer.write, 0

        async def write(data: bytes) -> None:
            nonlocal count
            count += 1
            if count == 3:
                raise self.error(NoSpace, "write", path, "the disk is full")
            await inner(data)

        writer.write = write  # type: ignore[method-assign]
        return writer


async def test_a_target_that_fails_is_its_own_error_and_is_not_resumed() -> None:
    """What a transform makes may differ the next time: what is staged is of no use."""
    Seen.reset()
    Seen.let.set()
    kept: list[bytes] = []
    async with source_with(CONTENT) as source, target_of("memory", Path()) as memory:
        with pytest.raises(NoSpace):
            await copy(
                source,
                "in/f.gz",
                Storage(Failing(memory.backend)),
                "f",
                options=steps(f"{HERE}:Seen"),
                on_checkpoint=kept.append,
            )
        assert kept == []
        assert Seen.calls[-2:] == ["stop", "close"]
        assert await everything(memory) == []


@pytest.mark.parametrize("times", [1, 6])
async def test_cancelling_stops_the_transform_before_it_is_closed(times: int) -> None:
    """While it waits in its thread; `close` comes when it has come out, however often it is cancelled."""
    Seen.reset()
    async with source_with(CONTENT) as source, target_of("memory", Path()) as target:
        task = asyncio.create_task(copy(source, "in/f.gz", target, "f", options=steps("gzip", f"{HERE}:Seen")))
        await asyncio.to_thread(Seen.waiting.wait, 30)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([task])
        assert (task.cancelled(), Seen.calls) == (True, ["feed", "stop", "close"])
        assert await everything(target) == []


async def test_the_event_loop_goes_on_meanwhile() -> None:
    """`feed` waits for something that only the event loop can do."""
    Seen.reset()
    async with source_with(b"content") as source, target_of("memory", Path()) as target:
        task = asyncio.create_task(copy(source, "in/f.gz", target, "f", options=steps(f"{HERE}:Seen")))
        while not Seen.waiting.is_set():
            await asyncio.sleep(0)
        Seen.let.set()
        await task
        assert Seen.calls == ["feed", "finish", "stop", "close"]


class Stalled(Layer):
    """Writes wait until `let`; what was written is counted and thrown away."""

    def __init__(self, inner: MemoryBackend) -> None:
        super().__init__(inner)
        self.let = asyncio.Event()
        self.reached = asyncio.Event()

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        writer = await self.inner.begin_write(path, options)

        async def write(data: bytes) -> None:
            self.reached.set()
            await self.let.wait()

        writer.write = write  # type: ignore[method-assign]
        return writer


async def test_a_slow_target_slows_what_makes_much_of_little() -> None:
    """1,000 MiB would come out of one chunk: only what the target takes is made."""
    Counts.given = 0
    async with source_with(b"x") as source, target_of("memory", Path()) as memory:
        target = Stalled(memory.backend)  # type: ignore[arg-type]
        task = asyncio.create_task(copy(source, "in/f.gz", Storage(target), "f", options=steps(f"{HERE}:Counts")))
        await target.reached.wait()
        assert Counts.given <= 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert Counts.given <= 2


async def test_attributes_that_are_no_longer_true_are_not_kept() -> None:
    """Of an object that was gzip and is text now; what the caller says counts."""
    wanted: list[dict[str, str]] = []

    class Described(Tampered):
        async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
            reader = await super().begin_read(path, offset=offset, pin=pin)
            attributes = {"content-type": "application/gzip", "content-encoding": "gzip", "meta-team": "a"}
            reader.entry = Entry(path=path, size=reader.entry.size, etag=reader.entry.etag, attributes=attributes)
            return reader

    class Noting(Layer):
        async def begin_write(self, path: str, options: WriteOptions) -> Writer:
            wanted.append(dict(options.attributes))
            assert options.size is None
            return await self.inner.begin_write(path, options)

    async with source_with(PACKED) as source, target_of("memory", Path()) as target:
        described = Storage(Described(source.backend, lambda _, chunk: chunk))
        await copy(described, "in/f.gz", Storage(Noting(target.backend)), "f", options=steps("gunzip"))
    assert wanted == [{"meta-team": "a"}]


async def test_many_at_once() -> None:
    """More than there are threads."""
    async with source_with(PACKED) as source, target_of("memory", Path()) as target:
        options = steps("gunzip", "gzip", "gunzip")
        await asyncio.gather(*(copy(source, "in/f.gz", target, f"f{n}", options=options) for n in range(30)))
        for number in range(30):
            assert await target.read_bytes(f"f{number}") == CONTENT


async def test_errors_of_ours_pass_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A passphrase that is not there is an error of the configuration, not of the file."""
    async with source_with(PACKED) as source, target_of("memory", Path()) as target:
        options = steps(("pgp_decrypt", {"passphrase": "env:CROSSDOCK_TEST_UNSET"}))
        with pytest.raises(CrossdockError, match="CROSSDOCK_TEST_UNSET is not set"):
            await copy(source, "in/f.gz", target, "f", options=options)
        assert await everything(target) == []
