"""pyftpdlib's server, plain, in a process of its own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from tests.servers.packages import Missing
from tests.servers.server import LOOPBACK, Server


class Pyftpd(Server):
    """One account, which may do everything in `folder`."""

    name = "pyftpdlib"
    user, secret, host, root = "tester", "secret", LOOPBACK, ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path()
        self.port = 0

    def settings(self, **more: Any) -> dict[str, Any]:
        """What an endpoint needs in order to sign in."""
        secret = self.base / "secret"
        secret.touch(0o600)
        secret.write_text(self.secret)
        found = {"type": "ftp", "host": self.host, "port": self.port, "user": self.user, "password": f"file:{secret}"}
        return found | more

    def _start(self) -> None:
        if importlib.util.find_spec("pyftpdlib") is None:
            raise Missing("pyftpdlib is not installed")
        self.folder = self.base / "home"
        self.folder.mkdir()
        (self.port,) = self._ports(1)
        log = self.base / "server.log"
        command = [sys.executable, "-W", "ignore", "-m", "pyftpdlib", "-i", self.host, "-p", str(self.port), "-w"]
        command += ["-d", str(self.folder), "-u", self.user, "-P", self.secret]
        child = self._spawn(command, log, {})
        self._wait_for_port(self.port, log, alive=lambda: child.poll() is None, seconds=60)
