"""A server that fails when it is told to."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from crossdock.testing.fault_ftp import FaultyFtpServer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[FaultyFtpServer]:
    home = tmp_path / "home"
    home.mkdir()
    async with FaultyFtpServer(home) as server:
        yield server
