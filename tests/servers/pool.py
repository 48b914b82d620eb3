"""The servers of one pytest run: which are required, which ran, who shares one, and what the summary says."""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.servers.ceph import Ceph
from tests.servers.ftp import Proftpd, PureFtpd, Vsftpd
from tests.servers.gpg import Gpg
from tests.servers.moto import Moto
from tests.servers.openssh import OpenSSH
from tests.servers.packages import Missing
from tests.servers.postgres import Postgres
from tests.servers.server import Server

SERVERS: dict[str, type[Server]] = {
    kind.name: kind for kind in (OpenSSH, Vsftpd, Proftpd, PureFtpd, Ceph, Moto, Postgres, Gpg)
}
ALIASES = {"s3": ("ceph", "moto"), "ftp": ("vsftpd", "proftpd", "pureftpd"), "all": tuple(SERVERS)}
REQUIRE = "CROSSDOCK_REQUIRE"


def parse_required(value: str) -> frozenset[str]:
    """Names from a comma-separated list, aliases resolved; ValueError for a name that is no server's."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    for name in names:
        if name not in SERVERS and name not in ALIASES:
            raise ValueError(f"{REQUIRE}: no server is called {name!r}; there are {', '.join([*SERVERS, *ALIASES])}")
    return frozenset(one for name in names for one in ALIASES.get(name, (name,)))


@dataclass(slots=True)
class Status:
    """What became of one server in this run; both texts empty: nobody asked for it."""

    version: str = ""
    missing: str = ""
    tests: int = 0


class Pool:
    """Servers shared by the tests of one process and, for Ceph, by every process of the run through `folder`."""

    def __init__(self, required: frozenset[str], *, owner: int, folder: Path | None = None) -> None:
        self.required = required
        self.owner = owner
        """The process that outlives the whole run: pytest itself, or the controller under pytest-xdist."""
        self.folder = folder or Path(tempfile.mkdtemp(prefix="crossdock-run-"))
        self.status = {name: Status() for name in SERVERS}

    def start(self, server: Server) -> None:
        """Start it, and note how that went; raises Missing."""
        status = self.status[server.name]
        try:
            server.start()
        except Missing as error:
            status.missing = str(error)
            raise
        status.version = server.version

    def shared_ceph(self) -> Ceph:
        """The run's one Ceph: started by whoever asks first, told to the others by a file. Raises Missing."""
        status = self.status[Ceph.name]
        note = self.folder / "ceph.json"
        with (self.folder / "ceph.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not note.exists():
                server = Ceph()
                try:
                    server.start(owner=self.owner)
                    text = server.to_json()
                except Missing as error:
                    text = json.dumps({"missing": str(error)})
                note.write_text(text)
            text = note.read_text()
        status.missing = json.loads(text).get("missing", "")
        if status.missing:
            raise Missing(status.missing)
        server = Ceph.from_json(text)
        status.version = server.version
        return server

    def report(self) -> dict[str, dict[str, str | int]]:
        """As plain data, for the way from a worker to the controller."""
        return {name: asdict(status) for name, status in self.status.items()}

    def merge(self, report: Mapping[str, Mapping[str, str | int]]) -> None:
        for name, values in report.items():
            status = self.status[name]
            status.version = status.version or str(values["version"])
            status.missing = status.missing or str(values["missing"])
            status.tests += int(values["tests"])

    def unmet(self) -> list[str]:
        """Servers that are required, were asked for by a test, and could not be had."""
        return [name for name, status in self.status.items() if status.missing and name in self.required]

    def summary(self) -> list[str]:
        lines = []
        for name, status in self.status.items():
            if status.missing:
                what = f"missing{' (required)' if name in self.required else ''}: {status.missing}"
            elif status.version:
                what = f"ran {status.version}, {status.tests} test{'' if status.tests == 1 else 's'}"
            else:
                what = "not used"
            lines.append(f"{name:<8} {what}")
        return lines

    def close(self) -> None:
        """Stop what is shared; only the process that made `folder` calls this, when all others have finished."""
        note = self.folder / "ceph.json"
        if note.exists():
            text = note.read_text()
            if "missing" not in json.loads(text):
                Ceph.from_json(text).stop()
        shutil.rmtree(self.folder, ignore_errors=True)
