"""What becomes of a delivered source, at real endpoints: once, after a crash at any point, and next to newer files."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from crossdock.engine.archive import ARCHIVED
from crossdock.errors import ConnectionFailed, NotFound
from crossdock.flows.flow import After, Place, Settle
from crossdock.flows.plan import Planner
from crossdock.ledger.base import Planned
from crossdock.storage.base import Backend
from crossdock.storage.layers import Layer
from tests.engine.bench import DAY, Bench, everywhere


@everywhere
async def test_archive_keep_and_send_again(bench: Bench) -> None:
    """The structure is kept; days later the file goes; moved back before that, it is new, and so is its time."""
    after = After(archive=".done", keep=30 * DAY)
    entry = await bench.write()
    (lease,) = await bench.delivered(entry)
    assert await bench.follow(lease, after) == ("archived as outbox/.done/a/b.csv", True)
    assert await bench.names() == {"outbox/.done/a/b.csv"}
    assert await bench.read("outbox/.done/a/b.csv") == b"12345"
    # Moved back: new, and archived again.
    await bench.plain.rename("outbox/.done/a/b.csv", "outbox/a/b.csv")
    again = [item async for item in bench.plain.scan("outbox/a")]
    (lease,) = await bench.delivered(again[0])
    bench.clock.move(29 * DAY)
    assert await bench.actions(after).sweep() == 0
    assert (await bench.follow(lease, after))[1]
    bench.clock.move(29 * DAY)
    assert await bench.actions(after).sweep() == 0
    assert await bench.names() == {"outbox/.done/a/b.csv"}
    bench.clock.move(DAY + 1)
    assert await bench.actions(after).sweep() == 1
    assert await bench.names() == set()
    assert await bench.ledger.marks("statements", ARCHIVED) == []


@everywhere
async def test_a_name_that_is_taken_in_the_archive_is_never_replaced(bench: Bench) -> None:
    for number in range(13):
        (lease,) = await bench.delivered(await bench.write(data=b"x" * number))
        assert (await bench.follow(lease, After(archive=".done")))[1]
        bench.clock.move(1)
    found = await bench.names()
    assert {"outbox/.done/a/b.csv", "outbox/.done/a/b~1.csv", "outbox/.done/a/b~9.csv"} < found
    assert {"outbox/.done/a/b~t11.csv", "outbox/.done/a/b~t13.csv"} < found
    assert sorted([len(await bench.read(name)) for name in found]) == list(range(13))


@pytest.mark.parametrize("place", ["local", "openssh"], indirect=True)
async def test_a_folder_in_the_archive_takes_a_name_too(bench: Bench) -> None:
    """The archive of what was below it when it was a folder at the source."""
    await bench.plain.write_bytes("outbox/.done/a/b.csv/x", b"earlier")
    (lease,) = await bench.delivered(await bench.write())
    assert await bench.follow(lease, After(archive=".done")) == ("archived as outbox/.done/a/b~1.csv", True)
    assert await bench.names() == {"outbox/.done/a/b.csv/x", "outbox/.done/a/b~1.csv"}


@pytest.mark.parametrize("place", ["ceph", "moto"], indirect=True)
async def test_what_has_a_name_in_the_archive_is_not_taken_for_our_own(bench: Bench, place: Backend) -> None:
    """Where the store itself would replace it, a look tells: of the same size, and made just now."""
    assert isinstance(place, Layer)
    place.inner.capabilities = replace(place.capabilities, create_new=False)
    (lease,) = await bench.delivered(await bench.write())
    for name in ("b.csv", "b.csv.ok"):
        await bench.plain.write_bytes(f"outbox/.done/a/{name}", b"other")
    await bench.plain.write_bytes("outbox/a/b.csv.ok", b"ready")
    assert (await bench.follow(lease, After(archive=".done"), settle=Settle(marker="{name}.ok")))[1]
    found = {name.removeprefix("outbox/.done/a/"): await bench.read(name) for name in await bench.names()}
    assert found == {"b.csv": b"other", "b~1.csv": b"12345", "b.csv.ok": b"other", "b.csv~1.ok": b"ready"}


@everywhere
@pytest.mark.parametrize("archive", ["{folder}/{stem}_sent.csv", "{folder}/{name}.1.old", "old/{path}"])
async def test_what_has_a_number_in_the_archive_is_known_for_archived(bench: Bench, archive: str) -> None:
    """Else the next run sends it, under a name that its sender never gave it."""
    after = After(archive=archive)
    for number in range(12):
        (lease,) = await bench.delivered(await bench.write(data=b"x" * number))
        assert (await bench.follow(lease, after))[1]
        bench.clock.move(1)
    planner = Planner(replace(bench.flow, after=after))
    found = {path.removeprefix("outbox/") for path in await bench.names()}
    assert len(found) == 12
    assert {planner.by_name(path) for path in found} == {"it lies in the flow's own archive"}


@everywhere
async def test_delete(bench: Bench) -> None:
    (lease,) = await bench.delivered(await bench.write())
    assert await bench.follow(lease, After(delete=True)) == ("removed the source", True)
    assert await bench.names() == set()


@pytest.mark.parametrize("place", ["local", "openssh"], indirect=True)
@pytest.mark.parametrize("after", [After(archive=".done"), After(delete=True)], ids=["archive", "delete"])
async def test_a_source_that_is_missing_is_waited_for(bench: Bench, after: After) -> None:
    """Its mount, perhaps. If the file were taken for gone, it would be sent again once the mount is back."""
    source = Place("bank", "outbox/a")
    (lease,) = await bench.delivered(await bench.write())
    await bench.plain.rename("outbox/a/b.csv", "unmounted/b.csv")
    await bench.plain.remove_dir("outbox/a")
    with pytest.raises(NotFound):
        await bench.follow(lease, after, source=source)
    await bench.plain.rename("unmounted/b.csv", "outbox/a/b.csv")
    words, gone = await bench.follow(lease, after, source=source)
    assert ("outbox/a/b.csv" in await bench.names(), gone) == (False, True), words


@everywhere
@pytest.mark.parametrize("after", [After(archive=".done"), After(delete=True)], ids=["archive", "delete"])
async def test_a_newer_file_is_left_alone(bench: Bench, after: After) -> None:
    (lease,) = await bench.delivered(await bench.write())
    await bench.write(data=b"newer one")
    bench.fragile.calls.clear()
    words, gone = await bench.follow(lease, after)
    assert ("left alone" in words, gone) == (True, False)
    assert set(bench.fragile.calls) == {"stat"}
    assert await bench.names() == {"outbox/a/b.csv"}
    assert await bench.read("outbox/a/b.csv") == b"newer one"


@everywhere
@pytest.mark.parametrize("after", [After(archive=".done"), After(delete=True)], ids=["archive", "delete"])
async def test_a_newer_file_that_comes_in_that_moment_is_left_alone(bench: Bench, after: After) -> None:
    """After our look at the source and before the step that takes it."""
    (lease,) = await bench.delivered(await bench.write())

    async def replace_it() -> None:
        await bench.write(data=b"newer one")

    bench.fragile.intrude[("stat", "after")] = replace_it
    words, gone = await bench.follow(lease, after)
    assert ("left alone" in words, gone) == (True, False)
    assert await bench.names() == {"outbox/a/b.csv"}
    assert await bench.read("outbox/a/b.csv") == b"newer one"


@pytest.mark.parametrize("place", ["ceph", "moto"], indirect=True)
async def test_a_newer_object_that_comes_between_copy_and_delete_stays(bench: Bench) -> None:
    """What was delivered is archived, and may come again; the newer one has its own transfer."""
    (lease,) = await bench.delivered(await bench.write())

    async def replace_it() -> None:
        await bench.write(data=b"newer one")

    bench.fragile.intrude[("copy", "after")] = replace_it
    words, gone = await bench.follow(lease, After(archive=".done", keep=DAY))
    assert words.startswith("archived as outbox/.done/a/b.csv; ")
    assert gone
    assert await bench.read("outbox/a/b.csv") == b"newer one"
    assert await bench.read("outbox/.done/a/b.csv") == b"12345"
    bench.clock.move(2 * DAY)
    assert await bench.actions().sweep() == 1
    assert await bench.names() == {"outbox/a/b.csv"}


@pytest.mark.parametrize("place", ["ceph", "moto"], indirect=True)
async def test_another_worker_between_copy_and_delete_makes_no_second_copy(bench: Bench) -> None:
    one, other = await bench.delivered(await bench.write(), "lake", "sea")
    said: list[tuple[str, bool]] = []

    async def be_the_last_too() -> None:
        said.append(await bench.follow(other, After(archive=".done")))

    bench.fragile.intrude[("copy", "after")] = be_the_last_too
    said.append(await bench.follow(one, After(archive=".done")))
    assert said == [("archived as outbox/.done/a/b.csv", True)] * 2
    assert await bench.names() == {"outbox/.done/a/b.csv"}


@everywhere
async def test_of_two_that_end_at_once_one_takes_the_source(bench: Bench) -> None:
    """Where a rename is a link and a removal, both had taken it, and it lay in the archive twice."""
    leases = await bench.delivered(await bench.write(), "lake", "sea")
    actions = bench.actions(After(archive=".done"))
    bench.fragile.calls.clear()
    said = await asyncio.gather(*(actions.follow(lease, bench.receipt(lease)) for lease in leases))
    assert said == [("archived as outbox/.done/a/b.csv", True)] * 2
    assert sum(call in ("rename", "copy") for call in bench.fragile.calls) == 1


@everywhere
async def test_the_last_destination_takes_the_source(bench: Bench) -> None:
    after = After(archive=".done")
    entry = await bench.write()
    plan = [
        Planned(flow="statements", source="bank", entry=entry, target=name, target_path="x") for name in ("lake", "sea")
    ]
    await bench.ledger.add(plan, who="poll")
    first, second = await bench.ledger.claim("w1", limit=2)
    await bench.ledger.delivered(first, bench.receipt(first))
    assert await bench.follow(first, after) == ("left the source, as not delivered by then: sea:x", False)
    assert await bench.names() == {"outbox/a/b.csv"}
    await bench.ledger.delivered(second, bench.receipt(second))
    assert await bench.follow(second, after) == ("archived as outbox/.done/a/b.csv", True)
    # And it is free for both.
    await bench.plain.rename("outbox/.done/a/b.csv", "outbox/a/b.csv")
    assert [added.new for added in await bench.ledger.add(plan, who="poll")] == [True, True]


@everywhere
async def test_two_workers_at_once(bench: Bench) -> None:
    """Both are last: one moves the file, and both are right."""
    for after in (After(archive=".done"), After(delete=True)):
        leases = await bench.delivered(await bench.write(data=b"both"), "lake", "sea", "pond")
        found = await asyncio.gather(*(bench.follow(lease, after) for lease in leases))
        assert [gone for _, gone in found] == [True] * 3, found
        assert await bench.names() == {"outbox/.done/a/b.csv"}


async def test_what_was_replaced_meanwhile_is_left_where_it_is(bench: Bench) -> None:
    """It may have been put back: then it is new, for the destination too that was not to get it any more."""
    entry = await bench.write()
    waits = [Planned(flow="statements", source="bank", entry=entry, target=name, target_path="b") for name in "xy"]
    await bench.ledger.add(waits, who="poll")
    first, second = await bench.ledger.claim("w1", limit=10)
    await bench.ledger.retry_in(second, 100, "down")
    (newer,) = await bench.delivered(replace(entry, size=6), "z")
    await bench.ledger.done(newer)
    await bench.ledger.delivered(first, bench.receipt(first))
    said = await bench.follow(first, After(archive=".done"))
    assert said == ("the source was taken away or replaced before", False)
    assert await bench.names() == {entry.path}


async def test_a_failed_or_cancelled_sibling_keeps_the_source(bench: Bench) -> None:
    entry = await bench.write()
    plan = [
        Planned(flow="statements", source="bank", entry=entry, target=name, target_path="x")
        for name in ("lake", "sea", "pond", "well")
    ]
    await bench.ledger.add(plan, who="poll")
    lake, sea, pond, well = await bench.ledger.claim("w1", limit=4)
    await bench.ledger.failed(sea, "no such bucket")
    await bench.ledger.cancel([pond.id], who="me", why="test")
    await bench.ledger.skipped(well, "by a rule")
    await bench.ledger.delivered(lake, bench.receipt(lake))
    assert await bench.follow(lake, After(delete=True)) == (
        "left the source, as not delivered by then: sea:x, pond:x",
        False,
    )
    assert await bench.names() == {"outbox/a/b.csv"}


@everywhere
async def test_the_senders_marker_goes_with_its_file(bench: Bench) -> None:
    """A stale one would vouch for a file that is still being sent; one that speaks for several files stays."""
    settle = Settle(marker="{name}.ok")
    for after in (After(archive=".done", keep=DAY), After(delete=True)):
        for marked in (True, False):
            entry = await bench.write()
            if marked:
                await bench.plain.write_bytes("outbox/a/b.csv.ok", b"")
            (lease,) = await bench.delivered(entry)
            assert (await bench.follow(lease, after, settle=settle))[1]
            archived = {"outbox/.done/a/b.csv", "outbox/.done/a/b.csv.ok"} if after.archive else set()
            assert await bench.names() == (archived if marked else archived - {"outbox/.done/a/b.csv.ok"})
            bench.clock.move(2 * DAY)
            assert await bench.actions().sweep() == (1 + marked if after.archive else 0)
            assert await bench.names() == set()
    (lease,) = await bench.delivered(await bench.write())
    await bench.plain.write_bytes("outbox/ready/a/b.csv", b"")
    assert (await bench.follow(lease, After(delete=True), settle=Settle(marker="ready/{path}")))[1]
    assert await bench.names() == set()
    entry = await bench.write()
    await bench.plain.write_bytes("outbox/a/b.ok", b"")
    (lease,) = await bench.delivered(entry)
    assert (await bench.follow(lease, After(delete=True), settle=Settle(marker="{stem}.ok")))[1]
    assert await bench.names() == {"outbox/a/b.ok"}


async def test_a_template_of_the_archive(bench: Bench) -> None:
    after = After(archive="{folder}/.done/{now:%Y-%m}/{stem}_{modified:%Y}{suffix}")
    for path in ("outbox/a/b.csv", "outbox/top.csv"):
        (lease,) = await bench.delivered(await bench.write(path))
        # The month of the delivery, however late the archiving is.
        bench.clock.move(40 * DAY)
        (lease,) = await bench.ledger.claim("w2")
        assert (await bench.follow(lease, after))[1]
        bench.clock.move(-40 * DAY)
    assert {name.rpartition("_")[0] for name in await bench.names()} == {
        "outbox/a/.done/2026-11/b", "outbox/.done/2026-11/top",
    }  # fmt: skip


@everywhere
async def test_an_archived_file_that_is_no_longer_ours_stays(bench: Bench) -> None:
    after = After(archive=".done", keep=DAY)
    (lease,) = await bench.delivered(await bench.write())
    await bench.follow(lease, after)
    await bench.write("outbox/.done/a/b.csv", b"somebody else's")
    bench.clock.move(2 * DAY)
    assert await bench.actions(after).sweep() == 0
    assert await bench.read("outbox/.done/a/b.csv") == b"somebody else's"
    assert await bench.ledger.marks("statements", ARCHIVED) == []


async def test_an_archive_that_is_kept_for_longer_by_now(bench: Bench) -> None:
    (lease,) = await bench.delivered(await bench.write())
    await bench.follow(lease, After(archive=".done", keep=DAY))
    bench.clock.move(2 * DAY)
    for after in (After(), After(archive=".done"), After(archive=".done", keep=3 * DAY)):
        assert await bench.actions(after).sweep() == 0
    assert await bench.names() == {"outbox/.done/a/b.csv"}
    bench.clock.move(DAY + 1)
    assert await bench.actions(after).sweep() == 1


async def test_a_sweep_goes_on_after_an_endpoint_that_fails(bench: Bench) -> None:
    after = After(archive=".done", keep=DAY)
    for number in range(5):
        (lease,) = await bench.delivered(await bench.write(f"outbox/{number}.csv"))
        await bench.follow(lease, after)
    bench.clock.move(2 * DAY)
    bench.fragile.calls.clear()
    bench.fragile.die_at = (3, "before")
    bench.fragile.deadly = ConnectionFailed("gone", operation="stat", endpoint="bank")
    # The first is removed with a look and a removal; then the endpoint is not asked for each of the others.
    assert await bench.actions(after).sweep() == 1
    assert len(bench.fragile.calls) == 3
    assert len(await bench.ledger.marks("statements", ARCHIVED)) == 4
    bench.fragile.die_at = None
    assert await bench.actions(after).sweep() == 4
    assert await bench.names() == set()
