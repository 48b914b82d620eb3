"""The ledger: a durable record of transfers and of every change to them.

            add                claim                 delivered                 done
 (planned) ─────▶ pending ──────────────▶ running ─────────────▶ delivered ─────────▶ done
                    ▲ ▲  retry, lease ended   │ │ failed           │ actions owed: archive, delete, notify
                    │ └───────────────────────┘ └──────▶ failed    └── claimed again until they succeed
                    └────────── requeue (by hand) ────────┘
 pending, running, failed ── cancel ──▶ cancelled       pending, running ── superseded / conflict rule ──▶ skipped

*delivered*: the bytes are safe at the target; *done*: nothing is owed.

What every ledger promises (`crossdock.testing.LedgerSuite` holds each line):

- A call that returned is durable; a call that raised `LedgerUnavailable` may be repeated, and changed nothing or, if
  the connection was lost while committing, all of it.
- A transfer's identity is (flow, source endpoint, path, fingerprint, target endpoint, path): adding it again finds it.
  Once an action of ours took it away (`done(gone=True)`), or a later one of its path was delivered, or is `overwriting`
  it, a file that comes back is new, at every destination; what is pending or failed of a replaced one is skipped.
- `claim` is one statement. It gives a `Lease`: the time-limited right to one attempt, with a fence that only grows.
  Every write under a lease carries the fence; when somebody else was given the transfer since, `LeaseLost`.
- A lease that ended is claimed by the next who asks (a rescue); the second time, with no other. After `max_rescues`
  the transfer fails: what kills its workers must not do so for ever. A delivered one is then left alone for a day.
- At most one transfer at a time is running towards one place (target endpoint and path).
- Who waited longest is claimed first: by the time since which it may be claimed, then in the order of adding.
- Every change of state is a row of the history: when, who, from, to, why.
- A mark is made once: of all who make the same one, exactly one is told that it is new.
- Times are the ledger's own. A clock that jumps back never ends a lease early; one that jumps forward may, and then
  the fence stops the late worker.

Paths are those of `crossdock.storage`: bytes that are not UTF-8 travel as lone surrogates and come back as they were.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self

from crossdock.storage.base import Entry

__all__ = [
    "LEASE",
    "MAX_RESCUES",
    "OPEN",
    "PARKED",
    "RETENTION",
    "Added",
    "Event",
    "Lease",
    "Ledger",
    "Mark",
    "Names",
    "Planned",
    "Query",
    "Sighting",
    "State",
    "Transfer",
]

Names = Iterable[str]

LEASE = 60.0
"""Seconds; a heartbeat is due every quarter of it."""
MAX_RESCUES = 4
RETENTION = timedelta(days=30)
"""Longer than a notification can come late: 14 days in an SQS queue and 14 in its dead-letter queue."""
PARKED = 86400.0
"""Seconds that a delivered transfer is left alone when its actions ended `max_rescues` workers."""


class State(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    DELIVERED = "delivered"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


OPEN = frozenset({State.PENDING, State.RUNNING, State.DELIVERED})
"""States in which something is still to be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One file to one destination, as `Ledger.add` takes it."""

    flow: str
    source: str
    """The endpoint's name."""
    entry: Entry
    """The file as it was listed; its path and fingerprint are part of the identity."""
    target: str
    """The endpoint's name."""
    target_path: str
    why: str = ""
    """Of the plan: the first reason in the history."""
    delay: float = 0.0
    """Seconds from now before which it is not to be claimed."""


@dataclass(frozen=True, slots=True)
class Added:
    """What became of one `Planned`."""

    id: int
    new: bool
    """False: the ledger knew it, and nothing changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One row of the ledger, as it was when it was read. Times are aware, UTC."""

    id: int
    flow: str
    source: str
    entry: Entry
    """Path, size, time, etag and version as listed: enough to pin the source to."""
    fingerprint: str
    target: str
    target_path: str
    state: State
    attempts: int
    """Tries to move the bytes so far, the present one included."""
    owed_attempts: int
    """Tries to do what follows the delivery."""
    rescues: int
    fence: int
    owner: str | None
    """Who holds the lease."""
    ready: datetime | None
    """From when on it may be claimed: the end of the lease while there is one. None: nothing is to be done."""
    checkpoint: bytes | None
    """What a new attempt can resume from, or must discard."""
    receipt: Mapping[str, Any] | None
    error: str | None
    """Of the last attempt."""
    why: str
    changed: datetime
    changed_by: str
    added: datetime
    gone: bool = False
    """An action of ours took the file away, or a later one of its path replaced it: the identity is free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to one attempt; hand it to every write of that attempt."""

    transfer: Transfer
    """As claimed: `state` tells whether the bytes (running) or the actions (delivered) are to be done."""
    fence: int
    attempt: int
    """1 for the first try, at the bytes or at the actions."""
    until: datetime

    @property
    def id(self) -> int:
        return self.transfer.id


@dataclass(frozen=True, slots=True)
class Event:
    """One transition."""

    at: datetime
    who: str
    was: State | None
    """None: it was added."""
    now: State
    why: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """How often in a row (`count`) a file was seen unchanged, for settling."""

    path: str
    fingerprint: str
    first_seen: datetime
    last_seen: datetime
    count: int


@dataclass(frozen=True, slots=True)
class Mark:
    """That something of a flow was done, or is to be done: a tick that was taken, an archived file that expires."""

    key: str
    at: datetime
    """When it was made."""
    due: datetime | None
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What `Ledger.find` looks for; all given conditions must hold."""

    flow: str | None = None
    states: frozenset[State] = frozenset()
    """Empty: any."""
    source: str | None = None
    target: str | None = None
    name: str | None = None
    target_name: str | None = None
    """The last component of the path, at the source or the target, exactly."""
    path: str | None = None
    target_path: str | None = None
    """The whole path; "*" stands for any characters, "/" too, "?" for one."""
    added_after: datetime | None = None
    changed_before: datetime | None = None
    limit: int = 100
    before: int | None = None
    """Only ids below this one: the next page."""


class Ledger(ABC):
    """See the module's promises. Every method may raise `LedgerUnavailable`; those that take a lease, `LeaseLost`."""

    id: str = ""
    """16 hex digits, made at random with the schema: this ledger among all others. "" before it is open."""
    max_rescues: int = MAX_RESCUES
    longest_path: int | None = None
    """Bytes of a path (`rows.stored`, as UTF-8), above which it cannot be recorded. None: any length."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @abstractmethod
    async def open(self) -> None:
        """Connect, and bring the schema up to date. Raises `LedgerError` for a ledger that cannot be used."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what was begun, and let go. Safe to repeat."""

    # What there is to do

    @abstractmethod
    async def add(self, planned: Sequence[Planned], *, who: str) -> list[Added]:
        """Record transfers, all or none; the answer is in the same order. Those that are known stay as they are."""

    @abstractmethod
    async def see(self, flow: str, source: str, entries: Sequence[Entry]) -> list[Sighting]:
        """Note that a poll saw these files, and tell since when and how often they look like that."""

    @abstractmethod
    async def forget(self, flow: str, source: str, paths: Iterable[str]) -> None:
        """Drop sightings: the file was taken on, or is gone."""

    @abstractmethod
    def unknown(self, flow: str, source: str, entries: AsyncIterable[Entry]) -> AsyncGenerator[Entry]:
        """Of a complete listing, the files that the flow has no transfer for; in constant memory.

        When the listing ends (and only then: one that fails says nothing) the ledger knows what is still at the
        source, which `prune` respects.
        """

    # Under a lease

    @abstractmethod
    async def claim(
        self, owner: str, *, limit: int = 1, lease: float = LEASE, flows: Names | None = None, without: Names = ()
    ) -> list[Lease]:
        """Up to `limit` transfers to be tried now, for `lease` seconds; of `flows`, or all, `without` these endpoints.

        Fewer, even none, is no proof that nothing is left: of several for one place, one is given at a time.
        """

    @abstractmethod
    async def heartbeat(self, lease: Lease, seconds: float = LEASE) -> Lease:
        """The same lease, ending `seconds` from now, or later if it did."""

    @abstractmethod
    async def staged(self, lease: Lease, checkpoint: bytes | None) -> None:
        """Record what a later attempt can resume from."""

    @abstractmethod
    async def overwriting(self, lease: Lease) -> None:
        """Whatever becomes of this attempt, the target no longer holds what was delivered there for the same path."""

    @abstractmethod
    async def delivered(self, lease: Lease, receipt: Mapping[str, Any], *, owed: bool = True) -> None:
        """The bytes are safe. `owed`: actions follow, under the same lease; otherwise it is done at once."""

    @abstractmethod
    async def done(self, lease: Lease, why: str = "", *, gone: bool = False) -> None:
        """Nothing is owed any more; only after `delivered`.

        `gone`: our action took the file away. The siblings, unless they are pending or running, are then gone as well.
        """

    @abstractmethod
    async def retry_in(self, lease: Lease, seconds: float, error: str) -> None:
        """The attempt failed; another may be made `seconds` from now. A delivered transfer stays delivered."""

    @abstractmethod
    async def released(self, lease: Lease, why: str, *, seconds: float = 0.0, others: int = 0) -> None:
        """Give it back untried (a worker that shuts down, an endpoint that is down): no attempt is counted.

        It may be claimed again `seconds` from now, as may so many `others` of its flow to the same target, unnoted.
        """

    @abstractmethod
    async def failed(self, lease: Lease, error: str) -> None:
        """No further attempt is to be made. Refused (`LedgerError`) after `delivered`."""

    @abstractmethod
    async def skipped(self, lease: Lease, reason: str) -> None:
        """A rule says that it is not to be delivered. Refused (`LedgerError`) after `delivered`."""

    # By hand, or by the planner; each returns the ids that it changed

    @abstractmethod
    async def cancel(self, ids: Iterable[int], *, who: str, why: str) -> list[int]:
        """Pending, running or failed → cancelled; who is at it loses the lease."""

    @abstractmethod
    async def requeue(self, ids: Iterable[int], *, who: str, why: str) -> list[int]:
        """Try now, with attempts counted anew: failed, cancelled and skipped → pending; what waits, waits no more.

        A delivered transfer stays delivered: its actions are tried now. Left as they are: those that run or are done,
        and those that ended and whose file our action took away.
        """

    @abstractmethod
    async def skip(self, ids: Iterable[int], *, who: str, why: str) -> list[int]:
        """Pending → skipped."""

    @abstractmethod
    async def supersede(self, id: int, *, who: str) -> list[int]:
        """Skip, and forget what is staged of, what is pending for the same flow, path and destination, and older."""

    # Looking

    @abstractmethod
    async def get(self, id: int) -> Transfer | None:
        """One transfer."""

    @abstractmethod
    async def siblings(self, id: int) -> list[Transfer]:
        """The flow's transfers of the same file (source, path, fingerprint), in the order of adding.

        Itself included; the others only if they are not gone. Nothing for an id that is not there.
        """

    @abstractmethod
    async def find(self, query: Query) -> list[Transfer]:
        """The newest first, at most `query.limit`."""

    @abstractmethod
    async def history(self, id: int) -> list[Event]:
        """Every transition, in order."""

    @abstractmethod
    async def counts(self) -> dict[tuple[str, State], int]:
        """(flow, state) → transfers."""

    @abstractmethod
    def export(self) -> AsyncGenerator[str]:
        """Every transfer with its history as one line of JSON (a ledger restored from nothing sends again)."""

    # Marks: things of a flow that are done once, by whichever worker is first, or are due later

    @abstractmethod
    async def mark(
        self, flow: str, kind: str, key: str, *, due: datetime | None = None, value: Mapping[str, Any] | None = None
    ) -> bool:
        """Make it, and say whether it is new. `due` is aware, `value` fit for JSON, `key` not empty (`ValueError`)."""

    @abstractmethod
    async def marks(
        self, flow: str, kind: str, *, due_before: datetime | None = None, limit: int = 1000, after: str | None = None
    ) -> list[Mark]:
        """In the order of their keys; `after` a key: the next page. `due_before`: only those that are due by then."""

    @abstractmethod
    async def unmark(self, flow: str, kind: str, keys: Iterable[str]) -> None:
        """Drop them, all or none. Those that are not there are no mistake."""

    # Keeping it small

    @abstractmethod
    async def prune(self, older_than: timedelta = RETENTION) -> int:
        """Drop transfers that ended (done, skipped, cancelled) so long ago, and say how many; failed ones are kept.

        Where the source is listed, only what is gone from it for as long: else the next poll would send it again.
        Marks as old are dropped too, but not a flow's newest of a kind, and never one that has a time when it is due:
        that takes `unmark`. At least two days (`ValueError`).
        """
