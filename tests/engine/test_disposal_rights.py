"""What becomes of a delivered source where its server lets less be done: no renames, no deletes, no hidden names."""

from __future__ import annotations

import pytest

from crossdock.errors import PermissionDenied, StorageError
from crossdock.flows.flow import After, Settle
from tests.engine.bench import Bench


@pytest.mark.parametrize("place", ["local", "openssh"], indirect=True)
async def test_what_may_be_renamed_and_not_deleted_is_not_hidden(bench: Bench) -> None:
    (lease,) = await bench.delivered(await bench.write())
    bench.fragile.calls.clear()
    bench.fragile.die_at = (4, "before")
    bench.fragile.deadly = PermissionDenied("no", operation="delete", endpoint="bank")
    with pytest.raises(PermissionDenied):
        await bench.follow(lease, After(delete=True))
    assert bench.fragile.calls == ["stat", "rename", "stat", "delete", "rename"]
    assert [each.path async for each in bench.plain.scan("outbox/a", temporaries=True)] == ["outbox/a/b.csv"]


@pytest.mark.parametrize("place", ["local", "openssh"], indirect=True)
async def test_a_marker_that_cannot_be_archived_stays_with_its_file(bench: Bench) -> None:
    entry = await bench.write()
    await bench.plain.write_bytes("outbox/a/b.csv.ok", b"")
    await bench.plain.write_bytes("outbox/.done", b"no folder")
    (lease,) = await bench.delivered(entry)
    with pytest.raises(StorageError):
        await bench.follow(lease, After(archive=".done"), settle=Settle(marker="{name}.ok"))
    found = [each.path async for each in bench.plain.scan("outbox/a", temporaries=True)]
    assert sorted(found) == ["outbox/a/b.csv", "outbox/a/b.csv.ok"]


@pytest.mark.parametrize("place", ["local", "openssh"], indirect=True)
@pytest.mark.parametrize("after", [After(archive=".done"), After(delete=True)], ids=["archive", "delete"])
async def test_a_marker_goes_where_nothing_may_be_set_aside(bench: Bench, after: After) -> None:
    """Some servers refuse hidden names."""
    entry = await bench.write()
    await bench.plain.write_bytes("outbox/a/b.csv.ok", b"")
    (lease,) = await bench.delivered(entry)
    bench.fragile.calls.clear()
    bench.fragile.die_at = (3, "before")
    bench.fragile.deadly = PermissionDenied("no", operation="rename", endpoint="bank")
    assert (await bench.follow(lease, after, settle=Settle(marker="{name}.ok")))[1]
    assert bench.fragile.calls[:3] == ["stat", "stat", "rename"]
    archived = {"outbox/.done/a/b.csv", "outbox/.done/a/b.csv.ok"}
    assert await bench.names() == (archived if after.archive else set())


@pytest.mark.parametrize("place", ["local", "openssh"], indirect=True)
@pytest.mark.parametrize("after", [After(archive="old"), After(delete=True)], ids=["archive", "delete"])
async def test_what_is_newer_stays_where_nothing_may_be_set_aside(
    bench: Bench, after: After, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file and its marker come after both were looked at, where hidden names are refused."""
    (lease,) = await bench.delivered(await bench.write())
    await bench.plain.write_bytes("outbox/a/b.csv.ok", b"ok")
    rename = bench.fragile.inner.rename

    async def visible(path: str, to: str, *, overwrite: bool = False) -> None:
        if "/." in to:
            raise PermissionDenied("no hidden names", operation="rename", endpoint="bank", path=path)
        await rename(path, to, overwrite=overwrite)

    async def newer() -> None:
        await bench.write(data=b"newer one at last")
        await bench.plain.write_bytes("outbox/a/b.csv.ok", b"newer")

    monkeypatch.setattr(bench.fragile.inner, "rename", visible)
    bench.fragile.intrude["rename", "before"] = newer
    found, gone = await bench.follow(lease, after, settle=Settle(marker="{name}.ok"))
    assert ("newer" in found, gone) == (True, False)
    assert {path: await bench.read(path) for path in await bench.names()} == {
        "outbox/a/b.csv": b"newer one at last",
        "outbox/a/b.csv.ok": b"newer",
    }


async def test_without_the_right_to_rename_it_is_deleted_all_the_same(bench: Bench) -> None:
    (lease,) = await bench.delivered(await bench.write())
    bench.fragile.die_at = (2, "before")
    bench.fragile.deadly = PermissionDenied("no", operation="rename", endpoint="bank")
    assert await bench.follow(lease, After(delete=True)) == ("removed the source", True)
    assert bench.fragile.calls == ["stat", "rename", "stat", "delete"]
    assert await bench.names() == set()
