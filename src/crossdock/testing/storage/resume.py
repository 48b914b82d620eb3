"""Writes that stop and go on later."""

from __future__ import annotations

import pytest

from crossdock.errors import (
    NotFound,
)
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.storage import Storage
from crossdock.testing.storage.base import (
    KIB,
    MIB,
    Peer,
    SuiteBase,
    chunks,
    content,
    unsupported,
    walked,
)

OLD, NEW = b"what was there before", content(3 * MIB + 17)


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
