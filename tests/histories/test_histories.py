"""Long histories of what owners, operators, clocks and crashes do, against a model of what must come of them.

`CROSSDOCK_HISTORIES` is how many there are in all, `CROSSDOCK_SEED` throws others, as `make histories` does each time.
One that fails is made smaller, and printed as what `KNOWN` takes.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.histories.contents import SALTED
from tests.histories.drawing import Operation, draw, shrunk
from tests.histories.history import play
from tests.histories.world import World

SEED = os.environ.get("CROSSDOCK_SEED") or "20261123"
HISTORIES = int(os.environ.get("CROSSDOCK_HISTORIES", "200"))
PARTS = 4

KNOWN: dict[str, tuple[dict[str, Any], list[Operation]]] = {
    "what a killed removal set aside, when a newer file was delivered, stayed there": (
        {"after": "delete", "transfers": 1},
        [
            ("put", 2, 20, "now"),
            ("run", "a", False, ((34, ("kill",)),)),
            ("put", 2, 12, "now"),
            ("run", "a", False, ()),
        ],
    ),
    "a newer file that a killed removal set aside stayed there when the flow was to leave its sources": (
        {"after": "delete", "transfers": 1},
        [
            ("put", 1, 12, "now"),
            ("run", "a", False, ((29, ("put", 1, 20, "now")), (32, ("kill",)))),
            ("configure", "after", "none"),
        ],
    ),
    "what was cancelled after a newer file was delivered kept the earlier one, put back, from all others": (
        {"to": ("d1:x1", "d2:x1"), "transfers": 1},
        [
            ("put", 1, 12, "now"),
            ("run", "a", False, ((24, ("fault",)),)),
            ("put", 1, 12, "now"),
            ("run", "a", False, ((26, ("put", 2, 20, "now")),)),
            ("both", ((13, ("delete", 2)), (15, ("back", 2, 0))), ((6, ("cancel", 4)),)),
            ("run", "a", False, ((45, ("back", 1, 1)),)),
        ],
    ),
    "what was put back was archived though a destination still had the newer one": (
        {"after": "archive", "keep": 7200.0, "to": ("d1:x1", "d2:x2"), "on_conflict": "version"},
        [
            ("put", 3, 12, "now"),
            ("run", "a", False, ((9, ("kill",)),)),
            ("put", 3, 12, "now"),
            ("run", "a", False, ((61, ("fault",)), (62, ("fault",)), (63, ("fault",)))),
            ("back", 3, 0),
        ],
    ),
    "a folder in the archive kept a file of its name at the source": (
        {"after": "archive", "rules": "split"},
        [("put", 2, 12, "now"), ("run", "a", False, ()), ("folder", 3)],
    ),
    "a newer file that a worker moved to the archive, and was killed before it saw that, was never sent": (
        {"after": "archive", "transfers": 1},
        [("put", 0, 12, "now"), ("run", "a", False, ((33, ("put", 0, 20, "now")), (34, ("kill",))))],
    ),
    "nor was one whose way back was cut off": (
        {"after": "archive", "transfers": 1},
        [("put", 0, 12, "now"), ("run", "a", False, ((33, ("put", 0, 20, "now")), (37, ("fault",))))],
    ),
    "nor what came back in that moment, as it had been delivered before": (
        {"after": "archive", "transfers": 1},
        [
            ("put", 0, 12, "now"),
            ("run", "a", False, ()),
            ("put", 0, 20, "now"),
            ("run", "a", False, ((37, ("back", 0, 0)), (38, ("kill",)))),
        ],
    ),
    "the probe of a worker that was killed lay beside the target for good, when the next made another version": (
        {"after": "delete", "on_conflict": "version"},
        [
            ("put", 1, 12, "now"),
            ("run", "a", False, ()),
            ("back", 1, 0),
            ("run", "a", False, ((29, ("kill",)),)),
        ],
    ),
    "what was archived by a worker that was killed then stayed there for good, when a newer file came": (
        {"after": "archive", "keep": 86400.0, "settle": (2, 0.0)},
        [
            ("put", 0, 12, "now"),
            ("plan",),
            ("run", "a", False, ((44, ("kill",)),)),
            ("clock", -7200.0),
            ("run", "a", False, ((10, ("put", 0, 12, "now")),)),
        ],
    ),
    "so did what came again as it was, while the earlier one still lay there": (
        {"after": "archive", "keep": 7200.0, "transfers": 1},
        [
            ("put", 2, 12, "now"),
            ("run", "a", False, ()),
            ("back", 2, 0),
            ("run", "a", False, ((56, ("fault",)),)),
        ],
    ),
    "or as it was, and the earlier one was taken out again": (
        {"after": "archive", "keep": 7200.0, "transfers": 1},
        [
            ("put", 2, 12, "now"),
            ("run", "a", False, ()),
            ("back", 2, 0),
            ("run", "a", False, ((53, ("unarchive", 0)), (56, ("fault",)))),
        ],
    ),
    "so did its sender's marker": (
        {"after": "archive", "keep": 7200.0, "sign": "{name}.ok"},
        [
            ("put", 0, 12, "now"),
            ("sign", 0, 0),
            ("run", "a", False, ((41, ("kill",)),)),
            ("put", 0, 20, "now"),
        ],
    ),
    "the marker for a newer file, that came as the earlier one was to be removed, was removed with it": (
        {"after": "delete", "sign": "{name}.ok"},
        [
            ("put", 0, 12, "now"),
            ("sign", 0, 0),
            ("clock", 61.0),
            ("run", "a", False, ((38, ("put", 0, 20, "now")), (39, ("sign", 0, 0)))),
        ],
    ),
    "or was archived with it": (
        {"after": "archive", "sign": "{name}.ok"},
        [
            ("put", 0, 12, "now"),
            ("sign", 0, 0),
            ("clock", 61.0),
            ("run", "a", False, ((40, ("put", 0, 20, "now")), (41, ("sign", 0, 0)))),
        ],
    ),
    "a marker that was set aside by a worker that was killed then lay there, when a newer file was delivered": (
        {"after": "delete", "sign": "{name}.ok"},
        [
            ("put", 0, 12, "now"),
            ("sign", 0, 0),
            ("run", "a", False, ((43, ("kill",)),)),
            ("clock", -7200.0),
            ("put", 0, 20, "now"),
            ("sign", 0, 0),
        ],
    ),
    "what was archived for good was removed when the time of an earlier one at its place was over": (
        {"after": "archive", "keep": 7200.0},
        [
            ("put", 0, 12, "now"),
            ("run", "a", False, ()),
            ("configure", "keep", None),
            ("unarchive", 0),
            ("run", "a", False, ()),
            ("clock", 7300.0),
            ("configure", "keep", 7200.0),
        ],
    ),
    "what was taken out of the archive, and sent again, was removed there by the time of before": (
        {"after": "archive", "keep": 86400.0},
        [
            ("put", 1, 12, "now"),
            ("run", "b", True, ()),
            ("clock", 90000.0),
            ("unarchive", 0),
            ("run", "b", True, ((41, ("kill",)),)),
            ("run", "a", False, ()),
        ],
    ),
    "what a killed attempt had staged of an archive's member stayed in memory": (
        {"transform": "unzip"},
        [("put", 1, 12, "now"), ("run", "a", False, ((30, ("delete", 1)), (34, ("kill",))))],
    ),
    "what was killed as it staged an archive's first file left its folder to nobody, and went to another": (
        {"transform": "unzip", "on_conflict": "version", "transfers": 1},
        [("put", 0, 12, "now"), ("run", "a", False, ((23, ("kill",)),))],
    ),
    "the first files of an archive were in the way of its others where encryption makes new ones each time": (
        {"transform": f"unzip {SALTED}", "on_conflict": "skip", "transfers": 1},
        [("put", 0, 12, "now"), ("run", "a", False, ((34, ("kill",)),))],
    ),
}


@pytest.mark.parametrize("what", list(KNOWN))
def test_known(what: str) -> None:
    assert (told := play(*KNOWN[what])) is None, told


@pytest.mark.timeout(120 + HISTORIES)
@pytest.mark.parametrize("part", range(PARTS))
def test_histories(part: int, tmp_path: Path) -> None:
    """Of one flow. Every tenth keeps its ledger in a file."""
    print(f"CROSSDOCK_SEED={SEED}")
    for number in range(part, HISTORIES * 3 // 4, PARTS):
        first, operations = draw(f"{SEED}:{number}")
        file = tmp_path / f"{number}.db" if random.Random(number).random() < 0.1 else None
        told = play(first, operations, World(ledger=file))
        if told is not None:
            raise AssertionError(f"seed {SEED}, history {number}: {_smaller(first, operations, told)}")


@pytest.mark.timeout(120 + HISTORIES)
@pytest.mark.parametrize("second", ["beside", "chain"])
def test_two_flows(second: str) -> None:
    print(f"CROSSDOCK_SEED={SEED}")
    for number in range(HISTORIES // 8):
        first, operations = draw(f"{SEED}:{second}:{number}", second=second)
        if (told := play(first, operations)) is not None:
            raise AssertionError(f"seed {SEED}, {second}, history {number}: {_smaller(first, operations, told)}")


def _smaller(first: dict[str, Any], operations: list[Operation], told: str) -> str:
    wrong = kind_of(told)
    first, operations = shrunk(first, operations, lambda one, others: kind_of(play(one, others)) == wrong)
    return f"{first!r}, {operations!r}\n{play(first, operations) or told}"


def kind_of(told: str | None) -> str:
    """Of all that goes wrong, what is the same though a history is another one."""
    return "" if told is None else " ".join(word for word in told.splitlines()[0].split() if word.isalpha())
