"""The guide to operations: its commands as they are written, over its own configuration."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.pages import blocks, run_commands


@pytest.mark.timeout(900)  # every command is a process of its own
def test_the_guide_runs_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    # The deadline on the page is one of a time of day; here it does not pass while the test runs.
    deadline = f"{datetime.now(UTC) + timedelta(hours=1):%H:%M}"
    found = [(block.kind, block.text.replace("06:30", deadline)) for block in blocks("operations.md")]
    (configuration,) = [text for kind, text in found if kind == "yaml"]
    assert deadline in configuration
    (tmp_path / "crossdock.yaml").write_text(configuration)
    assert sum(run_commands(text, tmp_path) for kind, text in found if kind == "console") > 20
