"""Listings of NetStorage: pages, their ends, odd names, and XML that is none."""

from __future__ import annotations

import base64
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from crossdock.errors import (
    ConnectionFailed,
    NotADirectory,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
)
from crossdock.storage.netstorage import client
from crossdock.storage.netstorage.backend import NetStorageBackend
from crossdock.storage.netstorage.wire import Answered, parse_xml
from crossdock.storage.storage import Storage
from crossdock.testing import FakeNetStorage, NetStorageFault
from crossdock.testing.netstorage.actions import Actions
from crossdock.testing.netstorage.http import Reply
from crossdock.testing.netstorage.tree import File
from crossdock.testing.storage.base import listed, walked


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


@pytest.mark.parametrize("lister", [listed, walked])
async def test_a_folder_that_is_refused_is_no_empty_one(
    server: FakeNetStorage, storage: Storage, lister: Callable[..., Awaitable[list[Any]]]
) -> None:
    """An account's first folder is there without a file in it; what is there, and not listed, is an error."""
    server.faults += [NetStorageFault(action=action, status=404, times=2) for action in ("dir", "list", "stat")]
    assert await lister(storage) == []
    server.faults.clear()
    await storage.make_dir("d")
    server.peer().write("d/a", b"x")
    server.faults.append(NetStorageFault(action="dir", status=412))
    server.faults.append(NetStorageFault(action="list", status=412))
    with pytest.raises(ProtocolViolation, match="HTTP 412 for a folder"):
        await lister(storage, "d")


async def test_an_answer_that_is_too_long(
    server: FakeNetStorage, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no shorter listing."""
    monkeypatch.setattr(client, "LARGEST_ANSWER", 5000)
    for number in range(100):
        server.peer().write(f"d/{number:04}", b"x")
    with pytest.raises(ProtocolViolation, match="an answer of more than 5000 bytes"):
        await listed(storage, "d")


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


async def test_a_page_that_is_not_there_is_the_end_only_after_an_empty_folder(
    server: FakeNetStorage, storage: Storage
) -> None:
    """To `list`, an empty folder is not there; nor is what was deleted since, or another replica has yet to see."""
    server.actions.page = 2
    for number in range(4):
        server.peer().write(f"d/{number}", b"x")
    await storage.make_dir("d/last")
    assert len(await walked(storage, "d")) == 4
    assert server.requests["list"] == 3
    server.faults = [NetStorageFault(action="list", status=404, after=1)]
    with pytest.raises(ProtocolViolation, match="has gone"):
        await walked(storage, "d")


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
        '<!DOCTYPE x [<!ENTITY a "b">]><stat><file type="file" name="&a;"/></stat>'.encode("utf-16"),
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


async def test_a_long_answer_lets_others_have_their_turn(
    server: FakeNetStorage, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of a file-store may have 300,000 names, which take seconds to read."""
    line = '<file type="file" name="{:0>200}" size="1" mtime="1" md5="9b04178910b52bca293f78f947d79686"/>'
    body = "<stat>" + "".join(line.format(number) for number in range(20_000)) + "</stat>"
    monkeypatch.setattr(Actions, "_dir", lambda *_: Reply(200, body.encode()))
    threads: set[str] = set()

    def parsed(body: bytes, root: Any) -> Answered:
        threads.add(threading.current_thread().name)
        return parse_xml(body, root)

    monkeypatch.setattr(client, "parse_xml", parsed)
    assert len(await listed(storage, "d")) == 20_000
    assert threading.main_thread().name not in threads


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
