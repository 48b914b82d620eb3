"""What is gone from a source, and what our own actions take away while somebody looks at it, or has just looked.

A look may have listed a file before that, and asks the ledger afterwards: to it, the file is one that came back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from crossdock.engine.endpoints import Endpoints
from crossdock.errors import CrossdockError
from crossdock.flows.explain import missed, tried_again
from crossdock.flows.flow import Place
from crossdock.ledger.base import Ledger, Query, State, Transfer

__all__ = ["File", "Taken", "back_again", "file_of", "is_there", "taken_by"]

_SKIPPED = 1000
"""Transfers of a flow, the newest, that are looked through at each look at its source."""
_LAST = 100
"""Transfers of files of one name that are looked through."""

File = tuple[str, str, str]
"""Source, path and fingerprint."""


def file_of(transfer: Transfer) -> File:
    """Of whichever destination."""
    return (transfer.source, transfer.entry.path, transfer.fingerprint)


class Taken:
    """By this process."""

    def __init__(self) -> None:
        self._looks: dict[int, set[File]] = {}
        self._number = 0

    def note(self, transfer: Transfer) -> None:
        """It is gone from the source. Before the ledger says so: then every look that cannot see it there knows."""
        for taken in self._looks.values():
            taken.add(file_of(transfer))

    @contextmanager
    def look(self) -> Iterator[set[File]]:
        """Filled with what is taken away meanwhile."""
        self._number += 1
        number = self._number
        taken = self._looks[number] = set()
        try:
            yield taken
        finally:
            del self._looks[number]


async def is_there(source: Place, endpoints: Endpoints) -> bool:
    """Whether a flow's source is. Where it is not, a mount is missing perhaps, and no file is known to be gone."""
    try:
        storage = await endpoints.storage(source.endpoint)
        await (storage.stat(source.path) if storage.capabilities.directories else storage.check_store())
    except CrossdockError:
        return False
    return True


async def taken_by(transfer: Transfer, ledger: Ledger) -> int | None:
    """The transfer, perhaps another process's, that delivered the same file to the same place and took it away."""
    name = transfer.entry.path.rpartition("/")[2]
    for each in await ledger.find(Query(flow=transfer.flow, name=name, before=transfer.id, limit=_LAST)):
        same = (each.source, each.entry.path, each.fingerprint, each.target, each.target_path)
        if each.gone and same == (
            transfer.source,
            transfer.entry.path,
            transfer.fingerprint,
            transfer.target,
            transfer.target_path,
        ):
            return each.id
    return None


async def back_again(flow: str, ledger: Ledger, now: datetime) -> dict[File, list[int]]:
    """By their files, the transfers that were `missed`, and are tried again if the file is there: it may have been put
    aside, or replaced for a while, or its mount have been missing.

    Less and less often (`tried_again`): a listing may go on showing what nobody can open.
    """
    found: dict[File, list[int]] = {}
    for each in await ledger.find(Query(flow=flow, states=frozenset({State.SKIPPED}), limit=_SKIPPED)):
        if missed(each) and now >= tried_again(each):
            found.setdefault(file_of(each), []).append(each.id)
    return found
