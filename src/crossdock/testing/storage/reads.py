"""Reading: exactly the bytes, or an error; never fewer in silence."""

from __future__ import annotations

import asyncio

import pytest

from crossdock.errors import ConnectionFailed, NotFound, SourceChanged, Truncated
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.storage import Storage
from crossdock.testing.storage.base import (
    KIB,
    LONG_AGO,
    MIB,
    Peer,
    SuiteBase,
    at_once,
    content,
    read_all,
    same,
    unsupported,
    write,
)

SIZES = [n + d for n in (32 * KIB, 255 * KIB, 256 * KIB, MIB, 8 * MIB) for d in (-1, 0, 1)]
DATA = content(3 * MIB + 17)


class ReadCases(SuiteBase):
    @pytest.mark.parametrize("offset", [0, 1, 32 * KIB, MIB, MIB + 1, len(DATA) - 1, len(DATA)])
    async def test_reading_starts_at_the_offset(self, storage: Storage, offset: int) -> None:
        """From `offset` to the end: those bytes exactly; at the end, none."""
        await storage.write_bytes("name", DATA)
        if offset and not storage.capabilities.read_offset:
            await unsupported(storage.read("name", offset=offset).__aenter__())
            return
        async with storage.read("name", offset=offset) as reader:
            assert reader.entry.size == len(DATA)
            assert same(await read_all(reader), DATA[offset:])

    async def test_reading_past_the_end_gives_no_bytes(self, storage: Storage) -> None:
        """There is nothing there: the end, or Truncated; never a byte."""
        await storage.write_bytes("name", b"12345")
        if not storage.capabilities.read_offset:
            return
        for offset in (6, 10**12):
            try:
                async with storage.read("name", offset=offset) as reader:
                    assert await read_all(reader) == b""
            except Truncated:
                pass

    async def test_an_empty_file_is_empty(self, storage: Storage, peer: Peer | None) -> None:
        """No bytes, twice the end, and size 0, however it was made."""
        await storage.write_bytes("one", b"")
        await write(storage, "two", b"")
        for name in ("one", "two"):
            await self.holds(storage, peer, name, b"")
            async with storage.read(name) as reader:
                assert (reader.entry.size, await reader.read(), await reader.read()) == (0, b"", b"")

    async def test_the_reader_tells_what_it_opened(self, storage: Storage) -> None:
        """`Reader.entry` is the file as `stat` tells it, so that a stream can be checked against it."""
        await storage.write_bytes("name", DATA, WriteOptions(modified=LONG_AGO))
        stat = await storage.stat("name")
        async with storage.read("name") as reader:
            assert (reader.entry.path, reader.entry.size) == ("name", len(DATA))
            assert reader.entry.fingerprint == stat.fingerprint

    async def test_a_pinned_file_is_read(self, storage: Storage) -> None:
        """`pin` as stat tells it: the same file opens, at every offset."""
        await storage.write_bytes("name", DATA)
        pin = await storage.stat("name")
        async with storage.read("name", pin=pin) as reader:
            assert same(await read_all(reader), DATA)
        if storage.capabilities.read_offset:
            async with storage.read("name", pin=pin, offset=MIB) as reader:
                assert same(await read_all(reader), DATA[MIB:])

    @pytest.mark.parametrize("size", [len(DATA), 10], ids=["same size", "shorter"])
    async def test_a_pinned_file_that_changed_is_refused(self, storage: Storage, size: int) -> None:
        """A file replaced since it was listed is SourceChanged, before any of its bytes is passed on."""
        pin = await storage.write_bytes("name", DATA, WriteOptions(modified=LONG_AGO))
        await storage.write_bytes("name", content(size, 1))
        with pytest.raises(SourceChanged):
            async with storage.read("name", pin=pin) as reader:
                await reader.read()

    async def test_a_pinned_file_that_is_gone(self, storage: Storage) -> None:
        """NotFound, or SourceChanged; never an empty stream."""
        pin = await storage.write_bytes("name", DATA)
        await storage.delete("name")
        with pytest.raises((NotFound, SourceChanged)):
            async with storage.read("name", pin=pin) as reader:
                await reader.read()

    async def test_readers_do_not_disturb_each_other(self, storage: Storage) -> None:
        """Three streams over one file and a fourth over another, chunk by chunk in turns."""
        await storage.write_bytes("one", DATA)
        await storage.write_bytes("two", content(2 * MIB, 2))
        async with (
            storage.read("one") as a,
            storage.read("one") as b,
            storage.read("two") as c,
        ):
            readers, found = [a, b, c], [b"", b"", b""]
            while any(parts := await asyncio.gather(*(reader.read() for reader in readers))):
                found = [before + part for before, part in zip(found, parts, strict=True)]
        assert same(found[0], DATA)
        assert same(found[1], DATA)
        assert same(found[2], content(2 * MIB, 2))

    async def test_closing_midway_gives_everything_back(self, storage: Storage) -> None:
        """A reader left early holds nothing: fifty more find their way, and the fifty-first reads all."""
        await storage.write_bytes("name", DATA)
        for number in range(50):
            async with storage.read("name") as reader:
                if number % 2:
                    assert await reader.read()
                await reader.close()
        async with storage.read("name") as reader:
            assert same(await read_all(reader), DATA)

    async def test_closing_after_the_endpoint_was_closed(self, storage: Storage) -> None:
        """Quiet, and safe to repeat: whoever ends everything need not know in which order."""
        await storage.write_bytes("name", DATA)
        reader = await storage.backend.begin_read("name")
        assert await reader.read()
        await storage.close()
        for _ in range(2):
            await reader.close()
        await storage.__aenter__()
        assert same(await storage.read_bytes("name", limit=len(DATA)), DATA)

    async def test_a_file_replaced_under_the_reader(self, storage: Storage) -> None:
        """An open stream gives the file that was opened, whole, or an error; never a mixture, never fewer bytes."""
        data = content(self.large_size)
        await storage.write_bytes("name", data)
        try:
            async with storage.read("name") as reader:
                found = await reader.read()
                await storage.write_bytes("name", content(1000, 3))
                found += await read_all(reader)
        except SourceChanged:
            return
        except (NotFound, Truncated, ConnectionFailed):
            # Even then, nothing half-read may be taken for the file.
            assert not storage.capabilities.pinned_reads
            return
        assert same(found, data)

    async def test_a_file_deleted_under_the_reader(self, storage: Storage) -> None:
        """The same for a file that is deleted."""
        data = content(self.large_size)
        await storage.write_bytes("name", data)
        try:
            async with storage.read("name") as reader:
                found = await reader.read()
                await storage.delete("name")
                found += await read_all(reader)
        except (SourceChanged, NotFound, Truncated, ConnectionFailed):
            return
        assert same(found, data)

    async def test_a_file_cut_under_the_reader(self, storage: Storage, peer: Peer | None) -> None:
        """A file that is cut in place while it is read is an error, unless all of it was on its way already."""
        if peer is None:
            return
        data = content(self.large_size)
        peer.write("name", data)
        try:
            async with storage.read("name") as reader:
                found = await reader.read()
                peer.write("name", data[:100])
                found += await read_all(reader)
        except (Truncated, SourceChanged):
            return
        assert same(found, data)

    async def test_a_file_growing_under_the_reader(self, storage: Storage, peer: Peer | None) -> None:
        """A file that grows is read to an end there was, old or new, or is SourceChanged.

        Or Truncated: written anew in place, it is shorter for a moment.
        """
        if peer is None:
            return
        data, more = content(MIB), content(MIB, 1)
        peer.write("name", data)
        try:
            async with storage.read("name") as reader:
                found = await reader.read()
                peer.write("name", data + more)
                found += await read_all(reader)
        except (SourceChanged, Truncated):
            return
        assert found == data or same(found, data + more)


class SizeCases(SuiteBase):
    @pytest.mark.parametrize("size", [0, 1, 2, 100, *SIZES])
    async def test_sizes(self, storage: Storage, peer: Peer | None, size: int) -> None:
        """Sizes about the edges of chunks, windows and parts come back byte for byte."""
        data = content(size)
        entry = await storage.write_bytes("name", data)
        assert entry.size == size
        await self.holds(storage, peer, "name", data)

    @pytest.mark.parametrize("chunk", [1000, 32 * KIB + 1, 255 * KIB, 300 * KIB, MIB, 3 * MIB])
    async def test_chunks(self, storage: Storage, peer: Peer | None, chunk: int) -> None:
        """However the bytes arrive at the writer, they leave it in order."""
        data = content(2 * MIB + 33)
        await write(storage, "name", data, chunk=chunk)
        await self.holds(storage, peer, "name", data)

    async def test_single_bytes(self, storage: Storage, peer: Peer | None) -> None:
        """The smallest chunk, many times, with an empty one now and then."""
        data = content(2000)
        async with storage.write("name") as writer:
            for at in range(len(data)):
                await writer.write(data[at : at + 1])
                if at % 500 == 0:
                    await writer.write(b"")
            await writer.commit(Expect(size=len(data)))
        await self.holds(storage, peer, "name", data)

    @pytest.mark.parametrize("declared", [True, False], ids=["size known", "size unknown"])
    async def test_a_large_file(self, storage: Storage, peer: Peer | None, declared: bool) -> None:
        """Larger than every buffer of the backend, with and without its size known beforehand."""
        data = content(self.large_size)
        options = WriteOptions(size=len(data) if declared else None)
        await write(storage, "name", data, chunk=MIB, options=options)
        await self.holds(storage, peer, "name", data)

    @pytest.mark.parametrize(
        "data",
        [
            bytes(2 * MIB + 1),
            b"\xff" * (MIB + 1),
            b"a;b\r\nc;d\n\r\x1a\x00\xff" * 20000,
            b"\n" * (256 * KIB + 1),
            b"\r\n",
            b"\x1a",
            b"\xef\xbb\xbftext",
        ],
        ids=["zeros", "ones", "mixed lines", "newlines", "crlf", "ctrl-z", "bom"],
    )
    async def test_content_is_not_looked_at(self, storage: Storage, peer: Peer | None, data: bytes) -> None:
        """Holes, line ends, byte order marks and end-of-file marks are bytes like any other."""
        await write(storage, "name", data)
        await self.holds(storage, peer, "name", data)

    async def test_what_others_wrote_is_read(self, storage: Storage, peer: Peer | None) -> None:
        """Files that crossdock did not make, at the same sizes."""
        if peer is None:
            return
        for size in (0, 1, 256 * KIB, MIB, MIB + 1, 3 * MIB):
            peer.write(f"theirs/{size}", content(size))
            assert same(await storage.read_bytes(f"theirs/{size}"), content(size))


class ConcurrencyCases(SuiteBase):
    async def test_sixteen_at_once(self, storage: Storage, peer: Peer | None) -> None:
        """Sixteen writes in parallel, then sixteen reads: each file has its own bytes."""
        files = {f"folder{seed % 3}/f{seed}": content(300 * KIB + seed, seed) for seed in range(16)}
        await asyncio.gather(*(write(storage, path, data) for path, data in files.items()))
        found = await asyncio.gather(*(storage.read_bytes(path) for path in files))
        for path, data in zip(files, found, strict=True):
            assert same(data, files[path])
        assert await self.names(storage, peer) == set(files)

    async def test_reads_writes_and_listings_mix(self, storage: Storage) -> None:
        """All kinds of operations at once, each with its own answer."""
        data = content(100 * KIB)
        for number in range(4):
            await storage.write_bytes(f"old/{number}", data)

        async def one(number: int) -> None:
            await storage.write_bytes(f"new/{number}", content(50 * KIB, number))
            assert await storage.read_bytes(f"new/{number}") == content(50 * KIB, number)
            assert await storage.read_bytes(f"old/{number % 4}") == data
            assert {entry.path async for entry in storage.scan("old")} == {f"old/{n}" for n in range(4)}
            await storage.delete(f"new/{number}")
            assert not await storage.exists(f"new/{number}")

        await asyncio.gather(*(one(number) for number in range(12)))
        assert {entry.path async for entry in storage.walk()} == {f"old/{n}" for n in range(4)}

    async def test_many_small_files(self, storage: Storage, peer: Peer | None) -> None:
        """Two hundred small files, eight at a time."""
        files = {f"many/{number:03}.csv": f"row {number}\r\n".encode() * (number % 7) for number in range(200)}
        await at_once(8, [storage.write_bytes(path, data) for path, data in files.items()])
        found = await at_once(8, [storage.read_bytes(path) for path in files])
        assert found == list(files.values())
        assert await self.names(storage, peer) == set(files)
        if peer is not None:
            assert {path: peer.read(path) for path in files} == files
