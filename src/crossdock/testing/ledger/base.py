"""What the cases share: files to plan, ways to bring a transfer to a state, the clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Any

from crossdock.ledger.base import Event, Lease, Ledger, Planned, State, Transfer
from crossdock.storage.base import Entry

__all__ = [
    "DAY",
    "MODIFIED",
    "ODD_NAMES",
    "RECEIPT",
    "LedgerClock",
    "add",
    "bring_to",
    "claim_one",
    "entry",
    "got",
    "listing",
    "planned",
    "steps",
    "unknown",
]

MODIFIED = datetime(2026, 11, 20, 6, 30, 0, 123456, tzinfo=UTC)
RECEIPT: dict[str, Any] = {
    "size": 5,
    "sha256": "ab" * 32,
    "notes": ["é", "\\", "\udcff"],
    "target_entry": {"etag": "x"},
}
DAY = 86400.0
ODD_NAMES = [
    "plain.csv",
    "with space/and 'quotes'/\"both\".csv",
    "back\\slash.csv",
    "\\u0000 as text",
    "100%_[a-z]*?.csv",
    "é/e\u0301/名前.csv",
    "not utf-8 \udcff\udc80",
    "new\nline\ttab",
    "nul \x00 in a key",
    "emoji 🚚",
    "x" * 1024,
    "$1 :now ;-- drop",
]


class LedgerClock(ABC):
    """Moves the ledger's own time; it may stand still in between."""

    @abstractmethod
    async def move(self, seconds: float) -> None:
        """Forward, or back."""


def entry(path: str = "outbox/a.csv", size: int | None = 5, **more: Any) -> Entry:
    return Entry(path=path, size=size, **{"modified": MODIFIED, **more})


def planned(path: str = "outbox/a.csv", *, flow: str = "statements", **more: Any) -> Planned:
    fields = {"source": "bank", "entry": entry(path), "target": "lake", "target_path": f"in/{path}", **more}
    return Planned(flow=flow, **fields)


async def add(ledger: Ledger, *paths: str, **more: Any) -> list[int]:
    added = await ledger.add([planned(path, **more) for path in paths or ("outbox/a.csv",)], who="poll")
    return [each.id for each in added]


async def claim_one(ledger: Ledger, owner: str = "w1", lease: float = 60.0) -> Lease:
    (found,) = await ledger.claim(owner, lease=lease)
    return found


async def got(ledger: Ledger, id: int) -> Transfer:
    found = await ledger.get(id)
    assert found is not None
    return found


async def bring_to(ledger: Ledger, state: State, path: str = "outbox/a.csv") -> int:
    """One transfer, alone in the ledger as far as claims go, in that state and under no lease (but running)."""
    (id,) = await add(ledger, path)
    if state is State.PENDING:
        return id
    if state is State.CANCELLED:
        await ledger.cancel([id], who="me", why="test")
        return id
    if state is State.SKIPPED:
        await ledger.skip([id], who="me", why="test")
        return id
    (lease,) = [each for each in await ledger.claim("w1", limit=100) if each.id == id]
    if state is State.FAILED:
        await ledger.failed(lease, "no such bucket")
    elif state is State.DONE:
        await ledger.delivered(lease, RECEIPT, owed=False)
    elif state is State.DELIVERED:
        await ledger.delivered(lease, RECEIPT)
        await ledger.retry_in(lease, 0, "archive failed")
    return id


async def listing(entries: Iterable[Entry]) -> AsyncIterator[Entry]:
    for each in entries:
        yield each


async def unknown(
    ledger: Ledger, entries: Iterable[Entry], flow: str = "statements", source: str = "bank"
) -> list[str]:
    return [found.path async for found in ledger.unknown(flow, source, listing(entries))]


def steps(events: Iterable[Event]) -> list[tuple[str | None, str]]:
    return [(each.was, each.now) for each in events]
