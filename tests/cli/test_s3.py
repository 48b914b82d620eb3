"""A bucket as a user meets it: named and by URL, through doctor, to a folder and back."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import pytest

from crossdock.storage.s3 import probe
from crossdock.storage.s3.calls import Calls
from tests.cli.conftest import Cli, contents
from tests.servers import Moto


@pytest.fixture
def lake(moto: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket, and a crossdock.yaml whose endpoint `lake` is its prefix `landing`. Gives the bucket's URL."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto.secret_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint_url)
    bucket = f"cli-{os.getpid()}-{abs(hash(tmp_path.name))}"
    url = f"{moto.endpoint_url}/{bucket}"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=_SIGNED), timeout=30).close()
    (tmp_path / "crossdock.yaml").write_text(
        f"endpoints:\n  lake: {{type: s3, bucket: {bucket}, root: landing, endpoint_url: '{moto.endpoint_url}'}}\n"
    )
    return url


# moto wants a signature to be there, and does not check it.
_SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"}


def test_there_and_back(cli: Cli, lake: str, tree: Path, tmp_path: Path) -> None:
    (tree / os.fsdecode(b"latin\xe9\x1b[31m.txt")).unlink()
    assert cli("sync", "in", "lake:new").code == 0
    assert cli("sync", "in", "lake:new").err.startswith("0 files copied (0 B), 4 skipped")
    assert cli("sync", "lake:new", "back").code == 0
    assert contents(tmp_path / "back") == contents(tree)
    bucket = lake.rpartition("/")[2]
    assert cli("cat", f"s3://{bucket}/landing/new/a.txt").out == "one\n"
    assert cli("cp", "lake:new/a.txt", "lake:new/sub/b.csv", "lake:two/").code == 0
    assert cli("ls", "lake:two").out == "a.txt\nb.csv\n"
    result = cli("cp", "lake:two", "two")
    assert (result.code, result.err.splitlines()[-1]) == (4, "Next: add -r to copy a folder with all that is in it")
    assert cli("cp", "-r", "lake:new", "lake:three").code == 0
    assert len(cli("ls", "-R", "lake:three").out.splitlines()) == 4
    assert cli("rm", "-ry", "lake:new").err == "4 files removed\n"
    assert cli("ls", "lake:new").code == 4
    assert cli("rm", "-ry", "lake:").code == 2
    assert cli("cat", "lake:").err == "crossdock: read lake: no name\nNext: name a file below it\n"


def test_a_name_that_s3_cannot_have_fails_by_itself(cli: Cli, lake: str, tree: Path) -> None:
    for dry_run, said in (["-n"], "would be 4 files copied"), ([], "4 files copied"):
        result = cli("sync", *dry_run, "in", "lake:new")
        assert result.code == 1
        assert r"latin\udce9\x1b[31m.txt" in result.err
        assert said in result.err


def test_check_tells_an_empty_folder_from_a_bucket_that_is_not_there(cli: Cli, lake: str, tmp_path: Path) -> None:
    config = tmp_path / "crossdock.yaml"
    config.write_text(config.read_text() + "flows:\n  f: {source: lake:in, to: lake:out/}\n")
    result = cli("check", "--connect")
    assert (result.code, "lake: answers" in result.out) == (0, True)
    config.write_text(config.read_text().replace("bucket: cli-", "bucket: typo-"))
    result = cli("check", "--connect")
    assert (result.code, "lake: cannot be used" in result.out) == (1, True)
    assert "there is no bucket 'typo-" in result.err


@pytest.mark.parametrize("how", [[], ["-n"], ["--delete"], ["--processes", "2"]])
def test_a_bucket_that_is_not_there_is_told_once(
    cli: Cli, lake: str, tree: Path, tmp_path: Path, how: list[str]
) -> None:
    file = tmp_path / "crossdock.yaml"
    file.write_text(file.read_text().replace("bucket: cli-", "bucket: not-"))
    result = cli("sync", *how, "in", "lake:new")
    assert result.code == 4
    assert result.err.count("NoSuchBucket") == 1
    assert "would copy" not in result.out
    assert "check 'bucket'" in result.err


def test_doctor(cli: Cli, lake: str) -> None:
    result = cli("doctor", "lake:")
    assert result.code == 0, result.out
    assert "region us-east-1" in result.out
    assert "ok  read" in result.out


def test_looking_writes_nothing(cli: Cli, lake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the hidden object that tells what the store honours."""
    asked: list[str] = []

    async def honoured(calls: Calls) -> bool:
        asked.append(calls.settings.bucket)
        return True

    monkeypatch.setattr(probe, "_honoured", honoured)
    urllib.request.urlopen(urllib.request.Request(f"{lake}/landing/a", method="PUT", headers=_SIGNED), timeout=30)
    with (tmp_path / "crossdock.yaml").open("a") as file:
        file.write("  copy: {type: local, root: .}\nflows: {f: {source: 'lake:', to: 'copy:new/'}}\n")
    for command in (
        ["ls", "-R", "lake:"],
        ["stat", "lake:a"],
        ["cat", "lake:a"],
        ["check", "--connect"],
        ["doctor", "--look-only", "lake:"],
        ["plan"],
        ["explain", "f", "a"],
    ):
        assert cli(*command).code == 0, command
    assert cli("where", "a").code == 4
    assert asked == []
    assert cli("run", "--once").code == 0
    assert asked
    assert (tmp_path / "new/a").exists()


def test_what_replaces_asks_nothing(
    cli: Cli, lake: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the store could refuse to replace takes eight round trips, and matters to nobody else."""
    asked: list[str] = []

    async def honoured(calls: Calls) -> bool:
        asked.append(calls.settings.bucket)
        return True

    monkeypatch.setattr(probe, "_honoured", honoured)
    (tree / os.fsdecode(b"latin\xe9\x1b[31m.txt")).unlink()
    for command in (
        ["sync", "in", "lake:new"],
        ["sync", "--processes", "2", "in", "lake:other"],
        ["sync", "lake:new", "back"],
        ["cp", "in/a.txt", "lake:one"],
        ["cp", "-r", "lake:new", "lake:copy"],
    ):
        assert cli(*command).code == 0, command
    assert asked == []
    assert cli("cp", "--no-overwrite", "in/a.txt", "lake:two").code == 0
    assert len(asked) == 1


def test_doctor_where_nothing_is_yet(cli: Cli, lake: str) -> None:
    """A prefix needs not be made; a bucket does."""
    result = cli("doctor", "lake:new")
    assert (result.code, result.err) == (0, "no problems found\n"), result.out
    assert "no names in lake:new" in result.out
    result = cli("doctor", "s3://no-such-bucket-here/new")
    assert result.code == 1
    assert "there is no bucket 'no-such-bucket-here'" in result.out


def test_doctor_ends_uploads_that_nobody_else_will(cli: Cli, lake: str) -> None:
    request = urllib.request.Request(f"{lake}/landing/big?uploads", method="POST", headers=_SIGNED)
    urllib.request.urlopen(request, timeout=30).close()
    # moto dates every upload to 2010.
    result = cli("doctor", "--look-only", "lake:")
    assert result.code == 1
    assert "its parts are billed" in result.out
    assert "crossdock doctor --clean lake:" in result.out
    assert cli("doctor", "--look-only", "--clean", "lake:").code == 0
    assert cli("doctor", "--look-only", "lake:").code == 0


def test_rm_takes_the_folders_that_others_made(cli: Cli, lake: str) -> None:
    """The AWS console makes an empty object of each, whose name ends with a slash."""
    assert cli("cp", "crossdock.yaml", "lake:a/b/c").code == 0
    for name in ("a/", "a/b/", "a/empty/", "only/"):
        urllib.request.urlopen(
            urllib.request.Request(f"{lake}/landing/{name}", method="PUT", headers=_SIGNED), timeout=30
        ).close()
    assert cli("rm", "-ry", "lake:a", "lake:only").err == "1 file removed\n"
    assert cli("ls", "lake:").out == ""
    assert cli("stat", "lake:a").code == 4


def test_no_such_bucket(cli: Cli, lake: str) -> None:
    result = cli("ls", "s3://no-such-bucket-here/")
    assert result.code == 4, result.err
    assert "no-such-bucket-here" in result.err
    result = cli("doctor", "s3://no-such-bucket-here/")
    assert "check 'bucket'" in result.out
    assert "crossdock mkdir" not in result.out, "it makes no buckets"
    result = cli("mkdir", "lake:new")
    assert (result.code, "Next: write the files" in result.err) == (7, True)
