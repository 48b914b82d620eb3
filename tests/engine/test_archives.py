"""Archives that a flow unpacks: what is staged, published and resumed of their members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crossdock.engine.engine import Engine
from crossdock.engine.recovery import attempt_id
from crossdock.errors import (
    LedgerUnavailable,
)
from crossdock.flows.flow import After, Destination, Flow, Rule, TransformSpec
from crossdock.ledger.base import Lease
from crossdock.storage.base import WriteOptions
from crossdock.storage.local import LocalSettings
from crossdock.storage.staging import is_temporary, temporary_path
from crossdock.storage.storage import Storage
from tests.engine.places import House, flow, lost
from tests.transfer.transforms.running import zipped


async def test_what_was_staged_of_an_archives_members_is_swept(home: House) -> None:
    """Their names are in no record."""
    await home.put("a", zipped({"in/one": b"1", "in/two": b"2"}))
    staged, asked = home.ledger.staged, 0

    async def fails(lease: Lease, checkpoint: bytes | None) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise LedgerUnavailable("full", hint="free some space")
        await staged(lease, checkpoint)

    home.ledger.staged = fails  # type: ignore[method-assign]
    unpacks = flow(rules=(Rule(name="all", to=(Destination(endpoint="dst"),), transforms=(TransformSpec("unzip"),)),))
    assert (await home.run(unpacks)).delivered == 0
    assert [name.rpartition("/")[0] for name in home.dst.staged] == ["a/in"]
    home.ledger.staged = staged  # type: ignore[method-assign]
    home.clock.move(60)
    assert (await home.run(unpacks)).delivered == 1
    assert (home.dst.hold("a/in/two"), home.dst.staged) == (b"2", [])


def unzips(on_conflict: Any, **more: Any) -> Flow:
    rule = Rule(name="all", to=(Destination("dst", "in/{stem}"),), transforms=(TransformSpec("unzip"),))
    return flow(rules=(rule,), on_conflict=on_conflict, **more)


async def test_an_archive_that_was_published_in_part_goes_on_in_its_folder(home: House) -> None:
    """Its own first files are no reason for another version, beside which they would stay."""
    await home.put("a.zip", zipped({"one": b"1", "two": b"2"}))
    versions = unzips("version", after=After(marker="{name}.done"))
    strike = home.dst.strike

    async def breaks(operation: str) -> None:
        await strike(operation)
        if operation == "commit" and home.dst.calls["commit"] in (2, 4):
            raise lost()

    home.dst.strike = breaks  # type: ignore[method-assign]
    for _ in range(3):
        await home.run(versions)
        home.clock.move(60)
    assert await home.state("a.zip") == "done"
    assert sorted(home.dst._files) == ["in/a.done", "in/a/one", "in/a/two"]
    await home.put("a.zip", zipped({"one": b"1", "three": b"3"}))
    await home.run(versions)
    assert sorted(home.dst._files)[3:] == ["in/a~1.done", "in/a~1/one", "in/a~1/three"]


async def test_an_archive_that_is_put_back_after_a_newer_one_was_unpacked_in_part(home: House) -> None:
    """Some of what is there is the newer one's then, though the earlier one was delivered."""
    await home.put("a.zip", zipped({"one": b"1", "two": b"2"}))
    async with home.engine(unzips("overwrite")) as engine:
        assert (await engine.run_once()).delivered == 1
        first = home.src._files["a.zip"]
        await home.put("a.zip", zipped({"one": b"newer", "two": b"newer"}))
        commits, strike = home.dst.calls["commit"], home.dst.strike

        async def breaks(operation: str) -> None:
            await strike(operation)
            if operation == "commit" and home.dst.calls["commit"] == commits + 2:
                raise lost()

        home.dst.strike = breaks  # type: ignore[method-assign]
        assert (await engine.run_once(patience=0)).delivered == 0
        assert (home.dst.hold("in/a/one"), home.dst.hold("in/a/two")) == (b"newer", b"2")
        home.src._files["a.zip"] = first
        home.clock.move(60)
        assert (await engine.run_once()).delivered == 1
    assert (home.dst.hold("in/a/one"), home.dst.hold("in/a/two")) == (b"1", b"2")


@pytest.mark.parametrize(("mode", "state"), [("skip", "skipped"), ("fail", "failed")])
async def test_an_archive_that_meets_another_file_publishes_nothing(home: House, mode: str, state: str) -> None:
    """Else the first of its files would be there, and the rest never come."""
    await Storage(home.dst).write_bytes("in/a/two", b"other")
    await home.put("a.zip", zipped({"one": b"1", "two": b"2", "three": b"3"}))
    await home.run(unzips(mode))
    assert await home.state("a.zip") == state
    assert {path: home.dst.hold(path) for path in home.dst._files} == {"in/a/two": b"other"}
    await Storage(home.dst).write_bytes("in/a/two", b"2")
    await home.put("a.zip", zipped({"one": b"1", "two": b"2", "three": b"3"}))
    assert (await home.run(unzips(mode))).delivered == 1


@pytest.mark.parametrize("now", ["changed", "gone", "in the way"])
async def test_what_was_staged_of_an_archive_that_cannot_be_unpacked_any_more(
    home: House, tmp_path: Path, now: str
) -> None:
    """Nobody knows its members then: all that lies where they were to go is looked through."""
    await home.put("a.zip", zipped({"deep/one": b"1"}))
    unpacking = unzips("fail")

    def new(name: str) -> Storage:
        return home.new("src") if name == "src" else Storage(LocalSettings(root=tmp_path).backend("dst"))

    async with Engine([unpacking], new, home.ledger, clock=home.clock) as engine, new("dst") as dst:
        await engine.discover("f")
        (lease,) = await home.ledger.claim("killed")
        attempts = [attempt_id(home.ledger.id, lease.id, lease.fence), "0123456789ab"]
        for attempt in attempts:
            writer = await dst.begin_write("in/a/deep/one", WriteOptions(attempt=attempt))
            await writer.write(b"x" * 3_000_000)
            await writer.leave()
        if now == "gone":
            await home.src.delete("a.zip")
        elif now == "in the way":
            await dst.write_bytes("in/a/deep/one", b"other")
        else:
            await home.put("a.zip", zipped({"two": b"22"}))
        home.clock.move(61)
        await engine.run_once(patience=0)
        left = [entry.path async for entry in dst.scan("in/a/deep", temporaries=True) if is_temporary(entry.path)]
        assert left == [temporary_path("in/a/deep/one", attempts[1])], "only that of another transfer"
