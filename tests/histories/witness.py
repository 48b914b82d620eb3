"""What somebody who watches the endpoints, and knows what their owners did, may expect of a flow.

Content tells every version of every file apart: nothing is written twice, but what is put back as it was. What is seen
is judged at once (`wrong`), what must come about in the end by `check_end`. The engine and its ledger are not asked.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from crossdock.flows.flow import Flow
from crossdock.flows.flow import Place as Location
from crossdock.flows.plan import Planner
from crossdock.storage.base import Entry
from crossdock.storage.staging import is_temporary
from tests.histories.contents import plain
from tests.histories.places import Place
from tests.histories.served import Shelf

__all__ = ["Witness"]

_VERSION = re.compile(r"~\d+(?=\.|$)")
_SOME_TIME = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Coming:
    """A file came to be at a path of the source."""

    number: int
    content: bytes
    since: int
    """Number of the coming from which on it is one and the same file to the flow: `number`, or an earlier one's."""
    epoch: int
    """Of that one."""


@dataclass(frozen=True, slots=True)
class _Published:
    number: int
    place: Location
    store: int
    content: bytes


class Witness:
    """`still_owed(path, content)`: whether an engine that took this file away has not yet said so to its ledger.

    `held(place)`: what lies there now.
    """

    def __init__(self, still_owed: Callable[[str, bytes], bool], held: Callable[[Location], bytes | None]) -> None:
        self._still_owed, self._held = still_owed, held
        self._number = 0
        self.story: list[str] = []
        self.wrong: list[str] = []
        self.unpacks = False
        """What arrives is a folder of files."""
        self.doubles_allowed = False
        """A worker was stopped in the moment of publishing, for longer than its lease."""
        self._flows: list[Planner] = []
        self._comings: dict[str, list[_Coming]] = defaultdict(list)
        self._published: dict[str, list[_Published]] = defaultdict(list)
        self._taken: list[tuple[int, str, bytes]] = []
        self._moved: dict[str, tuple[str, _Coming | None]] = {}
        """Where an engine has put a file → where it was, and since when."""
        self._proved: set[tuple[str, _Coming | None]] = set()
        """Of these, what was delivered by then: a later file may have replaced it since."""
        self._between: tuple[str, bytes, str, _Coming | None, bool] | None = None
        """What an engine takes away: the next thing that happens tells where to, if not for good."""
        self._received: list[_Published] = []
        """What the receivers took or changed, where an engine was killed before."""
        self._occupied: set[Location] = set()
        """Where something lay."""
        self.killed = False
        self._destroyed: set[bytes] = set()
        """By its owner."""
        self._listed: Counter[tuple[str, bytes]] = Counter()
        self.waived: set[tuple[str, bytes, Location]] = set()
        """Cancelled by hand."""

    def say(self, what: str) -> None:
        self.story.append(f"{self._number}: {what}")

    def object_(self, what: str) -> None:
        self.say(f"WRONG: {what}")
        self.wrong.append(what)

    def configured(self, flow: Flow) -> None:
        self._flows.append(Planner(flow))

    # The source

    def at_source(self, place: Place | Shelf, path: str, before: bytes | None, after: bytes | None) -> None:
        self._number += 1
        who = "owner" if place.by_hand else "engine"
        self.say(f"{who}: {path}: {_short(before)} → {_short(after)}")
        moved = None
        if (between := self._between) is not None:
            self._between = None
            if place.by_hand or after != between[1]:
                self._removed(*between)
            else:
                moved = between[2:4]
        if place.by_hand:
            if before is not None and before != after:
                self._destroyed.add(before)
            self._moved.pop(path, None)
            if after is not None:
                self._destroyed.discard(after)
                self._came(path, after, by_engine=False)
        elif after is None:
            assert before is not None
            origin, coming = self._moved.pop(path, (path, self._coming(path, before)))
            now = place.node(origin)
            replaced = is_temporary(path) and now is not None and plain(now.data) != before
            self._between = (path, before, origin, coming, replaced)
            if not is_temporary(path):
                self._taken.append((self._number, path, before))
        else:
            if before is not None:
                self.object_(f"the engine replaced {path} at the source")
            if moved is None:
                # A store without renames copies, and then removes; its probe leaves nothing.
                moved = next(iter(self._origins(place, after)), None)
            if moved is None:
                if not is_temporary(path):
                    self.object_(f"the engine wrote {path} at the source")
            elif moved[0] != path:
                self._moved[path] = moved
                if self._delivered(*moved):
                    self._proved.add(moved)
            if not is_temporary(path):
                self._came(path, after, by_engine=True)

    def _origins(self, place: Place | Shelf, content: bytes) -> Iterator[tuple[str, _Coming | None]]:
        for path in list(self._comings):
            if (node := place.node(path)) is not None and plain(node.data) == content:
                yield self._moved.get(path, (path, self._coming(path, content)))

    def _came(self, path: str, content: bytes, *, by_engine: bool) -> None:
        epoch = len(self._flows) - 1
        earlier = self._coming(path, content)
        since, number = self._number, self._number
        if earlier is not None and (by_engine or not self._is_new(path, content, earlier.number)):
            since, epoch = earlier.since, earlier.epoch
        if by_engine and earlier is not None and self._taken and self._taken[-1][1:] == (path, content):
            self._taken.pop()
            number = earlier.number
        self._comings[path].append(_Coming(number, content, since, epoch))

    def _is_new(self, path: str, content: bytes, since: int) -> bool:
        """What comes back as it was is new, if the flow took it away, or delivered another one of that name since."""
        taken = any(at > since and (path, content) == (what, which) for at, what, which in self._taken)
        if taken and not self._still_owed(path, content):
            return True
        latest = {each.place: each for each in self._published[path]}
        return any(each.number > since and each.content != content for each in latest.values())

    def listed(self, place: Place | Shelf, path: str, content: bytes) -> None:
        self._listed[path, content] += 1

    def _coming(self, path: str, content: bytes) -> _Coming | None:
        """The latest."""
        return next((each for each in reversed(self._comings[path]) if each.content == content), None)

    def _removed(self, path: str, content: bytes, origin: str, coming: _Coming | None, replaced: bool) -> None:
        """The engine removed a file for good. `replaced`: another one had its name while it was set aside."""
        if replaced:
            self._destroyed.add(content)
            return
        if not self._delivered(origin, coming):
            self.object_(f"the engine removed {path}, {_short(content)} of {origin}, which is not delivered")

    # The targets

    def at_target(self, place: Place | Shelf, path: str, before: bytes | None, after: bytes | None) -> None:
        self._number += 1
        if place.by_hand or is_temporary(path):
            if self.killed and before is not None:
                where = Location(place.endpoint, path)
                self._received.append(_Published(self._number, where, id(place), before))
            self.say(f"receiver: {place.endpoint}:{path}: {_short(before)} → {_short(after)}")
            return
        if after is None and isinstance(place, Shelf) and place.shows_parts:
            # It is being written anew there: what was there is lost.
            origin, path = self._origin(path)
            where = Location(place.endpoint, path)
            self.say(f"gone: {where}")
            self._published[origin] = [each for each in self._published[origin] if each.place != where]
            return
        if after is None:
            self.object_(f"the engine removed {place.endpoint}:{path}")
            return
        if path.endswith(".done") and not after:
            return
        self._occupied.add(Location(place.endpoint, path))
        origin, path = self._origin(path)
        found = _Published(self._number, Location(place.endpoint, path), id(place), after)
        self.say(f"published {found.place}: {_short(after)}")
        coming = self._coming(origin, after)
        if coming is None:
            self.object_(f"{found.place} shows {_short(after)}, which never was a file at {origin}")
            return
        looks = min(planner.flow.settle.sightings for planner in self._flows[coming.epoch :])
        if self._listed[origin, after] < looks:
            self.object_(f"{found.place} got {_short(after)}, which had not settled")
        times = 1 + sum(
            (each.place, each.store, each.content) == (found.place, found.store, after)
            for each in self._published[origin]
        )
        if times > self._most(origin, after) and not self.doubles_allowed:
            self.object_(f"{found.place} got {_short(after)} {times} times")
        self._published[origin].append(found)

    def _origin(self, path: str) -> tuple[str, str]:
        """The source's path, and that of the target without the number of a version."""
        below = path.partition("/")[2]
        if below in self._comings:
            return below, path
        path = _VERSION.sub("", path)
        return path.partition("/")[2], path

    def _most(self, path: str, content: bytes) -> int:
        comings = len({each.number for each in self._comings[path] if each.content == content})
        if any(planner.flow.after.takes_source for planner in self._flows):
            # What is gone when its turn comes counts as taken, whoever did it.
            return comings
        reasons = sum(what == path and which == content for _, what, which in self._taken)
        reasons += sum(each.content != content for each in self._published[path])
        return min(comings, 1 + reasons)

    # What must be

    def _wanted(self, path: str, epoch: int) -> Iterator[frozenset[Location]]:
        """Where the file was to go by each configuration that may have planned it."""
        for planner in self._flows[epoch:]:
            if planner.by_name(path) is None:
                places = planner.routes.route(Entry(path=path, modified=_SOME_TIME), _SOME_TIME).places
                if places:
                    yield frozenset(places)

    def _missing(self, path: str, coming: _Coming | None) -> list[set[Location]]:
        """For each way it may have been planned, where it did not arrive."""
        if coming is None:
            return []
        there = {
            each.place
            for each in self._published[path]
            if each.content == coming.content and each.number > coming.since
        }
        # An attempt that was killed finds what was there before, which is the same.
        there |= {
            each.place for each in self._received if each.content == coming.content and each.number > coming.since
        }
        there |= {
            place
            for places in self._wanted(path, coming.epoch)
            for place in places
            if self._held(place) == coming.content
        }
        if any(planner.flow.on_conflict in ("skip", "fail") for planner in self._flows):
            there |= self._occupied
        there |= {place for what, which, place in self.waived if (what, which) == (path, coming.content)}
        return [set(places - there) for places in self._wanted(path, coming.epoch)]

    def _delivered(self, path: str, coming: _Coming | None) -> bool:
        missing = self._missing(path, coming)
        return not missing or any(not each for each in missing)

    def _check_latest(self, path: str, content: bytes) -> None:
        """Nowhere that it belongs, by one of the configurations since it came, is what came before it."""
        coming = self._coming(path, content)
        waived = {place for what, which, place in self.waived if (what, which) == (path, content)}
        older = dict[Location, bytes]()
        for place in {each.place for each in self._published[path]} - waived:
            got = [each.content for each in self._published[path] if each.place == place]
            if content in got and got[-1] != content:
                older[place] = got[-1]
        if older and coming is not None and all(places & set(older) for places in self._wanted(path, coming.epoch)):
            for place, held in older.items():
                self.object_(f"{place} got the older {_short(held)} after {_short(content)}")

    def check_end(self, source: Place | Shelf, targets: Mapping[str, Place | Shelf]) -> None:
        """Nothing is under way any more."""
        if self._between is not None:
            self._removed(*self._between)
            self._between = None
        last = self._flows[-1]
        alive = {plain(node.data) for path in source.names() if (node := source.node(path))}
        for path in source.names():
            node = source.node(path)
            assert node is not None
            content = cast(bytes, plain(node.data))
            origin, coming = self._moved.get(path, (path, None))
            proved = coming is None or coming.content != content or (origin, coming) in self._proved
            if not proved and not self._delivered(origin, coming):
                self.object_(f"{path} was archived, {_short(content)} of {origin}, but not delivered")
            if last.by_name(path) is not None or not last.goes(path):
                continue
            if any(
                (place.is_folder(each.path) and not self.unpacks) or not place.fits(each.path)
                for places in self._wanted(path, 0)
                for each in places
                for place in [targets[each.endpoint]]
            ):
                continue
            coming = self._coming(path, content)
            if not self._delivered(path, coming):
                self.object_(f"{path}, {_short(content)}, is missing at {self._missing(path, coming)}")
            if all(planner.flow.on_conflict == "overwrite" for planner in self._flows):
                self._check_latest(path, content)
        arrived = {each.content for several in self._published.values() for each in several}
        for content in {each.content for several in self._comings.values() for each in several}:
            if content not in alive | arrived | self._destroyed:
                self.object_(f"{_short(content)} is nowhere any more")


def _short(content: bytes | None) -> str:
    return "nothing" if content is None else content.rstrip(b".").decode()
