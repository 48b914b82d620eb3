"""The frame round the commands: help, table, exit codes, messages and pipes."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from crossdock.cli import exits, main
from crossdock.cli.table import COMMANDS
from crossdock.engine import attempts
from crossdock.errors import ConfigError, ConnectionFailed, CrossdockError, NotFound, PermissionDenied, TimedOut
from crossdock.storage.storage import Storage
from tests.cli.conftest import PROGRAM, Cli, contents


def test_table_and_commands_are_in_step() -> None:
    for name, (target, line) in COMMANDS.items():
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        assert command.name == name
        assert len(line) < 70, "one line of help"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(cli: Cli, name: str) -> None:
    result = cli(name, "--help")
    assert result.code == 0
    for option in ("--config", "--verbose", "--quiet"):
        assert option in result.out


def test_help_loads_no_heavy_module() -> None:
    code = (
        "import sys; from crossdock.cli.main import run; run(['--help']);"
        "print(sorted({'pydantic', 'yaml', 'rich', 'asyncio', 'asyncssh', 'aiohttp', 'botocore'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in COMMANDS)


def test_version(cli: Cli) -> None:
    assert cli("--version").out.startswith("crossdock 0.")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 3),
        (NotFound("x", operation="stat", endpoint="e"), 4),
        (TimedOut("x", operation="stat", endpoint="e"), 5),
        (PermissionDenied("x", operation="stat", endpoint="e"), 7),
        (CrossdockError("x"), 7),
    ],
)
def test_exit_codes(error: CrossdockError, code: int) -> None:
    assert exits.code_of(error) == code
    assert code in exits.CODES


def test_usage(cli: Cli) -> None:
    result = cli("lss")
    assert (result.code, result.err) == (2, "crossdock: no command 'lss'; did you mean ls?\nNext: crossdock --help\n")
    result = cli("ls", "-rf")
    assert (result.code, result.err.splitlines()[1]) == (
        2, "Next: crossdock ls --help; -- goes before names that begin with -",
    )  # fmt: skip
    assert cli("sync", "a").code == 2


def test_an_error_is_a_line_and_a_next_step(cli: Cli, tmp_path: Path) -> None:
    result = cli("ls", "nope:x")
    assert result.code == 3
    first, second = result.err.splitlines()
    assert first == "crossdock: no endpoint is called 'nope' (no crossdock.yaml here)"
    assert second.startswith("Next: add nope to 'endpoints:'")
    (tmp_path / "c.yaml").touch()
    assert (
        cli("--config", "c.yaml", "ls", "nope:x")
        .err.splitlines()[1]
        .startswith("Next: add nope to 'endpoints:' in c.yaml, or pass --config FILE")
    )
    assert "Traceback" in cli("-vv", "ls", "nope:x").err
    assert cli("run", "--once").err.startswith("crossdock: there is no crossdock.yaml here\nNext: write one, or ")
    (tmp_path / "crossdock.yml").touch()
    for argv in (["check"], ["run"], ["late"]):
        assert cli(*argv).err.endswith("Next: write one, or pass --config crossdock.yml\n")


@pytest.mark.parametrize("command", ["cp", "sync"])
def test_what_is_left_behind_is_told(cli: Cli, tree: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """As by a line that is dead for good: neither the file nor the removal of what was staged gets through."""

    def dead(operation: str) -> ConnectionFailed:
        return ConnectionFailed("the line is dead", operation=operation, endpoint="there", path="b.csv")

    async def copy(*_: object, on_checkpoint: Callable[[bytes], None], **__: object) -> None:
        on_checkpoint(b"token")
        error = dead("write")
        error.exhausted = True
        raise error

    async def discard(*_: object) -> None:
        raise dead("delete")

    monkeypatch.setattr(attempts, "copy", copy)
    monkeypatch.setattr(Storage, "discard", discard)
    source = tree / "sub/b.csv" if command == "cp" else tree / "sub"
    result = cli(command, source, tree / "there")
    assert "left behind ('crossdock doctor' removes it a day later): delete there:b.csv: the line is dead" in result.err


def test_a_pattern_is_no_location(cli: Cli, tmp_path: Path) -> None:
    for argv in (["ls", "*.csv"], ["cp", "in/*.csv", "./out/"]):
        result = cli(*argv)
        assert (result.code, result.err.splitlines()[1]) == (
            4, "Next: a location is one file or folder; patterns are for: crossdock sync SRC DST --include '*.csv'",
        )  # fmt: skip
    (tmp_path / "*.csv").write_bytes(b"1")
    assert cli("cat", "*.csv").out == "1"


def test_global_options_stand_anywhere(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("endpoints: {here: {type: local, root: .}}")
    for argv in (["--config", "c.yaml", "ls", "here:"], ["ls", "--config", "c.yaml", "here:"]):
        assert cli(*argv).out.splitlines() == ["c.yaml"]


@pytest.mark.parametrize("text", ["endpoints: {a: {type: sftp, hots: x}}", "endpoints: ["])
def test_mistakes_in_the_configuration_count_where_it_is_needed(cli: Cli, tmp_path: Path, text: str) -> None:
    (tmp_path / "crossdock.yaml").write_text(text)
    (tmp_path / "f").write_bytes(b"1")
    assert cli("cp", "f", "./g:h").code == 0
    assert cli("ls", f"file://{tmp_path}/").out.splitlines() == ["crossdock.yaml", "f", "g:h"]
    assert cli("doctor", "--look-only", ".").code == 0
    assert cli("cp", "f", "new").code == 0, "a name without a colon is hardly an endpoint's"
    for argv in (["ls", "a:"], ["cp", "f", "a:f"], ["trust", "a:"], ["--config", "crossdock.yaml", "ls", "."]):
        result = cli(*argv)
        assert result.code == 3
        assert result.err.startswith("crossdock: crossdock.yaml:1: ")


def test_a_forgotten_colon(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "crossdock.yaml").write_text("endpoints: {lake: {type: local, root: .}}")
    (tmp_path / "f").write_bytes(b"1")
    for argv in (["ls", "lake"], ["doctor", "lake"], ["cp", "f", "lake"], ["cp", "f", "lake/in/"]):
        result = cli(*argv)
        assert result.code == 3
        assert result.err.startswith("crossdock: 'lake' is an endpoint, and there is nothing of that name here\nNext: ")
    assert "write lake:in/ for the endpoint" in result.err
    assert cli("cp", "f", "./lake").code == 0
    assert cli("cat", "lake").out == "1", "what is there is meant"


def test_check(cli: Cli, tmp_path: Path) -> None:
    assert cli("check").code == 3
    (tmp_path / "crossdock.yaml").write_text("endpoints: {here: {type: local, root: .}}")
    result = cli("check")
    assert (result.code, result.out) == (0, "here: local\n")
    (tmp_path / "bad.yaml").write_text("endpoints:\n  a: {type: locl, root: .}\n  b: {type: local}\n")
    result = cli("check", "bad.yaml")
    assert result.code == 3
    assert result.err.splitlines() == [
        "crossdock: bad.yaml:2: endpoints.a.type: unknown type 'locl'",
        "Next: did you mean 'local'?",
        "crossdock: bad.yaml:3: endpoints.b: root is missing",
        "Next: add 'root:'",
    ]


def test_a_copy_to_nowhere(cli: Cli) -> None:
    result = cli("cp", "a")
    assert result.code == 2
    assert result.err.startswith("crossdock: where from, and where to: only one place was named\n")


def test_the_file_is_told_as_it_was_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "crossdock.yaml").write_text("endpoints: {here: {type: memory}}")
    (tmp_path / "x").mkdir()
    (tmp_path / "x/crossdock.yaml").write_text("endpoints: {there: {type: memory}}")
    assert "no endpoint is called 'no' (crossdock.yaml)" in cli("ls", "no:").err
    assert "no endpoint is called 'no' (x/crossdock.yaml)" in cli("ls", "no:", "--config", "x/crossdock.yaml").err


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number:05}-{'x' * 100}").touch()
    command = f"'{PROGRAM}' ls; echo \"code $?\" >&2"
    done = subprocess.run(
        ["bash", "-c", f"{{ {command}; }} | head -n 1"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.startswith("00000-")
    assert done.stderr == "code 141\n"


def test_output_to_a_pipe_has_no_progress(tree: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [PROGRAM, "sync", "in", "out"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == ""
    assert "\x1b" not in done.stderr
    assert done.stderr.startswith("5 files copied (1.97 KiB), 0 skipped in ")
    assert done.stderr.count("\n") == 1
    quiet = subprocess.run(
        [PROGRAM, "-q", "sync", "in", "out"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert quiet.stdout == quiet.stderr == ""
    assert contents(tmp_path / "out") == contents(tree)


def test_names_the_terminal_cannot_show_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "ü€").touch()
    done = subprocess.run(
        [PROGRAM, "ls"],
        cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == b"\xfc\\u20ac\n"


@pytest.mark.parametrize("options", [[], ["-v"]], ids=" ".join)
def test_what_is_logged_cannot_drive_the_terminal(tmp_path: Path, options: list[str]) -> None:
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    (tmp_path / "in/a").write_bytes(b"1")
    (tmp_path / "own.py").write_text(
        "from crossdock.transfer.transforms import Transform\n"
        "class Own(Transform):\n"
        "    def feed(self, data): return data\n"
        "    def close(self): raise ValueError('\\x1b[31mred\\u202e\\nnext')\n"
    )
    (tmp_path / "crossdock.yaml").write_text(
        "endpoints: {a: {type: local, root: in}, b: {type: local, root: out}}\n"
        "flows: {f: {source: 'a:', rules: [{match: '.*', to: 'b:', transform: ['python:own:Own']}]}}\n"
    )
    result = subprocess.run(
        [PROGRAM, *options, "run", "--once"], cwd=tmp_path, capture_output=True, env=os.environ | {"PYTHONPATH": "."}
    )
    assert result.returncode == 0, result.stderr
    assert b"ValueError: \\x1b[31mred\\u202e\\nnext\n" in result.stderr


@pytest.mark.parametrize(
    ("package", "argv", "told"),
    [
        ("asyncssh", "ls partner:", "type sftp needs the package asyncssh … 'crossdock[sftp]'"),
        ("asyncssh", "demo", "the command demo needs the package asyncssh … 'crossdock[all]'"),
        ("asyncpg", "late --ledger postgresql://127.0.0.1:1/it", "needs the package asyncpg … 'crossdock[postgres]'"),
        ("watchfiles", "run", "watching a folder needs a library … 'crossdock[watch]'"),
    ],
)
def test_a_package_that_is_not_installed(tmp_path: Path, package: str, argv: str, told: str) -> None:
    """It only matters to who needs it."""
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / f"{package}.py").write_text(f"raise ModuleNotFoundError('No module', name={package!r})\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").touch()
    (tmp_path / "crossdock.yaml").write_text(
        "endpoints:\n  here: {type: local, root: in}\n  there: {type: local, root: out}\n"
        "  partner: {type: sftp, host: 127.0.0.1, port: 1, user: me}\n"
        "flows: {f: {source: 'here:', trigger: {every: 1h, watch: true}, rules: [{to: 'there:'}]}}\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}/none:{os.environ.get('PYTHONPATH', '')}"}
    command = [PROGRAM, *argv.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=60)
    what, _, extra = told.partition(" … ")
    assert re.search(rf"{what}\n.*Next: pip install {re.escape(extra)}\n", done.stderr), done.stderr
    assert done.returncode == exits.CONFIG
    assert "Traceback" not in done.stderr
    done = subprocess.run([PROGRAM, "ls", "here:"], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("a.csv\n", "")


def test_the_entry_point_is_installed() -> None:
    done = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=True, timeout=60)
    assert "Commands:" in done.stdout
    assert callable(main.main)


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_without_streams(tmp_path: Path, redirect: str) -> None:
    """A caller may have closed them; files that are opened then must not be taken for them."""
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {PROGRAM} cp a b {redirect}"], cwd=tmp_path, stderr=subprocess.PIPE, timeout=60
    )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


def test_nobody_can_be_asked(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for redirect in ("<&-", "< /dev/null"):
        command = ["/bin/sh", "-c", f"exec {PROGRAM} rm -r folder {redirect}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.returncode, "add --yes" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("command", [["ls", "-R", "--json", "."], ["cat", "a"], ["cp", "--json", "a", "b"]])
def test_output_that_finds_no_room(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([PROGRAM, *command], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 5
    assert b"crossdock: write to stdout: No space left on device\nNext: " in done.stderr
    assert b"Traceback" not in done.stderr


def test_messages_that_find_no_room(tmp_path: Path) -> None:
    """A log on a full disk ends nothing."""
    (tmp_path / "a").write_bytes(b"x")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([PROGRAM, "cp", "-v", "a", "b"], cwd=tmp_path, stderr=full, timeout=60)
        assert (done.returncode, (tmp_path / "b").read_bytes()) == (0, b"x")
        assert subprocess.run([PROGRAM, "ls", "c"], cwd=tmp_path, stderr=full, timeout=60).returncode == 4


def test_names_are_utf8_whatever_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that was filled under one locale knows the files under another."""
    started: list[list[str]] = []
    monkeypatch.delenv("PYTHONUTF8", raising=False)
    monkeypatch.setattr(os, "execv", lambda _, argv: started.append(argv))
    main._read_names_as_utf8()
    assert not started, "here it is UTF-8"
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    again = [sys.executable, "-X", "utf8=1", *sys.orig_argv[1:]]
    for _ in range(2):
        main._read_names_as_utf8()
        monkeypatch.setattr(sys, "orig_argv", again)
    assert started == [again], "once"
    monkeypatch.undo()
    (tmp_path / "Zoë.csv").touch()
    said_no = {**os.environ, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    said_no.pop("PYTHONIOENCODING", None)
    isolated = [sys.executable, "-I", "-X", "utf8=0", "-m", "crossdock"]
    for program in ([PROGRAM], isolated):
        done = subprocess.run([*program, "ls"], cwd=tmp_path, capture_output=True, timeout=60, env=said_no)
        assert done.stdout.decode() == "Zoë.csv\n", done.stderr
    folder = tmp_path / "locales"
    folder.mkdir()
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.ISO-8859-1")]
    if shutil.which(command[0]) and subprocess.run(command, capture_output=True, timeout=60).returncode in (0, 1):
        given = {**os.environ, "LOCPATH": str(folder), "LC_ALL": "en_US.ISO-8859-1"}
        given.pop("PYTHONUTF8", None)
        done = subprocess.run(
            [PROGRAM, "ls", "--json", tmp_path / "Zoë.csv"], capture_output=True, timeout=60, env=given
        )
        assert json.loads(done.stdout)["name"] == "Zoë.csv", done.stderr


@pytest.mark.parametrize("limit", [8, 12])
def test_so_few_files_may_be_open_that_nothing_works(tmp_path: Path, limit: int) -> None:
    """No traceback: at 12, the event loop could not even be closed again."""
    wanted = (3, f"crossdock: only {limit} files may be open at once here\nNext: raise the limit: ulimit -n 1024\n")
    assert _with_few_files(limit, "ls", tmp_path) == wanted
    assert _with_few_files(limit, "sync", "--processes", "9", tmp_path, tmp_path / "new") == wanted


@pytest.mark.parametrize(("limit", "processes"), [(16, 8), (20, 8), (23, 8), (16, 4), (18, 4)])
def test_fewer_files_may_be_open_than_the_processes_need(tmp_path: Path, limit: int, processes: int) -> None:
    """At 20 with 8 of them, the event loop could be made, and neither run nor be closed."""
    why = f"only {limit} files may be open at once here, too few for {processes} processes"
    said = _with_few_files(limit, "sync", "--processes", str(processes), tmp_path, tmp_path / "new")
    assert said == (3, f"crossdock: {why}\nNext: raise the limit: ulimit -n 1024\n")


@pytest.mark.parametrize(("limit", "processes"), [(24, 8), (20, 4)])
def test_as_many_files_may_be_open_as_the_processes_need(tmp_path: Path, limit: int, processes: int) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"{number}.txt").write_bytes(b"%d" % number)
    code, said = _with_few_files(limit, "sync", "--processes", str(processes), source, tmp_path / "new")
    assert (code, said.partition(" (")[0]) == (0, "40 files copied")
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == {
        f"{number}.txt": b"%d" % number for number in range(40)
    }


def _with_few_files(limit: int, *words: object) -> tuple[int, str]:
    """The exit code of the command and what it says where no more files may be open."""
    limited = ["sh", "-c", f'ulimit -n {limit}; exec "$0" "$@"', PROGRAM, *map(str, words)]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr
