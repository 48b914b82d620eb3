"""Servers that lie, cut and refuse: nothing truncated is ever taken for whole, and no reply answers another command."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    CrossdockError,
    IntegrityError,
    InvalidPath,
    NoSpace,
    NotAFile,
    PermissionDenied,
    ProtocolViolation,
    SourceChanged,
    Throttled,
    TimedOut,
    Truncated,
)
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.ftp import FtpSettings
from crossdock.storage.storage import Storage
from crossdock.testing.fault_ftp import FaultyFtpServer, FtpFaults
from tests.storage.ftp_places import backend_of, faulty

DATA = bytes(range(256)) * 16384  # 4 MiB
FACTS = ("MLST type*;size*;modify*;", "MDTM", "MFMT", "SIZE", "REST STREAM", "UTF8")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[FaultyFtpServer]:
    home = tmp_path / "home"
    home.mkdir()
    async with FaultyFtpServer(home) as server:
        yield server


# -- downloads --------------------


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
    async with faulty(server, timeout=0.3) as storage:
        with pytest.raises(errors):
            await storage.read_bytes("name", limit=len(DATA))
        server.faults.cut_download = None
        assert await storage.read_bytes("name", limit=len(DATA)) == DATA


@pytest.mark.parametrize(("size", "errors"), [(len(DATA) + 1, Truncated), (10, SourceChanged)])
async def test_a_size_that_is_a_lie(server: FaultyFtpServer, size: int, errors: type[CrossdockError]) -> None:
    (server.folder / "name").write_bytes(DATA)
    server.faults.size = size
    async with faulty(server) as storage:
        with pytest.raises(errors):
            await storage.read_bytes("name", limit=len(DATA))


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
        assert (await storage.stat("name")).size == len(DATA) * 4
    assert server.accepted == 2


# -- uploads --------------------


@pytest.mark.parametrize("size", [10_000, len(DATA)])
async def test_short_data_called_stored_is_not_published(server: FaultyFtpServer, size: int) -> None:
    server.faults.cut_upload = size - 1
    async with faulty(server) as storage:
        with pytest.raises(IntegrityError):
            await storage.write_bytes("name", DATA[:size])
    assert list(server.folder.iterdir()) == []


async def test_a_full_disk_is_told_as_such(server: FaultyFtpServer) -> None:
    server.faults.disk = 1_000_000
    async with faulty(server) as storage:
        with pytest.raises(NoSpace):
            await storage.write_bytes("name", DATA)
    assert list(server.folder.iterdir()) == []


@pytest.mark.parametrize("offered", ["XSHA256", "XCRC"])
async def test_a_digest_that_differs_is_not_published(server: FaultyFtpServer, offered: str) -> None:
    server.features = (*FACTS, offered)
    digests = {"sha256": hashlib.sha256(b"data").hexdigest()}

    async def write(storage: Storage) -> None:
        async with storage.write("a b/name") as writer:
            await writer.write(b"data")
            await writer.commit(Expect(size=4, digests=digests))

    async with faulty(server) as storage:
        assert storage.capabilities.digests == ({"sha256"} if offered == "XSHA256" else set())
        await write(storage)
        server.faults.wrong_digest = True
        with pytest.raises(IntegrityError, match=r"sha256|crc32"):
            await write(storage)
    assert [path.name for path in (server.folder / "a b").iterdir()] == ["name"]


async def test_where_a_rename_may_not_replace_the_old_file_steps_aside(server: FaultyFtpServer) -> None:
    server.refuses_to_replace = True
    async with faulty(server) as storage:
        assert not storage.capabilities.atomic_write
        await storage.write_bytes("name", b"old")
        await storage.write_bytes("name", b"newer")
        assert await storage.read_bytes("name") == b"newer"
    assert [path.name for path in server.folder.iterdir()] == ["name"]


async def test_where_renames_are_forbidden_the_error_names_the_way_out(server: FaultyFtpServer) -> None:
    server.faults.replies["RNFR"] = "550 Permission denied"
    async with faulty(server) as storage:
        with pytest.raises(PermissionDenied, match="staging: none"):
            await storage.write_bytes("name", b"data")
    assert list(server.folder.iterdir()) == []
    async with faulty(server, staging="none") as storage:
        assert not storage.capabilities.atomic_write
        assert not storage.capabilities.rename
        await storage.write_bytes("name", b"data")
        assert await storage.read_bytes("name") == b"data"


@pytest.mark.parametrize("refused", ["APPE", "REST"])
async def test_a_write_is_resumed_by_whichever_the_server_has(server: FaultyFtpServer, refused: str) -> None:
    server.faults.replies[refused] = "502 not here"
    async with faulty(server) as storage:
        writer = await storage.begin_write("name", WriteOptions())
        await writer.write(DATA[:2_000_000])
        token = writer.checkpoint()
        assert token is not None
        await writer.suspend()
        async with storage.write("name", WriteOptions(resume=token)) as again:
            assert again.offset == 2_000_000
            await again.write(DATA[again.offset :])
            await again.commit(Expect(size=len(DATA)))
        assert await storage.read_bytes("name", limit=len(DATA)) == DATA
    verb = "APPE" if refused == "REST" else "STOR"
    assert sum(command.startswith(verb) for command in server.commands) == (1 if verb == "APPE" else 2)


async def test_a_server_that_can_do_neither_is_started_anew(server: FaultyFtpServer) -> None:
    server.faults.replies |= {"APPE": "502 not here", "REST": "502 not here"}
    async with faulty(server) as storage:
        writer = await storage.begin_write("name", WriteOptions())
        await writer.write(DATA)
        token = writer.checkpoint()
        await writer.suspend()
        again = await storage.begin_write("name", WriteOptions(resume=token))
        with pytest.raises(ProtocolViolation):
            await again.write(DATA)
        await again.abort()
        assert not storage.capabilities.resume_write


# -- listings --------------------


@pytest.mark.parametrize(
    "line",
    [
        b"type=file;size=1; ../../x",
        b"type=file;size=1; /etc/passwd",
        b"type=file;size=1; a/b",
        b"type=file;size=1;",
        b"x" * 70_000,
    ],
    ids=["upwards", "absolute", "below", "no name", "no end"],
)
async def test_hostile_names_end_the_listing(server: FaultyFtpServer, line: bytes) -> None:
    server.faults.listing = b"type=file;size=1; good\r\n" + line + b"\r\n"
    async with faulty(server) as storage:
        with pytest.raises(ProtocolViolation):
            [entry async for entry in storage.scan("")]


@pytest.mark.parametrize("cut", [0, 1, 40])
@pytest.mark.parametrize("how", ["rst", "silent", "refused", "hang up"])
async def test_a_listing_that_is_cut_is_an_error(server: FaultyFtpServer, cut: int, how: Any) -> None:
    for number in range(5):
        (server.folder / f"name{number}").write_bytes(b"x")
    server.faults.cut_download, server.faults.how = cut, how
    async with faulty(server, timeout=0.3) as storage:
        with pytest.raises(CrossdockError):
            [entry async for entry in storage.scan("")]


async def test_facts_that_are_odd_are_unknown(server: FaultyFtpServer) -> None:
    server.faults.listing = (
        b"type=cdir;modify=20260101000000; .\r\ntype=pdir; ..\r\nType=FILE;Size=-1;Modify=20261301000000; a\r\n"
        b"size=5; b\r\ntype=OS.unix=slink:/etc;size=3; c\r\ntype=file;size=2;modify=20260203040506.123; d e \r\n"
    )
    async with faulty(server) as storage:
        found = {entry.path: entry for entry in [entry async for entry in storage.scan("")]}
    assert list(found) == ["a", "b", "c", "d e "]
    assert (found["a"].size, found["a"].modified) == (None, None)
    assert (found["b"].kind, found["b"].size, found["c"].kind) == ("file", 5, "link")
    assert found["d e "].modified == datetime(2026, 2, 3, 4, 5, 6, 123000, tzinfo=UTC)


LISTED = {
    b"-rw-r--r--   1 root     root           12 Nov 21 03:57 a -> b": ("a -> b", "file", 12),
    b"-rw-r--r--+  1 4294967295 users  5368709120 Jan  1  2020  lead": (" lead", "file", 5368709120),
    b"drwxr-xr-x   2 0 0 4096 Dec 31 23:59 folder": ("folder", "dir", None),
    b"lrwxrwxrwx   1 0 0 4 Dec 31 23:59 link -> /etc": ("link", "link", None),
    b"prw-r--r--   1 0 0 0 Dec 31 23:59 pipe": ("pipe", "other", None),
    b"-rw-r--r-- 1 a b 7 21 Nov 03:57 day first": ("day first", "file", 7),
    b"-rw-r--r-- 1 a b 7 2026-11-21 03:57 iso": ("iso", "file", 7),
    b"-rw-r--r-- 1 a b 5 Jan 1 00:00 -rw-r--r-- 1 a b 9 Jan 1 00:00 x": (
        "-rw-r--r-- 1 a b 9 Jan 1 00:00 x",
        "file",
        5,
    ),
    b"11-21-26  03:57PM                 1234 report.csv": ("report.csv", "file", 1234),
    b"11-21-2026  03:57PM       <DIR>          in out": ("in out", "dir", None),
}


@pytest.mark.parametrize("line", LISTED, ids=[name for name, _, _ in LISTED.values()])
async def test_the_dialects_of_list(server: FaultyFtpServer, line: bytes) -> None:
    """Its times are too coarse to know a file again by: without MDTM there are none."""
    server.features = ("SIZE",)
    server.faults.listing = b"total 12\r\n" + line + b"\r\n"
    async with faulty(server) as storage:
        (entry,) = [entry async for entry in storage.scan("")]
    assert (entry.path, entry.kind, entry.size) == LISTED[line]
    assert entry.modified is None


async def test_a_line_that_is_understood_as_nothing_ends_the_listing(server: FaultyFtpServer) -> None:
    server.features = ("SIZE",)
    server.faults.listing = b"-rw-r--r-- 1 a b 7 Nov 21 03:57 good\r\nwhatever this is\r\n"
    async with faulty(server) as storage:
        with pytest.raises(ProtocolViolation, match="whatever"):
            [entry async for entry in storage.scan("")]


# -- connections --------------------


async def test_too_many_connections_lower_the_cap_and_it_is_remembered(server: FaultyFtpServer) -> None:
    server.faults.most = 2
    for number in range(6):
        (server.folder / f"name{number}").write_bytes(DATA)
    async with faulty(server, max_connections=6, timeout=30) as storage:

        async def read(number: int) -> None:
            assert await storage.read_bytes(f"name{number}", limit=len(DATA)) == DATA

        await asyncio.gather(*map(read, range(6)))
        assert backend_of(storage).calls.pool.most == 2
        accepted = server.accepted
        await asyncio.gather(*map(read, range(6)))
        assert server.accepted == accepted
    async with faulty(server, max_connections=6, timeout=30) as storage:
        assert backend_of(storage).calls.pool.most == 2


async def test_all_connections_taken_by_those_who_wait_is_an_error(server: FaultyFtpServer) -> None:
    """A copy within an account that has one connection cannot go on; it says so instead of waiting for ever."""
    (server.folder / "name").write_bytes(DATA * 4)
    async with faulty(server, max_connections=1, timeout=0.3) as storage:
        async with storage.read("name") as reader:
            await reader.read()
            with pytest.raises(Throttled, match="max_connections"):
                await storage.write_bytes("other", b"data")


async def test_a_wrong_password_is_tried_once(server: FaultyFtpServer) -> None:
    server.password = "another"
    (server.folder.parent / "secret").touch(0o600)
    (server.folder.parent / "secret").write_text("wrong")

    async def attempt() -> None:
        async with faulty(server):
            pass

    for _ in range(3):
        with pytest.raises(AuthenticationFailed):
            await attempt()
    assert server.accepted == 1


async def test_a_passive_address_is_not_followed(server: FaultyFtpServer) -> None:
    """The data connection goes where the control connection goes, whatever the server says (CVE-2021-4189)."""
    server.faults.passive = "227 Entering (10,255,255,1,{high},{low})"
    async with faulty(server) as storage:
        await storage.write_bytes("name", b"data")
        assert await storage.read_bytes("name") == b"data"


@pytest.mark.parametrize("reply", ["227 garbage", "227 (127,0,0,1,0,0)", "227 (127,0,0,1,999,1)"])
async def test_a_passive_reply_that_is_none(server: FaultyFtpServer, reply: str) -> None:
    server.faults.passive = reply
    async with faulty(server) as storage:
        with pytest.raises(ProtocolViolation):
            await storage.write_bytes("name", b"data")


async def test_active_mode(server: FaultyFtpServer) -> None:
    """The server is asked to connect back; this one cannot, and nothing else is tried instead."""
    (server.folder / "name").write_bytes(b"data")
    async with faulty(server, mode="active") as storage:
        with pytest.raises(CrossdockError):
            await storage.read_bytes("name")
    assert any(command.startswith("EPRT |1|127.0.0.1|") for command in server.commands)
    assert not any(command.startswith(("EPSV", "PASV")) for command in server.commands)


@pytest.mark.parametrize("name", ["a\r\nDELE victim", "a\nb", "a\rb", "a\0b"])
async def test_no_name_becomes_a_command(server: FaultyFtpServer, name: str) -> None:
    (server.folder / "victim").write_bytes(b"x")
    async with faulty(server) as storage:
        before = len(server.commands)
        actions: list[Callable[[], Awaitable[object]]] = [
            lambda: storage.stat(name),
            lambda: storage.read_bytes(name),
            lambda: storage.write_bytes(name, b"x"),
            lambda: storage.delete(name),
            lambda: storage.make_dir(name),
            lambda: storage.remove_dir(name),
            lambda: storage.rename("victim", name),
        ]
        for action in actions:
            with pytest.raises(InvalidPath):
                await action()
        assert len(server.commands) == before
    assert (server.folder / "victim").exists()


@pytest.mark.parametrize(
    "reply",
    ["999 what", "no code", "250-never ends\r\n" + "x" * 200 + "\r\n", "2" * 100_000],
    ids=["code", "text", "multi-line", "long"],
)
async def test_replies_that_are_none(server: FaultyFtpServer, reply: str) -> None:
    async with faulty(server, timeout=0.5) as storage:
        server.faults.replies["MLST"] = reply
        with pytest.raises((ProtocolViolation, TimedOut)):
            await storage.stat("name")
        del server.faults.replies["MLST"]
        assert not await storage.exists("name")


async def test_cancelled_at_any_moment_an_upload_leaves_nothing(server: FaultyFtpServer) -> None:
    async with faulty(server) as storage:
        for pause in (0, 0.001, 0.003, 0.01, 0.02):
            task = asyncio.create_task(storage.write_bytes("name", DATA))
            await asyncio.sleep(pause)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
                raise asyncio.CancelledError
            await storage.delete("name")
        async with aclosing(storage.scan("", temporaries=True)) as entries:
            assert [entry.path async for entry in entries] == []


async def test_what_is_served_is_what_was_asked_for(tmp_path: Path) -> None:
    """A rehearsal of the server itself: without faults it passes for one."""
    async with FaultyFtpServer(tmp_path, FtpFaults()) as server:
        secret = tmp_path / "secret"
        secret.touch(0o600)
        secret.write_text(server.password)
        url = {
            "type": "ftp",
            "host": server.host,
            "port": server.port,
            "user": server.user,
            "password": f"file:{secret}",
        }
        async with Storage(FtpSettings.model_validate(url).backend("faulty")) as storage:
            await storage.write_bytes("name", DATA)
            assert await storage.read_bytes("name", limit=len(DATA)) == DATA


async def test_a_server_that_agrees_before_it_looks_for_the_folder(server: FaultyFtpServer) -> None:
    """As rclone's does: a large file is under way before it says that there is no folder for it."""
    server.faults.agrees_early = True
    async with faulty(server) as storage:
        await storage.write_bytes("a/b/large", DATA)
        await storage.write_bytes("c/small", b"1")
        assert (server.folder / "a/b/large").read_bytes() == DATA
        server.commands.clear()
        await storage.write_bytes("c/other", b"2")
        assert not [command for command in server.commands if command.startswith(("CWD", "MKD"))]
        for path in (server.folder / "c").iterdir():
            path.unlink()
        (server.folder / "c").rmdir()
        with pytest.raises(ConnectionFailed, match="folder is gone"):
            await storage.write_bytes("c/small", b"3")
        await storage.write_bytes("c/small", b"4")
    assert (server.folder / "c/small").read_bytes() == b"4"


async def test_a_server_that_would_put_a_file_in_the_place_of_a_folder(server: FaultyFtpServer) -> None:
    """As rclone's does, with all that is in it."""
    server.faults.replaces_folders = True
    async with faulty(server) as storage:
        await storage.write_bytes("a/x", b"kept")
        for data in (b"small", DATA):
            with pytest.raises(NotAFile, match="a folder has this name"):
                await storage.write_bytes("a", data)
        assert [each.name for each in server.folder.iterdir()] == ["a"]
    assert (server.folder / "a/x").read_bytes() == b"kept"


async def test_a_server_with_nothing_but_lists(server: FaultyFtpServer) -> None:
    """RFC 959 has neither SIZE nor MDTM nor MLST."""
    server.features = ()
    server.faults.replies = dict.fromkeys(("SIZE", "MDTM", "MFMT", "FEAT", "OPTS"), "500 what?")
    async with faulty(server) as storage:
        for data in (b"first", DATA, b""):
            await storage.write_bytes("a/x", data)
            assert (server.folder / "a/x").read_bytes() == data
            assert (await storage.stat("a/x")).size == len(data)
            assert await storage.read_bytes("a/x", limit=len(data) + 1) == data
        assert (await storage.stat("a")).kind == "dir"
        assert not await storage.exists("a/y")
        assert not await storage.exists("a/x/y")
        assert not await storage.exists("b/x")
        server.faults.cut_upload = 3
        with pytest.raises(IntegrityError):
            await storage.write_bytes("a/x", b"fourth")
        await storage.delete("a/x")
    assert not (server.folder / "a/x").exists()


async def test_a_server_that_tells_the_size_of_folders(server: FaultyFtpServer) -> None:
    server.features = ("SIZE", "MDTM")
    server.faults.sizes_folders = True
    async with faulty(server) as storage:
        await storage.write_bytes("a/b/x", b"1")
        assert (await storage.stat("a")).kind == "dir"
        assert (await storage.stat("a/b/x")).kind == "file"
        with pytest.raises(NotAFile):
            await storage.write_bytes("a/b", b"1")
        with pytest.raises(NotAFile):
            await storage.read_bytes("a/b")
        assert [entry.path async for entry in storage.walk("a")] == ["a/b/x"]


async def test_a_server_that_does_not_go_on_in_the_middle(server: FaultyFtpServer) -> None:
    """It tells of no features at all, so that only trying shows it: then all of a file is asked for again."""
    server.faults.replies = dict.fromkeys(("FEAT", "REST"), "502 no")
    (server.folder / "x").write_bytes(b"12345")
    async with faulty(server) as storage:
        assert storage.capabilities.read_offset
        with pytest.raises(Truncated, match="does not go on at byte 3"):
            await backend_of(storage).begin_read("x", offset=3)
        assert not backend_of(storage).capabilities.read_offset
        assert await storage.read_bytes("x") == b"12345"


async def test_a_folder_made_between_two_questions(server: FaultyFtpServer) -> None:
    """Whoever asks about a name in it is told that it is not there, not that nothing can be asked."""
    server.faults.replies = dict.fromkeys(("FEAT", "SIZE", "MDTM", "MLST", "MLSD"), "500 what?")
    (server.folder / "x").write_bytes(b"1")
    async with faulty(server) as storage:
        server.makes_after = ("CWD /done", server.folder / "done")
        await storage.rename("x", "done/x")
    assert (server.folder / "done/x").read_bytes() == b"1"
