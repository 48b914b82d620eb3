"""What became of the files of a sync, one by one and in sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from crossdock.errors import CrossdockError
from crossdock.transfer.receipt import Receipt

__all__ = ["Outcome", "Summary"]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of one file, and why. Never changed once it is made; `frozen` would cost more than all else here."""

    path: str
    """Relative to the synced folder."""
    action: Literal["copy", "skip", "delete", "fail"]
    reason: str
    size: int | None = None
    sha256: str | None = None
    seconds: float | None = None
    attempts: int = 0
    receipt: Receipt | None = None
    error: CrossdockError | None = None

    def as_json(self) -> dict[str, Any]:
        """For reports; what is unknown is left out."""
        found: dict[str, Any] = {"path": self.path, "action": self.action, "reason": self.reason}
        for key in ("size", "sha256", "seconds"):
            if getattr(self, key) is not None:
                found[key] = getattr(self, key)
        if self.attempts:
            found["attempts"] = self.attempts
        if self.receipt is not None:
            found |= {"target": self.receipt.target, "verified": self.receipt.verified}
            found |= {"notes": list(self.receipt.notes)} if self.receipt.notes else {}
        if self.error is not None:
            found |= {"error": str(self.error), "kind": type(self.error).__name__, "retryable": self.error.retryable}
        return found


@dataclass(slots=True)
class Summary:
    """What a sync did, or would do. `size`: bytes copied."""

    copied: int = 0
    skipped: int = 0
    deleted: int = 0
    failed: int = 0
    size: int = 0
    seconds: float = 0.0

    def count(self, outcome: Outcome) -> None:
        match outcome.action:
            case "copy":
                self.copied += 1
                self.size += outcome.size or 0
            case "skip":
                self.skipped += 1
            case "delete":
                self.deleted += 1
            case "fail":
                self.failed += 1
