"""Measure crossdock and its peers in turn: `python -m benchmarks`. `… profile ITEM` says where crossdock's time goes.

Each round gives every tool one turn, in an order that shifts from round to round; ratios compare turns of one round.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.servers import Missing

from benchmarks import ledger, profiling, report
from benchmarks.bed import Bed
from benchmarks.items import FULL, ITEMS, QUICK, Item, Scale
from benchmarks.measure import INTERVAL, measure
from benchmarks.report import Outcome, Result, Run
from benchmarks.tools import BEST, Tool, machine, tools

PAGE = Path(__file__).resolve().parents[1] / "docs/performance.md"
_NAMES = [*(item.name for item in ITEMS), ledger.NAME]
_PATIENCE = 1
"""A tool that failed so often at an item gets no more turns at it."""


def main() -> int:
    parser = _parser()
    arguments = parser.parse_intermixed_args()
    named = [*arguments.names, *arguments.only]
    unknown = sorted(set(named) - set(_NAMES))
    if unknown:
        parser.error(f"no item is called {', '.join(unknown)}; there are {', '.join(_NAMES)}")
    items = [item for item in ITEMS if not named or item.name in named]
    profiles = arguments.verb == "profile"
    if profiles and not items:
        parser.error(f"{ledger.NAME} has no profile: it is not a command")
    scale = QUICK if arguments.quick else FULL
    # Ended from outside, the servers and the data must go as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        # Before the servers run beside it.
        alone = _ledger(scale, arguments) if not profiles and (not named or ledger.NAME in named) else None
        if not items:
            _write(Outcome([_first_fact()], alone), scale, arguments)
            return 0
        with Bed(scale) as bed:
            if profiles:
                return profiling.profile(bed, items, arguments.flags.split())
            return _compare(bed, items, alone, arguments)
    except Missing as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("verb", nargs="?", choices=["compare", "profile"], default="compare")
    parser.add_argument("names", nargs="*", metavar="ITEM", help=f"of {', '.join(_NAMES)}; by default all")
    parser.add_argument("--only", nargs="+", metavar="ITEM", default=[], help="the same")
    parser.add_argument("--tools", nargs="+", metavar="TOOL", help="these tools only")
    parser.add_argument("--runs", type=int, default=3, help="rounds (3)")
    parser.add_argument("--quick", action="store_true", help="128 MiB, 300 and 3,000 files, 100,000 rows")
    parser.add_argument("--timeout", type=float, default=900, help="seconds after which a run is ended (900)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample")
    parser.add_argument("--write-docs", action="store_true", help=f"put the tables into docs/{PAGE.name}")
    parser.add_argument("--flags", default="", help="profile: more flags for crossdock, in one word")
    return parser


def _ledger(scale: Scale, arguments: argparse.Namespace) -> ledger.Found:
    found = ledger.measure(scale.rows, arguments.runs)
    print("\n".join([f"{ledger.NAME}: {found.where}", *ledger.table(found), ""]), flush=True)
    return found


def _compare(bed: Bed, items: Sequence[Item], alone: ledger.Found | None, arguments: argparse.Namespace) -> int:
    found, missing = tools(bed)
    if arguments.tools:
        found = [tool for tool in found if tool.name in arguments.tools]
    facts = _facts(bed, found, arguments.runs)
    print("\n".join([*facts, *(f"missing: {name}: {why}" for name, why in missing.items())]), flush=True)
    outcome = Outcome(facts, alone, flags=BEST, missing=missing)
    results = outcome.results
    for kind in dict.fromkeys(item.kind for item in items):
        same = [item for item in items if item.kind == kind]
        bed.prepare(same)
        for item in same:
            results.append(_measure(bed, item, found, arguments.runs, arguments.timeout))
            lines = [f"\n{item.name}: {item.title(bed.scale)}", *report.table(results[-1], bed.scale)]
            print("\n".join([*lines, *report.problems(results[-1])]), flush=True)
            if arguments.json:
                report.write_json(arguments.json, outcome)
        bed.discard(kind)
    print("\n".join(["", *report.summary(results, bed.scale)]))
    _write(outcome, bed.scale, arguments)
    return int(any(result.runs and not result.good("crossdock") for result in results))


def _write(outcome: Outcome, scale: Scale, arguments: argparse.Namespace) -> None:
    if arguments.json:
        report.write_json(arguments.json, outcome)
    if arguments.write_docs:
        report.write_into(PAGE, report.page(outcome, scale))


def _measure(bed: Bed, item: Item, found: Sequence[Tool], rounds: int, timeout: float) -> Result:
    able = [tool for tool in found if tool.command(item) is not None]
    result = Result(item, {tool.name: [] for tool in able})
    for turn in range(rounds):
        shift = turn % len(able) if able else 0
        for tool in able[shift:] + able[:shift]:
            past = result.runs[tool.name]
            failures = sum(run is not None and bool(run.problem) for run in past)
            past.append(None if failures >= _PATIENCE else _turn(bed, item, tool, timeout))
    return result


def _turn(bed: Bed, item: Item, tool: Tool, timeout: float) -> Run:
    command = tool.command(item)
    assert command is not None
    before = bed.reset(item)
    sample = measure(command, {**bed.environment(), **tool.environment()}, bed.settings, timeout=timeout)
    if sample.code:
        problem = f"ended with {sample.code} after {sample.seconds:.1f} s: {_last_lines(sample.said)}"
    else:
        problem = bed.wrong(item, before)
    print(
        f"  {item.name:<17} {tool.name:<24} {sample.seconds:8.2f} s  {sample.cpu:7.2f} s CPU"
        f"  {sample.rss >> 20:5} MiB  {problem or 'ok'}",
        file=sys.stderr,
        flush=True,
    )
    return Run(sample, bed.hide(problem))


def _last_lines(said: str) -> str:
    return " / ".join(said.splitlines()[-3:])[-500:]


def _first_fact() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}; {', '.join(machine())}; load before the run {os.getloadavg()[0]:.1f}"


def _facts(bed: Bed, found: Sequence[Tool], rounds: int) -> list[str]:
    versions = dict.fromkeys(tool.version for tool in found)
    return [
        _first_fact(),
        f"servers and tools on the same machine, over loopback; OpenSSH sshd ({bed.sshd.version}), "
        f"S3 by Ceph's gateway with objects in memory ({bed.ceph.version}), "
        f"files {'in memory (tmpfs)' if bed.memory else 'on disk'}",
        f"tools: {', '.join(versions)}",
        f"rounds: {rounds} (median, fastest in brackets); CPU: user + system of the whole process tree; peak: largest "
        f"sum of resident memory over the process tree, sampled every {INTERVAL * 1000:.0f} ms",
    ]


if __name__ == "__main__":
    raise SystemExit(main())
