"""Servers whose MLSD and MLST leave facts unsaid that SIZE and MDTM tell."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crossdock.engine.engine import Engine
from crossdock.flows.flow import After, Destination, Flow, Place, Rule
from crossdock.ledger.base import Query
from crossdock.ledger.memory import MemoryLedger
from crossdock.storage.local import LocalSettings
from crossdock.storage.storage import Storage
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.engine.clocks import Clock
from tests.engine.places import AT_ONCE
from tests.storage.ftp.places import faulty

AT = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize("facts", ["type=file;", "type=file;size=5;", "type=file;modify=20260102000000;"])
@pytest.mark.parametrize("mlst", ["none", "complete", "as listed"])
async def test_a_file_is_known_again(server: FaultyFtpServer, tmp_path: Path, facts: str, mlst: str) -> None:
    """Else its listing and a look at it tell of two files: it was never delivered, or never archived."""
    server.features = ("MLSD" if mlst == "none" else "MLST type*;", "SIZE", "MDTM", "UTF8")
    (server.folder / "a.csv").write_bytes(b"12345")
    os.utime(server.folder / "a.csv", (AT.timestamp(), AT.timestamp()))
    server.faults.listing = f"{facts} a.csv\r\n".encode()
    if mlst == "as listed":
        server.faults.replies = {"MLST": f"250-Facts\r\n {facts} /a.csv\r\n250 End"}
    (tmp_path / "lake").mkdir()
    # Of "as listed", every name is there.
    after = After() if mlst == "as listed" else After(archive=".done")
    rules, clock = (Rule(name="to", to=(Destination(endpoint="lake"),)),), Clock()
    flow = Flow(name="f", source=Place("faulty"), rules=rules, settle=AT_ONCE, after=after)
    async with faulty(server) as storage:
        (listed,) = [entry async for entry in storage.scan()]
        assert (listed.size, listed.modified) == (5, AT)
        seen = await storage.stat("a.csv")
        assert seen.fingerprint == listed.fingerprint

        def new(name: str) -> Storage:
            return Storage(storage.backend if name == "faulty" else LocalSettings(root=tmp_path / "lake").backend(name))

        async with MemoryLedger(clock=clock.seconds) as ledger:
            async with Engine([flow], new, ledger, clock=clock) as engine:
                await engine.run_once()
            (found,) = await ledger.find(Query())
        why = "archived as .done/a.csv" if after.archive else "nothing owed"
        assert (found.state, found.why, found.error) == ("done", why, None)
