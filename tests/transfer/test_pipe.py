"""The pipe between reader and writer, and the tally."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from crossdock.errors import Truncated
from crossdock.storage.base import Entry, Reader
from crossdock.transfer.pipe import Tally, pipe


class Chunks(Reader):
    """Gives the chunks, then the error or the end; counts how far it was read."""

    def __init__(self, chunks: list[bytes], error: Exception | None = None) -> None:
        self.entry = Entry(path="f", size=None)
        self.chunks, self.error, self.given = chunks, error, 0

    async def read(self) -> bytes:
        if self.given < len(self.chunks):
            self.given += 1
            return self.chunks[self.given - 1]
        if self.error is not None:
            raise self.error
        return b""

    async def close(self) -> None:
        pass


async def test_reads_ahead_of_a_slow_taker_but_no_further_than_its_depth() -> None:
    """Memory is bounded by the depth, however slow the writer."""
    reader = Chunks([bytes([n]) for n in range(50)])
    taken = []

    async def take(chunk: bytes) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        taken.append(chunk)
        # The chunk in hand, `depth` in the queue, one waiting to be queued.
        assert reader.given - len(taken) <= 3 + 1

    await pipe(reader, take, depth=3)
    assert b"".join(taken) == bytes(range(50))


async def test_reader_error_comes_after_the_bytes_before_it() -> None:
    taken = []

    async def take(chunk: bytes) -> None:
        taken.append(chunk)

    with pytest.raises(Truncated):
        await pipe(Chunks([b"a", b"b"], Truncated("short")), take)
    assert taken == [b"a", b"b"]


async def test_writer_error_stops_the_reading() -> None:
    reader = Chunks([b"x"] * 1000)

    async def take(chunk: bytes) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await pipe(reader, take)
    assert reader.given < 20


async def test_a_digest_of_what_could_not_be_taken_is_none() -> None:
    """Nobody may take that of the rest for it."""
    tally = Tally()
    await tally.feed("x" * 1_048_576)  # type: ignore[arg-type]
    for _ in range(3):
        await tally.feed(b"x" * 1_048_576)
    with pytest.raises(TypeError):
        await tally.sha256()


@pytest.mark.parametrize("size", [0, 1, 1000, 65_537, 1_048_576, 5_000_000])
async def test_tally_equals_hashlib(size: int) -> None:
    data = hashlib.shake_128(b"tally").digest(size)
    for step in (1_000_003, 262_144):
        tally = Tally()
        for start in range(0, size, step):
            await tally.feed(data[start : start + step])
        assert (tally.size, await tally.sha256()) == (size, hashlib.sha256(data).hexdigest())
