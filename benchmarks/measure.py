"""Run one command and say what it cost: `measure()`, which uses a small process of its own per run.

That process makes itself the reaper of orphans (prctl(2), PR_SET_CHILD_SUBREAPER), so that a helper which the command
leaves behind is waited for and its CPU time counted (getrusage(2), RUSAGE_CHILDREN).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

INTERVAL = 0.02
"""Seconds between two samples of the memory."""
_RESCAN = 5
"""Every so many samples the process tree is looked up again."""
_SUBREAPER = 36
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One run. `seconds`: wall clock until the command ended; `cpu`: user + system of the whole process tree.

    `rss`: the largest sum of resident bytes over the process tree that was seen; pages that several processes share
    count once for each.
    """

    seconds: float
    cpu: float
    rss: int
    code: int
    said: str
    """The end of what it wrote to stderr and stdout."""


def measure(command: Sequence[str], environment: Mapping[str, str], folder: Path, *, timeout: float) -> Sample:
    """Run `command` in `folder` with this environment and nothing else; it is killed after `timeout` seconds."""
    order = {"command": list(command), "environment": dict(environment), "folder": str(folder), "timeout": timeout}
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=json.dumps(order), stdout=subprocess.PIPE, text=True, check=True
    )
    return Sample(**json.loads(done.stdout))


def _run(command: list[str], environment: dict[str, str], folder: str, timeout: float) -> Sample:
    ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)
    output = Path(folder) / "output.log"
    with output.open("wb") as log:
        started = time.perf_counter()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        watch = _Watch()
        watch.start()
        alarm = threading.Timer(timeout, _end, (watch,))
        alarm.daemon = True
        alarm.start()
        code = child.wait()
        seconds = time.perf_counter() - started
        alarm.cancel()
        watch.over.set()
        watch.join()
        _collect(watch)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = output.read_bytes()[-2000:].decode(errors="replace").strip()
    return Sample(seconds=seconds, cpu=usage.ru_utime + usage.ru_stime, rss=watch.peak, code=code, said=said)


class _Watch(threading.Thread):
    """Adds up the resident memory of all descendants of this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.peak = 0
        self.tree: set[int] = set()

    def run(self) -> None:
        turn = 0
        while not self.over.wait(INTERVAL if turn else 0):
            if turn % _RESCAN == 0 or turn < _RESCAN:
                self.tree = descendants(os.getpid())
            turn += 1
            self.peak = max(self.peak, sum(map(_resident, self.tree)))


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def descendants(root: int) -> set[int]:
    """The processes below `root`, by /proc/<pid>/stat."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - sampled often, and no paths are needed
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(name))
    found: set[int] = set()
    todo = [root]
    while todo:
        below = children.get(todo.pop(), [])
        found.update(below)
        todo += below
    return found


def _end(watch: _Watch) -> None:
    for pid in descendants(os.getpid()) | watch.tree:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _collect(watch: _Watch) -> None:
    """Wait for whatever the command left running; after two seconds it is killed."""
    deadline = time.monotonic() + 2
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            if time.monotonic() > deadline:
                _end(watch)
            time.sleep(0.01)


if __name__ == "__main__":
    json.dump(asdict(_run(**json.load(sys.stdin))), sys.stdout)
