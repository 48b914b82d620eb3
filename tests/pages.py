"""Pages of the documentation: their blocks, and the commands in these, run as they are written."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True)
class Block:
    kind: str
    text: str


def blocks(page: str) -> list[Block]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def run_commands(text: str, folder: Path) -> int:
    """Run each `$ command` of a console block in `folder`; it prints what the block shows. Returns their number."""
    examples = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    for example in examples:
        command, _, expected = example.partition("\n")
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
        )  # fmt: skip
        assert re.fullmatch(_pattern(expected), done.stdout), f"$ {command}\n{done.stdout}\n-- expected\n{expected}"
    return len(examples)


def _pattern(expected: str) -> str:
    """`…` is anything in a line; a line of its own, any lines."""
    lines = [
        "(?:.*\n)*?" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + "\n"
        for line in expected.splitlines()
    ]
    return "".join(lines)
