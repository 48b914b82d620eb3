"""Sources in which nothing is left, at real endpoints."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from crossdock.engine.discovery import look
from crossdock.engine.lookup import at_source
from crossdock.errors import NotFound
from crossdock.flows.flow import Place
from crossdock.flows.plan import Planner
from crossdock.ledger import relational
from crossdock.ledger.memory import MemoryLedger
from crossdock.storage.local import LocalSettings
from crossdock.storage.storage import Storage
from tests.engine.bench import Bench
from tests.engine.clocks import Clock
from tests.engine.places import House, flow
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


async def test_a_name_that_every_folder_has_is_not_listed_to_its_end(home: House) -> None:
    for number in range(30):
        await home.put(f"{number:02}/a.csv")
    found = await at_source(Planner(flow()), Storage(home.src), "a.csv", home.clock())
    assert [each.entry.path for each in found] == [f"{number:02}/a.csv" for number in range(20)]


async def test_a_look_that_is_broken_off_leaves_no_listing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the ledger was asked: Ctrl-C then printed a traceback for each layer of the listing."""
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    asked, begun = asyncio.Event(), list[Any]()

    async def hangs(*_: object) -> list[bool]:
        asked.set()
        never: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()
        return await never

    async with MemoryLedger() as ledger, Storage(LocalSettings(root=tmp_path).backend("here")) as storage:
        monkeypatch.setattr(relational, "_BATCH", 1)
        monkeypatch.setattr(ledger, "_unknown", hangs)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=begun.append)
        try:
            task = asyncio.create_task(look(Planner(flow(source=Place("here", ""))), storage, ledger, Clock()()))
            await asked.wait()
            task.cancel()
            await asyncio.wait([task])
        finally:
            sys.set_asyncgen_hooks(*hooks)
    assert len(begun) > 4
    assert [each.__qualname__ for each in begun if each.ag_frame is not None] == []
