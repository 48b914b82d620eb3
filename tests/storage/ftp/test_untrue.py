"""Servers whose words are not so: offered and not known, complete and not begun, refused and done."""

from __future__ import annotations

import pytest

from crossdock.errors import PermissionDenied, ProtocolViolation, Unsupported
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.storage.ftp.places import DATA, FACTS, faulty


@pytest.mark.parametrize("refused", [("MLST",), ("MLSD",), ("MLST", "MLSD")])
@pytest.mark.parametrize("code", [500, 502])
async def test_facts_that_are_offered_and_not_known(
    server: FaultyFtpServer, refused: tuple[str, ...], code: int
) -> None:
    """A gateway lets the answer to FEAT pass, and not the commands that it tells of."""
    server.faults.replies = dict.fromkeys(refused, f"{code} not understood")
    async with faulty(server, max_connections=1) as storage:
        await storage.write_bytes("in/a", DATA)
        await storage.write_bytes("in/a", b"xyz")
        assert await storage.read_bytes("in/a") == b"xyz"
        assert not await storage.exists("in/b")
        for _ in range(2):
            (entry,) = [entry async for entry in storage.scan("in")]
            assert entry == await storage.stat("in/a")
        await storage.rename("in/a", "b/c")
        await storage.delete("b/c")
        for folder in ("in", "b"):
            await storage.remove_dir(folder)
    assert list(server.folder.iterdir()) == []
    asked = [one.partition(" ")[0] for one in server.commands]
    assert all(asked.count(one) == 1 for one in refused)


async def test_facts_that_were_told_before_are_not_taken_for_unknown(server: FaultyFtpServer) -> None:
    (server.folder / "a").write_bytes(b"data")
    async with faulty(server) as storage:
        assert (await storage.stat("a")).size == 4
        server.faults.replies = {"MLST": "500 no", "MLSD": "500 no"}
        with pytest.raises(Unsupported, match="MLST: 500 no"):
            await storage.stat("a")


@pytest.mark.parametrize("command", ["MLSD", "RETR"])
async def test_a_transfer_that_is_complete_before_it_was_agreed_to(server: FaultyFtpServer, command: str) -> None:
    (server.folder / "a").write_bytes(b"data")
    server.faults.replies[command] = "226 Transfer complete"
    async with faulty(server) as storage:
        with pytest.raises(ProtocolViolation, match="complete before it has agreed to it: 226 Transfer complete"):
            await storage.read_bytes("a") if command == "RETR" else [entry async for entry in storage.scan("")]


@pytest.mark.parametrize("features", [("SIZE", "MDTM"), FACTS])
@pytest.mark.parametrize("reply", ["550 Rename failed", "451 Local error"])
async def test_a_rename_that_is_refused_and_done(
    server: FaultyFtpServer, reply: str, features: tuple[str, ...]
) -> None:
    server.features = features
    server.faults.denies = reply
    async with faulty(server) as storage:
        for data in (DATA, b"xyz", b"xyz", b""):
            await storage.write_bytes("in/a", data)
            assert (server.folder / "in/a").read_bytes() == data
        await storage.rename("in/a", "done/a")
        await storage.write_bytes("in/a", b"newer")
        await storage.rename("in/a", "done/a", overwrite=True)
    assert [one.name for one in (server.folder / "in").iterdir()] == []
    assert {one.name: one.read_bytes() for one in (server.folder / "done").iterdir()} == {"a": b"newer"}


async def test_a_rename_that_is_refused_and_not_done(server: FaultyFtpServer) -> None:
    """Though a file of the same size has the name."""
    (server.folder / "a").write_bytes(b"old")
    server.faults.replies["RNTO"] = "550 no"
    async with faulty(server) as storage:
        with pytest.raises(PermissionDenied, match="RNTO: 550 no"):
            await storage.write_bytes("a", b"new")
    assert {one.name: one.read_bytes() for one in server.folder.iterdir()} == {"a": b"old"}
