"""Uploads to NetStorage: digests, trailers, lost answers, and what is cancelled or killed midway."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp.http import StreamWriter

from crossdock.errors import (
    ConnectionFailed,
    IntegrityError,
    ProtocolViolation,
)
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.netstorage.backend import NetStorageBackend
from crossdock.storage.netstorage.upload import Held
from crossdock.storage.staging import temporary_path
from crossdock.storage.storage import Storage
from crossdock.testing import FakeNetStorage, NetStorageFault
from crossdock.testing.netstorage.tree import File, Tree
from crossdock.testing.storage.base import content
from tests.storage.netstorage.places import BIG, MIB, backend


async def test_what_is_known_beforehand_is_sent_beforehand(server: FakeNetStorage, storage: Storage) -> None:
    data, modified = content(100_000), datetime(2009, 12, 5, 8, tzinfo=UTC)
    await storage.write_bytes("d/name", data, WriteOptions(modified=modified))
    uploads = [each for each in server.log if "action=upload" in each[1]]
    digest = hashlib.sha256(data).hexdigest()
    assert [action for _, action in uploads] == [
        f"version=1&action=upload&size=100000&sha256={digest}&mtime=1260000000"
    ]
    assert ".crossdock-" in uploads[0][0]
    assert server.trailers == 0
    assert (await storage.stat("d/name")).modified == modified


async def test_a_streams_digest_is_a_signed_trailer(server: FakeNetStorage, storage: Storage) -> None:
    async with storage.write("name") as writer:
        for at in range(0, len(BIG), 100_000):
            await writer.write(BIG[at : at + 100_000])
        await writer.commit(Expect(digests={"sha256": hashlib.sha256(BIG).hexdigest()}))
    assert [action for _, action in server.log if "upload" in action] == ["version=1&action=upload&sha256=atend"]
    assert server.trailers == 1
    assert server.peer().read("name") == BIG


@pytest.mark.parametrize("buffer", ["4M", "0"], ids=["held", "streamed"])
async def test_a_slow_line_is_no_silence(server: FakeNetStorage, monkeypatch: pytest.MonkeyPatch, buffer: str) -> None:
    """The kernel holds little that is still to be sent when the answer is due; each piece has all of `timeout`."""
    held: list[int] = []
    pieces: list[int] = []
    write = StreamWriter.write

    async def watched(self: StreamWriter, chunk: Any, *more: Any, **named: Any) -> None:
        assert self.transport is not None
        connection: Any = self.transport.get_extra_info("socket")
        held.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT))
        pieces.append(len(chunk))
        await write(self, chunk, *more, **named)

    monkeypatch.setattr(StreamWriter, "write", watched)
    async with Storage(backend(server, monkeypatch, buffer=buffer)) as storage:
        await storage.write_bytes("name", BIG[: 3 * MIB])
    assert server.peer().read("name") == BIG[: 3 * MIB]
    assert set(held) == {64 * 1024}
    assert max(pieces) == 64 * 1024


@pytest.mark.parametrize("wrong", [{"size": 3}, {"sha256": "0" * 64}, {"md5": "0" * 32}, {"sha1": "0" * 40}])
async def test_a_mismatch_is_not_stored(
    server: FakeNetStorage, place: NetStorageBackend, wrong: dict[str, str | int]
) -> None:
    request = place.calls.request("PUT", "write", "name", "upload", wrong)
    with pytest.raises(ProtocolViolation, match="does not match"):
        await place.client.stream(request, Held([b"1234"], 5))
    assert server.peer().names() == set()


@pytest.mark.parametrize("size", [1000, len(BIG)], ids=["held", "streamed"])
async def test_a_store_that_keeps_other_bytes_is_found_out(
    server: FakeNetStorage, storage: Storage, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """What NetStorage says it holds is compared with what was sent; the old file stays."""
    await storage.write_bytes("name", b"old")
    put = Tree.put

    def flipped(tree: Tree, name: bytes, file: File) -> None:
        put(tree, name, File.of(bytes([file.data[0] ^ 1]) + file.data[1:], file.mtime, file.changed))

    monkeypatch.setattr(Tree, "put", flipped)
    with pytest.raises(IntegrityError, match="MD5"):
        await storage.write_bytes("name", BIG[:size])
    assert server.peer().names() == {"name"}
    assert server.peer().read("name") == b"old"


async def test_another_replica_may_see_the_file_later(server: FakeNetStorage, storage: Storage) -> None:
    await storage.write_bytes("d/first", b"x")
    server.faults.append(NetStorageFault(action="stat", status=404, times=2))
    await storage.write_bytes("d/name", b"x")
    assert server.peer().names() == {"d/first", "d/name"}
    server.faults.append(NetStorageFault(action="stat", status=404, after=1))
    with pytest.raises(IntegrityError, match="not there"):
        await storage.write_bytes("d/name", b"y")
    server.faults.clear()
    assert server.peer().names() == {"d/first", "d/name"}
    assert server.peer().read("d/name") == b"x"


@pytest.mark.parametrize("replaces", [True, False])
async def test_another_replica_may_not_have_what_is_to_be_published(
    server: FakeNetStorage, storage: Storage, replaces: bool
) -> None:
    """It may pass, unlike a source that is not there."""
    await storage.write_bytes("name", b"old")
    server.actions.rename_replaces = replaces
    server.faults.append(NetStorageFault(action="rename", status=404, after=0 if replaces else 2, times=1))
    with pytest.raises(IntegrityError, match="has gone; nothing was published"):
        await storage.write_bytes("name", b"new")
    assert server.peer().names() == {"name"}
    assert server.peer().read("name") == b"old"
    await storage.write_bytes("name", b"new")
    assert server.peer().read("name") == b"new"


@pytest.mark.parametrize("how", ["drop", "lost", "status"])
async def test_a_stream_is_sent_once(server: FakeNetStorage, storage: Storage, how: Any) -> None:
    """It fails as a whole, may be tried again, and leaves nothing: also where it was stored and nobody said so."""
    server.faults.append(NetStorageFault(action="upload", how=how, times=1))
    with pytest.raises(ConnectionFailed) as caught:
        await storage.write_bytes("name", BIG)
    assert caught.value.retryable
    assert server.requests["upload"] == 1
    assert server.peer().names() == set()
    await storage.write_bytes("name", BIG)
    assert server.peer().read("name") == BIG


async def test_a_connection_that_breaks_midway_ends_the_stream(
    server: FakeNetStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer hears of it at its next chunk, not at the end; half a file is no file."""
    found = backend(server, monkeypatch, buffer=0)
    async with Storage(found) as storage:
        with pytest.raises(ConnectionFailed):
            async with storage.write("name") as writer:
                await writer.write(content(3 * MIB))
                server.disconnect()
                for _ in range(1000):
                    await writer.write(content(100_000))
    assert server.peer().names() == set()


@pytest.mark.parametrize("size", [1000, len(BIG)], ids=["held", "streamed"])
async def test_a_server_that_stores_late_leaves_nothing_either(
    server: FakeNetStorage, storage: Storage, size: int
) -> None:
    """Cancelled after the last byte was sent: the server's answer has to come before the temporary is deleted."""
    fault = NetStorageFault(action="upload", how="late")
    server.faults.append(fault)
    writing = asyncio.create_task(storage.write_bytes("name", BIG[:size]))
    while not server.busy or not server.requests["upload"]:
        await asyncio.sleep(0)
    writing.cancel()
    for _ in range(100):
        await asyncio.sleep(0)
    fault.released.set()
    await asyncio.wait([writing])
    while server.busy:
        await asyncio.sleep(0)
    assert writing.cancelled()
    assert server.peer().names() == set()


@pytest.mark.parametrize("renames", [1, 2, 3])
async def test_a_swap_that_is_cancelled_ends_well(server: FakeNetStorage, storage: Storage, renames: int) -> None:
    """Where renaming does not replace: cancelled between any two steps, the file is there, and nothing else is."""
    server.actions.rename_replaces = False
    await storage.write_bytes("name", b"old")
    server.requests.clear()
    writing = asyncio.create_task(storage.write_bytes("name", b"new"))
    while server.requests["rename"] < renames:
        await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait([writing])
    assert server.peer().names() == {"name"}
    assert server.peer().read("name") == b"new"


@pytest.mark.parametrize("renames", [1, 2, 3])
async def test_a_swap_that_is_left_ends_well(server: FakeNetStorage, storage: Storage, renames: int) -> None:
    """As an engine that stops does it, which closes the endpoint next."""
    server.actions.rename_replaces = False
    await storage.write_bytes("name", b"old")
    server.requests.clear()
    writer = await storage.begin_write("name", WriteOptions())
    await writer.write(b"new")
    committing = asyncio.create_task(writer.commit(Expect()))
    while server.requests["rename"] < renames:
        await asyncio.sleep(0)
    committing.cancel()
    await asyncio.wait([committing])
    await writer.leave()
    await storage.close()
    while server.busy:
        await asyncio.sleep(0)
    assert server.peer().names() == {"name"}
    assert server.peer().read("name") == b"new"


@pytest.mark.parametrize("replaces", [True, False])
@pytest.mark.parametrize("after", [0, 1, 2])
async def test_a_rename_whose_answer_is_lost(
    server: FakeNetStorage, storage: Storage, replaces: bool, after: int
) -> None:
    server.actions.rename_replaces = replaces
    await storage.write_bytes("name", b"old")
    server.faults.append(NetStorageFault(action="rename", how="lost", after=after, times=1))
    await storage.write_bytes("name", b"new")
    assert server.peer().names() == {"name"}
    assert server.peer().read("name") == b"new"
    server.faults = [NetStorageFault(action="rename", how="lost", times=1)]
    await storage.rename("name", "d/other")
    assert server.peer().names() == {"d/other"}
    server.faults = [NetStorageFault(action="delete", how="lost", times=1)]
    await storage.delete("d/other")
    assert server.peer().names() == set()


async def test_a_killed_attempt_is_cleaned_up_after(server: FakeNetStorage, place: NetStorageBackend) -> None:
    """Its name follows from the attempt: what it staged goes, and half a swap is undone."""
    token = place.leftover("d/name", "0123456789ab")
    assert token is not None
    await place.discard(token)
    assert await place.is_staged(token) is None
    peer = server.peer()
    peer.write(temporary_path("d/name", "0123456789ab"), b"new")
    peer.write(temporary_path("d/name", "0123456789ab", "old"), b"old")
    assert await place.is_staged(token) is True
    for _ in range(2):
        await place.discard(token)
        assert peer.names() == {"d/name"}
    assert peer.read("d/name") == b"old"
    peer.write(temporary_path("d/name", "0123456789ab", "old"), b"older")
    await place.discard(token)
    assert peer.names() == {"d/name"}
    assert peer.read("d/name") == b"old"
