"""What flows do to each other: loops, files taken from one another, endpoints that nobody uses."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from crossdock.config.checks import sound_rules
from crossdock.config.mistakes import Report
from crossdock.config.path_sets import Reach, archive_of, root_of
from crossdock.errors import shown
from crossdock.flows.flow import Flow
from crossdock.storage.settings import EndpointSettings

__all__ = ["check_across"]

_PLACE = ("type", "root", "host", "port", "user", "bucket", "endpoint_url")
_FILES = (
    *(("source",), ("include",), ("exclude",), ("after", "archive"), ("after", "delete")),
    *(("settle", "temporary"), ("settle", "marker"), ("settle", "manifest")),
)


def check_across(report: Report, flows: Mapping[str, Flow], endpoints: Mapping[str, EndpointSettings]) -> None:
    """Adds to the report what is wrong between flows; those whose files are not known for certain are left out."""
    roots = {name: root_of(name, settings) for name, settings in endpoints.items() if _known(report, name)}
    reaches = {name: Reach(flow, roots) for name, flow in flows.items() if _comparable(report, flow)}
    _loops(report, reaches)
    _one_target(report, flows)
    for one, other in combinations(reaches.values(), 2):
        if one.root is None or other.root is None or not one.root.meets(other.root):
            continue
        if not _same_files(report, one, other):
            _archive_read(report, one, other)
            _archive_read(report, other, one)
    used = {flow.source.endpoint for flow in flows.values()}
    used |= {to.endpoint for flow in flows.values() for rule in flow.rules for to in rule.to}
    if not any(rule.call for flow in flows.values() for rule in flow.rules):
        for name in endpoints:
            if name not in used:
                report.warning(("endpoints", name), "no flow uses this endpoint", "remove it if it is not used by hand")


def _one_target(report: Report, flows: Mapping[str, Flow]) -> None:
    """Flows of every file from different sources to the same names: two files of one name replace each other."""
    writers: dict[str, list[Flow]] = {}
    for flow in flows.values():
        takes_all = not any(rule.include for rule in flow.filters.rules)
        every = [rule for rule in flow.rules if rule.regex is None and rule.glob is None]
        for to in {
            f"{to}{'' if to.template and to.template[-1] != '/' else '{path}'}" for rule in every for to in rule.to
        }:
            if takes_all:
                writers.setdefault(to, []).append(flow)
    for to, several in writers.items():
        sources = {flow.source for flow in several}
        replaces = [flow for flow in several if flow.on_conflict == "overwrite"]
        if len(sources) > 1 and replaces:
            names = " and ".join(flow.name for flow in several)
            message = f"{names} write every file to {to}: of two that have one name, the later replaces the other"
            hint = "give each flow a folder of its own, or write 'on_conflict: version' or 'fail'"
            report.warning(("flows", replaces[-1].name), message, hint)


def _known(report: Report, endpoint: str) -> bool:
    """Which files it holds is as the user means it."""
    return all(report.sound(("endpoints", endpoint, name)) for name in _PLACE)


def _comparable(report: Report, flow: Flow) -> bool:
    """Which files it takes, where it writes them and what becomes of them is as the user means it."""
    key = ("flows", flow.name)
    return sound_rules(report, flow) and all(report.sound((*key, *name)) for name in _FILES)


def _loops(report: Report, reaches: Mapping[str, Reach]) -> None:
    """A flow whose files come back to it, directly or through others."""
    feeds: dict[str, dict[str, str]] = {}
    for name, writer in reaches.items():
        found = {other: reader.reads_what(writer) for other, reader in reaches.items()}
        feeds[name] = {other: path for other, path in found.items() if path is not None}
    for name, targets in feeds.items():
        if name in targets:
            path = shown(targets[name])
            message = f"the flow takes up what it writes itself, such as {path!r} below its source"
            folder, slash, _ = path.partition("/")
            how = f": 'exclude: [{folder}/]'" if slash else " there"
            hint = f"write to a folder outside the source, or exclude it{how}"
            report.mistake(("flows", name), message, hint)
    reported: set[str] = set()
    for name in feeds:
        loop = _way_back(name, feeds)
        if loop is not None and not reported & set(loop):
            reported |= set(loop)
            message = f"files go round in a loop: {' → '.join([*loop, name])}"
            hint = "let one of these flows read a folder that the other does not write, or exclude it there"
            report.mistake(("flows", max(loop, key=list(reaches).index)), message, hint)


def _way_back(start: str, feeds: Mapping[str, Mapping[str, str]]) -> list[str] | None:
    """The flows of a shortest way from a flow over others back to itself."""
    waiting = [[start]]
    seen: set[str] = set()
    while waiting:
        way = waiting.pop(0)
        for following in feeds[way[-1]]:
            if following == start and len(way) > 1:
                return way
            if following not in seen and following != start:
                seen.add(following)
                waiting.append([*way, following])
    return None


def _same_files(report: Report, one: Reach, other: Reach) -> bool:
    """Whether they do what they must not: one takes away what the other takes as well."""
    taking = next((flow for flow in (one.flow, other.flow) if flow.after.takes_source), None)
    found = one.shares(other) if taking is not None else None
    if taking is None or found is None:
        return False
    what = "deletes" if taking.after.delete else "archives"
    message = f"flows {one.flow.name} and {other.flow.name} both take {shown(found)!r}, and {taking.name} {what} it"
    hint = "make one flow with both destinations, or tell their files apart by 'match', 'include' or 'exclude'"
    report.mistake(("flows", other.flow.name), message, hint)
    return True


def _archive_read(report: Report, archiving: Reach, reader: Reach) -> None:
    archive = archiving.flow.after.archive
    if archive is None or archiving.root is None or reader.root is None:
        return
    if (reader.root, reader.flow.after.archive) == (archiving.root, archive):
        return  # It is its own as well, which it never takes.
    folder = archiving.root.below(archive.partition("{")[0])
    if folder != archiving.root and f"{reader.root.path}/".startswith(f"{folder.path}/"):
        return  # Its source is the archive: that is meant.
    found = reader.reads_what(archiving, archive_of(archive))
    if found is not None:
        message = f"it takes what flow {archiving.flow.name} archives, such as {shown(found)!r}"
        hint = f"add 'exclude: [{archive.partition('{')[0].strip('/').rpartition('/')[2] or 'archive'}/]'"
        report.mistake(("flows", reader.flow.name), message, hint)
