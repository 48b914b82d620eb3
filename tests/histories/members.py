"""What archives became at targets: folders of files that come one by one, and are an archive's once all are there.

A witness is told of each file as it comes, and of the archive, as of one file, in the moment in which it is whole.
"""

from __future__ import annotations

from typing import Any

from tests.histories.contents import archived, members_of
from tests.histories.witness import Witness

__all__ = ["Members", "whole_at"]


def whole_at(place: Any, folder: str) -> bytes | None:
    """The words of the archive all of whose files lie there. None: of none."""
    for path in place.names():
        if path.startswith(f"{folder}/"):
            words = archived(path.removeprefix(f"{folder}/"), place.node(path).data)
            if words is not None and all(_lies(place, folder, name, words) for name in members_of(words)):
                return words
    return None


def _lies(place: Any, folder: str, name: str, words: bytes) -> bool:
    node = place.node(f"{folder}/{name}")
    return node is not None and archived(name, node.data) == words


class Members:
    """Of one flow."""

    def __init__(self, witness: Witness) -> None:
        self._witness, self._number = witness, 0
        self._put: dict[tuple[int, str, str], tuple[int, bytes]] = {}
        """What an engine put last under each name: when, and of which archive."""
        self._whole: dict[tuple[int, str], int] = {}
        """When the last archive was whole there."""
        self._halves: dict[tuple[int, str], bytes] = {}
        """What was not whole as yet in these runs."""

    def heard(
        self, place: Any, folder: str, name: str, before: bytes | None, after: bytes | None, *, by_hand: bool
    ) -> None:
        self._number += 1
        was, now = (None if data is None else archived(name, data) for data in (before, after))
        if by_hand:
            others = [] if was is None else [each for each in members_of(was) if each != name]
            lay = was if all(_lies(place, folder, each, was) for each in others if was is not None) else None
            self._witness.at_target(place, folder, lay, None, by_hand=True)
            if was is not None and after is not None:
                self._witness.altered(place, folder, was)
            return
        if after is None:
            self._witness.at_target(place, folder, was, None, by_hand=False)
            return
        if now is None:
            self._witness.object_(f"{place.endpoint}:{folder}/{name} is no archive's: {after!r}")
            return
        since = self._whole.get((id(place), folder), 0)
        again = was == now and self._put.get((id(place), folder, name), (0, b""))[0] > since
        self._put[id(place), folder, name] = self._number, now
        self._witness.member_at_target(place, folder, name, was, now, replaced=before not in (None, after), again=again)
        last = name == list(members_of(now))[-1]
        missing = [each for each in members_of(now) if not self._is_there(place, folder, each, now, since)]
        if missing and last:
            self._witness.object_(f"{place.endpoint}:{folder} is not whole: {missing} of {now!r} did not come")
        # Where nothing is replaced, what was there already is not put again, be it the last.
        self._halves[id(place), folder] = now
        if not missing:
            self._halves.pop((id(place), folder))
        if not missing and (last or not self._witness.overwrites):
            self._whole[id(place), folder] = self._number
            self._witness.at_target(place, folder, None, now, by_hand=False)

    def all_ended(self) -> None:
        """No engine runs. What has begun is whole, unless something broke it off."""
        for (_, folder), words in self._halves.items():
            if not self._witness.broken and not self._witness.waived:
                self._witness.object_(f"{folder} is half of {words!r}")
        self._halves.clear()

    def _is_there(self, place: Any, folder: str, name: str, words: bytes, since: int) -> bool:
        """Or was, since the last one was whole: its receiver may take it at once."""
        number, whose = self._put.get((id(place), folder, name), (0, b""))
        return (number > since and whose == words) or _lies(place, folder, name, words)
