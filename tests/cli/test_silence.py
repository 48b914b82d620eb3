"""Ports that take connections and never say a word: it is told at once, not when all attempts have taken their time."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM

_FTP = "check host, port and firewall, or raise 'connect_timeout' at this endpoint"
_IMPLICIT = f"{_FTP}; if the server expects TLS from the first byte (port 990), write type: ftps"
_UP = "see that it is up, and can be reached from here; then run it again"


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        yield silent.getsockname()[1]


@pytest.mark.parametrize(
    ("kind", "settings", "said", "hint"),
    [
        pytest.param("ftp", "", "connect {0}: {1} port {2}: no answer within 0.3 s", _IMPLICIT, id="ftp"),
        pytest.param(
            "ftps", "", "connect {0}: {1} port {2}: no answer to the TLS greeting within 0.3 s", _FTP, id="ftps"
        ),
        pytest.param(
            "sftp",
            f"host_key: 'SHA256:{'A' * 43}'",
            "connect {0}: [{1}]:{2} did not complete a connection in 0.3 seconds",
            _FTP,
            id="sftp",
        ),
        pytest.param("s3", "", "list {0}: http://{1}:{2} went silent", _UP, id="s3"),
    ],
)
def test_a_silent_port_is_told_after_the_first_attempt(
    port: int, tmp_path: Path, kind: str, settings: str, said: str, hint: str
) -> None:
    host = "127.0.0.1"
    place = f"host: {host}, port: {port}, user: u, password: 'env:SECRET', connect_timeout: 300ms"
    if kind == "s3":
        place = f"bucket: bank, endpoint_url: 'http://{host}:{port}', anonymous: true, timeout: 300ms"
    (tmp_path / "crossdock.yaml").write_text(
        f"endpoints:\n  bank: {{type: {kind}, {', '.join(filter(None, [place, settings]))}}}\n"
    )
    done = subprocess.run(
        [PROGRAM, "ls", "bank:"],
        cwd=tmp_path,
        env={**os.environ, "SECRET": "none"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    words = said.format("bank", host, port)
    assert (done.returncode, done.stderr.splitlines()) == (
        5,
        [f"{words}; trying again, at most 3 times", f"crossdock: {words}", f"Next: {hint}"],
    )
