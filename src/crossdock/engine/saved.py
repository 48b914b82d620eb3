"""Plans that are looked at before they are carried out: made by a look, saved as JSON, applied if nothing drifted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crossdock.engine.discovery import Discovery, add, look, to_look_again
from crossdock.engine.engine import Engine
from crossdock.engine.estimate import requests
from crossdock.engine.explaining import unbounded
from crossdock.engine.lookup import exactly, matching
from crossdock.engine.steps import why
from crossdock.errors import ConfigError, CrossdockError, LedgerError
from crossdock.flows.flow import Flow, Place
from crossdock.flows.plan import Decision, Planner
from crossdock.ledger.base import OPEN, Query, Transfer
from crossdock.storage.base import Entry

__all__ = ["Drift", "Making", "Row", "check", "dump", "is_plan", "load", "make", "start"]

_FORMAT = "crossdock plan"
_VERSION = 1
_COUNTED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One transfer that is to be."""

    flow: str
    source: str
    """The endpoint's name."""
    entry: Entry
    """As it was listed; its path is the endpoint's."""
    target: str
    target_path: str
    reason: str
    requests: Mapping[str, int] = field(default_factory=dict)
    """Method → requests at object stores, an estimate (`engine.estimate`)."""
    beside: tuple[str, ...] = ()
    """Where else the file was to go, also if the user has taken those rows out."""
    through: tuple[str, ...] = ()
    """The transforms' names."""

    @property
    def place(self) -> Place:
        return Place(self.target, self.target_path)

    def as_json(self) -> dict[str, Any]:
        """What is unknown is left out."""
        entry = self.entry
        found = {
            "flow": self.flow,
            "source": self.source,
            "path": entry.path,
            "fingerprint": entry.fingerprint,
            "size": entry.size,
            "modified": entry.modified.isoformat() if entry.modified else None,
            "etag": entry.etag,
            "version": entry.version,
            "target": self.target,
            "target_path": self.target_path,
            "reason": self.reason,
            "requests": dict(self.requests),
            "beside": list(self.beside) or None,
            "through": list(self.through) or None,
        }
        return {key: value for key, value in found.items() if value is not None}


@dataclass(slots=True)
class Making:
    """What a look found."""

    rows: list[Row] = field(default_factory=list)
    others: list[tuple[str, Decision]] = field(default_factory=list)
    """(flow, decision) of new files that are not moved now."""
    waiting: dict[str, int] = field(default_factory=dict)
    """Flow → files that its caps leave for another run."""
    held: dict[str, int] = field(default_factory=dict)
    """Flow → transfers that a run works off besides, up to a thousand: the ledger holds them already."""
    errors: dict[str, CrossdockError] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drift:
    """A row that is not what it was."""

    row: Row
    reason: str


async def make(
    engine: Engine, flows: Iterable[str], settings: Callable[[str], Any], *, patience: float = 0.0
) -> Making:
    """Look at the sources as a run would, again after pauses of at most `patience` seconds in all; add nothing.

    `settings`: an endpoint's, by its name. Raises what the ledger raises.
    """
    made = Making()
    found: dict[str, Discovery] = {}
    looking = list(flows)
    while looking:
        for flow in looking:
            try:
                found[flow] = await engine.look(flow)
            except LedgerError:
                raise
            except CrossdockError as error:
                made.errors[flow] = error
        looking, pause = to_look_again([found[flow] for flow in looking if flow in found], patience)
        if looking:
            patience -= pause
            await asyncio.sleep(pause)
    for flow, one in found.items():
        planner = engine.planner(flow)
        for decision in one.moves:
            made.rows += _rows(planner, decision, settings)
        made.others += [(flow, each) for each in one.new if each.verdict != "move"]
        held = await engine.ledger.find(Query(flow=flow, states=OPEN, limit=_COUNTED))
        if number := len(held) + len(one.back):
            made.held[flow] = number
        if one.waiting:
            made.waiting[flow] = one.waiting
    return made


def _rows(planner: Planner, decision: Decision, settings: Callable[[str], Any]) -> list[Row]:
    flow: Flow = planner.flow
    entry = planner.above(decision.entry)
    return [
        Row(
            flow=flow.name,
            source=flow.source.endpoint,
            entry=entry,
            target=place.endpoint,
            target_path=place.path,
            reason=why(decision),
            requests=requests(
                entry.size,
                settings(flow.source.endpoint),
                settings(place.endpoint),
                on_conflict=flow.on_conflict,
                transforms=bool(_through(decision)),
            ),
            beside=tuple(str(other) for other in decision.places if other != place),
            through=_through(decision),
        )
        for place in decision.places
    ]


def _through(decision: Decision) -> tuple[str, ...]:
    return () if decision.rule is None else tuple(spec.name for spec in decision.rule.transforms)


def dump(rows: Sequence[Row], ledger: str) -> str:
    """JSON, a row per line so that people and `diff` can read it. `ledger`: its id."""
    head = {"format": _FORMAT, "version": _VERSION, "made": datetime.now(UTC).isoformat(), "ledger": ledger}
    lines = ",\n".join(json.dumps(row.as_json()) for row in rows)
    return f'{json.dumps(head)[:-1]}, "transfers": [\n{lines}\n]}}\n'


def is_plan(path: Path) -> bool:
    """Whether a file begins as `dump` does, or is empty. Raises `OSError`."""
    with path.open("rb") as file:
        start = file.read(200)
    return not start or f'"format": "{_FORMAT}"'.encode() in start


def load(text: str, ledger: str, file: str | None = None) -> list[Row]:
    """The rows of a saved plan. Raises `ConfigError`, of `file`, for what is none, or was made with another ledger."""
    hint = "make it anew: crossdock plan --out FILE"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not a plan, as it is no JSON: {error}", file=file, hint=hint) from error
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise ConfigError("not a plan that 'crossdock plan' has saved", file=file, hint=hint)
    if found.get("version") != _VERSION:
        raise ConfigError(f"a plan of another version: {found.get('version')!r}", file=file, hint=hint)
    try:
        rows = [_row(each) for each in found["transfers"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"not a plan as it was saved: {type(error).__name__}: {error}"
        raise ConfigError(reason, file=file, hint=hint) from error
    if found.get("ledger") != ledger:
        hint = "pass --ledger as it was for 'crossdock plan'"
        raise ConfigError("the plan was made with another ledger", file=file, hint=hint)
    return rows


_NEEDED: dict[str, type] = dict.fromkeys(("flow", "source", "path", "target", "target_path"), str)
_OPTIONAL: dict[str, type] = dict.fromkeys(("modified", "etag", "version", "reason"), str) | {
    "size": int,
    "requests": dict,
    "beside": list,
    "through": list,
}


def _row(found: Mapping[str, Any]) -> Row:
    for key, kind in (_NEEDED | _OPTIONAL).items():
        if not isinstance(found[key] if key in _NEEDED else found.get(key, kind()), kind):
            raise ValueError(f"{key} is not a {kind.__name__}")
    modified = found.get("modified")
    entry = Entry(
        path=found["path"],
        size=found.get("size"),
        modified=datetime.fromisoformat(modified) if modified else None,
        etag=found.get("etag"),
        version=found.get("version"),
    )
    if entry.fingerprint != found["fingerprint"]:
        raise ValueError(f"the fingerprint of {entry.path!r} is not that of its size, time and etag")
    return Row(
        flow=found["flow"],
        source=found["source"],
        entry=entry,
        target=found["target"],
        target_path=found["target_path"],
        reason=found.get("reason", ""),
        requests=found.get("requests", {}),
        beside=tuple(str(place) for place in found.get("beside", ())),
        through=tuple(str(name) for name in found.get("through", ())),
    )


async def check(engine: Engine, rows: Sequence[Row]) -> tuple[list[tuple[Planner, Discovery]], list[Drift]]:
    """Look again: what `start` can add, and the rows that are not what they were. Adds nothing.

    Raises what listing a source raises, and what the ledger raises.
    """
    good: list[tuple[Planner, Discovery]] = []
    drifted: list[Drift] = []
    by_flow: dict[str, list[Row]] = {}
    for row in rows:
        by_flow.setdefault(row.flow, []).append(row)
    for flow, wanted in by_flow.items():
        if flow not in engine.planners:
            drifted += [Drift(row, "its flow is no longer in the configuration") for row in wanted]
            continue
        planner = Planner(unbounded(engine.planner(flow).flow))
        found = await _looked(engine, planner)
        now = {planner.above(each.entry).path: each for each in found.new}
        places: dict[str, list[Place]] = {}
        for row in wanted:
            reason = await _drifted(engine, planner, row, now.get(row.entry.path))
            if reason is None:
                places.setdefault(row.entry.path, []).append(row.place)
            else:
                drifted.append(Drift(row, reason))
        found.new = [replace(now[path], places=tuple(dict.fromkeys(several))) for path, several in places.items()]
        good.append((planner, found))
    return good, drifted


async def _looked(engine: Engine, planner: Planner) -> Discovery:
    storage = await engine.endpoints.storage(planner.flow.source.endpoint)
    return await look(planner, storage, engine.ledger, engine.clock(), has_folders=engine.endpoints.has_folders)


async def _drifted(engine: Engine, planner: Planner, row: Row, decision: Decision | None) -> str | None:
    """What is no longer as it was planned; None: nothing."""
    source = planner.flow.source
    if row.source != source.endpoint or not row.entry.path.startswith(planner.prefix):
        return f"the flow's source is {source} now"
    if decision is None:
        return await _why_not(engine, planner, row)
    if planner.above(decision.entry).fingerprint != row.entry.fingerprint:
        return "the file changed"
    if row.place not in decision.places:
        to = " and ".join(str(place) for place in decision.places) or "nowhere"
        return f"it goes to {to} now ({decision.reason})"
    if decision.verdict != "move":
        return decision.reason
    if (through := _through(decision)) != row.through:
        return f"it goes through {', '.join(through) or 'no transform'} now"
    more = [place for place in decision.places if place != row.place and str(place) not in row.beside]
    if more:
        # A file that has one transfer is known, and would get no other.
        return f"it goes to {' and '.join(str(place) for place in more)} as well now ({decision.reason})"
    return None


async def _why_not(engine: Engine, planner: Planner, row: Row) -> str:
    """For a file that the look did not find, or that is not new."""
    path = row.entry.path
    query = Query(flow=row.flow, source=row.source, name=path.rpartition("/")[2], path=exactly(path))
    known: list[Transfer] = [
        each
        async for each in matching(engine.ledger, query)
        if each.entry.path == row.entry.path and each.fingerprint == row.entry.fingerprint
    ]
    known.sort(key=lambda each: (each.gone, Place(each.target, each.target_path) != row.place))
    storage = await engine.endpoints.storage(row.source)
    there = await storage.exists(row.entry.path)
    if known and (not there or not known[0].gone):
        return f"it is in the ledger already: transfer {known[0].id} to {known[0].target}, {known[0].state}"
    if not there:
        return "the file is gone"
    reason = planner.skipped(planner.below(await storage.stat(row.entry.path)), engine.clock())
    return f"it is left out now: {reason}" if reason else "the file changed, and is in the ledger already"


async def start(engine: Engine, good: Iterable[tuple[Planner, Discovery]]) -> list[int]:
    """Add what `check` found good; the new ids. Durable once this returns."""
    added: list[int] = []
    for planner, found in good:
        added += await add(planner, found, engine.ledger, who=engine.owner)
    return added
