"""Files that end their workers: alone at work, put away in the end, and told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from crossdock.engine import worker as workers
from crossdock.engine.notices.notice import Notice
from crossdock.engine.recovery import Record, attempt_id
from crossdock.errors import LedgerUnavailable
from crossdock.flows.flow import Place, Webhook
from crossdock.ledger.base import Lease
from crossdock.storage.base import WriteOptions
from crossdock.storage.storage import Storage
from tests.engine.places import House, flow, lost


async def test_what_ended_its_workers_is_told(home: House) -> None:
    """It fails at a claim, so that no worker is left to tell; once, whoever looks."""
    told: list[Notice] = []

    async def send(to: object, notice: Notice) -> None:
        told.append(notice)

    await home.put("a")
    hook = Webhook(url="https://hooks.example/", on=frozenset({"failed"}))
    hooked = flow(webhooks=(hook,))
    async with home.engine(hooked) as engine, home.engine(hooked) as other:
        for each in (engine, other):
            each._actions["f"].outbox._send = send
        await engine.discover("f")
        for _ in range(5):
            assert await home.ledger.claim("dead", lease=1.0)
            home.clock.move(2)
        summary = await engine.run_once(patience=0)
        assert (summary.failed, summary.good) == (1, False)
        assert [(each.kind, each.data["error"]) for each in told] == [("failed", home.said[0].reason)]
        assert "its lease ended 5 times" in home.said[0].reason
        assert (await other.run_once(patience=0)).failed == 0
        assert len(told) == 1
        await home.ledger.requeue([home.said[0].transfer.id], who="me", why="more memory")
        assert (await other.run_once(patience=0)).delivered == 1


async def test_what_ended_its_workers_leaves_nothing_behind(home: House) -> None:
    """It is claimed once more, only to sweep; a failure on the way to that earns it no further attempt."""
    await home.put("a")
    async with home.engine(flow()) as engine:
        await engine.discover("f")
    for _ in range(4):
        (lease,) = await home.ledger.claim("dead", lease=1.0)
        options = WriteOptions(attempt=attempt_id(home.ledger.id, lease.id, lease.fence))
        writer = await Storage(home.dst).begin_write("a", options)
        await writer.write(b"data")
        token = writer.checkpoint()
        await home.ledger.staged(lease, Record(to="a", token=token, size=4, sha256="0" * 64).dump())
        home.clock.move(2)
    before = home.dst.calls["write"]
    home.dst.faults["discard"] = [lost()]
    await home.run(flow())
    assert (await home.transfers())["a", "dst"].rescues == 4
    home.clock.move(60)
    assert (await home.run(flow())).failed == 1
    found = (await home.transfers())["a", "dst"]
    assert (found.state, found.checkpoint, home.dst.staged, home.dst.calls["write"]) == ("failed", None, [], before)
    assert found.why.startswith(
        "deliver dst:a: its lease ended 4 times in a row: it stops or kills its workers. Next: "
    )
    assert (await home.run(flow())).failed == 0
    await home.ledger.requeue([found.id], who="me", why="more memory")
    assert (await home.run(flow())).delivered == 1


async def test_suspects_run_alone(home: House) -> None:
    """Who was at work beside a file that kills its workers does not fail with it."""
    for name in ("a", "b", "poison"):
        await home.put(name)
    async with home.engine(flow()) as engine:
        await engine.discover("f")
    for _ in range(3):
        assert await home.ledger.claim("dead", limit=16, lease=1.0)
        home.clock.move(2)
    at_work = 0

    def step(name: str) -> None:
        nonlocal at_work
        at_work += (name == "R4:before") - (name == "R9:after")
        assert at_work <= 1

    assert (await home.run(flow(), step=step)).delivered == 3


async def test_a_suspect_waits_for_what_is_at_work(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claimed beside it, when the last of its workers has been dead for long enough."""
    monkeypatch.setattr(workers, "_LOOK_AGAIN", 0.01)
    await home.put("suspect")
    at_work: list[str] = []

    def step(name: str) -> None:
        if name in ("R4:before", "R9:after"):
            at_work.append(name)

    async with home.engine(flow(), step=step) as engine, asyncio.timeout(60):
        await engine.discover("f")
        for turn in range(3):
            assert await home.ledger.claim("dead", lease=1.0)
            home.clock.move(2 if turn < 2 else 0)
        await home.put("a")
        home.dst.gates["commit"] = asyncio.Event()
        running = asyncio.create_task(engine.run_once(patience=0))
        while not home.dst.calls["commit"]:
            await asyncio.sleep(0.01)
        home.clock.move(2)
        while (await home.transfers())["suspect", "dst"].owner == "dead":
            await asyncio.sleep(0.01)
        home.dst.gates.pop("commit").set()
        assert (await running).delivered == 2
    assert at_work == ["R4:before", "R9:after"] * 2


@pytest.mark.parametrize("fails", [False, True])
async def test_what_another_flow_has_claimed_does_not_begin_beside_it(
    home: House, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """A flow of many files has more under lease than its share of the hands: what has not begun is given back."""
    monkeypatch.setattr(workers, "_LOOK_AGAIN", 0.01)
    await Storage(home.dst2).write_bytes("suspect", b"data")
    flows = flow(), flow(name="g", source=Place("dst2"))
    for number in range(10):
        await home.put(str(number))
    released, back = home.ledger.released, list[str]()

    async def release(lease: Lease, why: str, **more: Any) -> None:
        back.append(lease.transfer.entry.path)
        if fails:
            raise LedgerUnavailable("busy")
        await released(lease, why, **more)

    monkeypatch.setattr(home.ledger, "released", release)
    at_work: list[str] = []

    def step(name: str) -> None:
        if name in ("R4:before", "R9:after"):
            at_work.append(name)

    async with home.engine(*flows, step=step, transfers=8) as engine, asyncio.timeout(60):
        await engine.discover("g")
        for turn in range(3):
            assert await home.ledger.claim("dead", lease=1.0)
            home.clock.move(2 if turn < 2 else 0)
        home.dst.gates["commit"] = asyncio.Event()
        running = asyncio.create_task(engine.run_once(patience=0))
        while home.dst.calls["commit"] < 7:
            await asyncio.sleep(0.01)
        home.clock.move(2)
        while (await home.transfers())["suspect", "dst"].owner == "dead":
            await asyncio.sleep(0.01)
        home.dst.gates.pop("commit").set()
        assert (await running).delivered == (10 if fails else 11)
        assert back == ["7"]
        home.clock.move(61)
        assert (await engine.run_once(patience=0)).delivered == (1 if fails else 0)
    assert at_work[:16] == ["R4:before"] * 7 + ["R9:after"] * 7 + ["R4:before", "R9:after"]


async def test_a_suspect_is_waited_for_in_peace(home: House) -> None:
    """What comes meanwhile wakes the others, who have nothing to do yet and let it go on."""
    await home.put("suspect")
    async with home.engine(flow()) as engine:
        await engine.discover("f")
    for _ in range(3):
        assert await home.ledger.claim("dead", lease=1.0)
        home.clock.move(2)
    home.dst.gates["commit"] = asyncio.Event()
    async with home.engine(flow()) as engine, asyncio.timeout(60):
        worker = engine.worker(["f"])
        running = asyncio.create_task(worker.run())
        while not home.dst.calls["commit"]:
            await asyncio.sleep(0.01)
        await home.put("b")
        await engine.discover("f")
        worker.wake()
        await asyncio.sleep(0.01)
        home.dst.gates.pop("commit").set()
        while await home.state("b") != "done":
            await asyncio.sleep(0.01)
        worker.stop()
        await running
    assert await home.state("suspect") == "done"
