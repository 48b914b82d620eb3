"""Errors name the operation, the endpoint, the path and the next step, whoever raises them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import crossdock
from crossdock import errors
from crossdock.errors import CrossdockError, NotFound, StorageError


def _kinds(base: type[StorageError] = StorageError) -> Iterator[type[StorageError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


@pytest.mark.parametrize("kind", [kind for kind in _kinds() if kind.__module__.startswith("crossdock.")])
def test_every_error_of_an_endpoint_has_a_next_step(kind: type[StorageError]) -> None:
    plain = kind("why", operation="read", endpoint="partner", path="in/a.csv")
    assert str(plain).startswith("read partner:in/a.csv: why. Next: ") and "{" not in str(plain)
    told = kind("why", operation="read", endpoint="partner", path="in/a.csv", hint="do that")
    assert str(told) == "read partner:in/a.csv: why. Next: do that"


def test_a_root_that_is_missing_is_not_to_be_listed_once_more() -> None:
    gone = NotFound("no such folder", operation="list", endpoint="partner")
    assert str(gone) == "list partner: no such folder. Next: check the endpoint's root"


def _raised() -> Iterator[tuple[str, ast.Call]]:
    """Every error that is made of a class without a next step of its own: where, and how."""
    top = Path(crossdock.__file__).parent
    plain = {name for name in errors.__all__ if _is_plain(getattr(errors, name))}
    for file in top.rglob("*.py"):
        if file.relative_to(top).parts[0] in ("testing", "demo"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                kind = node.exc.func.value if isinstance(node.exc.func, ast.Attribute) else node.exc.func
                if isinstance(kind, ast.Name) and kind.id in plain:
                    yield f"{file.relative_to(top)}:{node.lineno}", node.exc


def _is_plain(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, CrossdockError) and not issubclass(kind, StorageError)


def test_every_other_error_is_raised_with_a_next_step() -> None:
    found = list(_raised())
    assert len(found) > 50
    assert [where for where, call in found if not any(word.arg == "hint" for word in call.keywords)] == []
