"""(flow, entry, what the ledger and the listing know) → a decision, with its reason. Pure: no I/O, no clock."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal, Protocol

from crossdock.errors import ConfigError, shown
from crossdock.flows.filters import compile_glob
from crossdock.flows.flow import Flow, Place, Rule
from crossdock.flows.route import Routes, Template, words_of
from crossdock.storage.base import Entry

__all__ = [
    "Beside",
    "Decision",
    "Planner",
    "Seen",
    "above_others",
    "archive_pattern",
    "beside_pattern",
    "ordered",
    "without_buried",
    "without_clashes",
]

Verdict = Literal["move", "settle", "skip", "unmatched", "clash", "fail"]

_SAME_TIME = timedelta(seconds=2)
"""A marker may look that much older than its file: FAT and FTP keep two-second times."""
_WRITING = "its sender uses such names while it writes (settle.temporary)"
_ORDINARY = "Statement-2026_11.20 (1).x"
"""No archive may know this name for one of its own."""


class Seen(Protocol):
    """`ledger.Sighting`, as far as a decision needs it."""

    @property
    def first_seen(self) -> datetime: ...
    @property
    def last_seen(self) -> datetime: ...
    @property
    def count(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of one file."""

    entry: Entry
    """Its path is below the flow's source."""
    verdict: Verdict
    """settle: not yet; skip: never; unmatched: no rule takes it; clash: another file goes to its place; fail: a rule
    broke."""
    reason: str
    places: tuple[Place, ...] = ()
    rule: Rule | None = None
    due: float | None = None
    """settle: seconds until another look can change the verdict, if waiting alone can."""


@dataclass(slots=True)
class Beside:
    """What a listing showed besides the files: markers with their times, and names that manifests list."""

    markers: dict[str, datetime | None] = field(default_factory=dict)
    listed: dict[str, datetime | None] = field(default_factory=dict)
    """With the time of the newest manifest that lists it; None: not known."""

    def note_listed(self, names: Iterable[str], modified: datetime | None) -> None:
        """What a manifest of that time lists."""
        for name in names:
            before = self.listed.get(name, modified)
            self.listed[name] = max(before, modified) if before and modified else None


class Planner:
    """A flow's rules and conditions, compiled. Raises `ValueError` for what is wrong in them."""

    def __init__(self, flow: Flow) -> None:
        self.flow, self.routes = flow, Routes(flow)
        settle = flow.settle
        self._marker = _named("settle.marker", settle.marker)
        self._manifest = _named("settle.manifest", settle.manifest)
        marks = None if flow.after.marker is None else Template(flow.after.marker)
        self._marks = None if marks is None else beside_pattern(marks)
        archive = archive_pattern(flow.after.archive)
        self.never: list[tuple[re.Pattern[str], str]] = [
            *([(archive, "it lies in the flow's own archive")] if archive else ()),
            *([(self._marker[1], "it is a marker of another file")] if self._marker else ()),
            *([(self._manifest[1], "it is a manifest")] if self._manifest else ()),
            *((compile_glob(pattern), _WRITING) for pattern in settle.temporary),
        ]
        """Patterns of whole paths that are not taken, whatever the rules say, and why."""

    @cached_property
    def prefix(self) -> str:
        """What stands before every path of the source at its endpoint."""
        return f"{self.flow.source.path}/" if self.flow.source.path else ""

    def below(self, entry: Entry) -> Entry:
        """The entry with its path below the source."""
        return _at(entry, entry.path[len(self.prefix) :]) if self.prefix else entry

    def above(self, entry: Entry) -> Entry:
        """The opposite of `below`."""
        return _at(entry, self.prefix + entry.path) if self.prefix else entry

    @cached_property
    def transforms(self) -> bool:
        """Whether any rule changes files in flight."""
        return any(rule.transforms for rule in self.flow.rules)

    # What stands beside the files

    @property
    def looks_beside(self) -> bool:
        return self._marker is not None or self._manifest is not None

    def is_marker(self, path: str) -> bool:
        return self._marker is not None and self._marker[1].fullmatch(path) is not None

    def is_manifest(self, path: str) -> bool:
        return self._manifest is not None and self._manifest[1].fullmatch(path) is not None

    @staticmethod
    def names_listed(manifest: str, text: str) -> Iterable[str]:
        """The paths below the source that a manifest at this path lists."""
        folder, slash, _ = manifest.rpartition("/")
        # Editors on Windows begin a text with a mark. Names may hold what else Python takes for the end of a line.
        for line in re.split(r"[\r\n]+", text.removeprefix("\ufeff")):
            line = line.strip(" \t")
            digest = re.match(r"(\\?)[0-9a-fA-F]{32,128}[ \t]+\*?", line)
            name = line[digest.end() :] if digest else line
            if digest and digest[1]:
                # So sha256sum marks a line in whose name it wrote \n, \r or \\ for what they stand for.
                name = re.sub(r"\\([nr\\])", lambda found: {"n": "\n", "r": "\r"}.get(found[1], "\\"), name)
            if name and not name.startswith("#"):
                yield f"{folder}{slash}{name.removeprefix('./')}"

    # Deciding

    def by_name(self, path: str, *, size: int | None = None) -> str | None:
        """Why a path below the source is never taken; None if it may be. `size`: of what is known to lie there."""
        if not path or (path.endswith("/") and not size):
            return "it stands for a folder"
        for pattern, why in self.never:
            if pattern.fullmatch(path):
                return why
        return self.flow.filters.name_verdict(path)

    def takes(self, path: str) -> bool:
        """By its name alone, a file at a path below the source is moved."""
        return self.by_name(path) is None and self.goes(path)

    def goes(self, path: str) -> bool:
        """A rule takes what has this path below the source somewhere, or asks a function."""
        rule = self.routes.rule_of(path)
        return rule is not None and bool(rule.to or rule.call)

    def leaves_out(self, folder: str) -> bool:
        """An exclude rule leaves out all that is below this folder of the endpoint."""
        below = folder.removeprefix(self.prefix)
        return self.flow.filters.folder_verdict(below) is not None

    def skipped(self, entry: Entry, now: datetime) -> str | None:
        """Why a file is not taken, now; `entry.path` is below the source."""
        if entry.kind != "file":
            return f"not a file but a {entry.kind}" if entry.kind != "other" else "not a regular file"
        return self.by_name(entry.path, size=entry.size) or self.flow.filters.verdict(entry, now)

    def decide(self, entry: Entry, seen: Seen, beside: Beside, now: datetime) -> Decision:
        """For a file that is not skipped and that the ledger does not know."""
        waits = next(self.waits(entry, seen, beside), None)
        try:
            routed = self.routes.route(entry, now)
        except ConfigError as error:
            return Decision(entry, "fail", error.message)
        if not routed.places:
            verdict: Verdict = "skip" if routed.rule is not None else "unmatched"
            return Decision(entry, verdict, routed.reason, (), routed.rule)
        for place in routed.places:
            if routed.rule is not None and routed.rule.endpoints and place.endpoint not in routed.rule.endpoints:
                # Once it is planned, the file would be known, and go nowhere else when the function is mended.
                reason = f"{routed.rule.call_name} sends it to {shown(str(place))}, but no endpoint is called that"
                return Decision(entry, "fail", f"rule {routed.rule.name}: {reason}", (), routed.rule)
            if self._marks is not None and self._marks.fullmatch(place.path):
                reason = f"{place} may be another file's marker (after.marker); exclude it, or call markers otherwise"
                return Decision(entry, "clash", reason, routed.places, routed.rule)
        if waits is not None:
            return Decision(entry, "settle", waits[0], routed.places, routed.rule, waits[1])
        return Decision(entry, "move", routed.reason, routed.places, routed.rule)

    def waits(self, entry: Entry, seen: Seen, beside: Beside) -> Iterator[tuple[str, float | None]]:
        """All that a file still waits for, each with the seconds after which waiting alone may do; None: it cannot."""
        settle = self.flow.settle
        if entry.size is not None and entry.size < settle.min_size:
            yield f"{entry.size} bytes, smaller than settle.min_size ({settle.min_size})", None
        if self._marker is not None:
            wanted = _beside(self._marker[0], entry.path)
            marked = beside.markers.get(wanted)
            if wanted not in beside.markers:
                yield f"there is no {wanted}", None
            elif _is_older(marked, entry):
                yield f"{wanted} is older than the file", None
        if self._manifest is not None:
            if entry.path not in beside.listed:
                yield "no manifest lists it", None
            elif not settle.seconds and _is_older(beside.listed[entry.path], entry):
                # Of the file that had the name before; this one may still be written.
                yield "the manifest that lists it is older than the file", None
        quiet = (seen.last_seen - seen.first_seen).total_seconds()
        if quiet < settle.seconds:
            yield f"unchanged for {quiet:.0f} of {settle.seconds:g} s", settle.seconds - quiet
        if seen.count < settle.sightings:
            yield f"seen unchanged {seen.count} of {settle.sightings} times", 0.0


def _is_older(told: datetime | None, entry: Entry) -> bool:
    return told is not None and entry.modified is not None and told < entry.modified - _SAME_TIME


def _at(entry: Entry, path: str) -> Entry:
    """What `dataclasses.replace` would make, at a third of its time: three are needed for each file."""
    return Entry(
        path=path,
        kind=entry.kind,
        size=entry.size,
        modified=entry.modified,
        etag=entry.etag,
        version=entry.version,
        digests=entry.digests,
        attributes=entry.attributes,
    )


def ordered(decisions: Iterable[Decision], flow: Flow) -> tuple[list[Decision], int]:
    """Those to move, in the flow's order, within its caps; and how many wait for another run because of the caps."""

    def age(decision: Decision) -> tuple[float, str]:
        modified = decision.entry.modified
        return (modified.timestamp() if modified else 0.0, decision.entry.path)

    found = list(decisions)
    if flow.order == "name":
        found.sort(key=lambda decision: decision.entry.path)
    else:
        found.sort(key=age, reverse=flow.order == "newest")
    taken, size = 0, 0
    for decision in found:
        size += decision.entry.size or 0
        over = flow.max_bytes is not None and size > flow.max_bytes and taken > 0
        if over or (flow.max_files is not None and taken >= flow.max_files):
            break
        taken += 1
    return found[:taken], len(found) - taken


def without_clashes(decisions: Sequence[Decision]) -> list[Decision]:
    """Of files that go to one and the same place, none is moved: either would replace the other in silence."""
    users: dict[Place, list[Decision]] = {}
    for decision in decisions:
        for place in decision.places:
            users.setdefault(place, []).append(decision)
    clashing: dict[int, tuple[Place, Decision]] = {}
    for place, several in users.items():
        for decision in several if len(several) > 1 else ():
            other = next((one for one in several if one is not decision), decision)
            clashing[id(decision)] = (place, other)
    found = []
    for decision in decisions:
        clash = clashing.get(id(decision))
        if clash is not None:
            place, other = clash
            reason = f"{other.entry.path} goes to {place} as well" if other is not decision else f"twice to {place}"
            decision = replace(decision, verdict="clash", reason=reason)
        found.append(decision)
    return found


def above_others(decisions: Sequence[Decision]) -> dict[Place, Decision]:
    """Of the files to move, those whose places others are to lie below, as they may in a store without folders."""
    moves = [(place, each) for each in decisions if each.verdict == "move" for place in each.places]
    folders: set[tuple[str, str]] = set()
    for place, _ in moves:
        for folder in _folders(place.path):
            if (place.endpoint, folder) in folders:
                break
            folders.add((place.endpoint, folder))
    return {place: each for place, each in moves if (place.endpoint, place.path) in folders}


def without_buried(decisions: Sequence[Decision], above: Mapping[Place, Decision]) -> list[Decision]:
    """Where there are folders, what lies below a file is not moved: else chance would say which of them is."""

    def buried(decision: Decision) -> Decision:
        for place in decision.places if decision.verdict == "move" else ():
            for folder in _folders(place.path):
                if (file := above.get(Place(place.endpoint, folder))) is not None:
                    there = f"{place.endpoint}:{folder}"
                    reason = f"{file.entry.path} goes to {there}, and nothing can be below a file there"
                    return replace(decision, verdict="clash", reason=reason)
        return decision

    return [buried(each) for each in decisions]


def _folders(path: str) -> Iterator[str]:
    """Those above a path, the nearest first."""
    while path := path.rpartition("/")[0]:
        yield path


def _named(key: str, text: str | None) -> tuple[Template, re.Pattern[str]] | None:
    """A template of a name beside a file, and the pattern of all names that it makes. Raises `ValueError`."""
    if text is None:
        return None
    template = Template(text)
    unknown = template.names - set(words_of("x"))
    if unknown:
        raise ValueError(
            f"{key}: {{{min(unknown)}}} means nothing in {text!r}; write one of {', '.join(words_of('x'))}"
        )
    return template, beside_pattern(template)


def beside_pattern(template: Template) -> re.Pattern[str]:
    """Matches every path that it names beside some file."""
    whole = template.names & {"path", "folder"}
    return re.compile(template.pattern(".*") if whole else rf"(?:.*/)?{template.pattern('[^/]*')}", re.DOTALL)


def _beside(template: Template, path: str) -> str:
    words = words_of(path)
    found = template.fill(words)
    if template.names & {"path", "folder"} or not words["folder"]:
        return found
    return f"{words['folder']}/{found}"


def archive_pattern(archive: str | None) -> re.Pattern[str] | None:
    """Matches every path, below the source, at which archived files may lie. Raises `ValueError`."""
    if archive is None:
        return None
    template = Template(archive)
    if not template.names:
        folder = archive.strip("/")
        if not folder:
            raise ValueError("after.archive: the folder has no name")
        return re.compile(rf"{re.escape(folder)}(?:/.*)?", re.DOTALL)
    found = re.compile(template.pattern(".*"), re.DOTALL)
    if found.fullmatch(_ORDINARY):
        raise ValueError(f"after.archive: nothing tells {archive!r} from a file that is still to be sent; add a folder")
    return found
