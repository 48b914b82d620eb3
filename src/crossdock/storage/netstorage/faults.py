"""One table: what NetStorage answers → the error that the caller can act on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from crossdock.errors import (
    AlreadyExists,
    AuthenticationFailed,
    ConnectionFailed,
    NoSpace,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    StorageError,
    Throttled,
    TimedOut,
    shown,
)
from crossdock.storage.http import CLOCK_SET, http_date, no_answer, retry_after
from crossdock.storage.netstorage.signing import WINDOW

__all__ = ["Place", "failure", "refused"]

_LONGEST = 200
_SUSPECT = 30
"""Seconds of difference between the clocks from which on a 403 is blamed on them; Akamai's own kit does the same."""
_KINDS: dict[int, type[StorageError]] = {
    400: ProtocolViolation,
    401: AuthenticationFailed,
    404: NotFound,
    407: AuthenticationFailed,
    408: TimedOut,
    409: AlreadyExists,
    412: ProtocolViolation,
    # 423 to 509: what rclone, whose backend Akamai wrote, tries again.
    423: Throttled,
    429: Throttled,
    500: ConnectionFailed,
    502: ConnectionFailed,
    503: Throttled,
    504: TimedOut,
    507: NoSpace,
    509: Throttled,
}
_HINTS: dict[type[StorageError], str] = {
    Throttled: "lower 'max_connections', or set 'requests_per_second' (15 is a known good value)",
    NoSpace: "free space in the storage group, or raise its quota",
    PermissionDenied: "the key is right: allow the upload account this action below this CP code",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Which request: all that a message needs to know."""

    endpoint: str
    operation: str
    path: str
    service: str


def refused(
    place: Place, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime, accepted: bool
) -> StorageError:
    """The error of an answer. `now`: this side's clock; `accepted`: the key has been accepted before."""
    words = " ".join(body.decode("utf-8", "replace").split())[:_LONGEST]
    reason = f"HTTP {status}" + (f": {shown(words)}" if words else "")
    if status == 403:
        return _forbidden(place, reason, headers, now=now, accepted=accepted)
    kind = _KINDS.get(status, ConnectionFailed if status >= 500 else ProtocolViolation)
    hint = _HINTS.get(kind)
    if kind is ProtocolViolation:
        hint = "check 'host': it may not be NetStorage's HTTP interface, or a proxy answers in its place"
    return _error(kind, place, reason, hint, retry_after(headers, now))


def _forbidden(place: Place, reason: str, headers: Mapping[str, str], *, now: datetime, accepted: bool) -> StorageError:
    """403 stands for a bad signature, an unknown account, missing rights and a wrong clock alike."""
    theirs = http_date(headers.get("Date"))
    skew = (now - theirs).total_seconds() if theirs else 0.0
    if theirs is not None and abs(skew) >= _SUSPECT:
        way = "ahead of" if skew > 0 else "behind"
        reason += (
            f"; this machine's clock is {abs(skew):.0f} seconds {way} NetStorage's "
            f"(here {now:%Y-%m-%d %H:%M:%S} UTC, there {theirs:%Y-%m-%d %H:%M:%S} UTC), {WINDOW} are allowed"
        )
        hint = "set this machine's clock, and keep it set: 'timedatectl set-ntp true'"
        return _error(AuthenticationFailed, place, reason, hint, CLOCK_SET)
    if accepted:
        return _error(PermissionDenied, place, reason, _HINTS[PermissionDenied], None)
    hint = (
        "check 'key_name' (the upload account's id), 'key' and 'cp_code'; a new key takes up to two hours to be known"
    )
    return _error(AuthenticationFailed, place, reason, hint, None)


def _error(
    kind: type[StorageError], place: Place, reason: str, hint: str | None, retry_after: float | None
) -> StorageError:
    return kind(
        reason, operation=place.operation, endpoint=place.endpoint, path=place.path, hint=hint, retry_after=retry_after
    )


def failure(place: Place, error: Exception) -> StorageError:
    """The error of a request without an answer: one of `http.FAILURES`."""
    kind, reason, hint = no_answer(place.service, "host", error)
    return _error(kind, place, reason, hint, None)
