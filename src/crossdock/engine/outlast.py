"""What was killed holds its leases until they end: whoever wants all done waits for that, and for nobody who lives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta

from crossdock.ledger.base import LEASE, Ledger, Query, State

__all__ = ["outlast"]

_LOOK_AGAIN = 1.0
_SLACK = timedelta(seconds=5)
"""How long a lease that ended may stay before somebody has taken it over: the ledger's clock is not ours."""
_SEEN = 1000


async def outlast(
    ledger: Ledger,
    flows: Iterable[str],
    clock: Callable[[], datetime],
    work_off: Callable[[], Awaitable[None]],
    tell: Callable[[int, float], object],
) -> None:
    """`work_off` until what is held now was released, or its lease ended, or was prolonged: then somebody is at it.

    That takes a lease at most, and a quarter of one beside workers that live. `tell`: how many, and seconds at most.
    """
    names = list(flows)
    waited = _not_over(await _held(ledger, names), clock())
    if waited:
        tell(len(waited), max(0.0, (max(waited.values()) - clock()).total_seconds()))
    while waited:
        await asyncio.sleep(_LOOK_AGAIN)
        await work_off()
        held = await _held(ledger, names)
        waited = _not_over({key: end for key, end in waited.items() if held.get(key, end + _SLACK) <= end}, clock())


async def _held(ledger: Ledger, flows: Iterable[str]) -> dict[tuple[int, int], datetime]:
    """Transfer and fence → the end of its lease; of the newest 1,000 of each flow."""
    states = frozenset({State.RUNNING, State.DELIVERED})
    return {
        (each.id, each.fence): each.ready
        for flow in flows
        for each in await ledger.find(Query(flow=flow, states=states, limit=_SEEN))
        if each.owner is not None and each.ready is not None
    }


def _not_over(held: dict[tuple[int, int], datetime], now: datetime) -> dict[tuple[int, int], datetime]:
    longest = timedelta(seconds=LEASE) + _SLACK
    return {key: end for key, end in held.items() if -_SLACK < end - now < longest}
