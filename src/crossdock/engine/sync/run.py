"""One-way sync of a tree: two ordered listings are merged, and what is new or changed is moved.

Memory: what `Storage.walk` holds, a bounded queue of decisions, and the paths to delete if `delete` is set.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal, Protocol

from crossdock.engine.attempts import deliver
from crossdock.engine.sync.content import Unsure, not_same_by_etag
from crossdock.engine.sync.merge import merged
from crossdock.engine.sync.obstacles import Above, Obstacles, refuse_overlap
from crossdock.engine.sync.outcome import Outcome, Summary
from crossdock.engine.sync.surplus import check_plausible
from crossdock.engine.sync.twins import Twins
from crossdock.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    CrossdockError,
    NoSpace,
    NotADirectory,
    NotAFile,
    located,
)
from crossdock.flows.compare import TIME_DIFFERS, UNSURE, Comparison
from crossdock.flows.filters import Filters
from crossdock.storage.base import Entry
from crossdock.storage.retry import RetryPolicy
from crossdock.storage.storage import Storage
from crossdock.storage.waiting import all_or_none
from crossdock.transfer.pipe import digest_of
from crossdock.transfer.receipt import Receipt

__all__ = ["Courier", "SyncOptions", "sync"]

_GONE = (AuthenticationFailed, ConnectionFailed, NoSpace)
"""What is wrong with an endpoint, and not with one file."""
_PATIENCE = 32
"""Failures of that kind in a row; or two for each file that is moved at once, if that is more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOptions:
    """How a tree is to be synced."""

    filters: Filters = field(default_factory=Filters)
    checksum: bool = False
    """Compare content, reading both sides, where sizes are equal."""
    modify_window: timedelta = timedelta(0)
    """How far apart modification times may be that count as equal, where an endpoint does not keep them as they are."""
    delete: bool = False
    max_delete: int | float = 0.25
    """With `delete`: how many target files may go; a whole number counts, a fraction is of the target's files."""
    dry_run: bool = False
    transfers: int = 16
    policy: RetryPolicy = field(default_factory=RetryPolicy)


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
    report: Callable[[Outcome], None] = lambda outcome: None,
    progress: Progress | None = None,
    courier: Courier | None = None,
) -> Summary:
    """Make `to` hold every file below `folder`, as it is there. Nothing else at the target is touched, unless `delete`.

    `report` gets one outcome per file. `progress(path, 0, size)` announces a file about to be moved, later calls add
    bytes. A file that fails does not stop the others, unless an endpoint is gone or full: after many such failures in
    a row, the last one is raised. A listing that fails raises, and then nothing is deleted.
    Raises `Conflict` when source and target overlap, or when deleting would go too far.
    """
    run = _Run(source, folder, target, to, options or SyncOptions(), report, progress, courier)
    return await run.run()


_Job = Callable[[], Awaitable[None]]
_Work = asyncio.Queue[_Job | None]


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
        self.found = self.held = self.in_a_row = 0
        self.surplus: list[str] = []
        self._report = report
        self._courier = courier or self._deliver
        self._comparison = self._compared()
        self._obstacles = Obstacles(target)
        self._twins = Twins(target)
        self._above = Above() if target.capabilities.directories else None
        self._late: list[tuple[str, Entry]] = []
        self._filtered = options.filters != Filters()

    def _compared(self) -> Comparison:
        """By what is known of the endpoints by now."""
        return Comparison(self.source.capabilities, self.target.capabilities, window=self.options.modify_window)

    async def run(self) -> Summary:
        started = time.monotonic()
        await refuse_overlap(self.source, self.folder, self.target, self.to)
        work: _Work = asyncio.Queue(self.options.transfers * 4)

        async def work_off() -> None:
            task = asyncio.current_task()
            while (job := await work.get()) is not None:
                await job()
                if task is not None and task.cancelling():
                    # How the job ended has hidden it: of two reads side by side, say, one failed at that very moment.
                    raise asyncio.CancelledError

        workers = [asyncio.create_task(work_off()) for _ in range(self.options.transfers)]
        listing = asyncio.create_task(self._decide(work))
        try:
            await all_or_none([listing, *workers])
            for name, entry in self._late:
                await self._move(name, entry, "new", twin=True)
        finally:
            self.summary.seconds = time.monotonic() - started
        if self.options.delete:
            await self._delete()
        self.summary.seconds = time.monotonic() - started
        return self.summary

    async def _decide(self, work: _Work) -> None:
        """Fill the queue. The digests of one page are taken while the next one is listed and compared."""
        taking: asyncio.Task[list[Unsure]] | None = None
        try:
            verdict = self.options.filters.folder_verdict

            def without(folder: str) -> bool:
                if (reason := verdict(folder)) is None:
                    return False
                self._skip(f"{folder}/", f"{reason}; may not be listed")
                return True

            listing = merged(
                self.source,
                self.folder,
                self.target,
                self.to,
                without=without,
                without_there=lambda folder: verdict(folder) is not None,
            )
            async with aclosing(listing) as pages:
                async for pairs in pages:
                    await self._twins.learn(there.path for _, _, there in pairs if there and there.kind == "file")
                    unsure: list[Unsure] = []
                    for name, entry, there in pairs:
                        job = self._job(name, entry, there, unsure)
                        if job is not None:
                            await work.put(job)
                    if taking is not None:
                        await self._look_closer_at(await taking, work)
                    taking = asyncio.create_task(self._take_digests(unsure)) if unsure else None
            if taking is not None:
                await self._look_closer_at(await taking, work)
        finally:
            if taking is not None:
                taking.cancel()
                await asyncio.gather(taking, return_exceptions=True)
        for _ in range(self.options.transfers):
            await work.put(None)

    def _job(self, name: str, entry: Entry | None, there: Entry | None, unsure: list[Unsure]) -> _Job | None:
        """What is to be done about a pair, if it needs a worker; the rest is settled at once, or left to `unsure`."""
        if entry is None:
            assert there is not None
            self.held += 1
            if self.options.delete and self._verdict(there, name) is None:
                self.surplus.append(name)
            return None
        self.found += 1
        self.held += there is not None
        if entry.kind != "file":
            self._skip(name, "a link is not followed" if entry.kind == "link" else "not a regular file")
            return None
        if self._filtered and (verdict := self._verdict(entry, name)) is not None:
            self._skip(name, verdict, entry.size)
            return None
        if self._above is not None and (above := self._above.file(name)) is not None and there is None:
            why, hint = f"a file of the source, {above!r}, is above it", "leave one out with --exclude"
            error = self.target.backend.error(NotADirectory, "write", _below(self.to, name), why, hint=hint)
            self._tell(Outcome(path=name, action="fail", reason="new", size=entry.size, error=error))
            return None
        if self._twins.add(name) and there is None:
            self._late.append((name, entry))
            return None
        if there is None:
            return lambda: self._move(name, entry, "new")
        if there.kind != "file":
            error = self.target.backend.error(NotAFile, "write", there.path, f"a {there.kind} has this name")
            self._tell(Outcome(path=name, action="fail", reason="another kind", size=entry.size, error=error))
            return None
        if self.options.checksum and (entry.size == there.size or None in (entry.size, there.size)):
            return lambda: self._look_closer(name, entry, there)
        reason = self._comparison.difference(entry, there)
        if reason is None:
            self._skip(name, "unchanged", entry.size)
            return None
        if reason == TIME_DIFFERS:
            return partial(self._look_closer, name, entry, there)
        if reason != UNSURE:
            return lambda: self._move(name, entry, reason)
        unsure.append((name, entry, there))
        return None

    def _verdict(self, entry: Entry, name: str) -> str | None:
        return self.options.filters.verdict(entry, self.now, path=name)

    async def _take_digests(self, unsure: list[Unsure]) -> list[Unsure]:
        left = await not_same_by_etag(self.source, self.target, unsure)
        known = {name for name, _, _ in left}
        for name, entry, _ in unsure:
            if name not in known:
                self._skip(name, "unchanged", entry.size)
        return left

    async def _look_closer_at(self, unsure: list[Unsure], work: _Work) -> None:
        for one in unsure:
            await work.put(partial(self._look_closer, *one))

    def _skip(self, name: str, reason: str, size: int | None = None) -> None:
        self._tell(Outcome(path=name, action="skip", reason=reason, size=size))

    def _tell(self, outcome: Outcome) -> None:
        self.summary.count(outcome)
        self._report(outcome)
        if outcome.action in ("copy", "delete"):
            self.in_a_row = 0
        elif isinstance(outcome.error, _GONE):
            self.in_a_row += 1
            if self.in_a_row >= max(_PATIENCE, 2 * self.options.transfers):
                # Each of the others, too, would wait for its attempts to fail: hours, where there are many.
                outcome.error.add_note(f"{self.in_a_row} files in a row failed for such a reason; no more are tried")
                raise outcome.error

    async def _look_closer(self, name: str, entry: Entry, there: Entry) -> None:
        """Settle by the files' own times or content what the listings could not."""
        try:
            if self.options.checksum:
                mine, theirs = await asyncio.gather(
                    digest_of(self.source, entry, pin=entry), digest_of(self.target, there, pin=there)
                )
                reason = None if mine == theirs else "content differs"
            else:
                if not self.source.capabilities.lists_mtime:
                    entry = await self.source.stat(entry.path)
                if not self.target.capabilities.lists_mtime:
                    there = await self.target.stat(there.path)
                await self.target.backend.prove_times(there)
                reason = self._compared().difference(entry, there, listed=False)
        except CrossdockError as error:
            self._tell(Outcome(path=name, action="fail", reason="could not be compared", error=error))
            return
        if reason is None:
            self._skip(name, "unchanged", entry.size)
        else:
            await self._move(name, entry, reason)

    async def _move(self, name: str, entry: Entry, reason: str, *, twin: bool = False) -> None:
        to = _below(self.to, name)
        if twin and (error := await self._twins.refused(name, to)) is not None:
            self._tell(Outcome(path=name, action="fail", reason=reason, size=entry.size, error=error))
            return
        if self.options.dry_run:
            await self._rehearse(name, entry, reason)
            return
        progress = self.progress

        def moved(size: int) -> None:
            if progress is not None:
                progress(name, size, entry.size)

        moved(0)
        started = time.monotonic()
        try:
            receipt, attempts = await self._courier(entry.path, to, entry, moved)
            await self._twins.learn([to])
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

    async def _rehearse(self, name: str, entry: Entry, reason: str) -> None:
        try:
            error = await self._obstacles.before(_below(self.to, name)) if reason == "new" else None
        except CrossdockError as failed:
            error = failed
        action: Literal["copy", "fail"] = "copy" if error is None else "fail"
        self._tell(Outcome(path=name, action=action, reason=reason, size=entry.size, error=error))

    async def _deliver(self, path: str, to: str, pin: Entry, progress: Callable[[int], None]) -> tuple[Receipt, int]:
        return await deliver(self.source, path, self.target, to, pin=pin, policy=self.options.policy, progress=progress)

    async def _delete(self) -> None:
        """Remove what only the target has, if that is plausible and nothing failed before."""
        if not self.surplus:
            return
        check_plausible(
            located(self.target.endpoint, self.to),
            len(self.surplus),
            held=self.held,
            found=self.found,
            failed=self.summary.failed,
            bound=self.options.max_delete,
        )
        names = iter(self.surplus)

        async def work_off() -> None:
            for name in names:
                await self._remove(name)

        await all_or_none([asyncio.create_task(work_off()) for _ in range(self.options.transfers)])

    async def _remove(self, name: str) -> None:
        path = _below(self.to, name)
        try:
            if await self._twins.same(name, path, rehearsed=self.options.dry_run):
                self._skip(name, "the target takes this name for that of a file of the source")
                return
            if not self.options.dry_run:
                await self.target.delete(path)
        except CrossdockError as error:
            self._tell(Outcome(path=name, action="fail", reason="could not be deleted", error=error))
            return
        self._tell(Outcome(path=name, action="delete", reason="not at the source"))


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
