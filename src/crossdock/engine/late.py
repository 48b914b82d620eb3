"""Whether the files that a flow expects have come: asked of the ledger, told once for each deadline that was missed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta

from crossdock.engine.notices.notice import Notice
from crossdock.engine.notices.outbox import Outbox
from crossdock.flows.expect import Arrival, Due, Late, due, late
from crossdock.flows.flow import Flow
from crossdock.ledger.base import Ledger, Query

__all__ = ["LATE", "check_late", "missing"]

log = logging.getLogger("crossdock.engine")

LATE = "late"
"""The kind of the ledger's marks: one for each deadline that was missed and told."""
_MET = "late.met"
"""One for each deadline that was met, so that its files are not counted again."""
_SINCE = "late.since"
"""One for each flow: when it was first asked about. Nobody is late for what was not expected yet."""
_BACK = timedelta(days=20)
"""Earlier deadlines that can matter are not older."""
_PAGE = 1000


async def check_late(
    flow: Flow,
    ledger: Ledger,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    outbox: Outbox | None = None,
) -> list[Late]:
    """Deadlines of the last day that were missed and that nobody was told of yet. Tells, through `outbox` if given.

    Those that passed before the first call ever are nobody's fault. The notices are durable before the deadline
    counts as told. Raises `LedgerError`.
    """
    now = clock()
    open_, missed = await _undecided(flow, ledger, now)
    if not open_:
        return []
    found = [one for one in await missing(flow, ledger, now, missed) if one.due in open_]
    short = {one.key for one in found}
    for key in (one.key for one in open_):
        if key not in short:
            await ledger.mark(flow.name, _MET, key)
    news = []
    for one in found:
        if outbox is not None:
            await outbox.put(_notice(flow, ledger, one))
        if await ledger.mark(flow.name, LATE, one.key, value={"text": str(one)}):
            log.warning("flow %s is late: %s", flow.name, one)
            news.append(one)
    if news and outbox is not None:
        await outbox.flush()
    return news


async def missing(flow: Flow, ledger: Ledger, now: datetime, missed: frozenset[str] | None = None) -> list[Late]:
    """All deadlines of the last day that were missed, told or not; nothing is recorded."""
    deadlines = due(flow, now)
    if not deadlines:
        return []
    if missed is None:
        missed = await _keys(flow, ledger, LATE, now)
    since = min(one.since(missed) for one in deadlines)
    return late(flow, now, await _arrivals(flow, ledger, since), missed)


async def _undecided(flow: Flow, ledger: Ledger, now: datetime) -> tuple[list[Due], frozenset[str]]:
    deadlines = due(flow, now)
    if not flow.expect:
        return [], frozenset()
    # Marks with a time at which they are due are never pruned.
    if await ledger.mark(flow.name, _SINCE, "first", due=now):
        return [], frozenset()
    (first,) = await ledger.marks(flow.name, _SINCE)
    missed, met = await _keys(flow, ledger, LATE, now), await _keys(flow, ledger, _MET, now)
    told = missed | met
    return [one for one in deadlines if one.deadline > first.at and one.key not in told], missed


async def _keys(flow: Flow, ledger: Ledger, kind: str, now: datetime) -> frozenset[str]:
    after = f"{now.astimezone(UTC) - _BACK:%Y-%m-%d}"
    found: set[str] = set()
    while page := await ledger.marks(flow.name, kind, limit=_PAGE, after=after):
        found.update(mark.key for mark in page)
        after = page[-1].key
    return frozenset(found)


async def _arrivals(flow: Flow, ledger: Ledger, since: datetime) -> Collection[Arrival]:
    """Each file once, however many destinations it has, when it came first: it may have been moved back since."""
    root = f"{flow.source.path}/" if flow.source.path else ""
    found: dict[tuple[str, str], Arrival] = {}
    before: int | None = None
    while page := await ledger.find(Query(flow=flow.name, added_after=since, limit=_PAGE, before=before)):
        before = page[-1].id
        for each in page:
            arrival = Arrival(each.entry.path.removeprefix(root), each.entry.size, each.added)
            found[each.entry.path, each.fingerprint] = arrival
    return found.values()


def _notice(flow: Flow, ledger: Ledger, one: Late) -> Notice:
    wanted = one.due.expectation
    digest = hashlib.sha256(one.key.encode("utf-8", "surrogateescape")).hexdigest()
    return Notice(
        id=f"{ledger.id}-late-{one.due.deadline:%Y%m%dT%H%MZ}-{digest[:8]}",
        kind="late",
        flow=flow.name,
        at=one.due.deadline,
        text=str(one),
        data={
            "match": wanted.match,
            "deadline": one.due.deadline.isoformat(),
            "min_count": wanted.min_count,
            "min_size": wanted.min_size,
            "arrived": one.arrived,
        },
    )
