"""What servers do that are not started here: ftp-srv, Apache FtpServer, aioftp, as they were found to do it."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest

from crossdock.errors import (
    ConnectionFailed,
    NotFound,
    ProtocolViolation,
    SourceChanged,
    Throttled,
    TimedOut,
    Truncated,
)
from crossdock.storage.base import WriteOptions
from crossdock.testing.fault_ftp import FaultyFtpServer
from crossdock.testing.storage.base import read_all
from tests.servers.ftp import write_certificate
from tests.storage.ftp.places import DATA, FACTS, backend_of, faulty


async def test_the_size_of_an_empty_file_that_is_told_in_words(server: FaultyFtpServer) -> None:
    """ftp-srv says "213 File status" instead of 0."""
    server.features = ("SIZE", "MDTM")
    server.faults.replies["SIZE"] = "213 File status"
    async with faulty(server) as storage:
        entry = await storage.write_bytes("empty", b"")
        assert (entry.size, (await storage.stat("empty")).size) == (0, 0)
        assert entry.modified is not None
        # Twice: the second time EPSV goes out along with the questions, and the listing takes what it invites to.
        assert [await storage.read_bytes("empty") for _ in range(2)] == [b"", b""]


async def test_a_server_that_has_facts_and_no_feat(server: FaultyFtpServer) -> None:
    """aioftp's is one; it has no MDTM."""
    server.faults.replies = dict.fromkeys(("FEAT", "MDTM", "OPTS"), "502 not implemented")
    async with faulty(server) as storage:
        await storage.write_bytes("x", b"x")
        (entry,) = [entry async for entry in storage.scan("")]
        assert entry.modified is not None
        assert entry == await storage.stat("x")


async def test_that_an_upload_is_gone_does_not_say_that_it_was_published(server: FaultyFtpServer) -> None:
    """vsftpd's delete_failed_uploads, ProFTPD's DeleteAbortedStores: what broke off is removed."""
    async with faulty(server) as storage:
        writer = await storage.begin_write("a", WriteOptions(attempt="0123456789ab"))
        await writer.write(bytes(3 << 20))
        token = writer.checkpoint()
        assert token is not None
        await writer.leave()
        assert await storage.is_staged(token) is True
        await storage.discard(token)
        assert await storage.is_staged(token) is None


async def test_hidden_files_are_asked_for(server: FaultyFtpServer) -> None:
    """Apache FtpServer leaves them out of its MLSD."""
    server.features = (*FACTS, "MD5", "MMD5")
    async with faulty(server) as storage:
        await storage.write_bytes(".hidden", b"x")
        assert [entry.path async for entry in storage.scan("")] == [".hidden"]
    assert "MLSD -a" in server.commands


async def test_what_lists_facts_is_not_said_to_have_none(server: FaultyFtpServer) -> None:
    server.features = ("MLSD", "SIZE", "MDTM", "MFMT")
    async with faulty(server) as storage:
        assert "listings" not in {name for name, _, _ in await backend_of(storage).remarks()}


async def test_a_server_that_says_451_of_what_is_missing(server: FaultyFtpServer) -> None:
    """fineftp does: what the folder does not list is missing, what it lists is there."""
    server.features = ("SIZE", "MDTM")
    server.faults.replies["SIZE"] = "451 Error opening file for size retrieval"
    async with faulty(server) as storage:
        assert not await storage.exists("x")
        (server.folder / "x").write_bytes(b"1234")
        assert (await storage.stat("x")).size == 4


@pytest.mark.parametrize(
    "reply",
    ["450 Requested file action not taken", "550 File is locked by another user", "550 Too many open files"],
)
async def test_a_file_that_is_in_use_is_not_taken_for_missing(server: FaultyFtpServer, reply: str) -> None:
    (server.folder / "name").write_bytes(b"data")
    server.faults.replies["MLST"] = reply
    async with faulty(server) as storage:
        assert (await storage.stat("name")).size == 4
        assert not await storage.exists("other")
        server.faults.replies["RETR"] = "550 The file is in use"
        with pytest.raises(Throttled, match="somebody has it open"):
            await storage.read_bytes("name")


async def test_a_file_has_the_time_that_its_listing_tells_where_nothing_else_does(server: FaultyFtpServer) -> None:
    """LightFTP has MLSD, and neither MLST nor MDTM: what was listed was never found again, and nothing was moved."""
    server.features = ("SIZE", "REST STREAM", "MLSD")
    server.faults.replies["MDTM"] = "500 Syntax error, command unrecognized."
    async with faulty(server) as storage:
        written = await storage.write_bytes("folder/name", DATA)
        (listed,) = [entry async for entry in storage.scan("folder")]
        assert written == listed == await storage.stat("folder/name")
        assert listed.modified is not None
        async with storage.read("folder/name", pin=listed) as reader:
            assert await read_all(reader) == DATA
        assert not await storage.exists("folder/other")
        os.utime(server.folder / "folder" / "name", (1e9, 1e9))
        with pytest.raises(SourceChanged):
            async with storage.read("folder/name", pin=listed) as reader:
                await reader.read()


async def test_a_refusal_that_passes_is_no_lack_of_epsv(server: FaultyFtpServer) -> None:
    server.faults.replies["EPSV"] = "425 Cannot open a port just now"
    async with faulty(server) as storage:
        with pytest.raises(ConnectionFailed, match="425 Cannot open"):
            await storage.write_bytes("name", b"x")
        server.faults.replies.clear()
        await storage.write_bytes("name", b"x")
    assert "PASV" not in server.commands


async def test_a_server_that_is_not_quite_done_with_what_it_said_it_had_done(server: FaultyFtpServer) -> None:
    """LightFTP: a matter of a moment."""
    server.faults.replies["EPSV"] = "550 Another action is in progress, use ABOR first."
    server.then = [("EPSV", server.faults.replies.clear)]
    async with faulty(server) as storage:
        await storage.write_bytes("name", b"x")
    assert "PASV" not in server.commands
    server.faults.replies = dict.fromkeys(("EPSV", "PASV"), "550 Another action is in progress, use ABOR first.")
    async with faulty(server) as storage:
        with pytest.raises(ConnectionFailed, match="Another action"):
            await storage.write_bytes("name", b"x")
        server.faults.replies.clear()
        await storage.write_bytes("name", b"x")


async def test_a_server_that_does_not_set_times_is_found_out(server: FaultyFtpServer) -> None:
    """vsftpd by mdtm_write=NO takes the time for the beginning of a file's name."""
    server.greeting = "(vsFTPd 3.0.3)"
    server.features = ("SIZE", "MDTM")
    async with faulty(server) as storage:
        assert backend_of(storage).capabilities.mtime_precision
        server.faults.replies["MDTM"] = "550 Could not get file modification time."
        await storage.write_bytes("x", b"x", WriteOptions(modified=datetime(2020, 1, 1, tzinfo=UTC)))
        kept = storage.capabilities.mtime_precision
        assert kept is None
    assert (server.folder / "x").read_bytes() == b"x"


async def test_a_rename_onto_a_file_that_the_server_calls_a_matter_of_time(server: FaultyFtpServer) -> None:
    """fineftp says 450 of what exists."""
    (server.folder / "one").write_bytes(b"newer")
    (server.folder / "two").write_bytes(b"old")
    server.faults.replies["RNTO"] = "450 Target path exists already."
    server.then = [("RNTO", server.faults.replies.clear)]
    async with faulty(server) as storage:
        await storage.rename("one", "two", overwrite=True)
    assert [path.name for path in server.folder.iterdir()] == ["two"]
    assert (server.folder / "two").read_bytes() == b"newer"


async def test_what_is_left_is_removed_where_nothing_may_be_resumed(server: FaultyFtpServer) -> None:
    server.features = ("SIZE", "MDTM")
    async with faulty(server) as storage:
        assert not storage.capabilities.resume_write
        writer = await storage.begin_write("name", WriteOptions(attempt="0123456789ab"))
        await writer.write(bytes(1_000_000))
        await writer.leave()
        assert len(list(server.folder.iterdir())) == 1
        token = storage.leftover("name", "0123456789ab")
        assert token is not None
        await storage.discard(token)
    assert list(server.folder.iterdir()) == []


@pytest.mark.parametrize("what", ["overlooks", "hangs up"])
@pytest.mark.parametrize("features", [FACTS, ("SIZE", "MDTM")], ids=["MLST", "bare"])
async def test_a_server_that_sees_one_command_in_a_packet(
    server: FaultyFtpServer, features: tuple[str, ...], what: Literal["overlooks", "hangs up"]
) -> None:
    """uftpd and the servers of many devices, and LightFTP; found out once, where it costs no more than a connection."""
    server.features = features
    server.faults.one_at_a_time = what
    async with faulty(server, connect_timeout=2, max_connections=1) as storage:
        for data in (b"old", DATA):
            await storage.write_bytes("folder/name", data)
            assert await storage.read_bytes("folder/name", limit=len(data)) == data
        (entry,) = [entry async for entry in storage.scan("folder")]
        assert entry == await storage.stat("folder/name")
        await storage.rename("folder/name", "name")
        await storage.delete("name")
    assert server.accepted == 2


@pytest.mark.parametrize("features", [FACTS, ("SIZE", "MDTM")], ids=["MLST", "bare"])
async def test_a_server_that_answers_out_of_turn(server: FaultyFtpServer, features: tuple[str, ...]) -> None:
    """zope.server says in one thread what it does not know, and in another what it has to look up."""
    (server.folder / "folder").mkdir()
    (server.folder / "folder" / "name").write_bytes(DATA)
    server.features = features
    server.faults.replies["EPSV"] = "500 command not understood"
    server.faults.one_at_a_time = "overtakes"
    async with faulty(server, max_connections=1) as storage:
        # That costs a connection, and is known from then on; the file is no folder, by another one's reply.
        with pytest.raises(ConnectionFailed, match="out of turn"):
            await storage.read_bytes("folder/name", limit=len(DATA))
        assert await storage.read_bytes("folder/name", limit=len(DATA)) == DATA
        assert (await storage.stat("folder")).kind == "dir"
        assert not await storage.exists("folder/other")
        await storage.write_bytes("folder/name", b"new")
        assert (await storage.stat("folder/name")).size == 3
    assert (server.folder / "folder" / "name").read_bytes() == b"new"
    assert server.accepted == 2


@pytest.mark.parametrize("size", ["213 4", "213 4 Bytes"])
async def test_sizes_and_times_that_come_out_of_turn(server: FaultyFtpServer, size: str) -> None:
    """Both have the code 213, and a time is a number as well."""
    (server.folder / "name").write_bytes(b"four")
    server.features = ("SIZE", "MDTM")
    server.faults.replies |= {"SIZE": "213 20261123204239", "MDTM": size}
    async with faulty(server) as storage:
        with pytest.raises(ConnectionFailed, match="out of turn"):
            await storage.stat("name")


async def test_a_server_that_falls_silent_is_not_taken_for_one_of_those(server: FaultyFtpServer) -> None:
    """Of what was sent together, all has been answered before."""
    async with faulty(server, timeout=2) as storage:
        await storage.write_bytes("name", b"x")
        learned = backend_of(storage).calls.pool.account.learned
        assert learned.batches
        server.faults.one_at_a_time = "overlooks"
        with pytest.raises(TimedOut):
            await storage.rename("name", "other")
        assert learned.batches


@pytest.mark.parametrize("waits", [0.5, None], ids=["looks first", "agrees first"])
async def test_a_server_that_agrees_once_a_data_connection_is_secured(tmp_path: Path, waits: float | None) -> None:
    """ftp-srv, and whatever is made with Node's tls: found out by its 425, and known from then on."""
    folder, certificate = tmp_path / "home", tmp_path / "certificate.pem"
    folder.mkdir()
    write_certificate(certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with FaultyFtpServer(folder, features=("SIZE", "MDTM"), tls=context) as server:
        server.faults.looks_first = waits
        async with faulty(server, type="ftps", ca_file=certificate) as storage:
            assert [entry async for entry in storage.scan("")] == []
            await storage.write_bytes("a/large", DATA)
            await storage.write_bytes("a/small", b"x")
            await storage.write_bytes("a/small", b"xyz")
            assert await storage.read_bytes("a/large", limit=len(DATA)) == DATA
            assert {entry.path: entry.size async for entry in storage.scan("a")} == {"a/large": len(DATA), "a/small": 3}
            with pytest.raises(NotFound):
                await storage.read_bytes("a/missing")
        assert server.commands.count("LIST -a") == (2 if waits else 1)
        assert (folder / "a" / "small").read_bytes() == b"xyz"


async def test_a_port_that_is_closed_again_is_a_matter_of_time(server: FaultyFtpServer) -> None:
    server.faults.replies["STOR"] = "550 No connector setup, send PASV or PORT"
    async with faulty(server) as storage:
        with pytest.raises(ConnectionFailed):
            await storage.write_bytes("name", DATA)


async def test_an_empty_line_lists_nothing(server: FaultyFtpServer) -> None:
    """jsftpd's listing of an empty folder."""
    server.faults.listing = b"\r\n"
    async with faulty(server) as storage:
        assert [entry async for entry in storage.scan("")] == []


@pytest.mark.parametrize("extended", [True, False], ids=["EPSV", "PASV"])
async def test_a_server_that_is_already_in_passive_mode_is_asked_on_another_connection(
    server: FaultyFtpServer, extended: bool
) -> None:
    """The gem ftpd says so until somebody has connected to the port that it named before."""
    command = "EPSV" if extended else "PASV"
    server.faults.replies = {} if extended else {"EPSV": "500 what?"}
    async with faulty(server, max_connections=1) as storage:
        await storage.write_bytes("name", DATA)
        server.faults.replies[command] = "200 Already in passive mode"
        with pytest.raises(ConnectionFailed, match="names no port"):
            await storage.read_bytes("name", limit=len(DATA))
        del server.faults.replies[command]
        assert await storage.read_bytes("name", limit=len(DATA)) == DATA
    assert server.accepted == 2


async def test_what_is_empty_by_its_size_needs_no_tls_of_its_own(tmp_path: Path) -> None:
    """Servers made with Go begin TLS with the first byte. Of a listing nothing tells that it should be empty."""
    folder, certificate = tmp_path / "home", tmp_path / "certificate.pem"
    (folder / "folder").mkdir(parents=True)
    (folder / "empty").touch()
    (folder / "name").write_bytes(b"data")
    write_certificate(certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with FaultyFtpServer(folder, tls=context) as server:
        server.faults.lazy = True
        async with faulty(server, type="ftps", ca_file=certificate) as storage:
            assert {entry.path async for entry in storage.scan("")} == {"empty", "folder", "name"}
            assert await storage.read_bytes("name") == b"data"
            assert await storage.read_bytes("empty") == b""
            with pytest.raises(ProtocolViolation, match="before TLS is up"):
                [entry async for entry in storage.scan("folder")]
            server.faults.cut_download = 0
            with pytest.raises((ProtocolViolation, Truncated)):
                await storage.read_bytes("name")


@pytest.mark.parametrize("known", [True, False])
async def test_times_that_the_server_does_not_say_it_tells(server: FaultyFtpServer, *, known: bool) -> None:
    """goftp/server's FEAT has no MDTM. Listed without a time, no file was found again as the one that was listed."""
    server.features = ("SIZE",)
    server.faults.replies = {} if known else {"MDTM": "502 not implemented"}
    async with faulty(server, max_connections=1) as storage:
        for name in ("a", "b"):
            await storage.write_bytes(name, b"x")
        for _ in range(2):
            server.commands.clear()
            for entry in [entry async for entry in storage.scan("")]:
                assert (entry.modified is not None) == known
                assert entry == await storage.stat(entry.path)
    # Asked for both by each listing, and by each look.
    assert sum(command.startswith("MDTM") for command in server.commands) == (4 if known else 2)
