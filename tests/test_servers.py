"""The test servers themselves: they answer, they keep apart from the machine, and a missing one is never silent."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from ftplib import FTP
from pathlib import Path

import botocore.config
import botocore.session
import pytest

from tests.conftest import POOL
from tests.servers import Ceph, Moto, OpenSSH, Proftpd, packages
from tests.servers.packages import TRIPLET, Missing, fetch
from tests.servers.pool import parse_required
from tests.servers.server import LOOPBACK, closed_ports, own_ports, running

ROOT = Path(__file__).resolve().parents[1]


def sftp(server: OpenSSH, batch: str) -> subprocess.CompletedProcess[str]:
    """OpenSSH's own client, one command a line; it stops at the first failure."""
    tree = server.fetch()
    options = ["-o", f"UserKnownHostsFile={server.known_hosts()}", "-o", "StrictHostKeyChecking=yes"]
    command = [str(tree.path("usr/bin/sftp")), "-S", str(tree.path("usr/bin/ssh")), "-F", "none", "-b", "-", *options]
    command += ["-i", str(server.key), "-P", str(server.port), f"{server.user}@{server.host}"]
    environment = {**os.environ, **tree.environment()}
    return subprocess.run(command, input=batch, text=True, capture_output=True, env=environment, timeout=60)


def test_sshd_takes_and_gives_files(openssh: OpenSSH, tmp_path: Path) -> None:
    content = os.urandom(100_000)
    (tmp_path / "up").write_bytes(content)
    (openssh.folder / "made by the test").mkdir()

    done = sftp(
        openssh, f'put {tmp_path}/up "made by the test/a"\nget "{openssh.folder}/made by the test/a" {tmp_path}/down'
    )

    assert done.returncode == 0, done.stderr
    assert (openssh.folder / "made by the test/a").read_bytes() == content
    assert (tmp_path / "down").read_bytes() == content
    assert openssh.version.startswith("OpenSSH_")
    assert stat.S_IMODE(openssh.key.stat().st_mode) == 0o600


@pytest.mark.usefixtures("openssh", "proftpd")
def test_the_path_of_the_checkout_may_have_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        unpacked = Path(folder, "two words")
        unpacked.symlink_to(packages.SERVERS)
        monkeypatch.setattr(packages, "SERVERS", unpacked)
        with OpenSSH(external=True) as openssh, Proftpd() as proftpd:
            assert sftp(openssh, "ls").returncode == 0
            with FTP() as client:
                client.connect(proftpd.host, proftpd.port, timeout=30)
                assert client.login(proftpd.user, proftpd.secret).startswith("230")


def test_sshd_overwrites_what_the_test_made_and_obeys_modes(openssh: OpenSSH, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"new")
    made = openssh.folder / "modes"
    made.write_bytes(b"old")
    assert sftp(openssh, f"put {tmp_path}/up modes").returncode == 0
    assert made.read_bytes() == b"new"

    made.chmod(0o000)
    done = sftp(openssh, f"get modes {tmp_path}/down")
    assert done.returncode != 0
    assert "Permission denied" in done.stderr

    openssh.own()
    assert sftp(openssh, "chmod 640 modes").returncode == 0
    assert stat.S_IMODE(made.stat().st_mode) == 0o640


def test_sshd_runs_with_other_settings(openssh: OpenSSH, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"content")
    with OpenSSH(config=("ForceCommand internal-sftp -R",), host_keys=("rsa", "ed25519")) as readonly:
        assert readonly.host_key_line.split()[1] == "ssh-rsa"
        assert readonly.fingerprints[1] not in (openssh.fingerprint, readonly.fingerprint)
        done = sftp(readonly, f"put {tmp_path}/up a")
        assert done.returncode != 0
        assert "Permission denied" in done.stderr
        assert list(readonly.folder.iterdir()) == []
    assert not readonly.base.exists()

    with OpenSSH(external=True) as external:
        assert sftp(external, f"put {tmp_path}/up a").returncode == 0
        assert (external.folder / "a").read_bytes() == b"content"


def test_sshd_that_cannot_start_shows_its_log(openssh: OpenSSH) -> None:
    server = OpenSSH(config=("NoSuchKeyword yes",))
    with pytest.raises(Missing, match="Bad configuration option: NoSuchKeyword"):
        server.start()
    assert server.pids == []
    assert not server.base.exists()


def exchange(server: Ceph | Moto) -> None:
    client = botocore.session.Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=botocore.config.Config(s3={"addressing_style": "path"}),
    )
    try:
        bucket = f"servers-{os.getpid()}"
        content = os.urandom(300_000)
        client.create_bucket(Bucket=bucket)
        for body in (b"first", content):
            client.put_object(Bucket=bucket, Key="a/ключ", Body=body)
        assert [entry["Size"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]] == [len(content)]
        answer = client.get_object(Bucket=bucket, Key="a/ключ")
        assert answer["Body"].read() == content
        client.delete_object(Bucket=bucket, Key="a/ключ")
        client.delete_bucket(Bucket=bucket)
    finally:
        client.close()


def test_ceph_keeps_objects(ceph: Ceph) -> None:
    exchange(ceph)
    assert ceph.version.startswith("ceph version ")


def test_moto_keeps_objects(moto: Moto) -> None:
    exchange(moto)


def test_ceph_is_one_for_the_whole_run(ceph: Ceph, pytestconfig: pytest.Config) -> None:
    again = pytestconfig.stash[POOL].shared_ceph()
    assert (again.endpoint_url, again.secret_key) == (ceph.endpoint_url, ceph.secret_key)


def test_ceph_keeps_its_files_in_its_folder(ceph: Ceph) -> None:
    for pid in ceph.pids:
        files = []
        for link in Path(f"/proc/{pid}/fd").iterdir():
            # Other workers' connections come and go.
            with suppress(FileNotFoundError):
                files.append(link.readlink())
        paths = [path for path in files if path.is_absolute() and path != Path("/dev/null")]
        assert [path for path in paths if not path.is_relative_to(ceph.base)] == []


def test_a_port_is_of_one_server_alone() -> None:
    with own_ports(2) as (one, two), closed_ports(1) as (closed,):
        for port in (one, two, closed):
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind((LOOPBACK, port))
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((LOOPBACK, port))
        with pytest.raises(OSError, match="in use"):
            socket.create_server((LOOPBACK, closed))
        with socket.create_server((LOOPBACK, one)):
            socket.create_connection((LOOPBACK, one)).close()


def test_a_server_ends_with_a_killed_owner(openssh: OpenSSH) -> None:
    program = (
        "import sys; from tests.servers import OpenSSH; s = OpenSSH(); s.start(); "
        "print(s.pids[0], s.base, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid, base = owner.stdout.readline().split()
        assert running(int(pid))
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (running(int(pid)) or Path(base).exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(int(pid))
    assert not Path(base).exists()


def test_whoever_has_the_number_of_a_process_that_ended_is_left_alone(openssh: OpenSSH) -> None:
    server = OpenSSH()
    server.start()
    with subprocess.Popen(["/bin/sleep", "60"]) as other:
        server.pids.append(other.pid)
        server._born[other.pid] = "1"
        server.stop()
        assert other.poll() is None
        shared = Ceph()
        shared.pids, shared._born = [other.pid], {other.pid: "1"}
        Ceph.from_json(shared.to_json()).stop()
        assert other.poll() is None, "nor by who ends what the whole run shared"
        other.kill()


def test_without_apt_the_reason_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.packages.SERVERS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match=r"no apt-get here.*install nothing-of-the-kind on the system"):
        fetch("nothing", ("nothing-of-the-kind",), ("usr/bin/nothing-of-the-kind",))
    assert list(tmp_path.iterdir()) == []


def test_a_stamped_tree_needs_neither_apt_nor_a_network(openssh: OpenSSH, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    tree = OpenSSH.fetch()
    assert tree.path("usr/sbin/sshd").is_file()
    assert TRIPLET in str(tree.path("usr/lib/{triplet}/libnss_wrapper.so"))


def test_required_names() -> None:
    assert parse_required("") == frozenset()
    assert parse_required("openssh, s3") == {"openssh", "ceph", "moto"}
    assert parse_required("ftp") == {"vsftpd", "proftpd", "pureftpd"}
    assert parse_required("all") == {"openssh", "vsftpd", "proftpd", "pureftpd", "ceph", "moto", "postgres", "gpg"}
    with pytest.raises(ValueError, match="no server is called 'cepf'; there are openssh"):
        parse_required("cepf")


_CONFTEST = """
from tests.conftest import *
from tests.conftest import _clean_environment
from tests.servers import Missing, Moto

def _start(self):
    raise Missing("the dog ate it")

Moto._start = _start
"""
_TESTS = """
import os
import pytest

@pytest.fixture
def indirect(request):
    return request.getfixturevalue("openssh")

def test_moto(moto): ...
def test_openssh(indirect): ...
def test_both(openssh, moto): ...
def test_environment(openssh):
    assert [name for name in os.environ if name.startswith(("AWS_", "CROSSDOCK_", "SSH_AUTH"))] == [
        "AWS_EC2_METADATA_DISABLED"
    ]
    assert os.listdir(os.environ["HOME"]) == []
"""


def run_pytest(folder: Path, required: str, *arguments: str) -> tuple[int, str]:
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "test_it.py").write_text(_TESTS)
    (folder / "pytest.ini").touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    made_up = {"AWS_PROFILE": "mine", "SSH_AUTH_SOCK": "/agent", "CROSSDOCK_REQUIRE": required}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(folder), *arguments],
        cwd=folder,
        env={**kept, **made_up, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_a_missing_server_skips_and_is_named(openssh: OpenSSH, tmp_path: Path, workers: tuple[str, ...]) -> None:
    code, output = run_pytest(tmp_path, "openssh", *workers)
    assert code == 0, output
    assert "2 passed, 2 skipped" in output
    assert re.search(r"^openssh  ran OpenSSH_\S+.*, 2 tests$", output, re.MULTILINE), output
    assert re.search(r"^ceph     not used$", output, re.MULTILINE), output
    assert re.search(r"^moto     missing: the dog ate it$", output, re.MULTILINE), output


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_a_missing_server_that_is_required_fails(openssh: OpenSSH, tmp_path: Path, workers: tuple[str, ...]) -> None:
    code, output = run_pytest(tmp_path, "s3", *workers)
    assert code == 1, output
    assert "2 passed, 2 errors" in output
    assert "moto is required by CROSSDOCK_REQUIRE and missing: the dog ate it" in output
    assert re.search(r"^moto     missing \(required\): the dog ate it$", output, re.MULTILINE), output


def test_an_unknown_required_name_is_a_usage_error(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, "opensssh")
    assert code == 4, output
    assert "no server is called 'opensssh'" in output
