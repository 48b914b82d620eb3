"""Downloads from NetStorage: bytes that are wrong, missing, or another file's."""

from __future__ import annotations

import pytest

from crossdock.errors import IntegrityError, ProtocolViolation, SourceChanged, Truncated
from crossdock.storage.storage import Storage
from crossdock.testing import FakeNetStorage, NetStorageFault
from crossdock.testing.netstorage.actions import Actions
from crossdock.testing.netstorage.http import Query, Reply
from crossdock.testing.storage.base import content
from tests.storage.netstorage.places import BIG, MIB


async def test_a_flipped_bit_is_found_out(server: FakeNetStorage, storage: Storage) -> None:
    server.peer().write("name", BIG)
    server.faults.append(NetStorageFault(action="download", how="flip"))
    with pytest.raises(IntegrityError, match="MD5"):
        await storage.read_bytes("name", limit=len(BIG))


async def test_a_broken_download_goes_on_where_it_broke(server: FakeNetStorage, storage: Storage) -> None:
    server.peer().write("name", BIG)
    server.faults.append(NetStorageFault(action="download", how="short", times=3))
    assert await storage.read_bytes("name", limit=len(BIG)) == BIG
    assert server.requests["download"] == 4


async def test_a_file_replaced_while_the_download_is_broken(server: FakeNetStorage, storage: Storage) -> None:
    server.peer().write("name", BIG)
    server.faults.append(NetStorageFault(action="download", how="short", times=1))
    with pytest.raises(SourceChanged):
        async with storage.read("name") as reader:
            await reader.read()
            server.peer().write("name", content(len(BIG), 1))
            while await reader.read():
                pass


async def test_a_range_that_is_shorter_than_it_says(
    server: FakeNetStorage, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.peer().write("name", BIG)
    download = Actions._download

    def shorter(actions: Actions, name: bytes, parameters: dict[str, bytes], query: Query) -> Reply:
        reply = download(actions, name, parameters, query)
        reply.body = reply.body[:-1]
        return reply

    monkeypatch.setattr(Actions, "_download", shorter)
    with pytest.raises(Truncated):
        async with storage.read("name", offset=MIB) as reader:
            while await reader.read():
                pass


@pytest.mark.parametrize("wrong", ["elsewhere", "no range", "half a range", "a byte more"])
async def test_a_part_that_is_not_the_one_that_was_asked_for(
    server: FakeNetStorage, storage: Storage, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Of a part there is no digest: taken as it comes, bytes would be doubled or left out."""
    server.peer().write("name", BIG)
    download = Actions._download

    def changed(actions: Actions, name: bytes, parameters: dict[str, bytes], query: Query) -> Reply:
        reply = download(actions, name, parameters, query)
        if wrong == "elsewhere":
            reply.headers["Content-Range"] = f"bytes {MIB - 1}-{len(BIG) - 1}/{len(BIG)}"
            reply.body = BIG[MIB - 1 :]
        elif wrong == "no range":
            del reply.headers["Content-Range"]
        elif wrong == "half a range":
            reply.headers["Content-Range"] = f"bytes {MIB}-{2 * MIB}/{len(BIG)}"
        else:
            reply.body += b"x"
        return reply

    monkeypatch.setattr(Actions, "_download", changed)
    with pytest.raises(IntegrityError if wrong == "a byte more" else ProtocolViolation):
        async with storage.read("name", offset=MIB) as reader:
            while await reader.read():
                pass


async def test_a_server_without_ranges(
    server: FakeNetStorage, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.peer().write("name", BIG)
    download = Actions._download

    def whole(actions: Actions, name: bytes, parameters: dict[str, bytes], query: Query) -> Reply:
        query.headers.pop("range", None)
        return download(actions, name, parameters, query)

    monkeypatch.setattr(Actions, "_download", whole)
    async with storage.read("name", offset=MIB + 7) as reader:
        found = b""
        while chunk := await reader.read():
            found += chunk
    assert found == BIG[MIB + 7 :]
