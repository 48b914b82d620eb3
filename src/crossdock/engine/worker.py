"""Works the ledger off: claims transfers, makes attempts, keeps their leases alive, gives them back when it stops."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from crossdock.engine.delivery import Courier, Delivery
from crossdock.errors import LeaseLost, LedgerUnavailable, UnknownEndpoint, shown
from crossdock.ledger.base import LEASE, Lease, Ledger
from crossdock.storage.waiting import all_or_none, to_its_end

__all__ = ["Worker"]

log = logging.getLogger("crossdock.engine")

_LOOK_AGAIN = 5.0
"""Seconds after which an idle worker looks for transfers that others added, or whose wait is over."""


@dataclass(frozen=True, slots=True)
class _AtWork:
    lease: Lease
    task: asyncio.Task[object]
    over: asyncio.Event = field(default_factory=asyncio.Event)


def _is_suspect(lease: Lease) -> bool:
    return lease.transfer.rescues > 1


class Worker:
    """`transfers`: attempts at once. `owner`: how the ledger names this worker. `report`: told every outcome.

    `usable`: whether a flow's transfers may be claimed just now; its source may be down.
    """

    def __init__(
        self,
        ledger: Ledger,
        courier: Courier,
        flows: Iterable[str],
        *,
        owner: str,
        transfers: int = 16,
        lease: float = LEASE,
        report: Callable[[Delivery], None] = lambda delivery: None,
        step: Callable[[str], None] = lambda name: None,
        usable: Callable[[str], bool] = lambda flow: True,
    ) -> None:
        self._ledger, self._courier, self._owner = ledger, courier, owner
        self._flows, self._transfers, self._lease = list(flows), transfers, lease
        self._share = transfers if len(self._flows) < 2 or transfers < 2 else transfers - max(1, transfers // 8)
        """Attempts at once of one flow."""
        self._report, self._step, self._usable = report, step, usable
        self._claimed: deque[Lease] = deque()
        self._at_work: dict[int, _AtWork] = {}
        self._lost: set[int] = set()
        self._unknown: set[str] = set()
        """Endpoints of which another host's configuration tells: what is for them is left to that host."""
        self._asking: asyncio.Event | None = None
        """Set when one hand, which asks the ledger for all of them just now, has its answer."""
        self._change = asyncio.Event()
        self._stopping = False
        self._ledger_fails = False
        self._untold: LedgerUnavailable | None = None
        """Why the ledger does not know what became of an attempt."""

    @property
    def busy(self) -> bool:
        """Whether attempts are under way."""
        return bool(self._at_work)

    def wake(self) -> None:
        """Something was added: look now."""
        self._change.set()

    def stop(self) -> None:
        """Claim nothing more; `run` returns when what is under way has ended."""
        self._stopping = True
        self._change.set()

    async def run(self, *, until_idle: bool = False) -> None:
        """Until stopped; with `until_idle`, until nothing can be claimed now.

        A ledger that fails is asked again while attempts are under way, as long as their leases last; then raises
        `LedgerUnavailable`, as at the end of an `until_idle` for an attempt whose outcome could not be recorded.

        Cancelled: attempts under way are broken off, leave nothing behind, and are given back to the ledger.
        """
        beating = asyncio.create_task(self._beat())
        hands = [asyncio.create_task(self._work(until_idle)) for _ in range(self._transfers)]
        try:
            await all_or_none(hands, [beating])
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await self._give_back()
        if until_idle and self._untold is not None:
            raise self._untold

    async def _work(self, until_idle: bool) -> None:
        while (lease := await self._next(until_idle)) is not None:
            await self._end_older(lease)
            task = asyncio.current_task()
            assert task is not None
            at_work = self._at_work[lease.id] = _AtWork(lease, task)
            try:
                delivery = await self._courier.attempt(lease)
            except (LeaseLost, LedgerUnavailable) as error:
                self._warn(error)
                delivery = Delivery(transfer=lease.transfer, what="lost", reason=str(error), error=error)
            except asyncio.CancelledError:
                if lease.id not in self._lost:
                    with suppress(LeaseLost, LedgerUnavailable):
                        await asyncio.shield(self._ledger.released(lease, "the worker was stopped"))
                    raise
                delivery = Delivery(transfer=lease.transfer, what="lost", reason="its lease ended")
            except UnknownEndpoint as error:
                await self._leave(lease, error)
                continue
            else:
                self._ledger_fails = False
            finally:
                del self._at_work[lease.id]
                at_work.over.set()
                if lease.id in self._lost:
                    self._lost.discard(lease.id)
                    task.uncancel()
            if isinstance(delivery.error, LedgerUnavailable):
                try:
                    # Though the worker ends, as another hand could not claim: else its lease would have to.
                    await to_its_end(self._ledger.released(lease, "the ledger failed", seconds=_LOOK_AGAIN))
                except LedgerUnavailable as error:
                    self._untold = error
                except LeaseLost:
                    pass
            self._report(delivery)
            self._change.set()
            if task.cancelling():
                # Stopped as well, which the loss of its lease, or how it ended, has hidden.
                raise asyncio.CancelledError

    async def _leave(self, lease: Lease, error: UnknownEndpoint) -> None:
        if error.endpoint not in self._unknown:
            log.warning(
                "flow %s: no endpoint is called %s here: its transfers are left to the hosts that share the ledger and "
                "know it. Next: add it to 'endpoints:', or, if it is no more: crossdock transfers cancel%s",
                lease.transfer.flow,
                shown(error.endpoint),
                f" --target {shown(error.endpoint)}:" if error.endpoint == lease.transfer.target else "",
            )
        self._unknown.add(error.endpoint)
        with suppress(LeaseLost, LedgerUnavailable):
            await self._ledger.released(lease, str(error))

    async def _next(self, until_idle: bool) -> Lease | None:
        while not self._stopping:
            if self._asking is not None:
                # Not for a lock, which is handed on one by one: who goes on in one turn shares packets and commits.
                await self._asking.wait()
                continue
            # Though a suspect may keep it from claiming: to wait for what is set already is to spin.
            self._change.clear()
            if (lease := self._ready()) is not None:
                return lease
            if not self._has_suspect():
                await self._ask()
                if (lease := self._ready()) is not None:
                    return lease
            # What ended while the ledger was asked may have held another back: of a place, one is claimed at a time.
            if until_idle and not self._at_work and not self._change.is_set():
                self.stop()
                return None
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN):
                    await self._change.wait()
        return None

    async def _ask(self) -> None:
        """Claim what there is, for all hands."""
        self._asking = asyncio.Event()
        try:
            self._step("R3:before")
            flows = [flow for flow in self._flows if self._usable(flow) and self._has_room(flow)]
            found = await self._claim(flows)
            self._step("R3:after")
            self._claimed.extend(found)
            if found:
                self._change.set()
            await self._set_suspect_apart()
            self._courier.claimed(self._claimed)
        finally:
            self._asking.set()
            self._asking = None

    def _ready(self) -> Lease | None:
        """Of what was claimed, the first of a flow that has not its share of the hands by now."""
        for lease in () if self._stopping else self._claimed:
            if self._has_room(lease.transfer.flow):
                self._claimed.remove(lease)
                return lease
        return None

    def _has_room(self, flow: str) -> bool:
        """Some hands stay free for the others: a partner whose files never come to an end would have them all."""
        if self._share == self._transfers:
            return True
        return sum(each.lease.transfer.flow == flow for each in self._at_work.values()) < self._share

    async def _claim(self, flows: Iterable[str]) -> list[Lease]:
        asked = self._ledger.claim(
            self._owner, limit=self._transfers, lease=self._lease, flows=flows, without=self._unknown
        )
        claiming = asyncio.ensure_future(asked)
        try:
            return await to_its_end(claiming)
        except LedgerUnavailable:
            # What is under way may outlast that; once it has ended, or its leases have, there is nothing to wait for.
            if not self._at_work:
                raise
            return []
        except asyncio.CancelledError:
            if not claiming.cancelled() and claiming.exception() is None:
                # To be given back: else nobody could have them before their leases end.
                self._claimed.extend(claiming.result())
            raise

    def _has_suspect(self) -> bool:
        return any(_is_suspect(each.lease) for each in self._at_work.values())

    async def _set_suspect_apart(self) -> None:
        """What has ended two workers may end a third: no other file is under lease beside it, to be suspected too."""
        suspect = next((lease for lease in self._claimed if _is_suspect(lease)), None)
        if suspect is None:
            return
        for lease in [lease for lease in self._claimed if lease is not suspect]:
            self._claimed.remove(lease)
            with suppress(LeaseLost, LedgerUnavailable):
                await self._ledger.released(lease, "it waits for a transfer that has ended its workers")
        while self._at_work and not self._stopping:
            self._change.clear()
            await self._change.wait()

    async def _end_older(self, lease: Lease) -> None:
        """A clock that jumped ahead has ended the lease of an attempt of our own: it ends before another begins."""
        while (older := self._at_work.get(lease.id)) is not None:
            self._lose(older.lease)
            await older.over.wait()

    async def _beat(self) -> None:
        """A lease that cannot be kept ends its attempt before it can publish."""
        loop = asyncio.get_running_loop()
        kept: dict[int, float] = {}
        while True:
            await asyncio.sleep(self._lease / 4)
            held = [each.lease for each in self._at_work.values()] + list(self._claimed)
            kept = {lease.id: kept.get(lease.id, loop.time()) for lease in held}
            # All at once: one by one, a slow ledger would let the last of them end.
            await asyncio.gather(*(self._keep(lease, kept) for lease in held))

    async def _keep(self, lease: Lease, kept: dict[int, float]) -> None:
        """`kept`: by the loop's time, when each transfer's lease was last known to be ours."""
        loop = asyncio.get_running_loop()
        try:
            await self._ledger.heartbeat(lease, self._lease)
        except LeaseLost as error:
            # It may have come to its own end while the ledger was asked.
            if self._holds(lease):
                log.warning("%s", error)
                self._lose(lease)
        except LedgerUnavailable as error:
            self._warn(error)
            if loop.time() - kept[lease.id] > self._lease / 2:
                self._lose(lease)
        else:
            self._ledger_fails = False
            kept[lease.id] = loop.time()

    def _warn(self, error: LeaseLost | LedgerUnavailable) -> None:
        """Of a ledger that fails, once until it works again."""
        if isinstance(error, LeaseLost) or not self._ledger_fails:
            log.warning("%s", error)
        self._ledger_fails |= isinstance(error, LedgerUnavailable)

    def _holds(self, lease: Lease) -> bool:
        at_work = self._at_work.get(lease.id)
        return lease in self._claimed or (at_work is not None and at_work.lease.fence == lease.fence)

    def _lose(self, lease: Lease) -> None:
        at_work = self._at_work.get(lease.id)
        if at_work is not None and at_work.lease.fence == lease.fence:
            if lease.id not in self._lost:
                self._lost.add(lease.id)
                at_work.task.cancel()
        else:
            with suppress(ValueError):
                self._claimed.remove(lease)

    async def _give_back(self) -> None:
        while self._claimed:
            with suppress(LeaseLost, LedgerUnavailable):
                await self._ledger.released(self._claimed.popleft(), "the worker stopped before it began")
