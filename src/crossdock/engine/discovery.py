"""One look at a flow's source: what is there, what of it is new, and what is to become of each new file.

The difference between the listing and the ledger is what counts, never "newer than the last run". A listing that fails
says nothing: what it showed before is not acted upon.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence, Set
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from itertools import compress

from crossdock.engine.gone import File, back_again
from crossdock.engine.steps import why
from crossdock.errors import NotFound
from crossdock.flows.flow import Flow
from crossdock.flows.plan import Beside, Decision, Planner, above_others, ordered, without_buried, without_clashes
from crossdock.ledger.base import Ledger, Planned
from crossdock.ledger.rows import stored
from crossdock.storage.base import Entry
from crossdock.storage.storage import Storage

__all__ = ["Discovery", "add", "look", "to_look_again", "walked"]

_BATCH = 500
_SOONEST = 0.05
"""Seconds between two looks at a source, at least."""


@dataclass(slots=True)
class Discovery:
    """What one look at a source found. Memory: the files that the ledger does not know."""

    flow: str
    listed: int = 0
    skipped: int = 0
    """Left out by name, kind, age or size."""
    new: list[Decision] = field(default_factory=list)
    """Every file that the ledger does not know. Those to move come first, in the flow's order."""
    waiting: int = 0
    """Files to move that the flow's caps leave for another run."""
    added: list[int] = field(default_factory=list)
    """Ids of the transfers that were added."""
    back: list[int] = field(default_factory=list)
    """Ids of transfers that were skipped, as their files were gone, which are there again."""

    @property
    def moves(self) -> list[Decision]:
        return [decision for decision in self.new if decision.verdict == "move"]

    def stuck(self, flow: Flow) -> list[Decision]:
        """Files that the rules keep from being moved, though somebody may think that they were: the run failed."""
        wrong = {"clash", "fail", "unmatched"} if flow.unmatched == "fail" else {"clash", "fail"}
        return [decision for decision in self.new if decision.verdict in wrong]

    @property
    def due(self) -> float | None:
        """Seconds until a file that settles may be finished, if waiting alone can do it."""
        return min((each.due for each in self.new if each.due is not None), default=None)


def to_look_again(found: Iterable[Discovery], patience: float) -> tuple[list[str], float]:
    """The flows whose files may be finished within `patience` seconds, and how long to wait for the first of them."""
    dues = {one.flow: max(_SOONEST, one.due) for one in found if one.due is not None}
    return [flow for flow, due in dues.items() if due <= patience], min(dues.values(), default=0.0)


@dataclass(frozen=True, slots=True)
class _Once:
    """A file that nobody has to watch."""

    first_seen: datetime
    last_seen: datetime
    count: int = 1


async def look(
    planner: Planner,
    storage: Storage,
    ledger: Ledger,
    now: datetime,
    *,
    only: Iterable[str] | None = None,
    has_folders: Callable[[str], Awaitable[bool]] | None = None,
    something: Callable[[Entry], None] = lambda entry: None,
) -> Discovery:
    """List the source (or, of it, `only` these paths of the endpoint) and decide. Notes sightings; adds no transfer.

    `has_folders`: of an endpoint by its name. `something` is told of the first file that is new, and need not wait for
    anything, while others are listed. Raises what the listing raises.
    """
    found = Discovery(planner.flow.name)
    beside = Beside()
    manifests: list[Entry] = []
    flow = planner.flow
    gone = await back_again(flow.name, ledger, now)
    waits = _watches(flow) or planner.looks_beside

    async def candidates() -> AsyncGenerator[Entry]:
        def without(folder: str) -> bool:
            found.skipped += (left_out := planner.leaves_out(folder))
            return left_out

        listing = _named(planner, storage, only) if only is not None else walked(planner, storage, without)
        async with aclosing(listing) as all_:
            async for entry in all_:
                found.listed += 1
                below = planner.below(entry)
                if planner.looks_beside:
                    if planner.is_marker(below.path):
                        beside.markers[below.path] = below.modified
                    elif planner.is_manifest(below.path):
                        manifests.append(entry)
                if planner.skipped(below, now) is None:
                    if gone:
                        found.back += gone.pop((flow.source.endpoint, entry.path, entry.fingerprint), [])
                    yield entry
                else:
                    found.skipped += 1

    # Closed one after the other if this is broken off, as the event loop at its end would not.
    async with aclosing(candidates()) as listed:
        unknown = ledger.unknown(flow.name, flow.source.endpoint, listed) if only is None else listed
        async with aclosing(unknown):
            entries: list[Entry] = []
            async for entry in unknown:
                if not entries and not waits:
                    something(planner.below(entry))
                entries.append(entry)
    for manifest in manifests:
        try:
            text = (await storage.read_bytes(manifest.path)).decode("utf-8", "surrogateescape")
        except NotFound:
            continue  # Taken back since it was listed; what it listed waits for another.
        beside.note_listed(planner.names_listed(planner.below(manifest).path, text), manifest.modified)
    decisions: list[Decision] = []
    for start in range(0, len(entries), _BATCH):
        batch = entries[start : start + _BATCH]
        if any(too_long := [not _fits(entry.path, ledger) for entry in batch]):
            reason = f"its path is longer than this ledger takes: {ledger.longest_path} bytes"
            decisions += [Decision(planner.below(entry), "fail", reason) for entry in compress(batch, too_long)]
            batch = [entry for entry, long in zip(batch, too_long, strict=True) if not long]
        for entry, seen in zip(batch, await _sightings(planner, ledger, batch, now), strict=True):
            decision = planner.decide(planner.below(entry), seen, beside, now)
            if not all(_fits(place.path, ledger) for place in decision.places):
                reason = f"where it goes, its path is longer than this ledger takes: {ledger.longest_path} bytes"
                decision = Decision(decision.entry, "fail", reason)
            decisions.append(decision)
    decisions = without_clashes(decisions)
    if has_folders is not None and (above := above_others(decisions)):
        above = {place: each for place, each in above.items() if await has_folders(place.endpoint)}
        decisions = without_buried(decisions, above)
    moves, found.waiting = ordered((each for each in decisions if each.verdict == "move"), flow)
    found.new = moves + [each for each in decisions if each.verdict != "move"]
    return found


async def add(
    planner: Planner, found: Discovery, ledger: Ledger, *, who: str, taken: Set[File] = frozenset()
) -> list[int]:
    """Record a transfer for each destination of each file to move, in order. Durable once this returns.

    `taken`: files that are gone by now, and were delivered before; it may grow meanwhile.
    """
    flow = planner.flow
    batch: list[Planned] = []
    moves = found.moves
    for number, decision in enumerate(moves, start=1):
        # All destinations of a file in one batch: a file that has a transfer is known, and would get no other.
        batch += [
            Planned(
                flow=flow.name,
                source=flow.source.endpoint,
                entry=planner.above(decision.entry),
                target=place.endpoint,
                target_path=place.path,
                why=why(decision),
            )
            for place in decision.places
            if not taken
            or (flow.source.endpoint, planner.above(decision.entry).path, decision.entry.fingerprint) not in taken
        ]
        if len(batch) >= _BATCH or number == len(moves):
            added = await ledger.add(batch, who=who)
            found.added += [each.id for each in added if each.new]
            batch = []
    if found.back:
        await ledger.requeue(found.back, who=who, why="its source is there again")
    if _watches(flow) and moves:
        await ledger.forget(flow.name, flow.source.endpoint, [planner.above(each.entry).path for each in moves])
    return found.added


async def walked(planner: Planner, storage: Storage, without: Callable[[str], bool]) -> AsyncGenerator[Entry]:
    """All that is below a flow's source. `without` as for `Storage.walk`."""
    path, empty = planner.flow.source.path, True
    try:
        async with aclosing(storage.walk_pages(path, without=without)) as pages:
            async for page in pages:
                empty = empty and not page
                for entry in page:
                    yield entry
    except NotFound:
        # A store without folders cannot tell one whose last file was taken away from one that never was.
        if storage.capabilities.directories or not (path and empty):
            raise
        await storage.check_store()


async def _named(planner: Planner, storage: Storage, paths: Iterable[str]) -> AsyncGenerator[Entry]:
    for path in paths:
        if not path.startswith(planner.prefix):
            continue
        try:
            entry = await storage.stat(path)
        except NotFound:
            continue
        yield entry


def _fits(path: str, ledger: Ledger) -> bool:
    """One that does not would keep the whole batch, and with it every flow, from being recorded."""
    return ledger.longest_path is None or len(stored(path).encode()) <= ledger.longest_path


def _watches(flow: Flow) -> bool:
    return flow.settle.sightings > 1 or flow.settle.seconds > 0


async def _sightings(planner: Planner, ledger: Ledger, batch: Sequence[Entry], now: datetime) -> Sequence[_Once]:
    flow, once = planner.flow, _Once(now, now)
    if not _watches(flow):
        return [once] * len(batch)
    # What no rule takes need not settle; noted at each look, it would be most of what the ledger has to write.
    going = [entry for entry in batch if planner.goes(planner.below(entry).path)]
    seen = await ledger.see(flow.name, flow.source.endpoint, going)
    found = {each.path: _Once(each.first_seen, each.last_seen, each.count) for each in seen}
    return [found.get(entry.path, once) for entry in batch]
