"""Flows that would move crossdock's own files, the configuration and the ledger, or write over them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from crossdock.config.ledgers import DEFAULT_LEDGER
from crossdock.config.mistakes import Report
from crossdock.errors import ConfigError, shown
from crossdock.flows.flow import Flow, Place
from crossdock.flows.plan import Planner
from crossdock.storage.base import Entry
from crossdock.storage.settings import EndpointSettings

__all__ = ["check_own"]

_BESIDE = ("", "-wal", "-shm", "-journal")
"""What SQLite keeps beside a database."""


def check_own(
    report: Report, flows: Mapping[str, Flow], endpoints: Mapping[str, EndpointSettings], file: Path, ledger: str | None
) -> None:
    """Adds to the report the flows that take them: a mistake if they are gone from the source then, else advice.

    And, as advice, those that would put a file of such a name in their place.
    """
    database = Path(ledger or file.parent / DEFAULT_LEDGER)
    own = [file, *(database.parent / (database.name + suffix) for suffix in _BESIDE if "://" not in str(ledger))]
    for flow in flows.values():
        key = ("flows", flow.name)
        if not report.sound(key):
            continue
        planner = Planner(flow)
        taken = [path for path in _below(report, endpoints, flow.source, own) if planner.takes(path)]
        if taken:
            what = f"it takes crossdock's own files, such as {shown(taken[0])!r}"
            hint = (
                f"keep what is to be moved in a folder of its own, or write 'exclude: [{file.name}, {database.name}*]'"
            )
            if flow.after.takes_source:
                report.mistake(key, f"{what}, and {'deletes' if flow.after.delete else 'archives'} them", hint)
            else:
                report.warning(key, what, hint)
        for name in dict.fromkeys(to.endpoint for rule in flow.rules for to in rule.to):
            written = [path for path in _below(report, endpoints, Place(name), own) if _writes(planner, name, path)]
            if written:
                message = f"a file called {written[0].rpartition('/')[2]!r} would replace crossdock's own at {name}:"
                report.warning(key, message, f"let what comes from others go to a folder of its own: '{name}:in/'")


def _below(report: Report, endpoints: Mapping[str, EndpointSettings], place: Place, own: Iterable[Path]) -> list[str]:
    """Those of the files that lie below a place, by their path there."""
    settings = endpoints.get(place.endpoint)
    if settings is None or settings.type != "local" or not report.sound(("endpoints", place.endpoint)):
        return []
    folder = Path(os.path.realpath(Path(settings.root, place.path)))
    return [path.relative_to(folder).as_posix() for path in own if path.is_relative_to(folder)]


def _writes(planner: Planner, endpoint: str, path: str) -> bool:
    """Whether some file that the flow takes, of the same name, becomes this path at an endpoint."""
    parts = path.split("/")
    now = datetime.now(UTC)
    for below in ("/".join(parts[at:]) for at in range(len(parts))):
        rule = planner.routes.rule_of(below)
        if rule is None or rule.call or not planner.takes(below):
            continue
        try:
            places = planner.routes.route(Entry(path=below, size=0, modified=now), now).places
        except ConfigError:
            continue
        if Place(endpoint, path) in places:
            return True
    return False
