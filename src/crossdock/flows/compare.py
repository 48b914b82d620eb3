"""Is the target's file the source's? Decided from what two listings say. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from crossdock.storage.base import Capabilities, Entry

__all__ = ["UNSURE", "difference"]

UNSURE: Literal["unsure"] = "unsure"
"""The listings do not settle it; a `stat` of the side that does not list modification times would."""


def difference(source: Entry, target: Entry, theirs: Capabilities, ours: Capabilities) -> str | None:
    """Why the file must be moved again: a reason, None if it need not be, or `UNSURE`.

    `theirs` are the source's capabilities, `ours` the target's. Times count as equal within the coarser precision.
    """
    if target.kind != "file":
        return None
    if source.size is not None and target.size is not None and source.size != target.size:
        return "size differs"
    if source.modified is None or target.modified is None:
        return None
    if ours.mtime_precision is None:
        return "source is newer" if source.modified > target.modified else None
    precision = max(ours.mtime_precision, theirs.mtime_precision or timedelta(0))
    if abs(source.modified - target.modified) < precision:
        return None
    return "modification time differs" if theirs.lists_mtime and ours.lists_mtime else UNSURE
