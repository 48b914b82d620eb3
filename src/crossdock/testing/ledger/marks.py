"""Marks: made once, kept until they are dropped; and the ledger's own id."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from crossdock.ledger.base import Ledger, Mark, Query
from crossdock.testing.ledger.base import DAY, MODIFIED, ODD_NAMES, LedgerClock, entry, listing, unknown

_DUE = datetime(2031, 5, 1, 12, 0, 0, 250000, tzinfo=UTC)


class MarkCases:
    async def test_a_ledger_has_an_id(self, ledger: Ledger, second: Ledger | None) -> None:
        """Sixteen hex digits, the same for whoever opens it, and the next time."""
        assert re.fullmatch(r"[0-9a-f]{16}", ledger.id)
        if second is not None:
            assert second.id == ledger.id
            await second.close()
            await second.open()
            assert second.id == ledger.id

    async def test_a_mark_is_made_once(self, ledger: Ledger, clock: LedgerClock) -> None:
        """The first is new; the others change nothing of it."""
        assert await ledger.mark("statements", "tick", "06:00", value={"by": "one", "odd": ["\udcff", None, 1.5]})
        (made,) = await ledger.marks("statements", "tick")
        await clock.move(10)
        assert not await ledger.mark("statements", "tick", "06:00", due=_DUE, value={"by": "two"})
        assert await ledger.marks("statements", "tick") == [made]
        assert made == Mark("06:00", made.at, None, {"by": "one", "odd": ["\udcff", None, 1.5]})
        assert made.at.utcoffset() == timedelta(0)

    async def test_a_mark_keeps_when_it_is_due(self, ledger: Ledger) -> None:
        """To the microsecond, whatever the zone; and an empty value is nothing."""
        zone = timezone(timedelta(hours=5, minutes=30))
        assert await ledger.mark("statements", "archive", "a", due=_DUE.astimezone(zone))
        (found,) = await ledger.marks("statements", "archive")
        assert (found.due, found.value) == (_DUE, {})

    async def test_marks_are_of_a_flow_and_a_kind(self, ledger: Ledger) -> None:
        """The same key elsewhere is another mark."""
        for flow, kind in (("statements", "tick"), ("statements", "late"), ("copies", "tick"), ("copies", "late")):
            assert await ledger.mark(flow, kind, "06:00", value={"of": f"{flow} {kind}"})
        (found,) = await ledger.marks("copies", "tick")
        assert found.value == {"of": "copies tick"}
        await ledger.unmark("copies", "tick", ["06:00"])
        assert await ledger.marks("copies", "tick") == []
        for flow, kind in (("statements", "tick"), ("statements", "late"), ("copies", "late")):
            assert len(await ledger.marks(flow, kind)) == 1
        assert await ledger.marks("copies", "none") == []

    @pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
    async def test_paths_are_keys(self, ledger: Ledger, name: str) -> None:
        """Any bytes of a name: as they were, found by them, dropped by them."""
        assert await ledger.mark("statements", "archive", name)
        assert not await ledger.mark("statements", "archive", name)
        assert [each.key for each in await ledger.marks("statements", "archive")] == [name]
        assert await ledger.marks("statements", "archive", after=name) == []
        await ledger.unmark("statements", "archive", [name])
        assert await ledger.marks("statements", "archive") == []

    async def test_marks_in_pages(self, ledger: Ledger) -> None:
        """In the order of their keys, each once, with and without a time."""
        names = [*ODD_NAMES, *(f"f{number:02d}" for number in range(30))]
        for name in names:
            await ledger.mark("statements", "archive", name, due=_DUE)
        for due_before in (None, _DUE + timedelta(seconds=1)):
            found: list[str] = []
            while page := await ledger.marks(
                "statements", "archive", due_before=due_before, limit=7, after=found[-1] if found else None
            ):
                assert len(page) <= 7
                found += [each.key for each in page]
            assert sorted(found) == sorted(names)
            plain = [name for name in found if name.startswith("f")]
            assert plain == sorted(plain)
        assert await ledger.marks("statements", "archive", limit=0) == []

    async def test_what_is_due(self, ledger: Ledger) -> None:
        """Before a time, not at it; what has no time is never due."""
        for key, due in (("b", _DUE), ("a", _DUE - timedelta(days=1)), ("c", _DUE + timedelta(days=1)), ("d", None)):
            await ledger.mark("statements", "archive", key, due=due)
        day, moment = timedelta(days=1), timedelta(milliseconds=1)
        for until, keys in ((_DUE - day, ""), (_DUE, "a"), (_DUE + moment, "ab"), (_DUE + 9 * day, "abc")):
            found = await ledger.marks("statements", "archive", due_before=until)
            assert [each.key for each in found] == list(keys)

    async def test_a_time_without_a_zone_is_refused(self, ledger: Ledger) -> None:
        """It would be hours early or late; so is a key that says nothing."""
        naive = _DUE.replace(tzinfo=None)
        with pytest.raises(ValueError, match="zone"):
            await ledger.mark("statements", "archive", "a", due=naive)
        with pytest.raises(ValueError, match="zone"):
            await ledger.marks("statements", "archive", due_before=naive)
        with pytest.raises(ValueError, match="empty"):
            await ledger.mark("statements", "archive", "")
        assert await ledger.marks("statements", "archive") == []

    async def test_unmarking_frees_the_key(self, ledger: Ledger) -> None:
        """Only those that were named; what is not there is no mistake."""
        for key in "abc":
            await ledger.mark("statements", "archive", key)
        await ledger.unmark("statements", "archive", ["a", "never made", "c"])
        await ledger.unmark("statements", "archive", [])
        assert [each.key for each in await ledger.marks("statements", "archive")] == ["b"]
        assert await ledger.mark("statements", "archive", "a")

    async def test_two_make_one_mark(self, ledger: Ledger, second: Ledger | None) -> None:
        """Of all who try at the same time, exactly one is told that it is new."""
        both = [ledger, second or ledger]
        for turn in range(20):
            answers = await asyncio.gather(
                *(both[number % 2].mark("statements", "tick", f"{turn}", value={"by": number}) for number in range(8))
            )
            assert sum(answers) == 1
            found = {each.key: each.value for each in await ledger.marks("statements", "tick")}
            assert found[f"{turn}"] == {"by": answers.index(True)}

    async def test_old_marks_are_pruned(self, ledger: Ledger, clock: LedgerClock) -> None:
        """But none that says when it is due, past or future: somebody still owes something to it."""
        await ledger.mark("statements", "tick", "old")
        (made,) = await ledger.marks("statements", "tick")
        await ledger.mark("statements", "archive", "past", due=made.at + timedelta(days=1))
        await ledger.mark("statements", "archive", "future", due=made.at + timedelta(days=100))
        await clock.move(31 * DAY)
        await ledger.mark("statements", "tick", "young")
        assert await ledger.prune() == 0
        assert [each.key for each in await ledger.marks("statements", "tick")] == ["young"]
        assert [each.key for each in await ledger.marks("statements", "archive")] == ["future", "past"]

    async def test_a_flows_newest_mark_of_a_kind_is_not_pruned(self, ledger: Ledger, clock: LedgerClock) -> None:
        """It tells that this was done before: of something that is done once a year, nothing else does."""
        for number, key in enumerate(["b", "a"]):
            for flow in ("statements", "payments"):
                await ledger.mark(flow, "tick", f"{flow}-{key}")
            await clock.move(number + 1)
        await ledger.mark("statements", "late", "one")
        await clock.move(400 * DAY)
        for _ in range(2):
            await ledger.prune()
            assert [each.key for each in await ledger.marks("statements", "tick")] == ["statements-a"]
            assert [each.key for each in await ledger.marks("payments", "tick")] == ["payments-a"]
            assert [each.key for each in await ledger.marks("statements", "late")] == ["one"]

    async def test_marks_leave_transfers_alone(self, ledger: Ledger) -> None:
        """They are known neither as files nor as work."""
        await ledger.mark("statements", "archive", "outbox/a.csv", due=MODIFIED)
        assert await unknown(ledger, [entry()]) == ["outbox/a.csv"]
        assert await ledger.claim("w1", flows=["statements"]) == []
        assert await ledger.find(Query()) == []
        assert [found async for found in ledger.unknown("statements", "bank", listing([]))] == []
