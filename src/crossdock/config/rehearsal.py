"""What a file shows only when it is tried: the user's own functions and transforms are imported, tests of rules run."""

from __future__ import annotations

import re
from collections.abc import Iterator

from crossdock.config.checks import rule_key, sound_rules
from crossdock.config.config import Config
from crossdock.config.mistakes import Key, Report
from crossdock.config.routers import PythonRouter
from crossdock.errors import ConfigError
from crossdock.flows.flow import Flow, Rule
from crossdock.flows.route import Routes

__all__ = ["rehearse"]


def rehearse(config: Config) -> list[ConfigError]:
    """Everything that is wrong when the flows are tried without touching an endpoint.

    This imports, and so executes, the modules that the file names. What is already known to be wrong is not tried.
    """
    found: list[ConfigError] = []
    if config.report is None:
        return found
    for flow in config.flows.values():
        found += _flow(config, config.report, flow)
    return sorted(found, key=lambda mistake: mistake.line or 0)


def _flow(config: Config, report: Report, flow: Flow) -> Iterator[ConfigError]:
    importable = True
    for at, rule in enumerate(flow.rules):
        key = rule_key(report, flow, at)
        if isinstance(rule.call, PythonRouter) and report.sound((*key, "to")):
            try:
                rule.call.resolve()
            except ConfigError as error:
                importable = False
                yield report.error((*key, "to"), error.message, error.hint)
        yield from _transforms(config, report, rule, (*key, "transform"))
    if importable and sound_rules(report, flow):
        for at, message in Routes(flow).failures():
            key = ("flows", flow.name, "tests", at)
            if report.sound(key):
                yield report.error(key, message, "mend the rule, or what the test expects")


def _transforms(config: Config, report: Report, rule: Rule, key: Key) -> Iterator[ConfigError]:
    """Each by itself, so that all that is wrong is told; then together."""
    from crossdock.transfer.transforms.registry import steps

    if not report.sound(key, below=False):
        return
    alone = [((one,), (*key, at)) for at, one in enumerate(rule.transforms) if report.sound((*key, at))]
    together = [(rule.transforms, key)] if len(rule.transforms) == len(alone) > 1 else []
    wrong = False
    for some, place in [*alone, *together]:
        if wrong and place == key:
            return
        try:
            steps(some, folder=config.folder)
        except ConfigError as error:
            wrong = True
            message = re.sub(r"\Atransform: ", "", str(error.args[0]))
            yield report.error(place, message, error.hint)
