"""One attempt at one transfer, under its lease: recover or copy, record, then do what follows.

The steps are those of the protocol that the crash test kills at: R4 the source is opened as it was listed, R5 bytes are
staged, R6 closed and flushed, R7 that is recorded, R8 and R9 it is published and looked at, R10 that is recorded, R11
the source is dealt with, R12 the end is recorded. (R0 to R2 are the discovery's, R3 is the claim.)
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from crossdock.engine.actions import Actions, owes
from crossdock.engine.endpoints import Endpoints
from crossdock.engine.gone import File, Taken, file_of, is_there, taken_by
from crossdock.engine.in_place import remove_beginning
from crossdock.engine.poisoned import ends_workers, put_away
from crossdock.engine.recovery import (
    VERSIONS,
    Record,
    attempt_id,
    copied,
    recovered,
    sweep,
    sweep_members,
    version_of,
    versions,
    where,
)
from crossdock.engine.steps import Steps
from crossdock.engine.superseding import supersede
from crossdock.engine.verdicts import age_of, backoff, judge
from crossdock.errors import Conflict, CrossdockError, LeaseLost, LedgerError, NotFound, StorageError, UnknownEndpoint
from crossdock.flows.explain import GONE
from crossdock.flows.plan import Planner
from crossdock.ledger.base import LEASE, Lease, Ledger, State, Transfer
from crossdock.storage.shared import SharedReads
from crossdock.storage.storage import Storage
from crossdock.storage.waiting import to_its_end
from crossdock.transfer.copy import CopyOptions, Staged, copy
from crossdock.transfer.transforms.base import Step as TransformStep

__all__ = ["Courier", "Delivery", "Step"]

Step = Callable[[str], None]
"""Called with "R7:before", "R7:after", …: where the crash test strikes."""

_PAUSE, _OTHERS = 15.0, 500
"""Others are put off with one whose endpoint is down: claimed one by one, each gets two lines of history every time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of one attempt."""

    transfer: Transfer
    what: Literal["delivered", "followed", "skipped", "failed", "retry", "lost"]
    """followed: only what was owed was done, the bytes had been delivered before. lost: somebody else has the lease."""
    reason: str = ""
    receipt: Mapping[str, Any] | None = None
    error: CrossdockError | None = None
    seconds: float = 0.0
    again_in: float | None = None
    """retry: seconds until the next attempt."""


class Courier:
    """Makes attempts. `progress(transfer, size)`: bytes that one moved; negative when they do not count after all."""

    def __init__(
        self,
        flows: Mapping[str, Planner],
        endpoints: Endpoints,
        ledger: Ledger,
        actions: Mapping[str, Actions],
        *,
        folder: Path | None = None,
        progress: Callable[[Transfer, int], None] | None = None,
        step: Step | None = None,
        lease: float = LEASE,
    ) -> None:
        self.lease = lease
        self._flows, self._endpoints, self._ledger, self._actions = flows, endpoints, ledger, actions
        self._progress = progress or (lambda transfer, size: None)
        self._step = step or (lambda name: None)
        self.steps = Steps(ledger, folder)
        self._owing = {name for name, planner in flows.items() if owes(planner.flow)}
        self._together: dict[File, int] = {}
        self.taken = Taken()

    def claimed(self, leases: Sequence[Lease]) -> None:
        """What was claimed together is attempted together: files with several destinations are read once."""
        files = Counter(file_of(lease.transfer) for lease in leases if lease.transfer.state is State.RUNNING)
        self._together = {file: number for file, number in files.items() if number > 1}

    def together(self, transfer: Transfer) -> int:
        """How many of those that were claimed together are still to be attempted; this one is, from now on, not."""
        file = file_of(transfer)
        number = self._together.pop(file, 0)
        if number > 1:
            self._together[file] = number - 1
        return number

    async def attempt(self, lease: Lease) -> Delivery:
        """Whatever becomes of it is recorded, and told. Raises what the ledger raises, and `UnknownEndpoint`."""
        started = time.monotonic()
        planner = self._flows[lease.transfer.flow]
        attempt = _Attempt(self, planner, lease)
        what: Literal["delivered", "followed"] = "followed"
        receipt = lease.transfer.receipt
        owed = planner.flow.name in self._owing
        running = lease.transfer.state is State.RUNNING
        wait, why = self._endpoints.pause(lease.transfer.source, *([lease.transfer.target] if running else []))
        if wait:
            self.together(lease.transfer)
            await self._ledger.released(lease, why, seconds=wait, others=_OTHERS if running else 0)
            return Delivery(transfer=lease.transfer, what="retry", reason=why, again_in=wait)
        if running:
            try:
                try:
                    receipt = await attempt.deliver()
                except (LedgerError, UnknownEndpoint):
                    raise
                except CrossdockError as error:
                    return await attempt.failed(error, time.monotonic() - started)
            except (LeaseLost, asyncio.CancelledError) as stopped:
                await to_its_end(attempt.take_back(stopped))
                raise
            what = "delivered"
            self._step("R10:before")
            await self._ledger.delivered(lease, receipt, owed=owed)
            self._step("R10:after")
        seconds = time.monotonic() - started
        done = Delivery(transfer=lease.transfer, what=what, receipt=receipt, seconds=seconds)
        if not owed and what == "delivered":
            return done
        try:
            self._step("R11:before")
            words, gone = await self._actions[planner.flow.name].follow(lease, receipt or {})
            self._step("R11:after")
        except (LedgerError, UnknownEndpoint):
            raise
        except CrossdockError as error:
            for name in dict.fromkeys((lease.transfer.source, lease.transfer.target)):
                self._endpoints.failed(name, error)
            number = lease.attempt if lease.transfer.state is State.DELIVERED else 1
            again = backoff(planner.flow.retry, number, error, random.uniform)
            await self._ledger.retry_in(lease, again, str(error))
            reason = "delivered; what follows is tried again"
            return replace(done, what="retry", reason=reason, error=error, seconds=0.0, again_in=again)
        self._step("R12:before")
        if gone:
            self.taken.note(lease.transfer)
        await self._ledger.done(lease, words, gone=gone)
        self._step("R12:after")
        return Delivery(transfer=lease.transfer, what=what, reason=words, receipt=receipt, seconds=seconds)


class _Attempt:
    """Moves the bytes of one transfer."""

    def __init__(self, courier: Courier, planner: Planner, lease: Lease) -> None:
        self._courier, self._planner, self._lease, self.transfer = courier, planner, lease, lease.transfer
        self._ledger, self._endpoints, self._step = courier._ledger, courier._endpoints, courier._step
        self._record = Record.load(lease.transfer.checkpoint)
        self._id = attempt_id(self._ledger.id, lease.id, lease.fence)
        self._moved = 0
        self._transforms: tuple[TransformStep, ...] = ()
        self._resume: bytes | None = None
        self._kept: bytes | None = None  # staged by this very attempt, and left for the next one to go on with
        self._in_place = False  # this attempt writes under the file's own name, where nothing may be replaced
        self._unsure = False  # what lies there may be what an earlier attempt wrote
        self._folder: str | None = None  # where an earlier attempt has begun to publish what is in an archive

    async def take_back(self, stopped: BaseException) -> None:
        """Whoever has the lease by now has cleaned up already: what was kept since then, nobody would find."""
        # Not what is announced by its token, or may be: its being gone would look as if it had been published.
        if self._kept is not None or ((own := self._record) and own.sha256 is not None and own.token is None):
            await self._discard(self._kept, stopped)

    async def deliver(self) -> Mapping[str, Any]:
        transfer, flow = self.transfer, self._planner.flow
        target = await self._endpoints.for_file(transfer.target)
        if transfer.entry.version is not None:
            await supersede(self._lease, self._ledger, target)
        known = await self._look_back(target)
        if known is not None:
            return known
        if ends_workers(transfer, self._ledger):
            raise put_away(transfer)
        source = await self._endpoints.for_file(transfer.source)
        if self._record is not None and self._record.resumable:
            self._resume = self._record.token
        self._transforms = await self._courier.steps.of(self._planner, transfer)
        self._step("R4:before")
        if source.backend.store is not None and target.can_server_copy(source):
            # No step lies between the store's copy and its being visible: the lease is looked at before.
            await self._ledger.heartbeat(self._lease, self._courier.lease)
        if flow.on_conflict != "version":
            overwrite = flow.on_conflict == "overwrite"
            return await self._send(source, target, transfer.target_path, overwrite=overwrite)
        async with aclosing(versions(target, transfer.target_path, self._folder)) as names:
            async for name in names:
                with suppress(Conflict):
                    return await self._send(source, target, name)
        hint = "move some of them away, or choose another on_conflict"
        raise Conflict.at("deliver", transfer.target, transfer.target_path, f"{VERSIONS} versions exist", hint=hint)

    async def _send(self, source: Storage, target: Storage, to: str, *, overwrite: bool = False) -> Mapping[str, Any]:
        """By one read for those of the file's destinations that are attempted now."""
        if self._resume is not None and self._record is not None and (self._record.to != to or self._transforms):
            # Another file has the name by now for which it was staged, or the rule has got a transform.
            await sweep(self._lease, self._record, target, self._ledger.id, [self._record.to])
            self._resume = self._record = None
        takes, planned = self._planner.flow.after.takes_source, self.transfer.target_path
        options = CopyOptions(
            overwrite=overwrite,
            resume=self._resume,
            attempt=self._id,
            transforms=self._transforms,
            takes_source=takes,
            version_of=planned if to != planned else None,
        )
        path, pin = self.transfer.entry.path, self.transfer.entry
        number = self._courier.together(self.transfer)
        reads = source.backend if isinstance(source.backend, SharedReads) else None
        if reads is not None and (number > 1 or reads.sharing):
            reads.expect(path, pin, number)
        else:
            reads = None
        try:
            receipt = await self._move(source, target, to, options)
        finally:
            if reads is not None:
                await reads.over(path, pin)
        self._step("R9:after")
        self._endpoints.worked(self.transfer.source, self.transfer.target)
        return receipt

    async def _look_back(self, target: Storage) -> Mapping[str, Any] | None:
        """After an earlier attempt: what had been published already, and what has to be swept away.

        What was published is found though the source is down: who gives up then would say that it has failed.
        """
        transfer, record = self.transfer, self._record
        if self._lease.fence == 1 or (record is not None and record.resumable and not transfer.rescues):
            return None
        receipt, source = await recovered(transfer, record, target), None
        transforms = () if receipt is not None else await self._courier.steps.of(self._planner, transfer)
        if receipt is None and not transforms:
            source = await self._endpoints.for_file(transfer.source)
            if target.can_server_copy(source):
                number = VERSIONS if self._planner.flow.on_conflict == "version" else 1
                names = [version_of(transfer.target_path, each) for each in range(number)]
                receipt = await copied(transfer, names, source, target)
        if receipt is None and record is not None and record.sha256 is not None:
            # Before anything is removed: that it is gone must not look as if it had been published.
            await self._ledger.staged(self._lease, replace(record, size=None, sha256=None).dump())
        paths = {transfer.target_path, *([] if record is None else [record.to])}  # beside the first lies the probe
        if self._planner.flow.on_conflict == "version":
            async with aclosing(versions(target, transfer.target_path)) as free:
                paths.add(await anext(free, transfer.target_path))
        await sweep(self._lease, record, target, self._ledger.id, paths)
        if receipt is None and record is not None:
            self._folder = record.to if any(step.many for step in transforms) else None
            if record.in_place:
                self._unsure = bool(self._folder) or not await remove_beginning(transfer, record, source, target)
            self._record = None if self._folder is None else replace(record, token=None)
            await self._ledger.staged(self._lease, None if self._record is None else self._record.dump())
        return receipt

    async def _move(self, source: Storage, target: Storage, to: str, options: CopyOptions) -> Mapping[str, Any]:
        unpacks = any(step.many for step in options.transforms)

        async def staged(found: Staged) -> None:
            record = Record.of(found, to, target, self._record)
            self._step("R7:before")
            asked, self._record = time.monotonic(), record  # which a ledger that fails may have taken in all the same
            await self._ledger.staged(self._lease, record.dump())
            self._step("R7:after")
            if time.monotonic() - asked > self._courier.lease / 4:
                # A machine that slept, a process that was stopped: somebody else may have it by now.
                try:
                    await self._ledger.heartbeat(self._lease, self._courier.lease)
                except LeaseLost as lost:
                    lost.recorded = True
                    raise

        def keep(token: bytes) -> None:
            if self._record is None or self._record.sha256 is None:
                self._record = Record(to=to, token=token, resumable=True)
                self._kept = token if options.resume is None else None
            # Else it failed while it was being published, and may have been: the next attempt looks.

        def count(size: int) -> None:
            self._moved += size
            self._courier._progress(self.transfer, size)
            self._step("R5:chunk")

        path, pin = self.transfer.entry.path, self.transfer.entry
        if options.overwrite and (unpacks or not target.capabilities.atomic_write):
            await self._ledger.overwriting(self._lease)
        before = self._record if self._record is not None and self._record.to == to else Record(to=to)
        if unpacks:
            options = replace(options, begun=before.begun(target))
        if target.capabilities.in_place and not options.overwrite:
            self._in_place, self._record = True, replace(before, at=where(target), in_place=True)
            await self._ledger.staged(self._lease, self._record.dump())
        if unpacks:
            from crossdock.transfer.unpack import as_one, unpack

            swept = partial(sweep_members, self._lease, target, self._ledger.id)
            receipts = await unpack(
                source, path, target, to, options=options, pin=pin, progress=count, on_members=swept, on_staged=staged
            )
            return as_one(receipts, f"{self.transfer.source}:{path}", f"{self.transfer.target}:{to}")
        kept = keep if target.capabilities.resume_write else None
        receipt = await copy(
            source, path, target, to, pin=pin, options=options, progress=count, on_checkpoint=kept, on_staged=staged
        )
        return receipt.as_json()

    async def failed(self, error: CrossdockError, seconds: float) -> Delivery:
        """Record what the failure means."""
        transfer, flow = self.transfer, self._planner.flow
        if self._moved:
            self._courier._progress(transfer, -self._moved)
        at_source = False
        if isinstance(error, StorageError) and error.endpoint == transfer.source:
            at_source = transfer.source != transfer.target or error.path == transfer.entry.path
        pause = _PAUSE if error.retryable and ends_workers(transfer, self._ledger) else None
        # Endpoints of one account share its connections, whose failures name the first of them.
        named = error.endpoint if isinstance(error, StorageError) else transfer.target
        for name in dict.fromkeys((transfer.source, transfer.target, named)):
            if self._endpoints.failed(name, error):
                pause = self._endpoints.pause(name)[0] or _PAUSE
        verdict = judge(
            error,
            flow.retry,
            attempt=self._lease.attempt,
            age=await age_of(transfer, seconds, flow.retry, self._ledger),
            on_conflict=flow.on_conflict,
            at_source=at_source,
            pause=pause,
            unsure=self._unsure,
        )
        if verdict.what == "skip" and isinstance(error, NotFound):
            if (earlier := await taken_by(transfer, self._ledger)) is not None:
                reason = f"{GONE}: transfer {earlier} had delivered it and taken it away; it was listed just before"
                verdict = replace(verdict, reason=reason)
            elif not await is_there(flow.source, self._endpoints):
                verdict = replace(verdict, what="pause", reason=str(error), seconds=_PAUSE)
        kept = None
        if verdict.what != "skip":
            again, replaces = verdict.what != "fail", flow.on_conflict == "overwrite"
            kept = Record.kept(self._record, transfer, error, again=again, writes=self._in_place, replaces=replaces)
        if self._record is not None and self._record.token is not None and (kept is None or kept.token is None):
            if self._record.sha256 is not None:
                await self._ledger.staged(self._lease, Record(to=self._record.to, token=self._record.token).dump())
            await self._discard(self._record.token, error)
        if kept != Record.load(transfer.checkpoint) or (kept is None and self._record is not None):
            await self._ledger.staged(self._lease, None if kept is None else kept.dump())
        match verdict.what:
            case "retry":
                await self._ledger.retry_in(self._lease, verdict.seconds, verdict.reason)
            case "pause":
                await self._ledger.released(self._lease, verdict.reason, seconds=verdict.seconds)
            case "skip":
                await self._ledger.skipped(self._lease, verdict.reason)
            case "fail":
                await self._courier._actions[flow.name].failed(transfer, verdict.reason)
                await self._ledger.failed(self._lease, verdict.reason)
        return Delivery(
            transfer=transfer,
            what=verdict.became,
            reason=verdict.reason,
            error=error,
            seconds=seconds,
            again_in=verdict.seconds if verdict.became == "retry" else None,
        )

    async def _discard(self, token: bytes | None, error: BaseException) -> None:
        """None: what this attempt staged, where that cannot be resumed."""
        try:
            target = await self._endpoints.storage(self.transfer.target)
            if token is None and self._record is not None:
                token = target.leftover(self._record.to, self._id)
            if token is not None:
                await target.discard(token)
        except CrossdockError as failed:
            error.add_note(f"what was staged could not be removed: {failed}")
