"""The flow of a history, by settings that change one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crossdock.flows.filters import Filters
from crossdock.flows.filters import Rule as Filter
from crossdock.flows.flow import After, Destination, Flow, Place, Retry, Rule, Settle, TransformSpec

__all__ = ["ARCHIVES", "CHOICES", "FIRST", "flow_of"]

ARCHIVES = (".done", ".old")
FIRST: dict[str, Any] = {
    "after": "none",
    "archive": ".done",
    "keep": None,
    "marker": False,
    "to": ("d1:x1",),
    "rules": "all",
    "settle": (1, 0.0),
    "order": "oldest",
    "max_files": None,
    "on_conflict": "overwrite",
    "exclude": True,
    "etags": False,
    "transform": None,
    "transfers": 4,
}
CHOICES: dict[str, Sequence[Any]] = {
    "after": ("none", "archive", "archive", "delete", "delete"),
    "archive": ARCHIVES,
    "keep": (None, 7200.0, 86400.0),
    "marker": (False, True),
    "to": (("d1:x1",), ("d1:x1", "d2:x1"), ("d2:x1",), ("d1:x2",), ("d1:x1", "d1:x2"), ("d1:x1", "d2:x2")),
    "rules": ("all", "all", "split", "nowhere"),
    "settle": ((1, 0.0), (2, 0.0), (2, 30.0)),
    "order": ("oldest", "newest", "name"),
    "max_files": (None, None, 1),
    "on_conflict": ("overwrite", "overwrite", "overwrite", "version", "skip", "fail"),
    "exclude": (True, True, False),
    "transfers": (1, 4),
}


def flow_of(found: dict[str, Any]) -> Flow:
    to = tuple(Destination(name, f"{folder}/{{path}}") for name, folder in (each.split(":") for each in found["to"]))
    steps = (TransformSpec(found["transform"]),) if found["transform"] else ()
    rules: tuple[Rule, ...] = (Rule(name="all", to=to, transforms=steps),)
    if found["rules"] == "split":
        folder = Rule(name="folder", glob="d/**", to=(Destination("d2", "x3/{path}"),), transforms=steps)
        rules = (folder, *rules)
    elif found["rules"] == "nowhere":
        rules = (Rule(name="nowhere", glob="a.csv"), *rules)
    archive = found["archive"] if found["after"] == "archive" else None
    keep = found["keep"] if archive else None
    after = After(
        archive=archive, keep=keep, delete=found["after"] == "delete", marker="{name}.done" if found["marker"] else None
    )
    out = tuple(Filter(False, f"{each}/") for each in ARCHIVES) if found["exclude"] else ()
    return Flow(
        name="f",
        source=Place("src"),
        rules=rules,
        filters=Filters(rules=out),
        settle=Settle(sightings=found["settle"][0], seconds=found["settle"][1]),
        after=after,
        on_conflict=found["on_conflict"],
        order=found["order"],
        max_files=found["max_files"],
        retry=Retry(attempts=3, base=5.0, longest=5.0),
    )
