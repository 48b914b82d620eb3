"""Servers that call all that goes wrong a failure, also that a name is not there."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from crossdock.errors import CrossdockError, NotADirectory, NotFound
from crossdock.storage.base import WriteOptions
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.sftp import codec as c
from crossdock.storage.sftp.codec import U32
from crossdock.storage.storage import Storage
from tests.engine.sync.trees import run
from tests.storage.sftp.fake_server import FakeSftp, status
from tests.storage.sftp.places import DATA, WHEN, leftovers, served

FAILED = status(c.FAILURE, b"Error (0x80004005)")
UNCLEAR = (c.NO_SUCH_FILE, c.PERMISSION_DENIED, c.OP_UNSUPPORTED, c.FAILURE)


class Vague(FakeSftp):
    def reply(self, kind: int, body: bytes) -> tuple[int, bytes] | bytes:
        found = super().reply(kind, body)
        if isinstance(found, tuple) and found[0] == c.STATUS and U32.unpack_from(found[1])[0] in UNCLEAR:
            return FAILED
        return found


@pytest.mark.parametrize(
    ("extensions", "changes"),
    [
        ([(b"posix-rename@openssh.com", b"1")], {}),
        ([], {}),
        ([], {"staging": "none"}),
    ],
)
async def test_what_is_missing_is_told_from_what_fails(
    extensions: list[tuple[bytes, bytes]], changes: dict[str, Any]
) -> None:
    sftp = Vague(there=b"old")
    sftp.extensions = extensions
    async with served(sftp, **changes) as (storage, _):
        for name in ("new", "there", "deep/er/new"):
            await storage.write_bytes(name, DATA, WriteOptions(modified=WHEN))
        assert not await storage.exists("gone") and not await storage.exists("deep/gone/x")
        for asked in (storage.read_bytes("gone"), storage.stat("no/folder"), storage.rename("gone", "x")):
            with pytest.raises(NotFound):
                await asked
        with pytest.raises(NotFound):
            assert [entry async for entry in storage.scan("gone")] == []
        with pytest.raises(NotADirectory):
            await storage.write_bytes("there/below", b"1")
        await storage.delete("gone")
        await storage.rename("new", "other")
        await storage.rename("other", "deep/moved", overwrite=True)
    assert sftp.files == {b"/there": DATA, b"/deep/er/new": DATA, b"/deep/moved": DATA}


async def test_what_it_describes_of_no_file_is_not_taken_for_missing() -> None:
    """It would be replaced, though that was forbidden."""
    sftp = Vague(there=b"old")
    sftp.extensions = []
    sftp.hook = lambda kind, body: FAILED if kind in (c.STAT, c.LSTAT) and c.take(body, 0)[0] in sftp.files else None
    async with served(sftp) as (storage, _):
        for _ in range(2):
            with pytest.raises(CrossdockError) as raised:
                await storage.exists("there")
            assert not isinstance(raised.value, NotFound)
    assert sftp.files == {b"/there": b"old"}


async def test_a_write_that_breaks_says_nothing_of_what_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    sftp = Vague()

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind != c.WRITE:
            return None
        sftp.files.pop(c.take(body, 0)[0])
        return status(14)

    sftp.hook = hook
    async with served(sftp) as (storage, _):
        with pytest.raises(CrossdockError, match="full"):
            await storage.write_bytes("x", b"1")
    assert "left behind" not in caplog.text and not leftovers(sftp)


async def test_that_no_time_is_set_is_found_out_with_a_file_that_is_there() -> None:
    """Asked at the start about a name that nobody has, it would have failed anyhow."""
    source, sftp = Storage(MemoryBackend("source")), Vague(x=b"old", y=b"old")
    for name in "xy":
        await source.write_bytes(name, b"old", WriteOptions(modified=WHEN))
        sftp.times[f"/{name}".encode()] = int(WHEN.timestamp()) + 5
    sftp.hook = lambda kind, _: FAILED if kind in (c.SETSTAT, c.FSETSTAT) else None
    async with served(sftp) as (storage, _):
        summary, _ = await run(source, storage)
        assert (summary.copied, summary.skipped) == (0, 2)
        assert storage.capabilities.mtime_precision is None
    assert sftp.times == {b"/x": int(WHEN.timestamp()) + 5, b"/y": int(WHEN.timestamp()) + 5}


async def test_where_neither_size_nor_time_is_told_nothing_is_taken_for_unchanged() -> None:
    source, sftp = Storage(MemoryBackend("source")), FakeSftp(a=b"old", b=b"same")
    sftp.attributes = c.A_PERMISSIONS
    for name, data in (("a", b"new"), ("b", b"same")):
        await source.write_bytes(name, data, WriteOptions(modified=WHEN))
    async with served(sftp) as (storage, _):
        _, outcomes = await run(source, storage, checksum=True)
        assert {path: one.reason for path, one in outcomes.items()} == {"a": "content differs", "b": "unchanged"}
        assert sftp.files == {b"/a": b"new", b"/b": b"same"}
        _, outcomes = await run(source, storage)
        assert {one.reason for one in outcomes.values()} == {"neither size nor time is told"}


@pytest.mark.parametrize("sized", [True, False])
async def test_reads_that_are_refused_for_their_number_are_made_one_at_a_time(*, sized: bool) -> None:
    """Each attempt would ask as before, and never come to an end."""
    sftp = FakeSftp(x=DATA, y=DATA)
    sftp.attributes = c.A_PERMISSIONS | (c.A_SIZE if sized else 0)
    refused: list[int] = []

    def hook(kind: int, _: bytes) -> tuple[int, bytes] | None:
        if kind != c.READ:
            return None
        # Of those that came together, which `bursts` holds once they are answered.
        given[len(sftp.bursts)] += 1
        if given[len(sftp.bursts)] <= 3:
            return None
        refused.append(kind)
        return status(c.FAILURE, b"too many outstanding requests")

    given: Counter[int] = Counter()
    sftp.hook = hook
    async with served(sftp) as (storage, _):
        assert await storage.read_bytes("x") == DATA
        before = len(refused)
        assert before
        assert await storage.read_bytes("y") == DATA
        assert len(refused) == before


async def test_a_read_that_fails_alone_as_well_is_told() -> None:
    sftp = FakeSftp(x=DATA)
    sftp.hook = lambda kind, body: (
        status(c.FAILURE, b"bad sector") if kind == c.READ and body[-12:-4] >= (200_000).to_bytes(8, "big") else None
    )
    async with served(sftp) as (storage, _):
        with pytest.raises(CrossdockError, match="bad sector"):
            await storage.read_bytes("x")
