"""Files that are delivered and taken away while somebody looks at their source."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from crossdock.engine.explaining import explain
from crossdock.errors import NotFound
from crossdock.flows.explain import what_next
from crossdock.flows.flow import After, Destination, Place, Retry, Rule
from crossdock.ledger.base import Query, State
from crossdock.storage.base import Entry
from tests.engine.places import House, broken, flow, lost

GONE = flow(after=After(delete=True))
BOTH = Rule(name="all", to=(Destination(endpoint="dst"), Destination(endpoint="dst2")))


@asynccontextmanager
async def listed(home: House, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[asyncio.Event, asyncio.Event]]:
    """The first event comes when the source was listed; the ledger is asked about it after the second."""
    here, go = asyncio.Event(), asyncio.Event()
    ask = home.ledger.unknown

    async def late(flow: str, source: str, entries: AsyncIterable[Entry]) -> AsyncGenerator[Entry]:
        found = [entry async for entry in entries]
        here.set()
        await go.wait()

        async def again() -> AsyncGenerator[Entry]:
            for entry in found:
                yield entry

        async for entry in ask(flow, source, again()):
            yield entry

    with monkeypatch.context() as patched:
        patched.setattr(home.ledger, "unknown", late)
        yield here, go


async def test_a_look_that_lists_what_is_taken_away_meanwhile(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """By this process: it is not taken for a file that came back."""
    await home.put("a")
    async with home.engine(GONE) as engine:
        await engine.discover("f")
        async with listed(home, monkeypatch) as (here, go):
            looking = asyncio.create_task(engine.discover("f"))
            await here.wait()
            await engine.worker(["f"]).run(until_idle=True)
            go.set()
            assert (await looking).added == []
        assert await home.state("a") == "done"
        await home.put("a")
        assert len((await engine.discover("f")).added) == 1, "it did come back"


async def test_a_look_of_another_process(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its transfer ends with what has really become of the file."""
    await home.put("a")
    async with home.engine(GONE) as engine, home.engine(GONE) as other:
        (first,) = (await engine.discover("f")).added
        async with listed(home, monkeypatch) as (here, go):
            looking = asyncio.create_task(other.discover("f"))
            await here.wait()
            await engine.worker(["f"]).run(until_idle=True)
            go.set()
            (second,) = (await looking).added
        await other.worker(["f"]).run(until_idle=True)
        found = await home.ledger.get(second)
        assert found is not None
        assert (found.state, found.why) == (
            State.SKIPPED,
            f"the source is gone: transfer {first} had delivered it and taken it away; it was listed just before",
        )
        assert home.dst.calls["commit"] == 1


async def test_a_file_that_its_owner_took_back(home: House) -> None:
    await home.put("a")
    async with home.engine(GONE) as engine:
        (id,) = (await engine.discover("f")).added
        await home.src.delete("a")
        await engine.worker(["f"]).run(until_idle=True)
        found = await home.ledger.get(id)
        assert found is not None
        assert (found.state, found.why) == (State.SKIPPED, "the source is gone: its owner took it back")
        again = "tried again by a look that finds the file as it was"
        assert what_next(found, home.clock()) == again
        assert what_next(replace(found, added=found.added - timedelta(days=2)), home.clock()) == (
            f"{again}, in 60 min or later; at once: crossdock transfers retry {id}"
        )


@pytest.mark.parametrize("minutes", [1, 60 * 24 * 20])
async def test_a_file_that_is_put_back_as_it_was(home: House, minutes: int) -> None:
    """It was put aside, or its mount was missing, just when its turn came: after a minute, or after days of retries."""
    await home.put("a", b"1")
    async with home.engine(flow(rules=(BOTH,))) as engine:
        await engine.discover("f")
        home.clock.move(60 * minutes)
        file = home.src._files.pop("a")
        await engine.run_once()
        assert {each.state for each in (await home.transfers()).values()} == {State.SKIPPED}
        home.src._files["a"] = file
        (told, _) = (await explain(engine, "f", "a")).next()
        assert re.fullmatch(r"transfer 1 to dst: is tried again in (60 s|60 min): the file is there as it was", told)
        del home.src._files["a"]
        home.clock.move(3600)
        assert not (await engine.discover("f")).back, "it is not there"
        home.src._files["a"] = file
        (told, _) = (await explain(engine, "f", "a")).next()
        assert told == "transfer 1 to dst: is tried again: the file is there as it was"
        assert (await engine.run_once()).delivered == 2
        assert (home.dst.hold("a"), home.dst2.hold("a")) == (b"1", b"1")
        assert not (await engine.discover("f")).back


async def test_a_file_that_is_replaced_for_a_while(home: House) -> None:
    """Just when its turn came."""
    await home.put("a", b"1")
    async with home.engine(GONE) as engine:
        await engine.discover("f")
        file = home.src._files["a"]
        await home.put("a", b"two")
        await engine.worker(["f"]).run(until_idle=True)
        assert await home.state("a") == "skipped"
        home.src._files["a"] = file
        assert (await engine.run_once()).delivered == 1
    assert (home.dst.hold("a"), home.src.hold("a")) == (b"1", None)


async def test_a_file_that_is_back_after_days_is_tried_as_long_as_a_new_one(home: House) -> None:
    """And one that failed, and was made to be tried again."""
    await home.put("a", b"1")
    await home.put("b", b"1")
    tried = flow(retry=Retry(attempts=3, give_up=86400.0, base=5.0, longest=5.0))
    home.dst.faults["commit"] = [broken() for _ in range(3)]
    async with home.engine(tried) as engine:
        await engine.discover("f")
        file = home.src._files.pop("a")
        for _ in range(4):
            await engine.run_once(patience=0)
            home.clock.move(60)
        assert (await home.state("a"), await home.state("b")) == ("skipped", "failed")
        home.clock.move(3 * 86400)
        home.src._files["a"] = file
        await home.ledger.requeue([(await home.transfers())["b", "dst"].id], who="me", why="by hand")
        home.dst.faults["commit"] = [broken() for _ in range(4)]
        for _ in range(3):
            await engine.run_once(patience=0)
            home.clock.move(60)
    assert (await home.state("a"), await home.state("b")) == ("done", "done")


@pytest.mark.parametrize("meanwhile", [None, b"two"], ids=["put aside", "replaced"])
async def test_a_source_waits_for_the_destination_that_missed_it(home: House, meanwhile: bytes | None) -> None:
    """The file was away for a moment. It is not taken away for good as soon as the other destination has it."""
    await home.put("a", b"1")
    home.dst2.faults["open"] = [lost("dst2")]
    async with home.engine(flow(rules=(BOTH,), after=After(delete=True))) as engine:
        await engine.discover("f")
        file = home.src._files.pop("a")
        if meanwhile is not None:
            await home.put("a", meanwhile)
        await engine.worker(["f"]).run(until_idle=True)
        assert (await home.state("a", "dst"), await home.state("a", "dst2")) == ("skipped", "pending")
        home.src._files["a"] = file
        home.clock.move(60)
        await engine.worker(["f"]).run(until_idle=True)
        assert (home.dst.hold("a"), home.dst2.hold("a"), home.src.hold("a")) == (None, b"1", b"1")
        assert (await engine.run_once()).delivered == 1
    assert (home.dst.hold("a"), home.dst2.hold("a"), home.src.hold("a")) == (b"1", b"1", None)


async def test_a_file_that_is_listed_and_never_there(home: House) -> None:
    """It is asked for less and less often, and once an hour in the end."""
    await home.put("a")
    home.src.faults["read"] = [NotFound("no", operation="read", endpoint="src", path="a") for _ in range(1000)]
    async with home.engine(flow()) as engine:
        for _ in range(60 * 10):
            await engine.run_once()
            home.clock.move(60)
    assert 10 < home.src.calls["read"] < 20
    assert await home.state("a") == "skipped"


async def test_a_file_that_is_put_back_after_another_was_delivered(home: House) -> None:
    """As it was, again and again: the target has the other one by then."""
    await home.put("a", b"1")
    first = home.src._files["a"]
    await home.put("a", b"two")
    second = home.src._files["a"]
    async with home.engine(flow()) as engine:
        for file in (first, second) * 3:
            home.src._files["a"] = file
            assert (await engine.run_once()).delivered == 1
            assert home.dst.hold("a") == bytes(file.data)
            assert (await engine.run_once()).found == 0


async def test_a_file_that_is_put_back_while_a_destination_is_down(home: House) -> None:
    """The other one has had both by then, and gets the first once more."""
    home.dst2.faults["open"] = [lost("dst2") for _ in range(100)]
    await home.put("a", b"1")
    first = home.src._files["a"]
    async with home.engine(flow(rules=(BOTH,), after=After(delete=True))) as engine:
        await engine.run_once()
        await home.put("a", b"two")
        await engine.run_once()
        assert home.dst.hold("a") == b"two"
        home.src._files["a"] = first
        home.clock.move(60)
        await engine.run_once()
    home.dst2.faults.clear()
    home.clock.move(700)
    await home.run(flow(rules=(BOTH,), after=After(delete=True)))
    assert (home.dst.hold("a"), home.dst2.hold("a"), home.src.hold("a")) == (b"1", b"1", None)


async def test_what_was_put_back_is_not_taken_away_for_an_earlier_delivery(home: House) -> None:
    """Which still owes something of its own, after its sibling took the file away."""
    home.dst.faults["open"] = [lost()]
    await home.put("a", b"1")
    file = home.src._files["a"]
    taking = flow(rules=(BOTH,), after=After(delete=True, marker="{name}.done"))
    strike = home.dst2.strike

    async def fails(operation: str) -> None:
        if operation == "write" and home.dst2.hold("a") is not None:
            raise lost("dst2")
        await strike(operation)

    home.dst2.strike = fails  # type: ignore[method-assign]
    async with home.engine(taking) as engine:
        await engine.run_once()
        assert await home.state("a", "dst2") == "delivered"
        home.clock.move(60)
        await engine.run_once()
        assert (await home.state("a", "dst2"), home.src.hold("a")) == ("delivered", None)
        home.dst2.strike = strike  # type: ignore[method-assign]
        home.src._files["a"] = file
        home.clock.move(60)
        await engine.worker(["f"]).run(until_idle=True)
        assert (home.dst2.hold("a.done"), home.src.hold("a")) == (b"", b"1")
        assert (await engine.run_once()).delivered == 2
    assert home.src.hold("a") is None


async def test_a_source_that_is_gone_as_a_whole_says_nothing_of_its_files(home: House) -> None:
    """As a mount that is missing for a while: the transfer waits, as no owner took the file back."""
    await home.put("in/a")
    there = flow(source=Place("src", "in"))
    async with home.engine(there) as engine:
        await engine.discover("f")
        folders, files = set(home.src._folders), dict(home.src._files)
        await home.src.delete("in/a")
        await home.src.remove_dir("in")
        worker = engine.worker(["f"])
        await worker.run(until_idle=True)
        (found,) = await home.ledger.find(Query())
        assert (found.state, [each.what for each in home.said]) == (State.PENDING, ["retry"])
        assert "read src:in/a: no such file" in found.why
        home.src._folders |= folders
        home.src._files.update(files)
        home.clock.move(20)
        assert (await engine.run_once(patience=0)).delivered == 1
    assert home.dst.hold("a") == b"data"
