"""Finding transfers and files by what people know of them: a name, a path or a glob, at the source or the target."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime

from crossdock.engine.discovery import walked
from crossdock.errors import ConfigError
from crossdock.flows.explain import archived_as
from crossdock.flows.filters import compile_glob
from crossdock.flows.plan import Planner
from crossdock.ledger.base import Ledger, Query, Transfer
from crossdock.storage.base import Entry
from crossdock.storage.storage import Storage
from crossdock.transfer.receipt import path_at_target

__all__ = ["Found", "arrived_path", "at_source", "by_member", "by_name", "exactly", "files_of", "matching"]

_PAGE = 500
_MEMBERS, _AT_SOURCE = 1000, 20
"""The most that are found."""


async def matching(
    ledger: Ledger, query: Query, *, path: str | None = None, target_path: str | None = None
) -> AsyncGenerator[Transfer]:
    """All that meet the query (its limit aside) and these globs of `flows.filters`, the newest first.

    Memory: a page. Raises `ValueError` for a glob that cannot be read.
    """
    source = compile_glob(path) if path is not None else None
    target = compile_glob(target_path) if target_path is not None else None
    query = replace(query, limit=_PAGE)
    if path is not None:
        query = replace(query, path=_coarse(path))
    if target_path is not None:
        query = replace(query, target_path=_coarse(target_path))
    while page := await ledger.find(query):
        for transfer in page:
            if source is not None and not source.match(transfer.entry.path):
                continue
            if target is not None and not target.match(transfer.target_path):
                continue
            yield transfer
        if len(page) < _PAGE:
            return
        query = replace(query, before=page[-1].id)


async def by_name(
    ledger: Ledger, text: str, *, endpoint: str | None = None, flow: str | None = None, limit: int = 1000
) -> list[Transfer]:
    """Of files that a person calls `text` (at `endpoint`) the newest transfers, with those to other destinations.

    A name without a slash is the last component of the source's or of the target's path; with one, the path or its
    end. Only if nothing is called exactly that, `text` is taken as a glob. At most `limit` by each way of looking.
    """
    text = text.strip("/")
    if not text:
        return []
    name = text.rpartition("/")[2]
    # A number that on_conflict: version or the archive gave a file is in no path of the ledger.
    planned = {name, re.sub(r"~t?\d+(?=(?:\.[^.]*)?$)", "", name)}
    queries = [Query(flow=flow, name=each) for each in sorted(planned)]
    queries += [Query(flow=flow, target_name=each) for each in sorted(planned)]
    found: dict[int, Transfer] = {}
    for query in queries:
        rows = matching(ledger, query)
        await _collect(found, rows, limit, lambda path: path == text or path.endswith(f"/{text}"), endpoint)
    glob = _compiled(text)
    if not found and glob is not None:
        for rows in (
            matching(ledger, Query(flow=flow), path=text),
            matching(ledger, Query(flow=flow), target_path=text),
        ):
            await _collect(found, rows, limit, lambda path: glob.match(path) is not None, endpoint)
    # Files by their names: of one name there may be as many as there are folders, and they are read once.
    named: dict[tuple[str, str, str], set[tuple[str, str, bool]]] = {}
    for each in found.values():
        key = (each.flow, each.source, each.entry.path.rpartition("/")[2])
        named.setdefault(key, set()).add((each.entry.path, each.fingerprint, each.gone))
    for (in_flow, source, called), files in named.items():
        paths = {path for path, _, _ in files}
        query = Query(flow=in_flow, source=source, name=called, path=exactly(paths.pop()) if len(paths) == 1 else None)
        async for each in matching(ledger, query):
            if (each.entry.path, each.fingerprint, each.gone) in files:
                found[each.id] = each
    return [found[id] for id in sorted(found, reverse=True)]


async def by_member(ledger: Ledger, text: str, flows: Sequence[str], *, endpoint: str | None = None) -> list[Transfer]:
    """The newest transfers of archives that were unpacked to a file that a person calls `text` (at `endpoint`).

    What a member is called stands in the receipts alone: those of all transfers of these flows are read.
    """
    text = text.strip("/")
    glob, found = _compiled(text), list[Transfer]()
    for flow in flows:
        async with aclosing(matching(ledger, Query(flow=flow))) as rows:
            async for each in rows:
                for member in (each.receipt or {}).get("members", ()):
                    place, _, path = member["target"].partition(":")
                    called = path == text or path.endswith(f"/{text}") or (glob is not None and glob.match(path))
                    if called and endpoint in (None, place):
                        found.append(each)
                        break
                if len(found) == _MEMBERS:
                    return found
    return found


async def _collect(
    found: dict[int, Transfer],
    rows: AsyncGenerator[Transfer],
    limit: int,
    wanted: Callable[[str], bool],
    endpoint: str | None,
) -> None:
    count = 0
    async with aclosing(rows):
        async for each in rows:
            paths = [each.entry.path, archived_as([each]) or ""] if endpoint in (None, each.source) else []
            if endpoint in (None, each.target):
                paths += [each.target_path, arrived_path(each)]
            if any(wanted(path) for path in paths):
                found[each.id] = each
                count += 1
                if count == limit:
                    return


def _compiled(text: str) -> re.Pattern[str] | None:
    """None for what is no glob: a name may have a "[" of its own."""
    try:
        return compile_glob(text) if re.search(r"[*?\[{]", text) else None
    except ValueError:
        return None


def files_of(transfers: Sequence[Transfer]) -> list[list[Transfer]]:
    """The transfers of one and the same file together, in the order of adding; the newest file first."""
    found: dict[tuple[str, str, str, str, bool], list[Transfer]] = {}
    for transfer in transfers:
        key = (transfer.flow, transfer.source, transfer.entry.path, transfer.fingerprint, transfer.gone)
        found.setdefault(key, []).append(transfer)
    return [sorted(several, key=lambda each: each.id) for several in found.values()]


def arrived_path(transfer: Transfer) -> str:
    """Where the file lies at the target: what the receipt says, else what was planned."""
    return path_at_target(transfer.receipt or {}) or transfer.target_path


def exactly(path: str) -> str | None:
    """For `Query.path`, to which a star in it would be a wildcard: then nothing, and whoever asks has to compare."""
    return None if "*" in path else path


def _coarse(glob: str) -> str:
    """A pattern of the ledger's that takes at least what the glob takes."""
    flat = re.sub(r"\\.|\[[!^]?\]?[^\]]*\]", "*", glob, flags=re.DOTALL)
    anchored = "/" in flat.rstrip("/") and "{" not in flat
    while (shorter := re.sub(r"\{[^{}]*\}", "*", flat)) != flat:
        flat = shorter
    pattern = flat.strip("/").replace("**/", "*").replace("?", "*")
    below = "" if not flat.endswith("/") else "*" if pattern.endswith("*") else "/*"
    return ("" if anchored else "*") + pattern + below


@dataclass(frozen=True, slots=True)
class Found:
    """A file at a flow's source, for a name that the ledger does not know."""

    flow: str
    source: str
    """The endpoint's name."""
    entry: Entry
    """Its path is the endpoint's."""
    said: str
    """What the flow's rules and filters make of it."""


async def at_source(planner: Planner, storage: Storage, text: str, now: datetime) -> list[Found]:
    """Files of that name, path or glob at a flow's source, at most 20. Lists the source; notes nothing."""
    text = text.strip("/")
    pattern = _compiled(text)
    found: list[Found] = []
    async with aclosing(walked(planner, storage, planner.leaves_out)) as entries:
        async for entry in entries:
            path = entry.path
            if path != text and not path.endswith(f"/{text}") and (pattern is None or not pattern.match(path)):
                continue
            found.append(Found(planner.flow.name, storage.endpoint, entry, _said(planner, planner.below(entry), now)))
            if len(found) == _AT_SOURCE:
                break
    return found


def _said(planner: Planner, entry: Entry, now: datetime) -> str:
    left_out = planner.skipped(entry, now)
    if left_out is not None:
        return f"it is left out: {left_out}"
    try:
        routed = planner.routes.route(entry, now)
    except ConfigError as error:
        return error.message
    to = f", to {' and '.join(str(place) for place in routed.places)}" if routed.places else ""
    return f"{routed.reason}{to}"
