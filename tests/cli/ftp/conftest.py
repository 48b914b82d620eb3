"""doctor, as these tests call it."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossdock.storage.ftp import pool
from tests.cli.conftest import Cli
from tests.cli.ftp.doctor import Doctor


@pytest.fixture(autouse=True)
def _no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port may be used again by the next server: nothing that is remembered of an account may outlive its test."""
    monkeypatch.setattr(pool, "_ACCOUNTS", {})


@pytest.fixture
def doctor(cli: Cli, tmp_path: Path) -> Doctor:
    return Doctor(cli, tmp_path)
