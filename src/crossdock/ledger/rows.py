"""Between rows of a database and what the contract speaks of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import wraps
from typing import Any, TypeVar

from crossdock.errors import LedgerError
from crossdock.ledger.base import Event, Lease, Mark, Planned, Sighting, State, Transfer
from crossdock.storage.base import Entry

__all__ = [
    "POISON",
    "Row",
    "as_event",
    "as_json",
    "as_lease",
    "as_mark",
    "as_sighting",
    "as_transfer",
    "history_json",
    "moment",
    "new_row",
    "restored",
    "seconds",
    "stored",
]

POISON = "its lease ended"
"""How the error begins of a transfer that has ended its workers, and failed at a claim: nobody has it, or tells."""
_UNSTORABLE = re.compile("[\\\\\x00\ud800-\udfff]")
_STORED = re.compile(r"\\(\\|u[0-9a-f]{4})")
_SIZES = range(1 << 63)
"""What a database takes; an endpoint that tells another (SFTP has 64 bits, FTP any number) has told nothing."""

Row = Mapping[str, Any]
T = TypeVar("T")


def _as_written(read: Callable[[Row], T]) -> Callable[[Row], T]:
    """A row that somebody else has written, or changed, is an error of the ledger."""

    @wraps(read)
    def checked(row: Row) -> T:
        try:
            return read(row)
        except (ValueError, TypeError, OverflowError, OSError, RecursionError) as error:
            found = dict(row)
            which = f"transfer {found['id']}" if "id" in found else f"a row of {', '.join(found)}"
            hint = "it was changed by hand: change it back, or restore the ledger from a backup"
            raise LedgerError(f"{which} in the ledger is not as it was written: {error}", hint=hint) from error

    return checked


def _document(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"{text[:40]!r} is no JSON object")
    return found


def stored(text: str) -> str:
    """Text that every database takes: NUL and lone surrogates become \\uXXXX, and a backslash two."""
    return _UNSTORABLE.sub(lambda found: "\\\\" if found[0] == "\\" else f"\\u{ord(found[0]):04x}", text)


def restored(text: str) -> str:
    """The inverse of `stored`."""
    if "\\" not in text:
        return text
    return _STORED.sub(lambda found: "\\" if found[1] == "\\" else chr(int(found[1][1:], 16)), text)


def _optional(text: str | None) -> str | None:
    return None if text is None else restored(text)


def moment(seconds: float) -> datetime:
    """Seconds since 1970 as an aware time."""
    return datetime.fromtimestamp(seconds, UTC)


def seconds(moment: datetime) -> float:
    """The inverse of `moment`. Raises `ValueError` for a time without a zone."""
    if moment.tzinfo is None:
        raise ValueError(f"time {moment.isoformat()}: it has no zone, as datetime.now(UTC) has")
    return moment.timestamp()


def new_row(planned: Planned, who: str) -> dict[str, Any]:
    """The parameters of the query `add`."""
    entry = planned.entry
    return {
        "flow": stored(planned.flow),
        "source": stored(planned.source),
        "path": stored(entry.path),
        "fingerprint": stored(entry.fingerprint),
        "target": stored(planned.target),
        "target_path": stored(planned.target_path),
        "name": stored(entry.path.rpartition("/")[2]),
        "size": entry.size if (entry.size or 0) in _SIZES else None,
        "modified": None if entry.modified is None else entry.modified.isoformat(),
        "etag": None if entry.etag is None else stored(entry.etag),
        "version": None if entry.version is None else stored(entry.version),
        "delay": float(planned.delay),
        "who": stored(who),
        "why": stored(planned.why),
    }


@_as_written
def as_transfer(row: Row) -> Transfer:
    modified = row["modified"]
    return Transfer(
        id=row["id"],
        flow=restored(row["flow"]),
        source=restored(row["source"]),
        entry=Entry(
            path=restored(row["path"]),
            size=row["size"],
            modified=None if modified is None else datetime.fromisoformat(modified),
            etag=_optional(row["etag"]),
            version=_optional(row["version"]),
        ),
        fingerprint=restored(row["fingerprint"]),
        target=restored(row["target"]),
        target_path=restored(row["target_path"]),
        state=State(row["state"]),
        attempts=row["attempts"],
        owed_attempts=row["owed_attempts"],
        rescues=row["rescues"],
        fence=row["fence"],
        owner=_optional(row["owner"]),
        ready=None if row["ready_at"] is None else moment(row["ready_at"]),
        checkpoint=None if row["checkpoint"] is None else bytes(memoryview(row["checkpoint"])),
        receipt=None if row["receipt"] is None else _document(row["receipt"]),
        error=_optional(row["error"]),
        why=restored(row["why"]),
        changed=moment(row["changed_at"]),
        changed_by=restored(row["changed_by"]),
        added=moment(row["added_at"]),
        gone=bool(row["gone"]),
    )


def as_lease(row: Row) -> Lease:
    transfer = as_transfer(row)
    attempt = transfer.owed_attempts if transfer.state is State.DELIVERED else transfer.attempts
    return Lease(transfer=transfer, fence=transfer.fence, attempt=attempt, until=moment(row["ready_at"]))


@_as_written
def as_event(row: Row) -> Event:
    was = None if row["was"] is None else State(row["was"])
    return Event(moment(row["at"]), restored(row["who"]), was, State(row["state"]), restored(row["why"]))


@_as_written
def as_sighting(row: Row) -> Sighting:
    first, last = moment(row["first_seen"]), moment(row["last_seen"])
    return Sighting(restored(row["path"]), restored(row["fingerprint"]), first, last, row["times"])


@_as_written
def as_mark(row: Row) -> Mark:
    due = None if row["due"] is None else moment(row["due"])
    return Mark(restored(row["key"]), moment(row["at"]), due, _document(row["value"]))


def as_json(transfer: Transfer, history: Sequence[Event]) -> str:
    """One line for `export`; what is unknown is left out."""
    found: dict[str, Any] = {
        "id": transfer.id,
        "flow": transfer.flow,
        "source": transfer.source,
        "path": transfer.entry.path,
        "fingerprint": transfer.fingerprint,
        "size": transfer.entry.size,
        "modified": None if transfer.entry.modified is None else transfer.entry.modified.isoformat(),
        "etag": transfer.entry.etag,
        "version": transfer.entry.version,
        "target": transfer.target,
        "target_path": transfer.target_path,
        "state": transfer.state,
        "attempts": transfer.attempts,
        "rescues": transfer.rescues,
        "error": transfer.error,
        "receipt": transfer.receipt,
        "gone": transfer.gone or None,
        "added": transfer.added.isoformat(),
        "changed": transfer.changed.isoformat(),
        "history": history_json(history),
    }
    return json.dumps({key: value for key, value in found.items() if value is not None})


def history_json(history: Sequence[Event]) -> list[dict[str, Any]]:
    return [
        {"at": each.at.isoformat(), "who": each.who, "from": each.was, "to": each.now, "why": each.why}
        for each in history
    ]
