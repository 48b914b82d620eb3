"""moto's S3 server in a process of its own: quick and forgiving; the Ceph gateway is the stern one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

from tests.servers.packages import Missing, Tree
from tests.servers.server import LOOPBACK, Server


class Moto(Server):
    """S3 (and every other AWS service moto knows) at `endpoint_url`, region us-east-1, any credentials accepted."""

    name = "moto"

    def __init__(self) -> None:
        super().__init__()
        self.endpoint_url = ""
        self.access_key = "test"
        self.secret_key = "test-secret"

    @classmethod
    def fetch(cls) -> Tree:
        for module in ("moto", "flask", "flask_cors"):
            if importlib.util.find_spec(module) is None:
                raise Missing(f"the Python package {module} is not installed; install moto[server]")
        return super().fetch()

    def _start(self) -> None:
        self.fetch()
        self.version = f"moto {importlib.metadata.version('moto')}"
        (port,) = self._ports(1)
        log = self.base / "moto.log"
        script = Path(__file__).with_name("moto_server.py")
        command = [sys.executable, "-P", str(script), LOOPBACK, str(port)]
        child = self._spawn(command, log, {"PYTHONWARNINGS": "ignore", "MOTO_PORT": str(port)})
        self._wait_for_port(port, log, alive=lambda: child.poll() is None, seconds=60)
        self.endpoint_url = f"http://{LOOPBACK}:{port}"
