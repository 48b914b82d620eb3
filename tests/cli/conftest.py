"""The program, called in this process (`cli`) or as it is installed (`PROGRAM`)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from crossdock.cli.main import run

PROGRAM = str(Path(sys.executable).with_name("crossdock"))


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The output of `--json`."""
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Result]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str | Path) -> Result:
        capfd.readouterr()
        code = run([str(part) for part in argv])
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with awkward names."""
    folder = tmp_path / "in"
    files = {"a.txt": b"one\n", "sub/b.csv": b"two\n", "sub/deep/-rf": b"", "sub/ü 100%+.csv": b"x" * 2000}
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / os.fsdecode(b"latin\xe9\x1b[31m.txt")).write_bytes(b"three\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, hidden names included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    return tmp_path
