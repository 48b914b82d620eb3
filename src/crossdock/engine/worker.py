"""Works the ledger off: claims transfers, makes attempts, keeps their leases alive, gives them back when it stops."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from crossdock.engine.delivery import Courier, Delivery
from crossdock.errors import LeaseLost, LedgerUnavailable
from crossdock.ledger.base import LEASE, Lease, Ledger

__all__ = ["Worker"]

log = logging.getLogger("crossdock.engine")

_LOOK_AGAIN = 5.0
"""Seconds after which an idle worker looks for transfers that others added, or whose wait is over."""


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
        self._report, self._step, self._usable = report, step, usable
        self._claimed: deque[Lease] = deque()
        self._at_work: dict[int, tuple[Lease, asyncio.Task[object]]] = {}
        self._lost: set[int] = set()
        self._claiming = asyncio.Lock()
        self._change = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """Something was added: look now."""
        self._change.set()

    def stop(self) -> None:
        """Claim nothing more; `run` returns when what is under way has ended."""
        self._stopping = True
        self._change.set()

    async def run(self, *, until_idle: bool = False) -> None:
        """Until stopped; with `until_idle`, until nothing can be claimed now. Raises `LedgerUnavailable`.

        Cancelled: attempts under way are broken off, leave nothing behind, and are given back to the ledger.
        """
        beating = asyncio.create_task(self._beat())
        hands = [asyncio.create_task(self._work(until_idle)) for _ in range(self._transfers)]
        try:
            await _all_or_none([*hands], beating)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await self._give_back()

    async def _work(self, until_idle: bool) -> None:
        while (lease := await self._next(until_idle)) is not None:
            task = asyncio.current_task()
            assert task is not None
            self._at_work[lease.id] = (lease, task)
            try:
                delivery = await self._courier.attempt(lease)
            except LeaseLost as error:
                log.warning("%s", error)
                delivery = Delivery(transfer=lease.transfer, what="lost", reason=str(error), error=error)
            except asyncio.CancelledError:
                if lease.id not in self._lost:
                    with suppress(LeaseLost, LedgerUnavailable):
                        await asyncio.shield(self._ledger.released(lease, "the worker was stopped"))
                    raise
                self._lost.discard(lease.id)
                task.uncancel()
                delivery = Delivery(transfer=lease.transfer, what="lost", reason="its lease ended")
            finally:
                self._at_work.pop(lease.id, None)
            self._report(delivery)
            self._change.set()

    async def _next(self, until_idle: bool) -> Lease | None:
        while not self._stopping:
            async with self._claiming:
                if not self._claimed and not self._stopping:
                    self._change.clear()
                    self._step("R3:before")
                    flows = [flow for flow in self._flows if self._usable(flow)]
                    found = await self._ledger.claim(self._owner, limit=self._transfers, lease=self._lease, flows=flows)
                    self._step("R3:after")
                    self._courier.claimed(found)
                    self._claimed.extend(found)
                if self._claimed:
                    return self._claimed.popleft()
            if until_idle and not self._at_work:
                self.stop()
                return None
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN):
                    await self._change.wait()
        return None

    async def _beat(self) -> None:
        """A lease that cannot be kept ends its attempt before it can publish."""
        loop = asyncio.get_running_loop()
        kept: dict[int, float] = {}
        while True:
            await asyncio.sleep(self._lease / 4)
            held = [lease for lease, _ in self._at_work.values()] + list(self._claimed)
            for lease in held:
                kept.setdefault(lease.id, loop.time())
            for lease in held:
                try:
                    await self._ledger.heartbeat(lease, self._lease)
                except LeaseLost as error:
                    log.warning("%s", error)
                    self._lose(lease)
                except LedgerUnavailable as error:
                    log.warning("%s", error)
                    if loop.time() - kept[lease.id] > self._lease / 2:
                        self._lose(lease)
                else:
                    kept[lease.id] = loop.time()
            current = {lease.id for lease in held}
            kept = {id: at for id, at in kept.items() if id in current}

    def _lose(self, lease: Lease) -> None:
        at_work = self._at_work.get(lease.id)
        if at_work is not None and at_work[0].fence == lease.fence:
            self._lost.add(lease.id)
            at_work[1].cancel()
        else:
            with suppress(ValueError):
                self._claimed.remove(lease)

    async def _give_back(self) -> None:
        while self._claimed:
            with suppress(LeaseLost, LedgerUnavailable):
                await self._ledger.released(self._claimed.popleft(), "the worker stopped before it began")


async def _all_or_none(tasks: list[asyncio.Task[None]], beating: asyncio.Task[None]) -> None:
    """Wait for all of the tasks; the first failure, of the heartbeat too, cancels the others and is raised."""
    try:
        waiting = {*tasks, beating}
        while waiting != {beating}:
            ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
