"""Stores that put an object under another name than the one it was given, as SeaweedFS does."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from crossdock.errors import InvalidPath
from crossdock.storage.base import WriteOptions
from crossdock.storage.s3 import names
from crossdock.storage.storage import Storage
from tests.storage.s3.faults import FaultProxy, answer, xml_error
from tests.storage.s3.places import SMALL, BotoPeer

ODD = ["a//b", "/a", "a\\b", "a/", "a%2fb"]


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    names._KNOWN.clear()
    yield
    names._KNOWN.clear()


@pytest.mark.parametrize("name", ODD)
async def test_a_name_that_is_not_kept_is_refused_before_it_replaces_another(
    storage: Storage, proxy: FaultProxy, peer: BotoPeer, name: str
) -> None:
    """Written by any way there is; nothing is left of the look."""
    proxy.folded = lambda path: re.sub(r"(?:/|%5C|%252f)+", "/", path.replace("%2541", "A")).rstrip("/")
    peer.write("a", b"theirs")
    peer.write("a/b", b"theirs")
    await storage.write_bytes("old", SMALL)
    for _ in range(2):
        with pytest.raises(InvalidPath, match="under another name"):
            await storage.write_bytes(name, SMALL)
    with pytest.raises(InvalidPath, match="under another name"):
        await storage.rename("old", name)
    with pytest.raises(InvalidPath, match="under another name"):
        await storage.server_copy(storage, "old", name, WriteOptions())
    assert (peer.read("a"), peer.read("a/b")) == (b"theirs", b"theirs")
    assert peer.names() == {"a", "a/b", "old"}
    assert sum("crossdock" in line and line.startswith("PUT") for line in proxy.seen) == 1


@pytest.mark.parametrize("name", ODD)
async def test_a_store_that_keeps_names_is_asked_once(
    storage: Storage, proxy: FaultProxy, peer: BotoPeer, name: str
) -> None:
    for number in range(3):
        await storage.write_bytes(f"{number}{name}" if not name.startswith("/") else f"{name}{number}", SMALL)
    assert proxy.count("PUT") == 4
    assert len(peer.names()) == 3
    await storage.write_bytes("plain/name", SMALL)
    assert proxy.count("PUT") == 5


async def test_who_may_not_look_writes_as_it_is(storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
    proxy.fail("GET", "list-type=2", xml_error(403, "AccessDenied"))
    await storage.write_bytes("a//b", SMALL)
    assert peer.names() == {"a//b"}


async def test_a_store_that_refuses_such_names(storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
    proxy.fail("PUT", "crossdock", answer(400, b"<Error><Code>XMinioInvalidObjectName</Code></Error>"))
    with pytest.raises(InvalidPath, match="does not keep"):
        await storage.write_bytes("a//b", SMALL)
    assert peer.names() == set()
