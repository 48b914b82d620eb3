"""Small kinds of value in the user's file: one or a list, days of the week, a time of day."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import time
from typing import Annotated, TypeVar

from pydantic import BeforeValidator

__all__ = ["Days", "OneOrMore", "TimeOfDay", "Wrong", "raise_all", "several"]

T = TypeVar("T")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Wrong(ValueError):
    """A value that cannot be, and what to write instead; `others` are wrong with the same value."""

    def __init__(self, message: str, hint: str | None = None, *, others: Iterable[Wrong] = ()) -> None:
        super().__init__(message)
        self.hint, self.all = hint, (self, *others)


def raise_all(found: Iterable[Wrong]) -> None:
    """Raises the first, which tells of the others; returns if there is none."""
    wrong = list(found)
    if wrong:
        raise Wrong(str(wrong[0]), wrong[0].hint, others=wrong[1:])


def several(value: object) -> object:
    """One value stands for a list of one; `none` for an empty list."""
    if value == "none":
        return ()
    return (value,) if isinstance(value, (str, dict)) else value


def _days(value: object) -> object:
    """`[mon..fri]`, `mon..fri`, `[mon, wed]` → {0, 1, …}."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        return value
    found: set[int] = set()
    wrong: list[Wrong] = []
    for part in parts:
        ends = re.split(r"\.\.|-", str(part).strip().lower())
        first, last = _day(ends[0]), _day(ends[-1])
        if len(ends) > 2 or first is None or last is None:
            wrong.append(Wrong(f"{str(part)[:60]!r} is not a day", f"write {', '.join(_DAYS)}, or mon..fri"))
            continue
        found.update(day % 7 for day in range(first, last + 1 + (7 if last < first else 0)))
    raise_all(wrong)
    if not found:
        raise Wrong("no day at all", "leave 'days:' out for every day")
    return frozenset(found)


def _day(name: str) -> int | None:
    name = name.strip()
    for number, day in enumerate(_DAYS):
        if name in (day, _LONG[number]):
            return number
    return None


_LONG = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def _time(value: object) -> object:
    match = re.fullmatch(r"(\d{1,2}):(\d{2})", value) if isinstance(value, str) else None
    if isinstance(value, time):
        return value
    if not match or int(match[1]) > 23 or int(match[2]) > 59:
        raise Wrong("not a time of day", 'write hours and minutes in quotes, such as "06:30"')
    return time(int(match[1]), int(match[2]))


OneOrMore = Annotated[tuple[T, ...], BeforeValidator(several)]
Days = Annotated[frozenset[int], BeforeValidator(_days)]
TimeOfDay = Annotated[time, BeforeValidator(_time)]
