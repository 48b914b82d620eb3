"""The test bed: servers, data, and a folder of settings, so that no tool reads or writes the user's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Self

from tests.servers import Missing, OpenSSH, Vsftpd

from benchmarks import data
from benchmarks.data import Dataset, Trace
from benchmarks.items import SMALL_SIZE, Item, Kind, Place, Scale
from benchmarks.programs import program
from benchmarks.store import BUCKET, CollectedCeph, Store

_MEMORY = Path("/dev/shm")
_SESSIONS = 8
"""Connections that crossdock may open at an FTP server: as many as lftp is told to."""
_STORE = 12 << 30
"""How much memory the gateway may fill; it takes what it holds, no more."""


class _HomedOpenSSH(OpenSSH):
    """sshd with its files where the benchmark's data is, so that one disk serves both sides."""

    def __init__(self, parent: Path) -> None:
        super().__init__()
        self._home = parent

    def _parent(self) -> Path:
        return self._home


class _HomedVsftpd(Vsftpd):
    def __init__(self, parent: Path, tls: Literal["none", "explicit"]) -> None:
        super().__init__(tls)
        self._home = parent

    def _parent(self) -> Path:
        return self._home


class Bed:
    """Servers and data for the length of a `with` block. Raises Missing if a server cannot be had."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.folder = Path()
        """Data of the local side, and everything else that is ours."""
        self.settings = Path()
        """Home and settings of the tools."""
        self.memory = False
        """The data is in memory (tmpfs), not on a disk."""
        self._data: dict[Kind, Dataset] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            need = 5 * self.scale.big + self.scale.again * 16_000 + (512 << 20)
            self.memory = _room(need)
            self.folder = Path(
                stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="crossdock-bench-", dir=_MEMORY if self.memory else None)
                )
            )
            self.folder.chmod(0o755)
            self.settings = self.folder / "settings"
            self.settings.mkdir(mode=0o700)
            self.sshd = stack.enter_context(_HomedOpenSSH(self.folder))
            self.ceph = stack.enter_context(CollectedCeph(store=_STORE))
            self.store = Store(self.ceph)
            self.ftp = {
                "ftp": stack.enter_context(_HomedVsftpd(self.folder, "none")),
                "ftpes": stack.enter_context(_HomedVsftpd(self.folder, "explicit")),
            }
            self._write_settings()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _write_settings(self) -> None:
        ssh, s3 = self.sshd, self.ceph
        self.known_hosts = ssh.known_hosts()
        ftp = {name: server.settings(max_connections=_SESSIONS) for name, server in self.ftp.items()}
        (self.settings / "crossdock.yaml").write_text(
            f"""\
endpoints:
  partner:
    type: sftp
    host: {ssh.host}
    port: {ssh.port}
    user: {ssh.user}
    private_key: "file:{ssh.key}"
    host_key: "{ssh.fingerprint}"
    root: "{ssh.folder}"
  lake:
    type: s3
    bucket: {BUCKET}
    endpoint_url: "{s3.endpoint_url}"
{"".join(f"  {name}: {json.dumps(settings)}{chr(10)}" for name, settings in ftp.items())}"""
        )
        (self.settings / "rclone.conf").write_text(
            f"""\
[partner]
type = sftp
host = {ssh.host}
port = {ssh.port}
user = {ssh.user}
key_file = {ssh.key}
known_hosts_file = {self.known_hosts}

[lake]
type = s3
provider = Ceph
env_auth = true
endpoint = {s3.endpoint_url}
{"".join(_rclone(name, server) for name, server in self.ftp.items())}"""
        )

    def environment(self) -> dict[str, str]:
        """What a measured tool finds in its environment."""
        home = str(self.settings)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
            "HOME": home,
            "TMPDIR": home,
            "AWS_ACCESS_KEY_ID": self.ceph.access_key,
            "AWS_SECRET_ACCESS_KEY": self.ceph.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": f"{home}/aws",
            "AWS_SHARED_CREDENTIALS_FILE": f"{home}/aws-credentials",
            "AWS_EC2_METADATA_DISABLED": "true",
            "CROSSDOCK_CONFIG": f"{home}/crossdock.yaml",
            "RCLONE_CA_CERT": os.fspath(self.ftp["ftpes"].certificate),
            "RCLONE_CONFIG": f"{home}/rclone.conf",
            "RCLONE_CACHE_DIR": f"{home}/rclone-cache",
        }

    def source(self, item: Item) -> str:
        """Where the item's data is, at its source: an absolute path, or a key prefix without slashes at its ends."""
        return self._root(item.source) + item.kind

    def target(self, item: Item) -> str:
        """Where the item's data goes; the tree that is synced again is there already."""
        return self._root(item.target) + (item.kind if item.kind == "again" else "target")

    def hide(self, text: str) -> str:
        """The text without this run's folders."""
        return text.replace(str(self.sshd.folder), "…").replace(str(self.folder), "…")

    def _root(self, place: Place) -> str:
        if place in self.ftp:
            return f"{self.ftp[place].folder}/"
        return {"local": f"{self.folder}/", "sftp": f"{self.sshd.folder}/", "s3": ""}[place]

    def names(self, kind: Kind) -> list[str]:
        """Paths of the files of one kind of work."""
        if kind == "big":
            return ["big.bin"]
        count, per_folder = (self.scale.small, 500) if kind == "small" else (self.scale.again, 1000)
        return [f"{number // per_folder:03}/file-{number:06}.dat" for number in range(count)]

    def prepare(self, items: Iterable[Item]) -> None:
        """Make the data that these items need, on both servers."""
        items = list(items)
        for kind in sorted({item.kind for item in items} - {"help"}):
            size = {"big": self.scale.big, "small": SMALL_SIZE, "again": 64}[kind]
            self._data[kind] = made = data.make(self.folder / kind, self.names(kind), size, seed=len(kind))
            # The same files again by hard links: equal times, and no second copy in memory.
            shutil.copytree(made.folder, self.sshd.folder / kind, copy_function=os.link)
            for place, server in self.ftp.items():
                if any(item.kind == kind and item.source == place for item in items):
                    shutil.copytree(made.folder, server.folder / kind, copy_function=os.link)
            if any(item.kind == kind and "s3" in (item.source, item.target) for item in items):
                self._upload(kind, made)
        self.sshd.own()

    def _upload(self, kind: Kind, made: Dataset) -> None:
        """By rclone where there are many files, which is several times as fast as botocore; without it, by botocore."""
        if kind == "again":
            try:
                rclone = program("rclone", "")
            except Missing:
                pass
            else:
                flags = ["--s3-no-head", "--s3-no-check-bucket", "--no-check-dest", "--transfers", "64"]
                command = [rclone, "copy", *flags, str(made.folder), f"lake:{BUCKET}/{kind}"]
                subprocess.run(command, env=self.environment(), cwd=self.settings, check=True)
                return
        self.store.upload(made, f"{kind}/")

    def discard(self, kind: Kind) -> None:
        """The data of one kind is not needed any more."""
        self._data.pop(kind, None)
        shutil.rmtree(self.folder / kind, ignore_errors=True)
        for folder in (self.sshd.folder, *(server.folder for server in self.ftp.values())):
            shutil.rmtree(folder / kind, ignore_errors=True)
        self.store.empty(f"{kind}/")

    def reset(self, item: Item) -> Trace | None:
        """Make the item's target as it must be before a run: empty, or (synced again) as it is."""
        if item.kind == "again":
            return data.trace(Path(self.target(item)))
        if item.kind == "help":
            return None
        if item.target == "s3":
            self.store.empty("target/")
        else:
            target = Path(self.target(item))
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            if item.target == "sftp":
                os.chown(target, self.sshd.uid, -1)
            elif item.target in self.ftp:
                os.chown(target, self.ftp[item.target].uid, -1)
        os.sync()
        return None

    def wrong(self, item: Item, before: Trace | None) -> str:
        """Look from outside at what a run left at the target; "" if all is well."""
        if item.kind == "help":
            return ""
        if before is not None:
            after = data.trace(Path(self.target(item)))
            return "" if after == before else f"something was written: {before} became {after}"
        if item.target == "s3":
            return self.store.wrong(self._data[item.kind], "target/")
        return data.wrong_on_disk(self._data[item.kind], Path(self.target(item)))


def _rclone(name: str, server: Vsftpd) -> str:
    """A section of rclone's configuration; "" if it is not installed."""
    try:
        secret = subprocess.run(
            [program("rclone", ""), "obscure", server.secret], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()
    except Missing:
        return ""
    tls = "explicit_tls = true\n" if server.tls == "explicit" else ""
    where = f"host = {server.host}\nport = {server.port}\nuser = {server.user}\npass = {secret}\n"
    return f"\n[{name}]\ntype = ftp\n{where}{tls}"


def _room(need: int) -> bool:
    """Whether the data fits into memory, beside what else is there."""
    if not (_MEMORY.is_dir() and os.access(_MEMORY, os.W_OK)) or shutil.disk_usage(_MEMORY).free < need:
        return False
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    return free > need + (1 << 30)
