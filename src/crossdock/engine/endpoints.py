"""The endpoints of one run: each opened once, when it is first needed, and left alone for a while when it fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from crossdock.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectionFailed,
    CrossdockError,
    NotADirectory,
    NotFound,
    PermissionDenied,
    Throttled,
    UnknownEndpoint,
)
from crossdock.storage.shared import SharedReads
from crossdock.storage.storage import Storage

__all__ = ["Endpoints", "LeftAlone"]

_FAILURES = 3
"""Lost connections in a row after which an endpoint is left alone."""
_PAUSE = 15.0
_LONGEST = 600.0
_LOCKED_OUT = 900.0
"""Seconds without an attempt after a refused login, unless it says how many: accounts get locked."""
_AT_THE_DOOR = ("connect", "open")
"""Operations of which 'too many' means that nobody is let in, or that a relay answers for a server that is down."""


class LeftAlone(ConnectionFailed):
    """The endpoint failed lately, and is not asked before `retry_after` seconds are over."""


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    closed_until: float = 0.0
    reason: str = ""
    hint: str | None = None


class Endpoints:
    """`new` makes a storage, not yet opened, by an endpoint's name; it raises `ConfigError` for an unknown one."""

    def __init__(self, new: Callable[[str], Storage], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._new, self._clock = new, clock
        self._open: dict[str, Storage] = {}
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._breakers: dict[str, _Breaker] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close what was opened. Safe to repeat."""
        opening, self._opening = list(self._opening.values()), {}
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        opened, self._open = list(self._open.values()), {}
        await asyncio.gather(*(storage.close() for storage in opened))

    def begin(self, name: str) -> None:
        """Open it already. Whoever asks for it first is told of a failure; until then it is not tried again."""
        if name not in self._open and name not in self._opening:
            self._opening[name] = asyncio.create_task(self._opened(name))

    async def _opened(self, name: str) -> None:
        # In a thread: the libraries of one endpoint are loaded while others are connected to.
        new = await asyncio.to_thread(self._new, name)
        storage = Storage(SharedReads(new.backend))
        self._open[name] = await storage.__aenter__()

    async def for_file(self, name: str) -> Storage:
        """`storage`, for one file: of which a root that is missing, a mount perhaps, says nothing."""
        try:
            return await self.storage(name)
        except (NotFound, NotADirectory, PermissionDenied) as error:
            raise ConnectionFailed(
                error.reason, operation=error.operation, endpoint=name, path=error.path, hint=error.hint
            ) from error

    async def has_folders(self, name: str) -> bool:
        """False as well where that cannot be learned now."""
        try:
            return (await self.storage(name)).capabilities.directories
        except CrossdockError:
            return False

    async def storage(self, name: str) -> Storage:
        """The open storage. Raises what opening it raises; asking again tries again."""
        found = self._open.get(name)
        if found is not None:
            return found
        before = self.pause(name)
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._open:
                if not before[0] and (left := self.left_alone(name)) is not None:
                    # It failed while this one waited for its turn: sixteen files are not sixteen refused sign-ins.
                    raise ConnectionFailed(
                        left.reason, operation="connect", endpoint=name, hint=left.hint, retry_after=left.retry_after
                    )
                self.begin(name)
                opening = self._opening[name]
                try:
                    await asyncio.shield(opening)
                except UnknownEndpoint as error:
                    error.endpoint = name
                    raise
                except ConfigError as error:
                    raise type(error)(f"endpoint {name}: {error.message}", hint=error.hint) from error
                except CrossdockError as error:
                    self.failed(name, error)
                    raise
                finally:
                    if opening.done():
                        self._opening.pop(name, None)
            return self._open[name]

    def pause(self, *names: str) -> tuple[float, str]:
        """Seconds for which one of these endpoints is to be left alone, and why, with the next step; 0 when all may
        be used."""
        if not self._breakers:
            return 0.0, ""
        wait, breaker = self._longest(names)
        return wait, f"{breaker.reason.removesuffix('.')}. Next: {breaker.hint}" if breaker.hint else breaker.reason

    def left_alone(self, name: str, path: str = "") -> LeftAlone | None:
        """The same of one endpoint, to be raised by who would list `path`."""
        wait, breaker = self._longest([name])
        if not wait:
            return None
        return LeftAlone(
            breaker.reason, operation="list", endpoint=name, path=path, hint=breaker.hint, retry_after=wait
        )

    def _longest(self, names: Iterable[str]) -> tuple[float, _Breaker]:
        now = self._clock()
        waits = [(breaker.closed_until - now, breaker) for name in names if (breaker := self._breakers.get(name))]
        return max((each for each in waits if each[0] > 0), default=(0.0, _Breaker()), key=lambda each: each[0])

    def failed(self, name: str, error: CrossdockError) -> bool:
        """Note that an operation failed. True if it was the endpoint's fault, not the file's."""
        if isinstance(error, Throttled):
            if error.operation not in _AT_THE_DOOR:
                return False
        elif not isinstance(error, (ConnectionFailed, AuthenticationFailed)):
            return False
        if error.endpoint not in (name, ""):
            return False
        breaker = self._breakers.setdefault(name, _Breaker())
        if breaker.closed_until > self._clock() and not isinstance(error, AuthenticationFailed):
            # Of the same mishap: attempts that were under way when it happened.
            return True
        breaker.failures += 1
        if isinstance(error, Throttled):
            # There may be room again at any moment: the pauses do not grow.
            breaker.failures = min(breaker.failures, _FAILURES)
        if isinstance(error, AuthenticationFailed):
            pause = error.retry_after or _LOCKED_OUT
        elif breaker.failures >= _FAILURES:
            pause = min(_LONGEST, _PAUSE * 2.0 ** (breaker.failures - _FAILURES))
        else:
            return True
        breaker.closed_until = self._clock() + pause
        breaker.reason, breaker.hint = f"{name} is left alone after: {error.message}", error.hint
        return True

    def worked(self, *names: str) -> None:
        """Note that operations succeeded."""
        for name in names:
            self._breakers.pop(name, None)
