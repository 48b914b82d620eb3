"""What is connected to before it is needed, so that nobody waits for it, and what is not."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from crossdock.config import load
from crossdock.config.running import open_engine
from crossdock.flows.flow import Destination, Rule, Settle
from tests.engine.places import House, flow


async def _opened(home: House, name: str) -> None:
    async with asyncio.timeout(60):
        while not home.places[name].calls["open"]:
            await asyncio.sleep(0.001)


async def test_a_target_is_opened_while_others_are_listed(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not by those who only look, or who find nothing."""
    asked, batches = home.ledger._unknown, 0

    async def unknown(*files: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 2:
            await _opened(home, "dst")
        return await asked(*files)

    assert not (await home.run(flow())).found
    for number in range(501):
        await home.put(f"{number:03}")
    async with home.engine(flow()) as engine:
        await engine.look("f")
        assert home.dst.calls["open"] == 0
        monkeypatch.setattr(home.ledger, "_unknown", unknown)
        assert (await engine.run_once(patience=0)).delivered == 501
    assert (batches, home.dst.calls["open"]) == (2, 1)
    again = await home.run(flow())
    assert (again.listed, again.found, home.dst.calls["open"]) == (501, 0, 1)


@pytest.mark.parametrize("settle", [Settle(seconds=86400.0), Settle(sightings=1, seconds=0.0, marker="{name}.ok")])
async def test_no_target_is_opened_for_what_has_to_wait(home: House, settle: Settle) -> None:
    """A partner's server is not signed in to at each poll of a day."""
    await home.put("a")
    assert (await home.run(flow(settle=settle))).listed == 1
    assert home.dst.calls["open"] == 0


async def test_all_targets_are_opened_while_what_is_new_is_recorded(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a user's own function, too, of which only its answer tells."""
    recorded = home.ledger.add

    async def add(*planned: Any, **more: Any) -> Any:
        await _opened(home, "dst")
        await _opened(home, "dst2")
        return await recorded(*planned, **more)

    await home.put("a.csv")
    await home.put("b")
    own = Rule(name="own", call=lambda entry: f"dst2:{entry.path}")
    monkeypatch.setattr(home.ledger, "add", add)
    assert (await home.run(flow(rules=(Rule(name="csv", glob="*.csv", to=(Destination("dst"),)), own)))).delivered == 2
    assert (home.dst.hold("a.csv"), home.dst2.hold("b")) == (b"data", b"data")


async def test_sources_are_connected_to_while_the_ledger_is_opened(tmp_path: Path) -> None:
    """Here it is locked until somebody has knocked at the source; what was begun ends with the engine."""
    came, gone = asyncio.Event(), asyncio.Event()

    async def at_the_door(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read()
        gone.set()
        writer.close()

    async with asyncio.timeout(60), await asyncio.start_server(at_the_door, "127.0.0.1", 0) as door:
        port = door.sockets[0].getsockname()[1]
        (tmp_path / "crossdock.yaml").write_text(
            "endpoints:\n"
            f"  bank: {{type: sftp, host: 127.0.0.1, port: {port}, user: u}}\n"
            f"  here: {{type: local, root: {tmp_path}}}\n"
            "flows:\n"
            '  f: {source: "bank:", to: "here:{path}"}\n'
        )
        config = load(tmp_path / "crossdock.yaml")
        async with config.new_ledger():
            pass
        holder = sqlite3.connect(tmp_path / "crossdock.db")
        holder.execute("BEGIN EXCLUSIVE")

        async def release() -> None:
            await came.wait()
            holder.rollback()
            holder.close()

        releasing = asyncio.create_task(release())
        async with open_engine(config, sources=["f"]) as engine:
            await releasing
            assert await engine.ledger.counts() == {}
        await gone.wait()
