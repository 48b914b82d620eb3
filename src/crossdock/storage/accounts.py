"""What endpoints of one account share in a process: a pool in each event loop, the memory of a failed sign-in."""

from __future__ import annotations

import asyncio
import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from crossdock.errors import AuthenticationFailed
from crossdock.storage.base import Backend, not_open
from crossdock.storage.secret import Secret
from crossdock.storage.settings import EndpointSettings

__all__ = ["LOCKED_OUT", "Breaker", "Member", "Pools", "account_of", "join_pool", "leave_pool"]

LOCKED_OUT = 300.0
"""Seconds without a new attempt after a failed sign-in or a wrong host key."""


_LARGEST = 1 << 20


class Breaker:
    """Remembers a failure that repeating would make worse, as long as the process lives.

    `files`: what signing in depends on, secrets above all; once one of them says something else, a new attempt is made.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, files: Iterable[Path | None] = ()) -> None:
        self._clock = clock
        self._files = [path for path in files if path is not None]
        self._tried: list[bytes | None] = []
        self._until = 0.0
        self._error: AuthenticationFailed | None = None
        self._shown = ""

    def trip(self, error: AuthenticationFailed) -> None:
        """What `check` raised is no new failure: it ends when the first one does."""
        if self._error is not None and error.__cause__ is self._error:
            return
        self._error, self._until = error, self._clock() + LOCKED_OUT
        self._shown = f"{datetime.now(UTC) + timedelta(seconds=LOCKED_OUT):%H:%M:%S} UTC"

    def check(self, endpoint: str) -> None:
        """Raises the same error again until its time is over. To be called before each attempt."""
        last, self._tried = self._tried, [_content(path) for path in self._files]
        if self._error is None:
            return
        if self._clock() >= self._until or self._tried != last:
            self._error = None
            return
        raise type(self._error)(
            f"{self._error.reason.rstrip('.')}; no new attempt before {self._shown}, so that the account is not locked",
            operation="connect",
            endpoint=endpoint,
            hint=self._error.hint,
        ) from self._error


def _content(path: Path) -> bytes | None:
    """A digest of it; None if it cannot be read. Not its time: who writes the same again has changed nothing."""
    try:
        if not path.is_file():
            return None  # a pipe would be waited for
        with path.open("rb") as file:
            return hashlib.sha256(file.read(_LARGEST)).digest()
    except OSError:
        return None


class _Pool(Protocol):
    users: int

    async def close(self) -> None: ...


_P = TypeVar("_P", bound=_Pool)
Pools = WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _P]]
"""By account, for each event loop."""


def account_of(settings: EndpointSettings, own: Collection[str], secrets: Iterable[Secret | None]) -> str:
    """What tells an account, used in one way, from others: all settings but an endpoint's `own`, and whose secrets."""
    paths = [str(secret.path) for secret in secrets if secret is not None]
    return settings.model_dump_json(exclude=set(own)) + repr(paths)


def join_pool(pools: Pools[_P], account: str, make: Callable[[], _P]) -> _P:
    """The account's pool in this event loop, made if need be. Whoever joins leaves by `leave_pool`."""
    here = pools.setdefault(asyncio.get_running_loop(), {})
    found = here.get(account)
    if found is None:
        found = here[account] = make()
    found.users += 1
    return found


async def leave_pool(pools: Pools[_P], account: str, pool: _P) -> None:
    """Closes the pool when its last user leaves."""
    pool.users -= 1
    if pool.users == 0:
        here = pools.get(asyncio.get_running_loop(), {})
        if here.get(account) is pool:
            del here[account]
        await pool.close()


class Member(ABC, Generic[_P]):
    """An endpoint that takes part in its account's pool, from `join` to `leave`."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._pool: _P | None = None

    @abstractmethod
    def _join(self) -> _P:
        """The account's pool, by `join_pool`."""

    @abstractmethod
    async def _leave(self, pool: _P) -> None:
        """By `leave_pool`."""

    @property
    def pool(self) -> _P:
        if self._pool is None:
            raise not_open(self.backend.endpoint, "use")
        return self._pool

    def join(self) -> None:
        """Safe to repeat."""
        if self._pool is None:
            self._pool = self._join()

    async def leave(self) -> None:
        """Safe to repeat."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await self._leave(pool)
