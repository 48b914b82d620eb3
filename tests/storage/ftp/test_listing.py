"""Listings: hostile names, odd facts, the dialects of LIST, and servers that tell little of a name."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crossdock.engine.sync import SyncOptions, sync
from crossdock.engine.sync.outcome import Outcome
from crossdock.errors import (
    CrossdockError,
    IntegrityError,
    InvalidPath,
    NotAFile,
    NotFound,
    ProtocolViolation,
)
from crossdock.flows.filters import Filters, Rule
from crossdock.storage.local import LocalSettings
from crossdock.storage.registry import new_storage, settings_class
from crossdock.storage.storage import Storage
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.servers import Proftpd, Vsftpd
from tests.storage.ftp.places import DATA, FACTS, faulty


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


@pytest.mark.parametrize("name", ["back\\slash.csv", 'a"b.csv', "end ", "Icon\r", os.fsdecode(b"M\xfcller.csv")])
async def test_a_name_that_cannot_be_sent_hides_no_others(server: FaultyFtpServer, name: str) -> None:
    """Where LIST tells no times, each file is asked for its own; the whole folder had been refused for one of them."""
    server.features = ("SIZE", "MDTM", "UTF8")
    for each in ("a.csv", name):
        (server.folder / each).write_bytes(DATA)
    os.utime(server.folder / "a.csv", (1_600_000_000, 1_600_000_000))
    async with faulty(server) as storage:
        found = {entry.path: entry for entry in [entry async for entry in storage.scan("")]}
        assert len(found) == 2
        assert found["a.csv"].modified == datetime.fromtimestamp(1_600_000_000, UTC)
        assert await storage.read_bytes("a.csv") == DATA
        with pytest.raises((InvalidPath, NotFound)):
            await storage.read_bytes(next(path for path in found if path != "a.csv"))


async def test_a_name_with_a_line_break_fails_alone(vsftpd: Vsftpd, proftpd: Proftpd, tmp_path: Path) -> None:
    """It ended the listing, and with it a sync of everything else; or what follows the break was taken for a file."""
    for server in (vsftpd, proftpd):
        folder = server.folder / uuid.uuid4().hex
        (folder / "sub\nfolder").mkdir(parents=True)
        odd = ["b\nc.csv", "e\nf g.csv", "h\ni\nj"]
        for name in ("a.csv", *odd, "z.csv"):
            (folder / name).write_bytes(DATA)
        given = server.settings(root=f"{server.root}{folder.name}")
        target = tmp_path / server.name
        target.mkdir()
        async with (
            new_storage("partner", settings_class(given["type"]).model_validate(given)) as source,
            Storage(LocalSettings(root=target).backend("here")) as here,
        ):
            assert {each.path async for each in source.scan()} == {"a.csv", *odd, "z.csv", "sub\nfolder"}
            said: list[Outcome] = []
            filters = Filters(rules=(Rule(False, "sub*/"),))
            summary = await sync(source, "", here, "", SyncOptions(filters=filters), report=said.append)
        failed = {each.path: str(each.error) for each in said if each.action == "fail"}
        assert failed.keys() == set(odd)
        assert "read partner:b\\nc.csv: FTP cannot carry a line break in a name" in failed["b\nc.csv"]
        assert (summary.copied, {each.name for each in target.iterdir()}) == (2, {"a.csv", "z.csv"})


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
async def test_a_line_that_nobody_understands_is_no_part_of_a_name(server: FaultyFtpServer, end: bytes) -> None:
    """Where each line ends as this one does: the file before it would look as if it were gone."""
    server.features = ("SIZE", "MDTM")
    lines = (b"-rw-r--r-- 1 a b 7 Nov 21 03:57 good", b"what is that", b"-rw-r--r-- 1 a b 7 Nov 21 03:57 other", b"")
    server.faults.listing = end.join(lines)
    async with faulty(server) as storage:
        with pytest.raises(ProtocolViolation, match="what is that"):
            [entry async for entry in storage.scan("")]


@pytest.mark.parametrize("cut", [0, 1, 40])
@pytest.mark.parametrize("how", ["rst", "silent", "refused", "hang up"])
async def test_a_listing_that_is_cut_is_an_error(server: FaultyFtpServer, cut: int, how: Any) -> None:
    for number in range(5):
        (server.folder / f"name{number}").write_bytes(b"x")
    server.faults.cut_download, server.faults.how = cut, how
    async with faulty(server, timeout=2) as storage:
        with pytest.raises(CrossdockError):
            [entry async for entry in storage.scan("")]


@pytest.mark.parametrize("features", [FACTS, ("SIZE", "MDTM")], ids=["MLSD", "LIST"])
async def test_a_listing_that_is_cut_within_a_line_is_an_error(
    server: FaultyFtpServer, features: tuple[str, ...]
) -> None:
    """By what lies between, so that the server itself calls it complete: the name is cut as well."""
    server.features = features
    (server.folder / "name1").touch()
    (server.folder / "name10").touch()
    async with faulty(server) as storage:
        whole = [entry async for entry in storage.scan("")]
        assert [entry.path for entry in whole] == ["name1", "name10"]
        server.faults.cut_download = {"MLSD": 93, "LIST": 118}["MLSD" if features is FACTS else "LIST"]
        with pytest.raises(ProtocolViolation, match="line without an end"):
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


ENDLESS = b"9" * 5000


@pytest.mark.parametrize(
    ("features", "line"),
    [
        (FACTS, b"type=file;size=" + ENDLESS + b"; a"),
        (("SIZE",), b"-rw-r--r-- 1 a b " + ENDLESS + b" Jan  1  2020 a"),
        (("SIZE",), b"11-21-26  03:57PM " + ENDLESS + b" a"),
    ],
    ids=["MLSD", "Unix", "DOS"],
)
async def test_a_size_that_no_file_has_is_unknown(
    server: FaultyFtpServer, features: tuple[str, ...], line: bytes
) -> None:
    (server.folder / "a").write_bytes(b"x")
    server.features = features
    server.faults.listing = line + b"\r\n"
    server.faults.replies = {
        "SIZE": f"213 {ENDLESS.decode()}",
        "MLST": f"250-Facts\r\n type=file;size={ENDLESS.decode()}; a\r\n250 End",
    }
    async with faulty(server) as storage:
        (entry,) = [entry async for entry in storage.scan("")]
        assert (entry.path, entry.kind, entry.size) == ("a", "file", None)
        assert (await storage.stat("a")).size is None


LISTED = {
    b"-rw-r--r--   1 root     root           12 Nov 21 03:57 a -> b": ("a -> b", "file", 12),
    b"-rw-r--r--+  1 4294967295 users  5368709120 Jan  1  2020  lead": (" lead", "file", 5368709120),
    b"drwxr-xr-x   2 0 0 4096 Dec 31 23:59 folder": ("folder", "dir", None),
    b"drwxr-xr-x   2 0 0 4096 Dec 31 23:59 marked/": ("marked", "dir", None),
    b"lrwxrwxrwx   1 0 0 4 Dec 31 23:59 link -> /etc": ("link", "link", None),
    b"prw-r--r--   1 0 0 0 Dec 31 23:59 pipe": ("pipe", "other", None),
    b"-rw-r--r-- 1 a b 7 21 Nov 03:57 day first": ("day first", "file", 7),
    b"-rw-r--r-- 1 a b 7 2026-11-21 03:57 iso": ("iso", "file", 7),
    b"-rw-r--r-- 1 a b 5 Jan 1 00:00 -rw-r--r-- 1 a b 9 Jan 1 00:00 x": (
        "-rw-r--r-- 1 a b 9 Jan 1 00:00 x",
        "file",
        5,
    ),
    b"-rw-r--r-- 1 root 33 1234 Nov 21 03:57 group by number": ("group by number", "file", 1234),
    b"-rw-r--r-- 1 33 root 1234 Nov 21 03:57 user by number": ("user by number", "file", 1234),
    b"-rw-rw-rw- 1 me DOMAIN\\Domain Users 1234 Nov 21  2025 group of words": ("group of words", "file", 1234),
    b"-rw-r--r-- owner group 1234 Nov 21 03:57 without links": ("without links", "file", 1234),
    "-rw-r--r-- 1 a b 7 нояб. 21 03:57 Russian".encode(): ("Russian", "file", 7),
    "-rw-r--r-- 1 a b 7 11月 21 03:57 Chinese".encode(): ("Chinese", "file", 7),
    "-rw-r--r-- 1 a b 7 11月 21日 2025 Japanese".encode(): ("Japanese", "file", 7),
    b"brw-rw---- 1 root disk 8, 0 Nov 21 03:57 device": ("device", "other", None),
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


@pytest.mark.parametrize("total", ["total 12", "Total: 12", "insgesamt 12", "итого 12", "总用量 12"])
async def test_how_much_it_is_in_all_is_no_name(server: FaultyFtpServer, total: str) -> None:
    server.features = ("SIZE",)
    server.faults.listing = f"{total}\r\n-rw-r--r-- 1 a b 7 Nov 21 03:57 name\r\n".encode()
    async with faulty(server) as storage:
        assert [entry.path async for entry in storage.scan("")] == ["name"]


@pytest.mark.parametrize("line", ["whatever this is", "-rw-r--r-- 1", "name 1.csv"])
async def test_a_line_that_is_understood_as_nothing_ends_the_listing(server: FaultyFtpServer, line: str) -> None:
    server.features = ("SIZE",)
    server.faults.listing = f"-rw-r--r-- 1 a b 7 Nov 21 03:57 good\r\n{line}\r\n".encode()
    async with faulty(server) as storage:
        with pytest.raises(ProtocolViolation, match=line):
            [entry async for entry in storage.scan("")]


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


VSFTPD = ("EPRT", "EPSV", "MDTM", "PASV", "REST STREAM", "SIZE", "TVFS")


@pytest.mark.parametrize("features", [(), VSFTPD], ids=["RFC 959", "vsftpd"])
async def test_a_folder_made_between_two_questions(server: FaultyFtpServer, features: tuple[str, ...]) -> None:
    """Whoever asks about a name in it is told that it is not there, not that nothing can be asked."""
    server.features = features
    if not features:
        server.faults.replies = dict.fromkeys(("FEAT", "SIZE", "MDTM", "MLST", "MLSD"), "500 what?")
    (server.folder / "x").write_bytes(b"1")
    async with faulty(server) as storage:
        server.then = [("CWD /done", (server.folder / "done").mkdir)]
        await storage.rename("x", "done/x")
    assert (server.folder / "done/x").read_bytes() == b"1"
