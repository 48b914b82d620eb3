"""Values on the command line: sizes, durations, limits, and globs in the order they were given."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from crossdock.flows.filters import Rule

__all__ = ["DURATION", "MAX_DELETE", "SIZE", "OrderedGlobs", "rules_of"]


class _Setting(click.ParamType):  # type: ignore[type-arg]
    """A value as it is written in the configuration; `kind`: its type in `storage.settings`; `most`: its bound."""

    def __init__(self, name: str, kind: str, most: float) -> None:
        self.name, self._kind, self._most = name, kind, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from pydantic import TypeAdapter, ValidationError

        from crossdock.storage import settings

        try:
            found = TypeAdapter(getattr(settings, self._kind)).validate_python(value)
        except ValidationError as error:
            if error.errors()[0]["type"] not in ("less_than_equal", "finite_number"):
                self.fail(_reason(error), param, ctx)
            found = math.inf
        if found > self._most:
            self.fail(f"more than anybody can mean: {value!r}", param, ctx)
        return found


class _MaxDelete(click.ParamType):  # type: ignore[type-arg]
    """A count as int, or a share as float."""

    name = "N or N%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        digits = value.removesuffix("%")
        if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
            self.fail(f"write a number of files such as 100, or a share such as 25%: {value!r}", param, ctx)
        if digits == value:
            return int(value)
        if int(digits) > 100:
            self.fail(f"more than all of them: {value!r}", param, ctx)
        return int(digits) / 100


def _reason(error: Any) -> str:
    reason: str = error.errors(include_url=False)[0]["msg"]
    return reason.removeprefix("Value error, ")


SIZE = _Setting("size", "ByteSize", 2**63 - 1)
DURATION = _Setting("duration", "Seconds", 100 * 365 * 86400)
"""Added to a date, it makes another date."""
MAX_DELETE = _MaxDelete()
_RULES = "crossdock.rules"


class OrderedGlobs(click.Command):
    """A command whose `--include` and `--exclude` keep their common order; `rules_of` has them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from crossdock.flows.filters import Rule

        if not ctx.resilient_parsing and not {"-h", "--help"} & set(args):
            values, _, order = self.make_parser(ctx).parse_args(args=list(args))
            given = {name: list(values.get(name) or ()) for name in ("include", "exclude")}
            rules: list[Rule] = []
            for parameter in order:
                if parameter.name in given:
                    pattern = given[parameter.name].pop(0)
                    try:
                        rules.append(Rule(parameter.name == "include", pattern))
                    except ValueError as error:
                        raise click.BadParameter(str(error), ctx, parameter) from error
            ctx.meta[_RULES] = tuple(rules)
        return super().parse_args(ctx, args)


def rules_of(context: click.Context) -> tuple[Rule, ...]:
    found: tuple[Rule, ...] = context.meta[_RULES]
    return found
