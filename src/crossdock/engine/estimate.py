"""How many requests a transfer costs at its object stores, by their settings: what a provider will bill.

With P the endpoint's `part_size` (larger where 10,000 parts would not do), for a file of S bytes:

- read from a store: ⌈S/P⌉ GET, at least one;
- written to a store: one PUT if S ≤ P; else POST + ⌈S/P⌉ PUT + POST + HEAD (start, parts, complete, look);
- copied within a store, S ≤ `copy_threshold`: HEAD + PUT, and one HEAD more at stores other than Amazon's; above it,
  or if nothing may be replaced, HEAD + GET (tags) + POST + ⌈S/`copy_part_size`⌉ PUT + POST + HEAD, and the one more;
- `on_conflict: version`: one HEAD for the first name tried.

Left out: listings, what a flow does after the delivery, repeated requests, and what transforms make of the size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from crossdock.flows.flow import OnConflict

__all__ = ["requests"]


def requests(
    size: int | None, source: Any, target: Any, *, on_conflict: OnConflict = "overwrite", transforms: bool = False
) -> Mapping[str, int]:
    """Method → requests, at both endpoints together. `source` and `target` are endpoints' settings; size None: 0."""
    size = size or 0
    found: Counter[str] = Counter()
    if target.type == "s3" and on_conflict == "version":
        found["HEAD"] += 1
    if source.type == target.type == "s3" and _store(source) == _store(target) and not transforms:
        return dict(found + _copied(size, target, whole=on_conflict == "overwrite"))
    if source.type == "s3":
        found["GET"] += max(1, -(-size // source.part_size))
    if target.type == "s3":
        found += _written(size, target.part_size)
    return dict(found)


def _written(size: int, part_size: int) -> Counter[str]:
    from crossdock.storage.s3.plan import part_size_for

    if size <= part_size:
        return Counter(PUT=1)
    return Counter(POST=2, PUT=-(-size // part_size_for(size, part_size)), HEAD=1)


def _copied(size: int, target: Any, *, whole: bool) -> Counter[str]:
    from crossdock.storage.s3.plan import part_size_for

    again = 0 if target.amazon else 1
    if whole and size <= target.copy_threshold:
        return Counter(HEAD=1 + again, PUT=1)
    if not size:
        return Counter(HEAD=1, GET=1, PUT=1)
    parts = -(-size // part_size_for(size, target.copy_part_size))
    return Counter(HEAD=2 + again, GET=1, POST=2, PUT=parts)


def _store(settings: Any) -> tuple[object, ...]:
    """Equal ones copy from each other without bytes passing through here (as `Backend.store` says once open)."""
    return settings.service_url, settings.region, settings.identity()
