"""Runs → numbers → tables, for the terminal and for docs/performance.md."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import ledger
from benchmarks.items import COPY, FLOW, SMALL_SIZE, Item, Scale
from benchmarks.measure import Sample

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
_MIB = 1 << 20


@dataclass(slots=True)
class Run:
    """One tool's turn at one item. `problem`: what was wrong at the target, or with the command; "" if all was well."""

    sample: Sample
    problem: str = ""


@dataclass(slots=True)
class Result:
    """One item. `runs`: by tool, one per round; None: that round is missing, after a failure too many."""

    item: Item
    runs: dict[str, list[Run | None]] = field(default_factory=dict)

    def good(self, tool: str) -> list[Sample]:
        return [run.sample for run in self.runs.get(tool, ()) if run is not None and not run.problem]

    def seconds(self, tool: str) -> float | None:
        """The median."""
        samples = self.good(tool)
        return statistics.median(sample.seconds for sample in samples) if samples else None

    def ratio(self, ours: str, peer: str) -> float | None:
        """How many times as fast as the peer: the median over the rounds in which both did their work."""
        pairs = zip(self.runs.get(ours, ()), self.runs.get(peer, ()), strict=False)
        ratios = [
            theirs.sample.seconds / mine.sample.seconds
            for mine, theirs in pairs
            if mine is not None and theirs is not None and not mine.problem and not theirs.problem
        ]
        return statistics.median(ratios) if ratios else None

    def ours(self) -> list[str]:
        return [name for name in self.runs if name.partition(" ")[0] == "crossdock"]

    def best(self) -> str | None:
        """crossdock's faster way of doing it."""
        timed = [(seconds, name) for name in self.ours() if (seconds := self.seconds(name)) is not None]
        return min(timed)[1] if timed else None

    def as_json(self) -> dict[str, Any]:
        return {
            "item": asdict(self.item),
            "runs": {name: [r and asdict(r) for r in runs] for name, runs in self.runs.items()},
        }


@dataclass(slots=True)
class Outcome:
    """All that a run of the harness found."""

    facts: Sequence[str]
    ledger: ledger.Found | None = None
    results: list[Result] = field(default_factory=list)
    flags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of rclone-best, by item."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Tool → why it is not there."""


def rate(item: Item, scale: Scale, seconds: float) -> str:
    if item.kind == "big":
        return f"{scale.big / 1e6 / seconds:,.0f} MB/s"
    if item.kind == "help":
        return "–"
    return f"{(scale.small if item.kind == 'small' else scale.again) / seconds:,.0f} files/s"


def table(result: Result, scale: Scale) -> list[str]:
    """A Markdown table of one item."""
    ours = [name for name in result.ours() if result.good(name)]
    heads = ["tool", "seconds (min)", "rate", "CPU s", "peak MiB", "exit", *(f"{name} is" for name in ours)]
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, runs in result.runs.items():
        good = result.good(name)
        if good:
            median = statistics.median(sample.seconds for sample in good)
            cells = [
                f"{median:.2f} ({min(sample.seconds for sample in good):.2f})",
                rate(result.item, scale, median),
                f"{statistics.median(sample.cpu for sample in good):.2f}",
                f"{max(sample.rss for sample in good) / _MIB:.0f}",
                "0",
            ]
        else:
            code = next((run.sample.code for run in runs if run is not None), "?")
            cells = ["failed", "–", "–", "–", str(code)]
        ratios = ["–" if name == mine else _times(result.ratio(mine, name)) for mine in ours]
        rows.append([name, *cells, *ratios])
    return ["| " + " | ".join(row) + " |" for row in rows]


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f} ×" if ratio < 9.95 else f"{ratio:.0f} ×"


def problems(result: Result) -> list[str]:
    """What went wrong, each once, and which tools were not there."""
    said: dict[str, None] = {}
    for name, runs in result.runs.items():
        for run in runs:
            if run is not None and run.problem:
                said.setdefault(f"{name}: {run.problem}")
    return list(said)


def verdicts(result: Result) -> list[tuple[str, str, bool | None]]:
    """(aim, what was reached, whether that is enough; None: not measured), with crossdock's faster way."""
    found: list[tuple[str, str, bool | None]] = []
    mine = result.best()
    for peer, factor in result.item.aims:
        aim = f"≥ {factor:g} × {peer}"
        ratio = result.ratio(mine, peer) if mine else None
        found.append((aim, "not measured", None) if ratio is None else (aim, _times(ratio), ratio >= factor))
    if result.item.flow is not None:
        ratio = result.ratio(FLOW, COPY)
        aim = f"{FLOW}: ≥ {result.item.flow:g} × {COPY}"
        found.append((aim, "not measured", None) if ratio is None else (aim, _times(ratio), ratio >= result.item.flow))
    samples = result.good(mine) if mine else []
    if result.item.rss is not None and samples:
        peak = max(sample.rss for sample in samples)
        found.append((f"≤ {result.item.rss // _MIB} MiB", f"{peak / _MIB:.0f} MiB", peak <= result.item.rss))
    if result.item.seconds is not None and samples:
        median = statistics.median(sample.seconds for sample in samples)
        limit = result.item.seconds
        found.append((f"≤ {limit * 1000:.0f} ms", f"{median * 1000:.0f} ms", median <= limit))
    return found


def summary(results: Sequence[Result], scale: Scale) -> list[str]:
    """The aims, met and missed."""
    lines = ["| work | by | aim | reached | |", "|---|---|---|---:|---|"]
    for result in results:
        for aim, reached, enough in verdicts(result):
            word = {True: "met", False: "**missed**", None: "–"}[enough]
            lines.append(f"| {result.item.title(scale)} | {result.best() or '–'} | {aim} | {reached} | {word} |")
    return lines


def page(outcome: Outcome, scale: Scale) -> str:
    """What stands between the markers of docs/performance.md."""
    lines = [*(f"- {fact}" for fact in outcome.facts), ""]
    lines += [f"- Not measured: {name}: {reason}" for name, reason in outcome.missing.items()]
    if outcome.results:
        lines += ["", "### Aims", "", *summary(outcome.results, scale), ""]
    for result in outcome.results:
        lines += [f"### {result.item.title(scale)}", "", *table(result, scale), ""]
        if result.item.name in outcome.flags and "rclone-best" in result.runs:
            lines += [f"rclone-best: `{' '.join(outcome.flags[result.item.name])}`", ""]
        lines += [f"- {problem}" for problem in problems(result)]
        if lines[-1]:
            lines.append("")
    if outcome.ledger is not None:
        lines += ["### The ledger", "", f"{outcome.ledger.where}.", "", *ledger.table(outcome.ledger), ""]
    return "\n".join(lines)


def write_into(document: Path, text: str) -> None:
    """Replace what is between the two markers. Raises ValueError if they are not there."""
    old = document.read_text()
    head, begin, rest = old.partition(BEGIN)
    _, end, foot = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{document.name} has no lines {BEGIN} and {END}")
    document.write_text(f"{head}{BEGIN}\n{text.strip()}\n{END}{foot}")


def write_json(file: Path, outcome: Outcome) -> None:
    content = {
        "facts": list(outcome.facts),
        "size of a small file": SMALL_SIZE,
        "results": [one.as_json() for one in outcome.results],
        "ledger": outcome.ledger and asdict(outcome.ledger),
    }
    file.write_text(json.dumps(content, indent=1) + "\n")
