"""The engine as a daemon: events, and how it stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from crossdock.engine.discovery import Discovery
from crossdock.engine.engine import FileEvent
from crossdock.engine.serving import serve
from crossdock.errors import ConfigError, ConnectionFailed, CrossdockError, LedgerUnavailable
from crossdock.flows.flow import After, Place, Rule, Settle, Trigger
from crossdock.ledger.base import State
from crossdock.storage.base import Entry
from tests.engine.places import House, flow, lost


async def test_an_event_is_acknowledged_when_its_transfers_are_recorded(home: House) -> None:
    await home.put("a")
    acknowledged: list[int] = []

    def acknowledge() -> None:
        acknowledged.append(len(known))

    known: dict[Any, Any] = {}
    async with home.engine(flow()) as engine:
        add = home.ledger.add

        async def recorded(planned: Any, *, who: str) -> Any:
            found = await add(planned, who=who)
            known.update({each.id: each for each in found})
            return found

        home.ledger.add = recorded  # type: ignore[method-assign]
        assert len(await engine.notice(FileEvent("src", "a", acknowledge))) == 1
        assert acknowledged == [1]
        assert await engine.notice(FileEvent("src", "a", acknowledge)) == [], "known: acknowledged, nothing added"
        assert acknowledged == [1, 1]
        home.src.faults["stat"] = [lost("src")]
        with pytest.raises(ConnectionFailed):
            await engine.notice(FileEvent("src", "a", acknowledge))
        assert acknowledged == [1, 1], "who could not look does not acknowledge"


async def test_an_acknowledgement_may_be_a_coroutine_function(home: House) -> None:
    """As clients of queues for asyncio have them: one that is called and not awaited acknowledges nothing."""
    await home.put("a")
    acknowledged: list[str] = []

    async def acknowledge() -> None:
        await asyncio.sleep(0)
        acknowledged.append("a")

    async with home.engine(flow()) as engine:
        assert len(await engine.notice(FileEvent("src", "a", acknowledge))) == 1
        assert acknowledged == ["a"]
        # What a client in threads answers is nothing to wait for.
        await engine.notice(FileEvent("src", "a", lambda: {"deleted": True}))


async def test_an_event_concerns_the_flows_of_its_place(home: House) -> None:
    await home.put("in/a")
    await home.put("in/b")
    other, deeper = flow(name="other", source=Place("dst2")), flow(name="deeper", source=Place("src", "in/deep"))
    acknowledged: list[str] = []
    async with home.engine(flow(source=Place("src", "in")), other, deeper) as engine:
        assert len(await engine.notice(FileEvent("src", "in/a", lambda: acknowledged.append("a")))) == 1
        assert acknowledged == ["a"]
        assert (home.src.calls["stat"], home.dst2.calls["open"]) == (1, 0)
        assert list(await home.transfers()) == [("in/a", "dst")]


async def test_an_event_for_a_file_that_settles_comes_again(home: House) -> None:
    await home.put("a")
    acknowledged: list[str] = []
    event = FileEvent("src", "a", lambda: acknowledged.append("a"))
    async with home.engine(flow(settle=Settle(sightings=2, seconds=10.0))) as engine:
        assert await engine.notice(event) == []
        assert acknowledged == []
        home.clock.move(10)
        assert len(await engine.notice(event)) == 1
        assert acknowledged == ["a"]


@pytest.mark.parametrize(
    ("settle", "other"),
    [
        (Settle(sightings=1, seconds=0.0, marker="{name}.done"), "a.done"),
        (Settle(sightings=1, seconds=0.0, manifest="LIST"), "LIST"),
    ],
    ids=["marker", "manifest"],
)
async def test_an_event_for_what_speaks_of_a_file_moves_that_file(home: House, settle: Settle, other: str) -> None:
    acknowledged: list[str] = []

    def event(path: str) -> FileEvent:
        return FileEvent("src", path, lambda: acknowledged.append(path))

    await home.put("a")
    async with home.engine(flow(settle=settle)) as engine:
        assert await engine.notice(event("a")) == []
        assert acknowledged == [], "it waits for the other one"
        await home.put(other, b"a\n")
        assert len(await engine.notice(event(other))) == 1
        assert await engine.notice(event("a")) == []
        assert acknowledged == [other, "a"]


async def test_an_event_that_a_cap_leaves_for_later_comes_again(home: House) -> None:
    acknowledged: list[str] = []
    for name in ("a", "b", "a.done", "b.done"):
        await home.put(name)
    capped = flow(settle=Settle(sightings=1, seconds=0.0, marker="{name}.done"), max_files=1)
    async with home.engine(capped) as engine:
        event = FileEvent("src", "b.done", lambda: acknowledged.append("b.done"))
        assert len(await engine.notice(event)) == 1
        assert acknowledged == []
        assert len(await engine.notice(event)) == 1
        assert acknowledged == ["b.done"]


async def test_an_event_for_a_file_that_no_rule_can_place_comes_again(
    home: House, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be forgotten where nothing but events starts the flow."""
    acknowledged: list[str] = []

    def call(entry: Entry) -> str:
        raise ZeroDivisionError

    await home.put("a")
    event = FileEvent("src", "a", lambda: acknowledged.append("a"))
    async with home.engine(flow(rules=(Rule(name="mine", call=call, call_name="python:mine"),))) as engine:
        assert await engine.notice(event) == []
    said = "flow f: a: rule mine: python:mine failed for a: ZeroDivisionError: "
    assert caplog.messages == [f"{said} (test_serving.py, line {call.__code__.co_firstlineno + 1})"]
    async with home.engine(flow(unmatched="fail", rules=(Rule(name="other", glob="b"),))) as engine:
        assert await engine.notice(event) == []
    assert acknowledged == []


@pytest.mark.parametrize("daemon", [True, False])
async def test_what_is_archived_is_removed_in_time(home: House, daemon: bool) -> None:
    """By whoever runs the flow, whether there is anything new or not."""
    await home.put("a")
    async with home.engine(flow(after=After(archive=".done", keep=60.0))) as engine, asyncio.timeout(60):
        assert (await engine.run_once(patience=0)).delivered == 1
        assert home.src.hold(".done/a") == b"data"
        home.clock.move(61)
        if daemon:
            stop = asyncio.Event()
            serving = asyncio.create_task(serve(engine, stop))
            while home.src.hold(".done/a") is not None:
                await asyncio.sleep(0.01)
            stop.set()
            await serving
        else:
            assert (await engine.run_once(patience=0)).removed == 1
            assert home.src.hold(".done/a") is None


async def test_a_ledger_that_fails_ends_the_run(home: House) -> None:
    """It has not delivered what there was: nobody may take it for a good one."""

    async def fails(*owner: Any, **more: Any) -> Any:
        raise LedgerUnavailable("full", hint="free some space")

    await home.put("a")
    home.ledger.claim = fails  # type: ignore[method-assign]
    with pytest.raises(LedgerUnavailable, match="full"):
        await home.run(flow())


class Queue:
    def __init__(self, *events: FileEvent) -> None:
        self._events = events

    async def events(self) -> AsyncIterator[FileEvent]:
        for event in self._events:
            yield event


async def test_serve_takes_names_as_run_once_does(home: House) -> None:
    await home.put("a")
    stop, heard = asyncio.Event(), asyncio.Event()
    async with home.engine(flow(name="move")) as engine, asyncio.timeout(60):
        with pytest.raises(ConfigError, match="no flow is called 'nope'"):
            await serve(engine, stop, ["move", "nope"])
        serving = asyncio.create_task(serve(engine, stop, "move", sources=[Queue(FileEvent("src", "a", heard.set))]))
        await heard.wait()
        stop.set()
        await serving
    assert list(await home.transfers()) == [("a", "dst")]


async def test_serve_works_and_stops(home: House) -> None:
    await home.put("a")
    await home.put("b")
    stop, heard = asyncio.Event(), asyncio.Event()
    every = flow(trigger=Trigger(every=3600.0))
    async with home.engine(every) as engine:
        serving = asyncio.create_task(serve(engine, stop, sources=[Queue(FileEvent("src", "b", heard.set))]))
        async with asyncio.timeout(60):
            await heard.wait()
            while not {"a", "b"} <= {*home.dst._files}:
                await asyncio.sleep(0.01)
            stop.set()
            await serving


async def test_the_ledger_is_pruned_each_day_however_often_serving_begins(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that is told every night to read its configuration again."""
    pruned: list[str] = []
    kept = asyncio.Event()
    prune, mark = home.ledger.prune, home.ledger.mark

    async def noted() -> int:
        pruned.append(f"{home.clock():%d}")
        return await prune()

    async def marked(flow: str, kind: str, key: str, **more: Any) -> bool:
        new = await mark(flow, kind, key, **more)
        if kind == "pruned" and not new:
            kept.set()
        return new

    monkeypatch.setattr(home.ledger, "prune", noted)
    monkeypatch.setattr(home.ledger, "mark", marked)
    first = f"{home.clock():%d}"
    async with home.engine(flow()) as engine:
        for day in range(2):
            for again in range(2):
                stop = asyncio.Event()
                serving = asyncio.create_task(serve(engine, stop))
                async with asyncio.timeout(60):
                    while len(pruned) <= day or (again and not kept.is_set()):
                        await asyncio.sleep(0.01)
                    stop.set()
                    await serving
            kept.clear()
            home.clock.move(86400)
    assert len(pruned) == 2, pruned
    assert pruned[0] == first


async def test_serve_finishes_what_is_under_way(home: House) -> None:
    await home.put("a")
    home.dst.gates["commit"] = asyncio.Event()
    stop = asyncio.Event()
    async with home.engine(flow(trigger=Trigger(every=3600.0))) as engine, asyncio.timeout(60):
        serving = asyncio.create_task(serve(engine, stop))
        while not home.dst.calls["commit"]:
            await asyncio.sleep(0.01)
        stop.set()
        # It is heard before the target answers.
        for _ in range(20):
            await asyncio.sleep(0)
        home.dst.gates.pop("commit").set()
        await serving
    assert (await home.state("a"), home.dst.calls["commit"]) == ("done", 1)


async def test_serve_breaks_off_after_its_grace(home: House) -> None:
    await home.put("a")
    home.dst.gates["commit"] = asyncio.Event()
    stop = asyncio.Event()
    async with home.engine(flow(trigger=Trigger(every=3600.0))) as engine:
        serving = asyncio.create_task(serve(engine, stop, grace=0.05))
        async with asyncio.timeout(60):
            while not home.dst.calls["commit"]:
                await asyncio.sleep(0.01)
            stop.set()
            await serving
    transfer = (await home.transfers())["a", "dst"]
    assert (transfer.state, transfer.attempts) == (State.PENDING, 0)
    assert home.dst.hold("a") is None
    home.dst.gates.clear()
    assert (await home.run(flow(trigger=Trigger(every=3600.0)))).delivered == 1, "broken off is not published"
    assert (home.dst.hold("a"), home.dst.staged) == (b"data", [])


@pytest.mark.parametrize("comes_back", [True, False])
async def test_what_is_under_way_outlasts_a_ledger_that_fails(
    home: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, comes_back: bool
) -> None:
    """As long as its lease: a database's server is started anew. It is said, but not each time."""
    monkeypatch.setattr("crossdock.engine.serving._AGAIN", 0.01)
    monkeypatch.setattr("crossdock.engine.serving._HOUSE", 0.01)
    monkeypatch.setattr("crossdock.engine.worker._LOOK_AGAIN", 0.01)
    await home.put("a")
    home.dst.gates["commit"] = asyncio.Event()
    ask, refused = home.ledger._ask, 0

    async def away(*_: Any, **__: Any) -> Any:
        nonlocal refused
        refused += 1
        raise LedgerUnavailable("away", hint="wait")

    stop, fails, heard = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Late(Queue):
        async def events(self) -> AsyncIterator[FileEvent]:
            await fails.wait()
            async for event in super().events():
                yield event

    async with home.engine(flow(trigger=Trigger(every=3600.0)), lease=60.0 if comes_back else 0.4) as engine:
        serving = asyncio.create_task(serve(engine, stop, sources=[Late(FileEvent("src", "a", heard.set))]))
        async with asyncio.timeout(60):
            while not home.dst.calls["commit"]:
                await asyncio.sleep(0.01)
            home.ledger._ask = away  # type: ignore[method-assign]
            fails.set()
            # A short lease may be over sooner than that.
            while refused < 10 and not serving.done():
                await asyncio.sleep(0.01)
            if not comes_back:
                with pytest.raises(LedgerUnavailable):
                    await serving
                assert home.dst.hold("a") is None
                return
            home.ledger._ask = ask  # type: ignore[method-assign]
            await heard.wait()
            home.dst.gates.pop("commit").set()
            while await home.state("a") != "done":
                await asyncio.sleep(0.01)
            assert (await home.transfers())["a", "dst"].attempts == 1
            assert [each.getMessage() for each in caplog.records] == ["away. Next: wait"]
            await home.put("b")
            await engine.discover("f")
            while home.dst.hold("b") is None:
                await asyncio.sleep(0.01)
            stop.set()
            await serving


async def test_a_source_that_is_down_at_its_time_is_looked_at_again(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the next time only, which may be tomorrow."""
    monkeypatch.setattr("crossdock.engine.serving._HOUSE", 0.01)
    await home.put("a")
    home.src.faults["scan"] = [lost("src"), lost("src")]
    said: list[Discovery | CrossdockError] = []
    stop = asyncio.Event()
    async with home.engine(flow(trigger=Trigger(every=3600.0))) as engine:
        serving = asyncio.create_task(serve(engine, stop, looked=lambda name, found: said.append(found)))
        async with asyncio.timeout(60):
            while home.dst.hold("a") is None:
                await asyncio.sleep(0.01)
            stop.set()
            await serving
    assert [type(each) for each in said] == [ConnectionFailed, ConnectionFailed, Discovery]


async def test_what_waiting_does_not_mend_waits_for_the_next_time(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it end the others: a folder that is watched may be wrong in the configuration."""
    monkeypatch.setattr("crossdock.engine.serving._HOUSE", 0.01)
    await home.put("a")
    said: list[str] = []
    stop = asyncio.Event()
    wrong = flow(name="wrong", source=Place("nowhere"), trigger=Trigger(every=3600.0, watch=True))
    async with home.engine(wrong, flow(trigger=Trigger(every=3600.0))) as engine:
        serving = asyncio.create_task(serve(engine, stop, looked=lambda name, found: said.append(name)))
        async with asyncio.timeout(60):
            while home.dst.hold("a") is None:
                await asyncio.sleep(0.01)
            stop.set()
            await serving
    assert sorted(said) == ["f", "wrong"]
