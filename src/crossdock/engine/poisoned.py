"""Transfers that the ledger put away because they ended their workers: nobody was left to tell, so it is told here."""

from __future__ import annotations

from datetime import datetime, timedelta

from crossdock.engine.actions import Actions
from crossdock.ledger.base import Ledger, Query, State, Transfer
from crossdock.ledger.rows import POISON

__all__ = ["check_poisoned"]

_TOLD = "put away"
"""The kind of the ledger's marks: one for each that was told."""
_NEWS_FOR = timedelta(days=1)
_PAGE = 1000
_ALL = 1_000_000


async def check_poisoned(flow: str, ledger: Ledger, now: datetime, actions: Actions) -> list[Transfer]:
    """Those of the last day, the newest thousand that failed, of which nobody was told yet. Tells.

    The notices are durable before one counts as told, and go with the next `flush`. Raises `LedgerError`.
    """
    found = await ledger.find(Query(flow=flow, states=frozenset({State.FAILED}), limit=_PAGE))
    recent = [each for each in found if each.why.startswith(POISON) and now - each.changed < _NEWS_FOR]
    if not recent:
        return []
    told = {mark.key for mark in await ledger.marks(flow, _TOLD, limit=_ALL)}
    news = []
    for each in recent:
        key = f"{each.id}/{each.fence}"
        if key in told:
            continue
        await actions.poisoned(each)
        if await ledger.mark(flow, _TOLD, key):
            news.append(each)
    return news
