"""Adding and claiming: what is to be done, and who may try."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from crossdock.errors import LeaseLost
from crossdock.ledger.base import MAX_RESCUES, PARKED, Ledger, Query, State
from crossdock.storage.base import Entry
from crossdock.testing.ledger.base import (
    DAY,
    MODIFIED,
    ODD_NAMES,
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


class AddCases:
    async def test_a_new_ledger_is_empty(self, ledger: Ledger) -> None:
        """Nothing to claim, nothing to find."""
        assert await ledger.claim("w1", limit=10) == []
        assert await ledger.find(Query()) == []
        assert await ledger.counts() == {}
        assert [line async for line in ledger.export()] == []

    async def test_opening_twice_is_once(self, ledger: Ledger) -> None:
        """`open` is safe to repeat."""
        (id,) = await add(ledger)
        await ledger.open()
        assert (await got(ledger, id)).state is State.PENDING

    async def test_adding_nothing(self, ledger: Ledger) -> None:
        """An empty poll is no mistake."""
        assert await ledger.add([], who="poll") == []
        assert await ledger.see("statements", "bank", []) == []

    async def test_a_transfer_comes_back_as_it_was_added(self, ledger: Ledger) -> None:
        """Every field, to the microsecond."""
        full = Entry(path="outbox/a.csv", size=7, modified=MODIFIED, etag='"e1"', version="v1")
        plan = planned(entry=full, why="rule 1")
        (added,) = await ledger.add([plan], who="poll")
        found = await got(ledger, added.id)
        assert added.new
        assert found.entry == full
        assert found.fingerprint == full.fingerprint
        assert (found.flow, found.source, found.target) == ("statements", "bank", "lake")
        assert (found.entry.path, found.target_path) == ("outbox/a.csv", "in/outbox/a.csv")
        assert (found.state, found.attempts, found.rescues, found.owner) == (State.PENDING, 0, 0, None)
        assert (found.why, found.changed_by, found.receipt, found.checkpoint) == ("rule 1", "poll", None, None)
        assert found.added == found.changed == found.ready
        assert found.added.utcoffset() == timedelta(0)

    async def test_what_the_endpoint_did_not_say_stays_unsaid(self, ledger: Ledger) -> None:
        """None is not zero and not an empty text."""
        (added,) = await ledger.add([planned(entry=Entry(path="outbox/a.csv"))], who="poll")
        assert (await got(ledger, added.id)).entry == Entry(path="outbox/a.csv")

    @pytest.mark.parametrize("size", [-1, 2**63, 2**64 - 1, 10**30])
    async def test_an_impossible_size_is_none(self, ledger: Ledger, size: int) -> None:
        """A server that says nonsense of one file stops no others; its fingerprint is what was listed."""
        listed = entry(size=size)
        first, second = await ledger.add([planned(entry=listed), planned("b")], who="poll")
        assert (await got(ledger, first.id)).entry.size is None
        assert (await got(ledger, first.id)).fingerprint == listed.fingerprint
        assert first.new
        assert second.new
        assert await unknown(ledger, [listed]) == []

    @pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
    async def test_odd_names_survive(self, ledger: Ledger, name: str) -> None:
        """Bytes of a name that are not UTF-8, NUL and wildcards: as they were, known again, and found."""
        (id,) = await add(ledger, name)
        found = await got(ledger, id)
        assert (found.entry.path, found.target_path) == (name, f"in/{name}")
        assert await unknown(ledger, [entry(name)]) == []
        assert await unknown(ledger, [entry(name + "x")]) == [name + "x"]
        (again,) = await ledger.add([planned(name)], who="poll")
        assert (again.id, again.new) == (id, False)
        assert [each.id for each in await ledger.find(Query(name=name.rpartition("/")[2]))] == [id]
        (seen,) = await ledger.see("statements", "bank", [entry(name)])
        assert seen.path == name

    async def test_adding_again_changes_nothing(self, ledger: Ledger) -> None:
        """The identity key makes events and polls safe to repeat, whatever became of the transfer."""
        for number, state in enumerate(State):
            id = await bring_to(ledger, state, f"f{number}")
            before, history = await got(ledger, id), await ledger.history(id)
            (again,) = await ledger.add([planned(f"f{number}", why="again", delay=9)], who="other")
            assert (again.id, again.new) == (id, False)
            assert (await got(ledger, id), await ledger.history(id)) == (before, history)

    @pytest.mark.parametrize(
        "other",
        [
            {"flow": "copies"},
            {"source": "bank2"},
            {"path": "outbox/b.csv", "target_path": "in/outbox/a.csv"},
            {"entry": entry(size=6)},
            {"entry": entry(modified=MODIFIED + timedelta(microseconds=1))},
            {"entry": entry(etag="e2")},
            {"entry": entry(version="v2")},
            {"target": "staging"},
            {"target_path": "elsewhere"},
        ],
        ids=lambda other: "-".join(other),
    )
    async def test_every_part_of_the_identity_counts(self, ledger: Ledger, other: dict[str, Any]) -> None:
        """A re-sent file with the same name is new; so is another destination."""
        (first,) = await add(ledger)
        (second,) = await ledger.add([planned(**other)], who="poll")
        assert second.new
        assert second.id != first

    async def test_a_batch_is_answered_in_order(self, ledger: Ledger) -> None:
        """New and known ones mixed, one of them twice in the batch."""
        (known,) = await add(ledger, "b")
        added = await ledger.add([planned(path) for path in ("z", "b", "a", "z")], who="poll")
        assert [each.new for each in added] == [True, False, True, False]
        assert added[1].id == known
        assert added[3].id == added[0].id
        assert [(await got(ledger, each.id)).entry.path for each in added] == ["z", "b", "a", "z"]

    async def test_many_tasks_add_the_same_files(self, ledger: Ledger) -> None:
        """Each is new once, whoever comes first."""
        plans = [planned(f"f{number}") for number in range(50)]
        answers = await asyncio.gather(
            *(ledger.add(plans if turn % 2 else plans[::-1], who=f"p{turn}") for turn in range(8))
        )
        assert sum(each.new for answer in answers for each in answer) == 50
        assert len({each.id for answer in answers for each in answer}) == 50

    async def test_a_delayed_transfer_waits(self, ledger: Ledger, clock: LedgerClock) -> None:
        """`delay` seconds, then it may be claimed."""
        await add(ledger, delay=30)
        assert await ledger.claim("w1") == []
        await clock.move(31)
        assert len(await ledger.claim("w1")) == 1


class ClaimCases:
    async def test_a_claim_gives_a_lease(self, ledger: Ledger) -> None:
        """Owner, fence, attempt and end, in the lease and in the ledger."""
        (id,) = await add(ledger)
        lease = await claim_one(ledger, "host:1", lease=45)
        found = await got(ledger, id)
        assert lease.transfer == found
        assert (lease.id, lease.fence, lease.attempt) == (id, 1, 1)
        assert (found.state, found.owner, found.attempts, found.fence) == (State.RUNNING, "host:1", 1, 1)
        assert lease.until == found.ready
        assert lease.until - found.changed == pytest.approx(timedelta(seconds=45), abs=timedelta(milliseconds=1))

    async def test_a_lease_is_exclusive(self, ledger: Ledger, clock: LedgerClock) -> None:
        """Nobody else gets the transfer before the lease ends."""
        await add(ledger)
        await claim_one(ledger, lease=60)
        assert await ledger.claim("w2") == []
        await clock.move(59)
        assert await ledger.claim("w2") == []

    async def test_many_claims_share_without_overlap(self, ledger: Ledger) -> None:
        """Every transfer is given out once."""
        await add(ledger, *(f"f{number}" for number in range(100)))
        claims = await asyncio.gather(*(ledger.claim(f"w{turn}", limit=7) for turn in range(20)))
        ids = [lease.id for claim in claims for lease in claim]
        while more := await ledger.claim("late", limit=7):
            ids += [lease.id for lease in more]
        assert sorted(ids) == sorted(set(ids))
        assert len(ids) == 100

    @pytest.mark.parametrize("limit", [0, 1, 3, 100])
    async def test_a_claim_is_limited(self, ledger: Ledger, limit: int) -> None:
        """Never more than asked for."""
        await add(ledger, *"abcde")
        assert len(await ledger.claim("w1", limit=limit)) == min(limit, 5)

    async def test_who_waited_longest_is_first(self, ledger: Ledger, clock: LedgerClock) -> None:
        """In the order of adding; what waits for a retry, by the time it may be tried."""
        first = await add(ledger, "c", "a", "b")
        assert first == sorted(first)
        lease = await claim_one(ledger)
        assert lease.id == first[0]
        await ledger.retry_in(lease, 5, "busy")
        await clock.move(10)
        (later,) = await add(ledger, "d")
        order = [(await claim_one(ledger)).id for _ in range(4)]
        assert order == [first[1], first[2], first[0], later]

    async def test_a_claim_of_flows_takes_only_those(self, ledger: Ledger) -> None:
        """Whatever else waits longer."""
        await add(ledger, "a", "b", flow="one")
        (two,) = await add(ledger, "c", flow="two")
        (three,) = await add(ledger, "d", flow="it's")
        assert await ledger.claim("w1", limit=9, flows=[]) == []
        assert await ledger.claim("w1", limit=9, flows=["none"]) == []
        assert [lease.id for lease in await ledger.claim("w1", limit=9, flows=["two", "it's"])] == [two, three]
        assert len(await ledger.claim("w1", limit=1, flows=["one", "two"])) == 1

    async def test_one_at_a_time_towards_one_place(self, ledger: Ledger) -> None:
        """A re-sent file waits until its elder is through, also within one claim and across flows."""
        (old,) = await add(ledger)
        (new,) = [each.id for each in await ledger.add([planned(entry=entry(size=6))], who="poll")]
        (other,) = await add(ledger, flow="copies")
        (lease,) = await ledger.claim("w1", limit=10)
        assert lease.id == old
        assert await ledger.claim("w2", limit=10) == []
        assert await ledger.claim("w2", limit=10, flows=["statements", "copies"]) == []
        await ledger.delivered(lease, RECEIPT, owed=False)
        (lease,) = await ledger.claim("w2", limit=10)
        assert lease.id == new
        await ledger.failed(lease, "gone")
        assert [each.id for each in await ledger.claim("w2", limit=10, flows=["copies"])] == [other]

    async def test_fences_and_attempts_only_grow(self, ledger: Ledger) -> None:
        """Through retries and by hand; attempts count anew after `requeue`."""
        (id,) = await add(ledger)
        fences = []
        for attempt in (1, 2, 3):
            lease = await claim_one(ledger)
            assert lease.attempt == attempt
            fences.append(lease.fence)
            await ledger.retry_in(lease, 0, "busy")
        await ledger.requeue([id], who="me", why="again")
        lease = await claim_one(ledger)
        assert lease.attempt == 1
        fences.append(lease.fence)
        assert fences == sorted(set(fences))

    async def test_an_ended_lease_is_claimed_again(self, ledger: Ledger, clock: LedgerClock) -> None:
        """By any claim; counted, and told in the history."""
        (id,) = await add(ledger)
        old = await claim_one(ledger, "w1", lease=60)
        await clock.move(61)
        new = await claim_one(ledger, "w2", lease=60)
        assert (new.id, new.attempt) == (id, 2)
        assert new.fence > old.fence
        assert (new.transfer.rescues, new.transfer.owner) == (1, "w2")
        assert "w1" in (await ledger.history(id))[-1].why

    async def test_poison_fails(self, ledger: Ledger, clock: LedgerClock) -> None:
        """What ends its workers again and again is put away with a reason, and can be tried again by hand."""
        (id,) = await add(ledger)
        for _ in range(MAX_RESCUES + 1):
            await claim_one(ledger, lease=60)
            await clock.move(61)
        (behind,) = await add(ledger, "behind")
        assert [lease.id for lease in await ledger.claim("w1", limit=1)] == [behind]
        assert await ledger.claim("w1", limit=10) == []
        found = await got(ledger, id)
        assert (found.state, found.owner, found.ready) == (State.FAILED, None, None)
        assert found.attempts == MAX_RESCUES + 1
        assert found.error is not None
        assert "lease ended" in found.error
        assert await ledger.requeue([id], who="me", why="more memory") == [id]
        assert (await claim_one(ledger)).transfer.rescues == 0

    @pytest.mark.parametrize("flows", [None, ["statements"]])
    async def test_what_has_ended_two_workers_is_given_alone(
        self, ledger: Ledger, clock: LedgerClock, flows: list[str] | None
    ) -> None:
        """Each once, without a line in the history of what waits for it; then what never has, together again."""
        ids = await add(ledger, *(f"suspect{number}" for number in range(4)))
        for _ in range(2):
            assert len(await ledger.claim("dead", limit=10, lease=60)) == 4
            await clock.move(61)
        ids += await add(ledger, *(f"new{number}" for number in range(4)))
        given = [[lease.id for lease in await ledger.claim("w1", limit=10, flows=flows)] for _ in range(5)]
        assert [len(several) for several in given] == [1, 1, 1, 1, 4]
        assert sorted(id for several in given for id in several) == ids
        assert [len(await ledger.history(id)) for id in ids] == [4] * 4 + [2] * 4

    async def test_an_attempt_that_ends_by_itself_is_no_poison(self, ledger: Ledger, clock: LedgerClock) -> None:
        """Only rescues in a row count."""
        await add(ledger)
        for _ in range(MAX_RESCUES * 2):
            await claim_one(ledger, lease=60)
            await clock.move(61)
            await ledger.retry_in(await claim_one(ledger), 0, "busy")
        assert await ledger.claim("w1") != []

    @pytest.mark.parametrize("flows", [None, ["statements"]])
    async def test_endpoints_that_a_worker_does_not_know_are_left_out(
        self, ledger: Ledger, flows: list[str] | None
    ) -> None:
        """Whatever is to be done there; who knows them gets what waits."""
        (vault,) = await add(ledger, target="vault")
        lease = await claim_one(ledger)
        await ledger.delivered(lease, RECEIPT)
        await ledger.retry_in(lease, 0, "the source is down")
        (staging,), (lake,) = await add(ledger, "b", target="staging"), await add(ledger, "c")
        assert await ledger.claim("w1", limit=9, flows=flows, without=["bank"]) == []
        found = await ledger.claim("w1", limit=9, flows=flows, without=["vault", "staging"])
        assert [each.id for each in found] == [lake]
        assert {each.id for each in await ledger.claim("w2", limit=9, flows=flows)} == {vault, staging}

    async def test_actions_that_kill_are_parked(self, ledger: Ledger, clock: LedgerClock) -> None:
        """A delivered transfer never fails; it comes back a day later."""
        (id,) = await add(ledger)
        await ledger.delivered(await claim_one(ledger, lease=60), RECEIPT)
        for _ in range(MAX_RESCUES):
            await clock.move(61)
            await claim_one(ledger, lease=60)
        await clock.move(61)
        assert await ledger.claim("w1") == []
        assert (await got(ledger, id)).state is State.DELIVERED
        await clock.move(PARKED - 10)
        assert await ledger.claim("w1") == []
        await clock.move(11)
        assert (await claim_one(ledger)).id == id

    @pytest.mark.parametrize("back", [1.0, 7200.0, 40 * DAY])
    async def test_a_clock_that_jumps_back_ends_no_lease(self, ledger: Ledger, clock: LedgerClock, back: float) -> None:
        """Nor does a heartbeat shorten it."""
        await add(ledger)
        lease = await claim_one(ledger, lease=60)
        await clock.move(-back)
        assert await ledger.claim("w2") == []
        assert (await ledger.heartbeat(lease, 60)).until >= lease.until
        await clock.move(back)
        assert await ledger.claim("w2") == []

    async def test_a_clock_that_jumps_ahead_is_met_by_the_fence(self, ledger: Ledger, clock: LedgerClock) -> None:
        """The lease ends early, and the first worker records nothing any more."""
        (id,) = await add(ledger)
        first = await claim_one(ledger, "w1")
        await clock.move(7200)
        second = await claim_one(ledger, "w2")
        with pytest.raises(LeaseLost):
            await ledger.delivered(first, RECEIPT)
        await ledger.delivered(second, RECEIPT, owed=False)
        assert (await got(ledger, id)).state is State.DONE
