"""Which transfers a command is about: options, and what they ask of the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from crossdock.cli.options import DURATION

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from crossdock.config import Config
    from crossdock.ledger.base import Ledger, Query, State, Transfer

__all__ = ["ID", "Filters", "filtered", "filters_of"]

F = TypeVar("F", bound="Callable[..., Any]")

_STATES = ("pending", "running", "delivered", "done", "failed", "cancelled", "skipped")


_IDS = range(1, 1 << 63)


class _Id(click.ParamType):  # type: ignore[type-arg]
    """A transfer's number."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            found = int(value)
        except ValueError:
            found = 0
        if found not in _IDS:
            self.fail(f"write the number of a transfer, as 'crossdock transfers list' shows it: {value!r}", param, ctx)
        return found


ID = _Id()


class _Time(click.ParamType):  # type: ignore[type-arg]
    """An aware time."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            try:
                ago = DURATION.convert(value, param, ctx)
            except click.BadParameter:
                self.fail(f"write 2h (two hours ago), 2026-05-31 or 2026-05-31T06:30+02:00: {value!r}", param, ctx)
            return datetime.now(UTC) - timedelta(seconds=ago)
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


_TIME = _Time()


@dataclass(frozen=True, slots=True)
class Filters:
    """What the options of one command ask for."""

    query: Query
    path: str | None
    target_path: str | None
    given: bool

    def find(self, ledger: Ledger) -> AsyncGenerator[Transfer]:
        from crossdock.engine.lookup import matching

        return matching(ledger, self.query, path=self.path, target_path=self.target_path)

    def nothing_found(self, config: Config) -> None:
        """Raises `ConfigError` for a flow or target that the configuration, if there is one, lacks as well."""
        if config.file is not None and self.query.flow is not None:
            config.flow(self.query.flow)
        if config.file is not None and self.query.target is not None:
            config.endpoint(self.query.target)


def filtered(function: F) -> F:
    """The options of `filters_of`."""
    for option in reversed(
        [
            click.option("--flow", metavar="NAME", help="Of this flow."),
            click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="In this state; repeat."),
            click.option(
                "--match", metavar="GLOB", help="The path at the source; without a slash, a name at any depth."
            ),
            click.option("--name", metavar="NAME", help="The last component of the path at the source, exactly."),
            click.option(
                "--target", metavar="NAME[:GLOB]", help="The endpoint, and the path there, that it is sent to."
            ),
            click.option("--since", type=_TIME, help="Added later than this: 2h (ago), or a date and time (UTC)."),
            click.option("--before", type=_TIME, help="Unchanged since this time."),
        ]
    ):
        function = option(function)
    return function


def filters_of(options: dict[str, Any], default: Iterable[State] = (), below: int | None = None) -> Filters:
    """Raises `UsageError` for a glob that cannot be read."""
    from crossdock.flows.filters import compile_glob
    from crossdock.ledger.base import Query, State

    endpoint, _, target_path = (options["target"] or "").partition(":")
    for name, glob in (("--match", options["match"]), ("--target", target_path)):
        if glob:
            try:
                compile_glob(glob)
            except ValueError as error:
                raise click.UsageError(f"{name}: {error}") from error
    keys = ("flow", "states", "match", "name", "target", "since", "before")
    query = Query(
        flow=options["flow"],
        states=frozenset(State(state) for state in options["states"]) or frozenset(default),
        name=options["name"],
        target=endpoint or None,
        added_after=options["since"],
        changed_before=options["before"],
        before=below,
    )
    return Filters(query, options["match"] or None, target_path or None, any(options[key] for key in keys))
