"""Errors name the operation, the endpoint, the path and the next step, whoever raises them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crossdock.errors import StorageError


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
