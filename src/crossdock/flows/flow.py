"""A flow as data: source, trigger, rules, and what follows. Built from the user's file or in Python; does nothing.

A flow says which files of one place go where: the first rule that matches a file's path below the source decides, and
each destination of the rule becomes one transfer in the ledger. Seconds are floats, sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import time
from typing import Any, Literal

from crossdock.flows.filters import Filters
from crossdock.storage.base import Entry

__all__ = [
    "After",
    "Destination",
    "Expectation",
    "Flow",
    "Mail",
    "OnConflict",
    "Order",
    "Place",
    "Retry",
    "Rule",
    "Settle",
    "Test",
    "TransformSpec",
    "Trigger",
    "Unmatched",
    "Webhook",
]

OnConflict = Literal["overwrite", "skip", "fail", "version"]
Order = Literal["oldest", "newest", "name"]
Unmatched = Literal["ignore", "fail"]


@dataclass(frozen=True, slots=True)
class Place:
    """A path at a named endpoint, as `name:path` writes it."""

    endpoint: str
    path: str = ""

    def __str__(self) -> str:
        return f"{self.endpoint}:{self.path}"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a rule sends a file: an endpoint and a template of the path there."""

    endpoint: str
    template: str = "{path}"
    """Words in braces: path, folder, name, stem, suffix, the pattern's named groups, and dates (see `flows.route`)."""

    def __str__(self) -> str:
        return f"{self.endpoint}:{self.template}"


Router = Callable[[Entry], "str | Iterable[str] | None"]
"""A user's own rule: the entry (its path is below the flow's source) → location(s) `name:path`, or None for nowhere."""


@dataclass(frozen=True, slots=True)
class TransformSpec:
    """One step of what changes in flight, by its registered name, `module:Class` for a user's own."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The first rule whose pattern matches the whole path decides."""

    name: str
    """As messages show it: the user's own, or `rules[0]`."""
    regex: str | None = None
    """Must match the whole path below the source. At most one of `regex` and `glob`; with neither, every file."""
    glob: str | None = None
    to: tuple[Destination, ...] = ()
    """None at all: files that match are left where they are, on purpose."""
    call: Router | None = None
    """Instead of `to`."""
    call_name: str = ""
    """`python:module.function`, as it was written."""
    endpoints: frozenset[str] = frozenset()
    """Those that the function may name; none at all: any."""
    transforms: tuple[TransformSpec, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """What starts a flow; none of them: only on demand."""

    every: float | None = None
    cron: str | None = None
    """Five fields."""
    timezone: str = "UTC"
    jitter: float = 0.0
    """Up to so many seconds are added to each start."""
    watch: bool = False
    """A local source is watched (a hint; `every` rescans)."""

    @property
    def on_demand(self) -> bool:
        return not (self.every or self.cron or self.watch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """When a file counts as finished by its sender. All that is given must hold."""

    sightings: int = 2
    """Polls in a row that saw it with the same size and time."""
    seconds: float = 2.0
    """Between the first and the last of those."""
    min_size: int = 0
    """Smaller files wait."""
    marker: str | None = None
    """Template of a name beside the file that says it is finished: "{name}.done", "{stem}.ok"."""
    manifest: str | None = None
    """Template of a file beside them that lists finished names, one per line; lines of `sha256sum` will do."""
    temporary: tuple[str, ...] = ("*.part", "*.partial", "*.tmp", "*.temp", "*.filepart", "*.crdownload", "*~", ".~*")
    """Globs of names that senders use while they write: never taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A POST of JSON when something happened; signed, repeated until it is accepted."""

    url: str
    secret: Any = None
    """`storage.settings.Secret` of the HMAC-SHA256 key."""
    on: frozenset[str] = frozenset({"delivered"})
    """delivered, failed, late."""
    allow_private: bool = False
    """Loopback, private and link-local addresses are refused otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A mail through an SMTP server."""

    to: tuple[str, ...]
    sender: str
    host: str
    port: int = 587
    user: str | None = None
    password: Any = None
    """`storage.settings.Secret`."""
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    on: frozenset[str] = frozenset({"failed", "late"})


@dataclass(frozen=True, slots=True, kw_only=True)
class After:
    """What follows once every destination of a file is delivered. Nothing given: the source stays as it is."""

    archive: str | None = None
    """A folder below the source's root that keeps the structure (".done"), or a template ("{folder}/.done/{name}")."""
    keep: float | None = None
    """Seconds, from our own move on, after which archived files are removed; None: never."""
    delete: bool = False
    tag: Mapping[str, str] = field(default_factory=dict)
    """Set on the source object, where the store has tags."""
    marker: str | None = None
    """Template of an empty file written beside each delivered one: "{name}.done"."""

    @property
    def takes_source(self) -> bool:
        return self.delete or self.archive is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Bounds on the attempts at one transfer. Waits are full jitter: 0 to `base × 2^n`, at most `longest`."""

    attempts: int = 8
    give_up: float = 86400.0
    """Seconds since the transfer was added, or was put back after it had ended."""
    base: float = 5.0
    longest: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Files that must have come by a time of day; else the flow is late."""

    match: str
    """A glob on the path below the source."""
    by: time
    timezone: str = "UTC"
    days: frozenset[int] = frozenset(range(7))
    """0 is Monday."""
    min_count: int = 1
    min_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """A case of the rules, run by `crossdock check`."""

    file: str
    to: tuple[str, ...]
    """`name:path` each; none: it goes nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """See the module. `rules` must not be empty."""

    name: str
    source: Place
    rules: tuple[Rule, ...]
    trigger: Trigger = Trigger()
    settle: Settle = Settle()
    filters: Filters = field(default_factory=Filters)
    unmatched: Unmatched = "ignore"
    """What a file is that no rule takes: left alone and reported, or a failure of the run."""
    on_conflict: OnConflict = "overwrite"
    after: After = After()
    retry: Retry = Retry()
    order: Order = "oldest"
    max_files: int | None = None
    """Per run; the rest waits for the next."""
    max_bytes: int | None = None
    webhooks: tuple[Webhook, ...] = ()
    mails: tuple[Mail, ...] = ()
    expect: tuple[Expectation, ...] = ()
    tests: tuple[Test, ...] = ()
