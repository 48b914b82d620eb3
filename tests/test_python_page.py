"""docs/python.md is true: its programs run and print what it shows, its endpoint moves files."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

from tests.pages import blocks, run_commands

BLOCKS = blocks("python.md")
NAMES = ("move", "run", "prices", "hear", "acme_zip", "test_mine")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the page takes for granted: its files, its programs, and that `crossdock` and `python` are to be had."""
    programs = [block.text for block in BLOCKS if block.kind == "python"]
    for name, text in zip(NAMES, programs, strict=True):
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "crossdock.yaml").write_text(next(block.text for block in BLOCKS if block.kind == "yaml"))
    for name in ("inbox", "lake", "vault"):
        (tmp_path / name).mkdir()
    (tmp_path / "inbox/prices.csv").write_text("item,price\n1\n")
    (tmp_path / "inbox/orders_20261120.csv").write_text("1\n")
    (tmp_path / "inbox/today.log").write_text("left out\n")
    with zipfile.ZipFile(tmp_path / "orders.zip", "w") as archive:
        archive.writestr("2026/november/orders_20261120.csv", "1\n")
        archive.writestr("2025/old.csv", "0\n")
    installed = tmp_path / "acme_zip-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-zip\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[crossdock.storage]\nzip = acme_zip:ZipSettings\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_the_page_does_what_it_shows(folder: Path) -> None:
    shown = [block.text for block in BLOCKS if block.kind == "console"]
    assert sum(run_commands(text, folder) for text in shown) == 11


def test_an_archive_with_a_broken_member_is_told(folder: Path) -> None:
    data = bytearray((folder / "orders.zip").read_bytes())
    data[data.index(b"orders_20261120.csv1") + len("orders_20261120.csv")] ^= 1
    (folder / "orders.zip").write_bytes(data)
    command = 'crossdock cp "zip://$PWD/orders.zip!/2026/november/orders_20261120.csv" out.csv 2>&1'
    shown = f"$ {command}\ncrossdock: read zip:///2026/november/orders_20261120.csv: Bad CRC-32…\nNext: …\n"
    assert run_commands(shown, folder) == 1
    assert not (folder / "out.csv").exists()
