"""Times that are set by MDTM, as at vsftpd, whose sandbox may end the session for it."""

from __future__ import annotations

from contextlib import aclosing
from datetime import timedelta

import pytest

from crossdock.cli.probes import probe
from crossdock.config import Location
from crossdock.errors import ConnectionFailed
from crossdock.storage.base import WriteOptions
from crossdock.storage.ftp import pool
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.storage import Storage
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.engine.sync.trees import TREE, content, run
from tests.storage.ftp.places import DATA, FACTS, WHEN, backend_of, faulty, hang_up

DATED = WriteOptions(modified=WHEN)


def set_times(server: FaultyFtpServer) -> int:
    return sum(command.startswith("MDTM 2026") for command in server.commands)


@pytest.mark.parametrize("staging", ["rename", "none"])
@pytest.mark.parametrize("verify", ["size", "none"])
@pytest.mark.parametrize("size", [5, len(DATA)], ids=["small", "large"])
async def test_a_session_that_a_time_ends_loses_no_file(
    queuing: FaultyFtpServer, size: int, verify: str, staging: str
) -> None:
    """Each attempt had ended there: nothing could be uploaded to a vsftpd of Debian 13 that is set up as it comes."""
    queuing.faults.times = "killed"
    async with faulty(queuing, max_connections=1, verify=verify, staging=staging) as storage:
        for name in ("one", "two"):
            await storage.write_bytes(name, DATA[:size], DATED)
        assert storage.capabilities.mtime_precision is None
        async with faulty(queuing, max_connections=1) as other:
            assert other.capabilities.mtime_precision is None, "of one account, it is known"
    assert {path.name: path.read_bytes() for path in queuing.folder.iterdir()} == dict.fromkeys(
        ("one", "two"), DATA[:size]
    )
    assert (queuing.accepted, set_times(queuing)) == (3, 2)


@pytest.mark.parametrize("size", [5, len(DATA)], ids=["small", "large"])
async def test_a_session_that_is_cut_once_as_a_time_is_set_is_a_mishap(queuing: FaultyFtpServer, size: int) -> None:
    """No file had its time any more, for as long as the process lived."""
    queuing.then = [("MDTM", hang_up)]
    async with faulty(queuing, max_connections=1) as storage:
        assert (await storage.write_bytes("one", DATA[:size], DATED)).modified == WHEN
        assert storage.capabilities.mtime_precision == timedelta(seconds=1)
    assert (queuing.folder / "one").read_bytes() == DATA[:size]
    assert (queuing.accepted, set_times(queuing), queuing.then) == (2, 2, [])


async def test_a_proof_of_times_that_is_cut_is_made_again(queuing: FaultyFtpServer) -> None:
    (queuing.folder / "one").touch()
    async with faulty(queuing, max_connections=1) as storage:
        entry = await storage.stat("one")
        queuing.then = [("MDTM", hang_up)]
        await storage.backend.prove_times(entry)
        assert storage.capabilities.mtime_precision == timedelta(seconds=1)
    assert queuing.then == []


async def test_a_server_that_goes_away_tells_nothing_of_a_file(server: FaultyFtpServer) -> None:
    """By its size alone, it would be another file than it was: one that is sent again, or has changed."""
    server.features = ("SIZE", "MDTM")
    (server.folder / "one").write_bytes(b"1")
    async with faulty(server) as storage:
        server.faults.replies["MDTM"] = "421 going down"
        with pytest.raises(ConnectionFailed, match="421 going down"):
            await storage.stat("one")
        with pytest.raises(ConnectionFailed, match="421 going down"):
            [entry async for entry in storage.scan("")]
        server.faults.replies.clear()
        assert [await storage.stat("one")] == [entry async for entry in storage.scan("")]


@pytest.mark.parametrize(
    "said", ["Input/output error", "Stale file handle", "Transport endpoint is not connected", "Connection timed out"]
)
@pytest.mark.parametrize("asked", ["MLST", "SIZE"])
async def test_a_disk_that_fails_tells_nothing_of_a_file(server: FaultyFtpServer, asked: str, said: str) -> None:
    """It was gone, as if its owner had taken it: a flow forgot that it had delivered it."""
    server.features = FACTS if asked == "MLST" else ("SIZE", "MDTM")
    (server.folder / "in").mkdir()
    (server.folder / "in" / "one").write_bytes(b"1")
    async with faulty(server) as storage:
        server.faults.replies[asked] = f"550 /in/one: {said}"
        with pytest.raises(ConnectionFailed, match=said):
            await storage.exists("in/one")
        server.faults.replies.clear()
        assert await storage.exists("in/one")


async def test_a_session_that_goes_on_has_times_set_with_the_rest(queuing: FaultyFtpServer, packets: list[str]) -> None:
    async with faulty(queuing, max_connections=1) as storage:
        for name in ("one", "two", "three"):
            assert (await storage.write_bytes(name, b"12345", DATED)).modified == WHEN
        assert storage.capabilities.mtime_precision == timedelta(seconds=1)
    assert (queuing.accepted, set_times(queuing)) == (1, 3)
    assert packets[-3] == "EPSV+STOR+MDTM+SIZE+MDTM"


@pytest.mark.parametrize("dry_run", [True, False])
async def test_what_was_sent_without_its_time_is_not_sent_again(queuing: FaultyFtpServer, dry_run: bool) -> None:
    queuing.faults.times = "killed"
    source = Storage(MemoryBackend("source"))
    for path, data in TREE.items():
        await source.write_bytes(path, data, DATED)
    async with faulty(queuing) as target:
        assert (await run(source, target))[0].copied == len(TREE)
    pool._ACCOUNTS.clear()  # a new process does not know of it yet
    async with faulty(queuing) as target:
        assert (await run(source, target, dry_run=dry_run))[0].copied == 0
        assert await content(target) == TREE
    queuing.faults.times = "set"
    pool._ACCOUNTS.clear()
    async with faulty(queuing) as target:
        assert (await run(source, target, dry_run=True))[0].copied == len(TREE), "here times can be set, and differ"


async def test_doctor_tells_what_to_ask_for(queuing: FaultyFtpServer) -> None:
    queuing.faults.times = "killed"
    async with faulty(queuing) as storage:
        place = Location("lake", backend_of(storage).settings, "", True)
        async with aclosing(probe(storage, "scratch", place, removing="rm")) as told:
            findings = {finding.name: finding async for finding in told}
    assert all(found.good for found in findings.values())
    assert "ends the session when a file's time is set" in findings["mtime"].detail
    assert "seccomp_sandbox=NO" in (findings["mtime"].mend or "")
