"""Endpoints that are left alone for a while, being down or refusing a login: what waits for them, and what goes on."""

from __future__ import annotations

import pytest

from crossdock.engine.engine import LeftAlone
from crossdock.errors import AuthenticationFailed
from crossdock.flows.flow import After, Destination, Place, Retry, Rule
from crossdock.storage.shared import SharedReads
from tests.engine.places import House, flow, lost


async def test_of_what_is_left_alone_the_next_step_is_the_one_of_what_failed(home: House) -> None:
    """Not a second one, that it should be up."""
    async with home.engine(flow()) as engine:
        engine.endpoints.failed("src", AuthenticationFailed("no", operation="sign in", endpoint="src"))
        with pytest.raises(LeftAlone) as caught:
            await engine.look("f")
        said = "src is left alone after: sign in src: no. Next: check who signs in, and with which secret"
        assert str(caught.value) == f"list src: {said}"
        assert engine.endpoints.pause("src", "dst")[1] == said, "for the ledger"


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


async def test_a_refused_login_is_not_repeated(home: House) -> None:
    await home.put("a")
    home.dst.faults["write"] = [AuthenticationFailed("no", operation="sign in", endpoint="dst") for _ in range(3)]
    async with home.engine(flow()) as engine:
        await engine.run_once(patience=0)
        home.clock.move(600)
        await engine.run_once(patience=0)
    assert home.dst.calls["write"] == 1
    assert await home.state("a") == "pending"


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


async def test_what_is_refused_for_a_wrong_clock_is_soon_tried_again(home: House) -> None:
    """No account is locked for that, and the clock is set within seconds of a machine's start."""
    await home.put("a")
    wrong = AuthenticationFailed("the clock", operation="write", endpoint="dst", retry_after=60.0)
    home.dst.faults["write"] = [wrong]
    await home.run(flow())
    assert await home.state("a") == "pending"
    home.clock.move(66)
    assert (await home.run(flow())).delivered == 1


async def test_nothing_is_kept_for_a_destination_that_is_left_alone(home: House) -> None:
    """What was read for it as well would be given to whoever reads a file of that name later, and fill the memory."""
    both = Rule(name="all", to=(Destination(endpoint="dst"), Destination(endpoint="dst2")))
    home.dst2.faults["write"] = [AuthenticationFailed("no", operation="sign in", endpoint="dst2")] * 9
    async with home.engine(flow(rules=(both,)), transfers=2) as engine:
        for name in ("a", "b", "c"):
            await home.put(name)
            await engine.run_once(patience=0.0)
            assert await home.state(name) == "done"
            assert await home.state(name, "dst2") == "pending"
        source = (await engine.endpoints.storage("src")).backend
        assert isinstance(source, SharedReads)
        assert not source.sharing


async def test_what_waits_for_a_destination_fills_no_ledger(home: House) -> None:
    """All that waited was claimed and given back each time, two lines of history for each: gigabytes in a day."""
    for number in range(60):
        await home.put(f"{number:02}")
    home.dst.faults["write"] = [AuthenticationFailed("no", operation="sign in", endpoint="dst")] * 99
    async with home.engine(flow(), transfers=2) as engine:
        summary = await engine.run_once(patience=0.0)
        assert (summary.delivered, summary.waiting) == (0, 60 - summary.failed)
    rows = (await home.transfers()).values()
    assert all("dst" in each.why and each.ready for each in rows)
    assert sum([len(await home.ledger.history(each.id)) for each in rows]) < 60 + 12
    home.dst.faults["write"] = []
    home.clock.move(1000)
    assert (await home.run(flow())).delivered == 60 - summary.failed
