"""Writing under a lease, and by hand."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from crossdock.errors import LeaseLost, LedgerError
from crossdock.ledger.base import Lease, Ledger, State
from crossdock.testing.ledger.base import (
    RECEIPT,
    LedgerClock,
    add,
    bring_to,
    claim_one,
    entry,
    got,
    planned,
    steps,
)


class LeaseCases:
    async def test_a_heartbeat_extends(self, ledger: Ledger, clock: LedgerClock) -> None:
        """From now on, as long as asked."""
        await add(ledger)
        lease = await claim_one(ledger, lease=60)
        await clock.move(50)
        longer = await ledger.heartbeat(lease, 60)
        assert longer.until - lease.until == pytest.approx(timedelta(seconds=50), abs=timedelta(seconds=5))
        await clock.move(50)
        assert await ledger.claim("w2") == []
        await clock.move(11)
        assert len(await ledger.claim("w2")) == 1

    async def test_a_late_worker_that_nobody_replaced_goes_on(self, ledger: Ledger, clock: LedgerClock) -> None:
        """SIGSTOP past the lease and SIGCONT: the fence decides, not the time."""
        (id,) = await add(ledger)
        lease = await claim_one(ledger, lease=60)
        await clock.move(500)
        lease = await ledger.heartbeat(lease, 60)
        assert await ledger.claim("w2") == []
        await ledger.delivered(lease, RECEIPT, owed=False)
        assert (await got(ledger, id)).state is State.DONE

    @pytest.mark.parametrize(
        "write",
        [
            "heartbeat",
            "staged",
            "overwriting",
            "delivered",
            "delivered_done",
            "done",
            "retry_in",
            "released",
            "failed",
            "skipped",
        ],
    )
    @pytest.mark.parametrize("cause", ["rescued", "cancelled", "ended"])
    async def test_a_lost_lease_writes_nothing(
        self, ledger: Ledger, clock: LedgerClock, write: str, cause: str
    ) -> None:
        """LeaseLost, and not a byte of the ledger changed."""
        (id,) = await add(ledger)
        lease = await claim_one(ledger, lease=60)
        if cause == "rescued":
            await clock.move(61)
            await claim_one(ledger, "w2")
        elif cause == "cancelled":
            await ledger.cancel([id], who="me", why="wrong file")
        else:
            await ledger.retry_in(lease, 100, "busy")
        before, history = await got(ledger, id), await ledger.history(id)
        with pytest.raises(LeaseLost) as caught:
            await self.write(ledger, lease, write)
        assert str(id) in str(caught.value)
        assert caught.value.hint
        assert (await got(ledger, id), await ledger.history(id)) == (before, history)

    async def write(self, ledger: Ledger, lease: Lease, name: str) -> None:
        calls: dict[str, Any] = {
            "heartbeat": lambda: ledger.heartbeat(lease, 60),
            "staged": lambda: ledger.staged(lease, b"token"),
            "overwriting": lambda: ledger.overwriting(lease),
            "delivered": lambda: ledger.delivered(lease, RECEIPT),
            "delivered_done": lambda: ledger.delivered(lease, RECEIPT, owed=False),
            "done": lambda: ledger.done(lease),
            "retry_in": lambda: ledger.retry_in(lease, 1, "busy"),
            "released": lambda: ledger.released(lease, "shutdown"),
            "failed": lambda: ledger.failed(lease, "gone"),
            "skipped": lambda: ledger.skipped(lease, "exists"),
        }
        await calls[name]()

    @pytest.mark.parametrize("write", ["staged", "overwriting", "delivered", "delivered_done", "failed", "skipped"])
    async def test_what_is_delivered_stays_so(self, ledger: Ledger, write: str) -> None:
        """The holder of the lease is told that this is no way to go; the lease is still good."""
        (id,) = await add(ledger)
        lease = await claim_one(ledger)
        await ledger.delivered(lease, RECEIPT)
        with pytest.raises(LedgerError) as caught:
            await self.write(ledger, lease, write)
        assert not isinstance(caught.value, LeaseLost)
        await ledger.done(lease)
        assert (await got(ledger, id)).state is State.DONE

    async def test_done_needs_a_delivery(self, ledger: Ledger) -> None:
        """No receipt, no end."""
        (id,) = await add(ledger)
        lease = await claim_one(ledger)
        with pytest.raises(LedgerError) as caught:
            await ledger.done(lease)
        assert not isinstance(caught.value, LeaseLost)
        assert (await got(ledger, id)).state is State.RUNNING

    async def test_checkpoints_reach_the_next_attempt(self, ledger: Ledger, clock: LedgerClock) -> None:
        """Bytes, any; a later one replaces it, a delivery drops it."""
        (id,) = await add(ledger)
        token = bytes(range(256))
        lease = await claim_one(ledger)
        await ledger.staged(lease, b"first")
        await ledger.staged(lease, token)
        await clock.move(61)
        lease = await claim_one(ledger)
        assert lease.transfer.checkpoint == token
        await ledger.retry_in(lease, 0, "busy")
        lease = await claim_one(ledger)
        assert lease.transfer.checkpoint == token
        await ledger.staged(lease, None)
        assert (await got(ledger, id)).checkpoint is None
        await ledger.staged(lease, token)
        await ledger.delivered(lease, RECEIPT)
        assert (await got(ledger, id)).checkpoint is None

    async def test_delivered_then_done(self, ledger: Ledger) -> None:
        """Under one lease; the receipt stays."""
        (id,) = await add(ledger)
        lease = await claim_one(ledger)
        await ledger.delivered(lease, RECEIPT)
        found = await got(ledger, id)
        assert (found.state, found.receipt, found.owner) == (State.DELIVERED, RECEIPT, "w1")
        assert await ledger.claim("w2") == []
        await ledger.done(lease, "archived")
        found = await got(ledger, id)
        assert (found.state, found.receipt, found.owner, found.ready) == (State.DONE, RECEIPT, None, None)
        assert steps(await ledger.history(id)) == [
            (None, "pending"), ("pending", "running"), ("running", "delivered"), ("delivered", "done")
        ]  # fmt: skip

    async def test_nothing_owed_is_done_at_once(self, ledger: Ledger) -> None:
        """One write."""
        (id,) = await add(ledger)
        await ledger.delivered(await claim_one(ledger), RECEIPT, owed=False)
        assert (await got(ledger, id)).state is State.DONE
        assert await ledger.claim("w1") == []

    async def test_owed_actions_are_claimed_until_done(self, ledger: Ledger, clock: LedgerClock) -> None:
        """Failed actions, and workers that died over them; their tries are counted apart."""
        (id,) = await add(ledger)
        lease = await claim_one(ledger)
        await ledger.delivered(lease, RECEIPT)
        await ledger.retry_in(lease, 30, "archive: timed out")
        assert (await got(ledger, id)).state is State.DELIVERED
        assert await ledger.claim("w2") == []
        await clock.move(31)
        lease = await claim_one(ledger, lease=60)
        assert (lease.transfer.state, lease.attempt, lease.transfer.attempts) == (State.DELIVERED, 2, 1)
        assert lease.transfer.receipt == RECEIPT
        await clock.move(61)
        lease = await claim_one(ledger)
        assert lease.attempt == 3
        await ledger.done(lease)
        assert await ledger.claim("w1") == []

    async def test_a_retry_waits_and_tells_why(self, ledger: Ledger, clock: LedgerClock) -> None:
        """Until its time; the error is kept for who looks."""
        (id,) = await add(ledger)
        await ledger.retry_in(await claim_one(ledger), 120, "connection reset \udcff")
        found = await got(ledger, id)
        assert (found.state, found.owner, found.error) == (State.PENDING, None, "connection reset \udcff")
        await clock.move(119)
        assert await ledger.claim("w1") == []
        await clock.move(2)
        assert (await claim_one(ledger)).attempt == 2

    async def test_others_are_put_off_with_one_that_is_released(self, ledger: Ledger, clock: LedgerClock) -> None:
        """A target that is down for a day would fill the ledger with who claimed what waits for it and gave it back."""
        ids = await add(ledger, "0.csv", "1.csv", "2.csv", "3.csv")
        await add(ledger, "0.csv", target="staging")
        await add(ledger, "4.csv", flow="other")
        lease = await claim_one(ledger)
        assert lease.id == ids[0]
        await ledger.released(lease, "lake is down", seconds=60, others=2)
        assert [steps(await ledger.history(id)) for id in ids[1:]] == [[(None, "pending")]] * 3
        assert [(await got(ledger, id)).why == "lake is down" for id in ids[1:]] == [True, True, False]
        left = await ledger.claim("w2", limit=10, lease=3600)
        assert len(left) == 3, "the fourth, and those of another target or flow"
        await clock.move(55)
        assert await ledger.claim("w3", limit=10) == []
        await clock.move(6)
        assert {each.id for each in await ledger.claim("w3", limit=10)} == set(ids[:3])

    async def test_released_counts_no_attempt(self, ledger: Ledger) -> None:
        """A worker that shuts down; at the bytes, and at the actions."""
        await add(ledger)
        await ledger.released(await claim_one(ledger), "shutdown")
        lease = await claim_one(ledger)
        assert lease.attempt == 1
        await ledger.delivered(lease, RECEIPT)
        await ledger.released(lease, "shutdown")
        lease = await claim_one(ledger)
        assert (lease.transfer.state, lease.attempt) == (State.DELIVERED, 1)

    async def test_failed_is_kept(self, ledger: Ledger) -> None:
        """With its error, and not claimed again."""
        (id,) = await add(ledger)
        await ledger.failed(await claim_one(ledger), "permission denied")
        found = await got(ledger, id)
        assert (found.state, found.error, found.ready) == (State.FAILED, "permission denied", None)
        assert await ledger.claim("w1") == []

    async def test_a_worker_skips_with_a_reason(self, ledger: Ledger) -> None:
        """The rule for conflicts says so."""
        (id,) = await add(ledger)
        await ledger.skipped(await claim_one(ledger), "the target exists")
        found = await got(ledger, id)
        assert (found.state, found.why) == (State.SKIPPED, "the target exists")
        assert await ledger.claim("w1") == []


class HandCases:
    @pytest.mark.parametrize("state", State)
    async def test_cancel(self, ledger: Ledger, state: State) -> None:
        """Pending, running and failed only."""
        id = await bring_to(ledger, state)
        changes = state in (State.PENDING, State.RUNNING, State.FAILED)
        assert await ledger.cancel([id], who="me", why="wrong") == ([id] if changes else [])
        assert (await got(ledger, id)).state is (State.CANCELLED if changes else state)

    @pytest.mark.parametrize("state", State)
    async def test_requeue(self, ledger: Ledger, state: State) -> None:
        """Whatever is not under way and not done; a delivered one stays delivered."""
        id = await bring_to(ledger, state)
        changes = state not in (State.RUNNING, State.DONE)
        assert await ledger.requeue([id], who="me", why="again") == ([id] if changes else [])
        if changes:
            lease = await claim_one(ledger)
            assert (lease.id, lease.attempt) == (id, 1)
            assert (lease.transfer.state is State.DELIVERED) == (state is State.DELIVERED)
        else:
            assert (await got(ledger, id)).state is state

    @pytest.mark.parametrize("state", State)
    async def test_skip(self, ledger: Ledger, state: State) -> None:
        """Pending only."""
        id = await bring_to(ledger, state)
        assert await ledger.skip([id], who="me", why="old") == ([id] if state is State.PENDING else [])
        assert (await got(ledger, id)).state is (State.SKIPPED if state is State.PENDING else state)

    async def test_requeue_ends_the_wait(self, ledger: Ledger) -> None:
        """`retry now`, for pending and for delivered."""
        first, second = await add(ledger, "a", "b")
        one, two = await ledger.claim("w1", limit=2)
        await ledger.retry_in(one, 3600, "busy")
        await ledger.delivered(two, RECEIPT)
        await ledger.retry_in(two, 3600, "busy")
        assert await ledger.claim("w1", limit=2) == []
        assert await ledger.requeue([first, second], who="me", why="now") == [first, second]
        assert len(await ledger.claim("w1", limit=2)) == 2

    async def test_many_at_once_and_none_that_is_not_there(self, ledger: Ledger) -> None:
        """Only what changed is told."""
        ids = await add(ledger, "a", "b", "c")
        assert await ledger.cancel([*ids, 10**9], who="me", why="all") == ids
        assert await ledger.cancel([], who="me", why="none") == []

    async def test_superseded(self, ledger: Ledger) -> None:
        """What is pending for the same file and destination, and older: not what runs, goes elsewhere or came later."""

        async def version(size: int, **more: Any) -> int:
            (added,) = await ledger.add([planned(entry=entry(size=size), **more)], who="poll")
            return added.id

        old = await version(1)
        lease = await claim_one(ledger)
        await ledger.staged(lease, b"what")
        await ledger.retry_in(lease, 60, "lost")
        running = await version(2)
        await claim_one(ledger)
        elsewhere = await version(2, target="staging")
        new, newer = await version(3), await version(4)
        assert await ledger.supersede(new, who="poll") == [old]
        found = await got(ledger, old)
        assert (found.state, found.changed_by, found.checkpoint) == (State.SKIPPED, "poll", None)
        assert str(new) in found.why
        for id, state in ((running, "running"), (elsewhere, "pending"), (new, "pending"), (newer, "pending")):
            assert (await got(ledger, id)).state == state
