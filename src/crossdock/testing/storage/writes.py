"""Writing: nothing is seen before `commit`, and nothing is left without it."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from crossdock.errors import (
    AlreadyExists,
    CrossdockError,
    IntegrityError,
    NotADirectory,
    NotAFile,
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
    cancelled_at,
    chunks,
    content,
    growing,
    listed,
    unsupported,
    walked,
    write,
)

OLD, NEW = b"what was there before", content(3 * MIB + 17)
CREATE = WriteOptions(overwrite=False)


class WriteCases(SuiteBase):
    async def test_nothing_is_visible_before_commit(self, storage: Storage, peer: Peer | None) -> None:
        """While a file is being written, no listing shows it, no reader finds it, and no name of it is there."""
        async with storage.write("folder/name") as writer:
            for part in chunks(NEW, 256 * KIB):
                await writer.write(part)
                assert not await storage.exists("folder/name")
            assert await walked(storage) == []
            with pytest.raises(NotFound):
                await storage.read_bytes("folder/name")
            if storage.capabilities.directories:
                assert await listed(storage, "folder") == []
            if peer is not None:
                assert "folder/name" not in peer.names()
            await writer.commit(Expect(size=len(NEW)))
        await self.holds(storage, peer, "folder/name", NEW)
        assert await self.names(storage, peer) == {"folder/name"}

    async def test_the_old_file_is_served_until_commit(self, storage: Storage, peer: Peer | None) -> None:
        """Overwriting changes nothing for readers before the new file is whole."""
        await storage.write_bytes("name", OLD)
        async with storage.write("name") as writer:
            for part in chunks(NEW, MIB):
                await writer.write(part)
            await self.holds(storage, peer, "name", OLD)
            await writer.commit(Expect(size=len(NEW)))
        await self.holds(storage, peer, "name", NEW)
        assert await self.names(storage, peer) == {"name"}

    @pytest.mark.parametrize("written", [0, 1, 100 * KIB, len(NEW)])
    async def test_abort_leaves_nothing(self, storage: Storage, peer: Peer | None, written: int) -> None:
        """An aborted write leaves neither file nor temporary, however far it got; what was there before stays."""
        await storage.write_bytes("old", OLD)
        for path in ("new", "old"):
            async with storage.write(path) as writer:
                for part in chunks(NEW[:written], 256 * KIB):
                    await writer.write(part)
        assert await self.names(storage, peer) == {"old"}
        await self.holds(storage, peer, "old", OLD)

    async def test_abort_may_be_repeated(self, storage: Storage, peer: Peer | None) -> None:
        """Cleaning up twice is as good as once."""
        writer = await storage.begin_write("name", WriteOptions())
        await writer.write(NEW)
        await writer.abort()
        await writer.abort()
        assert await self.names(storage, peer) == set()

    async def test_abort_after_commit_does_nothing(self, storage: Storage, peer: Peer | None) -> None:
        """What is published stays published."""
        writer = await storage.begin_write("name", WriteOptions())
        await writer.write(NEW)
        await writer.commit(Expect(size=len(NEW)))
        await writer.abort()
        await self.holds(storage, peer, "name", NEW)

    async def test_an_error_of_the_source_leaves_nothing(self, storage: Storage, peer: Peer | None) -> None:
        """When what is being copied fails half way, the half is removed."""
        with pytest.raises(ZeroDivisionError):
            async with storage.write("name") as writer:
                await writer.write(NEW)
                raise ZeroDivisionError
        assert await self.names(storage, peer) == set()

    @pytest.mark.parametrize("written", [0, 1000, 2 * MIB], ids=["empty", "small", "large"])
    async def test_cancelling_leaves_nothing(self, storage: Storage, peer: Peer | None, written: int) -> None:
        """Cancelled at any await, a write has published the whole file or left nothing; the endpoint works on."""
        data, started = content(written), False

        async def action() -> None:
            nonlocal started
            async with storage.write("name") as writer:
                for part in chunks(data, 512 * KIB):
                    await writer.write(part)
                started = True
                await writer.commit(Expect(size=len(data)))

        for wait in growing():
            started = False
            if not await cancelled_at(action(), wait):
                break
            left = await self.names(storage, peer)
            assert left <= ({"name"} if started else set()), f"cancelled at wait {wait}"
            if left:
                await self.holds(storage, peer, "name", data)
                await storage.delete("name")
        await self.holds(storage, peer, "name", data)

    async def test_cancelling_other_operations_breaks_nothing(self, storage: Storage) -> None:
        """After a stat, listing or read is cancelled at any await, the next one gets its own answer."""
        for name in ("a", "b"):
            await storage.write_bytes(name, content(3000, ord(name)))

        async def read() -> None:
            await storage.read_bytes("a")

        async def stat() -> None:
            await storage.stat("a")

        async def scan() -> None:
            await listed(storage)

        actions: list[Callable[[], Coroutine[Any, Any, None]]] = [read, stat, scan]
        for action in actions:
            for wait in growing(60):
                if not await cancelled_at(action(), wait):
                    break
                assert await storage.read_bytes("b") == content(3000, ord("b"))
                assert (await storage.stat("b")).path == "b"

    @pytest.mark.parametrize("wrong", [0, len(NEW) - 1, len(NEW) + 1])
    async def test_a_wrong_size_is_not_published(self, storage: Storage, peer: Peer | None, wrong: int) -> None:
        """`commit` expects another size: IntegrityError, nothing published, the old content stays."""
        await storage.write_bytes("name", OLD)
        with pytest.raises(IntegrityError):
            async with storage.write("name") as writer:
                for part in chunks(NEW, MIB):
                    await writer.write(part)
                await writer.commit(Expect(size=wrong))
        await self.holds(storage, peer, "name", OLD)
        assert await self.names(storage, peer) == {"name"}

    @pytest.mark.parametrize("declared", [0, len(NEW) - 1, len(NEW) + 1])
    async def test_a_size_declared_must_be_written(self, storage: Storage, peer: Peer | None, declared: int) -> None:
        """More or fewer bytes than `WriteOptions.size` said: IntegrityError, nothing published."""
        with pytest.raises(IntegrityError):
            async with storage.write("name", WriteOptions(size=declared)) as writer:
                for part in chunks(NEW, MIB):
                    await writer.write(part)
                await writer.commit(Expect())
        assert await self.names(storage, peer) == set()

    @pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "crc32", "crc32c", "crc64nvme"])
    @pytest.mark.parametrize("size", [1000, len(NEW)])
    async def test_a_wrong_digest_is_not_published(
        self, storage: Storage, peer: Peer | None, algorithm: str, size: int
    ) -> None:
        """A digest that the endpoint verifies must fit; one that it does not verify is never reported as verified."""
        await storage.write_bytes("name", OLD)
        length = {"md5": 32, "sha1": 40, "sha256": 64, "crc64nvme": 16}.get(algorithm, 8)
        wrong = "0" * (length - 1) + "1"
        try:
            async with storage.write("name", WriteOptions(size=size)) as writer:
                await writer.write(NEW[:size])
                entry = await writer.commit(Expect(size=size, digests={algorithm: wrong}))
        except IntegrityError:
            await self.holds(storage, peer, "name", OLD)
        else:
            assert algorithm not in storage.capabilities.digests
            assert entry.digests.get(algorithm) != wrong
        assert await self.names(storage, peer) == {"name"}

    async def test_a_right_digest_is_published(self, storage: Storage, peer: Peer | None) -> None:
        """The digests of what was written do not stand in its way."""
        digests = {
            "md5": hashlib.md5(NEW).hexdigest(),
            "sha1": hashlib.sha1(NEW).hexdigest(),
            "sha256": hashlib.sha256(NEW).hexdigest(),
            "crc32": f"{zlib.crc32(NEW):08x}",
        }
        for algorithm in digests:
            async with storage.write(f"by {algorithm}") as writer:
                await writer.write(NEW)
                await writer.commit(Expect(size=len(NEW), digests={algorithm: digests[algorithm]}))
            await self.holds(storage, peer, f"by {algorithm}", NEW)

    async def test_parents_are_made(self, storage: Storage, peer: Peer | None) -> None:
        """A file can be written where no folder is yet."""
        await storage.write_bytes("a/b/c/d", NEW)
        await self.holds(storage, peer, "a/b/c/d", NEW)

    async def test_two_writers_may_need_the_same_new_folder(self, storage: Storage, peer: Peer | None) -> None:
        """Folders that appear while one makes them are welcome."""
        await asyncio.gather(*(storage.write_bytes(f"a/b/c/{number}", b"x") for number in range(8)))
        assert await self.names(storage, peer) == {f"a/b/c/{number}" for number in range(8)}

    @pytest.mark.parametrize("data", [b"", b"x", NEW], ids=["empty", "small", "large"])
    async def test_a_file_is_not_a_folder_to_write_in(self, storage: Storage, peer: Peer | None, data: bytes) -> None:
        """Writing below a file is NotADirectory; an object store does not mind."""
        await storage.write_bytes("file", OLD)
        if storage.capabilities.directories:
            with pytest.raises(NotADirectory):
                await write(storage, "file/below", data)
            assert await self.names(storage, peer) == {"file"}
        else:
            await write(storage, "file/below", data)
            await self.holds(storage, peer, "file/below", data)
        await self.holds(storage, peer, "file", OLD)

    @pytest.mark.parametrize("overwrite", [True, False])
    async def test_a_folder_is_not_replaced_by_a_file(
        self, storage: Storage, peer: Peer | None, overwrite: bool
    ) -> None:
        """A folder in the way is an error, and it stays with all that is in it."""
        await storage.write_bytes("folder/file", OLD)
        if not storage.capabilities.directories or not (overwrite or storage.capabilities.create_new):
            return
        with pytest.raises((NotAFile, AlreadyExists)):
            await storage.write_bytes("folder", NEW, WriteOptions(overwrite=overwrite))
        assert await self.names(storage, peer) == {"folder/file"}


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
            for turn in range(12):
                await storage.write_bytes("name", versions[turn % 4])
                await asyncio.sleep(0)
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


class ResumeCases(SuiteBase):
    @pytest.fixture
    def staged_size(self) -> int:
        """How much is written before the first attempt is let go."""
        return self.large_size * 2 // 3

    async def test_resume_goes_on_where_it_stopped(self, storage: Storage, peer: Peer | None, staged_size: int) -> None:
        """A suspended write, resumed at the offset it tells, gives exactly the bytes; nothing shows in between."""
        data = content(self.large_size)
        if not storage.capabilities.resume_write:
            await self._cannot_resume(storage, peer)
            return
        token = await self.staged(storage, "a/name", data[:staged_size])
        assert await walked(storage) == []
        async with storage.write("a/name", WriteOptions(resume=token, size=len(data))) as writer:
            assert 0 < writer.offset <= staged_size
            for part in chunks(data[writer.offset :], MIB):
                await writer.write(part)
            await writer.commit(Expect(size=len(data)))
        await self.holds(storage, peer, "a/name", data)
        assert await self.names(storage, peer) == {"a/name"}

    async def _cannot_resume(self, storage: Storage, peer: Peer | None) -> None:
        async with storage.write("name") as writer:
            await writer.write(NEW)
            assert writer.checkpoint() is None
            await writer.suspend()
        assert await self.names(storage, peer) == set()
        await unsupported(storage.begin_write("name", WriteOptions(resume=b"{}")))
        await unsupported(storage.discard(b"{}"))

    async def test_resume_forgets_what_came_after_the_checkpoint(
        self, storage: Storage, peer: Peer | None, staged_size: int
    ) -> None:
        """Bytes stored after the checkpoint was taken (the process was killed) are written over."""
        if not storage.capabilities.resume_write:
            return
        data = content(self.large_size)
        writer = await storage.begin_write("name", WriteOptions())
        for part in chunks(data[:staged_size], 256 * KIB):
            await writer.write(part)
        token = writer.checkpoint()
        assert token is not None
        await writer.write(content(2 * MIB, 99))
        await writer.suspend()
        async with storage.write("name", WriteOptions(resume=token)) as again:
            await again.write(data[again.offset :])
            await again.commit(Expect(size=len(data)))
        await self.holds(storage, peer, "name", data)
        assert await self.names(storage, peer) == {"name"}

    async def test_resume_twice(self, storage: Storage, peer: Peer | None, staged_size: int) -> None:
        """A resumed write can be suspended and resumed again."""
        if not storage.capabilities.resume_write:
            return
        data = content(self.large_size)
        token = await self.staged(storage, "name", data[:staged_size])
        writer = await storage.begin_write("name", WriteOptions(resume=token))
        await writer.write(data[writer.offset : self.large_size - 100])
        second = writer.checkpoint()
        assert second is not None
        await writer.suspend()
        async with storage.write("name", WriteOptions(resume=second)) as last:
            assert last.offset >= writer.offset
            await last.write(data[last.offset :])
            await last.commit(Expect(size=len(data)))
        await self.holds(storage, peer, "name", data)
        assert await self.names(storage, peer) == {"name"}

    async def test_a_resumed_write_can_be_aborted(self, storage: Storage, peer: Peer | None, staged_size: int) -> None:
        """Then nothing is left, of either attempt, and the old file stays."""
        if not storage.capabilities.resume_write:
            return
        await storage.write_bytes("name", OLD)
        token = await self.staged(storage, "name", content(staged_size))
        await self.holds(storage, peer, "name", OLD)
        async with storage.write("name", WriteOptions(resume=token)) as writer:
            await writer.write(b"more")
        assert await self.names(storage, peer) == {"name"}
        await self.holds(storage, peer, "name", OLD)

    async def test_discard_removes_what_is_staged(self, storage: Storage, peer: Peer | None, staged_size: int) -> None:
        """`discard` of a checkpoint leaves nothing but the published file, and may be repeated."""
        if not storage.capabilities.resume_write:
            await unsupported(storage.discard(b"{}"))
            return
        await storage.write_bytes("folder/name", OLD)
        token = await self.staged(storage, "folder/name", content(staged_size))
        await storage.discard(token)
        await storage.discard(token)
        assert await self.names(storage, peer) == {"folder/name"}
        await self.holds(storage, peer, "folder/name", OLD)

    async def test_what_was_discarded_cannot_be_resumed(
        self, storage: Storage, peer: Peer | None, staged_size: int
    ) -> None:
        """The staged bytes are gone: NotFound, at the latest at commit, and nothing is published."""
        if not storage.capabilities.resume_write:
            return
        token = await self.staged(storage, "name", content(staged_size))
        await storage.discard(token)
        with pytest.raises(NotFound):
            async with storage.write("name", WriteOptions(resume=token)) as writer:
                await writer.write(b"rest")
                await writer.commit(Expect(size=writer.offset + 4))
        assert await self.names(storage, peer) == set()

    async def test_suspend_after_commit_does_nothing(self, storage: Storage, peer: Peer | None) -> None:
        """What is published stays published, and there is nothing to resume."""
        async with storage.write("name") as writer:
            await writer.write(NEW)
            await writer.commit(Expect(size=len(NEW)))
            assert writer.checkpoint() is None
            await writer.suspend()
        await self.holds(storage, peer, "name", NEW)
        assert await self.names(storage, peer) == {"name"}


class CopyCases(SuiteBase):
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
        with pytest.raises(NotFound if storage.capabilities.server_copy else Unsupported):
            await storage.server_copy(storage, "from", "to")
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
