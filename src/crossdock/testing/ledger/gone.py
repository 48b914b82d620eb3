"""What follows a delivery: siblings, and files that an action took away."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest

from crossdock.errors import LeaseLost, LedgerError
from crossdock.ledger.base import Ledger, Query, State
from crossdock.testing.ledger.base import (
    DAY,
    MODIFIED,
    RECEIPT,
    LedgerClock,
    add,
    bring_to,
    claim_one,
    entry,
    got,
    planned,
    unknown,
)


async def take_away(ledger: Ledger, path: str = "outbox/a.csv", **more: str) -> int:
    """One transfer whose actions archived its file."""
    (id,) = await add(ledger, path, **more)
    lease = await claim_one(ledger)
    assert lease.id == id
    await ledger.delivered(lease, RECEIPT)
    await ledger.done(lease, "archived", gone=True)
    return id


class GoneCases:
    async def test_a_file_that_was_taken_away_is_new_again(self, ledger: Ledger) -> None:
        """Archived, then moved back as it was: unknown, and a transfer of its own; the old one is history."""
        old = await take_away(ledger)
        found = await got(ledger, old)
        assert (found.state, found.gone, found.owner, found.ready) == (State.DONE, True, None, None)
        assert (await ledger.history(old))[-1].why == "archived"
        assert await unknown(ledger, [entry()]) == ["outbox/a.csv"]
        (new,) = await ledger.add([planned()], who="poll")
        assert new.new
        assert new.id != old
        assert await unknown(ledger, [entry()]) == []
        (again,) = await ledger.add([planned()], who="poll")
        assert (again.id, again.new) == (new.id, False)
        assert not (await got(ledger, new.id)).gone
        assert [each.id for each in await ledger.find(Query())] == [new.id, old]

    async def test_taken_away_again_and_again(self, ledger: Ledger) -> None:
        """As often as it is moved back."""
        ids = [await take_away(ledger) for _ in range(3)]
        assert len(set(ids)) == 3
        assert await unknown(ledger, [entry()]) == ["outbox/a.csv"]

    async def test_what_is_only_done_stays_known(self, ledger: Ledger) -> None:
        """Without `gone` nothing becomes free."""
        id = await bring_to(ledger, State.DELIVERED)
        await ledger.done(await claim_one(ledger))
        assert not (await got(ledger, id)).gone
        assert await unknown(ledger, [entry()]) == []

    async def test_it_is_gone_for_every_destination(self, ledger: Ledger) -> None:
        """The siblings of the one whose action it was: one of them done, one skipped, one still with its actions."""
        ids = await add(ledger)
        for target in ("staging", "vault", "mirror"):
            ids += await add(ledger, target=target)
        await ledger.skip(ids[3:], who="me", why="not there")
        leases = {lease.id: lease for lease in await ledger.claim("w1", limit=9)}
        await ledger.delivered(leases[ids[0]], RECEIPT, owed=False)
        for id in ids[1:3]:
            await ledger.delivered(leases[id], RECEIPT)
        await ledger.done(leases[ids[1]], gone=True)
        assert [(await got(ledger, id)).gone for id in ids] == [True] * 4
        assert (await got(ledger, ids[2])).state is State.DELIVERED
        assert await unknown(ledger, [entry()]) == ["outbox/a.csv"]
        await ledger.done(leases[ids[2]], "told")
        assert (await got(ledger, ids[2])).gone
        added = await ledger.add([planned(), planned(target="staging"), planned(target="vault")], who="poll")
        assert [each.new for each in added] == [True] * 3

    async def test_what_is_still_to_be_moved_is_not_gone(self, ledger: Ledger) -> None:
        """A sibling that is pending or running keeps its identity, and can be finished."""
        (first,) = await add(ledger)
        pending, running = [(await add(ledger, target=target))[0] for target in ("staging", "vault")]
        leases = {lease.id: lease for lease in await ledger.claim("w1", limit=9)}
        await ledger.released(leases[pending], "shutting down")
        await ledger.delivered(leases[first], RECEIPT)
        await ledger.done(leases[first], gone=True)
        assert [(await got(ledger, id)).gone for id in (first, pending, running)] == [True, False, False]
        await ledger.delivered(leases[running], RECEIPT, owed=False)
        (again,) = await ledger.add([planned(target="vault")], who="poll")
        assert (again.id, again.new) == (running, False)

    async def test_others_are_not_gone(self, ledger: Ledger) -> None:
        """Another flow, source, path, and a later file of the same name."""
        (id,) = await add(ledger)
        others = await add(ledger, flow="copies")
        others += await add(ledger, source="shop")
        others += await add(ledger, "outbox/b.csv")
        others += [each.id for each in await ledger.add([planned(entry=entry(size=6))], who="poll")]
        await ledger.skip(others, who="me", why="no")
        lease = await claim_one(ledger)
        await ledger.delivered(lease, RECEIPT)
        await ledger.done(lease, gone=True)
        assert (await got(ledger, id)).gone
        assert [(await got(ledger, id)).gone for id in others] == [False] * 4
        assert await unknown(ledger, [entry("outbox/b.csv"), entry(size=6)]) == []
        assert await unknown(ledger, [entry()], flow="copies") == []

    async def test_what_was_replaced_is_new_when_it_is_put_back(self, ledger: Ledger) -> None:
        """At all its destinations, however its transfers ended; what waits, or has failed, is sent no more."""
        first, second = entry(), entry(size=6)
        done, waits, failed = [(await add(ledger, target=target))[0] for target in ("lake", "staging", "vault")]
        leases = {lease.id: lease for lease in await ledger.claim("w1", limit=9)}
        await ledger.delivered(leases[done], RECEIPT, owed=False)
        await ledger.retry_in(leases[waits], 0, "down")
        await ledger.failed(leases[failed], "no such bucket")
        newer = [each.id for each in await ledger.add([planned(entry=second), planned("b")], who="poll")]
        assert await unknown(ledger, [first, second]) == []
        leases = {lease.id: lease for lease in await ledger.claim("w2", limit=9)}
        await ledger.retry_in(leases[newer[1]], 0, "down")
        if waits in leases:
            await ledger.released(leases[waits], "shutting down")
        await ledger.delivered(leases[newer[0]], RECEIPT)
        assert await unknown(ledger, [first, second]) == [first.path]
        found = [await got(ledger, id) for id in (done, waits, failed)]
        assert [(each.state, each.gone) for each in found] == [
            (State.DONE, True),
            (State.SKIPPED, True),
            (State.SKIPPED, True),
        ]
        assert (await ledger.history(waits))[-1].why == found[1].why == f"superseded by transfer {newer[0]}"
        assert [(await got(ledger, id)).gone for id in newer] == [False, False]
        added = await ledger.add([planned(target=target) for target in ("lake", "staging", "vault")], who="poll")
        assert [each.new for each in added] == [True] * 3
        # And the other way round.
        await ledger.done(leases[newer[0]])
        (lease,) = [each for each in await ledger.claim("w1", limit=9) if each.id == added[0].id]
        await ledger.delivered(lease, RECEIPT)
        assert await unknown(ledger, [first, second]) == [first.path]

    async def test_what_is_overwritten_is_new_when_it_is_put_back(self, ledger: Ledger) -> None:
        """Though that is broken off, and ends in no delivery; at all its destinations, and no other file's."""
        places = ("lake", "staging", "vault", "attic")
        done, owed, other, failed = [(await add(ledger, target=target))[0] for target in places]
        others = [*await add(ledger, flow="copies", target="copies"), *await add(ledger, "outbox/b.csv")]
        leases = {lease.id: lease for lease in await ledger.claim("w1", limit=9)}
        for id in (done, other, *others):
            await ledger.delivered(leases[id], RECEIPT, owed=False)
        await ledger.delivered(leases[owed], RECEIPT)
        await ledger.failed(leases[failed], "no such bucket")
        before = await ledger.history(done)
        (newer,) = [each.id for each in await ledger.add([planned(entry=entry(size=6))], who="poll")]
        lease = await claim_one(ledger)
        await ledger.overwriting(lease)
        await ledger.overwriting(lease)
        await ledger.retry_in(lease, 60, "cut off")
        assert await unknown(ledger, [entry(), entry(size=6), entry("outbox/b.csv")]) == [entry().path]
        assert await unknown(ledger, [entry()], flow="copies") == []
        found = [await got(ledger, id) for id in (done, owed, other, failed, newer, *others)]
        assert [each.gone for each in found] == [True] * 4 + [False] * 3
        assert [each.state for each in found[:4]] == [State.DONE, State.DELIVERED, State.DONE, State.FAILED]
        assert await ledger.history(done) == before
        await ledger.done(leases[owed])
        added = await ledger.add([planned(target=target) for target in places], who="poll")
        assert [each.new for each in added] == [True] * 4

    async def test_what_was_delivered_to_another_place_is_not_overwritten(self, ledger: Ledger) -> None:
        await add(ledger)
        await ledger.delivered(await claim_one(ledger), RECEIPT, owed=False)
        elsewhere = [planned(entry=entry(size=6), target="vault"), planned(entry=entry(size=6), target_path="in/other")]
        await ledger.add(elsewhere, who="poll")
        for lease in await ledger.claim("w1", limit=9):
            await ledger.overwriting(lease)
        assert await unknown(ledger, [entry()]) == []

    @pytest.mark.parametrize("left", ["a checkpoint", "a lease that ended"])
    async def test_what_an_attempt_may_have_left_somewhere_is_tried_once_more(
        self, ledger: Ledger, clock: LedgerClock, left: str
    ) -> None:
        """Though its file was replaced: else nobody would sweep that."""
        (old,) = await add(ledger)
        lease = await claim_one(ledger)
        if left == "a checkpoint":
            await ledger.staged(lease, b"token")
            await ledger.retry_in(lease, 0, "lost")
        await clock.move(61)
        await ledger.released(await claim_one(ledger), "its endpoint is down", seconds=60)
        await ledger.add([planned(entry=entry(size=6), target="staging")], who="poll")
        await ledger.delivered(await claim_one(ledger), RECEIPT, owed=False)
        assert (await got(ledger, old)).state is State.PENDING
        assert not (await got(ledger, old)).gone

    @pytest.mark.parametrize("how", ["cancelled", "failed", "skipped", "delivered"])
    async def test_what_ends_after_its_file_was_replaced_does_not_keep_that_from_being_new(
        self, ledger: Ledger, clock: LedgerClock, how: str
    ) -> None:
        """If it is put back: another destination, which has the newer one, would never get it."""
        (old,) = await add(ledger)
        lease = await claim_one(ledger)
        await ledger.staged(lease, b"token")
        await ledger.add([planned(entry=entry(size=6), target="staging")], who="poll")
        newer = await claim_one(ledger)
        await ledger.delivered(newer, RECEIPT)
        await ledger.done(newer, gone=True)
        assert await unknown(ledger, [entry()]) == []
        match how:
            case "cancelled":
                await ledger.cancel([old], who="me", why="no")
            case "failed":
                await ledger.failed(lease, "no such bucket")
            case "skipped":
                await ledger.skipped(lease, "the source changed")
            case _:
                await ledger.delivered(lease, RECEIPT, owed=False)
        found = await got(ledger, old)
        state = {"cancelled": State.CANCELLED, "delivered": State.DONE}.get(how, State.SKIPPED)
        assert (found.state, found.gone) == (state, True)
        assert (await ledger.history(old))[-1].why == found.why
        assert await unknown(ledger, [entry()]) == [entry().path]

    async def test_an_earlier_file_that_is_delivered_late_replaces_nothing(self, ledger: Ledger) -> None:
        """It was read before its name was given to another, and may be there again: it is new then. Nor does what has
        a version, of which all are there."""
        old = (await add(ledger))[0]
        lease = await claim_one(ledger)
        await ledger.add([planned(entry=entry(size=6), target="staging")], who="poll")
        later = await claim_one(ledger)
        await ledger.delivered(later, RECEIPT, owed=False)
        await ledger.delivered(lease, RECEIPT, owed=False)
        assert [(await got(ledger, id)).gone for id in (old, later.id)] == [True, False]
        assert await unknown(ledger, [entry(), entry(size=6)]) == [entry().path]
        await ledger.add([planned(entry=entry(version="2"))], who="poll")
        await ledger.delivered(await claim_one(ledger), RECEIPT, owed=False)
        assert not (await got(ledger, later.id)).gone

    async def test_a_lost_lease_takes_nothing_away(self, ledger: Ledger, clock: LedgerClock) -> None:
        """Nor does one that is not delivered: neither it nor a sibling is gone."""
        (id,) = await add(ledger)
        (sibling,) = await add(ledger, target="staging")
        await ledger.skip([sibling], who="me", why="no")
        lease = await claim_one(ledger, lease=60)
        with pytest.raises(LedgerError):
            await ledger.done(lease, gone=True)
        await ledger.delivered(lease, RECEIPT)
        await clock.move(61)
        other = await claim_one(ledger, "w2")
        with pytest.raises(LeaseLost):
            await ledger.done(lease, gone=True)
        assert [(await got(ledger, each)).gone for each in (id, sibling)] == [False, False]
        await ledger.done(other, gone=True)
        assert [(await got(ledger, each)).gone for each in (id, sibling)] == [True, True]

    async def test_what_is_done_is_not_taken_away_later(self, ledger: Ledger) -> None:
        """The lease ended with `done`."""
        (id,) = await add(ledger)
        lease = await claim_one(ledger)
        await ledger.delivered(lease, RECEIPT)
        await ledger.done(lease, "tagged")
        with pytest.raises(LeaseLost):
            await ledger.done(lease, gone=True)
        found = await got(ledger, id)
        assert (found.gone, found.why) == (False, "tagged")

    async def test_siblings_that_end_at_once(self, ledger: Ledger) -> None:
        """Both may have done the same action: neither is refused, and neither waits for the other."""
        for turn in range(10):
            targets = ["a", "b", "c", "d"]
            ids = [(await add(ledger, f"f{turn}", target=target))[0] for target in targets]
            leases = await ledger.claim("w1", limit=9)
            assert len(leases) == 4
            await asyncio.gather(*(ledger.delivered(lease, RECEIPT) for lease in leases))
            await asyncio.gather(*(ledger.done(lease, gone=True) for lease in leases[:: -1 if turn % 2 else 1]))
            found = [await got(ledger, id) for id in ids]
            assert [(each.state, each.gone) for each in found] == [(State.DONE, True)] * 4

    async def test_what_is_gone_is_not_requeued(self, ledger: Ledger) -> None:
        """There is nothing to send; but what is owed can be tried at once."""
        (skipped,) = await add(ledger, target="staging")
        await ledger.skip([skipped], who="me", why="no")
        (owing,) = await add(ledger, target="vault")
        lease = await claim_one(ledger)
        await ledger.delivered(lease, RECEIPT)
        await take_away(ledger)
        await ledger.retry_in(lease, 1000, "webhook refused")
        assert await ledger.requeue([skipped, owing], who="me", why="again") == [owing]
        assert (await claim_one(ledger)).id == owing
        assert (await got(ledger, skipped)).state is State.SKIPPED

    async def test_what_is_gone_supersedes_nothing(self, ledger: Ledger) -> None:
        """Of one destination, only what is pending now is skipped for the newer."""
        gone = await take_away(ledger)
        old = (await add(ledger))[0]
        (new,) = [each.id for each in await ledger.add([planned(entry=entry(size=6))], who="poll")]
        assert await ledger.supersede(new, who="poll") == [old]
        assert (await got(ledger, gone)).state is State.DONE

    async def test_what_is_gone_is_pruned_however_the_source_is_listed(
        self, ledger: Ledger, clock: LedgerClock
    ) -> None:
        """It protects nothing from being sent again, even if nobody listed for a year."""
        assert await unknown(ledger, [entry()]) == ["outbox/a.csv"]
        old = await take_away(ledger)
        kept = await bring_to(ledger, State.DONE, "b")
        assert await unknown(ledger, [entry("b")]) == []
        await clock.move(365 * DAY)
        assert await ledger.prune() == 1
        assert await ledger.get(old) is None
        assert await ledger.get(kept) is not None

    async def test_export_says_what_is_gone(self, ledger: Ledger) -> None:
        """And nothing of the kind for the others."""
        await take_away(ledger)
        await add(ledger, "b")
        found = [json.loads(line) async for line in ledger.export()]
        assert [each.get("gone") for each in found] == [True, None]


class SiblingCases:
    async def test_siblings_are_of_one_file(self, ledger: Ledger) -> None:
        """All destinations in the order of adding, itself included; no other flow, source, path or fingerprint."""
        ids = await add(ledger)
        ids += await add(ledger, target="staging")
        await add(ledger, flow="copies")
        await add(ledger, source="shop")
        await add(ledger, "outbox/b.csv")
        await ledger.add([planned(entry=entry(modified=MODIFIED + timedelta(seconds=1)))], who="poll")
        ids += await add(ledger, target_path="elsewhere")
        for id in ids:
            found = await ledger.siblings(id)
            assert [each.id for each in found] == ids
            assert found == [await got(ledger, each) for each in ids]

    async def test_siblings_in_every_state(self, ledger: Ledger) -> None:
        """Whoever is the last to be delivered sees that it is."""
        ids = {}
        for state in State:
            (ids[state],) = await add(ledger, target=state)
        await ledger.cancel([ids[State.CANCELLED]], who="me", why="no")
        await ledger.skip([ids[State.SKIPPED]], who="me", why="no")
        leases = {lease.id: lease for lease in await ledger.claim("w1", limit=9)}
        await ledger.released(leases[ids[State.PENDING]], "stopping")
        await ledger.delivered(leases[ids[State.DELIVERED]], RECEIPT)
        await ledger.delivered(leases[ids[State.DONE]], RECEIPT, owed=False)
        await ledger.failed(leases[ids[State.FAILED]], "no such bucket")
        assert {each.state: each.id for each in await ledger.siblings(ids[State.DELIVERED])} == ids

    async def test_what_is_gone_is_no_sibling(self, ledger: Ledger) -> None:
        """A file that came back has siblings of its own; asked for by id, what is gone is still one of its own."""
        old = await take_away(ledger)
        new = (await add(ledger))[0]
        assert [each.id for each in await ledger.siblings(new)] == [new]
        assert [each.id for each in await ledger.siblings(old)] == [old, new]

    async def test_nothing_has_no_siblings(self, ledger: Ledger) -> None:
        """Of an id that is not there."""
        await add(ledger)
        assert await ledger.siblings(10**9) == []
