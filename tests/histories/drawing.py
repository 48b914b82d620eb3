"""Histories drawn from a seed, and made smaller when they fail."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.histories.configuration import CHOICES, SECOND

__all__ = ["Operation", "draw", "shrunk"]

Operation = tuple[Any, ...]
SIZES = (12, 12, 20)


class _Draw(random.Random):
    """Of one history, whose files are few: only what happens to one and the same is of interest."""

    def __init__(self, seed: str, served: bool, second: str | None) -> None:
        super().__init__(seed)
        self.settings = CHOICES if second is None else {**CHOICES, **SECOND}
        self.served = served
        self.paths = self.sample(range(4), self.choice((1, 1, 2, 4)))

    def path(self) -> int:
        return self.choice(self.paths)

    def clock(self) -> float:
        return self.choice((1.0, 5.0, 40.0, 61.0, 61.0, 3700.0, 7200.0, -7200.0, 90000.0))


_OWNERS: tuple[tuple[int, Callable[[_Draw], Operation]], ...] = (
    (8, lambda draw: ("put", draw.path(), draw.choice(SIZES), draw.choice(("now", "now", "same", "older")))),
    (2, lambda draw: ("grow", draw.path())),
    (3, lambda draw: ("delete", draw.path())),
    (6, lambda draw: ("back", draw.path(), draw.choice((0, 0, 0, 1, 2)))),
    (2, lambda draw: ("rename", draw.path(), draw.randrange(4))),
    (1, lambda draw: ("folder", draw.randrange(4))),
    (3, lambda draw: ("unarchive", draw.randrange(5))),
    (2, lambda draw: ("tamper", draw.randrange(5), draw.choice(("change", "remove", "stranger")))),
    (3, lambda draw: ("receive", draw.choice(("d1", "d2")), draw.randrange(4), draw.choice(("take", "take", "alter")))),
    (2, lambda draw: ("sign", draw.path(), draw.randrange(2))),
    (1, lambda draw: ("cancel", draw.randrange(5))),
    (1, lambda draw: ("retry", draw.randrange(5))),
)
_OTHERS: tuple[tuple[int, Callable[[_Draw], Operation]], ...] = (
    (30, lambda draw: ("run", draw.choice("aab"), draw.random() < 0.5, _events(draw))),
    (4, lambda draw: ("both", _events(draw), _events(draw))),
    (10, lambda draw: ("clock", draw.clock())),
    (5, lambda draw: ("configure", (name := draw.choice(list(draw.settings))), draw.choice(draw.settings[name]))),
    (1, lambda draw: ("repoint", draw.choice(("d1", "d2")))),
    (2, lambda draw: ("plan",)),
    (2, lambda draw: ("apply", _events(draw))),
    (1, lambda draw: ("prune",)),
)


def _one(draw: _Draw, what: Sequence[tuple[int, Callable[[_Draw], Operation]]]) -> Operation:
    return draw.choices(what, [weight for weight, _ in what])[0][1](draw)


def _event(draw: _Draw) -> Operation:
    kind = draw.random()
    if kind < 0.3:
        return ("kill",)
    if kind < 0.45:
        return ("fault",)
    if kind < 0.48:
        return ("deaf",)
    if kind < 0.52:
        return ("jump", draw.choice((-7200.0, 61.0, 7200.0)))
    return _one(draw, _OWNERS)


def _events(draw: _Draw) -> tuple[tuple[int, Operation], ...]:
    found: dict[int, Operation] = {}
    point = 0
    for _ in range(draw.choice((0, 0, 1, 1, 2, 2, 3))):
        near = point and draw.random() < 0.6
        point = point + draw.randint(1, 5) if near else draw.randint(1, draw.choice((12, 30, 60, 100)))
        found[point] = event = _event(draw)
        if event == ("fault",):
            for more in range(draw.choice((0, 0, 1, 3, 10))):
                found.setdefault(point + more, event)
    if draw.served and draw.random() < 0.5:
        event = (draw.choice(("cut", "die")), draw.choice(("drop", "lost")))
        first = draw.randint(1, draw.choice((20, 60, 150)))
        for request in range(first, first + draw.choice((1, 1, 2, 5) if event[0] == "cut" else (1,))):
            found[-request] = event
    return tuple(sorted(found.items()))


def draw(
    seed: str, *, served: bool = False, transform: str | None = None, second: str | None = None
) -> tuple[dict[str, Any], list[Operation]]:
    """A configuration to begin with, and what happens then. `served`: to the requests of a server, too."""
    found = _Draw(seed, served, second)
    first = {name: found.choice(choices) for name, choices in found.settings.items() if found.random() < 0.5}
    first["etags"] = found.random() < 0.2
    if second is not None:
        first["second"] = second
    if transform is not None:
        first["transform"] = transform
    number = found.choice((6, 10, 16, 24))
    operations = [_one(found, _OWNERS if found.random() < 0.45 else _OTHERS) for _ in range(number)]
    # What is packed into one file cannot be told from what is unpacked into many, nor what is not yet packed at all.
    return first, [each for each in operations if transform is None or each[:2] != ("configure", "transform")]


def shrunk(
    first: dict[str, Any], operations: list[Operation], fails: Callable[[dict[str, Any], list[Operation]], bool]
) -> tuple[dict[str, Any], list[Operation]]:
    """Smaller, and it fails all the same."""
    again = True
    while again:
        again = False
        for size in (8, 4, 2, 1):
            at = 0
            while at < len(operations):
                fewer = operations[:at] + operations[at + size :]
                if fails(first, fewer):
                    operations, again = fewer, True
                else:
                    at += size
        for name in list(first):
            fewer_settings = {key: value for key, value in first.items() if key != name}
            if fails(fewer_settings, operations):
                first, again = fewer_settings, True
        for at, operation in enumerate(operations):
            for simpler in _simpler(operation):
                if fails(first, [*operations[:at], simpler, *operations[at + 1 :]]):
                    operations = [*operations[:at], simpler, *operations[at + 1 :]]
                    again = True
                    break
    return first, operations


def _simpler(operation: Operation) -> list[Operation]:
    found: list[Operation] = []
    match operation:
        case ("run", who, stays, events):
            found += [("run", who, stays, events[:at] + events[at + 1 :]) for at in range(len(events))]
            found += [("run", "a", False, events)] if (who, stays) != ("a", False) else []
        case ("apply", events):
            found += [("apply", events[:at] + events[at + 1 :]) for at in range(len(events))]
        case ("both", first, other):
            found += [("run", "a", False, first), ("run", "b", False, other)]
            found += [("both", first[:at] + first[at + 1 :], other) for at in range(len(first))]
            found += [("both", first, other[:at] + other[at + 1 :]) for at in range(len(other))]
        case ("put", number, size, when):
            found += [("put", number, 12, when)] if size != 12 else []
            found += [("put", number, size, "now")] if when != "now" else []
    return found
