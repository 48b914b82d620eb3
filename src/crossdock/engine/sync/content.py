"""Whether two files hold the same bytes, by what their stores tell of them."""

from __future__ import annotations

import re
from typing import TypeGuard

from crossdock.errors import CrossdockError
from crossdock.storage.base import Entry
from crossdock.storage.storage import Storage

__all__ = ["Unsure", "not_same_by_etag"]

Unsure = tuple[str, Entry, Entry]
"""A name, and what the source and the target listed of it."""

_MD5 = re.compile("[0-9a-f]{32}")
_SMALL = 1024 * 1024
"""Bytes that are read and hashed faster than a store answers a question about them."""
_BATCH = 100
"""Small files that are hashed in one call."""


async def not_same_by_etag(source: Storage, target: Storage, unsure: list[Unsure]) -> list[Unsure]:
    """Without those that have one MD5 as their etag at both, or at one that of a small file at hand: no request."""
    left: list[Unsure] = []
    at_target: list[tuple[Unsure, str, Entry]] = []
    at_source: list[tuple[Unsure, str, Entry]] = []
    for one in unsure:
        _, entry, there = one
        if _is_md5(entry.etag) and entry.etag == there.etag:
            continue
        if _is_md5(entry.etag) and _may_hash(target, there):
            at_target.append((one, entry.etag, there))
        elif _is_md5(there.etag) and _may_hash(source, entry):
            at_source.append((one, there.etag, entry))
        else:
            left.append(one)
    for holder, asked in ((target, at_target), (source, at_source)):
        for start in range(0, len(asked), _BATCH):
            batch = asked[start : start + _BATCH]
            try:
                digests = await holder.digests([held.path for _, _, held in batch], "md5")
            except CrossdockError:
                # Looked at one by one, the file that cannot be hashed fails alone.
                digests = [""] * len(batch)
            left += [one for (one, etag, _), digest in zip(batch, digests, strict=True) if digest != etag]
    return left


def _is_md5(etag: str | None) -> TypeGuard[str]:
    return etag is not None and _MD5.fullmatch(etag) is not None


def _may_hash(storage: Storage, entry: Entry) -> bool:
    return (entry.size or 0) <= _SMALL and "md5" in storage.capabilities.hashes
