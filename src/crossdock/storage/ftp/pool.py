"""Connections of one account: shared by all that use it, bounded, and not made at all while it is locked out.

One connection moves one file at a time. Readers never take the last one, so that a copy within one account finds a
connection for its writer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crossdock.errors import AuthenticationFailed, ConnectionFailed, StorageError, Throttled
from crossdock.storage.accounts import Breaker, Pools, account_of, join_pool, leave_pool
from crossdock.storage.ftp.connecting import Connector
from crossdock.storage.ftp.connection import Connection
from crossdock.storage.ftp.wire import Learned, Lost, Violation

if TYPE_CHECKING:
    from crossdock.storage.ftp.settings import FtpSettings

__all__ = ["Account", "Pool", "leave", "pool_for"]

log = logging.getLogger("crossdock.storage.ftp")

Use = Literal["short", "read", "write"]

_LOWERED = 600.0
"""Seconds until one more connection is tried again, after the server said that there are too many."""
_CUT, _GROW_AGAIN = 1.0, 30.0
"""Seconds without another sign-in, while there are connections: after one that was cut, doubled each time, at most."""
_AT_ONCE = 3
"""Sign-ins under way together, while the last good one is not older than `_TRUSTED` seconds."""
_TRUSTED = 60.0
_SESSION_AGE = 240.0
"""Seconds after which a TLS session is not relied on: ProFTPD forgets it after five minutes."""
_IDLE = 600.0


class Account(Breaker):
    """What is remembered of an account as long as the process lives."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, files: Iterable[Path | None] = ()) -> None:
        super().__init__(clock, files=files)
        self._most = 0
        self._most_until = 0.0
        self.learned = Learned()
        self.old_tls = False
        """The server cannot take over sessions of TLS 1.3."""

    def too_many(self, open_now: int) -> None:
        self._most, self._most_until = max(1, open_now), self._clock() + _LOWERED

    def most(self, wanted: int) -> int:
        return min(wanted, self._most) if self._clock() < self._most_until else wanted


class Pool:
    """At most `max_connections`, or what the server was found to allow."""

    def __init__(
        self,
        settings: FtpSettings,
        endpoint: str,
        *,
        account: Account | None = None,
        connector: Connector | None = None,
    ) -> None:
        self._settings, self._endpoint = settings, endpoint
        self.account = account or Account()
        self._connector = connector or Connector(settings, endpoint)
        self._idle: list[Connection] = []
        self._busy: dict[Connection, Use] = {}
        self._making = 0
        self._sign_in = asyncio.Lock()
        self._sign_ins = asyncio.Semaphore(_AT_ONCE)
        self._signed_in_at = -_TRUSTED
        self._waiting: deque[tuple[asyncio.Future[None], Use]] = deque()
        self._grow_after = 0.0
        self._cut = _CUT
        self._partings: set[Future[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False
        self.users = 0

    @property
    def most(self) -> int:
        return self.account.most(self._settings.max_connections)

    async def acquire(self, use: Use = "short") -> Connection:
        """A connection of one's own; give it back with `release`. Raises what `Connector.sign_in` raises."""
        while True:
            if self._closed:
                raise self._error(ConnectionFailed, "the endpoint is closed")
            if self._may(use):
                found = self._take()
                if found is not None:
                    self._busy[found] = use
                    return found
                if self._can_grow():
                    made = await self._make()
                    if made is not None:
                        self._busy[made] = use
                        return made
                    continue
            if self._idle:
                # Not for this one; it may have been woken in place of one that it is for.
                self._wake()
            await self._wait(use)

    def _may(self, use: Use) -> bool:
        if use != "read":
            return True
        reading = sum(other == "read" for other in self._busy.values())
        return reading < max(self.most - 1, 1)

    def _take(self) -> Connection | None:
        while self._idle:
            found = self._idle.pop()
            old = found.tls is not None and (
                time.monotonic() - found.made > _SESSION_AGE or (self.account.old_tls and not found.old_tls)
            )
            if not old and found.alive and not found.stale():
                return found
            self._part(found)
        return None

    def _can_grow(self) -> bool:
        total = len(self._busy) + len(self._idle) + self._making
        return total < self.most and (not total or time.monotonic() >= self._grow_after)

    async def _make(self) -> Connection | None:
        """None: the server wants no more of them, but there are some to wait for."""
        self._making += 1
        connection = Connection(self._settings, self.account.learned)
        try:
            # One at a time: a wrong password must not count several times over. One that was just good may not be.
            while not self._trusted():
                async with self._sign_in:
                    if not self._trusted():
                        await self._try(connection)
                        break
            else:
                async with self._sign_ins:
                    await self._try(connection)
        except BaseException as error:
            self._part(connection)
            others = len(self._busy) + len(self._idle)
            if isinstance(error, AuthenticationFailed) and error.__cause__ is not None:
                self.account.trip(error)
            elif isinstance(error, Throttled):
                # Of those that are signing in now, each that is refused as well lowers it further.
                self.account.too_many(others + self._making - 1)
            if others and isinstance(error, (Throttled, ConnectionFailed)):
                self._grow_later(_GROW_AGAIN if isinstance(error, Throttled) else self._cut)
                log.info("goes on with %d connections: %s", others, error)
                return None
            raise
        finally:
            self._making -= 1
            self._wake_all()
        if self._closed:
            self._part(connection)
            raise self._error(ConnectionFailed, "the endpoint is closed")
        if self._keeper is None and self._settings.keepalive:
            self._keeper = asyncio.create_task(self._keep_alive())
        return connection

    def _grow_later(self, seconds: float) -> None:
        now = time.monotonic()
        if now >= self._grow_after:  # Else another one has failed together with this one.
            self._cut = min(2 * self._cut, _GROW_AGAIN)
        self._grow_after = max(self._grow_after, now + seconds)
        # Who waits by then may sign in himself; those who hold the others may be waiting for him.
        asyncio.get_running_loop().call_later(seconds, self._wake_all)

    def _trusted(self) -> bool:
        return time.monotonic() - self._signed_in_at < _TRUSTED

    async def _try(self, connection: Connection) -> None:
        self.account.check(self._endpoint)
        await connection.run(self._signed_in, connection)
        self._signed_in_at = time.monotonic()
        self._cut = _CUT

    def _signed_in(self, connection: Connection) -> None:
        self._connector.sign_in(connection, old_tls=self.account.old_tls)

    async def _wait(self, use: Use) -> None:
        """Until something changes. Raises `Throttled` if those who hold all connections wait themselves."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        place = (waiter, use)
        self._waiting.append(place)
        patience = self._settings.timeout
        alarm = loop.call_later(patience, _ring, waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                # It was this one's turn, and is the next one's now.
                self._wake()
            raise
        except TimeoutError:
            moved = max((one.used for one in self._busy), default=time.monotonic())
            # On a slow line a chunk, or a server's last word, takes longer.
            if time.monotonic() - moved > patience and not any(one.at_work for one in self._busy):
                raise self._error(
                    Throttled,
                    f"all {len(self._busy)} connections are held by transfers that wait for another one",
                    "raise 'max_connections' at this endpoint: a copy within one account needs two",
                    operation="wait",
                ) from None
        finally:
            alarm.cancel()
            if place in self._waiting:
                self._waiting.remove(place)

    def release(self, connection: Connection) -> None:
        """Safe to repeat. What is in an unknown state is dropped."""
        if self._busy.pop(connection, None) is None:
            return
        if connection.alive and not self._closed:
            connection.used = time.monotonic()
            self._idle.append(connection)
        else:
            self._part(connection)
            # Nor was anything heard of these since: a firewall forgot them, or the server stood still. Each would cost
            # `timeout` anew.
            silent = time.monotonic() - self._settings.timeout
            for other in [one for one in self._idle if one.used < silent]:
                self._idle.remove(other)
                self._part(other)
        self._wake()

    def _wake(self) -> None:
        """A connection is free: for whoever has waited longest and may have it."""
        for place in self._waiting:
            waiter, use = place
            if not waiter.done() and self._may(use):
                self._waiting.remove(place)
                waiter.set_result(None)
                return

    def _wake_all(self) -> None:
        while self._waiting:
            waiter, _ = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def _part(self, connection: Connection) -> None:
        if not connection.alive:
            connection.kill()
        parting = connection.close()
        self._partings.add(parting)
        parting.add_done_callback(self._partings.discard)

    def step_down(self, connection: Connection) -> bool:
        """After a session that was refused on a data connection: whether it may work on another connection."""
        connection.broken = True
        if connection.overlooked or time.monotonic() - connection.made > _SESSION_AGE:
            return True
        if connection.old_tls:
            return False
        self.account.old_tls = True
        return True

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self._settings.keepalive / 2)
            now = time.monotonic()
            due = [one for one in self._idle if now - one.used > self._settings.keepalive]
            for connection in due:
                if connection not in self._idle:
                    continue
                self._idle.remove(connection)
                self._busy[connection] = "short"
                try:
                    await connection.run(connection.wire.ask, b"NOOP")
                except (Lost, Violation) as error:
                    log.debug("an idle connection has ended: %s", error)
                    connection.broken = True
                if now - connection.made > _IDLE:
                    connection.broken = True
                self.release(connection)

    async def close(self) -> None:
        """Close all connections; who still waits gets an error."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._wake_all()
        for connection in self._busy:
            connection.kill()
        for connection in (*self._idle, *self._busy):
            self._part(connection)
        self._idle.clear()
        self._busy.clear()
        await asyncio.gather(*map(asyncio.wrap_future, list(self._partings)), return_exceptions=True)

    def _error(
        self, kind: type[StorageError], reason: str, hint: str | None = None, *, operation: str = "connect"
    ) -> StorageError:
        return kind(reason, operation=operation, endpoint=self._endpoint, hint=hint)


def _ring(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


_POOLS = Pools[Pool]()
_ACCOUNTS: dict[str, Account] = {}
_OWN = frozenset({"root", "staging", "verify"})


def _key(settings: FtpSettings) -> str:
    return account_of(settings, _OWN, (settings.password, settings.client_key_passphrase))


def pool_for(settings: FtpSettings, endpoint: str) -> Pool:
    """The account's pool in this event loop. Leave it by `leave` when you are done."""
    key = _key(settings)
    files = [secret.path for secret in (settings.password, settings.client_key_passphrase) if secret is not None]
    files += [path for path in (settings.ca_file, settings.client_certificate, settings.client_key) if path]
    account = _ACCOUNTS.setdefault(key, Account(files=files))
    return join_pool(_POOLS, key, lambda: Pool(settings, endpoint, account=account))


async def leave(settings: FtpSettings, pool: Pool) -> None:
    """The counterpart of `pool_for`."""
    await leave_pool(_POOLS, _key(settings), pool)
