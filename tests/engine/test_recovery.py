"""What an attempt that was killed has recorded, and whether the store had copied the file for it."""

from __future__ import annotations

import hashlib

import pytest

from crossdock.engine.recovery import Record, attempt_id, copied, recovered
from crossdock.errors import NotFound, PermissionDenied, StorageError
from crossdock.ledger.base import Planned
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.storage import Storage
from tests.engine.places import House
from tests.storage.s3.faults import FaultProxy
from tests.storage.s3.places import LARGE, Server, backend, bucket


def test_records_and_names() -> None:
    record = Record(to="a\udcff", token=b"\0\xff", size=3, sha256="ab", resumable=True)
    assert Record.load(record.dump()) == record
    assert Record.load(None) is None
    names = {attempt_id("l", transfer, fence) for transfer in range(50) for fence in range(50)}
    assert len(names) == 2500
    assert all(len(name) == 12 and int(name, 16) >= 0 for name in names)


@pytest.mark.parametrize("data", [b"{", b"[]", b"null", b"\xff", b"{}", b'{"to": "a", "token": 5}', b"[" * 100_000])
def test_a_checkpoint_that_was_changed_by_hand_is_told_and_sends_again(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert Record.load(data) is None
    assert "was changed by hand, the file is sent again" in caplog.text


def test_a_checkpoint_of_another_release_is_understood() -> None:
    kept = Record(to="a", token=b"t", size=1, sha256="s", at="b", resumable=True)
    assert Record.load(kept.dump()[:-1] + b', "more": 1}') == kept


@pytest.mark.parametrize("error", [NotFound, PermissionDenied])
async def test_what_is_taken_while_it_is_read_is_no_failure(home: House, error: type[StorageError]) -> None:
    """By its receiver, who was waiting for it: as if it had been gone at the first look."""
    dst, expect = Storage(home.dst), Expect(size=4)
    await home.put("a")
    entry = await Storage(home.src).stat("a")
    await home.ledger.add([Planned(flow="f", source="src", entry=entry, target="dst", target_path="a")], who="poll")
    (transfer,) = (await home.transfers()).values()
    writer = await dst.begin_write("a", WriteOptions())
    await writer.write(b"data")
    token = await writer.seal(expect)
    await writer.commit(expect)
    home.dst.faults["read"] = [home.dst.error(error, "read", "a", "gone") for _ in range(2)]
    record = Record(to="a", token=token, size=4, sha256=hashlib.sha256(b"data").hexdigest())
    assert (await recovered(transfer, record, dst) is not None) is (error is NotFound)
    if error is NotFound:
        assert await copied(transfer, ["a"], Storage(home.src), dst) is None


@pytest.mark.parametrize("there", [b"data", b"olds", b"older", None])
async def test_only_the_same_bytes_were_published(home: House, there: bytes | None) -> None:
    """Not others of the same size, while what was staged is still there."""
    dst = Storage(home.dst)
    await home.put("a")
    entry = await Storage(home.src).stat("a")
    await home.ledger.add([Planned(flow="f", source="src", entry=entry, target="dst", target_path="a")], who="poll")
    (transfer,) = (await home.transfers()).values()
    if there is not None:
        await dst.write_bytes("a", there)
    writer = await dst.begin_write("a", WriteOptions())
    await writer.write(b"data")
    token = await writer.seal(Expect(size=4))
    record = Record(to="a", token=token, size=4, sha256=hashlib.sha256(b"data").hexdigest())
    assert (await recovered(transfer, record, dst) is not None) is (there == b"data")


@pytest.mark.parametrize("part_size", ["5M", "64M"], ids=["parts", "one"])
@pytest.mark.parametrize("same", [True, False])
async def test_a_copy_by_the_store_is_known_by_its_etag_or_its_bytes(
    home: House, moto: Server, monkeypatch: pytest.MonkeyPatch, part_size: str, *, same: bool
) -> None:
    """The etag of what was stored in parts tells how they were cut as well: then both are read."""
    with bucket(moto) as peer:
        async with FaultProxy(moto) as proxy:
            inner = backend(proxy, peer.bucket, monkeypatch, part_size=part_size, conditional_writes="off")
            async with Storage(inner) as storage:
                entry = await storage.write_bytes("from", LARGE)
                peer.write("to", LARGE if same else LARGE[::-1])
                planned = Planned(flow="f", source="lake", entry=entry, target="lake", target_path="to")
                await home.ledger.add([planned], who="poll")
                (transfer,) = (await home.transfers()).values()
                receipt = await copied(transfer, ["to", "to~1"], storage, storage)
                assert ((receipt or {}).get("target") == "lake:to") is same
                assert (proxy.count(f"GET /{peer.bucket}/to") > 0) is (part_size == "5M")
                assert await copied(transfer, ["to~1"], storage, storage) is None
