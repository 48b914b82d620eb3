"""Endpoints in memory that fail when they are told to, and an engine over them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from crossdock.engine.delivery import Delivery
from crossdock.engine.engine import Engine
from crossdock.engine.summary import Summary
from crossdock.errors import ConfigError, ConnectionFailed, IntegrityError
from crossdock.flows.flow import Destination, Flow, Place, Retry, Rule, Settle
from crossdock.ledger.base import Query, Transfer
from crossdock.ledger.memory import MemoryLedger
from crossdock.storage.base import Entry, Expect, Reader, WriteOptions, Writer
from crossdock.storage.layers import LayeredWriter
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.storage import Storage
from tests.engine.clocks import Clock

AT_ONCE = Settle(sightings=1, seconds=0.0)


class Faulty(MemoryBackend):
    """Fails at open, read, write, chunk, abort, commit, publish (it was published all the same) or stat, as `faults`
    says."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.faults: dict[str, list[Exception]] = defaultdict(list)
        self.gates: dict[str, asyncio.Event] = {}
        """Operations that wait until they are let through."""
        self.calls: dict[str, int] = defaultdict(int)
        self.store = None

    async def strike(self, operation: str) -> None:
        self.calls[operation] += 1
        if operation in self.gates:
            await self.gates[operation].wait()
        if self.faults[operation]:
            raise self.faults[operation].pop(0)

    async def open(self) -> None:
        await self.strike("open")
        await super().open()

    async def stat(self, path: str) -> Entry:
        await self.strike("stat")
        return await super().stat(path)

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        await self.strike("scan")
        async for page in super().scan(path, recursive=recursive):
            yield page

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        await self.strike("read")
        return await super().begin_read(path, offset=offset, pin=pin)

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        await self.strike("write")
        return _FaultyWriter(await super().begin_write(path, options), self)

    async def discard(self, checkpoint: bytes) -> None:
        await self.strike("discard")
        await super().discard(checkpoint)

    def hold(self, path: str) -> bytes | None:
        node = self._files.get(path)
        return None if node is None else bytes(node.data)

    @property
    def staged(self) -> list[str]:
        return list(self._staged)


class _FaultyWriter(LayeredWriter):
    def __init__(self, inner: Writer, backend: Faulty) -> None:
        super().__init__(inner)
        self._backend = backend

    async def write(self, data: bytes) -> None:
        await self.inner.write(data)
        await self._backend.strike("chunk")

    async def abort(self) -> None:
        await self._backend.strike("abort")
        await self.inner.abort()

    async def commit(self, expect: Expect) -> Entry:
        await self._backend.strike("commit")
        entry = await self.inner.commit(expect)
        await self._backend.strike("publish")
        return entry


def lost(endpoint: str = "dst") -> ConnectionFailed:
    return ConnectionFailed("lost", operation="write", endpoint=endpoint)


def broken() -> IntegrityError:
    return IntegrityError("write dst:a: other bytes are stored")


def flow(**more: Any) -> Flow:
    found: dict[str, Any] = {
        "name": "f",
        "source": Place("src"),
        "rules": (Rule(name="all", to=(Destination(endpoint="dst"),)),),
        "settle": AT_ONCE,
        "retry": Retry(attempts=3, base=5.0, longest=5.0),
    }
    return Flow(**{**found, **more})


class House:
    """A source, two targets, a ledger, and a clock that both it and the engine go by."""

    def __init__(self, ledger: MemoryLedger, clock: Clock) -> None:
        self.ledger, self.clock = ledger, clock
        self.places = {name: Faulty(name) for name in ("src", "dst", "dst2")}
        self.src, self.dst, self.dst2 = self.places.values()
        self.said: list[Delivery] = []

    def new(self, name: str) -> Storage:
        if name not in self.places:
            raise ConfigError(f"no endpoint is called {name!r}")
        return Storage(self.places[name])

    async def put(self, path: str, data: bytes = b"data") -> None:
        await Storage(self.src).write_bytes(path, data)

    @asynccontextmanager
    async def engine(self, *flows: Flow, **more: Any) -> AsyncIterator[Engine]:
        report: Callable[[Delivery], None] = self.said.append
        async with Engine(flows, self.new, self.ledger, report=report, clock=self.clock, **more) as engine:
            yield engine

    async def run(self, *flows: Flow, patience: float = 0.0, **more: Any) -> Summary:
        async with self.engine(*flows, **more) as engine:
            return await engine.run_once(patience=patience)

    async def transfers(self) -> dict[tuple[str, str], Transfer]:
        """(source's path, target) → transfer."""
        return {(each.entry.path, each.target): each for each in await self.ledger.find(Query(limit=5000))}

    async def state(self, path: str, target: str = "dst") -> str:
        return str((await self.transfers())[path, target].state)
