"""docs/transforms.md is true: every list of steps is valid, every option and transform is there, the Python runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossdock.transfer.transforms import step, steps, transform_class, transform_names, written
from tests.transfer.transforms.running import run

PAGE = (Path(__file__).parents[3] / "docs" / "transforms.md").read_text(encoding="utf-8")
LINES = re.findall(r"^transform: .*$", PAGE, re.MULTILINE)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page's own class, in the file that the page names."""
    (block,) = blocks("python")
    assert len([line for line in block.splitlines() if line]) <= 10
    (tmp_path / "acme.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("acme", None)


@pytest.mark.parametrize("line", LINES)
def test_every_list_of_steps_is_valid(line: str, acme: None, tmp_path: Path) -> None:
    for item in yaml.safe_load(line)["transform"]:
        name, options = written(item)
        step(name, options, folder=tmp_path)


def test_the_class_of_the_page_does_what_it_shows(acme: None) -> None:
    assert run("python:acme:Mask", b"1 44444444 2") == b"1 ******** 2"
    assert run("python:acme:Mask", b"4444", {"digits": 4}) == b"****"


@pytest.mark.parametrize("name", sorted(transform_names()))
def test_every_transform_and_option_is_on_the_page(name: str) -> None:
    assert re.search(rf"^transform: .*\b{name}\b", PAGE, re.MULTILINE), name
    for field, info in transform_class(name).Options.model_fields.items():
        assert re.search(rf"\b{info.alias or field}\b", PAGE), f"{name}: {field}"


def test_defaults_are_those_of_the_code() -> None:
    (unzip,) = steps([type("Spec", (), {"name": "unzip", "options": {}})()])
    options: Any = unzip.options
    assert (options.max_size, options.max_archive) == (64 * 1024**3, 4 * 1024**3)
    assert (options.max_ratio, options.max_members) == (200, 10_000)
    assert "`max_archive` (4G)" in PAGE
    assert "`max_members` (10000), `max_size` (64G) or `max_ratio` (200)" in PAGE
