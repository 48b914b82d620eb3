"""Layers that repeat, within bounds, what is safe to repeat.

`Retry`: opening, stat, the start of a scan or a read, delete, making and removing folders. `Reopen`: reads that break,
which are opened again at the offset reached. Writes and renames are not: a new attempt is the caller's decision.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from crossdock.errors import CrossdockError, IntegrityError, SourceChanged, TimedOut, Truncated
from crossdock.storage.base import Backend, Entry, Reader
from crossdock.storage.layers import Layer, LayeredReader

__all__ = ["OF_THE_WHOLE", "Reopen", "Retry", "RetryPolicy"]

log = logging.getLogger("crossdock.storage")
T = TypeVar("T")
OF_THE_WHOLE = (IntegrityError, SourceChanged, Truncated)
"""What is wrong with a whole stream: going on at the offset reached would hide it."""

_TOLD_AGAIN = 3600.0
"""Seconds until it is said again that an endpoint is silent."""
_silent: dict[str, float] = {}
"""Endpoint → when that was said, by `time.monotonic`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how long to try.

    Waits are drawn evenly from 0 to `base × 2^n` seconds, at most `longest` ("full jitter").
    """

    attempts: int = 4
    seconds: float = 120
    """No new attempt starts later than this after the first failure."""
    base: float = 0.5
    longest: float = 20
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    draw: Callable[[float, float], float] = random.uniform

    def wait(self, attempt: int, error: CrossdockError) -> float:
        """Seconds to wait after the failure of attempt number `attempt` (1 is the first)."""
        jittered = self.draw(0, min(self.longest, self.base * 2 ** (attempt - 1)))
        return max(jittered, error.retry_after or 0)

    async def run(
        self,
        action: Callable[[], Awaitable[T]],
        *,
        but: tuple[type[CrossdockError], ...] = (),
        moved: Callable[[], float] | None = None,
    ) -> T:
        """Call until it succeeds, fails for good, or the bounds are reached; then the error is `exhausted`.

        `but`: errors that asking again cannot mend. `moved`: when it last went on, by `clock`; `seconds` count from
        there, if that is later.
        """
        since, attempt = float("inf"), 1
        while True:
            try:
                return await action()
            except CrossdockError as error:
                if not error.retryable or error.exhausted or isinstance(error, but):
                    raise
                wait = self.wait(attempt, error)
                now = self.clock()
                since = min(since, now) if moved is None else max(min(since, now), moved())
                if attempt >= self.attempts or now - since + wait > self.seconds:
                    error.exhausted = True
                    raise
                if attempt == 1 and isinstance(error, TimedOut) and _is_news(error.endpoint):
                    # Else whoever waits would hear of it when all attempts have taken their time, after minutes.
                    log.warning("%s; trying again, at most %d times", error.message, self.attempts - 1)
                else:
                    log.info("attempt %d of %d failed, again in %.1fs: %s", attempt, self.attempts, wait, error)
            attempt += 1
            await self.sleep(wait)


def _is_news(endpoint: str) -> bool:
    now = time.monotonic()
    if now - _silent.get(endpoint, -_TOLD_AGAIN) < _TOLD_AGAIN:
        return False
    _silent[endpoint] = now
    return True


class Retry(Layer):
    """Repeats what is safe to repeat, on retryable errors only."""

    def __init__(self, inner: Backend, policy: RetryPolicy | None = None) -> None:
        super().__init__(inner)
        self.policy = policy or RetryPolicy()

    async def _call(self, operation: str, path: str, action: Callable[[], Awaitable[T]], *, repeatable: bool) -> T:
        return await self.policy.run(action) if repeatable else await action()

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        async def start() -> tuple[AsyncGenerator[list[Entry]], list[Entry] | None]:
            pages = self.inner.scan(path, recursive=recursive)
            try:
                return pages, await anext(pages, None)
            except BaseException:
                await pages.aclose()
                raise

        pages, first = await self.policy.run(start)
        async with aclosing(pages):
            if first is not None:
                yield first
                async for page in pages:
                    yield page

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        return await self.policy.run(lambda: self.inner.begin_read(path, offset=offset, pin=pin), but=(SourceChanged,))


class Reopen(Layer):
    """Opens a stream that broke again at the offset reached, as long as the file is still the one that was opened.

    To be put below `Limit`: the stream keeps its slot. Whoever reads has a writer elsewhere by then, and would wait for
    readers who wait for such a writer.
    """

    def __init__(self, inner: Backend, policy: RetryPolicy | None = None) -> None:
        super().__init__(inner)
        self.policy = policy or RetryPolicy()

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        reader = await self.inner.begin_read(path, offset=offset, pin=pin)
        return _ReopenedReader(reader, self.inner, path, offset, self.policy)


class _ReopenedReader(LayeredReader):
    def __init__(self, inner: Reader, backend: Backend, path: str, offset: int, policy: RetryPolicy) -> None:
        super().__init__(inner)
        self._backend, self._path, self._offset, self._policy = backend, path, offset, policy
        self._broken = False

    async def read(self) -> bytes:
        if not self._broken:
            try:
                data = await self.inner.read()
            except CrossdockError as error:
                if not error.retryable or error.exhausted or isinstance(error, OF_THE_WHOLE):
                    raise
                if not self._backend.capabilities.read_offset:
                    raise
                if isinstance(error, TimedOut) and _is_news(self._backend.endpoint):
                    # As where an operation is begun: whoever waits has waited for long by now.
                    log.warning("%s; opening it again at byte %d", error.message, self._offset)
                else:
                    where = self._backend.endpoint, self._path, self._offset
                    log.info("read %s:%r broke at byte %d, opening it again: %s", *where, error)
                self._broken = True
            else:
                self._offset += len(data)
                return data
        data = await self._policy.run(self._again, but=OF_THE_WHOLE)
        self._broken = False
        self._offset += len(data)
        return data

    async def _again(self) -> bytes:
        await self.inner.close()
        self.inner = await self._backend.begin_read(self._path, offset=self._offset, pin=self.entry)
        return await self.inner.read()
