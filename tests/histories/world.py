"""What a history is played on: endpoints of some kinds, and a ledger."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from crossdock.ledger.base import Ledger
from crossdock.ledger.postgres import PostgresLedger
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.storage.base import Backend
from crossdock.storage.registry import new_storage, settings_class
from crossdock.storage.retry import RetryPolicy
from tests.engine.clocks import Clock
from tests.histories.places import Heard, Place
from tests.histories.process import InlineLedger
from tests.histories.served import S3, Bucket, Folder, Ftp, Sftp, Shelf, Watched, Wire

__all__ = ["KINDS", "World"]

T = TypeVar("T")
_ID = "0123456789abcdef"
_SWAPS = frozenset({"posix-rename", "hardlink"})
KINDS = ("memory", "local", "sftp", "sftp that swaps", "ftp", "ftp that swaps", "sftp in place", "ftp in place", "s3")


async def _at_once(seconds: float) -> None:
    """Instead of sleeping between retries."""


@dataclass
class World:
    """`kinds`: by the names of endpoints; else they are in memory. `ledger`: a file, or the address of PostgreSQL."""

    folder: Path = Path()
    kinds: Mapping[str, str] = field(default_factory=dict)
    ledger: Path | str | None = None
    wire: Wire = field(default_factory=Wire)
    _servers: dict[str, Any] = field(default_factory=dict)
    _number: int = 0

    @asynccontextmanager
    async def opened(self, clock: Clock) -> AsyncGenerator[Ledger]:
        async with AsyncExitStack() as stack:
            for kind in sorted({*self.kinds.values()}):
                served, swaps = self.folder / kind, kind.endswith("swaps")
                served.mkdir(parents=True, exist_ok=True)
                if kind.startswith("sftp"):
                    server = Sftp(served, self.wire, without=_SWAPS if swaps else frozenset())
                    self._servers[kind] = await stack.enter_async_context(server)
                elif kind.startswith("ftp"):
                    ftp = Ftp(served, self.wire, refuses_to_replace=swaps)
                    self._servers[kind] = await stack.enter_async_context(ftp)
                elif kind.startswith("s3"):
                    self._servers[kind] = stack.enter_context(S3(self.wire))
            yield await stack.enter_async_context(self._ledger(clock))

    def _ledger(self, clock: Clock) -> Ledger:
        if self.ledger is None:
            return InlineLedger(clock=clock.seconds)
        if isinstance(self.ledger, Path):
            return SqliteLedger(self.ledger, clock=clock.seconds)
        return _Postgres(self.ledger, clock)

    def place(self, endpoint: str, heard: Heard, *, etags: bool) -> Place | Shelf:
        """A new one, whatever the name stood for before."""
        kind = self.kinds.get(endpoint, "memory")
        if kind == "memory":
            return Place(endpoint, heard, etags=etags)
        self._number += 1
        name = f"{endpoint}-{self._number}-{secrets.token_hex(4)}"
        shelf: Shelf
        if kind.startswith("s3"):
            shelf = Bucket(endpoint, heard, name, versions=kind.endswith("versions"))
        else:
            shelf = Folder(endpoint, heard, self.folder / kind / name)
        shelf.swaps = kind.endswith("swaps") and endpoint != "src"
        shelf.shows_parts = kind.endswith("in place") and endpoint != "src"
        settings = settings_class(kind.partition(" ")[0]).model_validate(self._settings(kind, name))
        retry = RetryPolicy(attempts=3, sleep=_at_once)

        def opened() -> Backend:
            return Watched(new_storage(endpoint, settings, retry=retry).backend, shelf)

        shelf.opened = opened
        return shelf

    def _settings(self, kind: str, name: str) -> dict[str, Any]:
        if kind == "local":
            return {"type": "local", "root": str(self.folder / kind / name), "fsync": False}
        server = self._servers[kind]
        secret = self.folder / "secret"
        secret.touch(0o600)
        secret.write_text(Ftp.password)
        if kind.startswith("s3"):
            keys = {"access_key_id": "test", "secret_access_key": f"file:{secret}", "region": "us-east-1"}
            return {"type": "s3", "bucket": name, "endpoint_url": server.url, **keys}
        found = {"host": server.host, "port": server.port, "user": server.user, "root": f"/{name}"}
        if kind.endswith("in place"):
            found["staging"] = "none"
        if kind.startswith("sftp"):
            return {"type": "sftp", **found, "private_key": f"file:{server.key}", "host_key": server.fingerprint}
        return {"type": "ftp", **found, "password": f"file:{secret}", "timeout": 5, "connect_timeout": 1}


class _Postgres(PostgresLedger):
    """Its clock is told to the database; all is as in a new schema, whatever was in it."""

    def __init__(self, dsn: str, clock: Clock) -> None:
        super().__init__(dsn, schema=f"histories_{os.getpid()}", connections=8)
        self._clock = clock

    async def open(self, *, tables: bool = True) -> None:
        await super().open(tables=tables)
        async with self._pool.acquire() as connection:
            await connection.execute(
                f"SET search_path TO {self._schema}; "
                "TRUNCATE transfers, events, sightings, looks, marks RESTART IDENTITY; "
                f"UPDATE ledger SET id = '{_ID}'; "
                "CREATE OR REPLACE FUNCTION ledger_now() RETURNS DOUBLE PRECISION LANGUAGE sql STABLE AS "
                "$$ SELECT CAST(current_setting('histories.now') AS DOUBLE PRECISION) $$; RESET search_path"
            )
        self.id = _ID

    async def _run(self, operation: str, action: Callable[[Any], Awaitable[T]]) -> T:
        async def timed(connection: Any) -> T:
            await connection.execute("SELECT set_config('histories.now', $1, true)", repr(self._clock.seconds()))
            found = await action(connection)
            # Two that change the same in one instant are to meet.
            await asyncio.sleep(random.choice((0, 0, 0.001, 0.003)))
            return found

        return await super()._run(operation, timed)
