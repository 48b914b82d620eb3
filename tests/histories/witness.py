"""What somebody who watches the endpoints, and knows what their owners did, may expect of a flow.

Content tells every version of every file apart: nothing is written twice, but what is put back as it was. What is seen
is judged at once (`wrong`), what must come about in the end by `check_end`. The engine and its ledger are not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from crossdock.flows.flow import Flow
from crossdock.flows.flow import Place as Location
from crossdock.flows.plan import Planner
from crossdock.storage.staging import is_temporary
from tests.histories.contents import plain
from tests.histories.keeping import Kept
from tests.histories.places import Place
from tests.histories.record import Coming, Published, Record
from tests.histories.served import Shelf
from tests.histories.settling import Settled

__all__ = ["Witness"]

_ANY = "member"


@dataclass(frozen=True, slots=True)
class _Taken:
    path: str
    content: bytes
    origin: str
    coming: Coming | None
    instead: bytes | None
    """What had its name while it was set aside."""
    early: bool
    """In the archive, it was to be kept for longer."""


class Witness:
    """Of one flow: whatever others do, be they flows, is done by hand. `name`: the flow's.

    `still_owed`, `held`: as `Record` asks. `story`: where it says what it saw.
    """

    def __init__(
        self,
        name: str,
        still_owed: Callable[[str, bytes], bool],
        held: Callable[[Location], bytes | None],
        clock: Callable[[], datetime],
        story: list[str],
    ) -> None:
        self._name, self._story = name, story
        self._number = 0
        self.wrong: list[str] = []
        self.unpacks = False
        """What arrives is a folder of files."""
        self.doubles_allowed = False
        """A worker was stopped in the moment of publishing, for longer than its lease."""
        self._doubled: list[str] = []
        """What was seen twice in these runs."""
        self._record = Record(still_owed, held)
        self.kept = Kept(clock, self._record.flows)
        self._moved: dict[str, tuple[str, Coming | None]] = {}
        """Where an engine has put a file → where it was, and since when."""
        self._proved: set[tuple[str, Coming | None]] = set()
        """Of these, what was delivered by then: a later file may have replaced it since."""
        self._between: _Taken | None = None
        """What an engine takes away: the next thing that happens tells where to, if not for good."""
        self.killed = self.failed = self.jumped = False
        self._destroyed: set[bytes] = set()
        """By its owner, or by what was written over it in place."""
        self._signs: set[tuple[str, bytes]] = set()
        """Of its owner, which went as such: path and content."""
        self._settled = Settled()

    def say(self, what: str) -> None:
        self._story.append(f"{self._name} {self._number}: {what}")

    def object_(self, what: str) -> None:
        self.say(f"WRONG: {what}")
        self.wrong.append(what)

    def configured(self, flow: Flow) -> None:
        self._record.flows.append(Planner(flow))

    def ended(self, *, killed: bool, failed: bool, in_parts: bool) -> None:
        """An engine's run. `in_parts`: files come to be at targets bit by bit, or one after another."""
        self.killed |= killed
        self.failed |= failed
        if killed or failed:
            self.kept.broken()
            # Nothing proves to the next attempt that a file is there whole, or all of them.
            self.doubles_allowed |= in_parts

    def all_ended(self) -> None:
        """No engine runs: whether one failed on its way is known."""
        for each in [] if self.doubles_allowed else self._doubled:
            self.object_(each)
        self._doubled.clear()

    def waive(self, path: str, content: bytes, place: Location) -> None:
        """This need not arrive there: it was cancelled by hand, or somebody has to decide."""
        self._record.waived.add((path, content, place))

    @property
    def waived(self) -> bool:
        return bool(self._record.waived)

    @property
    def broken(self) -> bool:
        """An attempt may have been made twice, or in part."""
        return self.killed or self.failed or self.jumped

    @property
    def overwrites(self) -> bool:
        return self._record.flows[-1].flow.on_conflict == "overwrite"

    @property
    def may_replace(self) -> bool:
        """By one of the configurations that there were."""
        return any(each.flow.on_conflict == "overwrite" for each in self._record.flows)

    @property
    def tells(self) -> bool:
        """By every configuration that there was."""
        return all(planner.flow.webhooks for planner in self._record.flows)

    @property
    def unmarked(self) -> bool:
        """It wrote markers, or took others', and then did not any more."""
        flows = [planner.flow for planner in self._record.flows]
        return len({(flow.after.marker, flow.settle.marker) for flow in flows}) > 1

    # The source

    def at_source(
        self, place: Place | Shelf, path: str, before: bytes | None, after: bytes | None, *, by_hand: bool
    ) -> None:
        self._number += 1
        self.say(f"{'owner' if by_hand else 'engine'}: {path}: {_short(before)} → {_short(after)}")
        moved = None
        if (between := self._between) is not None:
            self._between = None
            if by_hand or after != between.content:
                self._removed(between)
            else:
                moved = between.origin, between.coming
        if by_hand:
            if before is not None and before != after:
                self._destroyed.add(before)
            self._moved.pop(path, None)
            self.kept.drop(path)
            self._settled.sign(self._number, place, path, after)
            if after is not None:
                self._destroyed.discard(after)
                self._record.came(self._number, path, after, by_engine=False)
        elif after is None:
            assert before is not None
            origin, coming = self._moved.pop(path, (path, self._record.coming(path, before)))
            planner = self._record.flows[-1]
            if planner.is_marker(self._record.below(planner, path) or ""):
                self._signs.add((path, before))
            now = place.node(origin)
            instead = plain(now.data) if is_temporary(path) and now is not None else None
            if self._record.delivered(origin, coming, removed=True):
                self._proved.add((origin, coming))
            # What lies in an archive of before is a file like others, which goes as it was delivered from there.
            as_source = self._record.takes(planner, path) and self._record.delivered(
                path, self._record.coming(path, before), removed=True
            )
            early = self.kept.is_early(path) and not as_source
            self._between = _Taken(path, before, origin, coming, instead, early)
            self.kept.drop(path)
            if not is_temporary(path):
                self._record.taken.append((self._number, path, before))
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
                if not is_temporary(path):
                    self.kept.add(path)
            if not is_temporary(path):
                self._record.came(self._number, path, after, by_engine=True)

    def _origins(self, place: Place | Shelf, content: bytes) -> Iterator[tuple[str, Coming | None]]:
        for path in list(self._record.comings):
            if (node := place.node(path)) is not None and plain(node.data) == content:
                yield self._moved.get(path, (path, self._record.coming(path, content)))

    def listed(self, place: Place | Shelf, path: str, content: bytes) -> None:
        self._settled.listed(self._record.flows[-1], place, path, content)

    def _removed(self, taken: _Taken) -> None:
        """The engine removed a file for good."""
        if taken.instead == taken.content:
            return
        if taken.instead is not None or (taken.origin, taken.content) in self._signs:
            self._destroyed.add(taken.content)
            return
        if (taken.origin, taken.coming) not in self._proved:
            self.object_(
                f"the engine removed {taken.path}, {_short(taken.content)} of {taken.origin}, which is not delivered"
            )
        if taken.early:
            self.object_(f"the engine removed {taken.path} from the archive, which was to be kept")

    # The targets

    def at_target(
        self, place: Place | Shelf, path: str, before: bytes | None, after: bytes | None, *, by_hand: bool
    ) -> None:
        self._number += 1
        if by_hand or is_temporary(path):
            if before is not None and (self.killed or self._record.flows[-1].flow.on_conflict != "overwrite"):
                where = Location(place.endpoint, path)
                self._record.received.append(Published(self._number, where, id(place), before))
            self.say(f"receiver: {place.endpoint}:{path}: {_short(before)} → {_short(after)}")
            return
        if after is None and isinstance(place, Shelf) and place.shows_parts:
            # It is being written anew there: what was there is lost.
            self._lose(*self._record.located(place.endpoint, path, before))
            return
        if after is None:
            self.object_(f"the engine removed {place.endpoint}:{path}")
            return
        if path.endswith(".done") and not after and any(each.flow.after.marker for each in self._record.flows):
            if Location(place.endpoint, path.removesuffix(".done")) not in self._record.occupied:
                self.object_(f"{place.endpoint}:{path} tells of a file that is not there")
            return
        if before not in (None, after) and self._record.flows[-1].flow.on_conflict != "overwrite":
            self.object_(f"the engine replaced {_short(before)} at {place.endpoint}:{path}")
        self._record.occupied.add(Location(place.endpoint, path))
        origin, where = self._record.located(place.endpoint, path, after)
        found = Published(self._number, where, id(place), after)
        self.say(f"published {found.place}: {_short(after)}")
        coming = self._record.coming(origin, after)
        if coming is None:
            self.object_(f"{found.place} shows {_short(after)}, which never was a file at {origin}")
            return
        planners = [each for each in self._record.flows[coming.epoch :] if self._record.takes(each, origin)]
        if not planners:
            self.object_(f"{found.place} got {_short(after)} of {origin}, which is not to be taken")
        elif self._settled.fault(planners, origin, after):
            self.object_(f"{found.place} got {_short(after)}, which had not settled")
        times = 1 + sum(
            (each.place, each.store, each.content) == (found.place, found.store, after)
            for each in self._record.published[origin]
        )
        if times > self._record.most(origin, after):
            self._doubled.append(f"{found.place} got {_short(after)} {times} times")
        self._record.published[origin].append(found)

    def member_at_target(
        self,
        place: Place | Shelf,
        folder: str,
        name: str,
        was: bytes | None,
        now: bytes,
        *,
        replaced: bool,
        again: bool,
    ) -> None:
        """An engine put it there. `was`, `now`: of which archives. `again`: it was not the first time for this one."""
        self._number += 1
        what = f"{place.endpoint}:{folder}/{name}"
        self.say(f"member {what}: {_short(was)} → {_short(now)}")
        if replaced and not self.overwrites:
            self.object_(f"the engine replaced {_short(was)} at {what}")
        if again and not self.jumped:
            self._doubled.append(f"{what} got {_short(now)} again")
        origin, where = self._record.located(place.endpoint, folder, now)
        coming = self._record.coming(origin, now)
        latest = next((each for each in reversed(self._record.published[origin]) if each.place == where), None)
        if coming is not None and latest is not None and self.overwrites:
            came = [each.number for each in self._record.comings[origin] if each.content == latest.content]
            if any(coming.number < number < latest.number for number in came):
                self.object_(f"{what} got {_short(now)} after the newer {_short(latest.content)}")
        self._record.begun[where].add(now)
        if was not in (None, now):
            self._lose(origin, where)

    def altered(self, place: Place | Shelf, folder: str, was: bytes) -> None:
        """By its receiver: where nothing may be replaced, the rest of its archive may not come."""
        self._record.begun[self._record.located(place.endpoint, folder, was)[1]].add(b"altered")

    def _lose(self, origin: str, where: Location) -> None:
        """What is there is being overwritten, not all at once."""
        self.say(f"gone: {where}")
        self._destroyed |= self._record.lose(origin, where)

    # In the end

    def _check_latest(self, path: str, content: bytes) -> None:
        """Nowhere that it belongs, by one of the configurations since it came, is what came before it."""
        coming = self._record.coming(path, content)
        waived = {place for what, which, place in self._record.waived if (what, which) == (path, content)}
        older = dict[Location, bytes]()
        for place in {each.place for each in self._record.published[path]} - waived:
            got = [each.content for each in self._record.published[path] if each.place == place]
            if content in got and got[-1] != content:
                older[place] = got[-1]
        if (
            older
            and coming is not None
            and all(places & set(older) for places in self._record.wanted(path, coming.epoch))
        ):
            for place, held in older.items():
                self.object_(f"{place} got the older {_short(held)} after {_short(content)}")

    def check_end(self, source: Place | Shelf, targets: Mapping[str, Place | Shelf]) -> None:
        """Nothing is under way any more."""
        if self._between is not None:
            self._removed(self._between)
            self._between = None
        last = self._record.flows[-1]
        alive = {plain(node.data) for path in source.names() if (node := source.node(path))}
        for path in source.names():
            node = source.node(path)
            assert node is not None
            content = cast(bytes, plain(node.data))
            origin, coming = self._moved.get(path, (path, None))
            proved = coming is None or coming.content != content or (origin, coming) in self._proved
            if not proved and source.fits(origin) and not self._record.delivered(origin, coming, removed=True):
                self.object_(f"{path} was archived, {_short(content)} of {origin}, but not delivered")
            if self.kept.is_over(path):
                self.object_(f"{path} stays in the archive though its time is over")
            if not self._record.takes(last, path):
                continue
            if any(
                not place.fits(f"{each.path}/{_ANY}" if self.unpacks else each.path)
                for places in self._record.wanted(path, 0)
                for each in places
                for place in [targets[each.endpoint]]
            ):
                continue
            coming = self._record.coming(path, content)
            if coming is not None and self._settled.waits(last, source, path, coming.number):
                continue
            if not self._record.delivered(path, coming):
                self.object_(f"{path}, {_short(content)}, is missing at {self._record.missing(path, coming)}")
            if all(planner.flow.on_conflict == "overwrite" for planner in self._record.flows):
                self._check_latest(path, content)
        arrived = {each.content for several in self._record.published.values() for each in several}
        for content in {each.content for several in self._record.comings.values() for each in several}:
            if content not in alive | arrived | self._destroyed | {sign for _, sign in self._signs}:
                self.object_(f"{_short(content)} is nowhere any more")


def _short(content: bytes | None) -> str:
    return "nothing" if content is None else content.rstrip(b".\n").decode()
