"""The pages that messages name are where the messages say, in a checkout and beside an installed wheel."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from crossdock.config import Mistakes, load
from crossdock.pages import page

ROOT = Path(__file__).parents[1]


def test_a_wheel_brings_all_pages() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    pages = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    assert wheel["shared-data"] == {f"docs/{name}": f"share/doc/crossdock/{name}" for name in pages}


def test_where_a_page_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, there = tmp_path / "lib/site-packages", tmp_path / "share/doc/crossdock"
    info = site / "crossdock-1.dist-info"
    for folder in (info, there):
        folder.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: crossdock\nVersion: 1\n")
    (info / "RECORD").write_text("../../share/doc/crossdock/reference.md,,\n../../share/doc/crossdock/gone.md,,\n")
    (there / "reference.md").write_text("# Reference\n")
    monkeypatch.syspath_prepend(site)
    assert page("reference.md") == "docs/reference.md", "in a checkout"
    monkeypatch.setattr("crossdock.pages._CHECKOUT", tmp_path)
    assert page("reference.md") == str(there / "reference.md")
    assert page("gone.md") == "docs/gone.md"
    file = tmp_path / "crossdock.yaml"
    file.write_text("endpoints: {lake: {type: s3, bucket: b}}\n")
    with pytest.raises(Mistakes, match=f"see 'bucket' in the reference: {there}/reference.md"):
        load(file)
