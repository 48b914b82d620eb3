"""What a regular expression says of one character: a test, and where its answer may change."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from re import _constants as code  # type: ignore[attr-defined]
from typing import Any

__all__ = ["Test", "test_of"]

Test = Callable[[str], bool]
"""Of one character."""

_CATEGORIES = {
    code.CATEGORY_DIGIT: r"\d",
    code.CATEGORY_NOT_DIGIT: r"\D",
    code.CATEGORY_SPACE: r"\s",
    code.CATEGORY_NOT_SPACE: r"\S",
    code.CATEGORY_WORD: r"\w",
    code.CATEGORY_NOT_WORD: r"\W",
}


def test_of(operation: Any, argument: Any, flags: int) -> tuple[Test, frozenset[str]]:
    """The test, and characters next to which its answer may change."""
    if operation is code.ANY:
        return (lambda _: True) if flags & re.DOTALL else (lambda character: character != "\n"), frozenset()
    if operation is code.LITERAL:
        items = [(operation, argument)]
    elif operation is code.NOT_LITERAL:
        items = [(code.NEGATE, None), (code.LITERAL, argument)]
    else:
        items = list(argument)
    negated = items[0][0] is code.NEGATE
    members = [(kind, value) for kind, value in items if kind is not code.NEGATE]
    tests = [_member(kind, value, flags) for kind, value in members]
    if flags & re.IGNORECASE:
        tests = [_either_case(test) for test in tests]
    if len(tests) == 1 and not negated:
        return tests[0], _borders(members)
    return lambda character: any(test(character) for test in tests) is not negated, _borders(members)


def _member(kind: Any, value: Any, flags: int) -> Test:
    if kind is code.LITERAL:
        wanted = chr(value)
        return lambda character: character == wanted
    if kind is code.RANGE:
        low, high = chr(value[0]), chr(value[1])
        return lambda character: low <= character <= high
    letter = _CATEGORIES[value]
    category = re.compile(letter, re.ASCII if flags & re.ASCII else 0)
    return lambda character: category.match(character) is not None


def _borders(members: Sequence[tuple[Any, Any]]) -> frozenset[str]:
    found: set[str] = set()
    for kind, value in members:
        if kind in (code.LITERAL, code.RANGE):
            low, high = (value, value) if kind is code.LITERAL else value
            near = {chr(point) for point in (low - 1, low, high, high + 1) if 0 <= point <= 0x10FFFF}
            found |= near | {c for one in near for c in (one.lower(), one.upper()) if len(c) == 1}
    return frozenset(found)


def _either_case(test: Test) -> Test:
    return lambda character: test(character) or test(character.lower()) or test(character.upper())
