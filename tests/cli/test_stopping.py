"""A command that is told to stop: by a signal, by two, while it is at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import contents

# Whoever runs the tests by nohup hands on that it is ignored.
_HEARS_HANGUP = (
    "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); from crossdock.__main__ import main; main()"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("processes", ["1", "2"])
def test_stopping_leaves_nothing_and_says_what_is_done(tmp_path: Path, number: signal.Signals, processes: str) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "a small one").write_bytes(b"x")
    for name in ("big1", "big2"):
        (source / name).write_bytes(os.urandom(40_000_000))
    running = subprocess.Popen(
        [
            *(sys.executable, "-c", _HEARS_HANGUP),
            *("sync", "in", "out", "--bwlimit", "4M", "--processes", processes, "--report", "done"),
        ],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    report = tmp_path / "done"
    while not report.exists() or not report.read_text() or len(list(target.iterdir())) < 3:
        assert time.monotonic() < deadline, "nothing was begun"
        assert running.poll() is None
        time.sleep(0.01)
    # As a terminal and systemd do: the processes of --processes get it as well.
    os.killpg(running.pid, number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert contents(target) == {"a small one": b"x"}
    assert err.startswith("stopped: 1 file copied (1 B), 0 skipped; 2 files under way stopped"), err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "nohup", "said"),
    [
        ("SIGHUP", False, "cleaned\n130\n"),
        ("SIGHUP", True, "done\n0\n"),
        ("SIGTERM", False, "cleaned\n130\n"),
    ],
)
def test_what_is_told_twice(number: str, nohup: bool, said: str) -> None:
    """A terminal that is closed, and timeout(1), may do so: the clean-up goes on."""
    code = (
        "import asyncio, os, signal\n"
        f"signal.signal(signal.SIGHUP, signal.{'SIG_IGN' if nohup else 'SIG_DFL'})\n"
        "from crossdock.cli.session import Interrupted, Session\n"
        "class Hears(Session):\n"
        "    heard = asyncio.Event()\n"
        "    def interrupt(self, *given):\n"
        "        super().interrupt(*given); self.heard.set()\n"
        "async def work():\n"
        f"    os.kill(os.getpid(), signal.{number})\n"
        f"    if {nohup}:\n"
        "        print('done'); return 0\n"
        "    try:\n"
        "        await asyncio.sleep(60)\n"
        "    finally:\n"
        f"        Hears.heard.clear(); os.kill(os.getpid(), signal.{number})\n"
        "        await Hears.heard.wait(); print('cleaned')\n"
        "try:\n"
        "    print(Hears().run(work))\n"
        "except Interrupted:\n"
        "    print(130)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (said, "")


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from crossdock.cli.session import Session\n"
        "async def work():\n"
        "    try:\n"
        "        print('ready', flush=True); await asyncio.sleep(60)\n"
        "    finally:\n"
        "        print('cleaning', flush=True); await asyncio.sleep(60)\n"
        "Session().run(work)\n"
    )
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    running.send_signal(signal.SIGINT)
    assert running.stdout.readline() == "cleaning\n"
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "stopped without cleaning up" in err
