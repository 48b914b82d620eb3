"""Files with several destinations where an endpoint has few connections: nobody waits for another for ever."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace

import pytest

from crossdock.engine.delivery import Courier, Delivery
from crossdock.engine.engine import Engine
from crossdock.engine.worker import Worker
from crossdock.flows.flow import Destination, Flow, Place, Rule
from crossdock.ledger.base import Lease, Query, State
from crossdock.ledger.memory import MemoryLedger
from crossdock.storage.limits import Limit
from crossdock.storage.registry import new_storage
from crossdock.storage.sftp.settings import SftpSettings
from crossdock.storage.shared import SharedReads
from crossdock.storage.storage import Storage
from crossdock.testing.ledger.base import planned
from tests.engine.places import AT_ONCE, House
from tests.servers import OpenSSH

SIZE = 2_500_000
"""More than a shared read keeps for those who are behind."""
TWICE = Flow(
    name="f",
    source=Place("src", "in"),
    rules=(Rule(name="all", to=tuple(Destination("src", f"{name}/{{path}}") for name in "ab")),),
    settle=AT_ONCE,
)


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

    class Stuck(Courier):
        def __init__(self) -> None:
            pass

        def claimed(self, leases: Sequence[Lease]) -> None:
            pass

        async def attempt(self, lease: Lease) -> Delivery:
            async with change:
                begun.append(lease.transfer.flow)
                change.notify_all()
            await asyncio.get_running_loop().create_future()
            raise AssertionError

    async with MemoryLedger() as ledger, asyncio.timeout(60):
        await ledger.add([planned(f"{number}", flow="slow") for number in range(20)], who="poll")
        worker = Worker(ledger, Stuck(), ["slow", "quick"], owner="w", transfers=4)
        working = asyncio.create_task(worker.run())
        async with change:
            await change.wait_for(lambda: len(begun) == 3)
        await ledger.add([planned("a", flow="quick", target_path="b")], who="poll")
        worker.wake()
        async with change:
            await change.wait_for(lambda: "quick" in begun)
        assert begun.count("slow") == 3
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        assert {each.state for each in await ledger.find(Query())} == {State.PENDING}, "given back"
