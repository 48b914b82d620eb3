"""Transfers that are put away because they ended their workers.

When it is claimed for the last time, what its attempts have staged is removed, and it fails. If that ends the worker as
well, the ledger puts it away: nobody is left to tell, so it is told here.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from crossdock.engine.actions import Actions
from crossdock.errors import TransferError
from crossdock.ledger.base import Ledger, Query, State, Transfer
from crossdock.ledger.rows import POISON

__all__ = ["check_poisoned", "ends_workers", "put_away"]

_TOLD = "put away"
"""The kind of the ledger's marks: one for each that was told."""
_NEWS_FOR = timedelta(days=1)
_PAGE = 1000
_ALL = 1_000_000


def ends_workers(transfer: Transfer, ledger: Ledger) -> bool:
    """Whether this is the last time that it was claimed: what its attempts have left is all that is looked at.

    A failure on the way to that makes it no better, and does not count as an end in peace.
    """
    return transfer.rescues >= ledger.max_rescues


def put_away(transfer: Transfer) -> TransferError:
    """As what it fails then."""
    reason = f"{POISON} {transfer.rescues} times in a row: it stops or kills its workers"
    hint = "see what ended them (their logs, the machine's memory, a step of your own) before it is tried again"
    return TransferError.at("deliver", transfer.target, transfer.target_path, reason, hint=hint)


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
