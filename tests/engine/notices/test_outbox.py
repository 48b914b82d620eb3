"""Notices that nobody takes wait in the ledger, and hold nothing up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from crossdock.engine.notices.notice import Notice, NotificationFailed, channel_of
from crossdock.engine.notices.outbox import OUTBOX, Outbox
from crossdock.errors import ConfigError, PermissionDenied
from crossdock.flows.flow import Flow, Mail, Place, Rule, Webhook
from crossdock.ledger.sqlite import SqliteLedger
from tests.engine.clocks import Clock
from tests.engine.places import House, lost
from tests.engine.places import flow as engine_flow

HOOK = Webhook(url="https://hooks.example/a", on=frozenset({"delivered", "late"}))
MAIL = Mail(to=("ops@example.com",), sender="a@example.com", host="mail.example", on=frozenset({"late"}))
FLOW = Flow(name="statements", source=Place("bank"), rules=(Rule(name="rules[0]"),), webhooks=(HOOK,), mails=(MAIL,))


class Post:
    """Takes what it is sent, or fails as it is told."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str]] = []
        self.tries = 0
        self.errors: dict[str, Exception] = {}

    async def __call__(self, to: Webhook | Mail, notice: Notice) -> None:
        self.tries += 1
        kind = channel_of(to).partition("-")[0]
        await asyncio.sleep(0)
        if kind in self.errors:
            raise self.errors[kind]
        self.taken.append((kind, notice.id))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def post() -> Post:
    return Post()


@pytest.fixture
async def ledger(tmp_path: Path, clock: Clock) -> AsyncIterator[SqliteLedger]:
    async with SqliteLedger(tmp_path / "crossdock.db", clock=clock.seconds) as ledger:
        yield ledger


def outbox(ledger: SqliteLedger, clock: Clock, post: Post, flow: Flow = FLOW) -> Outbox:
    return Outbox(flow, ledger, clock=clock, send=post)


def notice(clock: Clock, id: str = "n1", kind: str = "late") -> Notice:
    return Notice(id=id, kind=kind, flow="statements", at=clock(), text="text \udcff", data={"a": [1]})  # type: ignore[arg-type]


async def test_one_receiver_that_is_written_twice(ledger: SqliteLedger, clock: Clock, post: Post) -> None:
    """The second entry, for another kind, does not take the first one's place."""
    mails = tuple(replace(MAIL, on=frozenset({kind})) for kind in ("failed", "late"))
    hooks = tuple(replace(HOOK, on=frozenset({kind})) for kind in ("delivered", "late"))
    found = outbox(ledger, clock, post, replace(FLOW, mails=mails, webhooks=hooks))
    assert [len(found.wanted(kind)) for kind in ("delivered", "failed", "late")] == [1, 1, 2]


def down(retry_after: float | None = None) -> NotificationFailed:
    return NotificationFailed("down", retryable=True, hint="wait", retry_after=retry_after)


async def kept(ledger: SqliteLedger) -> int:
    return len(await ledger.marks("statements", OUTBOX))


async def test_who_wants_it_is_told_at_once(ledger: SqliteLedger, clock: Clock, post: Post) -> None:
    box = outbox(ledger, clock, post)
    assert await box.tell(notice(clock)) == ["the webhook was told", "ops@example.com by mail was told"]
    assert await box.tell(notice(clock, "n2", "delivered")) == ["the webhook was told"]
    assert await box.tell(notice(clock, "n3", "failed")) == []
    assert post.taken == [("webhook", "n1"), ("mail", "n1"), ("webhook", "n2")]
    assert await kept(ledger) == 0


async def test_only_who_was_not_told_is_told_again(ledger: SqliteLedger, clock: Clock, post: Post) -> None:
    post.errors["webhook"] = down()
    box = outbox(ledger, clock, post)
    assert await box.tell(notice(clock)) == ["the webhook is told later", "ops@example.com by mail was told"]
    del post.errors["webhook"]
    assert await box.flush() == 0
    clock.move(16)
    assert await box.flush() == 1
    assert post.taken == [("mail", "n1"), ("webhook", "n1")]
    assert (await kept(ledger), await box.flush()) == (0, 0)


async def test_a_receiver_that_is_down_is_not_asked_for_each(ledger: SqliteLedger, clock: Clock, post: Post) -> None:
    """Once, then after 15 s, 30 s, …, at most every 15 minutes; and then all."""
    post.errors["webhook"] = down()
    box = outbox(ledger, clock, post)
    for number in range(50):
        await box.tell(notice(clock, f"n{number:02}", "delivered"))
    assert post.tries == 1
    times = []
    for _ in range(2 * 1440):
        clock.move(5)
        before = post.tries
        await box.flush()
        if post.tries > before:
            assert post.tries == before + 1
            times.append(clock.now)
    waits = [(after - before).total_seconds() for before, after in pairwise(times)]
    assert waits[:6] == [30, 60, 120, 240, 480, 900]
    assert set(waits[6:]) == {900}
    post.errors.clear()
    clock.move(900)
    assert await box.flush() == 50
    assert sorted(id for _, id in post.taken) == [f"n{number:02}" for number in range(50)]


async def test_a_slow_receiver_holds_up_nothing(ledger: SqliteLedger, clock: Clock) -> None:
    """After one late answer it is told by `flush` only, which has other things to do as well."""
    seconds, told = 0.0, 0

    async def slowly(to: Webhook | Mail, notice: Notice) -> None:
        nonlocal seconds, told
        seconds, told = seconds + 8.0, told + 1

    flow = replace(FLOW, mails=())
    box = Outbox(flow, ledger, clock=clock, send=slowly, timer=lambda: seconds)
    for number in range(10):
        await box.tell(notice(clock, f"n{number}"))
    assert (told, await kept(ledger)) == (1, 9)
    assert await box.flush() == 4, "for half a minute"
    assert await box.flush() == 4
    assert await box.flush() == 1

    async def at_once(to: Webhook | Mail, notice: Notice) -> None:
        nonlocal told
        told += 1

    box._send = at_once
    await box.tell(notice(clock, "later"))
    assert (told, await kept(ledger)) == (10, 1), "it may still be slow"
    await box.flush()
    await box.tell(notice(clock, "last"))
    assert (told, await kept(ledger)) == (12, 0), "it is not"


async def test_the_receivers_own_pause_is_kept(ledger: SqliteLedger, clock: Clock, post: Post) -> None:
    post.errors["webhook"] = down(retry_after=3600)
    box = outbox(ledger, clock, post)
    await box.tell(notice(clock, kind="delivered"))
    post.errors.clear()
    clock.move(3590)
    assert await box.flush() == 0
    clock.move(10)
    assert await box.flush() == 1


async def test_a_receiver_that_takes_one_at_a_time(
    ledger: SqliteLedger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As chat services do: it says when the next one may come, which is waited for, and is no failure that adds up."""
    monkeypatch.setattr("crossdock.engine.notices.outbox._LEAST_PAUSE", 0.001)
    taken: list[str] = []
    tries = 0

    async def sparingly(to: Webhook | Mail, notice: Notice) -> None:
        nonlocal tries
        tries += 1
        if tries % 2:
            raise down(retry_after=0)
        taken.append(notice.id)

    box = Outbox(replace(FLOW, mails=()), ledger, clock=clock, send=sparingly)
    for number in range(16):
        await box.put(notice(clock, f"n{number:02}"))
    assert [await box.flush() for _ in range(5)] == [8, 4, 2, 1, 0]
    assert (await box.flush(), await kept(ledger)) == (1, 0)
    assert len(set(taken)) == len(taken) == 16


async def test_one_that_is_never_taken_holds_up_no_other(ledger: SqliteLedger, clock: Clock) -> None:
    taken: list[str] = []

    async def choosily(to: Webhook | Mail, notice: Notice) -> None:
        if notice.id in ("n00", "n01"):
            raise down()
        taken.append(notice.id)

    box = Outbox(replace(FLOW, mails=()), ledger, clock=clock, send=choosily)
    for number in range(10):
        await box.put(notice(clock, f"n{number:02}"))
    for _ in range(3):
        await box.flush()
        clock.move(61)
    assert taken == [f"n{number:02}" for number in range(2, 10)]
    await box.put(notice(clock, "n00new"))
    await box.flush()
    assert (taken[-1], await kept(ledger)) == ("n00new", 2)


@pytest.mark.parametrize(
    "error", [NotificationFailed("refused with 410", retryable=False, hint="wait"), ConfigError("no secret")]
)
async def test_what_is_refused_for_good_is_not_kept(
    ledger: SqliteLedger, clock: Clock, post: Post, error: Exception
) -> None:
    post.errors["webhook"] = error
    box = outbox(ledger, clock, post)
    assert await box.tell(notice(clock, kind="delivered")) == [f"the webhook was not told: {error}"]
    await box.put(notice(clock, "n2"))
    assert await kept(ledger) == 2
    assert await box.flush() == 1
    assert (await kept(ledger), post.taken) == (0, [("mail", "n2")])


async def test_it_is_given_up_after_days(ledger: SqliteLedger, clock: Clock, post: Post) -> None:
    post.errors["webhook"] = down()
    box = outbox(ledger, clock, post)
    await box.tell(notice(clock, kind="delivered"))
    clock.move(3 * 86400 - 60)
    await box.flush()
    assert await kept(ledger) == 1
    clock.move(3600)
    await box.flush()
    assert await kept(ledger) == 0


async def test_a_receiver_that_is_no_longer_in_the_flow(ledger: SqliteLedger, clock: Clock, post: Post) -> None:
    await outbox(ledger, clock, post).put(notice(clock))
    other = Flow(name="statements", source=Place("bank"), rules=FLOW.rules, mails=(MAIL,))
    assert await outbox(ledger, clock, post, other).flush() == 1
    assert (await kept(ledger), post.taken) == (0, [("mail", "n1")])


async def test_what_is_put_outlives_the_process_and_is_put_once(tmp_path: Path, clock: Clock, post: Post) -> None:
    path = tmp_path / "crossdock.db"
    async with SqliteLedger(path, clock=clock.seconds) as ledger:
        for _ in range(3):
            await outbox(ledger, clock, post).put(notice(clock))
    async with SqliteLedger(path, clock=clock.seconds) as ledger:
        assert await outbox(ledger, clock, post).flush() == 2
    assert sorted(post.taken) == [("mail", "n1"), ("webhook", "n1")]


async def test_two_processes_do_not_send_one_at_once(tmp_path: Path, clock: Clock, post: Post) -> None:
    path = tmp_path / "crossdock.db"
    async with SqliteLedger(path, clock=clock.seconds) as one, SqliteLedger(path, clock=clock.seconds) as two:
        for number in range(20):
            await outbox(one, clock, post).put(notice(clock, f"n{number}", "delivered"))
        sent = await asyncio.gather(*(outbox(ledger, clock, post).flush() for ledger in (one, two)))
        assert sum(sent) == 20
        assert len(set(post.taken)) == len(post.taken) == 20


async def test_who_died_while_sending_is_replaced(ledger: SqliteLedger, clock: Clock, post: Post) -> None:
    box = outbox(ledger, clock, post)
    await box.put(notice(clock, kind="delivered"))
    (mark,) = await ledger.marks("statements", OUTBOX)
    # As a process leaves it that is killed in the middle.
    await ledger.mark("statements", "outbox.sending", mark.key)
    assert await box.flush() == 0
    clock.move(601)
    assert await box.flush() == 1


async def test_one_mishap_is_one_failure(ledger: SqliteLedger, clock: Clock, post: Post) -> None:
    """Notices that were under way together when the receiver went away do not add up to a long pause."""
    post.errors["webhook"] = NotificationFailed("the receiver is down", retryable=True, hint="wait")
    box = outbox(ledger, clock, post)
    notices = [Notice(id=str(n), kind="delivered", flow="statements", at=clock(), text="", data={}) for n in range(16)]
    await asyncio.gather(*(box.tell(notice) for notice in notices))
    assert post.tries == 16
    post.errors.clear()
    clock.move(16)
    assert await box.flush() == 16


async def test_a_mishap_of_many_files_is_no_mail_for_each(ledger: SqliteLedger, clock: Clock) -> None:
    """A few at once, the rest together; a webhook, which is read by programs, is told of each."""
    mails: list[Notice] = []
    hooks: list[Notice] = []

    async def send(to: Webhook | Mail, found: Notice) -> None:
        (mails if isinstance(to, Mail) else hooks).append(found)

    found = Outbox(FLOW, ledger, clock=clock, send=send)
    for number in range(250):
        await found.tell(replace(notice(clock, f"n{number:03}"), text=f"file {number} failed"))
    assert (len(mails), len(hooks)) == (5, 250)
    assert await found.flush() == 245
    assert [len(mail.data) for mail in mails[5:]] == [100, 100, 45]
    told = [mail.text for mail in mails[:5]] + [text for mail in mails[5:] for text in mail.data.values()]
    assert sorted(told) == sorted(f"file {number} failed" for number in range(250))
    assert mails[5].text == "100 notices; the first: file 5 failed"
    assert len({mail.id for mail in mails}) == len(mails)
    assert (await kept(ledger), await found.flush()) == (0, 0)


@pytest.mark.parametrize("number", [3, 6])
async def test_mails_that_nobody_took_come_together(
    ledger: SqliteLedger, clock: Clock, post: Post, number: int
) -> None:
    """If they are more than a few."""
    found = outbox(ledger, clock, post, replace(FLOW, webhooks=()))
    post.errors["mail"] = down()
    for each in range(number):
        await found.tell(notice(clock, f"n{each}"))
    clock.move(16)
    assert (await found.flush(), await kept(ledger)) == (0, number)
    post.errors.clear()
    clock.move(60)
    assert (await found.flush(), await kept(ledger)) == (number, 0)
    assert post.taken == ([("mail", "n0-and-5")] if number == 6 else [("mail", f"n{each}") for each in range(number)])


async def test_a_transfer_that_fails_is_told(home: House, post: Post) -> None:
    """And one that is tried again is not."""
    await home.put("a")
    failing = engine_flow(webhooks=(replace(HOOK, on=frozenset({"failed"})),))
    home.dst.faults["write"] = [lost(), PermissionDenied("no", operation="write", endpoint="dst")]
    async with home.engine(failing) as engine:
        engine._actions["f"].outbox._send = post
        assert (await engine.run_once(patience=0)).waiting == 1
        assert post.taken == []
        home.clock.move(60)
        assert (await engine.run_once(patience=0)).failed == 1
    assert [who for who, _ in post.taken] == ["webhook"]
