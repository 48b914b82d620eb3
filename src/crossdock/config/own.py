"""Flows that would take crossdock's own files, the configuration and the ledger, for files to be moved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from crossdock.config.ledgers import DEFAULT_LEDGER
from crossdock.config.mistakes import Report
from crossdock.errors import shown
from crossdock.flows.flow import Flow
from crossdock.flows.plan import Planner
from crossdock.storage.settings import EndpointSettings

__all__ = ["check_own"]

_BESIDE = ("", "-wal", "-shm", "-journal")
"""What SQLite keeps beside a database."""


def check_own(
    report: Report, flows: Mapping[str, Flow], endpoints: Mapping[str, EndpointSettings], file: Path, ledger: str | None
) -> None:
    """Adds to the report the flows that take them: a mistake if they are gone from the source then, else advice."""
    database = Path(ledger or file.parent / DEFAULT_LEDGER)
    own = [file, *(database.with_name(database.name + suffix) for suffix in _BESIDE if "://" not in str(ledger))]
    for flow in flows.values():
        settings = endpoints.get(flow.source.endpoint)
        sound = report.sound(("endpoints", flow.source.endpoint)) and report.sound(("flows", flow.name))
        if settings is None or settings.type != "local" or not sound:
            continue
        folder, planner = Path(settings.root, flow.source.path).resolve(), Planner(flow)
        below = [path.relative_to(folder).as_posix() for path in own if path.is_relative_to(folder)]
        taken = [path for path in below if planner.takes(path)]
        if taken:
            key, what = ("flows", flow.name), f"it takes crossdock's own files, such as {shown(taken[0])!r}"
            hint = (
                f"keep what is to be moved in a folder of its own, or write 'exclude: [{file.name}, {database.name}*]'"
            )
            if flow.after.takes_source:
                report.mistake(key, f"{what}, and {'deletes' if flow.after.delete else 'archives'} them", hint)
            else:
                report.warning(key, what, hint)
