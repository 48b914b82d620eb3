"""What changes a file in flight: the transforms of the rule that takes it now.

A configuration may be another one by the time a transfer is attempted. A file that was to be encrypted must not go out
as it is because nobody knows any more how it was to be changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from crossdock.errors import ConfigError, shown
from crossdock.flows.flow import Place, Rule
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

    def __init__(self, ledger: Ledger, folder: Path | None) -> None:
        self._ledger, self._folder = ledger, folder
        self._own: dict[str, set[int]] = {}

    def planned(self, flow: str, ids: Iterable[int]) -> None:
        """By this very configuration. Of a flow's last look that added something: the ledger need not be asked."""
        self._own[flow] = set(ids)

    async def of(self, planner: Planner, transfer: Transfer) -> tuple[Step, ...]:
        """Raises `ConfigError`; also if a file that was to be changed is no longer sent there."""
        if not planner.transforms and (
            transfer.id in self._own.get(planner.flow.name, ()) or not await self._planned(transfer)
        ):
            return ()
        there, rule, places = Place(transfer.target, transfer.target_path), None, tuple[Place, ...]()
        if transfer.source == planner.flow.source.endpoint and transfer.entry.path.startswith(planner.prefix):
            # At the time of its plan: a name with a date in it is then the same.
            routed = planner.routes.route(planner.below(transfer.entry), transfer.added)
            rule, places = routed.rule, routed.places
        steps_now = "" if rule is None else _names(rule)
        if there not in places:
            planned = await self._planned(transfer)
            sent = any(place.endpoint == transfer.target for place in places)
            if not planned and not (sent and steps_now):
                return ()
            # A function may answer otherwise by now, or by more than the ledger keeps of a file.
            if rule is None or steps_now != planned or not (sent or rule.call):
                file, meant = f"{transfer.source}:{shown(transfer.entry.path)}", planned or "nothing"
                raise ConfigError(
                    f"flow {transfer.flow}: no rule sends {file} to {there.endpoint}:{shown(there.path)} any more; "
                    f"it was to go through {meant}, and is not sent otherwise",
                    hint="put the rule back and retry the transfer; or leave it, and write the file anew at the source",
                )
        if rule is None or not rule.transforms:
            return ()
        from crossdock.transfer.transforms.registry import steps

        return steps(rule.transforms, folder=self._folder)

    async def _planned(self, transfer: Transfer) -> str:
        """What it was to go through when it was added. "": nothing."""
        history = await self._ledger.history(transfer.id)
        return history[0].why.rpartition(_THROUGH)[2] if history and _THROUGH in history[0].why else ""
