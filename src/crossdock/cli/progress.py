"""What a terminal shows while files move: a line for each of the files under way, and the total.

The transfers only add to counters here; a thread of rich's draws them a few times a second.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crossdock.cli.output import count, human_size, human_time
from crossdock.errors import shown

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Progress", "display", "on_a_terminal"]

_LINES = 8
_WINDOW = 5.0
"""Seconds over which the speed is taken."""


@dataclass(slots=True)
class _File:
    size: int | None
    done: int = 0


class Progress:
    """Counters of one run: `moved` as bytes arrive, `ended` with each file."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.files: dict[str, _File] = {}
        self.ended_files = 0
        self.skipped_files = 0
        self.deleted_files = 0
        self.moved_bytes = 0
        self.known_bytes = 0
        """Sizes of all files that were started; a listing that still runs adds to it."""
        self._samples: deque[tuple[float, int]] = deque([(self.started, 0)])

    def moved(self, path: str, added: int, size: int | None) -> None:
        file = self.files.get(path)
        if file is None:
            file = self.files[path] = _File(size)
            self.known_bytes += size or 0
        file.done += added
        self.moved_bytes += added

    def ended(self, path: str, *, failed: bool = False) -> None:
        file = self.files.pop(path, None)
        if file is None:
            return
        if failed:
            self.moved_bytes -= file.done
            self.known_bytes -= file.size or 0
            return
        self.ended_files += 1
        if file.size is not None:
            # A file copied within its store counts as a whole from here on.
            self.moved_bytes += file.size - file.done
        else:
            self.known_bytes += file.done

    def speed(self) -> float:
        """Bytes a second over the last few seconds."""
        now = time.monotonic()
        self._samples.append((now, self.moved_bytes))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW:
            self._samples.popleft()
        then, moved = self._samples[0]
        return max(0.0, (self.moved_bytes - moved) / (now - then)) if now > then else 0.0

    def __rich__(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column(width=20)
        for _ in range(3):
            table.add_column(justify="right", no_wrap=True)
        files = list(self.files.items())
        for path, file in files[:_LINES]:
            size = human_size(file.size) if file.size is not None else "?"
            bar = ProgressBar(total=file.size or 1, completed=file.done, pulse=file.size is None, width=20)
            table.add_row(Text(shown(path)), bar, f"{human_size(max(0, file.done))} of {size}", "", "")
        more = f", {self.skipped_files:,} skipped" if self.skipped_files else ""
        more += f", {self.deleted_files:,} deleted" if self.deleted_files else ""
        more += f", {len(files) - _LINES} more under way" if len(files) > _LINES else ""
        speed = self.speed()
        left = max(0, self.known_bytes - self.moved_bytes)
        table.add_row(
            Text(f"{count(self.ended_files, 'file')} done{more}", style="bold"),
            ProgressBar(total=self.known_bytes or 1, completed=self.moved_bytes, width=20),
            f"{human_size(self.moved_bytes)} of {human_size(self.known_bytes)}",
            f"{human_size(speed)}/s",
            f"ETA {human_time(left / speed)}" if speed and left else human_time(time.monotonic() - self.started),
        )
        return table


def on_a_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "") != "dumb"


@contextmanager
def display(progress: Progress, *, wanted: bool = True) -> Iterator[None]:
    """Draw on stderr while the block runs; rich respects NO_COLOR."""
    if not wanted or not on_a_terminal():
        yield
        return
    from rich.console import Console
    from rich.live import Live

    # Lines that are printed meanwhile appear above; what is written to stdout is the caller's and stays as it is.
    with Live(progress, console=Console(stderr=True), refresh_per_second=8, transient=True, redirect_stdout=False):
        yield
