"""Waiting for what must not be broken off in the middle."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TypeVar

__all__ = ["to_its_end"]

T = TypeVar("T")


async def to_its_end(work: asyncio.Future[T]) -> T:
    """Await `work`. If the caller is cancelled, however often, that is heard once `work` has ended."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # noted as seen: the caller hears of the cancelling
        raise
