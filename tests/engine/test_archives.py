"""Archives that a flow unpacks: what is staged, published and resumed of their members."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from crossdock.engine.engine import Engine
from crossdock.engine.recovery import attempt_id
from crossdock.errors import IntegrityError, LedgerUnavailable
from crossdock.flows.flow import After, Destination, Flow, Retry, Rule, TransformSpec
from crossdock.ledger.base import Lease, Query
from crossdock.storage.base import WriteOptions
from crossdock.storage.local import LocalSettings
from crossdock.storage.staging import is_temporary, temporary_path
from crossdock.storage.storage import Storage
from crossdock.transfer.transforms.base import Transform
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


def unzips(on_conflict: Any, *, salted: bool = False, **more: Any) -> Flow:
    steps = (TransformSpec("unzip"), *([TransformSpec(f"python:{__name__}:Salted")] if salted else []))
    rule = Rule(name="all", to=(Destination("dst", "in/{stem}"),), transforms=steps)
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


class Salted(Transform):
    """As encryption does: of the same bytes it makes others each time."""

    made = 0

    def feed(self, data: bytes) -> bytes:
        Salted.made += 1
        return f"{Salted.made}:".encode() + data


@pytest.mark.parametrize("mode", ["fail", "skip", "version"])
@pytest.mark.parametrize("fails", ["commit", "publish", "commit, for good"])
async def test_an_archive_whose_files_become_others_each_time_is_not_in_its_own_way(
    home: House, mode: str, fails: str
) -> None:
    """What its first attempt had published stays as it is, and the receipt tells of that."""
    home.dst.store = "memory"
    await home.put("a.zip", zipped({"one": b"1", "two": b"2", "three": b"3"}))
    for_good = fails.endswith("for good")
    unpacking = unzips(mode, salted=True, retry=Retry(attempts=1 if for_good else 8))
    strike = home.dst.strike

    async def breaks(operation: str) -> None:
        await strike(operation)
        if operation == fails.partition(",")[0] and home.dst.calls[operation] == 2:
            raise IntegrityError("changed on its way", hint="again") if for_good else lost()

    home.dst.strike = breaks  # type: ignore[method-assign]
    await home.run(unpacking)
    first = {path: home.dst.hold(path) for path in home.dst._files}
    assert list(first) == ["in/a/one", "in/a/two"][: 2 if fails == "publish" else 1]
    home.clock.move(60)
    if for_good:
        assert await home.state("a.zip") == "failed"
        await home.ledger.requeue([each.id for each in await home.ledger.find(Query())], who="cli", why="by hand")
    assert (await home.run(unpacking)).delivered == 1
    held = {path: home.dst.hold(path) or b"" for path in sorted(home.dst._files)}
    assert [(path, data.partition(b":")[2]) for path, data in held.items()] == [
        ("in/a/one", b"1"),
        ("in/a/three", b"3"),
        ("in/a/two", b"2"),
    ]
    assert held | first == held
    receipt = (await home.transfers())["a.zip", "dst"].receipt
    assert receipt is not None
    assert {each["target"]: each["sha256"] for each in receipt["members"]} == {
        f"dst:{path}": hashlib.sha256(data).hexdigest() for path, data in held.items()
    }


@pytest.mark.parametrize("another", ["endpoint", "file"])
async def test_what_is_another_ones_is_in_the_way_of_such_an_archive(home: House, another: str) -> None:
    """The endpoint may be another one by now; and what an attempt was about to publish, somebody else may have."""
    home.dst.store = "memory"
    await home.put("a.zip", zipped({"one": b"1", "two": b"2"}))
    unpacking = unzips("fail", salted=True)
    strike = home.dst.strike

    async def breaks(operation: str) -> None:
        await strike(operation)
        if operation == "commit" and home.dst.calls[operation] == 2:
            raise lost()

    home.dst.strike = breaks  # type: ignore[method-assign]
    await home.run(unpacking)
    if another == "endpoint":
        home.dst.store = "another"
    else:
        await Storage(home.dst).write_bytes("in/a/two", b"9:2")
    before = dict(home.dst._files)
    home.clock.move(60)
    await home.run(unpacking)
    assert await home.state("a.zip") == "failed"
    assert dict(home.dst._files) == before


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
