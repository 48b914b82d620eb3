"""What came to be at a flow's source, what of that it delivered, and what it was to deliver."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from crossdock.flows.flow import Place as Location
from crossdock.flows.plan import Planner
from crossdock.storage.base import Entry

__all__ = ["Coming", "Published", "Record"]

_VERSION = re.compile(r"~\d+(?=\.|$)")
_SOME_TIME = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Coming:
    """A file came to be at a path of the source."""

    number: int
    content: bytes
    since: int
    """Number of the coming from which on it is one and the same file to the flow: `number`, or an earlier one's."""
    epoch: int
    """Of that one."""


@dataclass(frozen=True, slots=True)
class Published:
    number: int
    place: Location
    store: int
    content: bytes


class Record:
    """By paths of the source.

    `still_owed(path, content)`: whether an engine that took this file away has not yet said so to its ledger.

    `held(place)`: what lies there now.
    """

    def __init__(self, still_owed: Callable[[str, bytes], bool], held: Callable[[Location], bytes | None]) -> None:
        self._still_owed, self._held = still_owed, held
        self.flows: list[Planner] = []
        """Every configuration that there was."""
        self.comings: dict[str, list[Coming]] = defaultdict(list)
        self.published: dict[str, list[Published]] = defaultdict(list)
        self.overwritten: dict[str, list[Published]] = defaultdict(list)
        """What was published, and lies there no longer whole."""
        self.taken: list[tuple[int, str, bytes]] = []
        """By an engine, from there: number, path and content."""
        self.received: list[Published] = []
        """What the receivers took or changed, where an engine was killed before."""
        self.occupied: set[Location] = set()
        """Where something lay."""
        self.begun: dict[Location, set[bytes]] = defaultdict(set)
        """Whose members lay there, were they all or not."""
        self.waived: set[tuple[str, bytes, Location]] = set()
        """Cancelled by hand."""

    # The source

    def coming(self, path: str, content: bytes) -> Coming | None:
        """The latest."""
        return next((each for each in reversed(self.comings.get(path, ())) if each.content == content), None)

    def came(self, number: int, path: str, content: bytes, *, by_engine: bool) -> None:
        epoch = len(self.flows) - 1
        earlier = self.coming(path, content)
        since = number
        if earlier is not None and (by_engine or not self._is_new(path, content, earlier.number)):
            since, epoch = earlier.since, earlier.epoch
        if by_engine and earlier is not None:
            # Put back, perhaps out of the archive.
            for last in (1, 2):
                ways = [what for _, what, which in self.taken[-last:] if which == content]
                if len(ways) == last and ways[0] == path:
                    del self.taken[-last:]
                    number = earlier.number
                    break
        self.comings[path].append(Coming(number, content, since, epoch))

    def _is_new(self, path: str, content: bytes, since: int) -> bool:
        """What comes back as it was is new, if the flow took it away, or delivered another one of that name since."""
        taken = any(at > since and (path, content) == (what, which) for at, what, which in self.taken)
        if taken and not self._still_owed(path, content):
            return True
        latest = {each.place: each for each in self.published[path]}
        return any(each.number > since and each.content != content for each in latest.values())

    # The targets

    def origin(self, path: str, content: bytes | None) -> tuple[str, str]:
        """The source's path, and that of the target without the number of a version."""
        bare = _VERSION.sub("", path)
        ways = [
            (planner.prefix + whole.partition("/")[2], whole) for whole in (path, bare) for planner in self.flows[::-1]
        ]
        known = (way for way in ways if content is not None and self.coming(way[0], content) is not None)
        return next(known, None) or next((way for way in ways if way[0] in self.comings), ways[-1])

    def located(self, endpoint: str, path: str, content: bytes | None) -> tuple[str, Location]:
        """As `origin`, at that endpoint."""
        origin, path = self.origin(path, content)
        return origin, Location(endpoint, path)

    def most(self, path: str, content: bytes) -> int:
        """So many times it may arrive at one place."""
        comings = len({each.number for each in self.comings[path] if each.content == content})
        if any(planner.flow.after.takes_source for planner in self.flows):
            # What is gone when its turn comes counts as taken, whoever did it.
            return comings
        reasons = sum(what == path and which == content for _, what, which in self.taken)
        reasons += sum(each.content != content for each in (*self.published[path], *self.overwritten[path]))
        return min(comings, 1 + reasons)

    def lose(self, path: str, where: Location) -> set[bytes]:
        """What is there is being overwritten, not all at once: that, and what was there before."""
        gone = [each for each in self.published[path] if each.place == where]
        self.published[path] = [each for each in self.published[path] if each.place != where]
        self.overwritten[path] += gone
        return {each.content for each in gone}

    # What must be

    def below(self, planner: Planner, path: str) -> str | None:
        """The path below the flow's source."""
        return path.removeprefix(planner.prefix) if path.startswith(planner.prefix) else None

    def takes(self, planner: Planner, path: str) -> bool:
        below = self.below(planner, path)
        return below is not None and planner.takes(below)

    def wanted(self, path: str, epoch: int) -> Iterator[frozenset[Location]]:
        """Where the file was to go by each configuration that may have planned it."""
        for planner in self.flows[epoch:]:
            if self.takes(planner, path):
                entry = Entry(path=self.below(planner, path) or "", modified=_SOME_TIME)
                yield frozenset(planner.routes.route(entry, _SOME_TIME).places)

    def missing(self, path: str, coming: Coming | None, *, removed: bool = False) -> list[set[Location]]:
        """For each way it may have been planned, where it did not arrive."""
        if coming is None:
            return []
        there = {
            each.place for each in self.published[path] if each.content == coming.content and each.number > coming.since
        }
        # An attempt that was killed, or that must not replace anything, finds what was there before, which is the same.
        there |= {each.place for each in self.received if each.content == coming.content and each.number > coming.since}
        there |= {
            place
            for places in self.wanted(path, coming.epoch)
            for place in places
            if self._held(place) == coming.content
        }
        if not any(what == path and which == coming.content for _, what, which in self.taken):
            # What another destination got since makes it new, but not where it was the last to come.
            last = {each.place: each.content for each in self.published[path]}
            there |= {place for place, content in last.items() if content == coming.content}
        if any(planner.flow.on_conflict in (("skip",) if removed else ("skip", "fail")) for planner in self.flows):
            there |= self.occupied
            there |= {place for place, whose in self.begun.items() if whose - {coming.content}}
        there |= {place for what, which, place in self.waived if (what, which) == (path, coming.content)}
        return [set(places - there) for places in self.wanted(path, coming.epoch)]

    def delivered(self, path: str, coming: Coming | None, *, removed: bool = False) -> bool:
        missing = self.missing(path, coming, removed=removed)
        return not missing or any(not each for each in missing)
