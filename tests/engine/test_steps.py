"""Transforms of files that were planned under another configuration than they are sent under."""

from __future__ import annotations

import gzip
import itertools

import pytest

from crossdock.flows.flow import Destination, Flow, Place, Rule, TransformSpec
from tests.engine.places import House, flow, lost

GZIP = (TransformSpec("gzip"),)
PACKED = Rule(name="packs", glob="*.csv", to=(Destination("dst", "{name}.gz"),), transforms=GZIP)


async def planned(home: House, rule: Rule) -> None:
    """A file is to go by this rule, and its first attempt fails."""
    await home.put("in/a.csv")
    home.dst.faults["write"] = [lost()]
    assert (await home.run(flow(rules=(rule,)))).waiting == 1
    home.clock.move(60)


@pytest.mark.parametrize(
    "now",
    [
        flow(rules=(Rule(name="others", glob="*.txt", to=(Destination("dst"),), transforms=GZIP),)),
        flow(rules=(Rule(name="plain", glob="*.txt", to=(Destination("dst"),)),)),
        flow(rules=(Rule(name="elsewhere", to=(Destination("dst2"),), transforms=GZIP),)),
        flow(rules=(Rule(name="nowhere"), PACKED)),
        flow(rules=(PACKED,), source=Place("src", "out")),
        flow(rules=(PACKED,), source=Place("dst2")),
    ],
    ids=["none matches", "none transforms", "elsewhere", "nowhere", "other folder", "other source"],
)
async def test_what_was_to_be_changed_is_not_sent_as_it_is(home: House, now: Flow) -> None:
    await planned(home, PACKED)
    assert (await home.run(now)).failed == 1
    assert home.dst.hold("a.csv.gz") is None
    transfer = (await home.transfers())["in/a.csv", "dst"]
    assert "was to go through gzip, and is not sent otherwise" in str(transfer.error)
    assert "put the rule back" in str(transfer.error)
    await home.ledger.requeue([transfer.id], who="me", why="the rule is back")
    assert (await home.run(flow(rules=(PACKED,)))).delivered == 1
    assert gzip.decompress(home.dst.hold("a.csv.gz") or b"") == b"data"


@pytest.mark.parametrize("transforms", [(), GZIP], ids=["plain", "gzip"])
async def test_what_was_not_to_be_changed_is_sent_as_it_is(home: House, transforms: tuple[TransformSpec, ...]) -> None:
    """Where it was planned to go; the rule that takes it now is for another endpoint."""
    await planned(home, Rule(name="plain", to=(Destination("dst"),)))
    now = flow(rules=(Rule(name="elsewhere", to=(Destination("dst2"),), transforms=transforms),))
    assert (await home.run(now)).delivered == 1
    assert (home.dst.hold("in/a.csv"), home.dst2.hold("in/a.csv")) == (b"data", None)


async def test_a_function_that_answers_otherwise_each_time(home: House) -> None:
    """It shares the files out, or goes by the hour: its steps are those that the file was to go through."""
    turn = itertools.cycle(["dst", "dst2", "dst"])
    rule = Rule(name="shares", call=lambda entry: f"{next(turn)}:{entry.path}.gz", transforms=GZIP)
    for name in "abcdefgh":
        await home.put(name)
    assert (await home.run(flow(rules=(rule,)))).delivered == 8
    stored = [place.hold(path) or b"" for place in (home.dst, home.dst2) for path in place._files]
    assert [gzip.decompress(data) for data in stored] == [b"data"] * 8


@pytest.mark.parametrize("before", [(), GZIP], ids=["added", "removed"])
async def test_a_rule_that_was_corrected_counts(home: House, before: tuple[TransformSpec, ...]) -> None:
    now = () if before else GZIP
    await planned(home, Rule(name="all", to=(Destination("dst"),), transforms=before))
    corrected = flow(rules=(Rule(name="all", to=(Destination("dst"),), transforms=now),))
    assert (await home.run(corrected)).delivered == 1
    stored = home.dst.hold("in/a.csv") or b""
    assert (gzip.decompress(stored) if now else stored) == b"data"


PLAIN = flow(rules=(Rule(name="texts", glob="*.txt", to=(Destination("dst"),)),))


async def test_another_scheduler_knows_another_configuration(home: House) -> None:
    """It began before the file was planned: what it does not know of is not sent as it is."""
    await home.put("a.csv")
    async with home.engine(PLAIN, owner="old") as old, home.engine(flow(rules=(PACKED,)), owner="new") as new:
        home.clock.move(5)
        await new.discover("f")
        assert (await old.run_once(patience=0.0)).failed == 1
        assert home.dst.hold("a.csv.gz") is None
        await home.ledger.requeue([1], who="me", why="the other one was stopped")
        assert (await new.run_once(patience=0.0)).delivered == 1
    assert gzip.decompress(home.dst.hold("a.csv.gz") or b"") == b"data"


@pytest.mark.parametrize("packed", [False, True])
async def test_a_name_that_is_of_other_steps(home: House, packed: bool) -> None:
    """The rule names what its steps make: under the name of a plan without them, or with others, it is not sent."""
    rules = (Rule(name="plain", to=(Destination("dst"),)), PACKED)
    await planned(home, rules[packed])
    assert (await home.run(flow(rules=(rules[not packed],)))).failed == 1
    assert not home.dst._files
    await home.ledger.requeue([1], who="me", why="the rule is back")
    assert (await home.run(flow(rules=(rules[packed],)))).delivered == 1


async def test_a_name_with_the_time_in_it(home: House) -> None:
    """Goes by the time of the plan: a rule that was corrected counts."""
    to = (Destination("dst", "{now:%H%M}/{name}"),)
    await planned(home, Rule(name="all", to=to))
    home.clock.move(120)
    assert (await home.run(flow(rules=(Rule(name="all", to=to, transforms=GZIP),)))).delivered == 1
    assert gzip.decompress(home.dst.hold("0600/a.csv") or b"") == b"data"
