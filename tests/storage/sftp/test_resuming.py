"""Writes that go on where another has ended."""

from __future__ import annotations

import asyncio
import json
import struct
import uuid

import pytest

from crossdock.errors import ConnectionFailed, IntegrityError, NotFound, Throttled, Unsupported
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.sftp import SftpSettings
from crossdock.storage.sftp import codec as c
from crossdock.storage.storage import Storage
from crossdock.transfer.copy import CopyOptions, copy
from tests.engine.sync.trees import filled
from tests.servers import OpenSSH
from tests.storage.sftp.fake_server import OK, FakeSftp, status
from tests.storage.sftp.places import DATA, leftovers, served


async def suspended(storage: Storage, data: bytes) -> bytes:
    """The token of a write to "x" that was given up after the server had acknowledged some of `data`."""
    writer = await storage.begin_write("x", WriteOptions())
    await writer.write(data)
    while (token := writer.checkpoint()) is None:
        await asyncio.sleep(0)
    await writer.suspend()
    return token


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

    async with served(sftp) as (storage, _):
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


@pytest.mark.parametrize("staged", [DATA[:400_000], bytes(400_000)], ids=["bytes", "zeros"])
async def test_a_server_that_loses_what_was_staged_publishes_nothing_of_it(staged: bytes) -> None:
    """SeaweedFS makes a new file of what each handle has written: as long as it should be, and zeros before that."""
    sftp = FakeSftp()
    data = staged + DATA[400_000:]
    async with served(sftp) as (storage, _):
        token = await suspended(storage, staged)

        def hook(kind: int, body: bytes) -> None:
            if kind == c.OPEN:
                name, at = c.take(body, 0)
                if c.U32.unpack_from(body, at)[0] & (c.FOR_WRITING | c.CREATE) == c.FOR_WRITING:
                    sftp.files[name] = bytearray(len(sftp.files.get(name, b"")))

        sftp.hook = hook
        if any(staged):
            writer = await storage.begin_write("x", WriteOptions(resume=token))
            await writer.write(data[writer.offset :])
            with pytest.raises(IntegrityError, match="does not keep what was staged"):
                await writer.commit(Expect(size=len(data)))
            await writer.abort()
            assert not storage.capabilities.resume_write
            with pytest.raises(Unsupported):
                await storage.begin_write("x", WriteOptions(resume=token))
        else:
            with pytest.raises(NotFound, match="zeros"):
                await storage.begin_write("x", WriteOptions(resume=token))
            with pytest.raises(NotFound, match="are gone"):
                await storage.begin_write("x", WriteOptions(resume=token))
        assert sftp.files == {}
        await storage.write_bytes("x", data)
    assert sftp.files == {b"/x": data}


async def test_resume_goes_on_where_the_server_is() -> None:
    sftp = FakeSftp()
    async with served(sftp) as (storage, _):
        token = await suspended(storage, DATA[:400_000])
        assert sftp.files.keys() and not sftp.files.get(b"/x")
        writer = await storage.begin_write("x", WriteOptions(resume=token))
        assert 0 < writer.offset <= 400_000
        await writer.write(DATA[writer.offset :])
        await writer.commit(Expect(size=len(DATA)))
        with pytest.raises(NotFound):
            await storage.begin_write("x", WriteOptions(resume=token))
        await storage.discard(token)
    assert sftp.files == {b"/x": DATA}


async def test_a_server_that_has_lost_what_it_acknowledged() -> None:
    """Gone on with, the file would have a hole."""
    sftp = FakeSftp()
    async with served(sftp) as (storage, _):
        token = await suspended(storage, DATA[:400_000])
        (staged,) = leftovers(sftp)
        del sftp.files[staged][10:]
        storage.backend.calls.openssh = True  # type: ignore[attr-defined]
        with pytest.raises(NotFound, match=r"10 of \d+ staged bytes are left"):
            await storage.begin_write("x", WriteOptions(resume=token))
    assert sftp.files == {}


async def test_what_was_never_acknowledged_is_cut_off() -> None:
    sftp = FakeSftp()
    async with served(sftp) as (storage, _):
        token = await suspended(storage, DATA[:100_000])
        (staged,) = leftovers(sftp)
        sftp.files[staged] += bytes(500_000)
        writer = await storage.begin_write("x", WriteOptions(resume=token))
        await writer.write(DATA[writer.offset : 150_000])
        await writer.commit(Expect(size=150_000))
    assert sftp.files == {b"/x": DATA[:150_000]}


@pytest.mark.parametrize("at", [0, 1, 32_768, 300_000, 690_000])
async def test_the_wire_cut_at_a_byte(at: int) -> None:
    sftp = FakeSftp(x=b"old")
    async with served(sftp, window=64 * 1024, max_connections=1) as (storage, peer):
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


async def test_a_write_that_was_suspended_or_not_resumed_keeps_no_connection() -> None:
    """A read waits for one with room, a write does not."""
    sftp = FakeSftp(y=DATA)
    async with served(sftp, max_connections=1, streams_per_connection=1) as (storage, _), asyncio.timeout(30):
        token = await suspended(storage, DATA)
        assert await storage.read_bytes("y") == DATA
        sftp.hook = lambda kind, body: status(4, b"Too many open files") if kind == c.OPEN else None
        with pytest.raises(Throttled):
            await storage.begin_write("x", WriteOptions(resume=token))
        sftp.hook = None
        assert await storage.read_bytes("y") == DATA


async def test_a_failed_resume_keeps_what_is_staged_for_another() -> None:
    sftp = FakeSftp()
    async with served(sftp) as (storage, _):
        token = await suspended(storage, DATA[:400_000])
        sftp.hook = lambda kind, body: status(4, b"Too many open files") if kind == c.OPEN else None
        with pytest.raises(Throttled):
            await storage.begin_write("x", WriteOptions(resume=token))
        assert leftovers(sftp)
        await storage.discard(token)
        assert not leftovers(sftp)


@pytest.mark.parametrize("code", [3, 4, 8])
async def test_a_server_that_opens_nothing_twice_gets_the_file_from_the_first_byte(code: int) -> None:
    """In front of object stores nothing is opened to be changed (AWS Transfer Family, Azure). Nothing is left."""
    sftp = FakeSftp()
    source = await filled("source", {"x": DATA})
    async with served(sftp) as (storage, _):
        token = await suspended(storage, DATA[:400_000])

        def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
            if kind != c.OPEN:
                return None
            _, at = c.take(body, 0)
            flags = c.U32.unpack_from(body, at)[0]
            changes = flags & c.FOR_WRITING and not flags & c.CREATE
            return status(code, b"Cannot open file in mode: WRITE") if changes else None

        sftp.hook = hook
        receipt = await copy(source, "x", storage, "x", options=CopyOptions(resume=token))
        assert receipt.notes == ("the target does not resume writes; started from the first byte",)
        assert not storage.capabilities.resume_write, "found out"
    assert sftp.files == {b"/x": DATA}


@pytest.mark.parametrize("readable", [False, True])
async def test_what_is_staged_is_opened_in_a_way_that_does_not_empty_it(*, readable: bool) -> None:
    """Erlang's server empties what is opened for writing alone; where reading is forbidden, that has to do."""
    sftp = FakeSftp()
    async with served(sftp) as (storage, _):
        token = await suspended(storage, DATA[:400_000])

        def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
            if kind != c.OPEN:
                return None
            name, at = c.take(body, 0)
            reads = bool(c.U32.unpack_from(body, at)[0] & c.FOR_READING)
            if readable and not reads:
                sftp.files[name].clear()
            return status(3) if reads and not readable else None

        sftp.hook = hook
        writer = await storage.begin_write("x", WriteOptions(resume=token))
        await writer.write(DATA[writer.offset :])
        await writer.commit(Expect(size=len(DATA)))
    assert sftp.files == {b"/x": DATA}


async def test_a_server_without_fstat_is_asked_by_name_what_is_staged() -> None:
    sftp = FakeSftp()
    async with served(sftp) as (storage, _):
        token = await suspended(storage, DATA[:400_000])
        sftp.hook = lambda kind, body: status(8) if kind == c.FSTAT else None
        writer = await storage.begin_write("x", WriteOptions(resume=token))
        await writer.write(DATA[writer.offset :])
        await writer.commit(Expect(size=len(DATA)))
    assert sftp.files == {b"/x": DATA}


@pytest.mark.parametrize("fsync", [True, False])
async def test_what_was_not_flushed_may_be_gone_for_other_reasons(openssh: OpenSSH, *, fsync: bool) -> None:
    """A machine that loses its power forgets it: it was not published for all that."""
    folder = openssh.folder / uuid.uuid4().hex
    folder.mkdir()
    settings = SftpSettings.model_validate(openssh.settings(root=str(folder), fsync=fsync))
    async with Storage(settings.backend("server")) as storage, storage.write("x") as writer:
        await writer.write(b"data")
        token = await writer.seal(Expect(size=4))
        assert token is not None
        assert await storage.is_staged(token) is True
        for left in folder.iterdir():
            left.unlink()
        assert await storage.is_staged(token) is (False if fsync else None)
