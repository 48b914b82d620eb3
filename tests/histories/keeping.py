"""How long archived files stay: each by the time at which an engine put it there, and by what was configured then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from crossdock.flows.plan import Planner

__all__ = ["Kept"]


class Kept:
    """`planners`: every configuration that there was, and that there will be."""

    def __init__(self, clock: Callable[[], datetime], planners: Sequence[Planner]) -> None:
        self._clock, self._planners = clock, planners
        self._files: dict[str, tuple[datetime, int]] = {}
        self._untold: set[str] = set()
        self.set_back = timedelta()
        """By so much clocks were set back."""

    def add(self, path: str) -> None:
        self._files[path] = self._clock(), len(self._planners) - 1

    def drop(self, path: str) -> None:
        self._files.pop(path, None)
        self._untold.discard(path)

    def broken(self) -> None:
        """An attempt was, which may not have noted what it put there: the next one does, as it is told by then."""
        self._untold |= set(self._files)

    def _keeps(self, path: str) -> list[float | None]:
        """By every configuration since it was put there."""
        return [planner.flow.after.keep for planner in self._planners[self._files[path][1] :]]

    def _least(self, path: str) -> timedelta | None:
        """For how long it stays. None: for good."""
        keeps = self._keeps(path)
        first = min((each for each in keeps if each is not None), default=None) if path in self._untold else keeps[0]
        return None if first is None or keeps[-1] is None else timedelta(seconds=max(first, keeps[-1]))

    def is_early(self, path: str) -> bool:
        """To remove it now."""
        if path not in self._files:
            return False
        least = self._least(path)
        return least is None or self._clock() + self.set_back - self._files[path][0] < least

    def is_over(self, path: str) -> bool:
        """Its time, by whichever configuration that was noted."""
        if path not in self._files or (least := self._least(path)) is None:
            return False
        if path in self._untold and None in self._keeps(path):
            return False
        return self._clock() - self._files[path][0] > least
