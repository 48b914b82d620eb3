"""The ledger alone: transfers claimed and finished per second while it grows, and a poll over files that it knows.

Every step is a process of its own, so that its memory is its own, on one SQLite file that grows from step to step.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crossdock.ledger.base import Planned, Query
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.ledger.sqlite_file import connect, file_system
from crossdock.storage.base import Entry

__all__ = ["NAME", "Found", "measure", "step", "table"]

NAME = "ledger"
SIZES = (1_000, 10_000, 100_000, 1_000_000)
KNOWN = 100_000
"""Files of one poll."""
WORKERS, CLAIM = 4, 100
_WORK = 3_000
"""Transfers of one round, or as many as the rounds leave of a small ledger."""
_AIM = 3_000
_DAY = 86_400.0
_MIB = 1 << 20
_MODIFIED = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
_RECEIPT = {"size": 10_240, "sha256": "ab" * 32}


@dataclass(slots=True)
class Poll:
    """`unknown()` over files that are all known. `before`, `peak`: most resident bytes, before it and with it."""

    seconds: float
    before: int
    peak: int


@dataclass(slots=True)
class Step:
    """One size. `rates`: transfers per second, claimed and finished, by round; `cpu`: seconds for one of them."""

    rows: int
    added: float
    """Rows per second while it grew to this size."""
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    polls: list[Poll] = field(default_factory=list)
    """By round; over fewer files than `KNOWN` where the ledger is smaller."""
    firsts: list[Poll] = field(default_factory=list)
    """The same a day later, when each file is noted as still there."""


@dataclass(slots=True)
class Found:
    """What was measured, and on what."""

    where: str
    """SQLite's version, journal and file system."""
    steps: list[Step] = field(default_factory=list)


def measure(largest: int, rounds: int) -> Found:
    """All sizes up to `largest`, each `rounds` times; on the disk of temporary files, where it takes 0.6 KB per row."""
    with tempfile.TemporaryDirectory(prefix="crossdock-bench-") as folder:
        file = Path(folder) / "crossdock.db"
        found = Found("")
        for rows in SIZES:
            if rows <= largest:
                found.steps.append(step(file, rows, found.steps, rounds))
                rate = statistics.median(found.steps[-1].rates)
                print(f"  {NAME:<17} {rows:>9,} rows {rate:9,.0f}/s", file=sys.stderr, flush=True)
        found.where = _where(file)
    return found


def step(file: Path, rows: int, past: Sequence[Step], rounds: int) -> Step:
    """Let the ledger grow to so many rows, and measure it. `past`: the sizes that it had."""
    rows_before = past[-1].rows if past else 0
    grown = _child("grow", file, rows_before, rows)
    found = Step(rows, (rows - rows_before) / grown["seconds"])
    os.sync()
    for _ in range(rounds):
        # A part of what is there stays pending, so that no claim finds an empty ledger.
        done = _child("work", file, min(_WORK, (rows - rows_before) // (rounds + 1)))
        found.rates.append(done["count"] / done["seconds"])
        found.cpu.append(done["cpu"] / done["count"])
    for number in range(len(past) * rounds, (len(past) + 1) * rounds):
        found.polls.append(Poll(**_child("poll", file, min(KNOWN, rows), 0)))
        # Later than whatever has noted the files before.
        found.firsts.append(Poll(**_child("poll", file, min(KNOWN, rows), 2 * (number + 1))))
    return found


def _where(file: Path) -> str:
    connection = connect(file)
    try:
        journal = connection.execute("PRAGMA journal_mode").fetchone()[0]
    finally:
        connection.close()
    return (
        f"SQLite {sqlite3.sqlite_version}, journal {journal}, every commit synced to disk "
        f"({file_system(file) or 'unknown file system'}); {WORKERS} workers in one process, claims of {CLAIM}"
    )


def table(found: Found) -> list[str]:
    """Markdown: a row for each size, then the aims."""
    heads = ["rows", "added/s", "claimed and finished/s (slowest–fastest)", "CPU ms each", "poll s", "first of a day s"]
    heads += ["peak MiB (before the listing)"]
    lines = [heads, ["---:"] * len(heads)]
    for each in found.steps:
        memory = max(each.polls, key=lambda poll: poll.peak)
        lines.append(
            [
                f"{each.rows:,}",
                f"{each.added:,.0f}",
                f"{statistics.median(each.rates):,.0f} ({min(each.rates):,.0f}–{max(each.rates):,.0f})",
                f"{statistics.median(each.cpu) * 1000:.2f}",
                _seconds(each.polls),
                _seconds(each.firsts),
                f"{memory.peak / _MIB:.0f} ({memory.before / _MIB:.0f})",
            ]
        )
    rates = [statistics.median(each.rates) for each in found.steps]
    slowest = min(rates)
    return [
        *("| " + " | ".join(cells) + " |" for cells in lines),
        "",
        f"- a poll: `unknown()` over {KNOWN:,} known files, or as many as there are; all of them were found known",
        f"- ≥ {_AIM:,}/s at every size: {slowest:,.0f}/s, {'met' if slowest >= _AIM else '**missed**'}",
        f"- the largest is {rates[-1] / rates[0]:.2f} × as fast as the smallest",
    ]


def _seconds(polls: Sequence[Poll]) -> str:
    seconds = [poll.seconds for poll in polls]
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})"


# In the process of a step


def _child(verb: str, file: Path, *numbers: int) -> Any:
    command = [sys.executable, "-m", __name__, verb, str(file), *map(str, numbers)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def _entry(number: int) -> Entry:
    path = f"outbox/{number // 1000:04}/payments_{number:07}.csv"
    return Entry(path=path, size=number, modified=_MODIFIED)


def _planned(number: int) -> Planned:
    entry = _entry(number)
    return Planned(flow="statements", source="bank", entry=entry, target="lake", target_path=f"in/{entry.path}")


async def _grow(ledger: SqliteLedger, start: int, end: int) -> dict[str, float]:
    begun = time.perf_counter()
    for first in range(start, end, 5_000):
        await ledger.add([_planned(number) for number in range(first, min(end, first + 5_000))], who="bench")
    return {"seconds": time.perf_counter() - begun}


async def _work(ledger: SqliteLedger, count: int) -> dict[str, float]:
    left = count
    done = 0

    async def worker(name: str) -> None:
        nonlocal left, done
        while left > 0:
            ask = min(CLAIM, left)
            left -= ask
            leases = await ledger.claim(name, limit=ask)
            await asyncio.gather(*(ledger.delivered(lease, _RECEIPT, owed=False) for lease in leases))
            done += len(leases)

    begun, cpu = time.perf_counter(), _cpu()
    await asyncio.gather(*(worker(f"w{number}") for number in range(WORKERS)))
    found = {"seconds": time.perf_counter() - begun, "cpu": _cpu() - cpu, "count": done}
    if done != count:
        raise SystemExit(f"{done} of {count} transfers were claimed")
    return found


async def _poll(ledger: SqliteLedger, count: int) -> dict[str, float]:
    async def listing() -> AsyncIterator[Entry]:
        for number in range(count):
            yield _entry(number)

    # So that the rest of a first use (imports, statements) is not taken for the listing's.
    await ledger.find(Query(limit=1))
    before, begun = _peak(), time.perf_counter()
    async for entry in ledger.unknown("statements", "bank", listing()):
        raise SystemExit(f"{entry.path} was not known")
    return {"seconds": time.perf_counter() - begun, "before": before, "peak": _peak()}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _peak() -> int:
    """Of this process alone; `ru_maxrss` begins with what its parent had (getrusage(2), proc(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


async def _main(verb: str, file: str, *numbers: int) -> None:
    days = numbers[1] if verb == "poll" else 0
    async with SqliteLedger(file, clock=lambda: time.time() + days * _DAY) as ledger:
        if verb == "grow":
            found = await _grow(ledger, *numbers)
        elif verb == "work":
            found = await _work(ledger, *numbers)
        else:
            found = await _poll(ledger, numbers[0])
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
