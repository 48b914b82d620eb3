"""A server that may be written to and not looked at: no stat, no list, no read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, contents
from tests.conftest import running
from tests.servers import OpenSSH

_LOOKS = "stat,lstat,fstat,opendir,readdir,realpath,read"


@pytest.fixture
def box(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Path]:
    """The folder of `box:`, which says so (`verify: none`), and of `shut:`, which does not; `lone:` has no renaming."""
    with running(pytestconfig, OpenSSH(config=(f"ForceCommand internal-sftp -P {_LOOKS}",))) as server:
        shut = server.settings()
        box = shut | {"verify": "none"}
        endpoints = {"shut": shut, "box": box, "lone": box | {"staging": "none"}}
        (tmp_path / "crossdock.yaml").write_text(json.dumps({"endpoints": endpoints}))
        yield server.folder


def test_files_and_folders_are_sent(cli: Cli, tree: Path, box: Path) -> None:
    result = cli("cp", "--json", "in/a.txt", "box:new/name.txt")
    assert result.code == 0, result.err
    receipt = result.rows[0]
    assert (receipt["verified"], receipt["atomic"]) == ("none", True)
    assert "size" not in receipt["target_entry"], "nobody said how much is there"
    result = cli("cp", "-r", "in", "box:tree")
    assert result.code == 0, result.err
    found = contents(box)
    assert found.pop("new/name.txt") == b"one\n"
    assert found == {f"tree/{name}": data for name, data in contents(tree).items()}


def test_what_cannot_be_looked_at_is_not_compared(cli: Cli, tree: Path, box: Path) -> None:
    result = cli("sync", "in", "box:tree")
    assert result.code == 7
    assert "crossdock cp -r" in result.err
    assert contents(box) == {}


def test_where_it_is_not_said_the_setting_is_named(cli: Cli, tree: Path, box: Path) -> None:
    result = cli("cp", "in/a.txt", "shut:a.txt")
    assert result.code == 7
    assert "verify: none" in result.err
    assert contents(box) == {}


def test_doctor_leaves_nothing_where_no_folder_may_be_made(
    cli: Cli, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    with running(pytestconfig, OpenSSH(config=(f"ForceCommand internal-sftp -P {_LOOKS},mkdir,remove",))) as server:
        box = server.settings() | {"verify": "none"}
        (tmp_path / "crossdock.yaml").write_text(json.dumps({"endpoints": {"box": box}}))
        result = cli("doctor", "box:")
        assert result.code == 0, result.out
        assert "writing is not tried" in result.out and contents(server.folder) == {}


def test_doctor_claims_nothing_that_nobody_confirmed(cli: Cli, box: Path) -> None:
    for endpoint, how in (("box", "published in one step"), ("lone", "NOT in one step: a partial file can be seen")):
        result = cli("doctor", "--json", f"{endpoint}:")
        assert result.code == 0, result.out
        (write,) = (row["detail"] for row in result.rows if row["check"] == "write")
        assert how in write
        assert "size not confirmed" in write
