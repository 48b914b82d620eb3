"""Connections of one account (host, port, user): shared, bounded, made one at a time, and not at all while locked out.

Servers drop connections that come too fast (MaxStartups) and lock out addresses and accounts that fail to sign in; an
account's connections are therefore shared by all endpoints of the process that use it in the same way.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from typing import TYPE_CHECKING

from crossdock.errors import AuthenticationFailed, ConnectionFailed, CrossdockError
from crossdock.storage.accounts import Breaker, Pools, account_of, join_pool, leave_pool
from crossdock.storage.sftp.connect import Connection, Connector
from crossdock.storage.sftp.replies import SameHandle

if TYPE_CHECKING:
    from crossdock.storage.secret import Secret
    from crossdock.storage.sftp.settings import SftpSettings

__all__ = ["Breaker", "Pool", "leave", "pool_for"]

log = logging.getLogger("crossdock.storage.sftp")

_GROW_AGAIN = 30.0
_STAGGER = 0.05
_BRIEF = 1024 * 1024
"""Bytes of a stream that is over before another connection is made."""


class Pool:
    """At most `max_connections`, each shared by at most `streams_per_connection` streams and operations."""

    def __init__(
        self,
        settings: SftpSettings,
        endpoint: str,
        *,
        breaker: Breaker | None = None,
        connector: Connector | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._connector = connector or Connector(settings, endpoint)
        self._breaker = breaker or Breaker()
        self._most = settings.max_connections
        self._streams = settings.streams_per_connection
        self._connections: list[Connection] = []
        self._making: asyncio.Task[None] | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._grow_after = 0.0
        self._closed = False
        self.users = 0
        self.read_size: int | None = None
        self.careful = False
        """This server has answered reads wrongly: ask for less, one request at a time."""

    async def acquire(self, *, stream: bool = False, wait: bool = False, size: int | None = None) -> Connection:
        """A live connection; give it back with `release`. A `stream` prefers one to itself, and waits until it is made.

        One of a few bytes (`size`) does not: far away, the dozen round trips of a sign-in take longer than the file.

        With `wait` it is one with room. Only those that begin something may wait for room: were writers to wait for
        readers of the same account to end, and these for their writers, nobody would ever go on.
        Raises what `Connector.make` raises.
        """
        while True:
            if self._closed:
                raise ConnectionFailed("the endpoint is closed", operation="connect", endpoint=self._endpoint)
            brief = size is not None and size <= _BRIEF
            found = self._take(stream=stream and not brief, wait=wait)
            if found is not None:
                if brief and stream and found.session.load > 1 and self._can_grow():
                    self._grow_beside()
                return found
            if self._can_grow():
                await self._grow()
            else:
                waiter = asyncio.get_running_loop().create_future()
                self._waiting.append(waiter)
                try:
                    await waiter
                except asyncio.CancelledError:
                    # Whoever was cancelled is passed over; whose turn it was by then, hands it on.
                    if not waiter.cancelled():
                        self._wake()
                    raise

    def _take(self, *, stream: bool, wait: bool) -> Connection | None:
        if any(isinstance(one.session.failure, SameHandle) for one in self._connections):
            self._one_each()
        self._connections = [one for one in self._connections if one.session.alive]
        best = min(self._connections, key=lambda one: one.session.load, default=None)
        if best is None:
            return None
        grows = self._can_grow()
        if (wait or grows) and best.session.load >= (1 if stream and grows else self._streams):
            return None
        best.session.load += 1
        return best

    def _one_each(self) -> None:
        if self._streams > 1:
            log.warning("%s mixes up files that are open at once: one at a time per connection", self._endpoint)
        self._streams = 1

    def _can_grow(self) -> bool:
        if len(self._connections) >= self._most:
            return False
        return not self._connections or asyncio.get_running_loop().time() >= self._grow_after

    def cut_parting(self, reason: Exception) -> None:
        """End the connections on which all that are at work only wait in order to give up."""
        for session in [one.session for one in self._connections]:
            if session.parting and session.parting >= session.load:
                session.fail(reason)

    def release(self, connection: Connection) -> None:
        connection.session.load -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _grow(self) -> None:
        """Wait for one more connection, which all who wait share."""
        try:
            await asyncio.shield(self._growing())
        except asyncio.CancelledError:
            if self._closed:
                raise ConnectionFailed("the endpoint is closed", operation="connect", endpoint=self._endpoint) from None
            raise
        except CrossdockError as error:
            if not self._connections:
                raise
            self._do_without(error)

    def _growing(self) -> asyncio.Task[None]:
        """Raises `AuthenticationFailed` while the account is in danger."""
        # Awaiting one that has ended would not yield: with a connection that died at once, for ever.
        if self._making is None or self._making.done():
            self._breaker.check(self._endpoint)
            self._making = asyncio.get_running_loop().create_task(self._make())
            self._making.add_done_callback(self._made)
        return self._making

    def _grow_beside(self) -> None:
        """Begin one more connection, which nobody waits for."""
        try:
            self._growing()
        except CrossdockError as error:
            self._do_without(error)

    def _do_without(self, error: CrossdockError) -> None:
        if self._can_grow():
            self._grow_after = asyncio.get_running_loop().time() + _GROW_AGAIN
            log.info("goes on with %d connections: %s", len(self._connections), error)

    def _made(self, task: asyncio.Task[None]) -> None:
        if self._making is task:
            self._making = None
        if not task.cancelled():
            task.exception()  # Known to who waited for it, or told by `_make`.
        self._wake()

    async def _make(self) -> None:
        if self._connections:
            await asyncio.sleep(random.uniform(0, _STAGGER))
        try:
            made = await self._connector.make()
        except CrossdockError as error:
            if isinstance(error, AuthenticationFailed):
                self._breaker.trip(error)
            # Here, as the next one may be wanted before what is to be done after a task is done.
            if self._connections:
                self._do_without(error)
            raise
        if self._closed:
            await made.close()
        else:
            self._connections.append(made)

    async def close(self) -> None:
        """Close all connections; who still waits gets an error."""
        self._closed = True
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)
        while self._waiting:
            self._wake()
        connections, self._connections = self._connections, []
        await asyncio.gather(*(one.close() for one in connections))


_POOLS = Pools[Pool]()
_BREAKERS: dict[str, Breaker] = {}
_OWN = frozenset({"root", "links", "staging", "verify", "fsync", "encoding", "window"})


def _secrets(settings: SftpSettings) -> tuple[Secret | None, ...]:
    return (*settings.private_key, settings.password, settings.passphrase)


def _account(settings: SftpSettings) -> str:
    return account_of(settings, _OWN, _secrets(settings))


def pool_for(settings: SftpSettings, endpoint: str) -> Pool:
    """The account's pool in this event loop. Leave it by `leave` when you are done."""
    account = _account(settings)
    files = (*(secret.path for secret in _secrets(settings) if secret), settings.certificate, *settings.known_hosts)
    breaker = _BREAKERS.setdefault(account, Breaker(files=files))
    return join_pool(_POOLS, account, lambda: Pool(settings, endpoint, breaker=breaker))


async def leave(settings: SftpSettings, pool: Pool) -> None:
    """The counterpart of `pool_for`."""
    await leave_pool(_POOLS, _account(settings), pool)
