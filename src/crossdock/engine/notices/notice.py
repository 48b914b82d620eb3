"""What a flow tells others. A notice keeps its id when it is sent again, so that a receiver sees the repetition."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from crossdock.errors import CrossdockError
from crossdock.flows.flow import Mail, Webhook

__all__ = ["Kind", "Notice", "NotificationFailed", "channel_of", "together"]

Kind = Literal["delivered", "failed", "late"]


class NotificationFailed(CrossdockError):
    """Nobody took the notice. `retryable`: they may later."""

    def __init__(self, message: str, *, retryable: bool, hint: str, retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint, retry_after=retry_after)
        self.retryable = retryable


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that happened in a flow."""

    id: str
    """Of the delivery: equal for every repetition, and in no other notice."""
    kind: Kind
    flow: str
    at: datetime
    """When it happened. Aware."""
    text: str
    """One line for people."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Fit for JSON."""

    def body(self) -> bytes:
        """The JSON of a webhook: `{"type", "timestamp", "data"}`; the same bytes for every repetition."""
        found = {
            "type": self.kind,
            "timestamp": self.at.astimezone(UTC).isoformat(),
            "data": {"flow": self.flow, "text": self.text, **self.data},
        }
        return json.dumps(found, separators=(",", ":"), sort_keys=True).encode()

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "flow": self.flow,
            "at": self.at.isoformat(),
            "text": self.text,
            "data": dict(self.data),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Notice:
        return cls(**{**found, "at": datetime.fromisoformat(found["at"])})


def together(notices: Sequence[Notice]) -> Notice:
    """One notice for several of one kind, for people; the one itself, if it is alone."""
    first = notices[0]
    if len(notices) == 1:
        return first
    return replace(
        first,
        id=f"{first.id}-and-{len(notices) - 1}",
        text=f"{len(notices)} notices; the first: {first.text}",
        data={str(number): notice.text for number, notice in enumerate(notices, 1)},
    )


def channel_of(to: Webhook | Mail) -> str:
    """Names whom a notice goes to, without telling; the same as long as the address is."""
    address = to.url if isinstance(to, Webhook) else json.dumps([to.host, to.port, *to.to])
    kind = "webhook" if isinstance(to, Webhook) else "mail"
    return f"{kind}-{hashlib.sha256(address.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"
