"""Transfers of the ledger, as the commands print them: aligned for people, one JSON object per line for scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdock.cli.engine import opened_ledger
from crossdock.engine.lookup import arrived_path
from crossdock.errors import NotFound, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from crossdock.cli.session import Session
    from crossdock.ledger.base import Ledger, Transfer

__all__ = [
    "absent",
    "aligned",
    "existing_ledger",
    "moment",
    "source_of",
    "target_of",
    "transfer_json",
]


@asynccontextmanager
async def existing_ledger(session: Session, written: str | None) -> AsyncIterator[Ledger]:
    """For commands that only look: raises `NotFound` instead of making a ledger."""
    _require(session.config.new_ledger(written))
    async with opened_ledger(session, written) as found:
        yield found


def absent(ledger: Ledger) -> str | None:
    """The file of a ledger that is not there yet: whoever opens it makes it, and it is theirs alone."""
    from crossdock.ledger.sqlite import SqliteLedger

    if not isinstance(ledger, SqliteLedger):
        return None
    try:
        Path(ledger.where).stat()
    except (FileNotFoundError, NotADirectoryError):
        return ledger.where
    except OSError:
        pass  # Opening it says what is wrong.
    return None


def _require(ledger: Ledger) -> None:
    where = absent(ledger)
    if where is not None:
        raise NotFound(
            "there is no ledger yet",
            operation="open",
            endpoint="ledger",
            path=where,
            hint="'crossdock run' makes it; if it is elsewhere, pass --ledger or --config",
        )


def moment(at: datetime) -> str:
    """In UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def source_of(transfer: Transfer) -> str:
    return f"{transfer.source}:{shown(transfer.entry.path)}"


def target_of(transfer: Transfer) -> str:
    return f"{transfer.target}:{shown(arrived_path(transfer))}"


def transfer_json(transfer: Transfer) -> dict[str, Any]:
    """What is unknown is left out."""
    entry, receipt = transfer.entry, transfer.receipt or {}
    found = {
        "id": transfer.id,
        "flow": transfer.flow,
        "state": str(transfer.state),
        "source": transfer.source,
        "path": entry.path,
        "size": entry.size,
        "modified": entry.modified.isoformat() if entry.modified else None,
        "fingerprint": transfer.fingerprint,
        "target": transfer.target,
        "target_path": arrived_path(transfer),
        "stored_size": receipt.get("size"),
        "sha256": receipt.get("sha256"),
        "verified": receipt.get("verified"),
        "attempts": transfer.attempts,
        "rescues": transfer.rescues or None,
        "owner": transfer.owner,
        "ready": transfer.ready.isoformat() if transfer.ready else None,
        "error": transfer.error,
        "why": transfer.why,
        "gone": transfer.gone or None,
        "added": transfer.added.isoformat(),
        "delivered": receipt.get("finished"),
        "changed": transfer.changed.isoformat(),
        "changed_by": transfer.changed_by,
    }
    return {key: value for key, value in found.items() if value is not None}


def aligned(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> Iterator[str]:
    """Lines of columns; the last one is as long as it is. `right`: columns of figures."""
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        yield "  ".join([*cells, row[-1]]).rstrip()
