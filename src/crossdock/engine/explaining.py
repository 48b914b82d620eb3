"""All that can be told of one file of a flow: its rules and conditions, the ledger, and what the next run does.

It looks at the source exactly as a run does, all of it, because other files may clash with this one or go before it;
so it counts as a look for every file that settles. No transfer is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from crossdock.engine.discovery import Discovery, look
from crossdock.engine.engine import Engine
from crossdock.engine.lookup import exactly, matching
from crossdock.errors import CrossdockError, LedgerError, NotFound
from crossdock.flows.explain import RuleSaid, archived_as, missed, rules_said, tried_again, until, what_next
from crossdock.flows.flow import Flow, Place
from crossdock.flows.plan import Beside, Decision, Planner, Seen, ordered
from crossdock.ledger.base import Query, Transfer
from crossdock.storage.base import Entry

__all__ = ["Explanation", "Watching", "explain", "unbounded"]


class Watching(Planner):
    """A planner that remembers what it was told, and said, of one path below the source."""

    def __init__(self, flow: Flow, path: str) -> None:
        super().__init__(flow)
        self.path = path
        self.entry: Entry | None = None
        self.left_out: str | None = None
        self.seen: Seen | None = None
        self.waiting: list[tuple[str, float | None]] = []

    def skipped(self, entry: Entry, now: datetime) -> str | None:
        reason = super().skipped(entry, now)
        if entry.path == self.path:
            self.entry, self.left_out = entry, reason
        return reason

    def decide(self, entry: Entry, seen: Seen, beside: Beside, now: datetime) -> Decision:
        if entry.path == self.path and self.goes(entry.path):
            self.seen, self.waiting = seen, list(self.waits(entry, seen, beside))
        return super().decide(entry, seen, beside, now)


def unbounded(flow: Flow) -> Flow:
    """The flow without its caps: whatever may be moved at all."""
    return replace(flow, max_files=None, max_bytes=None)


@dataclass(slots=True)
class Explanation:
    """Of one path."""

    flow: Flow
    path: str
    """Below the source."""
    now: datetime
    entry: Entry | None = None
    """As the source lists it."""
    error: CrossdockError | None = None
    """Why the source could not be looked at."""
    left_out: str | None = None
    rules: list[RuleSaid] = field(default_factory=list)
    decision: Decision | None = None
    """None: left out, not there, or known to the ledger."""
    seen: Seen | None = None
    waiting: list[tuple[str, float | None]] = field(default_factory=list)
    """What it still waits for, each with the seconds after which waiting alone may do."""
    before: int = 0
    """Files that go first, if the flow's caps leave this one for a later run."""
    targets: list[tuple[Place, str]] = field(default_factory=list)
    """What there is already where it goes, in words."""
    rows: Sequence[Transfer] = ()
    """The ledger's, the newest first."""

    @property
    def known(self) -> bool:
        """It is at the source, and is not new."""
        return self.entry is not None and self.left_out is None and self.decision is None

    def next(self) -> list[str]:
        """What the next run does with it, in words."""
        if self.error is not None:
            return [f"nothing, unless the source can be listed: {self.error.message}"]
        if self.entry is None:
            archived = archived_as(self.rows)
            gone = f"; it was archived as {archived}" if archived else ""
            return [f"nothing: the source does not hold it{gone}", *self._open_rows()]
        if self.left_out is not None:
            return [f"leaves it alone: {self.left_out}", *self._open_rows()]
        if self.decision is None:
            current = [row for row in self.rows if row.fingerprint == self.entry.fingerprint and not row.gone]
            told = [f"transfer {row.id} to {row.target}: {self._known(row)}" for row in reversed(current)]
            return told + [
                f"{place}: nothing: it was planned before a rule sent it there; crossdock cp takes it there"
                for place in self._added(current)
            ]
        return [self._decided(self.decision), *self._open_rows()]

    def _added(self, rows: Sequence[Transfer]) -> list[Place]:
        """Where the rules send it now, and where they did not when it was planned."""
        rules = {rule.name: rule for rule in self.flow.rules}
        rule = next((rules[said.name] for said in self.rules if said.decides and said.name in rules), None)
        if rule is None or self.flow.on_conflict == "version" or any("{now" in to.template for to in rule.to):
            # The places of a file are others each time, or none is what the rule says.
            return []
        before = {(row.target, row.target_path) for row in rows}
        places = [place for said in self.rules if said.decides for place in said.places]
        return [place for place in places if (place.endpoint, place.path) not in before]

    def _known(self, row: Transfer) -> str:
        if not missed(row):
            return what_next(row, self.now)
        at = tried_again(row)
        return f"is tried again{'' if at <= self.now else ' ' + until(at, self.now)}: the file is there as it was"

    def _decided(self, decision: Decision) -> str:
        places = " and ".join(str(place) for place in decision.places)
        match decision.verdict:
            case "move" if self.before:
                number = "one file goes" if self.before == 1 else f"{self.before} files go"
                return f"leaves it for a later run: {number} first (max_files, max_bytes)"
            case "move":
                return f"sends it to {places}"
            case "settle":
                dues = [due for _, due in self.waiting]
                soon = max((due for due in dues if due is not None), default=0.0)
                when = f"sends it to {places} once it is finished: {'; '.join(reason for reason, _ in self.waiting)}"
                return when if None in dues else f"{when} (in {soon:.0f} s at the earliest)"
            case "clash":
                return f"does not move it: {decision.reason}; change a rule so that each file has its own place"
            case "fail":
                return f"does not move it: {decision.reason}"
            case "unmatched":
                what = "fails" if self.flow.unmatched == "fail" else "is left alone"
                return f"no rule takes it, so it {what} (unmatched: {self.flow.unmatched})"
            case _:
                return f"leaves it where it is: {decision.reason}"

    def _open_rows(self) -> list[str]:
        """What is still to do for an earlier version of it."""
        return [
            f"transfer {row.id} to {row.target}: {what_next(row, self.now)}"
            for row in reversed(self.rows)
            if row.ready is not None
        ]


async def explain(engine: Engine, flow: str, path: str) -> Explanation:
    """`path` is below the flow's source. Raises `ConfigError` for an unknown flow, and what the ledger raises."""
    planner = engine.planner(flow)
    found = Explanation(planner.flow, path, engine.clock())
    watching = Watching(unbounded(planner.flow), path)
    looked: Discovery | None = None
    try:
        storage = await engine.endpoints.storage(planner.flow.source.endpoint)
        looked = await look(watching, storage, engine.ledger, found.now, has_folders=engine.endpoints.has_folders)
    except LedgerError:
        raise
    except CrossdockError as error:
        found.error = error
    found.entry, found.left_out = watching.entry, watching.left_out
    found.seen, found.waiting = watching.seen, watching.waiting
    if looked is not None:
        found.decision = next((each for each in looked.new if each.entry.path == path), None)
        if found.decision is not None and found.decision.verdict == "move":
            taken, _ = ordered(looked.moves, planner.flow)
            found.before = 0 if found.decision in taken else len(taken)
    full = planner.above(Entry(path=path)).path
    query = Query(flow=flow, source=planner.flow.source.endpoint, name=full.rpartition("/")[2], path=exactly(full))
    found.rows = [row async for row in matching(engine.ledger, query) if row.entry.path == full]
    entry = found.entry or (planner.below(found.rows[0].entry) if found.rows else Entry(path=path))
    found.rules = rules_said(planner.flow, entry, found.now)
    if found.decision is not None:
        for place in found.decision.places:
            found.targets.append((place, await _there(engine, planner.flow, place)))
    return found


async def _there(engine: Engine, flow: Flow, place: Place) -> str:
    """What the target says of the name, and what follows from that."""
    try:
        storage = await engine.endpoints.storage(place.endpoint)
        entry = await storage.stat(place.path)
    except NotFound:
        return "free"
    except CrossdockError as error:
        return f"cannot be looked at: {error.message}"
    what = {
        "overwrite": "is replaced",
        "skip": "stays, and this file is skipped, unless the bytes are the same",
        "fail": "stays, and this file fails, unless the bytes are the same",
        "version": "stays, and this file gets a number",
    }[flow.on_conflict]
    size = f"{entry.kind}" if entry.size is None or entry.kind != "file" else f"a file of {entry.size} bytes"
    return f"taken by {size}, which {what} (on_conflict: {flow.on_conflict})"
