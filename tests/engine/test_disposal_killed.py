"""What becomes of a delivered source whose worker was killed before it could say so, at real endpoints."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crossdock.engine.archive import ARCHIVED
from crossdock.errors import PermissionDenied
from crossdock.flows.flow import After, Settle
from crossdock.ledger.base import Lease
from crossdock.storage.base import Entry, WriteOptions
from crossdock.storage.storage import Storage
from tests.engine.bench import DAY, Bench, Killed, everywhere
from tests.storage.s3.faults import FaultProxy, xml_error
from tests.storage.s3.places import LARGE, Server, backend, bucket


@pytest.mark.parametrize("place", ["local", "openssh"], indirect=True)
@pytest.mark.parametrize(("data", "same"), [(b"12345", True), (b"54321", False)])
async def test_a_rename_that_was_killed_with_both_names_there(bench: Bench, data: bytes, *, same: bool) -> None:
    """Of two steps, a link and a removal, at servers that have no other that never replaces."""
    entry = await bench.write()
    await bench.delivered(entry)
    options = WriteOptions(modified=entry.modified)
    await bench.plain.write_bytes("outbox/.done/a/b.csv", data, options)
    assert await bench.follow(await bench.reclaim(), After(archive=".done")) == (
        f"archived as outbox/.done/a/b{'' if same else '~1'}.csv",
        True,
    )
    assert await bench.names() == {"outbox/.done/a/b.csv", *([] if same else ["outbox/.done/a/b~1.csv"])}
    assert await bench.read("outbox/.done/a/b.csv") == data


async def removed_half(bench: Bench, lease: Lease) -> None:
    """Killed when the source had stepped aside."""
    bench.fragile.die_at = (2, "after")
    bench.fragile.calls.clear()
    with pytest.raises(Killed):
        await bench.follow(lease, After(delete=True))
    bench.fragile.die_at = None
    assert await bench.names() == set()


@pytest.mark.parametrize("place", ["local", "openssh"], indirect=True)
async def test_a_removal_that_was_killed_with_both_names_there(bench: Bench) -> None:
    """It steps aside first, by such a rename."""
    entry = await bench.write()
    (lease,) = await bench.delivered(entry)
    await removed_half(bench, lease)
    await bench.plain.write_bytes(entry.path, b"12345", WriteOptions(modified=entry.modified))
    assert await bench.follow(await bench.reclaim(), After(delete=True)) == ("removed the source", True)
    assert [each.path async for each in bench.plain.scan("outbox/a", temporaries=True)] == []


@pytest.mark.parametrize("place", ["local", "openssh"], indirect=True)
@pytest.mark.parametrize("newer", [False, True], ids=["ours", "newer"])
async def test_a_removal_that_was_killed_before_the_flow_was_to_archive(bench: Bench, *, newer: bool) -> None:
    """What had stepped aside does not stay there, least of all a newer file that came in that moment."""
    entry = await bench.write()
    (lease,) = await bench.delivered(entry)

    async def replaced() -> None:
        await bench.plain.write_bytes(entry.path, b"newer one")

    if newer:
        bench.fragile.intrude["rename", "before"] = replaced
    await removed_half(bench, lease)
    said = await bench.follow(await bench.reclaim(), After(archive=".done"))
    assert said == ("the source was gone" if newer else "removed the source", True)
    left = [each.path async for each in bench.plain.scan("outbox/a", temporaries=True)]
    assert left == ([entry.path] if newer else [])
    if newer:
        assert await bench.read(entry.path) == b"newer one"


@pytest.mark.parametrize("place", ["local", "openssh"], indirect=True)
@pytest.mark.parametrize("newer", [False, True], ids=["ours", "newer"])
async def test_a_removal_that_was_killed_before_the_flow_was_to_leave_its_source(bench: Bench, *, newer: bool) -> None:
    entry = await bench.write()
    (lease,) = await bench.delivered(entry)

    async def replaced() -> None:
        await bench.plain.write_bytes(entry.path, b"newer one")

    if newer:
        bench.fragile.intrude["rename", "before"] = replaced
    await removed_half(bench, lease)
    said = await bench.follow(await bench.reclaim(), After())
    assert said == (("the flow asks for nothing more", False) if newer else ("removed the source", True))
    left = [each.path async for each in bench.plain.scan("outbox/a", temporaries=True)]
    assert left == ([entry.path] if newer else [])
    if newer:
        assert await bench.read(entry.path) == b"newer one"


@pytest.mark.parametrize("place", ["local", "openssh"], indirect=True)
async def test_a_removal_that_was_killed_before_a_newer_file_was_delivered(bench: Bench) -> None:
    """What had stepped aside stayed there: its transfer has nothing more to do with what is at the source."""
    (lease,) = await bench.delivered(await bench.write())
    await removed_half(bench, lease)
    (newer,) = await bench.delivered(await bench.write(data=b"newer one"))
    await bench.ledger.done(newer)
    late = await bench.reclaim()
    assert late.transfer.gone
    words, _ = await bench.follow(late, After(delete=True))
    assert words == "removed the source; the source was taken away or replaced before"
    assert [each.path async for each in bench.plain.scan("outbox/a", temporaries=True)] == ["outbox/a/b.csv"]
    assert await bench.read("outbox/a/b.csv") == b"newer one"


async def archived_half(bench: Bench, first: Entry) -> None:
    """Another file is delivered; the first comes back in the moment of its move, and the worker is killed after it."""

    async def back() -> None:
        await bench.plain.write_bytes(first.path, b"12345", WriteOptions(modified=first.modified))

    (lease,) = await bench.delivered(await bench.write(data=b"newer one"))
    bench.fragile.intrude["rename", "after"] = lambda: _die(bench)
    bench.fragile.intrude["rename", "before"] = back
    with pytest.raises(Killed):
        await bench.follow(lease, After(archive=".done"))


async def _die(bench: Bench) -> None:
    # Only the rename that succeeded.
    if await bench.plain.exists("outbox/a/b.csv"):
        bench.fragile.intrude["rename", "after"] = lambda: _die(bench)
        return
    raise Killed


@pytest.mark.parametrize("place", ["local", "openssh"], indirect=True)
async def test_what_came_back_in_the_moment_of_another_ones_move(bench: Bench) -> None:
    """It is new, and lies at the source again, though the ledger knows it: that was archived under another name."""
    first = await bench.write()
    (lease,) = await bench.delivered(first)
    assert await bench.follow(lease, After(archive=".done")) == ("archived as outbox/.done/a/b.csv", True)
    (other,) = await bench.delivered(await bench.write(data=b"between"))
    assert (await bench.follow(other, After(archive=".done")))[0] == "archived as outbox/.done/a/b~1.csv"
    await archived_half(bench, first)
    assert await bench.names() == {f"outbox/.done/a/b{number}.csv" for number in ("", "~1", "~2")}
    await bench.follow(await bench.reclaim(), After(archive=".done"))
    assert await bench.names() == {"outbox/a/b.csv", "outbox/.done/a/b.csv", "outbox/.done/a/b~1.csv"}
    assert await bench.read("outbox/a/b.csv") == b"12345"


@pytest.mark.parametrize("place", ["local"], indirect=True)
@pytest.mark.parametrize("recorded", [False, True])
async def test_what_was_archived_before_stays_there_when_the_owner_takes_the_next(
    bench: Bench, *, recorded: bool
) -> None:
    """Whether or not its own worker came to say so."""
    (lease,) = await bench.delivered(await bench.write())
    words, gone = await bench.actions(After(archive=".done")).follow(lease, bench.receipt(lease))
    if recorded:
        await bench.ledger.done(lease, words, gone=gone)
    (other,) = await bench.delivered(await bench.write(data=b"newer one"))
    await bench.plain.delete("outbox/a/b.csv")
    transfer = await bench.ledger.get(other.id)
    assert transfer is not None
    late = replace(other, transfer=transfer)
    assert (await bench.follow(late, After(archive=".done")))[0] == "the source was gone"
    assert await bench.names() == {"outbox/.done/a/b.csv"}


async def test_what_a_copy_into_the_archive_has_staged_is_removed(
    bench: Bench, moto: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large object, in parts, where the store takes back nothing at the time."""
    more = {"copy_threshold": "5M", "copy_part_size": "5M", "conditional_writes": "on"}
    with bucket(moto) as peer:
        async with FaultProxy(moto) as proxy, Storage(backend(proxy, peer.bucket, monkeypatch, **more)) as storage:
            bench.storage = bench.plain = storage
            (lease,) = await bench.delivered(await bench.write(data=LARGE))
            proxy.fail("PUT", "partNumber=2", xml_error(403, "AccessDenied"), 100)
            proxy.fail("DELETE", "uploadId=", xml_error(403, "AccessDenied"), 100)
            with pytest.raises(PermissionDenied):
                await bench.follow(lease, After(archive=".done"))
            assert len(peer.uploads()) == len(await bench.ledger.marks("statements", "archiving")) == 1
            proxy.rules.clear()
            assert (await bench.follow(await bench.reclaim(), After(archive=".done")))[1]
            assert peer.names() == {"outbox/.done/a/b.csv"}
            assert await bench.ledger.marks("statements", "archiving") == []


@everywhere
@pytest.mark.parametrize("after", [After(archive=".done", keep=DAY), After(delete=True)], ids=["archive", "delete"])
async def test_killed_anywhere_it_is_done_again(bench: Bench, after: After) -> None:
    """Before and after each call to the endpoint; nothing is lost, nothing is there twice."""
    number = 0
    while True:
        number += 1
        done = 0
        for when in ("before", "after"):
            (lease,) = await bench.delivered(await bench.write(data=b"run %d" % number))
            bench.fragile.calls.clear()
            bench.fragile.die_at = (number, when)
            try:
                await bench.follow(lease, after)
                done += 1
            except Killed:
                bench.fragile.die_at = None
                words, gone = await bench.follow(await bench.reclaim(), after)
                assert gone, words
                assert words.startswith(("archived as", "removed the source", "the source was gone")), words
            bench.fragile.die_at = None
            if after.delete:
                assert await bench.names() == set()
            else:
                assert await bench.names() == {"outbox/.done/a/b.csv"}
                (mark,) = await bench.ledger.marks("statements", ARCHIVED)
                assert mark.key == "outbox/.done/a/b.csv"
                bench.clock.move(2 * DAY)
                assert await bench.actions(after).sweep() == 1
                assert await bench.names() == set()
        if done == 2:
            break
    assert number > 2


@everywhere
@pytest.mark.parametrize("after", [After(archive=".done"), After(delete=True)], ids=["archive", "delete"])
async def test_killed_anywhere_a_newer_file_keeps_its_senders_marker(bench: Bench, after: After) -> None:
    """Both come after our look at the earlier file. Without its marker the newer one would never be sent."""
    settle = Settle(marker="{name}.ok")

    async def newer() -> None:
        await bench.write(data=b"newer one at last")
        await bench.plain.write_bytes("outbox/a/b.csv.ok", b"newer")

    async def wait_for_the_next() -> None:
        bench.fragile.intrude["stat", "after"] = newer

    killed, number = True, 0
    while killed:
        number += 1
        killed = False
        for when in ("before", "after"):
            (lease,) = await bench.delivered(await bench.write(data=f"{when} {number}".encode()))
            await bench.plain.write_bytes("outbox/a/b.csv.ok", b"ok")
            bench.fragile.calls.clear()
            bench.fragile.die_at = (number, when)
            bench.fragile.intrude["stat", "after"] = wait_for_the_next
            try:
                await bench.follow(lease, after, settle=settle)
            except Killed:
                killed, bench.fragile.die_at = True, None
                await bench.follow(await bench.reclaim(), after, settle=settle)
            bench.fragile.die_at = None
            files = [each.path async for each in bench.plain.scan("outbox/a", temporaries=True)]
            found = {path: await bench.read(path) for path in files}
            assert found == {"outbox/a/b.csv": b"newer one at last", "outbox/a/b.csv.ok": b"newer"}, (number, when)
    assert number > 4
