"""Where crossdock's time goes in one item of work: by py-spy if it is installed, else by cProfile."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bed import Bed
from benchmarks.items import Item
from benchmarks.tools import Crossdock

_LINES = 40
_RATE = 200
"""Samples per second."""


def profile(bed: Bed, items: Sequence[Item], flags: Sequence[str]) -> int:
    """Run crossdock once per item under a profiler and print the costliest functions."""
    tool = Crossdock(bed)
    sampler = Path(sys.executable).parent / "py-spy"
    spy = str(sampler) if sampler.exists() else shutil.which("py-spy")
    for kind in dict.fromkeys(item.kind for item in items):
        same = [item for item in items if item.kind == kind]
        bed.prepare(same)
        for item in same:
            before = bed.reset(item)
            command = tool.command(item)
            assert command is not None
            command[2:2] = flags if item.kind != "help" else []
            print(f"\n{item.name}: {item.title(bed.scale)}", flush=True)
            code = _by_py_spy(bed, spy, command) if spy else _by_cprofile(bed, command)
            print(f"exit {code}; {bed.wrong(item, before) or 'arrived'}", flush=True)
        bed.discard(kind)
    return 0


def _by_cprofile(bed: Bed, command: Sequence[str]) -> int:
    arguments = ["-m", "cProfile", "-s", "tottime", *command]
    done = subprocess.run(
        [sys.executable, *arguments], env=bed.environment(), cwd=bed.settings, stdout=subprocess.PIPE, text=True
    )
    print("\n".join(done.stdout.splitlines()[: _LINES + 10]))
    return done.returncode


def _by_py_spy(bed: Bed, spy: str, command: Sequence[str]) -> int:
    """Samples of the thread that holds the interpreter lock, so that waiting does not count."""
    out = bed.settings / "profile.raw"
    options = ["record", "--gil", "--subprocesses", "--nonblocking", "-r", str(_RATE), "-f", "raw", "-o", str(out)]
    done = subprocess.run(
        [spy, *options, "--", sys.executable, *command],
        env=bed.environment(),
        cwd=bed.settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if not out.exists():
        print(done.stdout)
        return done.returncode
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    total = 0
    for line in out.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_shorter(frame) for frame in stack.split(";")]
        total += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):
            whole[frame] += int(count)
    print(f"{total / _RATE:.2f} s with the interpreter's lock held")
    for title, counts in (("in the function itself", own), ("with what it calls", whole)):
        print(f"-- {title}")
        for frame, samples in counts.most_common(_LINES):
            if not _is_frame_of_start(frame):
                print(f"{100 * samples / total:5.1f} %  {frame}")
    return done.returncode


def _is_frame_of_start(frame: str) -> bool:
    """What is on every stack, and tells nothing."""
    return frame.startswith("process ") or "(click/" in frame or "importlib._bootstrap>" in frame


def _shorter(frame: str) -> str:
    """`function (path:line)` → the last two parts of the path."""
    name, _, where = frame.partition(" (")
    path, _, _ = where.rstrip(")").partition(":")
    return f"{name} ({'/'.join(path.split('/')[-2:])})" if where else name
