"""The jobs of docs/flows.md are right as they are written: read, checked, tried, routed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import jsonschema
import pytest

from crossdock.config import load
from crossdock.config.rehearsal import rehearse
from crossdock.config.schema import schema
from crossdock.documents import parse
from tests.cli.conftest import Cli, cli

__all__ = ["cli"]

PAGE = Path(__file__).parents[2] / "docs/flows.md"
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
JOBS = {re.findall(r"^flows:\n  (\w+):", text, re.MULTILINE)[0]: text for kind, text in BLOCKS if kind == "yaml"}


def test_there_are_four_jobs() -> None:
    assert list(JOBS) == ["pull", "push", "mirror", "clone"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "routes.py").write_text(next(text for kind, text in BLOCKS if kind == "python"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "routes", raising=False)
    return tmp_path


@pytest.mark.parametrize("job", JOBS)
def test_a_job(job: str, folder: Path) -> None:
    path = folder / "crossdock.yaml"
    path.write_text(JOBS[job])
    config = load(path)
    assert (list(config.flows), config.warnings, rehearse(config)) == ([job], (), [])
    jsonschema.Draft202012Validator(schema()).validate(parse(path.read_bytes(), str(path)).data)


def test_the_example_of_the_readme(cli: Cli, tmp_path: Path) -> None:
    text = PAGE.parents[1].joinpath("README.md").read_text("utf-8")
    (tmp_path / "crossdock.yaml").write_text(re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0])
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/bank").write_text("a key")
    (tmp_path / "keys/bank").chmod(0o600)
    result = cli("check")
    assert (result.code, result.err) == (0, "crossdock.yaml: 3 endpoints, 1 flow, no mistakes\n")


@pytest.mark.parametrize("line", ["{type: s3, bucket: acme-mirror}", "{type: local, root: /srv/mirror}"])
def test_swapping_a_side_is_one_line(line: str, folder: Path) -> None:
    assert f"`new: {line}`" in PAGE.read_text("utf-8")
    path = folder / "crossdock.yaml"
    path.write_text(re.sub(r"  new:\n(?:    .*\n)+", f"  new: {line}\n", JOBS["mirror"]))
    assert load(path).flow("mirror").rules == load(_written(folder, JOBS["mirror"])).flow("mirror").rules


def _written(folder: Path, text: str) -> Path:
    path = folder / "other.yaml"
    path.write_text(text)
    return path


def test_the_answers_of_route(cli: Cli, folder: Path) -> None:
    (folder / "crossdock.yaml").write_text(JOBS["clone"])
    command, _, answers = next(text for _, text in BLOCKS if text.startswith("$ crossdock route")).partition("\n")
    result = cli(*command.split()[2:])
    assert result.out == answers


def test_what_is_said_to_be_refused_is_refused(folder: Path) -> None:
    from crossdock.config.patterns import cost

    assert r"`(\w+\s?)*`" in PAGE.read_text("utf-8")
    assert cost(r"(\w+\s?)*")
    assert cost(".+_.+_.+_.+")
