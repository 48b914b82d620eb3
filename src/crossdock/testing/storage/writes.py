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
    IntegrityError,
    NotADirectory,
    NotAFile,
    NotFound,
)
from crossdock.storage.base import Expect, WriteOptions
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
    same,
    walked,
    write,
)

OLD, NEW = b"what was there before", content(3 * MIB + 17)


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

    @pytest.mark.parametrize("written", [0, 1000, len(NEW)])
    async def test_sealing_publishes_nothing(self, storage: Storage, peer: Peer | None, written: int) -> None:
        """What is sealed is no more visible than before; its token tells it from what was published."""
        assert not storage.capabilities.in_place
        await storage.write_bytes("folder/name", OLD)
        for ends in ("abort", "commit"):
            async with storage.write("folder/name") as writer:
                for part in chunks(NEW[:written], 256 * KIB):
                    await writer.write(part)
                token = await writer.seal(Expect(size=written))
                await self.holds(storage, peer, "folder/name", OLD)
                assert token is None or await storage.is_staged(token) in (True, None)
                if ends == "commit":
                    await writer.commit(Expect(size=written))
            assert await self.names(storage, peer) == {"folder/name"}
            assert token is None or await storage.is_staged(token) in (False, None)
        await self.holds(storage, peer, "folder/name", NEW[:written])

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

    @pytest.mark.parametrize("data", [b"", NEW], ids=["empty", "large"])
    async def test_abort_is_final(self, storage: Storage, peer: Peer | None, data: bytes) -> None:
        """Cleaning up twice is as good as once, and nothing is published afterwards."""
        writer = await storage.begin_write("name", WriteOptions())
        await writer.write(data)
        await writer.abort()
        for use in (writer.write(b"more"), writer.commit(Expect())):
            with pytest.raises(RuntimeError):
                await use
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

    async def test_cancelling_an_abort_leaves_nothing(self, storage: Storage, peer: Peer | None) -> None:
        """Whoever gives a write up and is cancelled meanwhile does not come back to remove the rest."""
        for wait in growing():
            writer = await storage.begin_write("name", WriteOptions())
            for part in chunks(NEW, 256 * KIB):
                await writer.write(part)
            ended = not await cancelled_at(writer.abort(), wait)
            assert await self.names(storage, peer) == set(), f"cancelled at wait {wait}"
            if ended:
                break

    @pytest.mark.parametrize("size", [1000, 2 * MIB], ids=["small", "large"])
    async def test_cancelling_an_overwrite_leaves_one_file(
        self, storage: Storage, peer: Peer | None, size: int
    ) -> None:
        """Cancelled at any await, the file has the old bytes or the new, under its name; and nothing lies beside it."""
        data = content(size)
        for wait in growing():
            await storage.write_bytes("name", OLD)
            ended = not await cancelled_at(storage.write_bytes("name", data), wait)
            assert await self.names(storage, peer) == {"name"}, f"cancelled at wait {wait}"
            found = await storage.read_bytes("name")
            assert found == OLD or same(found, data)
            if ended:
                break
        await self.holds(storage, peer, "name", data)

    @pytest.mark.parametrize("written", [0, 1000, len(NEW)])
    async def test_what_is_left_can_be_swept_up(self, storage: Storage, peer: Peer | None, written: int) -> None:
        """An attempt that lost its file to another worker removes nothing; by its name, or its token, it is found."""
        tokens: list[bytes] = []

        async def staged(token: bytes) -> None:
            tokens.append(token)

        await storage.write_bytes("folder/name", OLD)
        writer = await storage.begin_write("folder/name", WriteOptions(attempt="0123456789ab", staged=staged))
        for part in chunks(NEW[:written], 256 * KIB):
            await writer.write(part)
        await writer.leave()
        await writer.leave()
        await self.holds(storage, peer, "folder/name", OLD)
        token = storage.leftover("folder/name", "0123456789ab") or (tokens[-1] if tokens else None)
        if token is not None:
            for _ in range(2):
                await storage.discard(token)
                assert not await storage.is_staged(token)
        assert await self.names(storage, peer) == {"folder/name"}
        await self.holds(storage, peer, "folder/name", OLD)

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
