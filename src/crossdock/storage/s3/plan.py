"""Part sizes: at most 10,000 parts of 5 MiB to 5 GiB, whatever the file's size (Amazon S3 user guide, "qfacts")."""

from __future__ import annotations

from crossdock.storage.s3.settings import LARGEST_PART, MIB

__all__ = ["MOST_PARTS", "PartPlan", "part_size_for"]

MOST_PARTS = 10_000
_DOUBLE_EVERY = 1_000


def part_size_for(size: int, smallest: int) -> int:
    """Bytes per part so that `size` bytes fit in 10,000 parts: `smallest`, or more, then a whole number of MiB."""
    needed = -(-size // MOST_PARTS)
    return smallest if needed <= smallest else -(-needed // MIB) * MIB


class PartPlan:
    """How many bytes part number n (from 1) takes.

    A declared size gives equal parts. Without one, parts double every 1,000, which reaches 7.8 TiB from 8 MiB; the
    declared way reaches the store's own limit of 48.8 TiB.
    """

    def __init__(self, size: int | None, smallest: int, *, uniform: bool = False) -> None:
        self._grows = size is None and not uniform
        self._size = smallest if size is None else part_size_for(size, smallest)

    def part_size(self, number: int) -> int:
        """Raises `ValueError` for a part that no store takes: the file is too large."""
        size = self._size
        if self._grows:
            size = min(size << ((number - 1) // _DOUBLE_EVERY), LARGEST_PART)
        if number > MOST_PARTS or size > LARGEST_PART:
            raise ValueError("more than 10,000 parts, or a part of more than 5 GiB")
        return size
