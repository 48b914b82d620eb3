"""What every test server shares: processes, ports, waiting until it answers, and stopping for certain."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar, Self

from tests.servers.packages import Missing, Tree, fetch

LOOPBACK = "127.0.0.1"


class StartFailed(Missing):
    """The server is on this machine but did not come up; the message ends with the tail of its log."""


class Server(ABC):
    """One real server on loopback ports of its own, for the length of a `with` block.

    `start` raises Missing (StartFailed included) and then leaves nothing running; `stop` may be repeated.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    """Files (as in a package's list) without which the server cannot run."""

    patience: ClassVar[float] = 10
    """Seconds to end by itself before it is killed."""

    version: str = ""

    def __init__(self) -> None:
        self.base = Path()
        """The server's own folder, removed by `stop`."""
        self.pids: list[int] = []
        self._born: dict[int, str | None] = {}
        self._children: list[subprocess.Popen[bytes]] = []
        self._guard: int | None = None
        self._held = ExitStack()

    @classmethod
    def fetch(cls) -> Tree:
        """Make the server's files available; raises Missing."""
        return fetch(cls.name, cls.packages, cls.needs)

    @abstractmethod
    def _start(self) -> None:
        """Start and wait until it answers; whatever runs must be in `self.pids`."""

    def start(self, *, owner: int | None = None) -> None:
        """`owner`: the process whose end, even by SIGKILL, also ends the server; by default the caller's."""
        self.base = Path(tempfile.mkdtemp(prefix=f"crossdock-{self.name}-", dir=self._parent()))
        try:
            self._start()
            self._born = {pid: _born(pid) for pid in self.pids}
            self._guard = guard(os.getpid() if owner is None else owner, self.pids, self.base)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        # Numbers are given anew within minutes: of what ended long ago, another's process may have it.
        mine = [pid for pid in self.pids if _born(pid) == self._born.get(pid, _born(pid))]
        stop(mine, self._guard, seconds=self.patience)
        for child in self._children:
            child.wait()
        self._children.clear()
        self.pids.clear()
        self._guard = None
        self._held.close()
        if self.base != Path():
            shutil.rmtree(self.base, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _parent(self) -> Path | None:
        """Where the server's folder is made; None is the system's temporary folder."""
        return None

    def _ports(self, count: int) -> list[int]:
        """Ports of the server's own until `stop`."""
        return self._held.enter_context(own_ports(count))

    def _spawn(
        self, command: list[str], log: Path, environment: Mapping[str, str], *, uid: int | None = None
    ) -> subprocess.Popen[bytes]:
        """A child in a session of its own (so that Ctrl-C reaches pytest alone), its output in `log`."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                cwd=self.base,
                start_new_session=True,
                user=uid,
                group=uid,
                extra_groups=None if uid is None else [],
            )
        self._children.append(child)
        self.pids.append(child.pid)
        return child

    def _wait_for_port(
        self, port: int, log: Path, *, alive: Callable[[], bool], seconds: float, host: str = LOOPBACK
    ) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                socket.create_connection((host, port), timeout=1).close()
                return
            except OSError:
                pass
            if not alive():
                raise StartFailed(f"{self.name} ended while starting; its log ends:\n{tail(log)}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{self.name} did not answer within {seconds:.0f} s; its log ends:\n{tail(log)}")
            time.sleep(0.02)


@contextmanager
def own_ports(count: int) -> Iterator[list[int]]:
    """Loopback ports for servers of the caller's: held, so that no other worker's server is given one of them.

    Below those that the system gives to connections going out: else one may take it before the server does. A server
    may listen on them, as every one here sets SO_REUSEADDR.
    """
    with ExitStack() as stack:
        held: list[socket.socket] = []
        while len(held) < count:
            candidate = socket.socket()
            try:
                candidate.bind((LOOPBACK, 10_000 + secrets.randbelow(22_000)))
            except OSError:
                candidate.close()
                continue
            # Not before it is bound: else two could hold the same.
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.append(stack.enter_context(candidate))
        yield [each.getsockname()[1] for each in held]


@contextmanager
def closed_ports(count: int) -> Iterator[range]:
    """Consecutive loopback ports that refuse who connects: held without listening, so that nobody else can listen."""
    with ExitStack() as held:
        while True:
            first = 10_000 + secrets.randbelow(22_000)
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind((LOOPBACK, port))
            except OSError:
                held.close()
                continue
            yield range(first, first + count)
            return


def tail(log: Path, lines: int = 20) -> str:
    if not log.exists():
        return "  (no log)"
    return "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])


def running(pid: int) -> bool:
    """False for a zombie: it has ended, and its parent has yet to notice."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.rpartition(")")[2].split()[0] not in ("Z", "X")


def _born(pid: int) -> str | None:
    """When a process was started, in ticks since the machine was; None: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None


def stop(pids: Iterable[int], guard: int | None, *, seconds: float) -> None:
    """End these processes, children of ours or not: asked first, killed after `seconds`; the guard before the rest."""
    ordered = [*([] if guard is None else [guard]), *reversed(list(pids))]
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 10)):
        left = [pid for pid in ordered if running(pid)]
        for pid in left:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + patience
        while any(running(pid) for pid in left) and time.monotonic() < deadline:
            time.sleep(0.01)


_GUARD = """
(
  trap 'kill $! 2>/dev/null; exit' TERM
  owner=$1 folder=$2; shift 2
  while kill -0 "$owner"; do sleep 1 & wait $!; done
  kill "$@"; sleep 1; kill -9 "$@"; rm -rf "$folder"
) >/dev/null 2>&1 </dev/null &
echo $!
"""


def guard(owner: int, pids: list[int], folder: Path) -> int:
    """Start a small shell that stops `pids` and removes `folder` once `owner` is gone; returns its process id."""
    command = ["/bin/sh", "-c", _GUARD, "guard", str(owner), str(folder), *map(str, pids)]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True, start_new_session=True).stdout)
