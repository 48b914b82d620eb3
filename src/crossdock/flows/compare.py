"""Is the target's file the source's? Decided from what two listings say. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from crossdock.storage.base import Capabilities, Entry

__all__ = ["TIME_DIFFERS", "UNSURE", "Comparison"]

UNSURE: Literal["unsure"] = "unsure"
"""The listings do not settle it; a `stat` of the side that does not list modification times would."""

TIME_DIFFERS = "modification time differs"
NOTHING_TOLD = "neither size nor time is told"


class Comparison:
    """Compares files at two endpoints. `theirs` are the source's capabilities, `ours` the target's.

    Times count as equal within the coarser precision, and if they are no further apart than `window`.
    """

    def __init__(self, theirs: Capabilities, ours: Capabilities, *, window: timedelta = timedelta(0)) -> None:
        self._theirs, self._ours, self._window = theirs, ours, window
        self._precision = ours.mtime_precision and max(ours.mtime_precision, theirs.mtime_precision or timedelta(0))
        self._theirs_listed, self._ours_listed = theirs.lists_mtime, ours.lists_mtime

    def difference(self, source: Entry, target: Entry, *, listed: bool = True) -> str | None:
        """Why the file must be moved again: a reason, None if it need not be, or `UNSURE` if both are only `listed`."""
        if target.kind != "file":
            return None
        if source.size is not None and target.size is not None and source.size != target.size:
            return "size differs"
        if source.modified is None or target.modified is None:
            # Where neither is told, nothing says that it is the same.
            return NOTHING_TOLD if source.size is None or target.size is None else None
        if self._precision is None:
            return "source is newer" if source.modified - target.modified > self._window else None
        there, here = source.modified, target.modified
        # Whichever of the two was made of the other, perhaps where its time could not be kept.
        apart = min(abs(self._ours.kept(there) - here), abs(there - self._theirs.kept(here)))
        if apart < self._precision or apart <= self._window:
            # What was uploaded in the second in which the source changed is not what it changed to.
            return UNSURE if listed and not self._ours_listed else None
        return TIME_DIFFERS if not listed or (self._theirs_listed and self._ours_listed) else UNSURE
