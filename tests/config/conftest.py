"""A file written beside which the test stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]

ENDPOINTS = """endpoints:
  bank: {type: sftp, host: h}
  lake: {type: s3, bucket: lake}
  here: {type: local, root: /srv/in}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a configuration and stand beside it."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "crossdock.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write
