"""The guide to operations: its commands as they are written, over its own configuration."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.test_docs import _pattern, blocks


def test_the_guide_runs_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    # The deadline on the page is one of a time of day; here it does not pass while the test runs.
    deadline = f"{datetime.now(UTC) + timedelta(hours=1):%H:%M}"
    found = [(block.kind, block.text.replace("06:30", deadline)) for block in blocks("operations.md")]
    (configuration,) = [text for kind, text in found if kind == "yaml"]
    assert deadline in configuration
    (tmp_path / "crossdock.yaml").write_text(configuration)
    ran = 0
    for example in [one for kind, text in found if kind == "console" for one in _examples(text)]:
        command, _, expected = example.partition("\n")
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
        )  # fmt: skip
        assert re.fullmatch(_pattern(expected), done.stdout), f"$ {command}\n{done.stdout}\n-- expected\n{expected}"
        ran += 1
    assert ran > 20


def _examples(text: str) -> list[str]:
    return re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
