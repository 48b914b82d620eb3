"""Writing: requests in flight, what the server keeps of it, failures and cancelling."""

from __future__ import annotations

import asyncio
import struct
from datetime import UTC, datetime

import pytest

from crossdock.errors import (
    ConnectionFailed,
    CrossdockError,
    IntegrityError,
    InvalidPath,
    NoSpace,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    Throttled,
    TimedOut,
)
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.sftp import codec as c
from crossdock.storage.sftp.backend import SftpBackend
from crossdock.storage.sftp.codec import U32, text
from tests.storage.sftp.fake_server import FAILURE, OK, FakeSftp, status
from tests.storage.sftp.places import DATA, WHEN, leftovers, served


@pytest.mark.parametrize("openssh", [False, True])
async def test_the_round_trips_of_a_small_file(*, openssh: bool) -> None:
    """Three with OpenSSH; others, which may answer several requests at once, are not told to close before the rest."""
    sftp = FakeSftp()
    async with served(sftp) as (storage, _):
        backend = storage.backend
        assert isinstance(backend, SftpBackend)
        assert not backend.calls.openssh
        backend.calls.openssh = openssh
        sftp.bursts.clear()
        entry = await storage.write_bytes("x", b"small", WriteOptions(modified=WHEN))
    assert entry.size == 5
    first = [c.WRITE, c.FSETSTAT, c.EXTENDED, c.FSTAT]
    expected = [[*first, c.CLOSE]] if openssh else [[*first, c.LSTAT], [c.CLOSE]]
    assert sftp.bursts == [[c.OPEN], *expected, [c.EXTENDED]]
    assert sftp.files == {b"/x": b"small"}


@pytest.mark.parametrize("answer", [c.FAILURE, c.OP_UNSUPPORTED])
async def test_a_flush_that_fails_is_a_write_that_fails(answer: int) -> None:
    """The disk may not have it; a server that knows the word and not the deed is no news."""
    sftp = FakeSftp()
    fsync = text(b"fsync@openssh.com")
    sftp.hook = lambda kind, body: status(answer) if kind == c.EXTENDED and body.startswith(fsync) else None
    async with served(sftp) as (storage, _):
        if answer == c.FAILURE:
            with pytest.raises(CrossdockError):
                await storage.write_bytes("x", b"small")
        else:
            await storage.write_bytes("x", b"small")
    assert sftp.files == ({} if answer == c.FAILURE else {b"/x": b"small"})


async def test_a_new_file_is_opened_by_flags_that_fopen_knows() -> None:
    """Those of "wx": servers made with node's ssh2 refuse flags for which fopen(3) has no word."""
    sftp = FakeSftp()
    flags: list[int] = []

    def hook(kind: int, body: bytes) -> None:
        if kind == c.OPEN:
            flags.append(U32.unpack_from(body, c.take(body, 0)[1])[0])

    sftp.hook = hook
    async with served(sftp) as (storage, _):
        await storage.write_bytes("x", b"small")
    assert flags == [c.FOR_WRITING | c.CREATE | c.TRUNCATE | c.EXCLUSIVE]


async def test_what_a_server_describes_before_it_has_written_it_is_looked_at_again() -> None:
    """Go's pkg/sftp answers FSTAT and FSETSTAT while it still writes: size and time are those of the end."""
    sftp = FakeSftp()
    early = True

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        nonlocal early
        if kind == c.FSTAT and early:
            early = False
            return c.ATTRS, struct.pack(">IQII", c.A_SIZE | c.A_TIMES, 0, 5, 5)
        return OK if kind == c.FSETSTAT else None

    sftp.hook = hook
    async with served(sftp) as (storage, _):
        entry = await storage.write_bytes("x", b"small", WriteOptions(modified=WHEN))
        assert (entry.size, entry.modified) == (5, WHEN)
        assert (await storage.stat("x")).modified == WHEN


async def test_a_server_that_cannot_tell_a_late_time_is_not_given_one_again() -> None:
    """Apache MINA takes times after 2038, and ends the session when it is to tell one: the next attempt sets none."""
    sftp = FakeSftp()
    late = datetime(2040, 1, 1, tzinfo=UTC)
    async with served(sftp) as (storage, peer):

        def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
            if kind == c.FSTAT and any(told > 0x7FFFFFFF for told in sftp.times.values()):
                sftp.times.clear()
                peer.connections[-1].abort()
            return None

        sftp.hook = hook
        writer = await storage.begin_write("x", WriteOptions(modified=late))
        await writer.write(DATA)
        while not writer.checkpoint():
            await asyncio.sleep(0)
        with pytest.raises(ConnectionFailed):
            await writer.commit(Expect(size=len(DATA)))
        # To resume it is to ask for its time.
        assert writer.checkpoint() is None
        await writer.abort()
        await storage.write_bytes("x", b"small", WriteOptions(modified=late))
        assert sftp.files == {b"/x": b"small"}
        await storage.write_bytes("x", b"other", WriteOptions(modified=WHEN))
        assert sftp.times == {b"/x": WHEN.timestamp()}


async def test_a_server_that_is_known_to_tell_no_late_time_is_not_given_any() -> None:
    """It would not list the folder again, for nobody, as long as the file is there."""
    sftp = FakeSftp()
    sftp.extensions = [(b"acl-supported", b"")]
    async with served(sftp) as (storage, _):
        await storage.write_bytes("x", b"small", WriteOptions(modified=datetime(2040, 1, 1, tzinfo=UTC)))
        assert sftp.files == {b"/x": b"small"} and sftp.times == {}
        await storage.write_bytes("x", b"other", WriteOptions(modified=WHEN))
        assert sftp.times == {b"/x": WHEN.timestamp()}


async def test_a_large_file_is_written_in_order() -> None:
    sftp = FakeSftp()
    offsets: list[int] = []

    def note(kind: int, body: bytes) -> None:
        if kind == c.WRITE:
            _, at = c.take(body, 0)
            offsets.append(int.from_bytes(body[at : at + 8], "big"))

    sftp.hook = note
    async with served(sftp, window=64 * 1024) as (storage, _):
        async with storage.write("x") as writer:
            for at in range(0, len(DATA), 10_000):
                await writer.write(DATA[at : at + 10_000])
            await writer.commit(Expect(size=len(DATA)))
    assert len(offsets) > 10 and offsets == sorted(offsets)
    assert sftp.files == {b"/x": DATA}


async def test_a_server_that_does_not_acknowledge_slows_the_writer() -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: b"" if kind == c.WRITE else None
    async with served(sftp, window=64 * 1024, timeout=0.3) as (storage, _):
        accepted = 0
        with pytest.raises(TimedOut):
            async with storage.write("x") as writer:
                for at in range(0, len(DATA), 10_000):
                    await writer.write(DATA[at : at + 10_000])
                    accepted = at + 10_000
        assert accepted <= 64 * 1024 + 32 * 1024 + 10_000
        assert sftp.files == {}


async def test_what_could_not_be_opened_is_not_removed(caplog: pytest.LogCaptureFixture) -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: status(3) if kind in (c.OPEN, c.REMOVE) else None
    async with served(sftp) as (storage, _):
        with pytest.raises(PermissionDenied):
            await storage.write_bytes("x", b"1")
    assert c.REMOVE not in sftp.seen
    assert "left behind" not in caplog.text


async def test_what_could_not_be_opened_for_want_of_a_folder_is_not_removed(caplog: pytest.LogCaptureFixture) -> None:
    """As at a server that is read-only."""
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: status(3) if kind in (c.MKDIR, c.REMOVE) else status(2) if kind == c.OPEN else None
    async with served(sftp) as (storage, _):
        with pytest.raises(PermissionDenied):
            await storage.write_bytes("new/x", b"1")
    assert c.MKDIR in sftp.seen and c.REMOVE not in sftp.seen
    assert "left behind" not in caplog.text


async def test_a_time_that_no_open_file_takes_is_given_by_name() -> None:
    sftp = FakeSftp()
    stamped = []

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind == c.SETSTAT and c.take(body, 0)[0] in sftp.files:
            stamped.append(body)
            return OK
        return FAILURE if kind == c.FSETSTAT else None

    sftp.hook = hook
    async with served(sftp) as (storage, _):
        await storage.write_bytes("x", b"new", WriteOptions(modified=datetime.fromtimestamp(1_000_000_000, UTC)))
    (body,) = stamped
    name, at = c.take(body, 0)
    assert name.startswith(b"/.crossdock-")
    assert body[at:] == c.times(1_000_000_000)


@pytest.mark.parametrize("code", [3, 4, 8])
async def test_a_time_that_cannot_be_set_is_no_error(code: int) -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: status(code) if kind == c.FSETSTAT else None
    async with served(sftp) as (storage, _):
        await storage.write_bytes("x", b"1", WriteOptions(modified=WHEN))
    assert sftp.seen.count(c.FSETSTAT) == 1 and len(sftp.files) == 1


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
    async with served(sftp) as (storage, _):
        with pytest.raises(error):
            await storage.write_bytes("x", DATA)
        sftp.hook = None
        assert sftp.files == {}


async def test_a_full_disk_is_told_from_other_failures() -> None:
    sftp = FakeSftp()
    sftp.extensions = [(b"statvfs@openssh.com", b"2")]
    free, told = 0, 11

    def full(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind == c.EXTENDED:
            numbers = [4096, 4096, 1000, free, free, 1000, 1000, 1000, 0, 0, 255]
            return c.EXTENDED_REPLY, b"".join(n.to_bytes(8, "big") for n in numbers[:told])
        return FAILURE if kind == c.WRITE else None

    sftp.hook = full
    async with served(sftp) as (storage, _):
        with pytest.raises(NoSpace):
            await storage.write_bytes("x", DATA)
        free = 500
        with pytest.raises(ProtocolViolation):
            await storage.write_bytes("x", DATA)
        told = 3
        with pytest.raises(ProtocolViolation):
            await storage.write_bytes("x", DATA)


async def test_a_server_that_stores_less_is_found_out() -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: (
        (c.ATTRS, U32.pack(1) + (5).to_bytes(8, "big")) if kind in (c.FSTAT, c.LSTAT) else None
    )
    async with served(sftp) as (storage, _):
        with pytest.raises(IntegrityError, match="the endpoint holds 5"):
            await storage.write_bytes("x", DATA)
        assert sftp.files == {}


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

    async with served(sftp, max_connections=1, window=64 * 1024) as (storage, _):
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
    async with served(sftp) as (storage, peer):
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
    async with served(sftp) as (storage, _):
        sftp.hook = lambda kind, body: status(3) if kind in (c.WRITE, c.REMOVE) else None
        with pytest.raises(PermissionDenied, match="write fake:x"):
            await storage.write_bytes("x", DATA)


@pytest.mark.parametrize("kind", [c.OPEN, c.OPENDIR])
async def test_a_server_with_too_many_open_files_is_busy(kind: int) -> None:
    sftp = FakeSftp(x=b"x")
    sftp.hook = lambda asked, body: status(4, b"Too many open handles") if asked == kind else None
    async with served(sftp) as (storage, _):
        with pytest.raises(Throttled) as caught:
            await (storage.write_bytes("y", b"y") if kind == c.OPEN else anext(storage.scan("")))
    assert "streams_per_connection" in str(caught.value.hint)


async def test_what_is_missing_is_deleted_where_nothing_may_be() -> None:
    sftp = FakeSftp(x=b"old")
    sftp.hook = lambda kind, body: status(3) if kind == c.REMOVE else None
    async with served(sftp) as (storage, _):
        await storage.delete("missing")
        with pytest.raises(PermissionDenied):
            await storage.delete("x")
    assert sftp.files[b"/x"] == b"old"
