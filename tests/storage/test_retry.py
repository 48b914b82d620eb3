"""The retry layer: what it repeats, how long it waits, and what it leaves to its caller."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from crossdock.errors import (
    ConnectionFailed,
    CrossdockError,
    IntegrityError,
    NotFound,
    SourceChanged,
    StorageError,
    Throttled,
    TimedOut,
)
from crossdock.storage.base import Entry, Reader
from crossdock.storage.layers import Layer
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.retry import Reopen, Retry, RetryPolicy
from crossdock.storage.storage import Storage


@dataclass
class Time:
    """A clock that only sleeping moves."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)

    def policy(self, **changes: float) -> RetryPolicy:
        return RetryPolicy(clock=lambda: self.now, sleep=self.sleep, draw=lambda low, high: high, **changes)  # type: ignore[arg-type]


class Stumbling(Layer):
    """Fails the first calls of stat and begin_read with the given errors."""

    def __init__(self, *errors: CrossdockError) -> None:
        super().__init__(MemoryBackend())
        self.errors = list(errors)
        self.calls = 0

    def _stumble(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)

    async def stat(self, path: str) -> Entry:
        self._stumble()
        return await super().stat(path)

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        self._stumble()
        return await super().begin_read(path, offset=offset, pin=pin)


def lost(**more: float) -> ConnectionFailed:
    return ConnectionFailed("the wire was cut", operation="stat", endpoint="memory", **more)  # type: ignore[arg-type]


async def test_waits_double_up_to_the_longest() -> None:
    time, inner = Time(), Stumbling(*[lost() for _ in range(5)])
    storage = Storage(Retry(inner, time.policy(attempts=9, base=1, longest=5)))
    assert (await storage.stat("")).kind == "dir"
    assert time.slept == [1, 2, 4, 5, 5]


async def test_stops_at_the_bound_of_attempts_and_marks_the_error() -> None:
    time, inner = Time(), Stumbling(*[lost() for _ in range(9)])
    with pytest.raises(ConnectionFailed) as caught:
        await Storage(Retry(inner, time.policy(attempts=3))).stat("")
    assert (inner.calls, caught.value.exhausted) == (3, True)
    with pytest.raises(ConnectionFailed):
        await time.policy(attempts=3).run(lambda: _raise(caught.value))
    assert len(time.slept) == 2, "what was retried and still failed is not retried again"


async def _raise(error: CrossdockError) -> None:
    raise error


async def test_stops_at_the_bound_of_time() -> None:
    time, inner = Time(), Stumbling(*[lost() for _ in range(99)])
    with pytest.raises(ConnectionFailed):
        await Storage(Retry(inner, time.policy(attempts=99, seconds=10, base=4, longest=4))).stat("")
    assert sum(time.slept) <= 10


async def test_what_took_long_before_it_failed_is_tried_again() -> None:
    """The bound of time is one of failing, not of working."""
    time, calls = Time(), 0

    async def work() -> str:
        nonlocal calls
        calls += 1
        time.now += 1000
        if calls < 3:
            raise lost()
        return "done"

    calls = 1
    assert await time.policy().run(work) == "done"
    calls = 0
    with pytest.raises(ConnectionFailed):
        await time.policy().run(work)
    calls = 0
    assert await time.policy().run(work, moved=lambda: time.now) == "done"


async def test_the_peer_may_ask_for_a_longer_pause() -> None:
    time = Time()
    pause = Throttled("slow down", operation="stat", endpoint="memory", retry_after=7)
    await Storage(Retry(Stumbling(pause), time.policy())).stat("")
    assert time.slept == [7]


async def test_permanent_errors_come_out_at_once() -> None:
    time, inner = Time(), Stumbling()
    with pytest.raises(NotFound):
        await Storage(Retry(inner, time.policy())).stat("missing")
    assert (inner.calls, time.slept) == (1, [])


async def test_a_changed_source_is_its_callers_decision() -> None:
    """It may be retried as a new attempt; asking for the old file again cannot succeed."""
    time, inner = Time(), Stumbling(SourceChanged("no longer the one that was listed"))
    with pytest.raises(SourceChanged) as caught:
        async with Storage(Retry(inner, time.policy())).read("f"):
            pass
    assert (inner.calls, time.slept, caught.value.exhausted) == (1, [], False)


class Breaking(Layer):
    """Streams that break after their first bytes, three times."""

    def __init__(self, inner: MemoryBackend, error: type[StorageError]) -> None:
        super().__init__(inner)
        self.broken = error
        self.opened: list[int] = []

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        reader = await super().begin_read(path, offset=offset, pin=pin)
        self.opened.append(offset)
        inner, count = reader.read, 0

        async def read() -> bytes:
            nonlocal count
            count += 1
            if count == 2 and len(self.opened) < 4:
                raise self.broken("the wire is cut", operation="read", endpoint=self.endpoint, path=path)
            return await inner()

        reader.read = read  # type: ignore[method-assign]
        return reader


@pytest.mark.parametrize("error", [ConnectionFailed, TimedOut])
async def test_a_read_goes_on_at_the_offset_reached(
    error: type[StorageError], caplog: pytest.LogCaptureFixture
) -> None:
    """Where it was silent, who waits is told so, once."""
    time, data = Time(), bytes(range(256)) * 5000
    memory = MemoryBackend(f"memory of {error.__name__}")
    await Storage(memory).write_bytes("f", data)
    breaking = Breaking(memory, error)
    assert await Storage(Reopen(breaking, time.policy())).read_bytes("f") == data
    assert breaking.opened == [0, 262_144, 524_288, 786_432]
    told = "read memory of TimedOut:f: the wire is cut; opening it again at byte 262144"
    assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == (
        [told] if error is TimedOut else []
    )


async def test_a_stream_found_wrong_at_its_end_is_not_read_on() -> None:
    time = Time()

    class Wrong(Layer):
        async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
            reader = await super().begin_read(path, offset=offset, pin=pin)
            inner = reader.read

            async def read() -> bytes:
                found = await inner()
                if not found and not offset:
                    raise IntegrityError("the digest is another")
                return found

            reader.read = read  # type: ignore[method-assign]
            return reader

    memory = MemoryBackend()
    await Storage(memory).write_bytes("f", b"x" * 1000)
    with pytest.raises(IntegrityError):
        await Storage(Reopen(Wrong(memory), time.policy())).read_bytes("f")
