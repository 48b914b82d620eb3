"""What changes a file in flight: the transforms of the rule that takes it now.

A configuration may be another one by the time a transfer is attempted. A file that was to be encrypted must not go out
as it is because nobody knows any more how it was to be changed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from crossdock.errors import ConfigError, shown
from crossdock.flows.flow import Rule
from crossdock.flows.plan import Decision, Planner
from crossdock.ledger.base import Ledger, Transfer

if TYPE_CHECKING:
    from crossdock.transfer.transforms.base import Step

__all__ = ["Steps", "why"]

_THROUGH = "; through "
"""What the first reason in a transfer's history says of its transforms begins so."""


def why(decision: Decision) -> str:
    """The reason of a plan, and what the file was to go through."""
    names = _names(decision.rule) if decision.rule is not None else ""
    return f"{decision.reason}{_THROUGH}{names}" if names else decision.reason


def _names(rule: Rule) -> str:
    return ", ".join(spec.name for spec in rule.transforms)


class Steps:
    """Of the transfers of one engine, whose configuration stays as it is. `folder`: see `Engine`."""

    def __init__(self, ledger: Ledger, clock: Callable[[], datetime], folder: Path | None) -> None:
        self._ledger, self._clock, self._folder = ledger, clock, folder
        self._since = clock()

    async def of(self, planner: Planner, transfer: Transfer) -> tuple[Step, ...]:
        """Raises `ConfigError`; also if a file that was to be changed is no longer sent to that endpoint."""
        if not planner.transforms and (transfer.added >= self._since or not await self._planned(transfer)):
            return ()
        rule, sent = None, False
        source = planner.flow.source.endpoint
        if transfer.source == source and transfer.entry.path.startswith(planner.prefix):
            routed = planner.routes.route(planner.below(transfer.entry), self._clock())
            rule, sent = routed.rule, any(place.endpoint == transfer.target for place in routed.places)
        if rule is None or not sent:
            planned = await self._planned(transfer)
            if not planned:
                return ()
            # A function may answer otherwise by now, or by more than the ledger keeps of a file.
            if rule is None or rule.call is None or _names(rule) != planned:
                file = f"{transfer.source}:{shown(transfer.entry.path)}"
                raise ConfigError(
                    f"flow {transfer.flow}: no rule sends {file} to {transfer.target} any more; it was to go through "
                    f"{planned}, and is not sent without",
                    hint="put the rule back and retry the transfer, or leave it as failed",
                )
        if not rule.transforms:
            return ()
        from crossdock.transfer.transforms.registry import steps

        return steps(rule.transforms, folder=self._folder)

    async def _planned(self, transfer: Transfer) -> str:
        """What it was to go through when it was added. "": nothing."""
        history = await self._ledger.history(transfer.id)
        return history[0].why.rpartition(_THROUGH)[2] if history and _THROUGH in history[0].why else ""
