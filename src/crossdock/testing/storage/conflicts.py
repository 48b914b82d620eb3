"""Several attempts at one name, copies within a store, and what is done to a pinned file only."""

from __future__ import annotations

import asyncio
import re

import pytest

from crossdock.errors import (
    AlreadyExists,
    CrossdockError,
    NotFound,
    SourceChanged,
    Unsupported,
)
from crossdock.storage.base import Entry, Expect, WriteOptions
from crossdock.storage.storage import Storage
from crossdock.testing.storage.base import (
    KIB,
    MIB,
    Peer,
    SuiteBase,
    content,
    unsupported,
    write,
)

OLD, NEW = b"what was there before", content(3 * MIB + 17)
CREATE = WriteOptions(overwrite=False)


class ConflictCases(SuiteBase):
    async def test_overwrite_replaces(self, storage: Storage, peer: Peer | None) -> None:
        """Longer, shorter and empty: nothing of the old content remains."""
        for data in (OLD, NEW, b"x", b"", content(5000, 1)):
            await storage.write_bytes("name", data)
            await self.holds(storage, peer, "name", data)
        assert await self.names(storage, peer) == {"name"}

    async def test_a_reader_never_sees_a_mixture(self, storage: Storage) -> None:
        """While a file is replaced again and again, each read gives one version, whole."""
        versions = [content(200 * KIB + seed, seed) for seed in range(4)]
        await storage.write_bytes("name", versions[0])
        done, reads = False, 0

        async def poll() -> None:
            nonlocal reads
            while not done:
                try:
                    found = await storage.read_bytes("name")
                except SourceChanged:
                    continue
                except NotFound:
                    # Where the old file has to step aside first, there may be none for a moment.
                    assert not storage.capabilities.atomic_write
                    continue
                assert found in versions
                reads += 1
                await asyncio.sleep(0)

        polling = asyncio.create_task(poll())
        try:
            # At least 12 times, and until one read has come through, which a new connection may take its time for.
            for turn in range(240):
                await storage.write_bytes("name", versions[turn % 4])
                await asyncio.sleep(0)
                if turn % 4 == 3 and turn >= 11 and (reads or polling.done()):
                    break
        finally:
            done = True
            await polling
        assert reads > 0
        assert await storage.read_bytes("name") == versions[3]

    async def test_create_does_not_replace(self, storage: Storage, peer: Peer | None) -> None:
        """`overwrite=False` on a name that is taken: AlreadyExists, and what has it stays."""
        await storage.write_bytes("name", OLD)
        if not storage.capabilities.create_new:
            await unsupported(storage.write_bytes("name", b"mine", CREATE))
        else:
            for data in (b"", b"mine", NEW):
                with pytest.raises(AlreadyExists):
                    await write(storage, "name", data, options=CREATE)
        await self.holds(storage, peer, "name", OLD)
        assert await self.names(storage, peer) == {"name"}

    async def test_create_makes_a_new_file(self, storage: Storage, peer: Peer | None) -> None:
        """`overwrite=False` on a free name is a write like any other."""
        for number, data in enumerate((b"", b"mine", NEW)):
            if not storage.capabilities.create_new:
                await unsupported(storage.write_bytes(f"a/{number}", data, CREATE))
            else:
                await write(storage, f"a/{number}", data, options=CREATE)
                await self.holds(storage, peer, f"a/{number}", data)

    async def test_create_is_decided_at_the_end_as_well(self, storage: Storage, peer: Peer | None) -> None:
        """A file that appeared under the name during the write is not replaced."""
        if not storage.capabilities.create_new:
            await unsupported(storage.write_bytes("name", NEW, CREATE))
            return
        with pytest.raises(AlreadyExists):
            async with storage.write("name", CREATE) as writer:
                await writer.write(NEW)
                await storage.write_bytes("name", OLD)
                await writer.commit(Expect(size=len(NEW)))
        await self.holds(storage, peer, "name", OLD)
        assert await self.names(storage, peer) == {"name"}

    @pytest.mark.parametrize("size", [0, 1000, 2 * MIB], ids=["empty", "small", "large"])
    async def test_of_two_creators_one_wins(self, storage: Storage, peer: Peer | None, size: int) -> None:
        """Two writers create the same name at once: one succeeds, the other is told, and the bytes are the winner's."""
        if not storage.capabilities.create_new:
            await unsupported(storage.write_bytes("name", b"x", CREATE))
            return
        for turn in range(5):
            path = f"name{turn}"
            versions = [content(size, seed) + bytes([seed]) for seed in (1, 2)]
            writers = [await storage.begin_write(path, CREATE) for _ in versions]
            try:
                for writer, version in zip(writers, versions, strict=True):
                    await writer.write(version)
                results = await asyncio.gather(
                    *(writer.commit(Expect(size=size + 1)) for writer in writers), return_exceptions=True
                )
            finally:
                await asyncio.gather(*(writer.abort() for writer in writers))
            won = [number for number, result in enumerate(results) if isinstance(result, Entry)]
            assert len(won) == 1, results
            assert isinstance(results[1 - won[0]], AlreadyExists)
            await self.holds(storage, peer, path, versions[won[0]])
        assert await self.names(storage, peer) == {f"name{turn}" for turn in range(5)}

    async def test_two_writers_never_interleave(self, storage: Storage, peer: Peer | None) -> None:
        """Chunks of two attempts at one name, in turns: what is published last is there, whole; never a mixture."""
        versions = [content(2 * MIB, 1), content(2 * MIB + 5, 2)]
        first = await storage.begin_write("name", WriteOptions())
        second = await storage.begin_write("name", WriteOptions())
        try:
            for at in range(0, 2 * MIB + 5, 300 * KIB):
                for writer, version in ((first, versions[0]), (second, versions[1])):
                    if part := version[at : at + 300 * KIB]:
                        await writer.write(part)
            await second.commit(Expect(size=len(versions[1])))
            await self.holds(storage, peer, "name", versions[1])
            await first.commit(Expect(size=len(versions[0])))
        finally:
            await asyncio.gather(first.abort(), second.abort())
        await self.holds(storage, peer, "name", versions[0])
        assert await self.names(storage, peer) == {"name"}

    async def test_aborting_one_attempt_spares_the_other(self, storage: Storage, peer: Peer | None) -> None:
        """An attempt cleans up after itself alone."""
        first = await storage.begin_write("name", WriteOptions())
        second = await storage.begin_write("name", WriteOptions())
        try:
            await first.write(NEW)
            await second.write(content(2 * MIB, 2))
            await first.abort()
            await second.commit(Expect(size=2 * MIB))
        finally:
            await asyncio.gather(first.abort(), second.abort())
        await self.holds(storage, peer, "name", content(2 * MIB, 2))
        assert await self.names(storage, peer) == {"name"}


class CopyCases(SuiteBase):
    async def test_addresses(self, storage: Storage) -> None:
        """The root has one, too, with which those of all below begin: so it is told whether two folders overlap."""
        if storage.backend.store is None:
            with pytest.raises(Unsupported):
                storage.backend.address("a")
            return
        root, below = (f"{storage.backend.address(path)}/".lstrip("/") for path in ("", "a/b"))
        assert below.startswith(root) and below.endswith("a/b/")

    async def test_server_copy(self, storage: Storage, peer: Peer | None) -> None:
        """A copy within the store has the bytes; the source stays. Without the capability: Unsupported, and no copy."""
        await storage.write_bytes("from", NEW)
        if not storage.capabilities.server_copy:
            assert not storage.can_server_copy(storage)
            await unsupported(storage.server_copy(storage, "from", "a/to"))
            assert await self.names(storage, peer) == {"from"}
            return
        entry = await storage.server_copy(storage, "from", "a/to")
        assert (entry.path, entry.size) == ("a/to", len(NEW))
        await self.holds(storage, peer, "a/to", NEW)
        await self.holds(storage, peer, "from", NEW)

    async def test_server_copy_of_nothing(self, storage: Storage, peer: Peer | None) -> None:
        """NotFound, and nothing at the target."""
        with pytest.raises(NotFound if storage.capabilities.server_copy else Unsupported) as caught:
            await storage.server_copy(storage, "from", "to")
        if storage.capabilities.server_copy:
            # Else a flow would not know that it is the source that is gone.
            assert caught.value.path == "from"
        assert await self.names(storage, peer) == set()

    async def test_server_copy_copies_what_was_pinned(self, storage: Storage, peer: Peer | None) -> None:
        """With `pin`, a source that has changed is SourceChanged, and nothing is copied."""
        pin = await storage.write_bytes("from", OLD)
        if not storage.capabilities.server_copy:
            await unsupported(storage.server_copy(storage, "from", "to", pin=pin))
            return
        await storage.server_copy(storage, "from", "same", pin=pin)
        await self.holds(storage, peer, "same", OLD)
        await storage.write_bytes("from", NEW)
        with pytest.raises(SourceChanged):
            await storage.server_copy(storage, "from", "other", pin=pin)
        assert await self.names(storage, peer) == {"from", "same"}

    async def test_server_copy_does_not_replace(self, storage: Storage, peer: Peer | None) -> None:
        """`overwrite=False` holds for copies too."""
        await storage.write_bytes("from", NEW)
        await storage.write_bytes("to", OLD)
        if not storage.capabilities.server_copy:
            await unsupported(storage.server_copy(storage, "from", "to", CREATE))
            return
        with pytest.raises(AlreadyExists if storage.capabilities.create_new else CrossdockError):
            await storage.server_copy(storage, "from", "to", CREATE)
        await self.holds(storage, peer, "to", OLD)
        await storage.server_copy(storage, "from", "to")
        await self.holds(storage, peer, "to", NEW)


class PinnedCases(SuiteBase):
    async def test_delete_pinned(self, storage: Storage, peer: Peer | None) -> None:
        """What is pinned goes, what is not there is gone, and a newer file stays: SourceChanged."""
        pin = await storage.write_bytes("name", OLD)
        if not storage.capabilities.pinned_delete:
            await unsupported(storage.delete_pinned("name", pin))
            await self.holds(storage, peer, "name", OLD)
            return
        await storage.write_bytes("name", NEW)
        with pytest.raises(SourceChanged, match=f"^delete {re.escape(storage.endpoint)}:name: .* Next: "):
            await storage.delete_pinned("name", pin)
        await self.holds(storage, peer, "name", NEW)
        pin = await storage.stat("name")
        for _ in range(2):
            await storage.delete_pinned("name", pin)
            assert await self.names(storage, peer) == set()

    async def test_set_tags(self, storage: Storage, peer: Peer | None) -> None:
        """Tags leave the bytes alone, may be set again, and are not set on a newer file: SourceChanged."""
        pin = await storage.write_bytes("name", OLD)
        if not storage.capabilities.tags:
            await unsupported(storage.set_tags("name", {"a": "1"}, pin=pin))
            return
        for tags in ({"a": "1"}, {"a": "2", "b": "x y/z+ü"}):
            await storage.set_tags("name", tags, pin=pin)
        await self.holds(storage, peer, "name", OLD)
        assert (await storage.stat("name")).fingerprint == pin.fingerprint
        await storage.write_bytes("name", NEW)
        with pytest.raises(SourceChanged):
            await storage.set_tags("name", {"c": "3"}, pin=pin)
        with pytest.raises(NotFound):
            await storage.set_tags("missing", {"c": "3"}, pin=pin)
        await self.holds(storage, peer, "name", NEW)
