"""A clock that the test moves; whoever sleeps on it, moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class Clock:
    """Called: the time. `sleep` is instant, and later it is later."""

    def __init__(self, text: str = "2026-11-20T06:00:00") -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=UTC)
        self.naps: list[float] = []

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        """For a ledger."""
        return self.now.timestamp()

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.naps.append(seconds)
        self.move(seconds)
