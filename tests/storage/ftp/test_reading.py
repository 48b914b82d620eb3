"""Downloads from servers that cut, lie and answer late."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from crossdock.errors import (
    ConnectionFailed,
    CrossdockError,
    ProtocolViolation,
    SourceChanged,
    TimedOut,
    Truncated,
)
from crossdock.storage.base import WriteOptions
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.storage.ftp.places import DATA, backend_of, faulty


@pytest.mark.parametrize("cut", [0, 1, 1000, 1024 * 1024, len(DATA) - 1])
@pytest.mark.parametrize(
    ("how", "errors"),
    [
        ("complete", (Truncated,)),
        ("rst", (ConnectionFailed,)),
        ("silent", (TimedOut,)),
        ("refused", (ConnectionFailed,)),
        ("hang up", (ConnectionFailed,)),
    ],
)
async def test_a_download_that_is_cut_is_an_error(
    server: FaultyFtpServer, cut: int, how: Any, errors: tuple[type[CrossdockError], ...]
) -> None:
    (server.folder / "name").write_bytes(DATA)
    server.faults.cut_download, server.faults.how = cut, how
    async with faulty(server, timeout=2) as storage:
        async with AsyncExitStack() as stack:
            reader = None
            with pytest.raises(errors):
                reader = await stack.enter_async_context(storage.read("name"))
                while await reader.read():
                    pass
            # A reset takes away what had arrived, the first chunk perhaps, before anybody read it.
            if cut > 1024 * 1024 and reader is not None:
                # Asked again, it has not come to its end in the meantime.
                for _ in range(4):
                    with pytest.raises(CrossdockError):
                        await reader.read()
        server.faults.cut_download = None
        assert await storage.read_bytes("name", limit=len(DATA)) == DATA


@pytest.mark.parametrize(("size", "errors"), [(len(DATA) + 1, Truncated), (10, SourceChanged), (0, SourceChanged)])
async def test_a_size_that_is_a_lie(server: FaultyFtpServer, size: int, errors: type[CrossdockError]) -> None:
    (server.folder / "name").write_bytes(DATA)
    server.faults.size = size
    async with faulty(server) as storage:
        with pytest.raises(errors):
            await storage.read_bytes("name", limit=len(DATA))


def _replaced(server: FaultyFtpServer, *commands: str, size: int) -> list[bytes]:
    """After each of `commands` another version of "name" takes its place; all that have been there, in this order."""
    versions = [bytes([65 + number]) * (size - number % 2) for number in range(len(commands) + 1)]

    def replace(version: bytes) -> None:
        (server.folder / "new").write_bytes(version)
        os.utime(server.folder / "new", (1_000_000_000, 1_000_000_000))
        (server.folder / "new").rename(server.folder / "name")

    replace(versions[0])
    server.then = [
        (command, partial(replace, version)) for command, version in zip(commands, versions[1:], strict=True)
    ]
    return versions


@pytest.mark.parametrize("tells_size", [True, False])
@pytest.mark.parametrize("commands", [["MLST", "RETR"], ["MLST"], ["RETR"]])
async def test_a_small_file_that_is_replaced_while_it_is_read(
    server: FaultyFtpServer, commands: list[str], tells_size: bool
) -> None:
    """It is looked at before and after: twice it may look alike, and another one have been sent in between."""
    server.faults.tells_size = tells_size
    versions = _replaced(server, *commands, size=1000)
    async with faulty(server) as storage, storage.read("name") as reader:
        found = await reader.read()
        assert await reader.read() == b""
        assert found == versions[0 if commands == ["RETR"] else -1]
        assert reader.entry.size == len(found)


@pytest.mark.parametrize(("tells_size", "errors"), [(True, SourceChanged), (False, Truncated)])
async def test_a_file_that_is_replaced_and_put_back_while_it_is_read(
    server: FaultyFtpServer, tells_size: bool, errors: type[CrossdockError]
) -> None:
    """Its beginning was handed out. Unless the server tells what it sends, it looks like one that was cut."""
    server.faults.tells_size = tells_size
    _replaced(server, "MLST", "RETR", size=len(DATA))
    async with faulty(server) as storage:
        with pytest.raises(errors):
            await storage.read_bytes("name", limit=len(DATA))


async def test_a_file_that_is_replaced_again_and_again(server: FaultyFtpServer) -> None:
    _replaced(server, "EPSV", "EPSV", "EPSV", size=1000)
    async with faulty(server) as storage:
        with pytest.raises(SourceChanged):
            await storage.read_bytes("name")
        assert not server.then
        assert (await storage.stat("name")).size == 999
        server.commands.clear()
        pin = await storage.stat("name")
        _replaced(server, "MLST", size=999)
        with pytest.raises(SourceChanged):
            await backend_of(storage).begin_read("name", pin=pin)
        assert sum(command.startswith("RETR") for command in server.commands) == 1


async def test_a_late_reply_never_answers_the_next_command(server: FaultyFtpServer) -> None:
    """What nobody asked for ends a connection: not one more command is sent on it."""
    (server.folder / "one").write_bytes(b"one")
    server.faults.late_reply = True
    async with faulty(server, max_connections=1) as storage:
        for _ in range(3):
            with pytest.raises(ProtocolViolation, match="nobody asked for: b'226"):
                await storage.read_bytes("one")
            with pytest.raises(ProtocolViolation, match="nobody asked for: b'226"):
                await storage.write_bytes("two", b"two")
        server.faults.late_reply = False
        assert not await storage.exists("two")
        assert (await storage.stat("one")).size == 3
    after = [later for one, later in pairwise(server.commands) if one.startswith(("RETR", "STOR"))]
    assert set(after) == {"USER tester"}
    assert [path.name for path in server.folder.iterdir()] == ["one"]


async def test_a_reply_that_comes_while_nobody_asks(server: FaultyFtpServer) -> None:
    """The connection was in order when it was given back; it is not used again."""
    (server.folder / "one").write_bytes(b"one")
    async with faulty(server, max_connections=1) as storage:
        for number in range(1, 4):
            assert await storage.read_bytes("one") == b"one"
            assert server.accepted == number
            for session in server.open:
                await session.say("226 as I said")


async def test_a_421_is_the_end_of_a_connection(server: FaultyFtpServer) -> None:
    """Even of one that the server leaves open: it has said that it will not go on (RFC 959 §5.4)."""
    (server.folder / "one").write_bytes(b"one")
    async with faulty(server, max_connections=1) as storage:
        assert await storage.read_bytes("one") == b"one"
        server.faults.replies["MLST"] = "421 Service not available"
        with pytest.raises(ConnectionFailed, match="421"):
            await storage.stat("one")
        del server.faults.replies["MLST"]
        assert await storage.read_bytes("one") == b"one"
    assert server.accepted == 2


async def test_a_reader_that_is_left_takes_its_connection_along(server: FaultyFtpServer) -> None:
    (server.folder / "name").write_bytes(DATA * 4)
    async with faulty(server, max_connections=1) as storage:
        async with storage.read("name") as reader:
            await reader.read()
        with pytest.raises(ConnectionFailed, match="the stream was closed"):
            await reader.read()
        assert (await storage.stat("name")).size == len(DATA) * 4
    assert server.accepted == 2


@pytest.mark.parametrize("replies", [{"REST": "502 no"}, {"RETR": "451 /x: Restart not permitted, try again"}])
async def test_a_server_that_does_not_go_on_in_the_middle(server: FaultyFtpServer, replies: dict[str, str]) -> None:
    """It tells of no features at all, so that only trying shows it: then all of a file is asked for again.

    ProFTPD with AllowRetrieveRestart off refuses RETR after it has agreed to REST.
    """
    server.faults.replies = {"FEAT": "502 no"} | replies
    (server.folder / "x").write_bytes(b"12345")
    async with faulty(server) as storage:
        assert storage.capabilities.read_offset
        with pytest.raises(Truncated, match="does not go on at byte 3"):
            await backend_of(storage).begin_read("x", offset=3)
        assert not backend_of(storage).capabilities.read_offset
        server.faults.replies.pop("RETR", None)
        assert await storage.read_bytes("x") == b"12345"


@pytest.mark.parametrize("which", ["reader", "writer"])
async def test_a_stream_that_outlives_its_endpoint_keeps_no_connection(server: FaultyFtpServer, which: str) -> None:
    """The account's connections are counted, and other endpoints go on using them."""
    (server.folder / "name").write_bytes(DATA * 4)
    async with (
        faulty(server, max_connections=2, timeout=5) as other,
        faulty(server, max_connections=2, timeout=5) as storage,
    ):
        pool = backend_of(other).calls.pool
        assert backend_of(storage).calls.pool is pool
        if which == "reader":
            reader = await storage.backend.begin_read("name")
            assert await reader.read()
            await storage.close()
            await reader.close()
        else:
            writer = await storage.backend.begin_write("new", WriteOptions())
            await writer.write(DATA)
            await storage.close()
            await writer.abort()
        async with other.read("name") as held:
            assert await held.read()
            await other.write_bytes("copied", b"data")
    assert (server.folder / "copied").read_bytes() == b"data"
