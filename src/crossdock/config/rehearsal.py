"""What a file shows only when it is tried: the user's own functions and transforms are imported, tests of rules run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from crossdock.config.checks import rule_key
from crossdock.config.config import Config
from crossdock.config.mistakes import Report
from crossdock.config.routers import PythonRouter
from crossdock.errors import ConfigError
from crossdock.flows.flow import Flow
from crossdock.flows.route import Routes

__all__ = ["rehearse"]


def rehearse(config: Config, flows: Iterable[str] | None = None, *, now: datetime | None = None) -> list[ConfigError]:
    """Everything that is wrong when the flows (all, or those named) are tried without touching an endpoint.

    This imports, and so executes, the modules that the file names.
    """
    found: list[ConfigError] = []
    if config.report is None:
        return found
    for name in config.flows if flows is None else flows:
        found += _flow(config, config.report, config.flow(name), now)
    return sorted(found, key=lambda mistake: mistake.line or 0)


def _flow(config: Config, report: Report, flow: Flow, now: datetime | None) -> Iterable[ConfigError]:
    from crossdock.transfer.transforms.registry import steps

    importable = True
    for at, rule in enumerate(flow.rules):
        key = rule_key(report, flow, at)
        if isinstance(rule.call, PythonRouter):
            try:
                rule.call.resolve()
            except ConfigError as error:
                importable = False
                yield report.error((*key, "to"), error.message, error.hint)
        if rule.transforms:
            try:
                steps(rule.transforms, folder=config.folder)
            except ConfigError as error:
                message = re.sub(r"\Atransform: ", "", str(error.args[0]))
                yield report.error((*key, "transform"), message, error.hint)
    if importable:
        for at, message in Routes(flow).failures(now):
            key = ("flows", flow.name, "tests", at)
            yield report.error(key, message, "mend the rule, or what the test expects")
