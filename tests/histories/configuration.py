"""The flows of a history, by settings that change one by one.

There is one, or a second one beside it: on the same source (then they share files only while both leave them), or on
what the first one delivers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crossdock.flows.filters import Filters
from crossdock.flows.filters import Rule as Filter
from crossdock.flows.flow import After, Destination, Flow, Place, Retry, Rule, Settle, TransformSpec, Webhook
from tests.histories.contents import SALTED

__all__ = ["ARCHIVES", "CHOICES", "FIRST", "FOLDERS", "LIST", "MIDDLE", "SECOND", "flow_of", "flows_of"]

ARCHIVES = (".done", ".old")
FOLDERS = {"f": "x", "g": "y"}
"""Where a flow delivers: to folders of its own, whose names begin so."""
MIDDLE = Place("d1", "x1")
"""In a chain, what the second flow reads."""
LIST = "LIST"
"""The name of manifests."""
FIRST: dict[str, Any] = {
    "after": "none",
    "archive": ".done",
    "keep": None,
    "marker": False,
    "to": ("d1:x1",),
    "rules": "all",
    "settle": (1, 0.0),
    "sign": None,
    "order": "oldest",
    "max_files": None,
    "on_conflict": "overwrite",
    "exclude": True,
    "only": None,
    "root": "",
    "tells": False,
    "etags": False,
    "transform": None,
    "transfers": 4,
    "second": None,
}
CHOICES: dict[str, Sequence[Any]] = {
    "after": ("none", "archive", "archive", "delete", "delete"),
    "archive": ARCHIVES,
    "keep": (None, 7200.0, 86400.0),
    "marker": (False, True),
    "to": (("d1:x1",), ("d1:x1", "d2:x1"), ("d2:x1",), ("d1:x2",), ("d1:x1", "d1:x2"), ("d1:x1", "d2:x2")),
    "rules": ("all", "all", "split", "nowhere"),
    "settle": ((1, 0.0), (2, 0.0), (2, 30.0)),
    "sign": (None, None, "{name}.ok", "{stem}.ok", LIST),
    "order": ("oldest", "newest", "name"),
    "max_files": (None, None, 1),
    "on_conflict": ("overwrite", "overwrite", "overwrite", "version", "skip", "fail"),
    "exclude": (True, True, False),
    "only": (None, None, "a.csv"),
    "root": ("", "", "d"),
    "tells": (False, True),
    "transform": (None, None, "gzip", SALTED),
    "transfers": (1, 4),
}
SECOND: dict[str, Sequence[Any]] = {
    "g:after": CHOICES["after"],
    "g:archive": ARCHIVES,
    "g:keep": CHOICES["keep"],
    "g:to": (("d2:y1",), ("d2:y1", "d1:y1"), ("d2:y1", "d2:y2")),
    "g:settle": CHOICES["settle"],
    "g:on_conflict": CHOICES["on_conflict"],
}
"""Of a second flow, which has all else as the first."""
_APART = "b.csv"
"""Files of this name are the second flow's alone where one of two takes away what it has delivered."""


def flows_of(found: dict[str, Any]) -> list[Flow]:
    kind = found["second"]
    if kind is None:
        return [flow_of(found)]
    found = {**found, "exclude": True}
    other = {
        **found,
        "rules": "all",
        "marker": False,
        "only": None,
        "transform": None,
        "sign": None,
        "g:to": ("d2:y1",),
    }
    other |= {name.removeprefix("g:"): value for name, value in {**other, **found}.items() if name.startswith("g:")}
    if kind == "chain":
        # What is packed anew tells two files of one size and time no longer apart.
        sign = "{name}.done" if found["marker"] else None
        return [flow_of({**found, "transform": None}), flow_of({**other, "sign": sign}, "g", MIDDLE)]
    apart = found["after"] != "none" or other["after"] != "none"
    return [
        flow_of(found, without=(_APART,) if apart else ()),
        flow_of({**other, "only": _APART if apart else None}, "g", without=("*.ok", LIST)),
    ]


def flow_of(found: dict[str, Any], name: str = "f", source: Place | None = None, without: Sequence[str] = ()) -> Flow:
    to = tuple(Destination(name, f"{folder}/{{path}}") for name, folder in (each.split(":") for each in found["to"]))
    steps = tuple(TransformSpec(each) for each in (found["transform"] or "").split())
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
    out = [Filter(False, each) for each in (*(f"{each}/" for each in ARCHIVES if found["exclude"]), *without)]
    only = [Filter(True, found["only"])] if found["only"] else []
    sightings, seconds = found["settle"]
    return Flow(
        name=name,
        source=source or Place("src", found["root"]),
        rules=rules,
        filters=Filters(rules=(*out, *only)),
        settle=Settle(
            sightings=sightings,
            seconds=seconds,
            marker=found["sign"] if found["sign"] != LIST else None,
            manifest=LIST if found["sign"] == LIST else None,
        ),
        after=after,
        on_conflict=found["on_conflict"],
        order=found["order"],
        max_files=found["max_files"],
        retry=Retry(attempts=3, base=5.0, longest=5.0),
        webhooks=(Webhook(url="https://hooks.example", on=frozenset({"delivered", "failed"})),)
        if found["tells"]
        else (),
    )
