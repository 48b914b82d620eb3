"""Sources in which nothing is left, at real endpoints."""

from __future__ import annotations

import pytest

from crossdock.engine.discovery import look
from crossdock.engine.lookup import at_source
from crossdock.errors import NotFound
from crossdock.flows.flow import Place
from crossdock.flows.plan import Planner
from crossdock.storage.storage import Storage
from tests.engine.bench import Bench
from tests.engine.places import flow
from tests.servers import Ceph
from tests.storage.s3.places import backend as s3_backend

FLOW = flow(source=Place("bank", "outbox"))


@pytest.mark.parametrize("place", ["ceph"], indirect=True)
async def test_a_prefix_whose_last_object_was_taken_away_is_an_empty_source(bench: Bench) -> None:
    """A store has no folders: to it, that prefix is one that never was."""
    found = await look(Planner(FLOW), bench.plain, bench.ledger, bench.clock())
    assert (found.listed, found.new) == (0, [])
    assert await at_source(Planner(FLOW), bench.plain, "a.csv", bench.clock()) == []


async def test_a_bucket_that_is_not_there_is_no_empty_source(
    ceph: Ceph, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(s3_backend(ceph, "no-such-bucket", monkeypatch))
    async with storage:
        with pytest.raises(NotFound, match="no-such-bucket"):
            await look(Planner(FLOW), storage, bench.ledger, bench.clock())


async def test_a_folder_that_is_not_there_is_no_empty_source(bench: Bench) -> None:
    with pytest.raises(NotFound):
        await look(Planner(FLOW), bench.plain, bench.ledger, bench.clock())
