"""One-way sync of a tree: two ordered listings are merged, and what is new or changed is moved.

Memory: what `Storage.walk` holds, a bounded queue of decisions, and the paths to delete if `delete` is set.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, Self

from crossdock.engine.attempts import deliver
from crossdock.errors import Conflict, CrossdockError, NotFound, shown
from crossdock.flows.compare import UNSURE, difference
from crossdock.flows.filters import Filters
from crossdock.storage.base import Entry
from crossdock.storage.retry import RetryPolicy
from crossdock.storage.storage import Storage
from crossdock.transfer.copy import Receipt
from crossdock.transfer.pipe import Tally, pipe

__all__ = ["Courier", "Outcome", "Summary", "SyncOptions", "sync"]


_MD5 = re.compile("[0-9a-f]{32}")
_SMALL = 1024 * 1024
"""Bytes that are read and hashed faster than a store answers a question about them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOptions:
    """How a tree is to be synced."""

    filters: Filters = field(default_factory=Filters)
    checksum: bool = False
    """Compare content, reading both sides, where sizes are equal."""
    delete: bool = False
    max_delete: int | float = 0.25
    """With `delete`: how many target files may go; a whole number counts, a fraction is of the target's files."""
    dry_run: bool = False
    transfers: int = 16
    policy: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one file, and why."""

    path: str
    """Relative to the synced folder."""
    action: Literal["copy", "skip", "delete", "fail"]
    reason: str
    size: int | None = None
    sha256: str | None = None
    seconds: float | None = None
    attempts: int = 0
    receipt: Receipt | None = None
    error: CrossdockError | None = None

    def as_json(self) -> dict[str, Any]:
        """For reports; what is unknown is left out."""
        found: dict[str, Any] = {"path": self.path, "action": self.action, "reason": self.reason}
        for key in ("size", "sha256", "seconds"):
            if getattr(self, key) is not None:
                found[key] = getattr(self, key)
        if self.attempts:
            found["attempts"] = self.attempts
        if self.receipt is not None:
            found |= {"target": self.receipt.target, "verified": self.receipt.verified}
            found |= {"notes": list(self.receipt.notes)} if self.receipt.notes else {}
        if self.error is not None:
            found |= {"error": str(self.error), "kind": type(self.error).__name__, "retryable": self.error.retryable}
        return found


@dataclass(slots=True)
class Summary:
    """What a sync did, or would do. `size`: bytes copied."""

    copied: int = 0
    skipped: int = 0
    deleted: int = 0
    failed: int = 0
    size: int = 0
    seconds: float = 0.0

    def count(self, outcome: Outcome) -> None:
        match outcome.action:
            case "copy":
                self.copied += 1
                self.size += outcome.size or 0
            case "skip":
                self.skipped += 1
            case "delete":
                self.deleted += 1
            case "fail":
                self.failed += 1


class Courier(Protocol):
    """Moves one file for a sync; in this process, or in another one (`processes.Pool`)."""

    async def __call__(
        self, path: str, to: str, pin: Entry, progress: Callable[[int], None]
    ) -> tuple[Receipt, int]: ...


Progress = Callable[[str, int, int | None], None]


async def sync(
    source: Storage,
    folder: str,
    target: Storage,
    to: str,
    options: SyncOptions | None = None,
    *,
    report: Callable[[Outcome], None],
    progress: Progress | None = None,
    courier: Courier | None = None,
) -> Summary:
    """Make `to` hold every file below `folder`, as it is there. Nothing else at the target is touched, unless `delete`.

    `report` gets one outcome per file. `progress(path, 0, size)` announces a file about to be moved, later calls add
    bytes. A file that fails does not stop the others. A listing that fails raises, and then nothing is deleted.
    Raises `Conflict` when source and target overlap, or when deleting would go too far.
    """
    run = _Run(source, folder, target, to, options or SyncOptions(), report, progress, courier)
    return await run.run()


@dataclass(frozen=True, slots=True)
class _Pair:
    name: str
    source: Entry | None
    target: Entry | None


class _Run:
    def __init__(
        self,
        source: Storage,
        folder: str,
        target: Storage,
        to: str,
        options: SyncOptions,
        report: Callable[[Outcome], None],
        progress: Progress | None,
        courier: Courier | None,
    ) -> None:
        self.source, self.folder, self.target, self.to = source, folder, target, to
        self.options, self.progress = options, progress
        self.summary = Summary()
        self.now = datetime.now(UTC)
        self.found = self.held = 0
        self.surplus: list[str] = []
        self._report = report
        self._courier = courier or self._deliver

    async def run(self) -> Summary:
        started = time.monotonic()
        self._refuse_overlap()
        work: asyncio.Queue[Callable[[], Awaitable[None]] | None] = asyncio.Queue(self.options.transfers * 4)

        async def work_off() -> None:
            while (job := await work.get()) is not None:
                await job()

        workers = [asyncio.create_task(work_off()) for _ in range(self.options.transfers)]
        listing = asyncio.create_task(self._decide(work))
        try:
            await _all_or_none([listing, *workers])
        finally:
            self.summary.seconds = time.monotonic() - started
        if self.options.delete:
            await self._delete()
        self.summary.seconds = time.monotonic() - started
        return self.summary

    def _refuse_overlap(self) -> None:
        if self.source.backend.store is None or self.source.backend.store != self.target.backend.store:
            return
        here = f"{self.source.backend.address(self.folder)}/".lstrip("/")
        there = f"{self.target.backend.address(self.to)}/".lstrip("/")
        if here.startswith(there) or there.startswith(here):
            raise Conflict(
                f"sync {self.source.endpoint}:{shown(self.folder)} → {self.target.endpoint}:{shown(self.to)}: "
                "source and target overlap",
                hint="choose a target outside the source",
            )

    async def _decide(self, work: asyncio.Queue[Callable[[], Awaitable[None]] | None]) -> None:
        async with aclosing(self._pairs()) as pages:
            async for pairs in pages:
                for pair in pairs:
                    job = self._job(pair)
                    if job is not None:
                        await work.put(job)
        for _ in range(self.options.transfers):
            await work.put(None)

    async def _pairs(self) -> AsyncGenerator[list[_Pair]]:
        """Both trees merged by name, in code-point order, many pairs at a time."""
        async with (
            _Side(self.source, self.folder, missing_is_empty=False) as ours,
            _Side(self.target, self.to, missing_is_empty=True) as theirs,
        ):
            await _both(ours.more(), theirs.more())
            while ours.page or theirs.page:
                pairs: list[_Pair] = []
                # A side is asked for more as soon as it runs out: only then is the other's next name decided.
                while (ours.page or ours.ended) and (theirs.page or theirs.ended) and (ours.page or theirs.page):
                    if not theirs.page or (ours.page and ours.name < theirs.name):
                        pairs.append(_Pair(ours.name, ours.take(), None))
                    elif not ours.page or theirs.name < ours.name:
                        pairs.append(_Pair(theirs.name, None, theirs.take()))
                    else:
                        pairs.append(_Pair(ours.name, ours.take(), theirs.take()))
                yield pairs
                await _both(ours.more(), theirs.more())

    def _job(self, pair: _Pair) -> Callable[[], Awaitable[None]] | None:
        """What is to be done about a pair, if it needs a worker; the rest is settled at once."""
        entry, there = pair.source, pair.target
        if entry is None:
            assert there is not None
            self.held += 1
            if self.options.delete and self.options.filters.verdict(there, self.now, path=pair.name) is None:
                self.surplus.append(pair.name)
            return None
        self.found += 1
        self.held += there is not None
        if entry.kind != "file":
            self._skip(pair.name, "a link is not followed" if entry.kind == "link" else "not a regular file")
            return None
        verdict = self.options.filters.verdict(entry, self.now, path=pair.name)
        if verdict is not None:
            self._skip(pair.name, verdict, entry.size)
            return None
        if there is None:
            return lambda: self._move(pair.name, entry, "new")
        if there.kind != "file":
            self._skip(pair.name, f"the target has a {there.kind} of this name")
            return None
        reason = difference(entry, there, self.source.capabilities, self.target.capabilities)
        if reason is None and not self.options.checksum:
            self._skip(pair.name, "unchanged", entry.size)
            return None
        if reason not in (None, UNSURE):
            return lambda: self._move(pair.name, entry, reason)
        return lambda: self._look_closer(pair.name, entry, there)

    def _skip(self, name: str, reason: str, size: int | None = None) -> None:
        self._tell(Outcome(path=name, action="skip", reason=reason, size=size))

    def _tell(self, outcome: Outcome) -> None:
        self.summary.count(outcome)
        self._report(outcome)

    async def _same_by_etag(self, entry: Entry, there: Entry) -> bool:
        """An etag that is the MD5 of a small file at hand settles it without a request; any other etag says nothing."""
        for listed, holder, held in ((entry, self.target, there), (there, self.source, entry)):
            if (
                listed.etag is not None
                and _MD5.fullmatch(listed.etag)
                and "md5" in holder.capabilities.hashes
                and (held.size or 0) <= _SMALL
            ):
                return await holder.digest(held.path, "md5") == listed.etag
        return False

    async def _look_closer(self, name: str, entry: Entry, there: Entry) -> None:
        """Settle by the files' own times or content what the listings could not."""
        try:
            if self.options.checksum:
                mine, theirs = await asyncio.gather(_digest(self.source, entry), _digest(self.target, there))
                reason = None if mine == theirs else "content differs"
            elif await self._same_by_etag(entry, there):
                reason = None
            else:
                if not self.source.capabilities.lists_mtime:
                    entry = await self.source.stat(entry.path)
                if not self.target.capabilities.lists_mtime:
                    there = await self.target.stat(there.path)
                reason = difference(entry, there, self.source.capabilities, self.target.capabilities)
                reason = "modification time differs" if reason == UNSURE else reason
        except CrossdockError as error:
            self._tell(Outcome(path=name, action="fail", reason="could not be compared", error=error))
            return
        if reason is None:
            self._skip(name, "unchanged", entry.size)
        else:
            await self._move(name, entry, reason)

    async def _move(self, name: str, entry: Entry, reason: str) -> None:
        if self.options.dry_run:
            self._tell(Outcome(path=name, action="copy", reason=reason, size=entry.size))
            return
        progress = self.progress

        def moved(size: int) -> None:
            if progress is not None:
                progress(name, size, entry.size)

        moved(0)
        started = time.monotonic()
        try:
            receipt, attempts = await self._courier(entry.path, _below(self.to, name), entry, moved)
        except CrossdockError as error:
            seconds = time.monotonic() - started
            self._tell(Outcome(path=name, action="fail", reason=reason, size=entry.size, seconds=seconds, error=error))
            return
        self._tell(
            Outcome(
                path=name,
                action="copy",
                reason=reason,
                size=receipt.size,
                sha256=receipt.sha256,
                seconds=receipt.seconds,
                attempts=attempts,
                receipt=receipt,
            )
        )

    async def _deliver(self, path: str, to: str, pin: Entry, progress: Callable[[int], None]) -> tuple[Receipt, int]:
        return await deliver(self.source, path, self.target, to, pin=pin, policy=self.options.policy, progress=progress)

    async def _delete(self) -> None:
        """Remove what only the target has, if that is plausible and nothing failed before."""
        if not self.surplus:
            return
        what = (
            f"sync {self.target.endpoint}:{shown(self.to)}: {len(self.surplus)} of {self.held} files would be deleted"
        )
        if not self.found:
            raise Conflict(f"{what}, but the source is empty; nothing was deleted", hint="check the source")
        if self.summary.failed:
            raise Conflict(f"{what}, but {self.summary.failed} files failed; nothing was deleted", hint="run it again")
        bound = self.options.max_delete
        limit = bound if isinstance(bound, int) else int(bound * self.held)
        if len(self.surplus) > limit:
            raise Conflict(
                f"{what}, more than the {limit} that --max-delete allows; nothing was deleted",
                hint="check the source, then raise --max-delete",
            )
        for name in self.surplus:
            if not self.options.dry_run:
                try:
                    await self.target.delete(_below(self.to, name))
                except CrossdockError as error:
                    self._tell(Outcome(path=name, action="fail", reason="could not be deleted", error=error))
                    continue
            self._tell(Outcome(path=name, action="delete", reason="not at the source"))


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


class _Side:
    """One tree, a page at a time. `page` is in descending order, so that `take` is a pop."""

    def __init__(self, storage: Storage, folder: str, *, missing_is_empty: bool) -> None:
        self._pages = storage.walk_pages(folder)
        self._missing_is_empty = missing_is_empty
        self._skip = len(folder) + 1 if folder else 0
        self.page: list[Entry] = []
        self.ended = False
        self.name = ""
        """Of the next entry, relative to the folder."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pages.aclose()

    async def more(self) -> None:
        """Get the next page, if this one is used up."""
        while not self.page and not self.ended:
            try:
                page = await anext(self._pages, None)
            except NotFound:
                if not self._missing_is_empty:
                    raise
                page = None
            self.ended = page is None
            self.page = page[::-1] if page else []
        self._look()

    def take(self) -> Entry:
        entry = self.page.pop()
        self._look()
        return entry

    def _look(self) -> None:
        if self.page:
            self.name = self.page[-1].path[self._skip :]


async def _both(ours: Coroutine[Any, Any, None], theirs: Coroutine[Any, Any, None]) -> None:
    """Side by side; both have ended when this returns or raises."""
    for result in await asyncio.gather(ours, theirs, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def _digest(storage: Storage, entry: Entry) -> str:
    if "sha256" in entry.digests:
        return entry.digests["sha256"]
    tally = Tally()
    async with storage.read(entry.path, pin=entry) as reader:
        await pipe(reader, tally.feed)
    return await tally.sha256()


async def _all_or_none(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for all; when one fails or this is cancelled, the others are cancelled and waited for."""
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
