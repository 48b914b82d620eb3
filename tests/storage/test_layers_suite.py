"""Each layer keeps every promise of what it wraps."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator
from typing import ClassVar

import pytest

from crossdock.errors import BackendFault, ConnectionFailed, NotFound, StorageError
from crossdock.storage.base import Backend
from crossdock.storage.layers import Observe
from crossdock.storage.limits import Limit, Throttle
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.rate import TokenBucket
from crossdock.storage.retry import Reopen, Retry
from crossdock.storage.storage import Storage
from crossdock.testing import StorageSuite
from crossdock.testing.faults import Fault, FaultyBackend


class _Layered(StorageSuite):
    max_name: ClassVar[int | None] = None

    def layered(self, inner: Backend) -> Backend:
        raise NotImplementedError

    @pytest.fixture
    async def storage(self) -> AsyncGenerator[Storage]:
        async with Storage(self.layered(MemoryBackend())) as storage:
            yield storage


class TestObserve(_Layered):
    def layered(self, inner: Backend) -> Backend:
        return Observe(inner)

    async def test_what_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        inner = FaultyBackend(MemoryBackend())
        storage = Storage(Observe(inner))
        caplog.set_level(logging.DEBUG, "crossdock.storage")
        await storage.write_bytes("a/f", b"12345")
        await storage.write_bytes("a/g", b"1")
        await storage.read_bytes("a/f")
        assert len([entry async for entry in storage.scan("a")]) == 2
        with pytest.raises(NotFound):
            await storage.stat("b")
        async with storage.write("b") as writer:
            await writer.write(b"12")
        inner.faults = [Fault(operation=each) for each in ("read", "commit", "list")]
        for failing in (storage.read_bytes("a/f"), storage.write_bytes("c", b"123"), anext(storage.scan("a"))):
            with pytest.raises(ConnectionFailed):
                await failing
        assert [re.sub(r" memory:(.*) [0-9.]+s ([^(]*)(?:\(.*)?", r" \1 \2", each) for each in caplog.messages] == [
            "write 'a/f' 5 bytes",
            "write 'a/g' 1 bytes",
            "read 'a/f' 5 bytes",
            "list 'a' 2 entries",
            "stat 'b' NotFound",
            "abort 'b' 2 bytes",
            "read 'a/f' ConnectionFailed",
            "write 'c' ConnectionFailed",
            "list 'a' ConnectionFailed",
        ]

    @pytest.mark.parametrize(
        "operation", ["stat", "list", "begin read", "read", "begin write", "write", "commit", "abort", "rename"]
    )
    async def test_what_no_backend_should_let_out(self, operation: str) -> None:
        """It ends one operation, by name; the next one is made as if nothing had been."""

        class Mistaken(FaultyBackend):
            def failure(self, fault: Fault, operation: str, path: str) -> StorageError:
                raise ValueError("could not convert string to float")

        inner = Mistaken(MemoryBackend())
        storage = Storage(Observe(inner))

        async def all_of_them() -> None:
            await storage.write_bytes("a/f", b"12345")
            async with storage.write("a/g") as writer:
                await writer.write(b"12")
            assert await storage.read_bytes("a/f") == b"12345"
            assert (await storage.stat("a/f")).size == 5
            assert [entry.path async for entry in storage.scan("a")] == ["a/f"]
            await storage.rename("a/f", "a/h", overwrite=True)
            await storage.delete("a/h")

        inner.faults = [Fault(operation=operation)]
        with pytest.raises(BackendFault, match="ValueError: could not convert") as caught:
            await all_of_them()
        assert (caught.value.endpoint, caught.value.operation in operation or operation == "commit") == ("memory", True)
        assert isinstance(caught.value.__cause__, ValueError)
        assert caught.value.retryable
        await storage.delete("a/f")
        await all_of_them()


class TestLimit(_Layered):
    def layered(self, inner: Backend) -> Backend:
        return Limit(inner, 5)


class TestThrottle(_Layered):
    def layered(self, inner: Backend) -> Backend:
        return Throttle(inner, TokenBucket(1 << 40))


class TestRetry(_Layered):
    def layered(self, inner: Backend) -> Backend:
        return Retry(inner)


class TestReopen(_Layered):
    def layered(self, inner: Backend) -> Backend:
        return Reopen(inner)


class TestFaulty(_Layered):
    """The fault injector of `crossdock.testing`, while it is told no faults."""

    def layered(self, inner: Backend) -> Backend:
        return FaultyBackend(inner)


class TestAll(_Layered):
    """As an endpoint is assembled."""

    def layered(self, inner: Backend) -> Backend:
        return Retry(Throttle(Limit(Reopen(Observe(inner)), 5), TokenBucket(1 << 40)))
