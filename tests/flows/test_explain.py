"""What is read out of what actions have said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from crossdock.flows.explain import archived_as
from crossdock.ledger.base import State, Transfer


@pytest.mark.parametrize("name", [".done/a.csv", ".done/a; b.csv", "semi;colon & $(dollar).csv"])
@pytest.mark.parametrize(
    "after",
    [
        "",
        "; the source holds a newer file, which is left alone",
        "; the webhook was told",
        "; the webhook is told later; a@b.c, d@e.f by mail was not told: it is no longer in the flow",
    ],
)
def test_where_a_file_was_archived(name: str, after: str) -> None:
    said = f"marked by lake:a.done; archived as {name}{after}"
    assert archived_as([cast(Transfer, SimpleNamespace(state=State.DONE, why=said))]) == name
