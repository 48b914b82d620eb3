"""The entry point: global options, lazily loaded commands, errors → one line and an exit code."""

from __future__ import annotations

import errno
import gc
import importlib
import io
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from crossdock.cli import exits, memory
from crossdock.cli.session import Interrupted, Session, common
from crossdock.cli.table import COMMANDS
from crossdock.errors import ConfigError, CrossdockError, NotFound, shown

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["NO_ROOM", "complain", "complaint", "crossdock", "main", "run"]


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What a write to a file fails with for its disk's sake."""


_PLAN = "crossdock plan shows what a run would move"
_MEANT = {("crossdock run", name): _PLAN for name in ("--dry-run", "-n")}
"""What has another command of its own."""


class _OutputLost(Exception):
    """What was written to stdout went nowhere; its cause is the `OSError`."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("crossdock"):
                raise
            raise ConfigError(
                f"the command {cmd_name} needs the package {error.name}", hint="pip install 'crossdock[all]'"
            ) from error
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, 1)
            raise click.UsageError(f"no command {args[0]!r}" + (f"; did you mean {near[0]}?" if near else ""), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (OSError, BaseExceptionGroup) as error:
            # click would turn a closed pipe into exit code 1, which means failed transfers here.
            lost = _lost_output(error)
            if lost is None:
                raise
            raise _OutputLost from lost


def _version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"crossdock {version('crossdock')}")
        context.exit()


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="A location is NAME:PATH (see crossdock.yaml), a URL (sftp:// ftpes:// s3:// netstorage:// file://), or a "
    "local path.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@common
def crossdock() -> None:
    """Move files between SFTP, FTP, S3 and NetStorage servers and folders, and prove what arrived."""


def run(argv: Sequence[str] | None = None) -> int:
    """One command; returns its exit code. `argv` without the program's name."""
    session = Session()
    try:
        result = crossdock.main(args=argv, prog_name="crossdock", standalone_mode=False, obj=session)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return exits.USAGE
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "crossdock"
        hint = f"{command} --help"
        if isinstance(error, click.NoSuchOption):
            hint = _MEANT.get((command, error.option_name)) or f"{hint}; -- goes before names that begin with -"
        click.echo(f"crossdock: {_lines(error.format_message())}\nNext: {hint}", err=True)
        return exits.USAGE
    except (click.Abort, KeyboardInterrupt, Interrupted):
        return exits.INTERRUPTED
    except (_OutputLost, OSError) as error:
        lost = _lost_output(error if isinstance(error, OSError) else error.__cause__)
        if lost is None:
            if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            hint = "raise the limit (ulimit -n), or ask for fewer --transfers and --processes"
            click.echo(f"crossdock: too many open files\nNext: {hint}", err=True)
            return exits.TEMPORARY
        # The interpreter flushes stdout once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(lost, BrokenPipeError):
            return exits.PIPE
        click.echo(f"crossdock: write to stdout: {lost.strerror}\nNext: see to the disk that it goes to", err=True)
        return exits.TEMPORARY
    except CrossdockError as error:
        if session.verbose > 1:
            import traceback

            click.echo(_lines("".join(traceback.format_exception(error))), err=True)
        if isinstance(error, NotFound) and not {"*", "?"}.isdisjoint(error.path):
            include = f"--include {shlex.quote(error.path.rpartition('/')[2])}"
            error.hint = f"a location is one file or folder; patterns are for: crossdock sync SRC DST {include}"
        complain(error)
        return exits.code_of(error)
    return result if isinstance(result, int) else exits.OK


def _lost_output(error: BaseException | None) -> OSError | None:
    """The failed write to stdout, by itself or among what was broken off because of it."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_lost_output, error.exceptions)), None)
    if isinstance(error, OSError) and error.filename is None:
        return error if isinstance(error, BrokenPipeError) or error.errno in NO_ROOM else None
    return None


def complain(error: CrossdockError) -> None:
    """What went wrong and what to do next, on stderr."""
    click.echo("\n".join(complaint(error)), err=True)


def complaint(error: CrossdockError) -> Iterator[str]:
    """The lines that say so."""
    for mistake in getattr(error, "mistakes", [error]):
        yield f"crossdock: {_lines(mistake.message)}"
        for note in getattr(mistake, "__notes__", ()):
            yield f"Also: {_lines(note)}"
        if mistake.hint:
            yield f"Next: {_lines(mistake.hint)}"


def _lines(text: str) -> str:
    """Line ends stay, everything else that could drive a terminal is escaped."""
    return "\n".join(shown(line) for line in text.split("\n"))


class _Messages(io.FileIO):
    """Standard error, which nobody may read any more, and whose disk may be full: what is moved matters more."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def main() -> NoReturn:
    """The program, with the standard streams as it needs them."""
    _read_names_as_utf8()
    _replace_closed()
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Messages(2, "w", closefd=False)), encoding=sys.stderr.encoding, line_buffering=True
    )
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is escaped instead of ending the program.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    memory.keep()
    code = run()
    # What is left to do is to end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(code))
    # Else the interpreter, as it ends, looks for cycles in all that was loaded: a tenth of a second.
    gc.freeze()
    sys.exit(code)


def _read_names_as_utf8() -> None:
    """Start anew where the locale says otherwise: the ledger knows files by their names, whatever the terminal is."""
    # An option: python -I reads no environment. Of several -X utf8, the first counts.
    utf8 = ["-X", "utf8=1"]
    if sys.getfilesystemencoding() != "utf-8" and sys.orig_argv[1:3] != utf8 and sys.executable:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *utf8, *sys.orig_argv[1:]])


def _replace_closed() -> None:
    """A caller may have closed standard streams (`<&-`): what is opened next would get their numbers."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(number)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
