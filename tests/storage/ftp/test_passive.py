"""Passive ports that can be reached by one command and not by the other."""

from __future__ import annotations

import asyncio

import pytest

from crossdock.errors import ConnectionFailed
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.storage.ftp.places import DATA, faulty


@pytest.mark.parametrize("reply", ["229 Entering (|||1|)", "550 not here", "502 what?"])
async def test_what_lies_between_may_know_pasv_alone(server: FaultyFtpServer, reply: str) -> None:
    """A firewall opens the port that it sees in a reply, if it understands that; found out once for the account."""
    server.faults.replies["EPSV"] = reply
    async with faulty(server) as storage:
        await storage.write_bytes("name", DATA)
        await asyncio.gather(*(storage.write_bytes(f"name{number}", DATA) for number in range(3)))
        assert await storage.read_bytes("name2", limit=len(DATA)) == DATA
        assert len([entry async for entry in storage.scan("")]) == 4
    assert server.accepted > 1
    assert server.commands.count("EPSV") == 1


async def test_where_neither_is_reached_both_are_tried_again(server: FaultyFtpServer) -> None:
    server.faults.replies |= {"EPSV": "229 Entering (|||1|)", "PASV": "227 Entering (127,0,0,1,0,2)"}
    async with faulty(server) as storage:
        with pytest.raises(ConnectionFailed, match=r"port 1 fails.*refused"):
            await storage.write_bytes("name", b"x")
        server.faults.replies.clear()
        await storage.write_bytes("name", b"x")
    assert [command for command in server.commands if command in ("EPSV", "PASV")] == ["EPSV", "PASV", "EPSV"]


async def test_a_port_that_was_reached_before_is_not_looked_for_elsewhere(server: FaultyFtpServer) -> None:
    """What fails then is no matter of the command: the server has other troubles."""
    async with faulty(server) as storage:
        await storage.write_bytes("name", b"x")
        server.faults.replies["EPSV"] = "229 Entering (|||1|)"
        with pytest.raises(ConnectionFailed, match=r"port 1 fails.*refused"):
            await storage.write_bytes("name", b"x")
    assert "PASV" not in server.commands
