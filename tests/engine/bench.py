"""One flow between real endpoints, one of which can be killed, or visited, at any call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossdock.engine.actions import Actions
from crossdock.engine.endpoints import Endpoints
from crossdock.engine.notices.notice import Notice
from crossdock.errors import CrossdockError
from crossdock.flows.flow import After, Flow, Mail, Place, Rule, Webhook
from crossdock.ledger.base import Lease, Planned, State
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.storage.base import Backend, Entry
from crossdock.storage.layers import Layer
from crossdock.storage.local import LocalSettings
from crossdock.storage.storage import Storage
from tests.engine.clocks import Clock

DAY = 86400.0


class Killed(BaseException):
    """As if the process ended here."""


class Fragile(Layer):
    """Dies before or after the n-th call that changes or looks at something; lets somebody in at that moment."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.calls: list[str] = []
        self.die_at: tuple[int, str] | None = None
        self.deadly: BaseException = Killed()
        self.intrude: dict[tuple[str, str], Any] = {}
        """(operation, "before" | "after") → what somebody else does then, once."""

    async def open(self) -> None:
        await self.inner.open()

    async def _call(self, operation: str, path: str, action: Any, *, repeatable: bool) -> Any:
        self.calls.append(operation)
        number = len(self.calls)
        if self.die_at == (number, "before"):
            raise self.deadly
        await self._let_in(operation, "before")
        found = await action()
        await self._let_in(operation, "after")
        if self.die_at == (number, "after"):
            raise self.deadly
        return found

    async def _let_in(self, operation: str, when: str) -> None:
        visitor = self.intrude.pop((operation, when), None)
        if visitor is not None:
            await visitor()


class Bench:
    """One flow between two endpoints, and the steps of its transfers."""

    def __init__(self, source: Fragile, target: Path, ledger: SqliteLedger, clock: Clock) -> None:
        self.fragile, self.ledger, self.clock = source, ledger, clock
        self.storage = Storage(source)
        self.plain = Storage(source.inner)
        self.target = target
        self.sent: list[tuple[str, Notice]] = []
        self.refuse: CrossdockError | None = None
        self.flow = Flow(name="statements", source=Place("bank", "outbox"), rules=(Rule(name="rules[0]"),))

    def actions(self, after: After | None = None, **more: Any) -> Actions:
        """A new process."""
        self.flow = replace(self.flow, after=after or self.flow.after, **more)

        def new(name: str) -> Storage:
            return self.storage if name == "bank" else Storage(LocalSettings(root=self.target).backend(name))

        async def send(to: Webhook | Mail, notice: Notice) -> None:
            if self.refuse is not None:
                raise self.refuse
            self.sent.append((type(to).__name__, notice))

        return Actions(self.flow, Endpoints(new), self.ledger, clock=self.clock, send=send)

    async def write(self, path: str = "outbox/a/b.csv", data: bytes = b"12345") -> Entry:
        """A partner's file, as a listing shows it."""
        await self.plain.write_bytes(path, data)
        folder = path.rpartition("/")[0]
        (entry,) = [entry async for entry in self.plain.scan(folder) if entry.path == path]
        return entry

    async def delivered(self, entry: Entry, *targets: str) -> list[Lease]:
        """One transfer for each target, all delivered, under leases."""
        planned = [
            Planned(flow="statements", source="bank", entry=entry, target=name, target_path=f"in/{entry.path}")
            for name in targets or ("lake",)
        ]
        await self.ledger.add(planned, who="poll")
        leases = await self.ledger.claim("w1", limit=10)
        for lease in leases:
            await self.ledger.delivered(lease, self.receipt(lease))
        return leases

    def receipt(self, lease: Lease) -> dict[str, Any]:
        return {"finished": self.clock().isoformat(), "size": lease.transfer.entry.size, "sha256": "ab" * 32}

    async def reclaim(self) -> Lease:
        """After a crash."""
        self.clock.move(61)
        (lease,) = await self.ledger.claim("w2")
        assert lease.transfer.state is State.DELIVERED
        return lease

    async def follow(self, lease: Lease, after: After | None = None, **more: Any) -> tuple[str, bool]:
        words, gone = await self.actions(after, **more).follow(lease, lease.transfer.receipt or self.receipt(lease))
        await self.ledger.done(lease, words, gone=gone)
        return words, gone

    async def names(self) -> set[str]:
        return {entry.path async for entry in self.plain.walk("")}

    async def read(self, path: str) -> bytes:
        return await self.plain.read_bytes(path)


everywhere = pytest.mark.parametrize("place", ["local", "openssh", "ceph", "moto"], indirect=True)
