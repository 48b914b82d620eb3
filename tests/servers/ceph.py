"""Ceph's RADOS gateway over an in-memory store: a strict S3 server in three daemons, without a manager.

The first OSD map is made offline and handed to the monitor, which spares the `ceph` command line and its Python.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any, Self

from tests.servers.packages import Tree
from tests.servers.server import LOOPBACK, Server, StartFailed, running, tail

_FOLDERS = ("mon", "osd", "rgw", "run", "log", "crash")
_PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph-authtool", "monmaptool", "osdmaptool")


class Ceph(Server):
    """S3 at `endpoint_url` for one user; `store` is how many bytes of memory its objects may fill."""

    name = "ceph"
    packages = ("ceph-mon", "ceph-osd", "ceph-common", "radosgw")
    needs = tuple(f"usr/bin/{program}" for program in _PROGRAMS)
    patience = 0  # nothing of it is worth saving, and an orderly end takes five seconds
    frontend = "tcp_nodelay=1"
    """By default answers come in two pieces, and the second one late: 40 ms for most of what a test asks."""

    def __init__(self, *, store: int = 6 << 30) -> None:
        super().__init__()
        self._store = store
        self._environment: dict[str, str] = {}
        self._tree = Tree(Path("/"))
        self.endpoint_url = ""
        self.access_key = secrets.token_hex(10)
        self.secret_key = secrets.token_hex(20)

    def to_json(self) -> str:
        """Enough for another process to use the server and to stop it."""
        fields = ("endpoint_url", "access_key", "secret_key", "version", "pids", "_guard")
        own = {"base": str(self.base), "_born": list(self._born.items())}
        return json.dumps(own | {name: getattr(self, name) for name in fields})

    @classmethod
    def from_json(cls, text: str) -> Self:
        server = cls()
        kinds: dict[str, Any] = {"base": Path, "_born": dict}
        for name, value in json.loads(text).items():
            setattr(server, name, kinds[name](value) if name in kinds else value)
        return server

    def _parent(self) -> Path | None:
        # The monitor syncs its database at every step, which a disk makes slow.
        memory = Path("/dev/shm")
        fits = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30
        return memory if fits else None

    def _start(self) -> None:
        self._tree = self.fetch()
        self._environment = self._tree.environment()
        for name in _FOLDERS:
            (self.base / name).mkdir()
        port, *mon_ports = self._ports(3)
        fsid = str(uuid.uuid4())
        addresses = f"[v2:{LOOPBACK}:{mon_ports[0]},v1:{LOOPBACK}:{mon_ports[1]}]"
        (self.base / "ceph.conf").write_text(self._config(fsid, addresses, port))
        self._make_cluster(fsid, addresses)
        self._daemon("mon", "ceph-mon", "-i", "a")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", str(uuid.uuid4()))
        self._daemon("osd", "ceph-osd", "-i", "0")
        self._daemon("rgw", "radosgw", "-n", "client.admin")
        log = self.base / "log/client.admin.log"
        self._wait_for_port(port, log, alive=lambda: all(map(running, self.pids)), seconds=100)
        keys = [f"--access-key={self.access_key}", f"--secret-key={self.secret_key}"]
        self._run("radosgw-admin", "user", "create", "--uid=tester", "--display-name=tester", *keys)
        self.version = " ".join(self._run("radosgw", "--version").split()[:3])
        self.endpoint_url = f"http://{LOOPBACK}:{port}"

    def _make_cluster(self, fsid: str, addresses: str) -> None:
        keyring = str(self.base / "keyring")
        all_caps = [word for daemon in ("mon", "osd", "mgr") for word in ("--cap", daemon, "allow *")]
        osd_caps = ["--cap", "mon", "allow profile osd", "--cap", "mgr", "allow profile osd", "--cap", "osd", "allow *"]
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *all_caps)
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "osd.0", *osd_caps)
        monmap, osdmap = str(self.base / "monmap"), str(self.base / "osdmap")
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", addresses, monmap)
        self._run("osdmaptool", "--createsimple", "1", "--clobber", osdmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--osdmap", osdmap, "--keyring", keyring)

    def _daemon(self, name: str, *command: str) -> None:
        pid_file = self.base / f"{name}.pid"
        self._run(*command, "--pid-file", str(pid_file))
        # On a busy machine the command returns before its daemon has written the file.
        deadline = time.monotonic() + 60
        while not (pid_file.exists() and pid_file.read_text().strip()):
            if time.monotonic() > deadline:
                raise StartFailed(f"{name} wrote no pid file within 60 s; see {self.base / 'log'}")
            time.sleep(0.02)
        self.pids.append(int(pid_file.read_text()))

    def _run(self, program: str, *arguments: str) -> str:
        # An inherited pipe would stay open in a daemon, so the output goes to a file.
        log = self.base / "log" / f"{program}.out"
        command = [str(self._tree.path(f"usr/bin/{program}")), *arguments]
        if program.startswith(("ceph-mon", "ceph-osd", "radosgw")):
            command[1:1] = ["-c", str(self.base / "ceph.conf")]
        with log.open("wb") as output:
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self._environment},
                    cwd=self.base,
                    start_new_session=True,
                    timeout=200,
                )
            except subprocess.TimeoutExpired as error:
                raise StartFailed(f"{program} took over 200 s; it said:\n{tail(log)}") from error
        if done.returncode:
            raise StartFailed(f"{program} ended with {done.returncode}; it said:\n{tail(log)}")
        return log.read_text(errors="replace")

    def _config(self, fsid: str, addresses: str, port: int) -> str:
        base = self.base
        library = "usr/lib/{triplet}/"
        return f"""\
[global]
fsid = {fsid}
mon host = {addresses}
public addr = {LOOPBACK}
cluster addr = {LOOPBACK}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {base}/keyring
run dir = {base}/run
crash dir = {base}/crash
admin socket = {base}/run/$name.$pid.asok
log file = {base}/log/$name.log
mon cluster log file = {base}/log/cluster.log
mon data = {base}/mon
osd data = {base}/osd
osd objectstore = memstore
memstore device bytes = {self._store}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
mon data avail warn = 1
osd class dir = {self._tree.path(library + "rados-classes")}
erasure code dir = {self._tree.path(library + "ceph/erasure-code")}
plugin dir = {self._tree.path(library + "ceph")}
# What is overwritten or deleted is freed within seconds: by default it would fill the memory for two hours.
rgw gc obj min wait = 1
rgw gc processor period = 2
rgw gc processor max time = 60
debug rgw = 0/0
debug ms = 0/0
[client.admin]
rgw frontends = beast endpoint={LOOPBACK}:{port} {self.frontend}
rgw data = {base}/rgw
"""
