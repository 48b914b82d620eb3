"""One table: what the failure of an attempt means for its transfer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from crossdock.errors import (
    AuthenticationFailed,
    Conflict,
    CrossdockError,
    NoSpace,
    NotAFile,
    NotFound,
    NotInstalled,
    SecretUnavailable,
    SourceChanged,
)
from crossdock.flows.explain import CHANGED, GONE
from crossdock.flows.flow import OnConflict, Retry
from crossdock.ledger.base import OPEN, Event, Ledger, State, Transfer

__all__ = ["Verdict", "age_of", "backoff", "begun", "judge", "may_pass"]

_SLOWLY = 60.0
"""Seconds at least before a full disk or quota is tried again; then half of what it has lasted, up to the longest."""

_UNSURE = "an attempt that was killed had begun to write it in place, or somebody else has put it there since"

_MISSING = 300.0
"""Seconds before a secret or extra that is not there is looked for again: it is being replaced, or was forgotten."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """retry: after `seconds`, and the attempt counts; pause: the same, but it was not the file's fault and does not."""

    what: Literal["retry", "pause", "skip", "fail"]
    reason: str
    seconds: float = 0.0

    @property
    def became(self) -> Literal["skipped", "failed", "retry"]:
        if self.what in ("skip", "fail"):
            return "skipped" if self.what == "skip" else "failed"
        return "retry"


async def age_of(transfer: Transfer, seconds: float, retry: Retry, ledger: Ledger) -> float:
    """For how many seconds it is tried. `seconds`: how long the present attempt took."""
    # By the ledger's clock, which may not be ours: it was claimed at `changed`.
    now = transfer.changed + timedelta(seconds=seconds)
    age = (now - transfer.added).total_seconds()
    return age if age <= retry.give_up else (now - begun(await ledger.history(transfer.id))).total_seconds()


def begun(history: Sequence[Event]) -> datetime:
    """Since when a transfer is tried: since it was added, or was put back after it had ended."""
    return [each.at for each in history if each.now is State.PENDING and each.was not in OPEN][-1]


def may_pass(error: CrossdockError) -> bool:
    """Whether what failed may work later without a change of the configuration: a login may be mended at the server."""
    return error.retryable or isinstance(error, AuthenticationFailed)


def backoff(retry: Retry, attempt: int, error: CrossdockError, draw: Callable[[float, float], float]) -> float:
    """Full jitter: seconds before the attempt that follows number `attempt` (1 is the first)."""
    wait = draw(0, min(retry.longest, retry.base * 2.0 ** min(attempt - 1, 60)))
    floor = _SLOWLY if isinstance(error, NoSpace) else 0.0
    return max(wait, floor, error.retry_after or 0.0)


def judge(
    error: CrossdockError,
    retry: Retry,
    *,
    attempt: int,
    age: float,
    on_conflict: OnConflict,
    at_source: bool,
    pause: float | None = None,
    unsure: bool = False,
    draw: Callable[[float, float], float] = random.uniform,
) -> Verdict:
    """`attempt`: which one failed, from 1. `age`: seconds since it `begun`. `at_source`: who said it.

    `pause`: the endpoint itself failed and is to be left alone for so many seconds. `unsure`: what lies at the target
    may be what an attempt wrote in place until it was killed.
    """
    reason = str(error)
    if isinstance(error, NotFound) and at_source:
        return Verdict("skip", f"{GONE}: its owner took it back")
    if isinstance(error, NotAFile) and at_source:
        return Verdict("skip", f"{GONE}: what has its name now is no file")
    if isinstance(error, SourceChanged) and not error.still_listed:
        return Verdict("skip", f"{CHANGED}: what is there now is a file of its own, and settles anew")
    if isinstance(error, Conflict) and unsure:
        return Verdict("fail", f"{error.message}; {_UNSURE}. Next: see what is there, and remove it if it is a part")
    if isinstance(error, Conflict) and on_conflict == "skip":
        return Verdict("skip", "the target exists with other content (on_conflict: skip)")
    if age > retry.give_up:
        return Verdict("fail", f"{reason} (given up after {age:.0f} s)")
    if isinstance(error, (NotInstalled, SecretUnavailable)):
        pause = _MISSING
    spread = retry.base
    if isinstance(error, NoSpace):
        # Files that fill a disk together would fill it together again, though some of them have room.
        spread = pause = max(_SLOWLY, min(retry.longest, age / 2), error.retry_after or 0.0)
    if pause is not None:
        return Verdict("pause", reason, pause + draw(0, spread))
    if not error.retryable or isinstance(error, AuthenticationFailed):
        return Verdict("fail", reason)
    if attempt >= retry.attempts:
        return Verdict("fail", f"{reason} (attempt {attempt} of {retry.attempts})")
    return Verdict("retry", reason, backoff(retry, attempt, error, draw))
