"""What an endpoint at the fake server needs."""

from __future__ import annotations

import pytest

from crossdock.storage.sftp.pool import _BREAKERS


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake server's, and no memory of one that was refused."""
    monkeypatch.setenv("FAKE_PASSWORD", "right")
    _BREAKERS.clear()
