"""Several attempts at one file."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from crossdock.engine.attempts import deliver
from crossdock.errors import ConnectionFailed, PermissionDenied, SourceChanged, StorageError
from crossdock.storage.base import Backend, Writer
from crossdock.storage.layers import Layer
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.retry import RetryPolicy
from crossdock.storage.storage import Storage

CONTENT = hashlib.shake_256(b"attempts").digest(2_500_000)


class Flaky(Layer):
    """Breaks the wire after so many writes, for the first `failures` writers."""

    def __init__(self, inner: Backend, failures: int, error: type[StorageError] = ConnectionFailed) -> None:
        super().__init__(inner)
        self.failures, self._kind, self.writers, self.bytes = failures, error, 0, 0

    def _writer(self, writer: Writer, path: str) -> Writer:
        self.writers += 1
        inner, count = writer.write, 0

        async def write(data: bytes) -> None:
            nonlocal count
            count += 1
            if self.failures and count == 4:
                self.failures -= 1
                raise self.error(self._kind, "write", path, "the wire was cut")
            await inner(data)
            self.bytes += len(data)

        writer.write = write  # type: ignore[method-assign]
        return writer


async def policy_waits() -> tuple[RetryPolicy, list[float]]:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    return RetryPolicy(attempts=4, sleep=sleep, draw=lambda low, high: high), waits


async def names(storage: Storage) -> list[str]:
    return [entry.path async for entry in storage.scan(temporaries=True)]


async def test_resumes_after_each_cut() -> None:
    """Three cuts: four attempts, waits that double, and no byte is written twice."""
    policy, waits = await policy_waits()
    seen: list[int] = []
    async with AsyncExitStack() as stack:
        source, memory = [await stack.enter_async_context(Storage(MemoryBackend(name))) for name in ("a", "b")]
        await source.write_bytes("f", CONTENT)
        flaky = Flaky(memory.backend, failures=3)
        receipt, attempts = await deliver(source, "f", Storage(flaky), "f", policy=policy, progress=seen.append)
        assert (attempts, flaky.writers, waits) == (4, 4, [0.5, 1.0, 2.0])
        assert flaky.bytes == len(CONTENT) == sum(seen)
        assert await memory.read_bytes("f") == CONTENT
        assert receipt.sha256 == hashlib.sha256(CONTENT).hexdigest()
        assert await names(memory) == ["f"]


async def test_a_file_that_takes_long_has_all_its_attempts() -> None:
    """As many as were asked for, while each of them goes on for minutes before the line breaks."""
    policy, _ = await policy_waits()
    now = 0.0
    policy = replace(policy, clock=lambda: now)

    def goes_on(size: int) -> None:
        nonlocal now
        now += 100

    async with Storage(MemoryBackend("a")) as source, Storage(MemoryBackend("b")) as memory:
        await source.write_bytes("f", CONTENT)
        _, attempts = await deliver(
            source, "f", Storage(Flaky(memory.backend, failures=3)), "f", policy=policy, progress=goes_on
        )
        assert attempts == 4
        assert await memory.read_bytes("f") == CONTENT


async def test_gives_up_within_bounds_and_leaves_nothing() -> None:
    policy, waits = await policy_waits()
    async with Storage(MemoryBackend("a")) as source, Storage(MemoryBackend("b")) as memory:
        await source.write_bytes("f", CONTENT * 3)
        with pytest.raises(ConnectionFailed) as caught:
            await deliver(source, "f", Storage(Flaky(memory.backend, failures=99)), "f", policy=policy)
        assert caught.value.exhausted
        assert len(waits) == 3
        assert await names(memory) == []


async def test_permanent_errors_are_not_retried() -> None:
    policy, waits = await policy_waits()
    async with Storage(MemoryBackend("a")) as source, Storage(MemoryBackend("b")) as memory:
        await source.write_bytes("f", CONTENT)
        with pytest.raises(PermissionDenied):
            await deliver(source, "f", Storage(Flaky(memory.backend, 1, PermissionDenied)), "f", policy=policy)
        assert waits == []
        assert await names(memory) == []


async def test_file_that_changed_is_taken_as_it_is_now() -> None:
    """The pin of the listing is dropped after `SourceChanged`, and nothing staged of the old content is used."""
    policy, _ = await policy_waits()
    async with Storage(MemoryBackend("a")) as source, Storage(MemoryBackend("b")) as target:
        await source.write_bytes("f", CONTENT)
        listed = await source.stat("f")
        await source.write_bytes("f", CONTENT[::-1])
        receipt, attempts = await deliver(source, "f", target, "f", pin=listed, policy=policy)
        assert attempts == 2
        assert await target.read_bytes("f") == CONTENT[::-1]
        assert receipt.sha256 == hashlib.sha256(CONTENT[::-1]).hexdigest()


async def test_file_that_never_settles_ends_as_source_changed() -> None:
    policy, _ = await policy_waits()

    class Changing(Layer):
        async def begin_read(self, path, *, offset=0, pin=None):  # type: ignore[no-untyped-def]
            raise SourceChanged("again")

    async with Storage(MemoryBackend("a")) as memory, Storage(MemoryBackend("b")) as target:
        await memory.write_bytes("f", CONTENT)
        with pytest.raises(SourceChanged):
            await deliver(Storage(Changing(memory.backend)), "f", target, "f", policy=policy)
        assert await names(target) == []
