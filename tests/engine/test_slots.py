"""Files with several destinations whose endpoints have few connections, or the same: nobody waits for another for ever,
nor fails for another."""

from __future__ import annotations

import asyncio
import socket
import sys
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from crossdock.engine import worker
from crossdock.engine.delivery import Courier, Delivery
from crossdock.engine.endpoints import Endpoints
from crossdock.engine.engine import Engine
from crossdock.engine.worker import Worker
from crossdock.errors import AuthenticationFailed
from crossdock.flows.flow import Destination, Flow, OnConflict, Place, Rule
from crossdock.ledger.base import Lease, Query, State
from crossdock.ledger.memory import MemoryLedger
from crossdock.storage.limits import Limit
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.registry import new_storage
from crossdock.storage.sftp.settings import SftpSettings
from crossdock.storage.shared import SharedReads
from crossdock.storage.storage import Storage
from crossdock.testing.ledger.base import planned
from tests.engine.places import AT_ONCE, House, flow, lost
from tests.servers import OpenSSH

SIZE = 2_500_000
"""More than a shared read keeps for those who are behind."""
TWICE = Flow(
    name="f",
    source=Place("src", "in"),
    rules=(Rule(name="all", to=tuple(Destination("src", f"{name}/{{path}}") for name in "ab")),),
    settle=AT_ONCE,
)


class Idle(Courier):
    """Of no flow and no endpoint: a test says what an attempt is."""

    def __init__(self) -> None:
        pass

    def claimed(self, leases: Sequence[Lease]) -> None:
        pass


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is behind is waited for, for as long as it takes to see that it is."""
    monkeypatch.setattr(SharedReads.__init__, "__kwdefaults__", {"patience": 0.02})


@pytest.mark.parametrize("slots", [3, 4, 6])
@pytest.mark.parametrize("offsets", [True, False])
async def test_two_copies_at_the_source_itself(home: House, offsets: bool, slots: int) -> None:
    """Those who are left behind have a writer by then, and would wait for readers who wait for such a writer."""
    home.src.capabilities = replace(home.src.capabilities, read_offset=offsets)
    for number in range(6):
        await home.put(f"in/{number}", bytes(SIZE))
    limited = Storage(Limit(home.src, slots))
    async with Engine([TWICE], lambda name: limited, home.ledger, clock=home.clock) as engine, asyncio.timeout(60):
        assert (await engine.run_once(patience=0)).delivered == 12
    assert {home.src.hold(f"{name}/{number}") for name in "ab" for number in range(6)} == {bytes(SIZE)}


async def test_two_copies_at_one_server(openssh: OpenSSH) -> None:
    """With more transfers at once than it has slots for."""
    folder = openssh.folder / uuid.uuid4().hex
    (folder / "in").mkdir(parents=True)
    for number in range(64):
        (folder / "in" / str(number)).write_bytes(bytes(SIZE))
    openssh.own()
    settings = SftpSettings.model_validate(openssh.settings(root=folder.name))
    async with (
        MemoryLedger() as ledger,
        Engine([TWICE], lambda name: new_storage(name, settings), ledger, transfers=128) as engine,
        asyncio.timeout(120),
    ):
        assert (await engine.run_once(patience=0)).delivered == 128
    assert len([path for name in "ab" for path in (folder / name).iterdir()]) == 128


async def test_a_flow_whose_files_never_end_leaves_a_hand_to_the_others() -> None:
    """A partner whose server sends a byte now and then would else keep all others' files waiting."""
    begun: list[str] = []
    change = asyncio.Condition()

    class Stuck(Idle):
        async def attempt(self, lease: Lease) -> Delivery:
            async with change:
                begun.append(lease.transfer.flow)
                change.notify_all()
            await asyncio.get_running_loop().create_future()
            raise AssertionError

    async with MemoryLedger() as ledger, asyncio.timeout(60):
        await ledger.add([planned(f"{number}", flow="slow") for number in range(20)], who="poll")
        working_off = Worker(ledger, Stuck(), ["slow", "quick"], owner="w", transfers=4)
        working = asyncio.create_task(working_off.run())
        async with change:
            await change.wait_for(lambda: len(begun) == 3)
        await ledger.add([planned("a", flow="quick", target_path="b")], who="poll")
        working_off.wake()
        async with change:
            await change.wait_for(lambda: "quick" in begun)
        assert begun.count("slow") == 3
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        assert {each.state for each in await ledger.find(Query())} == {State.PENDING}, "given back"


async def test_hands_that_end_in_one_turn_of_the_loop_go_on_in_one() -> None:
    """What they then ask of one server goes into one packet, and into one commit of the ledger."""
    turn, together, turns = 0, asyncio.Event(), list[int]()

    def count() -> None:
        nonlocal turn
        turn += 1
        asyncio.get_running_loop().call_soon(count)

    class Slow(MemoryLedger):
        async def claim(self, *owner: Any, **more: Any) -> list[Lease]:
            await asyncio.sleep(0)
            return await super().claim(*owner, **more)

    class InStep(Idle):
        async def attempt(self, lease: Lease) -> Delivery:
            turns.append(turn)
            if len(turns) % 4 == 0:
                together.set()
                together.clear()
            else:
                await together.wait()
            await ledger.delivered(lease, {}, owed=False)
            return Delivery(transfer=lease.transfer, what="delivered")

    async with Slow() as ledger, asyncio.timeout(60):
        await ledger.add([planned(f"{number}", flow="f", target_path=f"{number}") for number in range(16)], who="poll")
        count()
        await Worker(ledger, InStep(), ["f"], owner="w", transfers=4).run(until_idle=True)
    assert len(turns) == 16
    # The one that claims for all goes on at once, the others in the next turn.
    assert [len(set(turns[start : start + 4])) for start in range(0, 16, 4)] == [2, 2, 2, 2], turns


async def test_a_worker_that_is_stopped_while_one_hand_claims_for_all_ends_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A daemon that waited would look at its sources meanwhile, by a configuration that is no more."""
    monkeypatch.setattr(worker, "_LOOK_AGAIN", 3600.0)
    asked, answer = asyncio.Event(), asyncio.Event()

    class Slow(MemoryLedger):
        async def claim(self, *owner: Any, **more: Any) -> list[Lease]:
            asked.set()
            await answer.wait()
            return await super().claim(*owner, **more)

    async with Slow() as ledger, asyncio.timeout(60):
        await ledger.add([planned("a", flow="f")], who="poll")
        courier = Courier({}, Endpoints(lambda name: Storage(MemoryBackend(name))), ledger, {})
        working = Worker(ledger, courier, ["f"], owner="w", transfers=4)
        running = asyncio.create_task(working.run())
        await asked.wait()
        working.stop()
        answer.set()
        await running
        assert [each.state for each in await ledger.find(Query())] == [State.PENDING], "given back"


async def test_what_waits_for_one_that_ends_while_the_ledger_is_asked_is_not_left() -> None:
    """Of two for one place, the ledger gives one, and that none can be had until that has ended."""
    asked, over = asyncio.Event(), asyncio.Event()

    class TellsLate(MemoryLedger):
        async def claim(self, *owner: Any, **more: Any) -> list[Lease]:
            found = await super().claim(*owner, **more)
            if not found:
                asked.set()
                await over.wait()
            return found

    class Quick(Idle):
        async def attempt(self, lease: Lease) -> Delivery:
            await asked.wait()
            await ledger.delivered(lease, {}, owed=False)
            return Delivery(transfer=lease.transfer, what="delivered")

    async with TellsLate() as ledger, asyncio.timeout(60):
        await ledger.add([planned(name, flow="f", target_path="one") for name in "ab"], who="poll")
        reports: list[Delivery] = []

        def report(delivery: Delivery) -> None:
            reports.append(delivery)
            over.set()

        await Worker(ledger, Quick(), ["f"], owner="w", transfers=2, report=report).run(until_idle=True)
        assert [each.state for each in await ledger.find(Query())] == [State.DONE] * 2


@pytest.mark.parametrize("on_conflict", ["overwrite", "version"])
async def test_a_delivery_leaves_no_generator_for_the_loop_to_close(home: House, on_conflict: OnConflict) -> None:
    """Each would be a task of its own, and wake the loop."""
    await home.put("a")
    await Storage(home.dst).write_bytes("a", b"another")
    left, hooks = list[object](), sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(finalizer=left.append)
    try:
        assert (await home.run(flow(on_conflict=on_conflict))).delivered == 1
    finally:
        sys.set_asyncgen_hooks(*hooks)
    assert left == []


@pytest.mark.parametrize("refused", [False, True], ids=["down", "refused"])
async def test_endpoints_of_one_account_are_down_together(home: House, *, refused: bool) -> None:
    """Its connections are shared, and their failures name the endpoint that came first: no attempt of the other counts,
    and a refused sign-in fails nothing."""
    await home.put("a")
    error = AuthenticationFailed("no", operation="connect", endpoint="dst") if refused else lost("dst")
    home.dst2.faults["open"] = [error]
    home.dst.faults["open"] = [error]
    await home.run(flow(rules=(Rule(name="all", to=(Destination("dst"), Destination("dst2"))),)))
    assert {each.target: (each.state, each.attempts) for each in (await home.transfers()).values()} == {
        "dst": (State.PENDING, 0),
        "dst2": (State.PENDING, 0),
    }


async def test_sftp_endpoints_of_one_account_wait_for_their_server(home: House) -> None:
    await home.put("a")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        settings = {"host": "127.0.0.1", "port": port, "user": "u", "password": "env:HOME"}

        def new(name: str) -> Storage:
            if name == "src":
                return home.new(name)
            return Storage(SftpSettings.model_validate({**settings, "root": f"/{name}"}).backend(name))

        several = flow(rules=(Rule(name="all", to=(Destination("dst"), Destination("dst2"))),))
        async with Engine([several], new, home.ledger, clock=home.clock) as engine:
            await engine.run_once(patience=0)
    assert [each.attempts for each in (await home.transfers()).values()] == [0, 0]
