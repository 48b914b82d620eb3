"""A server that fails when it is told to, and what is sent to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from crossdock.storage.ftp.wire import Wire
from crossdock.testing.fault_ftp import FaultyFtpServer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[FaultyFtpServer]:
    home = tmp_path / "home"
    home.mkdir()
    async with FaultyFtpServer(home) as server:
        yield server


@pytest.fixture
async def queuing(tmp_path: Path) -> AsyncGenerator[FaultyFtpServer]:
    """A server that is known to take commands one after the other, whatever it does meanwhile."""
    home = tmp_path / "home"
    home.mkdir()
    async with FaultyFtpServer(home, features=("MDTM", "SIZE"), greeting="(vsFTPd 3.0.3)") as server:
        yield server


@pytest.fixture
def packets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that left, those of one packet joined by "+"."""
    sent: list[str] = []
    send = Wire.send

    def noted(self: Wire, *commands: bytes) -> None:
        sent.append("+".join(command.partition(b" ")[0].decode() for command in commands))
        send(self, *commands)

    monkeypatch.setattr(Wire, "send", noted)
    return sent
