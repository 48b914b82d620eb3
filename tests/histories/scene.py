"""What a history is about: endpoints, flows between them, and a witness of each flow, who is told what it may see."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

from crossdock.flows.flow import Place as Location
from tests.engine.clocks import Clock
from tests.histories.configuration import FIRST, FOLDERS, MIDDLE, flows_of
from tests.histories.contents import member_of, plain
from tests.histories.members import Members, whole_at
from tests.histories.places import Place
from tests.histories.process import acting
from tests.histories.served import Shelf
from tests.histories.witness import Witness
from tests.histories.world import World

__all__ = ["Scene"]


class Scene:
    """`first`: settings other than the usual ones."""

    def __init__(self, first: dict[str, Any], world: World, clock: Clock) -> None:
        self.config = {**FIRST, **first}
        self.world, self.clock = world, clock
        self.unpacks = (self.config["transform"] or "").startswith("unzip")
        self.story: list[str] = []
        """What happened, line by line."""
        self.known: dict[tuple[str, str, int, datetime], bytes] = {}
        """What is told by endpoint, path, size and time."""
        self._written: dict[datetime, datetime] = {}
        """The times of markers that engines wrote."""
        self.open_paths: frozenset[tuple[str, str]] = frozenset()
        """By flow and path, of which files the ledger has transfers that are under way."""
        self.source = world.place("src", self._heard, etags=bool(self.config["etags"]))
        self.targets = {name: world.place(name, self._heard, etags=False) for name in ("d1", "d2")}
        self.witnesses = {each.name: self._witness(each.name) for each in flows_of(self.config)}
        self._members = {each: Members(each) for each in self.witnesses.values()}
        self.configure({})

    def _witness(self, name: str) -> Witness:
        def is_owed(path: str, content: bytes) -> bool:
            return (name, path) in self.open_paths

        witness = Witness(name, is_owed, self._held, self.clock, self.story)
        witness.unpacks = self.unpacks
        return witness

    def configure(self, change: dict[str, Any]) -> None:
        self.config = {**self.config, **change}
        self.flows = {each.name: each for each in flows_of(self.config)}
        for place in (self.source, self.targets[MIDDLE.endpoint]):
            place.listed = self._listed
        for name, flow in self.flows.items():
            self.witnesses[name].configured(flow)

    def repoint(self, name: str) -> None:
        """The endpoint stands for another place."""
        if (name, self.config["second"]) == (MIDDLE.endpoint, "chain"):
            for path in (old := self.targets[name]).names():
                old.take(path)
        self.targets[name] = self.world.place(name, self._heard, etags=False)
        self.configure({})

    def move_clock(self, seconds: float) -> None:
        self.clock.move(seconds)
        for witness in self.witnesses.values():
            witness.kept.set_back += timedelta(seconds=max(0.0, -seconds))

    def say(self, what: str) -> None:
        self.story.append(what)

    def all_ended(self) -> None:
        """No engine runs."""
        for witness in self.witnesses.values():
            witness.all_ended()
            self._members[witness].all_ended()

    # Who sees what

    def source_of(self, flow: str) -> Place | Shelf:
        chained = flow == "g" and self.config["second"] == "chain"
        return self.targets[MIDDLE.endpoint] if chained else self.source

    def _reads(self, flow: str, place: Place | Shelf, path: str) -> bool:
        return place is self.source_of(flow) and (place is self.source or path.startswith(f"{MIDDLE.path}/"))

    def _listed(self, place: Any, path: str, data: bytes) -> None:
        for name, witness in self.witnesses.items():
            if self._reads(name, place, path) and acting.get() in (None, name):
                witness.listed(place, path, cast(bytes, plain(data)))

    def looked_at(self, flow: str, path: str) -> None:
        """Without a listing."""
        place = self.source_of(flow)
        if (node := place.node(path)) is not None:
            self._listed(place, path, node.data)

    def _heard(self, place: Any, path: str, before: bytes | None, after: bytes | None) -> None:
        """Every flow's witness is told: of its own engine's deeds as such, of all others' as of an owner's."""
        if (node := place.node(path)) is not None and place is not self.source:
            if path.endswith(".done") and not node.data and isinstance(place, Place):
                # Written as the machine's clock goes, not ours; a rename keeps the time.
                node.modified = self._written.setdefault(node.modified, self.clock())
                self._written[node.modified] = node.modified
            self.known[place.endpoint, path, len(node.data), node.modified] = node.data
        for name, witness in self.witnesses.items():
            by_hand = place.by_hand or (len(self.witnesses) > 1 and acting.get() != name)
            if self._reads(name, place, path):
                witness.at_source(place, path, plain(before), plain(after), by_hand=by_hand)
            elif place is not self.source and path.startswith(FOLDERS[name]):
                self._at_target(witness, place, path, before, after, by_hand)

    def _at_target(
        self, witness: Witness, place: Any, path: str, before: bytes | None, after: bytes | None, by_hand: bool
    ) -> None:
        if self.unpacks and (found := member_of(path)) is not None:
            self._members[witness].heard(place, *found, before, after, by_hand=by_hand)
            return
        witness.at_target(place, path, plain(before), plain(after), by_hand=by_hand)

    def _held(self, place: Location) -> bytes | None:
        shelf = self.targets[place.endpoint]
        if self.unpacks:
            return whole_at(shelf, place.path)
        node = shelf.node(place.path)
        return None if node is None else plain(node.data)
