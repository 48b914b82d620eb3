"""Waiting for what must not be broken off in the middle, or not be left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection
from contextlib import suppress
from typing import TypeVar

__all__ = ["all_or_none", "to_its_end"]

T = TypeVar("T")


async def to_its_end(work: Awaitable[T]) -> T:
    """Await `work`. If the caller is cancelled, however often, that is heard once `work` has ended."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # noted as seen: the caller hears of the cancelling
        raise


async def all_or_none(tasks: Collection[asyncio.Task[None]], beside: Collection[asyncio.Task[None]] = ()) -> None:
    """Wait for all of the tasks; the first failure, also of one `beside` them, cancels the others and is raised.

    If the caller is cancelled, so are they. None of the tasks is under way when this ends.
    """
    try:
        # Not `gather`: it ends with the first that was cancelled, and the others were cancelled again as they clean up.
        waiting = {*tasks, *beside}
        while not waiting <= {*beside}:
            ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
