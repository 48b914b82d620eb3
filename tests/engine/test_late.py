"""Late files: found in the ledger, told once, by whichever of several processes is first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import time, timedelta
from pathlib import Path

import pytest

from crossdock.engine.late import check_late, missing
from crossdock.engine.notices.notice import Notice, NotificationFailed
from crossdock.engine.notices.outbox import Outbox
from crossdock.engine.serving import serve
from crossdock.flows.flow import Expectation, Flow, Mail, Place, Rule, Webhook
from crossdock.ledger.base import Planned, State
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.storage.base import Entry
from tests.engine.clocks import Clock
from tests.engine.places import House, flow

FLOW = Flow(
    name="statements",
    source=Place("bank", "outbox"),
    rules=(Rule(name="rules[0]"),),
    expect=(
        Expectation(match="pay_*.csv", by=time(6, 30), min_size=10),
        Expectation(match="pos/**/*.csv", by=time(7, 30), timezone="Europe/Berlin", min_count=2),
        Expectation(match="eod.csv", by=time(18, 0)),
    ),
    mails=(Mail(to=("ops@example.com",), sender="a@example.com", host="mail.example"),),
)


class Told:
    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.down = False

    async def __call__(self, to: Webhook | Mail, notice: Notice) -> None:
        await asyncio.sleep(0)
        if self.down:
            raise NotificationFailed("down", retryable=True, hint="wait")
        self.notices.append(notice)


@pytest.fixture
def clock() -> Clock:
    return Clock("2026-11-20T05:00:00")


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def ledger(tmp_path: Path, clock: Clock) -> AsyncIterator[SqliteLedger]:
    async with SqliteLedger(tmp_path / "crossdock.db", clock=clock.seconds) as ledger:
        assert await check_late(FLOW, ledger, clock) == []
        yield ledger


async def test_what_passed_before_the_flow_was_known_is_not_told(tmp_path: Path, clock: Clock, told: Told) -> None:
    clock.move(5400)
    async with SqliteLedger(tmp_path / "crossdock.db", clock=clock.seconds) as ledger:
        outbox = Outbox(FLOW, ledger, clock=clock, send=told)
        assert await check_late(FLOW, ledger, clock, outbox) == []
        assert len(await missing(FLOW, ledger, clock())) == 3
        clock.move(43200)
        assert [one.due.expectation.match for one in await check_late(FLOW, ledger, clock, outbox)] == ["eod.csv"]
        assert len(told.notices) == 1
        # Since when the flow is known outlives the retention.
        clock.move(40 * 86400)
        await ledger.prune()
        assert len(await check_late(FLOW, ledger, clock, outbox)) == 3


async def arrive(ledger: SqliteLedger, path: str, size: int = 100, *targets: str) -> None:
    plan = [
        Planned(flow="statements", source="bank", entry=Entry(path=path, size=size), target=name, target_path="x")
        for name in targets or ("lake",)
    ]
    await ledger.add(plan, who="poll")


async def test_a_day(ledger: SqliteLedger, clock: Clock, told: Told) -> None:
    outbox = Outbox(FLOW, ledger, clock=clock, send=told)

    async def check() -> list[str]:
        return [str(one) for one in await check_late(FLOW, ledger, clock, outbox)]

    await arrive(ledger, "outbox/pay_1.csv", 9)
    await arrive(ledger, "outbox/deep/pay_1.csv.gz")
    await arrive(ledger, "elsewhere/pay_1.csv", 9)
    # One file to three destinations is one file.
    await arrive(ledger, "outbox/pos/a/1.csv", 5, "lake", "sea", "pond")
    assert await check() == []
    clock.move(5400)
    assert await check() == [
        "0 of 1 files 'pay_*.csv' of at least 10 bytes came by 2026-11-20 06:30 UTC",
        "1 of 2 files 'pos/**/*.csv' came by 2026-11-20 07:30 Europe/Berlin",
    ]
    assert [notice.kind for notice in told.notices] == ["late", "late"]
    assert len({notice.id for notice in told.notices}) == 2
    assert {notice.data["match"]: notice.data["arrived"] for notice in told.notices} == {
        "pay_*.csv": 0,
        "pos/**/*.csv": 1,
    }
    clock.move(300)
    await arrive(ledger, "outbox/pay_1.csv", 10)
    assert await check() == []
    assert len(told.notices) == 2
    # What has come since is shown to whoever asks, and takes nothing back.
    assert str((await missing(FLOW, ledger, clock()))[0]).endswith(", 1 since")
    await arrive(ledger, "outbox/eod.csv")
    clock.move(86400 - 300)
    # The next day: yesterday's late file is not today's, and the one at 18:00 was in time.
    assert sorted(one[:1] for one in await check()) == ["0", "0"]
    assert len(told.notices) == 4


async def test_what_came_in_time_and_was_archived_counts(ledger: SqliteLedger, clock: Clock, told: Told) -> None:
    await arrive(ledger, "outbox/pay_1.csv")
    (lease,) = await ledger.claim("w1")
    await ledger.delivered(lease, {})
    await ledger.done(lease, gone=True)
    (transfer,) = [found for found in [await ledger.get(lease.id)] if found]
    assert transfer.state is State.DONE
    clock.move(5400)
    assert [one.due.expectation.match for one in await check_late(FLOW, ledger, clock)] == ["pos/**/*.csv"]
    # Moved back out of the archive after the deadline, it is sent again, and has come in time all the same.
    clock.move(60)
    await arrive(ledger, "outbox/pay_1.csv")
    assert "pay_*.csv" not in [one.due.expectation.match for one in await missing(FLOW, ledger, clock())]


async def test_many_files(ledger: SqliteLedger, clock: Clock) -> None:
    """More than a page of them."""
    for number in range(5):
        plan = [
            Planned(
                flow="statements",
                source="bank",
                entry=Entry(path=f"outbox/x{number}-{index}.csv", size=1),
                target="lake",
                target_path="x",
            )
            for index in range(500)
        ]
        if number == 2:
            await arrive(ledger, "outbox/pay_1.csv")
        await ledger.add(plan, who="poll")
    clock.move(5400)
    assert [one.due.expectation.match for one in await check_late(FLOW, ledger, clock)] == ["pos/**/*.csv"]


async def test_what_was_in_time_is_counted_once(
    ledger: SqliteLedger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not every minute of the day, by reading all files that came."""
    await arrive(ledger, "outbox/pay_1.csv")
    await arrive(ledger, "outbox/pos/1.csv")
    await arrive(ledger, "outbox/pos/2.csv")
    clock.move(5400)
    assert await check_late(FLOW, ledger, clock) == []
    monkeypatch.setattr(ledger, "find", None)
    assert await check_late(FLOW, ledger, clock) == []


async def test_a_mail_server_that_is_down_is_told_later(ledger: SqliteLedger, clock: Clock, told: Told) -> None:
    outbox = Outbox(FLOW, ledger, clock=clock, send=told)
    clock.move(5400)
    told.down = True
    assert len(await check_late(FLOW, ledger, clock, outbox)) == 2
    told.down = False
    clock.move(60)
    assert await check_late(FLOW, ledger, clock, outbox) == []
    assert await outbox.flush() == 2
    assert len({notice.id for notice in told.notices}) == 2


async def test_two_processes(tmp_path: Path, ledger: SqliteLedger, clock: Clock, told: Told) -> None:
    clock.move(5400)
    async with SqliteLedger(tmp_path / "crossdock.db", clock=clock.seconds) as other:
        found = await asyncio.gather(
            *(check_late(FLOW, own, clock, Outbox(FLOW, own, clock=clock, send=told)) for own in (ledger, other))
        )
    assert sum(len(one) for one in found) == 2
    assert len(told.notices) == 2


async def test_a_flow_that_expects_nothing(ledger: SqliteLedger, clock: Clock) -> None:
    assert await check_late(Flow(name="x", source=Place("bank"), rules=FLOW.rules), ledger, clock) == []


@pytest.mark.parametrize("daemon", [True, False])
async def test_whoever_runs_the_flow_tells_it(home: House, told: Told, daemon: bool) -> None:
    """Once, whatever else comes of the run."""
    expect = (Expectation(match="eod.csv", by=(home.clock() + timedelta(minutes=1)).time()),)
    async with home.engine(flow(expect=expect, mails=FLOW.mails)) as engine, asyncio.timeout(60):
        engine._actions["f"].outbox._send = told
        await engine.run_once(patience=0)
        assert told.notices == []
        home.clock.move(120)
        if daemon:
            stop = asyncio.Event()
            serving = asyncio.create_task(serve(engine, stop))
            while not told.notices:
                await asyncio.sleep(0.01)
            stop.set()
            await serving
        else:
            await engine.run_once(patience=0)
        await engine.run_once(patience=0)
    assert [each.kind for each in told.notices] == ["late"]
