"""The same histories on real endpoints, whose servers break off at requests of their own, and on PostgreSQL.

They are a good quarter of `CROSSDOCK_HISTORIES`, whose seed is theirs as well. What real disks, servers and databases
do at one time differs from run to run: one that fails is played three times for each smaller one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.histories.contents import SALTED
from tests.histories.drawing import Operation, draw, shrunk
from tests.histories.history import play
from tests.histories.test_histories import HISTORIES, SEED, kind_of
from tests.histories.world import World
from tests.servers import Postgres

SHARE = max(1, HISTORIES // 50)

WORLDS = {
    "local": (("local", "local", "local"), 3),
    "sftp": (("sftp", "local", "sftp that swaps"), 1),
    "ftp": (("ftp", "memory", "ftp that swaps"), 1),
    "in place": (("local", "sftp in place", "ftp in place"), 1),
    "s3": (("s3", "s3", "local"), 1),
    "s3 with versions": (("s3 with versions", "sftp", "memory"), 1),
}
"""Source and targets, and how many shares of the histories are theirs."""


def _fails(
    world: Callable[[], World], first: dict[str, Any], operations: list[Operation], wrong: str | None = None
) -> str | None:
    """What went wrong in one of three times."""
    for _ in range(3):
        told = play(first, operations, world())
        if told is not None and wrong in (None, kind_of(told)):
            return told
    return None


def _played(
    world: Callable[[], World], name: str, number: int, *, served: bool = False, transform: str | None = None
) -> None:
    print(f"CROSSDOCK_SEED={SEED}")
    for each in range(number):
        first, operations = draw(f"{SEED}:{name}:{each}", served=served, transform=transform)
        told = play(first, operations, world())
        if told is not None:
            raise AssertionError(f"seed {SEED}, {name}, history {each}: {_smaller(world, first, operations, told)}")


def _smaller(world: Callable[[], World], first: dict[str, Any], operations: list[Operation], told: str) -> str:
    wrong = kind_of(told)
    first, operations = shrunk(first, operations, lambda one, others: _fails(world, one, others, wrong) is not None)
    return f"{first!r}, {operations!r}\n{_fails(world, first, operations, wrong) or told}"


class _Folders:
    """One for each history."""

    def __init__(self, above: Path, kinds: tuple[str, str, str]) -> None:
        self._above, self._kinds, self._number = above, dict(zip(("src", "d1", "d2"), kinds, strict=True)), 0

    def __call__(self) -> World:
        self._number += 1
        folder = self._above / str(self._number)
        folder.mkdir()
        return World(folder=folder, kinds=self._kinds)


# An OPEN that the SFTP server reads after it has cut the session leaves its file to the collector of garbage.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.timeout(300 + 5 * HISTORIES)
@pytest.mark.parametrize("name", list(WORLDS))
def test_endpoints(name: str, tmp_path: Path) -> None:
    kinds, shares = WORLDS[name]
    _played(_Folders(tmp_path, kinds), name, shares * SHARE, served=name != "local")


# A worker that is killed as it makes the file that an archive is kept in leaves that to the collector of garbage.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.timeout(300 + 5 * HISTORIES)
@pytest.mark.parametrize("transform", ["gzip", "unzip", f"unzip {SALTED}"], ids=["gzip", "unzip", "unzip and salt"])
def test_transforms(transform: str) -> None:
    _played(World, f"through {transform}", 2 * SHARE, transform=transform)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.timeout(300 + 5 * HISTORIES)
@pytest.mark.parametrize("name", list(WORLDS))
def test_archives_on_endpoints(name: str, tmp_path: Path) -> None:
    world = _Folders(tmp_path, WORLDS[name][0])
    _played(world, f"unzip on {name}", max(1, SHARE // 4), served=name != "local", transform="unzip")


@pytest.mark.timeout(300 + 5 * HISTORIES)
def test_postgres(postgres: Postgres) -> None:
    """Mostly by two processes at once, whose transactions overlap."""
    chance = random.Random(SEED)

    def world() -> World:
        return World(ledger=postgres.dsn)

    print(f"CROSSDOCK_SEED={SEED}")
    for number in range(3 * SHARE):
        first, operations = draw(f"{SEED}:postgres:{number}")
        operations = [
            ("both", each[3], ()) if each[0] == "run" and chance.random() < 0.5 else each for each in operations
        ]
        assert (told := play(first, operations, world())) is None, f"{first!r}, {operations!r}\n{told}"


KNOWN: dict[str, tuple[tuple[str, str, str], dict[str, Any], list[Operation]]] = {
    "what its owner took back before the store had copied it failed for ever": (
        ("s3", "s3", "memory"),
        {},
        [("put", 0, 12, "now"), ("run", "a", False, ((17, ("kill",)),)), ("delete", 0)],
    ),
    "what its owner took back, with others below its name, failed for ever": (
        ("s3", "s3", "local"),
        {},
        [("folder", 1), ("run", "a", False, ((17, ("kill",)),)), ("folder", 1)],
    ),
    "what a killed attempt had begun to write in place was taken for another's, and its file was skipped": (
        ("local", "sftp in place", "memory"),
        {"on_conflict": "skip"},
        [("put", 1, 12, "now"), ("run", "a", False, ((-10, ("die", "drop")),))],
    ),
    "what a killed attempt had begun to write in place stayed beside a version of the file": (
        ("local", "sftp in place", "memory"),
        {"on_conflict": "version"},
        [("put", 1, 12, "now"), ("run", "a", False, ((-11, ("die", "drop")),))],
    ),
    "what was put beside a file for a moment stayed where nothing is staged": (
        ("local", "sftp in place", "memory"),
        {"after": "delete"},
        [("folder", 2), ("run", "a", False, ()), ("run", "a", False, ((2, ("folder", 2)), (31, ("kill",))))],
    ),
    "what was put back after a newer one had overwritten it in part was taken for delivered": (
        ("memory", "sftp in place", "memory"),
        {},
        [
            ("put", 3, 12, "now"),
            ("run", "a", False, ()),
            ("grow", 3),
            ("run", "a", False, ((35, ("fault",)),)),
            ("back", 3, 0),
        ],
    ),
}


@pytest.mark.parametrize("what", list(KNOWN))
def test_known(what: str, tmp_path: Path) -> None:
    kinds, first, operations = KNOWN[what]
    assert (told := play(first, operations, _Folders(tmp_path, kinds)())) is None, told
