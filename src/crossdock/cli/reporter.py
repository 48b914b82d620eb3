"""What becomes of each file: lines, JSON, a report file, progress, and the summary at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from typing import TYPE_CHECKING

import click

from crossdock.cli import exits
from crossdock.cli.output import as_json, count, emit, human_size, human_time
from crossdock.cli.progress import Progress, display
from crossdock.cli.session import Session
from crossdock.errors import CrossdockError, shown

if TYPE_CHECKING:
    from crossdock.engine.sync import Outcome

__all__ = ["Reporter"]


class Reporter:
    """One run of cp or sync. `report` and `progress` are what `engine.sync.sync` calls."""

    def __init__(
        self,
        session: Session,
        *,
        json: bool = False,
        dry_run: bool = False,
        file: str | None = None,
        receipts: bool = False,
    ) -> None:
        self.session, self.json, self.dry_run, self._path, self._receipts = session, json, dry_run, file, receipts
        self.counts = {"copy": 0, "skip": 0, "delete": 0, "fail": 0}
        self.size = 0
        self.started = time.monotonic()
        self.failures: list[CrossdockError] = []
        self._progress = Progress()
        self._file: FileIO | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Draw progress and keep the report file open; says what is done if the run is stopped or fails."""
        import asyncio

        with ExitStack() as stack:
            if self._path is not None:
                self._file = stack.enter_context(_report_file(self._path))
            # Lines on the same terminal would run into the drawing.
            lines = (self.json or self.session.verbose > 0) and sys.stdout.isatty()
            wanted = not (self.session.quiet or self.dry_run or lines)
            stack.enter_context(display(self._progress, wanted=wanted))
            try:
                yield
            except asyncio.CancelledError:
                under_way = len(self._progress.files)
                stack.close()
                self.session.say(
                    f"stopped: {self._done()}; {count(under_way, 'file')} under way stopped, none of them is there in "
                    "part; the rest was not started. Run the same command again to go on."
                )
                raise
            except CrossdockError:
                stack.close()
                if any(self.counts.values()):
                    self.session.say(f"ended early: {self._done()}")
                raise

    def progress(self, path: str, added: int, size: int | None) -> None:
        self._progress.moved(path, added, size)

    def report(self, outcome: Outcome, *, tell: bool = True) -> None:
        """`tell`: say on stderr that it failed; False if the error will be raised."""
        self.counts[outcome.action] += 1
        self._progress.ended(outcome.path, failed=outcome.action == "fail")
        self._progress.skipped_files, self._progress.deleted_files = self.counts["skip"], self.counts["delete"]
        if outcome.action == "copy":
            self.size += outcome.size or 0
        if outcome.error is not None:
            self.failures.append(outcome.error)
        if self._file is not None:
            _write(self._file, as_json(outcome.as_json()) + "\n")
        if self.json:
            receipt = outcome.receipt.as_json() if self._receipts and outcome.receipt is not None else {}
            emit({**outcome.as_json(), **receipt})
        elif (self.dry_run and outcome.action != "skip") or self.session.verbose:
            click.echo(f"{self._verb(outcome.action)} {shown(outcome.path)} ({outcome.reason})")
        if outcome.action == "fail" and tell and not self.json:
            click.echo(f"crossdock: {shown(outcome.path)}: {_told(outcome)}", err=True)

    def _verb(self, action: str) -> str:
        return f"would {action}" if self.dry_run and action != "skip" else action

    def finish(self) -> int:
        """The summary, and the exit code."""
        seconds = time.monotonic() - self.started
        if self.json:
            emit({"summary": {**self.counts, "size": self.size, "seconds": round(seconds, 3)}})
        speed = f", {human_size(self.size / seconds)}/s" if self.size and not self.dry_run and seconds else ""
        self.session.say(f"{self._done()} in {human_time(seconds)}{speed}")
        return exits.SOME if self.counts["fail"] else exits.OK

    def _done(self) -> str:
        counts = self.counts
        parts = [f"{count(counts['copy'], 'file')} copied ({human_size(self.size)})", f"{counts['skip']:,} skipped"]
        if counts["delete"]:
            parts.append(f"{counts['delete']:,} deleted")
        if counts["fail"]:
            parts.append(f"{counts['fail']:,} failed")
        return ("would be " if self.dry_run else "") + ", ".join(parts)


def _told(outcome: Outcome) -> str:
    lines = [*str(outcome.error or outcome.reason).splitlines(), *getattr(outcome.error, "__notes__", ())]
    return "; ".join(map(shown, lines))


@contextmanager
def _report_file(path: str) -> Iterator[FileIO]:
    try:
        file = FileIO(path, "w")
    except OSError as error:
        raise click.UsageError(f"cannot write the report {path}: {error.strerror}") from error
    with file:
        yield file


def _write(file: FileIO, line: str) -> None:
    """One line of the report. An audit that is not whole is an error."""
    data = line.encode("ascii")
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        path = shown(str(file.name))
        raise CrossdockError(
            f"write the report {path}: {error.strerror}", hint="see to its disk, then run the same command again"
        ) from error
