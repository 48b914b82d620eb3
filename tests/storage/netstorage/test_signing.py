"""NetStorage's signatures and clocks: what Akamai published, what is refused, and what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from crossdock.errors import (
    AuthenticationFailed,
    PermissionDenied,
)
from crossdock.storage.netstorage.backend import NetStorageBackend
from crossdock.storage.netstorage.signing import WINDOW, Signer, signature
from crossdock.storage.netstorage.wire import action_of, quoted
from crossdock.storage.storage import Storage
from crossdock.testing import FakeNetStorage, NetStorageFault
from tests.storage.netstorage.places import BIG


def test_akamais_published_signature() -> None:
    """TechDocs, "Example authentication headers"."""
    action = action_of("upload", md5="0123456789abcdef0123456789abcdef", mtime=1260000000)
    assert action == "version=1&action=upload&md5=0123456789abcdef0123456789abcdef&mtime=1260000000"
    data = "5, 0.0.0.0, 0.0.0.0, 1280000000, 382644692, UploadAccountMedia"
    found = signature("abcdefghij", data, "/123456/files_baseball/sweep.m4a", action)
    assert found == "yh1MXm/rv7RKZhfKlTuSUBV69Acph5IyOWCU0/nFjms="


def test_what_is_signed_is_what_is_sent() -> None:
    assert quoted("/123456/d/a b+c é~.txt") == "/123456/d/a%20b%2Bc%20%C3%A9~.txt"
    assert quoted("/1/\udcff") == "/1/%FF"
    assert (
        action_of("rename", destination="/1/a b+c/\udcff")
        == "version=1&action=rename&destination=%2F1%2Fa%20b%2Bc%2F%FF"
    )


async def test_no_signature_is_sent_twice(server: FakeNetStorage, storage: Storage) -> None:
    """The server refuses what it has seen; every second request fails, and connections die under idle clients."""
    server.faults += [NetStorageFault(how="drop", every=2), NetStorageFault(how="status", every=3)]
    for number in range(10):
        await storage.write_bytes(f"f{number}", b"x")
        assert await storage.read_bytes(f"f{number}") == b"x"
    assert server.refusals == []
    assert len(server.log) > 100


# A little less than the window, as a slow machine takes its time between signing and being looked at.
@pytest.mark.parametrize("offset", [50, -59])
async def test_clocks_may_differ_by_less_than_a_minute(server: FakeNetStorage, storage: Storage, offset: int) -> None:
    server.clock_offset = offset
    await storage.write_bytes("name", BIG)


@pytest.mark.parametrize(
    ("offset", "words"), [(7200, r"(719[0-9]|7200) seconds behind"), (-90, r"(9[0-9]) seconds ahead of")]
)
async def test_a_wrong_clock_is_named(server: FakeNetStorage, storage: Storage, offset: int, words: str) -> None:
    """By how much, in which direction, and what to do; not tried again, however often."""
    server.clock_offset = offset
    for action in (storage.stat, storage.read_bytes):
        server.requests.clear()
        with pytest.raises(AuthenticationFailed, match=f"this machine's clock is {words}") as caught:
            await action("name")
        assert "set this machine's clock" in str(caught.value)
        assert caught.value.retry_after == 60
        assert server.requests.total() == 1


async def test_doctor_hears_what_may_fail_tomorrow(server: FakeNetStorage, place: NetStorageBackend) -> None:
    assert [name for name, *_ in await place.remarks()] == ["tls"]
    assert f"AkamaiNetStorage at http://127.0.0.1:{server.port}, its clock" in await place.server()
    server.clock_offset = 45
    server.actions.store = "file-store"
    _, clock, store = await place.remarks()
    assert (clock[0], store) == ("clock", ("store", "Apache is of kind file-store", "set 'store: file-store'"))
    assert "of 60 allowed seconds" in clock[1]


async def test_a_wrong_key_and_missing_rights_are_told_apart(
    server: FakeNetStorage, place: NetStorageBackend, storage: Storage
) -> None:
    server.key = "another key"
    with pytest.raises(AuthenticationFailed, match="check 'key_name'"):
        await storage.stat("name")
    server.key = "abcdefghij"
    assert not await storage.exists("name")
    server.faults.append(NetStorageFault(action="upload", status=403))
    with pytest.raises(PermissionDenied, match="allow the upload account"):
        await storage.write_bytes("name", b"x")
    assert server.peer().names() == set()


@pytest.mark.parametrize("asks", [Storage.exists, Storage.read_bytes], ids=["stat", "read"])
async def test_a_key_that_was_replaced_is_no_missing_right(
    server: FakeNetStorage, storage: Storage, asks: Callable[[Storage, str], Awaitable[object]]
) -> None:
    """Of a sign-in that is refused, all that is to go there waits; of a missing right, it has failed."""
    server.peer().write("name", b"x")
    await asks(storage, "name")
    server.key = "another key"
    with pytest.raises(AuthenticationFailed, match="check 'key_name'"):
        await asks(storage, "name")
    with pytest.raises(AuthenticationFailed, match="check 'key_name'"):
        await storage.write_bytes("other", b"x")


async def test_a_time_is_that_of_the_request_s_head(server: FakeNetStorage) -> None:
    """An upload may take longer than the clocks may differ (Akamai: "the time the header is received")."""
    target, action = "/123456/slow", "version=1&action=upload"
    head = "".join(
        f"{name}: {value}\r\n" for name, value in Signer(server.key_name, server.key).headers(target, action).items()
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"PUT {target} HTTP/1.1\r\n{head}Content-Length: 4\r\nExpect: 100-continue\r\n\r\n".encode())
    assert b"100" in await reader.readuntil(b"\r\n\r\n")
    server.clock_offset = WINDOW + 30
    writer.write(b"late")
    assert (await reader.readuntil(b"\r\n")).split()[1] == b"200"
    writer.close()
    assert server.peer().read("slow") == b"late"
