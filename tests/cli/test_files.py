"""ls, cat, stat, cp, rm, mkdir on local folders; the other backends pass StorageSuite."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import PROGRAM, Cli, contents


def test_ls(cli: Cli, tree: Path) -> None:
    assert cli("ls", "in").out.splitlines() == ["a.txt", r"latin\udce9\x1b[31m.txt", "sub/"]
    assert cli("ls", "in/a.txt").out == "a.txt\n"
    assert cli("ls", "-R", "in").out.splitlines()[:4] == [
        "a.txt", r"latin\udce9\x1b[31m.txt", "sub/b.csv", "sub/deep/-rf",
    ]  # fmt: skip
    line = cli("ls", "-l", "in/a.txt").out.split()
    assert line[:2] == ["file", "4"]
    assert cli("ls", "in/nope").code == 4


def test_ls_json_carries_any_name(cli: Cli, tree: Path) -> None:
    rows = cli("ls", "--json", "in").rows
    names = [os.fsencode(row["name"]) for row in rows]
    assert b"latin\xe9\x1b[31m.txt" in names
    assert rows[0]["kind"] == "file"
    assert rows[0]["size"] == 4
    assert rows[0]["path"] == "in/a.txt"
    assert rows[0]["modified"].endswith("+00:00")


def test_cat_is_byte_exact(tree: Path, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "big").write_bytes(data)
    done = subprocess.run(
        [PROGRAM, "cat", "big", "in/a.txt"], cwd=tmp_path, capture_output=True, check=True, timeout=60
    )
    assert done.stdout == data + b"one\n"


def test_stat(cli: Cli, tree: Path) -> None:
    out = cli("stat", "in/sub/ü 100%+.csv").out
    assert "size      2000 (1.95 KiB)" in out
    assert cli("stat", "--json", "in/a.txt", "in/sub").rows[1]["kind"] == "dir"
    assert cli("stat", "in/nope").code == 4


def test_cp_to_a_name_and_into_a_folder(cli: Cli, tree: Path, tmp_path: Path) -> None:
    assert cli("cp", "in/a.txt", "b.txt").code == 0
    assert cli("cp", "in/a.txt", "in/sub/b.csv", "new/").code == 0
    (tmp_path / "there").mkdir()
    assert cli("cp", "in/a.txt", "there").code == 0
    assert (tmp_path / "b.txt").read_bytes() == b"one\n"
    assert contents(tmp_path / "new") == {"a.txt": b"one\n", "b.csv": b"two\n"}
    assert contents(tmp_path / "there") == {"a.txt": b"one\n"}
    kept, made = (tmp_path / "b.txt").stat().st_mtime_ns, (tree / "a.txt").stat().st_mtime_ns
    assert abs(kept - made) < 1000, "to the microsecond"


def test_cp_prints_receipts(cli: Cli, tree: Path) -> None:
    first, second, summary = cli("cp", "--json", "in/a.txt", "in/sub/b.csv", "out/").rows
    assert {first["sha256"], second["sha256"]} == {
        "2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806",
        "27dd8ed44a83ff94d557f9fd0412ed5a8cbca69ea04922d88c01184a07300a5a",
    }
    assert first["verified"] == "size"
    assert first["atomic"] is True
    assert summary["summary"]["copy"] == 2


def test_cp_refuses_what_cannot_be_meant(cli: Cli, tree: Path, tmp_path: Path) -> None:
    (tree / "sub/a.txt").write_bytes(b"other")
    result = cli("cp", "in/a.txt", "in/sub/a.txt", "out/")
    assert result.code == 2
    assert "would both become" in result.err
    (tmp_path / "crossdock.yaml").write_text("endpoints: {one: {type: local, root: in}, two: {type: local, root: in}}")
    for other in ("two:", "in/a.txt"):
        result = cli("cp", "-r", "one:", other, "out/")
        assert (result.code, result.err.splitlines()[0]) == (
            2, "crossdock: one: is the root of its endpoint; copy it by itself",
        ), "else the last of several files of one name would be the one that is there"  # fmt: skip
    assert cli("cp", "in/a.txt", "in/sub/b.csv", "file").code == 2
    assert cli("cp", "in/sub/", "out").code == 2
    result = cli("cp", "in/sub", "out")
    assert result.code == 7
    assert "Next: add -r" in result.err
    os.mkfifo("in/pipe")
    result = cli("cp", "in/pipe", "out")
    assert (result.code, "fifo" in result.err, "add -r" in result.err) == (7, True, False)
    (tree / "pipe").unlink()
    assert cli("cp", "in/a.txt", "in/a.txt").code == 7
    assert cli("cp", "-r", "in", "in/sub").code == 7
    assert not (tmp_path / "out").exists()
    assert (tree / "a.txt").read_bytes() == b"one\n"


def test_cp_of_several_goes_on_after_a_failure(cli: Cli, tree: Path, tmp_path: Path) -> None:
    result = cli("cp", "in/a.txt", "in/nope", "in/sub/b.csv", "out/")
    assert result.code == 1
    assert "nope" in result.err
    assert "2 files copied (8 B), 0 skipped, 1 failed" in result.err
    assert contents(tmp_path / "out") == {"a.txt": b"one\n", "b.csv": b"two\n"}
    result = cli("cp", "in/nope", "out/")
    assert result.code == 4
    assert result.err.count("no such file") == 1


def test_cp_no_overwrite(cli: Cli, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"other")
    result = cli("cp", "--no-overwrite", "in/a.txt", "b.txt")
    assert result.code == 7
    assert (tmp_path / "b.txt").read_bytes() == b"other"
    (tmp_path / "b.txt").write_bytes(b"one\n")
    assert cli("cp", "--no-overwrite", "in/a.txt", "b.txt").code == 0, "the same bytes are no conflict"


def test_cp_of_a_tree(cli: Cli, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kept").write_bytes(b"k")
    assert cli("cp", "-r", "in", "out").code == 0
    assert contents(tmp_path / "out/in") == contents(tree)
    assert cli("cp", "-r", "in", "copy").code == 0
    assert contents(tmp_path / "copy") == contents(tree)
    assert (tmp_path / "out/kept").exists()
    (tree / "a.txt").write_bytes(b"newer")
    result = cli("cp", "-r", "--no-overwrite", "in", "out")
    assert result.code == 1
    assert (tmp_path / "out/in/a.txt").read_bytes() == b"one\n"


def test_rm(cli: Cli, tree: Path, tmp_path: Path) -> None:
    assert cli("rm", "in/a.txt").code == 0
    assert cli("rm", "in/a.txt").code == 4
    result = cli("rm", "in/sub")
    assert (result.code, result.err.splitlines()[-1]) == (7, "Next: add -r to remove all that is in it")
    result = cli("rm", "-r", "in/sub")
    assert result.code == 2
    assert "--yes" in result.err
    (tree / "sub/link").symlink_to(tmp_path)
    (tree / "sub/.crossdock-00000000-000000000000.part").touch()
    result = cli("rm", "-r", "--yes", "in/sub")
    assert (result.code, result.err) == (0, "5 files removed\n")
    assert not (tree / "sub").exists()
    assert tree.exists()


def test_rm_that_ends_early_says_what_is_gone(cli: Cli, tree: Path) -> None:
    assert cli("rm", "in/missing", "in/a.txt").err.startswith("crossdock: stat ")
    result = cli("rm", "-ry", "in/sub", "in/missing", "in/a.txt")
    assert (result.code, result.err.splitlines()[0]) == (4, "ended early: 3 files removed")
    assert (tree / "a.txt").exists()


@pytest.mark.parametrize("argv", [["rm", "link"], ["rm", "-ry", "link"], ["rm", "-ry", "link/"]])
def test_rm_of_a_link_spares_what_it_leads_to(cli: Cli, tree: Path, tmp_path: Path, argv: list[str]) -> None:
    (tmp_path / "link").symlink_to("in")
    result = cli(*argv)
    assert (result.code, result.err) == (0, "1 file removed\n")
    assert not (tmp_path / "link").is_symlink()
    assert len(contents(tree)) == 5


def test_rm_of_a_tree_deeper_than_pythons_stack(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    for _ in range(sys.getrecursionlimit() + 100):
        folder /= "d"
    subprocess.run(["mkdir", "-p", folder], check=True)
    try:
        (folder / "file").touch()
        result = cli("rm", "-ry", "deep")
        assert (result.code, result.err) == (0, "1 file removed\n")
        assert not (tmp_path / "deep").exists()
    finally:
        # Left behind, it would end a later run of pytest, which removes old folders by recursion.
        subprocess.run(["rm", "-rf", tmp_path / "deep"], check=True)


def test_rm_never_empties_a_root_by_itself(cli: Cli, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "crossdock.yaml").write_text("endpoints: {here: {type: local, root: in}}")
    for argv in (["rm", "here:"], ["rm", "-ry", "here:"], ["rm", "-ry", "here:/"], ["rm", "-ry", f"file://{tree}/"]):
        assert cli(*argv).code == 2
    assert len(contents(tree)) == 5
    assert cli("rm", "-ry", "--force", "here:").code == 0
    assert contents(tree) == {}
    assert tree.exists()


def test_a_path_at_an_endpoint_begins_at_its_root(cli: Cli, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "crossdock.yaml").write_text("endpoints: {here: {type: local, root: in}}")
    for path in ("../in", "./sub", "sub//deep"):
        result = cli("ls", f"here:{path}")
        assert result.code == 7
        assert result.err.endswith(" in the path\nNext: write the path from the endpoint's root on, without it\n")


def test_rm_spares_the_working_folder(cli: Cli, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As rm itself does: it is typed once too often."""
    monkeypatch.chdir(tree / "sub")
    (tmp_path / "crossdock.yaml").write_text("endpoints: {here: {type: local, root: in}}")
    named = ["rm", "-ry", "--config", str(tmp_path / "crossdock.yaml"), "here:sub"]
    for argv in (["rm", "-ry", "."], ["rm", "-ry", ".."], ["rm", "-ry", str(tree)], named):
        result = cli(*argv)
        assert (result.code, "the working folder, or above it; cd elsewhere, or add --force" in result.err) == (2, True)
    assert len(contents(tree)) == 5
    assert cli("rm", "-ry", "deep").code == 0
    assert cli("rm", "-ry", "--force", ".").code == 0
    assert len(contents(tree)) == 2


def test_mkdir(cli: Cli, tmp_path: Path) -> None:
    assert cli("mkdir", "a/b/c", "d").code == 0
    assert (tmp_path / "a/b/c").is_dir()
    assert cli("mkdir", "d").code == 0
    (tmp_path / "file").touch()
    assert cli("mkdir", "file").code == 7


def test_places_are_told_as_they_are_written(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "crossdock.yaml").write_text("endpoints: {here: {type: local, root: .}}")
    (tmp_path / "with space").mkdir()
    root = os.path.realpath(tmp_path)
    for written, told, next_step in (
        ("nope", f"read {root}/nope", f"crossdock ls {root}"),
        ("with space/nope", f"read {root}/with space/nope", f"crossdock ls '{root}/with space'"),
        ("here:a/nope", "read here:a/nope", "crossdock ls here:"),
        (f"file://{root}/nope", f"read {root}/nope", f"crossdock ls {root}"),
    ):
        assert cli("cat", written).err == (
            f"crossdock: {told}: no such file or folder\nNext: see what is there: {next_step}\n"
        )
    assert cli("ls", "ftp://127.0.0.1:1/in").err.startswith("crossdock: connect ftp://127.0.0.1:1/: ")


def test_a_place_that_cannot_be_looked_at(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    locked = tmp_path / "locked"
    locked.mkdir()
    stat = os.stat

    def refused(path: Any, **options: Any) -> os.stat_result:
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(f"{locked}/"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return stat(path, **options)

    long = "x" * 300
    for argv in (["ls", "one/"], ["sync", "one/x/", "out"], ["ls", long], ["cp", f"{long}/y", "out"], ["rm", long]):
        result = cli(*argv)
        assert (result.code, "\nNext: " in result.err) in ((4, True), (7, True)), result
    text = "endpoints: {a: {type: local, root: one}, b: {type: local, root: out}}\nflows: {f: {source: 'a:', to: 'b:'}}"
    (tmp_path / "crossdock.yaml").write_text(text)
    assert cli("check").code == 0
    result = cli("run", "--once")
    assert (result.code, "\nNext: " in result.err) == (7, True), result
    result = cli("where", "x", "--ledger", "one")
    assert (result.code, "\nNext: " in result.err) == (5, True), result
    monkeypatch.setattr(os, "stat", refused)
    for argv in (["ls", "locked/in"], ["cp", "locked/in/deep", "out"], ["rm", "locked/in"]):
        assert cli(*argv).code in (4, 7), argv


def test_a_working_folder_that_is_gone(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "the working folder is not there any more\nNext: " in cli("ls").err


@pytest.mark.parametrize("rate", ["10M", "1.5k", "100"])
def test_sizes_on_the_command_line(cli: Cli, tree: Path, rate: str) -> None:
    assert cli("cp", "--bwlimit", rate, "in/a.txt", "b.txt").code == 0


def test_a_size_that_is_none(cli: Cli, tree: Path) -> None:
    result = cli("cp", "--bwlimit", "fast", "in/a.txt", "b.txt")
    assert result.code == 2
    assert "such as 64M" in result.err


@pytest.mark.parametrize("command", [
    ["cat", "nope"], ["stat", "nope"], ["ls", "nope/x"], ["rm", "nope"], ["cp", "nope", "b"], ["cp", "a", "a/b"],
    ["mkdir", "a"], ["mkdir", "a/b"], ["cat", "folder"], ["ls", "a/b"], ["cp", "a", "folder/../folder/taken"],
])  # fmt: skip
def test_every_error_has_a_next_step(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "folder/taken/a").mkdir(parents=True)
    result = cli(*command)
    assert result.code in (1, 4, 7), result
    assert "\nNext: " in result.err or ". Next: " in result.err, result.err


def test_a_folder_where_a_file_should_be(cli: Cli, tmp_path: Path) -> None:
    """The step fits who reads and who writes."""
    (tmp_path / "folder").mkdir()
    assert cli("cat", "folder").err.endswith(
        "folder: it is a folder\nNext: name a file, or move away what has this name\n"
    )
