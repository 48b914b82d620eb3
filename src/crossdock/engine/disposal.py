"""What becomes of a source file that every destination has: archived, removed, or tagged.

A file is touched only while it still is the one that was delivered; a newer one under its name is left alone, and if it
comes in the very moment of the move, it is put back. What it is archived as, and for how long, `engine.archive` says.

After a crash the same is done again. Where the source is gone by then, it lies in the archive under the name that we
would choose, or its owner has taken it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

from crossdock.engine.archive import Archive, is_copy, read_entry
from crossdock.engine.aside import Aside, at_name
from crossdock.engine.copies import Copies
from crossdock.engine.endpoints import Endpoints
from crossdock.engine.gone import is_there
from crossdock.engine.markers import SenderMarker
from crossdock.engine.recovery import sha256_of
from crossdock.errors import (
    AlreadyExists,
    NotAFile,
    NotFound,
    PermissionDenied,
    SourceChanged,
    Unsupported,
    shown,
)
from crossdock.flows.flow import Flow
from crossdock.flows.route import Template, words_of
from crossdock.ledger.base import Lease, Ledger, State, Transfer
from crossdock.storage.base import Entry
from crossdock.storage.storage import Storage

__all__ = ["Disposal", "beside", "is_still"]

log = logging.getLogger("crossdock.engine")

_NEWER = "the source holds a newer file, which is left alone"
_SKEW = timedelta(minutes=15)
"""A store whose clock is further off accepts no request of ours."""


class Disposal:
    """Of one flow. Raises `ValueError` for an archive's template that cannot be read."""

    def __init__(self, flow: Flow, endpoints: Endpoints, ledger: Ledger, clock: Callable[[], datetime]) -> None:
        self._after, self._endpoints = flow.after, endpoints
        self.archive = Archive(flow, endpoints, ledger, clock)
        marker = Template(flow.settle.marker) if flow.settle.marker else None
        self._busy: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # One without the whole name may speak for several files.
        self.marker = marker if marker is not None and marker.names & {"name", "path"} else None

    async def dispose(self, lease: Lease, receipt: Mapping[str, Any], siblings: Sequence[Transfer]) -> tuple[str, bool]:
        """What was done, in words, and whether the source is gone. Safe to repeat. Raises `CrossdockError`."""
        # The transfers to its destinations may end in one moment.
        async with self._busy.setdefault(lease.transfer.entry.path, asyncio.Lock()):
            return await self._dispose(lease, receipt, siblings)

    async def tidy(self, lease: Lease, receipt: Mapping[str, Any]) -> tuple[str, bool]:
        """Where nothing is to be done with the source any more: what a killed attempt left there. "": nothing."""
        transfer = lease.transfer
        if transfer.source != self.archive.flow.source.endpoint:
            return "", False
        async with self._busy.setdefault(transfer.entry.path, asyncio.Lock()):
            storage = await self._endpoints.storage(transfer.source)
            meant = read_entry(receipt) or transfer.entry
            work = _Work(self.archive, storage, transfer, meant, receipt, lease.id)
            await work.copies.sweep()
            if (marker := self._marker_of(work)) is not None:
                await marker.restore()
            with suppress(PermissionDenied, Unsupported):  # Nor may we put anything aside there.
                return ("removed the source", True) if await work.aside.clear() else ("", False)
            return "", False

    async def _dispose(
        self, lease: Lease, receipt: Mapping[str, Any], siblings: Sequence[Transfer]
    ) -> tuple[str, bool]:
        transfer, after = lease.transfer, self._after
        storage = await self._endpoints.storage(transfer.source)
        meant = read_entry(receipt) or transfer.entry
        first = min(one.id for one in siblings) if siblings else lease.id
        work = _Work(self.archive, storage, transfer, meant, receipt, first)
        marker = self._marker_of(work) if after.takes_source else None
        if transfer.state is State.DELIVERED:
            await work.copies.sweep()
            if marker is not None:
                await marker.restore()
        if marker is not None:
            await marker.look()
        try:
            now = await storage.stat(transfer.entry.path)
        except NotFound:
            taken = await work.taken()
            if not taken and not await is_there(self.archive.flow.source, self._endpoints):
                raise  # With it, the file may come back, and would be sent again.
            return taken or "the source was gone", after.takes_source
        if now.kind != "file" or not is_still(meant, now, storage):
            taken = await work.taken()
            return (f"{taken}; {_NEWER}", True) if taken else (_NEWER, False)
        try:
            if marker is not None:
                await marker.take()
            if after.archive is not None:
                return await work.archive(now, again=transfer.state is State.DELIVERED)
            if after.delete:
                return await work.delete(now)
            await storage.set_tags(transfer.entry.path, after.tag, pin=now)
        except SourceChanged:
            return _NEWER, False
        return f"tagged {', '.join(sorted(after.tag))}", False

    def _marker_of(self, work: _Work) -> SenderMarker | None:
        if self.marker is None:
            return None
        below = work.path.removeprefix(self.archive.root)
        return work.marker(self.archive.root + beside(self.marker, below, {}))


class _Work:
    """One source file."""

    def __init__(
        self,
        archive: Archive,
        storage: Storage,
        transfer: Transfer,
        meant: Entry,
        receipt: Mapping[str, Any],
        first: int,
    ) -> None:
        self._archive, self._storage, self._transfer, self._meant = archive, storage, transfer, meant
        self.path = transfer.entry.path
        finished = receipt.get("finished")
        self._at = datetime.fromisoformat(finished) if isinstance(finished, str) else transfer.changed
        self._first, self.copies = first, Copies(archive, storage, first)
        key = f"{transfer.flow}\n{transfer.source}\n{self.path}\n{transfer.fingerprint}"
        self.aside = Aside(storage, self.path, key, lambda there: is_still(meant, there, storage))

    @property
    def _names(self) -> Iterator[str]:
        return self._archive.paths(self.path, self._transfer.entry.modified, self._at, self._first)

    async def taken(self) -> str:
        """What our own hand, before a crash or for a sibling, did to a source that is not there. "": nothing."""
        after = self._archive.flow.after
        if after.archive is not None:
            last, gap = None, False
            for path in self._names:
                there = await at_name(self._storage, path)
                if there is not None and self._was_moved(there):
                    # With a `keep`, its time was noted before it was moved, if it was not kept for good by then.
                    note = self._archive.note if after.keep is None else self._archive.note_first
                    await note(self._transfer, there)
                    return f"archived as {shown(path)}"
                gap = gap or there is None
                last = last if gap else there
            if last is not None and await self._put_back(last):
                return _NEWER
        # Also where the flow archives by now, or where the lease is now: whoever put this aside was to delete it.
        if after.takes_source and await self.aside.clear():
            return "removed the source"
        return ""

    def marker(self, path: str) -> SenderMarker:
        names = self._archive.paths(path, self._transfer.entry.modified, self._at, self._first)
        archives = self._archive.flow.after.archive is not None
        return SenderMarker(
            path, list(names) if archives else None, self._archive, self._storage, self._transfer, self.copies
        )

    async def _put_back(self, last: Entry) -> bool:
        """A newer file that an attempt moved, and was killed or cut off before it saw that: nobody has sent it."""
        if self._transfer.state is not State.DELIVERED or self.copies.wanted or last.kind != "file":
            return False
        if not await self._archive.is_unsent(self._transfer, last):
            return False
        with suppress(AlreadyExists, NotFound):
            await self._storage.rename(last.path, self.path)
            return True
        return False

    def _was_moved(self, there: Entry) -> bool:
        """Whether an archived file is ours. A copy within a store may have lost everything but its size."""
        if there.kind != "file" or there.size != self._meant.size:
            return False
        if self._meant.etag is None or self._meant.etag == there.etag:
            return self._meant.etag is not None or there.modified == self._meant.modified
        return there.modified is not None and (
            there.modified == self._meant.modified or there.modified >= self._at - _SKEW
        )

    async def archive(self, now: Entry, *, again: bool) -> tuple[str, bool]:
        for path in self._names:
            try:
                if self.copies.wanted:
                    return await self._copied(path, now, again), True
                archived = await self._moved(path, now)
            except AlreadyExists:
                if again and (there := await self._linked(path, now)) is not None:
                    _, gone = await self.delete(now)
                    await self._archive.note(self._transfer, there)
                    return f"archived as {shown(path)}{'' if gone else f'; {_NEWER}'}", True
                continue
            except NotAFile as error:
                if error.path != path:
                    raise
                continue  # A folder has that name.
            except NotFound:
                # Another worker, or the owner, was faster.
                return await self.taken() or "the source was gone", True
            return (f"archived as {shown(path)}", True) if archived else (_NEWER, False)
        raise self._storage.backend.error(
            AlreadyExists, "archive", self.path, "every name for it is taken", hint="tidy the archive up"
        )

    async def _linked(self, path: str, now: Entry) -> Entry | None:
        """The file at its new name, if a rename that takes a link and a removal was killed between the two."""
        there = await at_name(self._storage, path)
        if there is None or not self._was_moved(there):
            return None
        same = await sha256_of(self._storage, there) == await sha256_of(self._storage, now)
        return there if same else None

    async def _moved(self, path: str, now: Entry) -> bool:
        """By a rename. False: a newer file had come, and was put back."""
        noted = await self._note_first(path, now)
        try:
            await self._storage.rename(self.path, path)
        except (AlreadyExists, NotAFile, NotFound):
            if noted:
                await self._archive.forget(path)
            raise
        there = await self._storage.stat(path)
        if is_still(self._meant, there, self._storage):
            if not noted or there.fingerprint != now.fingerprint:
                await self._archive.note(self._transfer, there)
            return True
        if noted:
            await self._archive.forget(path)
        try:
            await self._storage.rename(path, self.path)
        except AlreadyExists:
            log.warning(
                "%s:%s was replaced twice while it was archived; the version between lies at %s",
                self._storage.endpoint,
                shown(self.path),
                shown(path),
            )
        return False

    async def _note_first(self, path: str, now: Entry) -> bool:
        """Whether its time was recorded, for a name that seems to be free. Raises `AlreadyExists`."""
        if self._archive.flow.after.keep is None:
            return False
        entry = replace(now, path=path)
        if not await self._archive.note_first(self._transfer, entry):
            if await at_name(self._storage, path) is not None:
                raise self._storage.backend.error(AlreadyExists, "archive", path, "the name is taken")
            await self._archive.note(self._transfer, entry)
        return True

    async def _copied(self, path: str, now: Entry, again: bool) -> str:
        """By a copy within the store and a delete, both of exactly this object. Raises `SourceChanged`: not copied."""
        there = None
        if again or not self._storage.capabilities.create_new:
            there = await at_name(self._storage, path)
            if there is not None and not (again and self._was_moved(there)) and not is_copy(there, now):
                raise self._storage.backend.error(AlreadyExists, "archive", path, "the name is taken")
        if there is None:
            try:
                await self.copies.copy(self.path, path, now)
            except AlreadyExists:
                # By the worker of another destination, in this very moment?
                there = await at_name(self._storage, path)
                if there is None or not is_copy(there, now):
                    raise
        await self._archive.note(self._transfer, there or await self._storage.stat(path))
        words = f"archived as {shown(path)}"
        try:
            await self.copies.remove(self.path, now)
        except SourceChanged:
            words += f"; {_NEWER}"
        return words

    async def delete(self, now: Entry) -> tuple[str, bool]:
        if self._storage.capabilities.pinned_delete:
            await self._storage.delete_pinned(self.path, now)
            return "removed the source", True
        try:
            await self.aside.set()
        except (PermissionDenied, Unsupported):
            removed = await self.aside.delete_in_place()
        except NotFound:
            return await self.taken() or "the source was gone", True
        else:
            removed = await self.aside.clear()
        # What is not there any more was removed by another worker.
        return (_NEWER, False) if removed is False else ("removed the source", True)


def beside(template: Template, path: str, more: Mapping[str, Any]) -> str:
    """A name that a template makes for a file: in the file's own folder, unless it says a folder itself."""
    words = words_of(path)
    name = template.fill({**words, **more})
    whole = template.names & {"path", "folder"} or not words["folder"]
    return name if whole else f"{words['folder']}/{name}"


def is_still(meant: Entry, now: Entry, storage: Storage) -> bool:
    """Whether a file is the one that is meant, by all that both entries tell; if that is nothing, it is not."""
    told: list[tuple[object, object]] = [
        (meant.version, now.version),
        (meant.etag, now.etag),
        (meant.size, now.size),
    ]
    if meant.etag is None and now.etag is None and storage.capabilities.lists_mtime:
        told.append((meant.modified, now.modified))
    known = [(old, new) for old, new in told if old is not None and new is not None]
    return bool(known) and all(old == new for old, new in known)
