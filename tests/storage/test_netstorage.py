"""NetStorage beyond the contract: signatures, clocks, trailers, paging, pace, and a server that fails or lies."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectionFailed,
    CrossdockError,
    IntegrityError,
    NoSpace,
    NotADirectory,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    SourceChanged,
    Throttled,
    TimedOut,
    Truncated,
)
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.netstorage.backend import NetStorageBackend
from crossdock.storage.netstorage.faults import Place, refused
from crossdock.storage.netstorage.signing import signature
from crossdock.storage.netstorage.upload import Held
from crossdock.storage.netstorage.wire import action_of, parse_xml, quoted
from crossdock.storage.registry import new_storage, parse_url
from crossdock.storage.retry import Retry
from crossdock.storage.staging import temporary_path
from crossdock.storage.storage import Storage
from crossdock.testing import FakeNetStorage, NetStorageFault
from crossdock.testing.netstorage.actions import Actions
from crossdock.testing.netstorage.http import Query, Reply
from crossdock.testing.netstorage.tree import File, Tree
from crossdock.testing.storage.base import content, listed, walked
from tests.engine.certificates import self_signed
from tests.storage.netstorage_places import AT_ONCE, backend, settings_of

MIB = 1024**2
BIG = content(6 * MIB)


@pytest.fixture
async def server() -> AsyncGenerator[FakeNetStorage]:
    async with FakeNetStorage() as server:
        yield server


@pytest.fixture
async def place(server: FakeNetStorage, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[NetStorageBackend]:
    found = backend(server, monkeypatch)
    async with Storage(found):
        yield found


@pytest.fixture
def storage(place: NetStorageBackend) -> Storage:
    return Storage(Retry(place, AT_ONCE))


# -- signatures ---------------------------------------------------------------------------------------------------


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
        assert server.requests.total() == 1


async def test_doctor_hears_what_may_fail_tomorrow(server: FakeNetStorage, place: NetStorageBackend) -> None:
    assert [name for name, *_ in await place.remarks()] == ["tls"]
    assert f"AkamaiNetStorage at http://127.0.0.1:{server.port}, its clock" in await place.server()
    server.clock_offset = 45
    server.actions.store = "file-store"
    _, clock, store = await place.remarks()
    assert (clock[0], store) == ("clock", ("store", "Apache is a file-store", "set 'store: file-store'"))
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


# -- uploads ------------------------------------------------------------------------------------------------------


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


# -- downloads ----------------------------------------------------------------------------------------------------


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


# -- listings -----------------------------------------------------------------------------------------------------


async def test_a_tree_is_listed_to_its_end_and_no_further(server: FakeNetStorage, storage: Storage) -> None:
    """`list` itself goes on to the end of the CP code."""
    server.actions.page = 10
    wanted = [f"a/{number:03}" for number in range(25)]
    for path in [*wanted, "a-/x", "a0", "a", "a0/y", *(f"b/{number:03}" for number in range(100))]:
        server.peer().write(path, b"x")
    assert await walked(storage, "a") == wanted
    assert server.requests["list"] == 3
    assert all("end=%2F123456%2Fa0" in action for _, action in server.log)
    assert len(await walked(storage)) == 129


async def test_an_empty_folder_is_listed_and_a_missing_one_is_not(server: FakeNetStorage, storage: Storage) -> None:
    """`list` answers 404 to both."""
    await storage.make_dir("empty")
    assert await walked(storage, "empty") == []
    server.peer().write("file", b"x")
    with pytest.raises(NotFound):
        await walked(storage, "missing")
    with pytest.raises(NotADirectory):
        await walked(storage, "file")


@pytest.mark.parametrize("action", ["_list", "_dir"])
async def test_a_listing_that_does_not_end(
    server: FakeNetStorage, storage: Storage, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    root = "list" if action == "_list" else "stat"
    body = f'<{root}><file type="file" name="123456/d/a" size="1"/><resume start="/123456/d/a"/></{root}>'
    if root == "stat":
        body = body.replace('name="123456/d/a"', 'name="a"')
    for answer in (body, f'<{root}><resume start="/123456/d/a"/></{root}>'):
        monkeypatch.setattr(Actions, action, lambda *_, answer=answer: Reply(200, answer.encode()))
        with pytest.raises(ProtocolViolation, match=r"does not end|out of order"):
            await (walked(storage, "d") if root == "list" else listed(storage, "d"))


async def test_a_page_that_fails_midway(server: FakeNetStorage, storage: Storage) -> None:
    """Never a shorter listing: repeated, or raised."""
    server.actions.page = 2
    for number in range(9):
        server.peer().write(f"d/{number}", b"x")
    for action, lister in (("dir", listed), ("list", walked)):
        server.faults = [NetStorageFault(action=action, status=503, after=2, times=3)]
        assert len(await lister(storage, "d")) == 9
        server.faults = [NetStorageFault(action=action, after=2)]
        with pytest.raises(ConnectionFailed):
            await lister(storage, "d")


async def test_links_and_folders_nobody_made(
    server: FakeNetStorage, place: NetStorageBackend, storage: Storage
) -> None:
    server.peer().write("implicit/deep/file", b"1234")
    server.tree.put(b"123456/link", File.of(b"", 1, 1.0, b"/123456/implicit/deep/file"))
    assert (await storage.stat("implicit")).kind == "dir"
    assert (await storage.stat("link")).kind == "link"
    assert {(entry.path, entry.kind) for entry in await listed(storage)} == {("implicit", "dir"), ("link", "link")}
    assert await walked(storage) == ["implicit/deep/file", "link"]
    assert await place.usage() == (2, 4)
    assert await place.usage("implicit") == (1, 4)
    with pytest.raises(PermissionDenied):
        await storage.remove_dir("implicit")


async def test_a_name_that_no_path_here_can_have(server: FakeNetStorage, storage: Storage) -> None:
    """An object-store holds such names, if another client makes them: said, not left out."""
    server.peer().write("d/../x", b"x")
    for lister in (listed, walked):
        with pytest.raises(ProtocolViolation, match="a listing with the name"):
            await lister(storage, "d")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>Sign in</body></html>",
        b"<stat><file type='file'/></stat>",
        b"<stat><file type='file' name='x' size='-1'/></stat>",
        b"<stat><file type='file' name='x' size='1' mtime='1e9'/></stat>",
        b"<stat><file type='file' name_base64='???'/></stat>",
        b"<stat><resume/></stat>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><stat><file type="file" name="&a;"/></stat>',
        b"<stat><file",
        b'<?xml version="1.0" encoding="nonsense"?><stat/>',
    ],
)
async def test_an_answer_that_is_none(
    server: FakeNetStorage, storage: Storage, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(Actions, "_dir", lambda *_: Reply(200, body))
    with pytest.raises(ProtocolViolation, match="check 'host'"):
        await listed(storage, "d")


def test_xml_as_the_live_services_write_it() -> None:
    body = (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<stat directory="/1/d">\n'
        f'\t<file type="file" name="caf\xe9" mtime="1626900592" size="2604" md5="{"9B" * 16}" new="1"/>\n'
        f'\t<file type="dir" name_base64="{base64.b64encode(bytes([255])).decode()}" implicit="true"/>\n'
        '\t<file type="symlink" name="foo" target="bar" mtime="1641500414"/>\n\t<novelty/>\n</stat>'
    )
    file, folder, link = parse_xml(body.encode("latin-1"), "stat").items
    assert (file.name, file.size, file.md5) == ("café", 2604, "9b" * 16)
    assert (folder.name, folder.kind, folder.size, folder.modified) == ("\udcff", "dir", None, None)
    assert (link.kind, link.modified) == ("link", datetime.fromtimestamp(1641500414, UTC))


# -- answers and pace ---------------------------------------------------------------------------------------------

_NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, ProtocolViolation, True),
        (401, AuthenticationFailed, False),
        (404, NotFound, False),
        (408, TimedOut, True),
        (423, Throttled, True),
        (429, Throttled, True),
        (500, ConnectionFailed, True),
        (502, ConnectionFailed, True),
        (503, Throttled, True),
        (504, TimedOut, True),
        (507, NoSpace, True),
        (509, Throttled, True),
        (599, ConnectionFailed, True),
        (302, ProtocolViolation, True),
    ],
)
def test_answers_become_errors(status: int, kind: type[CrossdockError], retryable: bool) -> None:
    where = Place("akamai", "stat", "a/b", "https://x")
    error = refused(where, status, {"retry-after": "7"}, b"Some\nwords\x1b[0m", now=_NOW, accepted=True)
    assert type(error) is kind
    assert (error.retryable, error.retry_after) == (retryable, 7)
    assert f"stat akamai:a/b: HTTP {status}: Some words" in str(error)
    assert "\x1b" not in str(error)
    dated = {"retry-after": "Fri, 20 Nov 2026 12:00:09 GMT"}
    assert refused(where, status, dated, b"", now=_NOW, accepted=True).retry_after == 9


async def test_all_wait_where_one_was_told_to(server: FakeNetStorage, storage: Storage) -> None:
    server.faults.append(NetStorageFault(status=429, retry_after=1, times=1))
    began = time.monotonic()
    await storage.exists("a")
    await asyncio.gather(*(storage.exists(f"{number}") for number in range(5)))
    assert time.monotonic() - began >= 1
    assert server.requests["stat"] == 13


async def test_requests_are_paced(server: FakeNetStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second's worth at once, then no faster than the rate."""
    found = backend(server, monkeypatch, requests_per_second=50)
    async with Storage(found):
        began = time.monotonic()
        await asyncio.gather(*(found.calls.look(f"{number}", "stat") for number in range(75)))
        assert time.monotonic() - began >= 0.45
    assert server.requests["stat"] == 75


async def test_connections_are_kept_and_bounded(server: FakeNetStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(server, monkeypatch, max_connections=3)
    async with new_storage("akamai", settings) as storage:
        for number in range(10):
            await storage.write_bytes(f"d/{number}", content(1000))
        assert server.connections == 1
        await asyncio.gather(*(storage.write_bytes(f"e/{number}", content(MIB, number)) for number in range(12)))
    assert 1 < server.peak <= 3
    assert server.connections <= 3


async def test_a_silent_server_is_given_up(server: FakeNetStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    found = backend(server, monkeypatch, timeout=0.2)
    server.faults.append(NetStorageFault(how="stall", action="download"))
    async with Storage(found) as storage:
        with pytest.raises(TimedOut, match="went silent"):
            await storage.read_bytes("name")


# -- settings and TLS ---------------------------------------------------------------------------------------------


async def test_https_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, certificate = self_signed(tmp_path)
    async with FakeNetStorage(tls=context) as server:
        async with Storage(backend(server, monkeypatch, host="localhost")) as storage:
            with pytest.raises(AuthenticationFailed, match="set 'ca_file'"):
                await storage.stat("name")
        async with Storage(backend(server, monkeypatch, host="localhost", ca_file=str(certificate))) as storage:
            await storage.write_bytes("name", BIG)
            assert await storage.read_bytes("name", limit=len(BIG)) == BIG
        with pytest.raises(ConfigError, match="cannot read the certificates"):
            await backend(server, monkeypatch, ca_file=str(tmp_path / "none")).open()


async def test_a_url_names_a_place(server: FakeNetStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NS", server.key)
    url = f"netstorage://{server.key_name}@127.0.0.1:{server.port}/123456/d/a%20b?key=env:NS&tls=false"
    settings, path = parse_url(url)
    assert (settings.type, path) == ("netstorage", "d/a b")
    async with new_storage("akamai", settings) as storage:
        await storage.write_bytes(path, b"x")
    assert server.peer().names() == {"d/a b"}
    assert server.key not in repr(settings) + json.dumps(settings.model_dump(mode="json"))


def test_https_is_the_default() -> None:
    settings, _ = parse_url("netstorage://account@example-nsu.akamaihd.net/123456/d?key=env:NS")
    assert getattr(settings, "service") == "https://example-nsu.akamaihd.net"  # noqa: B009
    assert settings.slots == 8
    assert settings.shared(4).slots == 2


@pytest.mark.parametrize(
    "url",
    [
        "netstorage://example-nsu.akamaihd.net/123456?key=env:NS",
        "netstorage://account@example-nsu.akamaihd.net/?key=env:NS",
        "netstorage://account@example-nsu.akamaihd.net/code/x?key=env:NS",
        "netstorage://a,b@example-nsu.akamaihd.net/123456?key=env:NS",
        "netstorage://account@example-nsu.akamaihd.net/123456?key=plain",
        "netstorage://account@example-nsu.akamaihd.net/123456?key=env:NS&root=a/../b",
        "netstorage://account@example-nsu.akamaihd.net/123456",
    ],
)
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        parse_url(url)
