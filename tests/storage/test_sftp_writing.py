"""Writers: round trips, publication, resumption, servers that lack or refuse things."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from crossdock.errors import (
    AlreadyExists,
    ConnectionFailed,
    CrossdockError,
    IntegrityError,
    InvalidPath,
    NoSpace,
    NotADirectory,
    NotAFile,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    TimedOut,
    Unsupported,
)
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.sftp import codec as c
from crossdock.storage.sftp.codec import U32
from crossdock.storage.staging import is_temporary
from crossdock.storage.storage import Storage
from tests.storage.sftp_fake_server import FAILURE, OK, FakeSftp, Peer, serving, status

DATA = os.urandom(700_001)
WHEN = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", "right")


@asynccontextmanager
async def writing(sftp: FakeSftp, **changes: object) -> AsyncGenerator[tuple[Storage, Peer]]:
    async with serving(sftp) as peer, Storage(peer.settings(**changes).backend("fake")) as storage:
        yield storage, peer


def leftovers(sftp: FakeSftp) -> list[bytes]:
    return [name for name in sftp.files if is_temporary(name.decode())]


async def test_a_small_file_takes_three_round_trips() -> None:
    sftp = FakeSftp()
    async with writing(sftp) as (storage, _):
        sftp.bursts.clear()
        entry = await storage.write_bytes("x", b"small", WriteOptions(modified=WHEN))
    assert entry.size == 5
    assert sftp.bursts == [[c.OPEN], [c.WRITE, c.FSETSTAT, c.EXTENDED, c.FSTAT, c.LSTAT, c.CLOSE], [c.EXTENDED]]
    assert sftp.files == {b"/x": b"small"}


async def test_a_large_file_is_written_in_order() -> None:
    sftp = FakeSftp()
    offsets: list[int] = []

    def note(kind: int, body: bytes) -> None:
        if kind == c.WRITE:
            _, at = c.take(body, 0)
            offsets.append(int.from_bytes(body[at : at + 8], "big"))

    sftp.hook = note
    async with writing(sftp, window=64 * 1024) as (storage, _):
        async with storage.write("x") as writer:
            for at in range(0, len(DATA), 10_000):
                await writer.write(DATA[at : at + 10_000])
            await writer.commit(Expect(size=len(DATA)))
    assert len(offsets) > 10 and offsets == sorted(offsets)
    assert sftp.files == {b"/x": DATA}


async def test_a_server_that_does_not_acknowledge_slows_the_writer() -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: b"" if kind == c.WRITE else None
    async with writing(sftp, window=64 * 1024, timeout=0.3) as (storage, _):
        accepted = 0
        with pytest.raises(TimedOut):
            async with storage.write("x") as writer:
                for at in range(0, len(DATA), 10_000):
                    await writer.write(DATA[at : at + 10_000])
                    accepted = at + 10_000
        assert accepted <= 64 * 1024 + 32 * 1024 + 10_000
        assert sftp.files == {}


async def test_without_posix_rename_the_old_file_steps_aside() -> None:
    sftp = FakeSftp(x=b"old")
    sftp.extensions = []
    async with writing(sftp) as (storage, _):
        await storage.write_bytes("x", b"new")
        await storage.write_bytes("y", b"first")
        await storage.rename("y", "x", overwrite=True)
    assert sftp.files == {b"/x": b"first"}


async def test_the_old_file_comes_back_if_the_new_cannot_take_its_place() -> None:
    sftp = FakeSftp(x=b"old")
    sftp.extensions = []
    renames = iter([None, status(3), None])
    sftp.hook = lambda kind, body: next(renames) if kind == c.RENAME else None
    async with writing(sftp) as (storage, _):
        with pytest.raises(PermissionDenied):
            await storage.write_bytes("x", b"new")
    assert sftp.files == {b"/x": b"old"}


async def test_create_new_needs_a_server_that_can() -> None:
    sftp = FakeSftp(x=b"old")
    async with writing(sftp) as (storage, _):
        assert not storage.capabilities.create_new
        with pytest.raises(Unsupported):
            await storage.write_bytes("x", b"new", WriteOptions(overwrite=False))
        with pytest.raises(AlreadyExists):
            await storage.write_bytes("y", b"1")
            await storage.rename("y", "x")
    assert sftp.files[b"/x"] == b"old"


async def test_create_new_by_hard_link() -> None:
    sftp = FakeSftp()
    sftp.extensions = [(b"hardlink@openssh.com", b"1")]

    def link(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind != c.EXTENDED:
            return None
        _, at = c.take(body, 0)
        old, at = c.take(body, at)
        new, _ = c.take(body, at)
        if new in sftp.files or old not in sftp.files:
            return FAILURE
        sftp.files[new] = sftp.files[old]
        return OK

    sftp.hook = link
    async with writing(sftp) as (storage, _):
        assert storage.capabilities.create_new
        await storage.write_bytes("x", b"1", WriteOptions(overwrite=False))
        with pytest.raises(AlreadyExists):
            await storage.write_bytes("x", b"2", WriteOptions(overwrite=False))
    assert sftp.files == {b"/x": b"1"}


async def test_extensions_announced_and_refused_are_not_used() -> None:
    """Go's library for servers announces all that it knows, whatever the server that uses it can do."""
    sftp = FakeSftp(x=b"old")
    sftp.extensions = [(b"hardlink@openssh.com", b"1"), (b"posix-rename@openssh.com", b"1")]
    sftp.hook = lambda kind, body: status(c.OP_UNSUPPORTED) if kind == c.EXTENDED else None
    async with writing(sftp) as (storage, _):
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
    async with writing(sftp) as (storage, _):
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
    async with writing(sftp) as (storage, _):
        with pytest.raises(NotAFile):
            await storage.write_bytes("folder", b"1")
        with pytest.raises(NotAFile):
            await storage.rename("file", "folder", overwrite=True)
        with pytest.raises(NotADirectory):
            await storage.remove_dir("file")
    assert sftp.files == {b"/file": b"x"}


async def test_where_renaming_is_forbidden_the_error_says_so() -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: status(3) if kind == c.RENAME or (kind == c.EXTENDED and b"rename" in body) else None
    async with writing(sftp) as (storage, _):
        with pytest.raises(PermissionDenied, match="renaming it is refused") as caught:
            await storage.write_bytes("x", b"1")
        assert "staging: none" in str(caught.value.hint)
    assert sftp.files == {}


async def test_what_could_not_be_opened_is_not_removed(caplog: pytest.LogCaptureFixture) -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: status(3) if kind in (c.OPEN, c.REMOVE) else None
    async with writing(sftp) as (storage, _):
        with pytest.raises(PermissionDenied):
            await storage.write_bytes("x", b"1")
    assert c.REMOVE not in sftp.seen
    assert "left behind" not in caplog.text


async def test_a_time_that_no_open_file_takes_is_given_by_name() -> None:
    sftp = FakeSftp()
    stamped = []

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind == c.SETSTAT:
            stamped.append(body)
            return OK
        return FAILURE if kind == c.FSETSTAT else None

    sftp.hook = hook
    async with writing(sftp) as (storage, _):
        await storage.write_bytes("x", b"new", WriteOptions(modified=datetime.fromtimestamp(1_000_000_000, UTC)))
    (body,) = stamped
    name, at = c.take(body, 0)
    assert name.startswith(b"/.crossdock-")
    assert body[at:] == c.times(1_000_000_000)


@pytest.mark.parametrize("spoils", [False, True])
async def test_what_was_staged_beyond_the_end_is_cut_off_and_looked_at(*, spoils: bool) -> None:
    """paramiko's server library answers a new size with a file of zeros: nothing of that is published."""
    sftp = FakeSftp()

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind != c.FSETSTAT:
            return None
        name, at = c.take(body, 0)
        (size,) = struct.unpack_from(">Q", body, at + 4)
        held = sftp.files[name]
        held[:] = bytes(size) if spoils else held[:size]
        return OK

    async with writing(sftp) as (storage, _):
        writer = await storage.begin_write("x", WriteOptions())
        await writer.write(DATA)
        while (token := writer.checkpoint()) is None or json.loads(token)["offset"] < 65536:
            await asyncio.sleep(0)
        await writer.write(DATA)
        await writer.suspend()
        sftp.hook = hook
        again = await storage.begin_write("x", WriteOptions(resume=token))
        try:
            await again.write(DATA[again.offset :])
            if spoils:
                with pytest.raises(IntegrityError, match="spoiling"):
                    await again.commit(Expect(size=len(DATA)))
            else:
                await again.commit(Expect(size=len(DATA)))
        finally:
            await again.abort()
    assert sftp.files == ({} if spoils else {b"/x": DATA})


async def test_staging_none_writes_under_the_final_name() -> None:
    sftp = FakeSftp(x=b"old")
    async with writing(sftp, staging="none") as (storage, _):
        assert not storage.capabilities.atomic_write and storage.capabilities.create_new
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
    async with writing(sftp, verify="none") as (storage, _):
        entry = await storage.write_bytes("x", DATA)
        assert entry.size == len(DATA)
    assert sftp.files == {b"/x": DATA}
    assert not set(sftp.seen) & set(looks)


@pytest.mark.parametrize("code", [3, 4, 8])
async def test_a_time_that_cannot_be_set_is_no_error(code: int) -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: status(code) if kind == c.FSETSTAT else None
    async with writing(sftp) as (storage, _):
        await storage.write_bytes("x", b"1", WriteOptions(modified=WHEN))
        await storage.write_bytes("y", b"1", WriteOptions(modified=datetime(1960, 1, 1, tzinfo=UTC)))
    assert sftp.seen.count(c.FSETSTAT) == 1 and len(sftp.files) == 2


@pytest.mark.parametrize("kind", [c.WRITE, c.CLOSE, c.EXTENDED, c.OPEN])
@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (FAILURE, CrossdockError),
        (status(4, b"No space left on device"), NoSpace),
        (status(14), NoSpace),
        (status(15), NoSpace),
        (status(3), PermissionDenied),
        (status(5), InvalidPath),
        (status(7), ConnectionFailed),
    ],
)
async def test_failures_publish_nothing_and_leave_nothing(
    kind: int, reply: tuple[int, bytes], error: type[CrossdockError]
) -> None:
    sftp = FakeSftp()
    sftp.hook = lambda found, body: reply if found == kind else None
    async with writing(sftp) as (storage, _):
        with pytest.raises(error):
            await storage.write_bytes("x", DATA)
        sftp.hook = None
        assert sftp.files == {}


async def test_a_full_disk_is_told_from_other_failures() -> None:
    sftp = FakeSftp()
    sftp.extensions = [(b"statvfs@openssh.com", b"2")]
    free = 0

    def full(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind == c.EXTENDED:
            numbers = [4096, 4096, 1000, free, free, 1000, 1000, 1000, 0, 0, 255]
            return c.EXTENDED_REPLY, b"".join(n.to_bytes(8, "big") for n in numbers)
        return FAILURE if kind == c.WRITE else None

    sftp.hook = full
    async with writing(sftp) as (storage, _):
        with pytest.raises(NoSpace):
            await storage.write_bytes("x", DATA)
        free = 500
        with pytest.raises(ProtocolViolation):
            await storage.write_bytes("x", DATA)


async def test_a_server_that_stores_less_is_found_out() -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: (c.ATTRS, U32.pack(1) + (5).to_bytes(8, "big")) if kind == c.FSTAT else None
    async with writing(sftp) as (storage, _):
        with pytest.raises(IntegrityError, match="the endpoint holds 5"):
            await storage.write_bytes("x", DATA)
        assert sftp.files == {}


async def test_folders_are_made_only_when_missing() -> None:
    sftp = FakeSftp()
    async with writing(sftp) as (storage, _):
        await storage.write_bytes("a/b/x", b"1")
        assert sftp.folders == {b"/", b"/a", b"/a/b"}
        sftp.seen.clear()
        await storage.write_bytes("a/b/y", b"1")
    assert not {c.MKDIR, c.STAT} & set(sftp.seen)


async def test_a_file_in_the_way_of_a_folder() -> None:
    sftp = FakeSftp(a=b"1")
    sftp.hook = lambda kind, body: FAILURE if kind == c.MKDIR else None
    async with writing(sftp) as (storage, _):
        with pytest.raises(NotADirectory):
            await storage.write_bytes("a/x", b"1")


async def test_resume_goes_on_where_the_server_is() -> None:
    sftp = FakeSftp()
    async with writing(sftp) as (storage, _):
        writer = await storage.begin_write("x", WriteOptions())
        await writer.write(DATA[:400_000])
        while (token := writer.checkpoint()) is None:
            await asyncio.sleep(0)
        await writer.suspend()
        assert sftp.files.keys() and not sftp.files.get(b"/x")
        token = writer.checkpoint() or token
        writer = await storage.begin_write("x", WriteOptions(resume=token))
        assert 0 < writer.offset <= 400_000
        await writer.write(DATA[writer.offset :])
        await writer.commit(Expect(size=len(DATA)))
        with pytest.raises(NotFound):
            await storage.begin_write("x", WriteOptions(resume=token))
        await storage.discard(token)
    assert sftp.files == {b"/x": DATA}


async def test_what_was_never_acknowledged_is_cut_off() -> None:
    sftp = FakeSftp()
    async with writing(sftp) as (storage, _):
        writer = await storage.begin_write("x", WriteOptions())
        await writer.write(DATA[:100_000])
        while (token := writer.checkpoint()) is None:
            await asyncio.sleep(0)
        await writer.suspend()
        (staged,) = leftovers(sftp)
        sftp.files[staged] += bytes(500_000)
        writer = await storage.begin_write("x", WriteOptions(resume=token))
        await writer.write(DATA[writer.offset : 150_000])
        await writer.commit(Expect(size=150_000))
    assert sftp.files == {b"/x": DATA[:150_000]}


@pytest.mark.parametrize("at", [0, 1, 32_768, 300_000, 690_000])
async def test_the_wire_cut_at_a_byte(at: int) -> None:
    sftp = FakeSftp(x=b"old")
    async with writing(sftp, window=64 * 1024, max_connections=1) as (storage, peer):
        got = 0

        def cut(kind: int, body: bytes) -> None:
            nonlocal got
            got += len(body) if kind == c.WRITE else 0
            if got > at:
                sftp.hook = None
                peer.connections[0].abort()

        sftp.hook = cut
        with pytest.raises(ConnectionFailed):
            await storage.write_bytes("x", DATA)
        assert sftp.files == {b"/x": b"old"}
        await storage.write_bytes("x", DATA)
    assert sftp.files == {b"/x": DATA}


async def test_a_failed_resume_keeps_what_is_staged_for_another() -> None:
    sftp = FakeSftp()
    async with writing(sftp) as (storage, _):
        writer = await storage.begin_write("x", WriteOptions())
        await writer.write(DATA[:400_000])
        while (token := writer.checkpoint()) is None:
            await asyncio.sleep(0)
        await writer.suspend()
        sftp.hook = lambda kind, body: status(3) if kind == c.OPEN else None
        with pytest.raises(PermissionDenied):
            await storage.begin_write("x", WriteOptions(resume=token))
        assert leftovers(sftp)
        await storage.discard(token)
        assert not leftovers(sftp)


@pytest.mark.parametrize("after", range(12))
async def test_cancelled_anywhere_leaves_nothing(after: int) -> None:
    sftp = FakeSftp()
    seen = 0
    task: asyncio.Task[object]

    def strike(kind: int, body: bytes) -> None:
        nonlocal seen
        seen += 1
        if seen == after + 1:
            task.cancel()

    async with writing(sftp, max_connections=1, window=64 * 1024) as (storage, _):
        sftp.hook = strike
        task = asyncio.ensure_future(storage.write_bytes("x", DATA[:200_000]))
        with pytest.raises(asyncio.CancelledError):
            await task
        sftp.hook = None
        with pytest.raises(NotFound):
            await storage.stat("y")
        assert leftovers(sftp) == []
        await storage.write_bytes("x", DATA)
        opened, closed = sftp.seen.count(c.OPEN), sftp.seen.count(c.CLOSE)
    assert sftp.files == {b"/x": DATA} and opened == closed


async def test_abort_after_the_connection_died_cleans_up_on_another() -> None:
    sftp = FakeSftp()
    async with writing(sftp) as (storage, peer):
        with pytest.raises(ConnectionFailed):
            async with storage.write("x") as writer:
                await writer.write(DATA)
                for connection in list(peer.connections):
                    connection.abort()
                for _ in range(100):
                    await writer.write(DATA)
        assert sftp.files == {}


async def test_abort_with_the_server_gone_does_not_hide_the_error() -> None:
    sftp = FakeSftp()
    async with writing(sftp) as (storage, _):
        sftp.hook = lambda kind, body: status(3) if kind in (c.WRITE, c.REMOVE) else None
        with pytest.raises(PermissionDenied, match="write fake:x"):
            await storage.write_bytes("x", DATA)
