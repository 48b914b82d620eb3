"""The engine over endpoints that fail: what is tried again, what is not, and what is never done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from crossdock.engine import discovery
from crossdock.engine.engine import FileEvent, LeftAlone
from crossdock.engine.recovery import Record, attempt_id
from crossdock.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectionFailed,
    IntegrityError,
    LedgerUnavailable,
    PermissionDenied,
)
from crossdock.flows.flow import After, Destination, Place, Retry, Rule, Settle, Trigger
from crossdock.ledger.base import State
from crossdock.storage.base import WriteOptions
from crossdock.storage.storage import Storage
from tests.engine.places import House, flow, house

TWO = (Rule(name="all", to=(Destination(endpoint="dst"), Destination(endpoint="dst2"))),)


@pytest.fixture
async def home() -> AsyncIterator[House]:
    async with house() as found:
        yield found


def lost(endpoint: str = "dst") -> ConnectionFailed:
    return ConnectionFailed("lost", operation="write", endpoint=endpoint)


def broken() -> IntegrityError:
    return IntegrityError("write dst:a: other bytes are stored")


# Retries


async def test_delivers_once_and_knows_it(home: House) -> None:
    await home.put("a/b.csv", b"1")
    first = await home.run(flow())
    assert (first.listed, first.found, first.delivered, first.size, first.good) == (1, 1, 1, 1, True)
    again = await home.run(flow())
    assert (again.listed, again.found, again.delivered) == (1, 0, 0)
    assert home.dst.hold("a/b.csv") == b"1"
    await home.put("a/b.csv", b"22")
    assert (await home.run(flow())).delivered == 1
    assert home.dst.hold("a/b.csv") == b"22"


async def test_attempts_are_bounded_and_wait(home: House) -> None:
    await home.put("a")
    home.dst.faults["commit"] = [broken() for _ in range(9)]
    for attempt in (1, 2):
        assert (await home.run(flow())).waiting == 1
        again = await home.run(flow())
        assert (again.waiting, again.delivered, again.good) == (1, 0, False), "not before its wait is over"
        assert (await home.transfers())["a", "dst"].attempts == attempt
        home.clock.move(5.1)
    last = await home.run(flow())
    assert (last.failed, last.good) == (1, False)
    failed = (await home.transfers())["a", "dst"]
    assert failed.state is State.FAILED
    assert "attempt 3 of 3" in (failed.error or "")
    assert home.dst.staged == []
    home.clock.move(86400)
    assert (await home.run(flow())).delivered == 0


async def test_gives_up_after_its_time(home: House) -> None:
    await home.put("a")
    home.dst.faults["commit"] = [broken(), broken()]
    hurried = flow(retry=Retry(attempts=9, give_up=60.0, base=1.0))
    await home.run(hurried)
    home.clock.move(61)
    assert (await home.run(hurried)).failed == 1


async def test_what_is_not_retryable_fails_at_once(home: House) -> None:
    await home.put("a")
    home.dst.faults["write"] = [PermissionDenied("no", operation="write", endpoint="dst", path="a")]
    assert (await home.run(flow())).failed == 1
    assert await home.state("a") == "failed"


async def test_a_failed_commit_is_no_delivery(home: House) -> None:
    """What was announced and then removed by ourselves must not look as if it had been published."""
    await home.put("a", b"1")
    home.dst.faults["commit"] = [broken()]
    await home.run(flow(after=After(delete=True)))
    home.clock.move(6)
    assert (await home.run(flow(after=After(delete=True)))).delivered == 1
    assert (home.dst.hold("a"), home.src.hold("a")) == (b"1", None)


async def test_a_lost_answer_is_no_second_publication(home: House) -> None:
    await home.put("a", b"1")
    home.dst.faults["publish"] = [lost()]
    await home.run(flow())
    assert home.dst.hold("a") == b"1"
    node = home.dst._files["a"]
    home.clock.move(20)
    assert (await home.run(flow())).delivered == 1
    assert home.dst._files["a"] is node, "it was not written again"
    assert ((await home.transfers())["a", "dst"].receipt or {})["method"] == "recovered"


async def test_published_and_taken_is_delivered(home: House) -> None:
    await home.put("a", b"1")
    home.dst.faults["publish"] = [lost()]
    await home.run(flow())
    await Storage(home.dst).delete("a")
    home.clock.move(20)
    assert (await home.run(flow())).delivered == 1
    assert home.dst.hold("a") is None, "the partner took it: it does not come again"


async def test_who_cleans_up_may_fail_as_well(home: House) -> None:
    """The one who removes what a dead worker staged dies too: that it is gone proves nothing."""
    await home.put("a", b"1")
    async with home.engine(flow()) as engine:
        (id,) = (await engine.discover("f")).added
    (lease,) = await home.ledger.claim("dead", lease=1.0)
    attempt = attempt_id(home.ledger.id, id, lease.fence)
    writer = await home.dst.begin_write("a", WriteOptions(attempt=attempt))
    await writer.write(b"1")
    token = writer.checkpoint()
    digest = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    await home.ledger.staged(lease, Record(to="a", token=token, size=1, sha256=digest).dump())
    home.clock.move(2)
    # The second dies between the removal and the next record.
    await Storage(home.dst).discard(token or b"")
    home.dst.faults["discard"] = []
    record = (await home.transfers())["a", "dst"].checkpoint
    assert record is not None
    staged = home.ledger.staged
    order: list[str] = []

    async def watched(lease: Any, checkpoint: bytes | None) -> None:
        order.append("record" if checkpoint is not None else "clear")
        await staged(lease, checkpoint)

    home.ledger.staged = watched  # type: ignore[method-assign]
    writer = await home.dst.begin_write("a", WriteOptions(attempt=attempt))
    await writer.write(b"1")
    home.dst.faults["discard"] = [lost()]
    await home.run(flow())
    assert order[0] == "record"
    after = Record.load((await home.transfers())["a", "dst"].checkpoint)
    assert after is None or after.sha256 is None
    home.clock.move(60)
    assert (await home.run(flow())).delivered == 1
    assert (home.dst.hold("a"), home.dst.staged) == (b"1", [])


async def test_a_lost_wire_is_resumed(home: House) -> None:
    await home.put("a", b"x" * 3_000_000)
    home.dst.faults["commit"] = [lost()]
    await home.run(flow())
    home.clock.move(20)
    assert (await home.run(flow())).delivered == 1
    assert (home.dst.hold("a"), home.dst.staged) == (b"x" * 3_000_000, [])


# Endpoints


async def test_an_endpoint_that_fails_is_left_alone(home: House) -> None:
    """Sixteen attempts that break with one connection are one mishap: a pause of 15 s, not of ten minutes."""
    for number in range(16):
        await home.put(f"{number:02}")
    home.dst.faults["write"] = [lost() for _ in range(16)]
    async with home.engine(flow()) as engine:
        await engine.run_once(patience=0)
        assert 0 < engine.endpoints.pause("dst")[0] <= 15
        home.dst.faults.clear()
        home.clock.move(14)
        assert (await engine.run_once(patience=0)).delivered == 0
    home.clock.move(60)
    assert (await home.run(flow())).delivered == 16
    assert {each.attempts for each in (await home.transfers()).values()} == {1}, "a pause is no attempt"


async def test_a_refused_login_is_not_repeated(home: House) -> None:
    await home.put("a")
    home.dst.faults["write"] = [AuthenticationFailed("no", operation="sign in", endpoint="dst") for _ in range(3)]
    async with home.engine(flow()) as engine:
        await engine.run_once(patience=0)
        home.clock.move(600)
        await engine.run_once(patience=0)
    assert home.dst.calls["write"] == 1
    assert await home.state("a") == "pending"


async def test_a_source_that_is_down_stops_no_other_flow(home: House) -> None:
    await home.put("a")
    other = flow(name="g", source=Place("dst2"))
    home.dst2.faults["scan"] = [lost("dst2") for _ in range(9)]
    async with home.engine(flow(), other) as engine:
        summary = await engine.run_once(patience=0)
        assert (summary.delivered, list(summary.errors), summary.good) == (1, ["g"], False)
        for _ in range(2):
            await engine.run_once(patience=0)
        with pytest.raises(LeftAlone) as caught:
            await engine.look("g")
        assert caught.value.retry_after


# Deciding


async def test_settles_by_sightings_and_time(home: House) -> None:
    await home.put("a")
    slow = flow(settle=Settle(sightings=2, seconds=30.0))
    first = await home.run(slow)
    assert (first.found, first.settling) == (0, 1)
    home.clock.move(29)
    assert (await home.run(slow)).settling == 1
    await home.put("a", b"grown")
    home.clock.move(29)
    assert (await home.run(slow)).settling == 1, "it changed: the time counts anew"
    home.clock.move(30)
    assert (await home.run(slow)).delivered == 1
    assert home.dst.hold("a") == b"grown"


async def test_patience(home: House) -> None:
    """Two sightings are two looks: who is patient need not be called again."""
    await home.put("a")
    twice = flow(settle=Settle(sightings=2, seconds=0.0))
    assert (await home.run(twice, patience=0.0)).settling == 1
    assert (await home.run(twice, patience=2.0)).delivered == 1


async def test_marker_and_manifest_and_temporary_names(home: House) -> None:
    marked = flow(settle=Settle(sightings=1, seconds=0.0, marker="{name}.done"))
    for name in ("a.csv", "b.csv", "c.csv.part", ".~lock", "a.csv.done"):
        await home.put(name)
    assert (await home.run(marked)).delivered == 1
    assert sorted(home.dst._files) == ["a.csv"]
    listed = flow(name="m", settle=Settle(sightings=1, seconds=0.0, manifest="{name}.sums"))
    await home.put("day.sums", b"0" * 64 + b"  b.csv\n")
    assert (await home.run(listed)).delivered == 1
    assert sorted(home.dst._files) == ["a.csv", "b.csv"]


async def test_unmatched_and_clash(home: House) -> None:
    await home.put("a.csv")
    await home.put("x/1.txt")
    await home.put("y/1.txt")
    rules = (Rule(name="texts", glob="**/*.txt", to=(Destination(endpoint="dst", template="{name}"),)),)
    summary = await home.run(flow(rules=rules))
    assert (summary.unmatched, summary.clashes, summary.delivered, summary.good) == (1, 2, 0, False)
    strict = await home.run(flow(rules=rules, unmatched="fail"))
    assert strict.refused == 1


async def test_caps_and_order(home: House) -> None:
    for number in (3, 1, 2):
        await home.put(f"{number}", b"x" * number)
    capped = flow(order="name", max_files=2)
    assert (await home.run(capped)).delivered == 2
    assert sorted(home.dst._files) == ["1", "2"]
    assert [each.transfer.entry.path for each in home.said] == ["1", "2"]
    assert (await home.run(flow(order="name", max_bytes=1))).delivered == 1, "one file is moved, however large"


@pytest.mark.parametrize("mode", ["overwrite", "skip", "fail", "version"])
async def test_on_conflict(home: House, mode: Any) -> None:
    await home.put("a.csv", b"new")
    await Storage(home.dst).write_bytes("a.csv", b"old")
    await home.run(flow(on_conflict=mode))
    there = {path: home.dst.hold(path) for path in home.dst._files}
    expected = {"overwrite": {"a.csv": b"new"}, "version": {"a.csv": b"old", "a~1.csv": b"new"}}
    assert there == expected.get(mode, {"a.csv": b"old"})
    states = {"overwrite": "done", "version": "done", "skip": "skipped", "fail": "failed"}
    assert await home.state("a.csv") == states[mode]


async def test_a_source_that_changed_or_went(home: House) -> None:
    await home.put("a", b"1")
    await home.put("b", b"1")
    async with home.engine(flow(after=After(delete=True))) as engine:
        await engine.discover("f")
        await home.put("a", b"22")
        await Storage(home.src).delete("b")
        await engine.worker(["f"]).run(until_idle=True)
        assert (await home.state("a"), await home.state("b")) == ("skipped", "skipped")
        assert home.src.hold("a") == b"22"
        assert (await engine.run_once(patience=0)).delivered == 1
    assert home.dst.hold("a") == b"22"


async def test_the_source_waits_for_all_destinations(home: House) -> None:
    await home.put("a", b"1")
    home.dst2.faults["commit"] = [broken()]
    both = flow(rules=TWO, after=After(delete=True))
    await home.run(both)
    assert (home.dst.hold("a"), home.dst2.hold("a"), home.src.hold("a")) == (b"1", None, b"1")
    home.clock.move(6)
    await home.run(both)
    assert (home.dst2.hold("a"), home.src.hold("a")) == (b"1", None)


async def test_all_destinations_of_a_file_are_added_together(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that fails between two batches must not leave a file that is known, with half of its destinations."""
    monkeypatch.setattr(discovery, "_BATCH", 3)
    for number in range(4):
        await home.put(f"{number}")
    add = home.ledger.add
    sizes: list[int] = []

    async def failing(planned: Any, *, who: str) -> Any:
        if sizes:
            raise LedgerUnavailable("full")
        sizes.append(len(planned))
        return await add(planned, who=who)

    home.ledger.add = failing  # type: ignore[method-assign]
    with pytest.raises(LedgerUnavailable):
        await home.run(flow(rules=TWO))
    home.ledger.add = add  # type: ignore[method-assign]
    await home.run(flow(rules=TWO))
    assert {*home.dst._files} == {*home.dst2._files} == {"0", "1", "2", "3"}


# Events and the daemon


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


async def test_a_refused_login_of_an_action_is_not_repeated(home: House) -> None:
    await home.put("a")
    tidy = flow(after=After(delete=True), retry=Retry(base=0.0))
    refused = AuthenticationFailed("no", operation="sign in", endpoint="src")
    async with home.engine(tidy) as engine:
        await engine.discover("f")
        home.src.faults["stat"] = [refused for _ in range(9)]
        for _ in range(3):
            home.clock.move(1)
            await engine.worker(["f"]).run(until_idle=True)
        assert len(home.src.faults["stat"]) == 8
        assert engine.endpoints.pause("src")[0] > 0
    home.src.faults.clear()
    home.clock.move(1000)
    await home.run(tidy)
    assert (await home.state("a"), home.src.hold("a")) == ("done", None)


class Queue:
    def __init__(self, *events: FileEvent) -> None:
        self._events = events

    async def events(self) -> AsyncIterator[FileEvent]:
        for event in self._events:
            yield event


async def test_serve_works_and_stops(home: House) -> None:
    await home.put("a")
    await home.put("b")
    stop, heard = asyncio.Event(), asyncio.Event()
    every = flow(trigger=Trigger(every=3600.0))
    async with home.engine(every) as engine:
        serving = asyncio.create_task(engine.serve(stop, sources=[Queue(FileEvent("src", "b", heard.set))]))
        async with asyncio.timeout(10):
            await heard.wait()
            while not {"a", "b"} <= {*home.dst._files}:
                await asyncio.sleep(0.01)
            stop.set()
            await serving


async def test_serve_breaks_off_after_its_grace(home: House) -> None:
    await home.put("a")
    home.dst.gates["commit"] = asyncio.Event()
    stop = asyncio.Event()
    async with home.engine(flow(trigger=Trigger(every=3600.0))) as engine:
        serving = asyncio.create_task(engine.serve(stop, grace=0.05))
        async with asyncio.timeout(10):
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


async def test_an_unknown_flow(home: House) -> None:
    async with home.engine(flow()) as engine:
        with pytest.raises(ConfigError, match="no flow"):
            await engine.look("g")


# Leases


async def test_a_lost_lease_ends_its_attempt(home: House) -> None:
    await home.put("a")
    home.dst.gates["commit"] = asyncio.Event()
    async with home.engine(flow(), lease=0.2) as engine:
        running = asyncio.create_task(engine.run_once(patience=0))
        async with asyncio.timeout(10):
            while not home.dst.calls["commit"]:
                await asyncio.sleep(0.01)
            (id,) = [each.id for each in (await home.transfers()).values()]
            await home.ledger.cancel([id], who="me", why="not wanted")
            summary = await running
    assert (summary.lost, summary.delivered) == (1, 0)
    assert await home.state("a") == "cancelled"
    assert home.dst.hold("a") is None


async def test_heartbeats_keep_a_lease(home: House) -> None:
    await home.put("a")
    home.dst.gates["commit"] = asyncio.Event()
    async with home.engine(flow(), lease=0.2) as engine:
        running = asyncio.create_task(engine.run_once(patience=0))
        async with asyncio.timeout(10):
            for _ in range(6):
                await asyncio.sleep(0.1)
                home.clock.move(0.1)
                assert await home.ledger.claim("thief") == []
            home.dst.gates.pop("commit").set()
            assert (await running).delivered == 1


async def test_the_end_of_an_attempt_is_no_lost_lease(home: House, caplog: pytest.LogCaptureFixture) -> None:
    """A heartbeat that is on its way when its transfer ends finds no lease: nobody has to hear of that."""
    for name in ("a", "b", "c", "d"):
        await home.put(name)
    home.dst.gates["commit"] = asyncio.Event()
    beat, asked, answered = home.ledger.heartbeat, asyncio.Event(), asyncio.Event()
    told: list[str] = []

    async def late(lease: Any, seconds: float) -> Any:
        asked.set()
        await asyncio.sleep(0.2)
        try:
            return await beat(lease, seconds)
        finally:
            answered.set()

    home.ledger.heartbeat = late  # type: ignore[method-assign, assignment]
    async with home.engine(flow(), lease=0.2) as engine, asyncio.timeout(10):
        await engine.discover("f")
        worker = engine.worker(["f"], report=lambda delivery: told.append(delivery.what))
        running = asyncio.create_task(worker.run())
        await asked.wait()
        home.dst.gates.pop("commit").set()
        await answered.wait()
        worker.stop()
        await running
    assert told == ["delivered"] * 4
    assert not caplog.records


async def test_a_clock_that_jumps_ahead_is_no_second_publication(home: House) -> None:
    """Our own leases have ended by it: the older attempt is over before its successor begins."""
    for name in ("a", "b"):
        await home.put(name)
    home.dst.gates["commit"] = asyncio.Event()
    async with home.engine(flow(), transfers=4) as engine:
        running = asyncio.create_task(engine.run_once(patience=0))
        async with asyncio.timeout(10):
            while home.dst.calls["commit"] < 2:
                await asyncio.sleep(0.01)
            home.clock.move(7200)
            engine.worker(["f"])
            await home.put("c")
            await asyncio.sleep(0.1)
            home.dst.gates.pop("commit").set()
            await running
    published = home.dst.calls["publish"]
    assert (published, {*home.dst._files}) == (2, {"a", "b"})


async def test_suspects_run_alone() -> None:
    """Who was at work beside a file that kills its workers does not fail with it."""
    async with house() as home:
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
