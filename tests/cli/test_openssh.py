"""trust, doctor and moving files against OpenSSH's sshd, as a user would."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM, Cli, contents
from tests.conftest import running
from tests.servers import OpenSSH


@pytest.fixture
def outbox(openssh: OpenSSH, tmp_path: Path) -> Path:
    """A folder at the server, and a crossdock.yaml whose endpoint `partner` starts there."""
    folder = openssh.folder / f"outbox-{tmp_path.name}-{os.getpid()}"
    folder.mkdir()
    write_config(openssh, tmp_path, folder, host_key=openssh.fingerprint)
    return folder


def write_config(server: OpenSSH, folder: Path, root: Path, **extra: str) -> None:
    settings = {
        "type": "sftp", "host": server.host, "port": server.port, "user": server.user,
        "private_key": f"file:{server.key}", "root": str(root), **extra,
    }  # fmt: skip
    (folder / "crossdock.yaml").write_text(json.dumps({"endpoints": {"partner": settings}}))


def test_there_and_back(cli: Cli, openssh: OpenSSH, outbox: Path, tree: Path, tmp_path: Path) -> None:
    result = cli("sync", "in", "partner:new")
    assert result.code == 0, result.err
    openssh.own()
    assert cli("sync", "partner:new/", "back").code == 0
    assert contents(tmp_path / "back") == contents(tree) == contents(outbox / "new")
    assert cli("sync", "in", "partner:new").err.startswith("0 files copied")
    assert cli("cp", "partner:new/a.txt", "partner:new/sub/b.csv", "partner:two/").code == 0
    assert cli("ls", "partner:two").out == "a.txt\nb.csv\n"
    assert cli("rm", "-ry", "partner:two").code == 0
    assert cli("ls", "partner:two").code == 4
    url = f"sftp://{openssh.user}@{openssh.host}:{openssh.port}{outbox}/new/a.txt"
    query = f"?private_key=file:{openssh.key}&host_key={openssh.fingerprint.replace('+', '%2B')}"
    assert cli("cat", url + query).out == "one\n"


def test_trust_shows_and_pins(cli: Cli, openssh: OpenSSH, outbox: Path, tmp_path: Path) -> None:
    host = f"{openssh.host}:{openssh.port}"
    result = cli("trust", host)
    assert result.code == 0
    assert result.out.splitlines()[-1] == f'host_key: "{openssh.fingerprint}"'
    assert f"{openssh.fingerprint}  pinned" in cli("trust", "partner").out
    assert cli("trust", "--json", "partner:").rows[0]["pinned"] is True
    (tmp_path / "kh").write_bytes(b"# caf\xe9\n")
    assert cli("trust", host, "--known-hosts", "kh").code == 2, "asks, and nobody is there"
    assert "write HOST" in cli("trust", ":22").err
    for _ in range(2):
        assert cli("trust", host, "--known-hosts", "kh", "--yes").code == 0
    assert (tmp_path / "kh").read_bytes().split()[2:] == openssh.host_key_line.encode().split()[:3], "once"
    write_config(openssh, tmp_path, outbox, known_hosts="file:kh")
    assert cli("ls", "partner:").code == 0
    before = os.umask(0)
    try:
        assert cli("trust", host, "--known-hosts", "fresh", "--yes").code == 0
    finally:
        os.umask(before)
    assert (tmp_path / "fresh").stat().st_mode & 0o777 == 0o644


def test_a_server_that_is_not_the_one(cli: Cli, openssh: OpenSSH, outbox: Path, tmp_path: Path) -> None:
    write_config(openssh, tmp_path, outbox, host_key="SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU")
    result = cli("ls", "partner:")
    assert result.code == 7
    assert openssh.fingerprint in result.err
    command = re.search(r"run 'crossdock (trust .*?)'", result.err)
    assert command
    assert openssh.fingerprint in cli(*command[1].split()).out
    assert cli("trust", "partner").code == 7


def test_trust_needs_no_configuration(cli: Cli, openssh: OpenSSH, tmp_path: Path) -> None:
    (tmp_path / "crossdock.yaml").write_text("endpoints: {partner: {type: sftp, hots: x}}")
    for place in (f"{openssh.host}:{openssh.port}", f"sftp://{openssh.host}:{openssh.port}"):
        result = cli("trust", place)
        assert (result.code, openssh.fingerprint in result.out) == (0, True)
        assert result.err.startswith("The configuration has mistakes, and was not looked at")
    assert cli("trust", "partner").code == 3


def test_trust_says_what_it_cannot_do(cli: Cli, tmp_path: Path) -> None:
    assert cli("trust", "a/b").code == 2
    nobody = cli("trust", "127.0.0.1:1")
    assert nobody.code == 5
    assert nobody.err.splitlines()[0] == "crossdock: trust sftp://127.0.0.1:1/: Connection refused"
    (tmp_path / "crossdock.yaml").write_text("endpoints: {here: {type: local, root: .}}")
    assert cli("trust", "here").code == 3


def test_trust_names_the_extra_that_is_missing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("crossdock.storage.sftp")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    result = cli("trust", "127.0.0.1:1")
    assert (result.code, "Next: pip install 'crossdock[sftp]'" in result.err) == (3, True)


def test_stopping_leaves_nothing_at_the_server(outbox: Path, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(40_000_000))
    running = subprocess.Popen(
        [PROGRAM, "cp", "big", "partner:", "--bwlimit", "4M"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(outbox.iterdir()):
        assert time.monotonic() < deadline, "nothing was begun"
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.startswith("stopped: 0 files copied (0 B), 0 skipped; 1 file under way stopped")
    assert list(outbox.iterdir()) == []


def test_doctor_finds_nothing_wrong(cli: Cli, outbox: Path) -> None:
    result = cli("doctor", "partner:")
    assert result.code == 0, result.out
    assert "OpenSSH" in result.out
    assert "posix-rename@openssh.com" in result.out
    assert "ok  rename" in result.out
    assert list(outbox.iterdir()) == []


def test_doctor_finds_leftovers_and_cleans(cli: Cli, openssh: OpenSSH, outbox: Path) -> None:
    left, recent = outbox / ".crossdock-00000000-000000000000.part", outbox / ".crossdock-00000000-000000000001.part"
    for path in (left, recent):
        path.touch()
    ago = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    os.utime(left, (ago, ago))
    openssh.own()
    result = cli("doctor", "--look-only", "partner:")
    assert result.code == 1
    assert "crossdock doctor --clean partner:" in result.out
    assert left.exists()
    assert cli("doctor", "--look-only", "--clean", "partner:").code == 0
    assert [path.name for path in outbox.iterdir()] == [recent.name]


def test_doctor_of_a_folder_that_is_not_there(cli: Cli, outbox: Path) -> None:
    result = cli("doctor", "partner:nope")
    assert result.code == 1
    assert "crossdock mkdir partner:nope" in result.out
    assert list(outbox.iterdir()) == [], "and it was not made by looking"


def test_doctor_of_a_folder_that_may_not_be_written(cli: Cli, openssh: OpenSSH, outbox: Path) -> None:
    openssh.own()
    outbox.chmod(0o555)
    result = cli("doctor", "--json", "partner:")
    outbox.chmod(0o755)
    assert result.code == 1
    bad = [row for row in result.rows if not row["good"]]
    assert bad[0]["check"] == "mkdir"
    assert bad[0]["mend"]


@pytest.mark.parametrize(
    ("denied", "mend"),
    [
        ("posix-rename,rename", "staging: none"),
        ("stat,lstat,fstat", "verify: none"),
        ("stat,lstat,fstat,posix-rename,rename", "staging: none, verify: none"),
    ],
)
def test_doctor_finds_the_setting_that_works(
    cli: Cli, tmp_path: Path, pytestconfig: pytest.Config, denied: str, mend: str
) -> None:
    with running(pytestconfig, OpenSSH(config=(f"ForceCommand internal-sftp -P {denied}",))) as server:
        write_config(server, tmp_path, server.folder, host_key=server.fingerprint)
        result = cli("doctor", "--json", "partner:")
        assert result.code == 1
        bad = [row for row in result.rows if not row["good"]]
        assert [(row["check"], row["mend"]) for row in bad] == [("write", mend)]
        settings = dict(part.split(": ") for part in mend.split(", "))
        write_config(server, tmp_path, server.folder, host_key=server.fingerprint, **settings)
        assert cli("doctor", "partner:").code == 0
        assert list(server.folder.iterdir()) == []


def test_check_of_a_drop_box(cli: Cli, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    with running(pytestconfig, OpenSSH(config=("ForceCommand internal-sftp -P opendir,stat,lstat,fstat",))) as server:
        write_config(server, tmp_path, server.folder, host_key=server.fingerprint)
        result = cli("check", "--connect")
        assert (result.code, "partner: cannot be used" in result.out) == (1, True)
        write_config(server, tmp_path, server.folder, host_key=server.fingerprint, verify="none")
        result = cli("check", "--connect")
        assert (result.code, "partner: answers" in result.out) == (0, True)


@pytest.mark.parametrize("command", ["echo Welcome; exit 1", "/bin/false"])
def test_an_account_without_sftp(cli: Cli, tmp_path: Path, pytestconfig: pytest.Config, command: str) -> None:
    """What the program says may come too late to be told."""
    with running(pytestconfig, OpenSSH(config=(f"ForceCommand {command}",))) as server:
        write_config(server, tmp_path, server.folder, host_key=server.fingerprint)
        result = cli("ls", "partner:")
        assert result.code == 5
        assert "instead of SFTP the server sends text" in result.err or "may have no SFTP" in result.err


def test_a_server_that_sets_no_times(cli: Cli, tree: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """What is there is not sent again at each sync."""
    old = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
    for path in tree.rglob("*"):
        os.utime(path, (old, old))
    with running(pytestconfig, OpenSSH(config=("ForceCommand internal-sftp -P setstat,fsetstat",))) as server:
        write_config(server, tmp_path, server.folder, host_key=server.fingerprint)
        assert "0 files copied" not in cli("sync", "in", "partner:").err
        assert "0 files copied" in cli("sync", "in", "partner:").err
        result = cli("doctor", "partner:")
        assert (result.code, "modification times cannot be set" in result.out) == (0, True)


def test_a_server_that_lets_nothing_be_deleted(
    cli: Cli, tree: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    with running(pytestconfig, OpenSSH(config=("ForceCommand internal-sftp -P remove",))) as server:
        write_config(server, tmp_path, server.folder, host_key=server.fingerprint)
        for name in ("old/a", "old/b", "c"):
            (server.folder / name).parent.mkdir(exist_ok=True)
            (server.folder / name).write_text(name)
        server.own()
        before = contents(server.folder)
        result = cli("sync", "--json", "--delete", "--max-delete", "100%", "in", "partner:")
        *rows, summary = result.rows
        assert result.code == 1
        failed = {row["path"]: (row["reason"], row["error"]) for row in rows if row["action"] == "fail"}
        assert failed.keys() == before.keys()
        assert (summary["summary"]["delete"], summary["summary"]["fail"]) == (0, 3)
        for name, (reason, error) in failed.items():
            assert reason == "could not be deleted"
            assert error.startswith(f"delete partner:{name}: the server does not permit it. Next: ")
        assert contents(server.folder) == before | contents(tree)
        result = cli("rm", "-ry", "partner:old")
        assert result.code == 7
        assert re.match(r"crossdock: delete partner:old/[ab]: the server does not permit it\nNext: ", result.err)
        assert contents(server.folder) == before | contents(tree)
        result = cli("doctor", "--json", "partner:")
        bad = [row for row in result.rows if not row["good"]]
        assert [row["check"] for row in bad] == ["delete"]
        assert bad[0]["mend"].startswith("ask the server's operator to permit deleting, and to remove partner:")
