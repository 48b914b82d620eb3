"""Ctrl-C and SIGTERM while the program is loaded, and while it ends: quiet, at once, nothing is left."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crossdock.cli import session

# A real signal, at the moment when a module is looked for: that is where most of the first 0.2 s go.
_AT = """
import os, signal, sys

module, number = sys.argv.pop(1), int(sys.argv.pop(1))

class At:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, At())
from crossdock.__main__ import main
main()
"""
_CONFIG = "endpoints: {a: {type: local, root: a}, b: {type: local, root: b}}\nflows: {f: {source: 'a:', to: 'b:'}}\n"


@pytest.mark.parametrize(
    "command",
    [
        ["sync", "a", "out"],
        ["sync", "a", "out", "--processes", "2"],
        ["cp", "a:1", "b:"],
        ["run", "--once"],
        ["late", "f"],
        ["demo"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    "module",
    ["crossdock.cli.main", "click", "crossdock.cli.session", "crossdock.config", "pydantic_core", "asyncio", "uvloop"],
)
def test_while_it_is_loaded(
    tmp_path: Path, module: str, command: list[str], number: signal.Signals = signal.SIGINT
) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    for folder in (here / "a", here / "b", temporary):
        folder.mkdir(parents=True)
    (here / "a/1").write_bytes(b"1")
    (here / "crossdock.yaml").write_text(_CONFIG)
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", _AT, module, str(int(number)), *command],
        cwd=here, env={"TMPDIR": str(temporary)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 130
    # What a command says of its own when it is stopped, is said once it has begun.
    said = ("stopped: ", "stopping: ")  # the latter where that takes long
    assert not done.stderr or (module == "uvloop" and done.stderr.startswith(said))
    # A whole ledger, with nothing in it, is the same as none.
    assert sorted({*tmp_path.rglob("*")} - {here / "crossdock.db"}) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["crossdock.cli.main", "pydantic_core", "uvloop", "crossdock.engine.serving"])
def test_a_daemon_that_is_loaded(tmp_path: Path, module: str, number: signal.Signals) -> None:
    """It was told to end, and ends: systemd takes 130 for a failure."""
    (tmp_path / "crossdock.yaml").write_text(_CONFIG)
    for command in (["run"], ["--config", "crossdock.yaml", "-q", "run", "f"]):
        done = subprocess.run(
            [sys.executable, "-c", _AT, module, str(int(number)), *command],
            cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_while_a_command_of_such_a_name_is_loaded(tmp_path: Path, number: signal.Signals) -> None:
    for command in (["ls", "run"], ["--config", "run", "ls"], ["run", "--once", "f"]):
        done = subprocess.run(
            [sys.executable, "-c", _AT, "click", str(int(number)), *command], cwd=tmp_path, timeout=60
        )
        assert done.returncode == 130


def test_what_takes_long_to_stop_says_how_it_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_SOON", 0.0)
    found, said = session.Session(), asyncio.Queue[str]()
    monkeypatch.setattr(found, "say", said.put_nowait)

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        found.interrupt(task)
        try:
            await asyncio.Event().wait()
        finally:
            assert (await asyncio.wait_for(said.get(), 30)).endswith("Ctrl-C ends at once")

    with pytest.raises(session.Interrupted):
        found.run(work)


@pytest.mark.parametrize("module", ["crossdock.cli.main", "pydantic_core"])
def test_told_to_end_while_it_is_loaded(tmp_path: Path, module: str) -> None:
    test_while_it_is_loaded(tmp_path, module, ["run", "--once"], signal.SIGTERM)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_while_it_ends(tmp_path: Path, number: str) -> None:
    """What was done is done, and so says the exit code; whatever else is to come is not waited for."""
    (tmp_path / "a").write_bytes(b"1")
    code = (
        "import atexit, os, signal, sys\n"
        "from crossdock.__main__ import main\n"
        "@atexit.register\n"
        "def interrupt():\n"
        f"    os.kill(os.getpid(), signal.{number})\n"
        "    os.write(2, b'still here')\n"
        "sys.argv[1:] = ['cp', '-q', '--json', 'a', 'b']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"copy":1' in done.stdout
    assert (tmp_path / "b").read_bytes() == b"1"
