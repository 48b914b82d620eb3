"""What becomes of a delivered source whose worker was killed before it could say so, at real endpoints."""

from __future__ import annotations

import pytest

from crossdock.engine.archive import ARCHIVED
from crossdock.errors import PermissionDenied
from crossdock.flows.flow import After
from crossdock.ledger.base import Lease
from crossdock.storage.base import WriteOptions
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
