"""What a flow's looks saw of files, and what its owner put beside them to say that they are finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from crossdock.flows.plan import Planner
from tests.histories.places import Place
from tests.histories.served import Shelf

__all__ = ["Settled", "signs_for"]

_SAME_TIME = timedelta(seconds=2)


def signs_for(sign: str | None, path: str) -> Iterator[str]:
    """Where a marker for it may lie, or a manifest that lists it."""
    folder, slash, name = path.rpartition("/")
    if sign is None:
        return
    if "{" in sign:
        stem, dot, _ = name.rpartition(".")
        yield f"{folder}{slash}{sign.format(name=name, stem=stem if dot else name)}"
        return
    yield f"{folder}{slash}{sign}"
    if folder:
        yield from signs_for(sign, folder)


class Settled:
    def __init__(self) -> None:
        self._looks: Counter[tuple[str, bytes]] = Counter()
        self._told: set[tuple[str, bytes]] = set()
        self._signs: dict[str, tuple[int, datetime, bytes]] = {}
        """The owner's last act at each path: number, time and content."""

    def sign(self, number: int, place: Place | Shelf, path: str, after: bytes | None) -> None:
        """The owner puts something there, or takes it away."""
        node = place.node(path)
        if after is None or node is None:
            self._signs.pop(path, None)
        else:
            self._signs[path] = number, node.modified, after

    def listed(self, planner: Planner, place: Place | Shelf, path: str, content: bytes) -> None:
        self._looks[path, content] += 1
        node = place.node(path)
        if node is not None and self._is_told(planner, place, path, node.modified, None):
            self._told.add((path, content))

    def fault(self, planners: Sequence[Planner], path: str, content: bytes) -> bool:
        """It was taken though none of these flows could know that it is finished."""
        return all(
            self._looks[path, content] < each.flow.settle.sightings
            or ((path, content) not in self._told and _asks(each))
            for each in planners
        )

    def waits(self, planner: Planner, place: Place | Shelf, path: str, came: int) -> bool:
        """For its owner to say that it is finished. What the owner said since it came is not to be lost."""
        node = place.node(path)
        return node is not None and _asks(planner) and not self._is_told(planner, place, path, node.modified, came)

    def _is_told(self, planner: Planner, place: Place | Shelf, path: str, modified: datetime, came: int | None) -> bool:
        settle = planner.flow.settle
        for sign in signs_for(settle.marker or settle.manifest, path):
            if not sign.startswith(planner.prefix):
                continue
            found = place.node(sign)
            known = None if found is None else (found.modified, found.data)
            number, modified_then, said = self._signs.get(sign, (0, modified, b""))
            if known is None and came is not None and number > came:
                known = modified_then, said
            if known is None or (settle.manifest and not _lists(known[1], sign, path)):
                continue
            if known[0] >= modified - _SAME_TIME or (settle.manifest and settle.seconds):
                return True
        return not _asks(planner)


def _asks(planner: Planner) -> bool:
    return bool(planner.flow.settle.marker or planner.flow.settle.manifest)


def _lists(content: bytes, manifest: str, path: str) -> bool:
    folder, slash, _ = manifest.rpartition("/")
    return path.removeprefix(f"{folder}{slash}") in content.decode(errors="replace").splitlines()
