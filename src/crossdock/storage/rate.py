"""A rate that several share: bytes of a transfer, requests to a service."""

from __future__ import annotations

import asyncio
import time

__all__ = ["TokenBucket"]


class TokenBucket:
    """`rate` units a second, with bursts of a second's worth; share one to share the rate."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._level, self._last = rate, time.monotonic()

    async def take(self, amount: float) -> None:
        """Wait until the bucket has paid for `amount` units; more than it can hold goes into debt."""
        now = time.monotonic()
        self._level = min(self.rate, self._level + (now - self._last) * self.rate) - amount
        self._last = now
        if self._level < 0:
            await asyncio.sleep(-self._level / self.rate)
