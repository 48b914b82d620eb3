"""A flow between two folders, for tests that run it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.cli.conftest import PROGRAM

__all__ = ["configure", "daemon", "put", "to_one_place", "until"]

_CONFIG = """\
endpoints:
  src: {{type: local, root: in}}
  dst: {{type: local, root: out}}
flows:
  move:
    source: "src:"
    to: "dst:{to}{{path}}"
    settle: none
    {more}
"""


def configure(home: Path, *, to: str = "", more: str = "trigger: {every: 1s}") -> None:
    (home / "crossdock.yaml").write_text(_CONFIG.format(to=to, more=more))


def put(home: Path, name: str, data: bytes) -> None:
    """Whole at once: nothing settles here."""
    (home / "new").write_bytes(data)
    (home / "new").rename(home / "in" / name)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def to_one_place(home: Path) -> None:
    file = home / "crossdock.yaml"
    file.write_text(file.read_text().replace("{path}", "one"))


@contextmanager
def daemon(
    home: Path, *options: str, program: Sequence[str] = (PROGRAM,)
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """A daemon, and what it has said; it is killed if it still runs at the end."""
    with (home / "log").open("w+b") as log:
        process = subprocess.Popen([*program, "run", *options], cwd=home, stdout=subprocess.DEVNULL, stderr=log)
        try:
            until(lambda: "running move" in (home / "log").read_text(), "the daemon runs")
            yield process, (home / "log").read_text
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
