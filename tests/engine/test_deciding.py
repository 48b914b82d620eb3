"""What the engine finds to be done: settling, markers, caps, conflicts, and sources that change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from crossdock.engine import discovery, saved
from crossdock.errors import (
    ConfigError,
    LedgerUnavailable,
    PermissionDenied,
)
from crossdock.flows.filters import Filters
from crossdock.flows.filters import Rule as Exclude
from crossdock.flows.flow import After, Destination, Place, Rule, Settle
from crossdock.ledger.base import Query
from crossdock.storage.base import Entry, Reader
from crossdock.storage.layers import Layer
from crossdock.storage.memory import MemorySettings, _MemoryReader, _Node
from crossdock.storage.storage import Storage
from tests.engine.places import Faulty, House, broken, flow, lost

TWO = (Rule(name="all", to=(Destination(endpoint="dst"), Destination(endpoint="dst2"))),)


async def test_settles_by_sightings_and_time(home: House) -> None:
    await home.put("a")
    slow = flow(settle=Settle(sightings=2, seconds=30.0))
    first = await home.run(slow)
    assert (first.found, first.settling) == (0, 1)
    home.clock.move(29)
    assert (await home.run(slow)).settling == 1
    await home.put("a", b"grown")
    home.clock.move(29)
    assert (await home.run(slow)).settling == 1, "it changed: the time counts anew"
    home.clock.move(30)
    assert (await home.run(slow)).delivered == 1
    assert home.dst.hold("a") == b"grown"
    (again,) = await home.ledger.see("f", "src", [await home.src.stat("a")])
    assert again.count == 1, "what has been moved need not be remembered"


async def test_patience(home: House) -> None:
    """Two sightings are two looks: who is patient need not be called again."""
    await home.put("a")
    twice = flow(settle=Settle(sightings=2, seconds=0.0))
    assert (await home.run(twice, patience=0.0)).settling == 1
    assert (await home.run(twice, patience=2.0)).delivered == 1


async def test_a_source_that_takes_long_to_list_uses_up_no_patience(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await home.put("a")
    scan, looks = home.src.scan, 0

    async def slowly(path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.3)
        async for page in scan(path, recursive=recursive):
            yield page

    monkeypatch.setattr(home.src, "scan", slowly)
    twice = flow(settle=Settle(sightings=2, seconds=0.0))
    async with home.engine(twice) as engine:
        made = await saved.make(engine, ["f"], lambda name: MemorySettings(), patience=0.2)
        assert (len(made.rows), looks) == (1, 2)
        await home.put("b")
        assert ((await engine.run_once(patience=0.2)).delivered, looks) == (2, 4)
        await home.put("c")
        assert ((await engine.run_once(patience=0.04)).settling, looks) == (1, 5)


async def test_marker_and_manifest_and_temporary_names(home: House) -> None:
    marked = flow(settle=Settle(sightings=1, seconds=0.0, marker="{name}.done"))
    for name in ("a.csv", "b.csv", "c.csv.part", ".~lock", "a.csv.done"):
        await home.put(name)
    assert (await home.run(marked)).delivered == 1
    assert sorted(home.dst._files) == ["a.csv"]
    listed = flow(name="m", settle=Settle(sightings=1, seconds=0.0, manifest="{name}.sums"))
    await home.put("day.sums", b"0" * 64 + b"  b.csv\n")
    assert (await home.run(listed)).delivered == 1
    assert sorted(home.dst._files) == ["a.csv", "b.csv"]


async def test_a_manifest_that_is_taken_back_meanwhile(home: House) -> None:
    """Between the listing and its being read: what other manifests list goes on."""
    listed = flow(settle=Settle(sightings=1, seconds=0.0, manifest="SUMS"))
    for folder in ("a", "b"):
        await home.put(f"{folder}/x.csv")
        await home.put(f"{folder}/SUMS", b"x.csv\n")
    begin_read = home.src.begin_read

    async def taken(path: str, **more: Any) -> Any:
        if path == "a/SUMS":
            await Storage(home.src).delete(path)
        return await begin_read(path, **more)

    home.src.begin_read = taken  # type: ignore[method-assign]
    summary = await home.run(listed)
    assert (summary.delivered, summary.settling, summary.errors) == (1, 1, {})
    assert list(home.dst._files) == ["b/x.csv"]


async def test_unmatched_and_clash(home: House) -> None:
    await home.put("a.csv")
    await home.put("x/1.txt")
    await home.put("y/1.txt")
    rules = (Rule(name="texts", glob="**/*.txt", to=(Destination(endpoint="dst", template="{name}"),)),)
    summary = await home.run(flow(rules=rules))
    assert (summary.unmatched, summary.clashes, summary.delivered, summary.good) == (1, 2, 0, False)
    strict = await home.run(flow(rules=rules, unmatched="fail"))
    assert strict.refused == 1


async def test_only_what_goes_somewhere_is_noted_while_it_settles(home: House) -> None:
    """Else each look at a folder of another's files wrote as many rows into the ledger."""
    await home.put("a.csv")
    await home.put("b.txt")
    rules = (Rule(name="texts", glob="*.txt", to=(Destination(endpoint="dst"),)),)
    summary = await home.run(flow(rules=rules, settle=Settle(sightings=3, seconds=0.0)))
    assert (summary.unmatched, summary.settling) == (1, 1)
    entries = [entry async for entry in Storage(home.src).walk()]
    seen = await home.ledger.see("f", "src", entries)
    assert {each.path: each.count for each in seen} == {"a.csv": 1, "b.txt": 2}


@pytest.mark.parametrize("marker", ["{name}.done", "{stem}.done", "x.done", "{folder}/x.done"])
async def test_what_a_marker_would_empty_is_not_moved(home: House, marker: str) -> None:
    """Neither in this run nor in one after it."""
    await home.put("in/x.done", b"content")
    await home.put("in/x.csv")
    marking = flow(after=After(delete=True, marker=marker))
    for delivered in (1, 0):
        summary = await home.run(marking)
        assert (summary.delivered, summary.clashes, summary.good) == (delivered, 1, False)
        assert "may be another file's marker" in summary.stuck[0][2]
    assert await Storage(home.src).read_bytes("in/x.done") == b"content"
    assert not await Storage(home.src).exists("in/x.csv")


async def test_a_folder_that_may_not_be_listed(home: House) -> None:
    await home.put("in/a")
    await home.put("in/lost+found/b")

    class Locked(Layer):
        async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
            if path == "in/lost+found":
                raise self.inner.error(PermissionDenied, "list", path, "not permitted")
            async for page in self.inner.scan(path, recursive=recursive):
                yield page

    home.places["src"] = Locked(home.src)  # type: ignore[assignment]
    below = Place("src", "in")
    assert isinstance((await home.run(flow(source=below))).errors["f"], PermissionDenied)
    left_out = Filters(rules=(Exclude(False, "lost+found/"),))
    summary = await home.run(flow(source=below, filters=left_out))
    assert (summary.delivered, summary.errors, summary.good) == (1, {}, True)
    itself = flow(source=Place("src", "in/lost+found"), filters=left_out)
    assert isinstance((await home.run(itself)).errors["f"], PermissionDenied), "its own source is never left out"


async def test_caps_and_order(home: House) -> None:
    for number in (3, 1, 2):
        await home.put(f"{number}", b"x" * number)
    capped = flow(order="name", max_files=2)
    assert (await home.run(capped)).delivered == 2
    assert sorted(home.dst._files) == ["1", "2"]
    assert [each.transfer.entry.path for each in home.said] == ["1", "2"]
    assert (await home.run(flow(order="name", max_bytes=1))).delivered == 1, "one file is moved, however large"
    for number in (4, 5, 6):
        await home.put(f"{number}", b"x" * number)
    assert (await home.run(flow(order="name", max_bytes=9))).delivered == 2


@pytest.mark.parametrize("mode", ["overwrite", "skip", "fail", "version"])
async def test_on_conflict(home: House, mode: Any) -> None:
    await home.put("a.csv", b"new")
    await Storage(home.dst).write_bytes("a.csv", b"old")
    await home.run(flow(on_conflict=mode))
    there = {path: home.dst.hold(path) for path in home.dst._files}
    expected = {"overwrite": {"a.csv": b"new"}, "version": {"a.csv": b"old", "a~1.csv": b"new"}}
    assert there == expected.get(mode, {"a.csv": b"old"})
    states = {"overwrite": "done", "version": "done", "skip": "skipped", "fail": "failed"}
    assert await home.state("a.csv") == states[mode]


async def test_a_source_that_changed_or_went(home: House) -> None:
    await home.put("a", b"1")
    await home.put("b", b"1")
    async with home.engine(flow(after=After(delete=True))) as engine:
        await engine.discover("f")
        await home.put("a", b"22")
        await Storage(home.src).delete("b")
        await engine.worker(["f"]).run(until_idle=True)
        assert (await home.state("a"), await home.state("b")) == ("skipped", "skipped")
        assert home.src.hold("a") == b"22"
        assert (await engine.run_once(patience=0)).delivered == 1
    assert home.dst.hold("a") == b"22"


async def test_the_source_waits_for_all_destinations(home: House) -> None:
    await home.put("a", b"1")
    home.dst2.faults["commit"] = [broken()]
    both = flow(rules=TWO, after=After(delete=True))
    await home.run(both)
    assert (home.dst.hold("a"), home.dst2.hold("a"), home.src.hold("a")) == (b"1", None, b"1")
    home.clock.move(6)
    await home.run(both)
    assert (home.dst2.hold("a"), home.src.hold("a")) == (b"1", None)


async def test_a_path_that_is_too_long_for_the_ledger_stops_no_others(home: House) -> None:
    """Whoever may write to the source must not end every flow; nor does what a rule makes of a name."""
    home.ledger.longest_path = 10
    rules = (
        Rule(name="long", regex="c", to=(Destination(endpoint="dst", template="much/longer/{name}"),)),
        Rule(name="all", to=(Destination(endpoint="dst"),)),
    )
    for name in ("a", "b/23456789", "b/2345678\udcff", "c"):
        await home.put(name)
    summary = await home.run(flow(rules=rules))
    assert (summary.delivered, summary.clashes, summary.good) == (2, 2, False)
    assert {path: reason.partition(":")[0] for _, path, reason in summary.stuck} == {
        "b/2345678\udcff": "its path is longer than this ledger takes",
        "c": "where it goes, its path is longer than this ledger takes",
    }
    assert {*home.dst._files} == {"a", "b/23456789"}


async def test_all_destinations_of_a_file_are_added_together(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that fails between two batches must not leave a file that is known, with half of its destinations."""
    monkeypatch.setattr(discovery, "_BATCH", 3)
    for number in range(4):
        await home.put(f"{number}")
    add = home.ledger.add
    sizes: list[int] = []

    async def failing(planned: Any, *, who: str) -> Any:
        if sizes:
            raise LedgerUnavailable("full")
        sizes.append(len(planned))
        return await add(planned, who=who)

    home.ledger.add = failing  # type: ignore[method-assign]
    with pytest.raises(LedgerUnavailable):
        await home.run(flow(rules=TWO))
    home.ledger.add = add  # type: ignore[method-assign]
    await home.run(flow(rules=TWO))
    assert {*home.dst._files} == {*home.dst2._files} == {"0", "1", "2", "3"}


async def test_an_unknown_flow(home: House) -> None:
    async with home.engine(flow()) as engine:
        with pytest.raises(ConfigError, match="no flow"):
            await engine.look("g")


@pytest.mark.parametrize("where", ["source", "target", "sweep"])
async def test_of_the_versions_of_a_file_an_older_one_does_not_come_after_a_newer(home: House, where: str) -> None:
    """Where the store keeps them: one that waits for its next attempt could still be read, and what it had staged lay
    at the target for good."""

    class Versioned(Faulty):
        kept: ClassVar[list[bytes]] = []

        def _entry(self, path: str, node: _Node) -> Entry:
            return replace(super()._entry(path, node), version=str(len(self.kept)))

        async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
            await self.strike("read")
            assert pin is not None and pin.version is not None
            return _MemoryReader(pin, self.kept[int(pin.version) - 1], offset)

    async def put(data: bytes) -> None:
        Versioned.kept.append(data)
        await home.put("a", data)

    home.places["src"] = home.src = Versioned("src")
    await put(b"old")
    if where == "source":
        home.src.faults["read"] = [lost("src")]
    else:
        home.dst.faults["chunk"] = [lost()]
    assert (await home.run(flow())).waiting == 1
    assert len(home.dst.staged) == (where != "source")
    await put(b"newer")
    home.clock.move(1)
    if where == "sweep":
        home.dst.faults["discard"] = [lost()]
        assert (await home.run(flow())).waiting == 1
        home.clock.move(60)
    assert (await home.run(flow())).delivered == 1
    home.clock.move(60)
    assert (await home.run(flow())).delivered == 0
    assert (home.dst.hold("a"), home.dst.staged) == (b"newer", [])
    found = await home.ledger.find(Query(limit=10))
    assert sorted((each.entry.version, str(each.state)) for each in found) == [("1", "skipped"), ("2", "done")]
