"""What a transfer leaves as proof, and what that says once it is JSON in a ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Any, Literal

from crossdock.storage.base import Entry

__all__ = ["Receipt", "finished", "path_at_target"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Proof of a transfer: what was read, what is stored, and the digest that joins them."""

    source: str
    target: str
    size: int
    sha256: str | None
    """Of the bytes that passed through; None for a server-side copy."""
    method: Literal["stream", "server", "present"]
    """"present": the target already held exactly these bytes."""
    verified: Literal["digest", "size", "none"]
    """What the target confirmed after the last byte."""
    atomic: bool
    """False: the endpoint cannot publish in one step (`staging: none`), a reader may have seen a partial file."""
    source_entry: Entry
    target_entry: Entry
    finished: datetime
    seconds: float
    notes: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()
    """Names of what changed the bytes in flight; `size` and `sha256` are of what is stored."""
    read_size: int | None = None
    """Of what was read, if transforms changed it; else it is `size`, and `sha256`."""
    read_sha256: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For reports: times in ISO 8601, what is unknown left out."""
        values = zip(_OF_RECEIPTS, _values_of_receipt(self), strict=True)
        found = {name: value for name, value in values if value is not None}
        found["source_entry"] = _plain(self.source_entry)
        found["target_entry"] = _plain(self.target_entry)
        found["finished"] = self.finished.isoformat()
        return found


# A ledger asks for every file: looking at each value's type took 10 % of a flow's processor time.
_OF_RECEIPTS = tuple(field.name for field in fields(Receipt))
_OF_ENTRIES = tuple(field.name for field in fields(Entry))
_values_of_receipt, _values_of_entry = attrgetter(*_OF_RECEIPTS), attrgetter(*_OF_ENTRIES)


def _plain(entry: Entry) -> dict[str, Any]:
    values = zip(_OF_ENTRIES, _values_of_entry(entry), strict=True)
    found = {name: value for name, value in values if value is not None}
    if entry.modified is not None:
        found["modified"] = entry.modified.isoformat()
    for name in ("digests", "attributes"):
        if found[name]:
            found[name] = dict(found[name])
        else:
            del found[name]
    return found


def finished(receipt: Mapping[str, Any]) -> datetime | None:
    """When, by a receipt as JSON; None: it does not say."""
    found = receipt.get("finished")
    return datetime.fromisoformat(found) if isinstance(found, str) else None


def path_at_target(receipt: Mapping[str, Any]) -> str | None:
    """Where at the target, by a receipt as JSON: a conflict may have given it another name than was planned."""
    entry = receipt.get("target_entry")
    path = entry.get("path") if isinstance(entry, Mapping) else None
    if path is None and isinstance(receipt.get("target"), str):
        # Of an archive's files, or after a crash, that is all there is.
        path = receipt["target"].partition(":")[2]
    return path if isinstance(path, str) and path else None
