"""Looking, polling, pruning; and two openings of one ledger."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from crossdock.errors import CrossdockError, LeaseLost, LedgerError
from crossdock.ledger.base import Ledger, Query, State
from crossdock.storage.base import Entry
from crossdock.testing.ledger.base import (
    DAY,
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


class LookCases:
    async def test_nothing_has_no_id_and_no_history(self, ledger: Ledger) -> None:
        """None and nothing."""
        assert await ledger.get(10**9) is None
        assert await ledger.history(10**9) == []

    async def test_the_history_tells_all(self, ledger: Ledger, clock: LedgerClock) -> None:
        """When, who, from, to, why: every transition, in order."""
        (id,) = await add(ledger, why="rule 1")
        await ledger.retry_in(await claim_one(ledger, "w1"), 5, "busy")
        await clock.move(10)
        await ledger.failed(await claim_one(ledger, "w2"), "denied")
        await ledger.requeue([id], who="me", why="fixed")
        events = await ledger.history(id)
        assert [(each.who, each.was, each.now, each.why) for each in events] == [
            ("poll", None, "pending", "rule 1"),
            ("w1", "pending", "running", "claimed"),
            ("w1", "running", "pending", "busy"),
            ("w2", "pending", "running", "claimed"),
            ("w2", "running", "failed", "denied"),
            ("me", "failed", "pending", "fixed"),
        ]
        times = [each.at for each in events]
        assert times == sorted(times)
        assert times[3] - times[2] >= timedelta(seconds=9)

    async def test_find_by_everything(self, ledger: Ledger) -> None:
        """Each condition alone, and all together; the newest first."""
        a, b, sub = await add(ledger, "outbox/a.csv", "outbox/b.csv", "outbox/sub/a.csv")
        (other,) = await add(ledger, "in_box/a.csv", flow="copies", source="shop", target="staging")
        await ledger.cancel([b], who="me", why="no")
        wanted: list[tuple[Query, list[int]]] = [
            (Query(), [other, sub, b, a]),
            (Query(limit=2), [other, sub]),
            (Query(limit=0), []),
            (Query(before=sub), [b, a]),
            (Query(flow="copies"), [other]),
            (Query(source="bank"), [sub, b, a]),
            (Query(target="staging"), [other]),
            (Query(name="a.csv"), [other, sub, a]),
            (Query(states=frozenset({State.CANCELLED})), [b]),
            (Query(states=frozenset({State.CANCELLED, State.PENDING}), flow="statements"), [sub, b, a]),
            (Query(path="outbox/*"), [sub, b, a]),
            (Query(path="outbox/?.csv"), [b, a]),
            (Query(path="outbox/a.csv"), [a]),
            (Query(path="OUTBOX/*"), []),
            (Query(path="in_box/*"), [other]),
            (Query(path="out_ox/*"), []),
            (Query(path="out%"), []),
            (Query(path="outbox/[ab].csv"), []),
            (Query(target_path="in/*/sub/*"), [sub]),
            (Query(target_name="b.csv"), [b]),
            (Query(target_name="csv"), []),
            (Query(flow="statements", name="a.csv", path="*sub*", source="bank", target="lake"), [sub]),
        ]
        for query, ids in wanted:
            assert [each.id for each in await ledger.find(query)] == ids, query

    async def test_find_by_time(self, ledger: Ledger, clock: LedgerClock) -> None:
        """Added after, changed before."""
        (old,) = await add(ledger, "old")
        await clock.move(100)
        (new,) = await add(ledger, "new")
        between = (await got(ledger, new)).added - timedelta(seconds=50)
        assert [each.id for each in await ledger.find(Query(added_after=between))] == [new]
        assert [each.id for each in await ledger.find(Query(changed_before=between))] == [old]

    async def test_counts(self, ledger: Ledger) -> None:
        """By flow and state."""
        ids = await add(ledger, "a", "b", "c")
        await add(ledger, "d", flow="copies")
        await ledger.cancel(ids[:1], who="me", why="no")
        assert await ledger.counts() == {
            ("statements", State.PENDING): 2,
            ("statements", State.CANCELLED): 1,
            ("copies", State.PENDING): 1,
        }

    async def test_export_is_json_lines(self, ledger: Ledger) -> None:
        """One line for each transfer, more of them than one page, with receipt and history."""
        ids = await add(ledger, "odd \udcff\n", *(f"f{number}" for number in range(600)))
        await ledger.delivered(await claim_one(ledger), RECEIPT, owed=False)
        lines = [line async for line in ledger.export()]
        assert all("\n" not in line for line in lines)
        found = [json.loads(line) for line in lines]
        assert [each["id"] for each in found] == ids
        assert found[0]["path"] == "odd \udcff\n"
        assert found[0]["receipt"] == RECEIPT
        assert [step["to"] for step in found[0]["history"]] == ["pending", "running", "done"]
        assert found[1]["state"] == "pending"
        assert "receipt" not in found[1]


class PollCases:
    async def test_set_difference(self, ledger: Ledger) -> None:
        """What the flow has no transfer for, in the listing's order, over more than one batch."""
        await add(ledger, *(f"f{number:04d}" for number in range(0, 1200, 2)))
        found = await unknown(ledger, [entry(f"f{number:04d}") for number in range(1200)])
        assert found == [f"f{number:04d}" for number in range(1, 1200, 2)]

    async def test_known_is_by_flow_source_and_fingerprint(self, ledger: Ledger) -> None:
        """A file that changed is unknown; so is it to another flow, and at another source."""
        await add(ledger, "a")
        assert await unknown(ledger, [entry("a")]) == []
        assert await unknown(ledger, [entry("a", size=6)]) == ["a"]
        assert await unknown(ledger, [entry("a")], flow="copies") == ["a"]
        assert await unknown(ledger, [entry("a")], source="shop") == ["a"]
        assert await unknown(ledger, []) == []

    @pytest.mark.parametrize("state", State)
    async def test_known_in_every_state(self, ledger: Ledger, state: State) -> None:
        """Failed and cancelled ones do not come back by themselves."""
        await bring_to(ledger, state, "a")
        assert await unknown(ledger, [entry("a")]) == []

    async def test_sightings_count_while_equal(self, ledger: Ledger, clock: LedgerClock) -> None:
        """Since when and how often a file looks like that; a change starts anew."""
        (one,) = await ledger.see("statements", "bank", [entry("a")])
        assert (one.path, one.count, one.first_seen) == ("a", 1, one.last_seen)
        await clock.move(30)
        (two,) = await ledger.see("statements", "bank", [entry("a")])
        assert (two.count, two.first_seen, two.fingerprint) == (2, one.first_seen, entry("a").fingerprint)
        assert two.last_seen - two.first_seen >= timedelta(seconds=29)
        (changed,) = await ledger.see("statements", "bank", [entry("a", size=6)])
        assert (changed.count, changed.first_seen) == (1, changed.last_seen)

    async def test_sightings_are_kept_apart(self, ledger: Ledger) -> None:
        """By flow, source and path; answered in order."""
        await ledger.see("statements", "bank", [entry("a")])
        found = await ledger.see("statements", "bank", [entry("b"), entry("a")])
        assert [(each.path, each.count) for each in found] == [("b", 1), ("a", 2)]
        for flow, source in (("copies", "bank"), ("statements", "shop")):
            (seen,) = await ledger.see(flow, source, [entry("a")])
            assert seen.count == 1

    async def test_forgotten_sightings_start_anew(self, ledger: Ledger) -> None:
        """Only those that were named."""
        await ledger.see("statements", "bank", [entry("a"), entry("b")])
        await ledger.forget("statements", "bank", ["a", "never seen"])
        await ledger.forget("statements", "bank", [])
        found = await ledger.see("statements", "bank", [entry("a"), entry("b")])
        assert [each.count for each in found] == [1, 2]


class PruneCases:
    async def test_prune_drops_what_ended_long_ago(self, ledger: Ledger, clock: LedgerClock) -> None:
        """Done, skipped and cancelled, with their history; never what is open or failed."""
        ids = {state: await bring_to(ledger, state, f"f-{state}") for state in State}
        await clock.move(31 * DAY)
        (young,) = await add(ledger, "young")
        await ledger.cancel([young], who="me", why="no")
        assert await ledger.prune() == 3
        for state, id in ids.items():
            gone = state in (State.DONE, State.SKIPPED, State.CANCELLED)
            assert (await ledger.get(id) is None) == gone, state
            assert (await ledger.history(id) == []) == gone
        assert await ledger.get(young) is not None
        assert await ledger.prune() == 0

    async def test_whose_transfer_was_pruned_records_nothing(self, ledger: Ledger, clock: LedgerClock) -> None:
        """A worker that slept for a month, while others did its work."""
        (id,) = await add(ledger)
        lease = await claim_one(ledger)
        await ledger.cancel([id], who="me", why="no")
        await clock.move(31 * DAY)
        assert await ledger.prune() == 1
        with pytest.raises(LeaseLost):
            await ledger.heartbeat(lease)
        with pytest.raises(LeaseLost):
            await ledger.delivered(lease, RECEIPT)
        assert await ledger.get(id) is None

    async def test_prune_in_many_batches(self, ledger: Ledger, clock: LedgerClock) -> None:
        """All of it, in one call."""
        ids = await add(ledger, *(f"f{number}" for number in range(1100)))
        await ledger.skip(ids, who="me", why="old")
        await clock.move(31 * DAY)
        assert await ledger.prune() == 1100
        assert await ledger.counts() == {}

    async def test_what_is_still_at_the_source_is_kept(self, ledger: Ledger, clock: LedgerClock) -> None:
        """Else the next poll would send it again."""
        for path in ("stays", "leaves"):
            await bring_to(ledger, State.DONE, path)
        for _ in range(40):
            assert await unknown(ledger, [entry("stays")]) == []
            await clock.move(DAY)
        assert await ledger.prune() == 1
        assert [each.entry.path for each in await ledger.find(Query())] == ["stays"]
        assert await unknown(ledger, [entry("stays")]) == []

    async def test_a_long_pause_forgets_nothing(self, ledger: Ledger, clock: LedgerClock) -> None:
        """Nobody looked for a year: what was there at the last look may still be."""
        await bring_to(ledger, State.DONE, "stays")
        assert await unknown(ledger, [entry("stays")]) == []
        await clock.move(365 * DAY)
        assert await ledger.prune() == 0
        assert await unknown(ledger, [entry("stays")]) == []
        assert await ledger.prune() == 0

    async def test_a_listing_that_fails_says_nothing(self, ledger: Ledger, clock: LedgerClock) -> None:
        """It is not a look: what it did not reach is not gone."""
        await bring_to(ledger, State.DONE, "stays")
        assert await unknown(ledger, [entry("stays")]) == []
        await clock.move(40 * DAY)

        async def broken() -> AsyncIterator[Entry]:
            yield entry("other")
            raise CrossdockError("the connection broke")

        with pytest.raises(CrossdockError, match="broke"):
            async for _ in ledger.unknown("statements", "bank", broken()):
                pass
        assert await ledger.prune() == 0

    async def test_too_short_a_time_is_refused(self, ledger: Ledger) -> None:
        """A day is the grain of what is known about the source."""
        with pytest.raises(ValueError, match="at least"):
            await ledger.prune(timedelta(hours=36))

    async def test_a_pruned_file_that_comes_back_is_new(self, ledger: Ledger, clock: LedgerClock) -> None:
        """Another id, so that no old lease fits it."""
        id = await bring_to(ledger, State.DONE)
        await clock.move(31 * DAY)
        assert await ledger.prune() == 1
        (added,) = await ledger.add([planned()], who="poll")
        assert added.new
        assert added.id != id


class TwoCases:
    """Two openings of one ledger, as two processes have them."""

    async def test_two_see_one_ledger(self, ledger: Ledger, second: Ledger | None) -> None:
        """What one adds the other claims, finishes, and the first one sees."""
        if second is None:
            return
        (id,) = await add(ledger)
        lease = await claim_one(second, "w2")
        assert lease.id == id
        assert await ledger.claim("w1") == []
        await second.delivered(lease, RECEIPT, owed=False)
        assert (await got(ledger, id)).state is State.DONE

    async def test_two_claim_without_overlap(self, ledger: Ledger, second: Ledger | None) -> None:
        """At the same time; all of it, none twice, and one at a time towards one place."""
        if second is None:
            return
        plans = [planned(f"f{number}") for number in range(60)]
        plans += [planned(f"other{number}", target_path="same") for number in range(20)]
        await ledger.add(plans, who="poll")
        done: list[int] = []
        under_way: set[str] = set()

        async def worker(which: Ledger, owner: str) -> None:
            idle = 0
            while len(done) < 80 and idle < 500:
                leases = await which.claim(owner, limit=5)
                idle = 0 if leases else idle + 1
                for lease in leases:
                    assert lease.transfer.target_path not in under_way
                    under_way.add(lease.transfer.target_path)
                for lease in leases:
                    under_way.remove(lease.transfer.target_path)
                    await which.delivered(lease, RECEIPT, owed=False)
                    done.append(lease.id)

        await asyncio.gather(*(worker(which, f"{turn}") for turn, which in enumerate([ledger, second] * 3)))
        assert sorted(done) == sorted(set(done))
        assert len(done) == 80

    async def test_a_closed_ledger_keeps_everything(self, ledger: Ledger, second: Ledger | None) -> None:
        """Closing twice is once; a closed ledger says so."""
        if second is None:
            return
        (id,) = await add(second)
        await second.close()
        await second.close()
        with pytest.raises(LedgerError) as caught:
            await second.claim("w2")
        assert caught.value.retryable
        assert (await got(ledger, id)).state is State.PENDING
