"""A clock that moves when it is told to."""

from __future__ import annotations

from crossdock.testing.ledger_suite import LedgerClock


class WallClock(LedgerClock):
    def __init__(self, start: float = 1_790_000_000.0) -> None:
        self.time = start

    def now(self) -> float:
        return self.time

    async def move(self, seconds: float) -> None:
        self.time += seconds
