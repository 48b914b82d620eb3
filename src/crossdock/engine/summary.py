"""What one run of an engine did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from crossdock.engine.delivery import Delivery
from crossdock.errors import CrossdockError
from crossdock.ledger.base import State

__all__ = ["Summary"]


@dataclass(slots=True)
class Summary:
    """What one run did."""

    listed: int = 0
    found: int = 0
    """Transfers added."""
    delivered: int = 0
    followed: int = 0
    skipped: int = 0
    failed: int = 0
    waiting: int = 0
    """Transfers whose next attempt is not due yet, because something failed; at most 1,000 of each flow."""
    again_in: float | None = None
    """Seconds until the first of these is due; None if none waits."""
    held: int = 0
    """Transfers under way at other workers, or at one that was killed, whose lease still lasts."""
    parked: Mapping[str, int] = field(default_factory=dict)
    """Flow that the engine does not know → its open transfers in the ledger, of the newest 1,000."""
    left: int = 0
    """Files that the flows' caps leave for the next run."""
    lost: int = 0
    size: int = 0
    """Bytes delivered."""
    settling: int = 0
    unmatched: int = 0
    refused: int = 0
    """Matched by no rule either, in flows that call that a failure."""
    clashes: int = 0
    stuck: list[tuple[str, str, str]] = field(default_factory=list)
    """Flow, path below its source, and reason: the first few of the refused and the clashes of each flow."""
    removed: int = 0
    """Archived files whose time was over."""
    errors: dict[str, CrossdockError] = field(default_factory=dict)
    """Flow → why its source could not be listed, or its archive kept."""

    @property
    def good(self) -> bool:
        """Nothing failed, and nothing waits because something failed."""
        return not (self.failed or self.waiting or self.clashes or self.refused or self.errors)

    def count(self, delivery: Delivery) -> None:
        if delivery.receipt is not None and delivery.transfer.state is State.RUNNING:
            # Whatever became of what follows: the next attempt at that is `followed`.
            self.delivered += 1
            self.size += int(delivery.receipt.get("size") or 0)
        match delivery.what:
            case "followed":
                self.followed += 1
            case "skipped":
                self.skipped += 1
            case "failed":
                self.failed += 1
            case "lost":
                self.lost += 1
