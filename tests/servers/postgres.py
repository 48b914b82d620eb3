"""PostgreSQL's server from Debian's packages, for a database that lives as long as the test run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.servers.account import AccountServer
from tests.servers.server import LOOPBACK, StartFailed, guard, stop, tail

_PROGRAMS = "usr/lib/postgresql/*/bin"


class Postgres(AccountServer):
    """One database cluster at `dsn`, whose only user is `tester`, without a password, on loopback and a Unix socket.

    Durable writes are off: what a power cut would do is not what these tests ask.
    Started by root, the server runs as another account: it refuses to run as root.
    """

    name = "postgres"
    packages = ("postgresql",)
    needs = tuple(f"{_PROGRAMS}/{program}" for program in ("postgres", "initdb"))

    def __init__(self) -> None:
        super().__init__()
        self.port = 0
        self._run_again: Callable[[], None] = lambda: None

    @property
    def dsn(self) -> str:
        return f"postgresql://{self.user}@{LOOPBACK}:{self.port}/postgres"

    @property
    def socket_dsn(self) -> str:
        return f"postgresql://{self.user}@/postgres?host={self.base}/run&port={self.port}"

    def _start(self) -> None:
        tree = self._files()
        for name in ("data", "run"):
            folder = self.base / name
            folder.mkdir(mode=0o700)
            os.chown(folder, self.uid, -1)
        uid = self.uid if self._drops else None
        log = self.base / "postgres.log"
        programs, environment = tree.path(_PROGRAMS), tree.environment()
        self._run([str(programs / "initdb"), *self._initdb()], log, environment, uid)
        (self.port,) = self._ports(1)
        settings = {
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": self.base / "run",
            "fsync": "off",
            "max_connections": 60,
            "shared_buffers": "32MB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(programs / "postgres"), "-D", str(self.base / "data"), *options]

        def run() -> None:
            before = log.stat().st_size
            child = self._spawn(command, log, environment, uid=uid)
            self._wait_for_port(self.port, log, alive=lambda: child.poll() is None, seconds=60)
            deadline = time.monotonic() + 60
            while b"ready to accept connections" not in log.read_bytes()[before:]:
                # After a crash it answers, and refuses, before it has recovered.
                if time.monotonic() > deadline or child.poll() is not None:
                    raise StartFailed(f"{self.name} does not accept connections; its log ends:\n{tail(log)}")
                time.sleep(0.02)

        self._run_again = run
        run()
        version = subprocess.run([command[0], "--version"], env={**os.environ, **environment}, stdout=subprocess.PIPE)
        self.version = version.stdout.decode().strip().replace(" (PostgreSQL)", "").removeprefix("postgres ")
        self.version = f"PostgreSQL {self.version}"

    def crash(self) -> None:
        """End it at once, with all its connections; what was committed is there when it is started again."""
        server = self._children[-1]
        server.send_signal(signal.SIGQUIT)
        server.wait(timeout=30)
        self._children.clear()
        self.pids.clear()

    def start_again(self) -> None:
        """After `crash`: on the same port."""
        self._run_again()
        stop([], self._guard, seconds=self.patience)
        self._guard = guard(os.getpid(), self.pids, self.base)

    def _initdb(self) -> list[str]:
        options = ["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust"]
        return ["-D", str(self.base / "data"), "-U", self.user, *options]

    def _run(self, command: list[str], log: Path, environment: dict[str, str], uid: int | None) -> None:
        child = self._spawn(command, log, environment, uid=uid)
        code = child.wait(timeout=120)
        self.pids.remove(child.pid)
        if code:
            raise StartFailed(f"{command[0]} ended with {code}; it said:\n{log.read_text(errors='replace')[-2000:]}")
