"""Readers against servers that lie, stop early, or say too little."""

from __future__ import annotations

import asyncio
import os
import struct
import uuid
from datetime import UTC, datetime

import pytest

from crossdock.errors import (
    ConnectionFailed,
    CrossdockError,
    InvalidPath,
    NotAFile,
    NotFound,
    ProtocolViolation,
    SourceChanged,
    TimedOut,
    Truncated,
)
from crossdock.storage.base import Entry
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.sftp import SftpSettings
from crossdock.storage.sftp import codec as c
from crossdock.storage.sftp.backend import SftpBackend
from crossdock.storage.sftp.codec import U32, text
from crossdock.storage.storage import Storage
from crossdock.transfer.copy import copy
from tests.servers import OpenSSH
from tests.storage.sftp.fake_server import EOF, FAILURE, FakeSftp, status
from tests.storage.sftp.places import served

SIZE = 1_000_003
DATA = os.urandom(SIZE)


async def whole(storage: Storage, path: str = "x", **options: object) -> bytes:
    chunks = []
    async with storage.read(path, **options) as reader:  # type: ignore[arg-type]
        while chunk := await reader.read():
            chunks.append(chunk)
        assert await reader.read() == b""
    return b"".join(chunks)


@pytest.mark.parametrize("most", [1, 7, 4095, 4096, 10_000, 102_400])
async def test_short_reads_leave_no_gap(most: int) -> None:
    data = DATA[: most * 50]
    sftp = FakeSftp(x=data)
    sftp.most_read = most
    async with served(sftp) as (storage, _):
        assert await whole(storage) == data


async def test_short_reads_teach_the_request_size() -> None:
    sftp = FakeSftp(x=DATA)
    sftp.most_read = 10_000
    async with served(sftp) as (storage, _):
        assert await whole(storage) == DATA
        sftp.seen.clear()
        assert await whole(storage) == DATA
    assert sftp.seen.count(c.READ) <= SIZE // 10_000 + 3


async def test_early_end_is_truncated_and_makes_careful() -> None:
    sftp = FakeSftp(x=DATA)
    sftp.hook = lambda kind, body: EOF if kind == c.READ and struct.unpack(">QI", body[-12:])[0] >= 300_000 else None
    async with served(sftp) as (storage, _):
        with pytest.raises(Truncated, match="of 1000003 bytes"):
            await whole(storage)
        sftp.hook = None
        sftp.bursts.clear()
        assert await whole(storage) == DATA
        assert max(burst.count(c.READ) for burst in sftp.bursts) == 1


async def test_a_file_that_is_cut_does_not_make_careful() -> None:
    """What its writer did is not laid to the server."""
    sftp = FakeSftp(x=DATA, y=DATA)

    def cut(kind: int, body: bytes) -> None:
        if kind == c.READ and struct.unpack(">QI", body[-12:])[0] >= 300_000:
            sftp.files[b"/x"] = bytearray(DATA[:300_000])

    sftp.hook = cut
    async with served(sftp) as (storage, _):
        with pytest.raises(SourceChanged, match="of 1000003 bytes"):
            await whole(storage)
        sftp.hook = None
        sftp.bursts.clear()
        assert await whole(storage, "y") == DATA
        assert max(burst.count(c.READ) for burst in sftp.bursts) > 1


@pytest.mark.parametrize("sized", [True, False])
async def test_a_hole_is_truncated(sized: bool) -> None:
    sftp = FakeSftp(x=DATA)
    if not sized:
        sftp.attributes = c.A_PERMISSIONS

    def hole(kind: int, body: bytes) -> tuple[int, bytes] | None:
        return EOF if kind == c.READ and 320_000 <= struct.unpack(">QI", body[-12:])[0] < 340_000 else None

    sftp.hook = hole
    async with served(sftp) as (storage, _):
        with pytest.raises(Truncated):
            await whole(storage)


@pytest.mark.parametrize("size", [0, 1, 32 * 1024, 32 * 1024 + 1, SIZE])
async def test_size_unknown_reads_to_the_end(size: int) -> None:
    sftp = FakeSftp(x=DATA[:size])
    sftp.attributes = c.A_PERMISSIONS
    async with served(sftp) as (storage, _):
        assert await whole(storage) == DATA[:size]
        assert (await storage.stat("x")).size is None


async def test_no_attributes_at_all() -> None:
    sftp = FakeSftp(x=DATA)
    sftp.attributes = 0
    async with served(sftp) as (storage, _):
        assert await whole(storage) == DATA
        assert [(entry.path, entry.kind) async for entry in storage.scan()] == [("x", "file")]


@pytest.mark.parametrize("told", [0, 1, 40_000, SIZE - 1])
async def test_growth_is_read_to_the_true_end(told: int) -> None:
    sftp = FakeSftp(x=DATA)

    def smaller(kind: int, body: bytes) -> tuple[int, bytes] | None:
        return (c.ATTRS, struct.pack(">IQ", c.A_SIZE, told)) if kind == c.FSTAT else None

    sftp.hook = smaller
    async with served(sftp) as (storage, _):
        assert await whole(storage) == DATA
        assert await whole(storage, offset=told) == DATA[told:]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ((c.DATA, text(b"")), ProtocolViolation),
        ((c.DATA, U32.pack(10) + b"123"), ProtocolViolation),
        ((c.DATA, text(b"x" * 250_000)), ProtocolViolation),
        ((c.ATTRS, U32.pack(0)), ProtocolViolation),
        (status(0), ProtocolViolation),
        (FAILURE, ProtocolViolation),
        (status(7), ConnectionFailed),
    ],
)
async def test_bad_replies_to_read(reply: tuple[int, bytes], error: type[CrossdockError]) -> None:
    sftp = FakeSftp(x=DATA)
    sftp.hook = lambda kind, body: reply if kind == c.READ else None
    async with served(sftp) as (storage, _):
        with pytest.raises(error):
            await whole(storage)


@pytest.mark.parametrize("refusal", [2, 3, 4])
@pytest.mark.parametrize("blind", [False, True])
async def test_a_file_that_is_given_out_once(refusal: int, *, blind: bool) -> None:
    """As IBM Sterling does: once it is open, its name is not there, or not to be had, any more."""
    sftp = FakeSftp(x=DATA)

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        asked = kind in (c.STAT, c.LSTAT, c.OPEN) or (blind and kind == c.FSTAT)
        return status(refusal) if asked and c.OPEN in sftp.seen[:-1] and c.take(body, 0)[0] == b"/x" else None

    async with served(sftp) as (storage, _):
        pin = await storage.stat("x")
        sftp.hook = hook
        target = Storage(MemoryBackend("target"))
        receipt = await copy(storage, "x", target, "x", pin=pin)
        assert receipt.size == SIZE and await target.read_bytes("x") == DATA


async def test_a_file_replaced_where_names_may_not_be_looked_at() -> None:
    sftp = FakeSftp(x=DATA)

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind == c.READ:
            sftp.times[b"/x"] = 5
        return status(3) if kind in (c.STAT, c.LSTAT) else None

    async with served(sftp) as (storage, _):
        sftp.hook = hook
        async with storage.read("x") as reader:
            while await reader.read():
                pass
            assert reader.changed


async def test_a_folder_flagged_as_a_file() -> None:
    sftp = FakeSftp(x=DATA)
    sftp.folders.add(b"/d")
    sftp.files[b"/d"] = bytearray()
    sftp.hook = lambda kind, body: FAILURE if kind == c.READ else None
    async with served(sftp) as (storage, _):
        with pytest.raises(NotAFile):
            await whole(storage, "d")


async def test_pin() -> None:
    async with served(FakeSftp(x=DATA)) as (storage, peer):
        entry = await storage.stat("x")
        assert await whole(storage, pin=entry) == DATA
        for other in (
            Entry(path="x", size=SIZE - 1, modified=entry.modified),
            Entry(path="x", size=SIZE, modified=datetime(2020, 1, 1, tzinfo=UTC)),
        ):
            with pytest.raises(SourceChanged):
                await whole(storage, pin=other)
        assert await whole(storage, pin=Entry(path="x")) == DATA
        await storage.stat("x")
        assert peer.sftp.seen.count(c.OPEN) == peer.sftp.seen.count(c.CLOSE) == 4


async def test_a_pin_where_nothing_may_be_looked_at() -> None:
    """What was listed tells how much there is to be."""
    sftp = FakeSftp(x=DATA)
    sftp.hook = lambda kind, body: status(3) if kind in (c.STAT, c.LSTAT, c.FSTAT) else None
    async with served(sftp) as (storage, _):
        assert await whole(storage, pin=Entry(path="x", size=SIZE)) == DATA
        with pytest.raises(Truncated):
            await whole(storage, pin=Entry(path="x", size=SIZE + 1))


async def test_what_was_listed_as_a_pipe_is_not_opened() -> None:
    async with served(FakeSftp(x=DATA)) as (storage, peer):
        with pytest.raises(NotAFile):
            await whole(storage, pin=Entry(path="x", kind="other"))
        assert c.OPEN not in peer.sftp.seen


async def test_links(openssh: OpenSSH) -> None:
    folder = openssh.folder / uuid.uuid4().hex
    (folder / "d").mkdir(parents=True)
    (folder / "f").write_bytes(b"data")
    for name, target in (("to-d", "d"), ("to-f", "f"), ("nowhere", "gone"), ("circle", "circle")):
        (folder / name).symlink_to(target)
    kinds = {"d": "dir", "f": "file", "to-d": "link", "to-f": "link", "nowhere": "link", "circle": "link"}
    for links, seen in (("skip", kinds), ("follow", kinds | {"to-d": "dir", "to-f": "file"})):
        settings = SftpSettings.model_validate(openssh.settings(root=str(folder), links=links))
        async with Storage(settings.backend("server")) as storage:
            assert {entry.path: entry.kind async for entry in storage.scan()} == seen
            assert (await storage.stat("to-f")).kind == seen["to-f"]
            assert await storage.read_bytes("to-f") == b"data"
            with pytest.raises(NotFound):
                await storage.read_bytes("nowhere")


async def test_links_that_lead_in_a_circle_are_not_followed(openssh: OpenSSH) -> None:
    """Followed, they would show each file again and again, in a listing without an end."""
    folder = openssh.folder / uuid.uuid4().hex
    (folder / "in/deep").mkdir(parents=True)
    (folder / "other").mkdir()
    for path in ("in/deep/x", "other/y"):
        (folder / path).write_bytes(b"data")
    for name, target in (("in/self", "."), ("in/deep/up", "../.."), ("in/other", "../other"), ("other/back", "../in")):
        (folder / name).symlink_to(target)
    settings = SftpSettings.model_validate(openssh.settings(root=str(folder), links="follow"))
    async with Storage(settings.backend("server")) as storage, asyncio.timeout(30):
        found = {entry.path: entry.kind async for entry in storage.walk("in")}
    links = dict.fromkeys(("in/self", "in/deep/up", "in/other/back"), "link")
    assert found == {"in/deep/x": "file", "in/other/y": "file", **links}


@pytest.mark.parametrize("openssh", [False, True])
async def test_the_round_trips_of_a_small_file(*, openssh: bool) -> None:
    """Two with OpenSSH; others, which may answer several requests at once, are asked last what the name stands for."""
    sftp = FakeSftp(x=b"small")
    async with served(sftp) as (storage, _):
        backend = storage.backend
        assert isinstance(backend, SftpBackend)
        backend.calls.openssh = openssh
        pin = await storage.stat("x")
        sftp.bursts.clear()
        assert await whole(storage, pin=pin) == b"small"
        await storage.stat("x")
    first = [c.FSTAT, c.READ, c.READ]
    last = [c.CLOSE, c.LSTAT]
    assert sftp.bursts == [[c.OPEN], *([[*first, c.STAT], last] if openssh else [first, [c.STAT], last])]


async def test_without_a_look_at_what_is_open_the_name_is_not_looked_at_either() -> None:
    """Where it could not be described, the look that was asked for along with the bytes proves nothing."""
    sftp = FakeSftp(x=b"small")
    async with served(sftp) as (storage, _):
        backend = storage.backend
        assert isinstance(backend, SftpBackend)
        backend.calls.openssh = True
        pin = await storage.stat("x")
        sftp.hook = lambda kind, body: FAILURE if kind in (c.FSTAT, c.STAT) else None
        async with storage.read("x", pin=pin) as reader:
            assert await reader.read() == b"small" and not await reader.read()
            assert reader.changed is False


async def test_window_bounds_what_is_under_way() -> None:
    sftp = FakeSftp(x=DATA)
    async with served(sftp, window=64 * 1024) as (storage, _):
        async with storage.read("x") as reader:
            for _ in range(3):
                await reader.read()
            asked = sftp.seen.count(c.READ) * 32 * 1024
            assert asked <= 3 * 32 * 1024 + 2 * 64 * 1024


async def test_stopping_early_closes_the_handle_and_frees_the_stream() -> None:
    sftp = FakeSftp(x=DATA)
    async with served(sftp, max_connections=1, streams_per_connection=1) as (storage, _):
        for _ in range(3):
            async with storage.read("x") as reader:
                await reader.read()
        assert (await storage.stat("x")).size == SIZE
        assert sftp.seen.count(c.OPEN) == sftp.seen.count(c.CLOSE) == 3


async def test_a_cancelled_open_is_closed() -> None:
    sftp = FakeSftp(x=DATA)
    async with served(sftp, max_connections=1) as (storage, _):
        opening = asyncio.ensure_future(storage.backend.begin_read("x"))
        while c.OPEN not in sftp.seen:
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await storage.stat("x")
        assert sftp.seen.count(c.CLOSE) == 1
        assert await whole(storage) == DATA


async def test_silence_is_timed_out() -> None:
    sftp = FakeSftp(x=DATA)
    sftp.hook = lambda kind, body: b"" if kind == c.READ else None
    async with served(sftp, timeout=1) as (storage, peer):
        with pytest.raises(TimedOut, match=r"no answer for 1 seconds"):
            await whole(storage)
        sftp.hook = None
        assert await whole(storage) == DATA
        assert len(peer.sign_ins) == 2


@pytest.mark.parametrize("at", [0, 1, 5, 100, 33_000, 500_000, SIZE])
async def test_the_wire_cut_at_a_byte(at: int) -> None:
    sftp = FakeSftp(x=DATA)
    async with served(sftp, max_connections=1) as (storage, peer):
        sent = 0

        def cut(kind: int, body: bytes) -> None:
            nonlocal sent
            if kind == c.READ:
                sent += 32 * 1024
                if sent > at:
                    peer.connections[0].abort()

        sftp.hook = cut
        with pytest.raises(ConnectionFailed):
            await whole(storage)
        sftp.hook = None
        assert await whole(storage) == DATA


async def test_names_in_another_encoding() -> None:
    sftp = FakeSftp()
    sftp.files["/grün".encode("latin-1")] = bytearray(b"1")
    async with served(sftp, encoding="latin-1") as (storage, _):
        assert [entry.path async for entry in storage.scan()] == ["grün"]
        assert await whole(storage, "grün") == b"1"
        with pytest.raises(CrossdockError, match="cannot be written in latin-1"):
            await storage.stat("日本")


@pytest.mark.parametrize("operation", ["delete", "remove_dir", "rename", "stat", "make_dir"])
async def test_a_name_that_cannot_be_sent_keeps_no_connection(operation: str) -> None:
    """However often it is tried: a read waits for a connection with room."""
    async with served(FakeSftp(x=b"1"), encoding="latin-1", max_connections=1, streams_per_connection=2) as (
        storage,
        _,
    ):
        arguments = ("x", "☃") if operation == "rename" else ("☃",)
        for _ in range(3):
            with pytest.raises(InvalidPath, match="cannot be written in latin-1"):
                await getattr(storage, operation)(*arguments)
        async with asyncio.timeout(60):
            assert await storage.read_bytes("x") == b"1"
