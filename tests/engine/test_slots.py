"""Files with several destinations where an endpoint has few connections: nobody waits for another for ever."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace

import pytest

from crossdock.engine.engine import Engine
from crossdock.flows.flow import Destination, Flow, Place, Rule
from crossdock.ledger.memory import MemoryLedger
from crossdock.storage.limits import Limit
from crossdock.storage.registry import new_storage
from crossdock.storage.sftp.settings import SftpSettings
from crossdock.storage.shared import SharedReads
from crossdock.storage.storage import Storage
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
