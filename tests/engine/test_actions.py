"""What follows a delivery, at real endpoints: once, repeated after a crash at any point, and next to newer files."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossdock.engine.actions import Actions
from crossdock.engine.disposal import ARCHIVED
from crossdock.engine.endpoints import Endpoints
from crossdock.engine.notice import Notice, NotificationFailed
from crossdock.errors import ConnectionFailed, CrossdockError, PermissionDenied, Unsupported
from crossdock.flows.flow import After, Flow, Mail, Place, Rule, Settle, Webhook
from crossdock.ledger.base import Lease, Planned, State
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.storage.base import Backend, Entry
from crossdock.storage.layers import Layer
from crossdock.storage.local import LocalBackend
from crossdock.storage.retry import Retry
from crossdock.storage.sftp.settings import SftpSettings
from crossdock.storage.storage import Storage
from tests.engine.clocks import Clock
from tests.servers import OpenSSH
from tests.storage.s3_places import AT_ONCE, BotoPeer, Server, bucket
from tests.storage.s3_places import backend as s3_backend

PLACES = ["local", "openssh", "ceph", "moto"]
DAY = 86400.0


class Killed(BaseException):
    """As if the process ended here."""


class Fragile(Layer):
    """Dies before or after the n-th call that changes or looks at something; lets somebody in at that moment."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.calls: list[str] = []
        self.die_at: tuple[int, str] | None = None
        self.deadly: BaseException = Killed()
        self.intrude: dict[tuple[str, str], Any] = {}
        """(operation, "before" | "after") → what somebody else does then, once."""

    async def open(self) -> None:
        await self.inner.open()

    async def _call(self, operation: str, path: str, action: Any, *, repeatable: bool) -> Any:
        self.calls.append(operation)
        number = len(self.calls)
        if self.die_at == (number, "before"):
            raise self.deadly
        await self._let_in(operation, "before")
        found = await action()
        await self._let_in(operation, "after")
        if self.die_at == (number, "after"):
            raise self.deadly
        return found

    async def _let_in(self, operation: str, when: str) -> None:
        visitor = self.intrude.pop((operation, when), None)
        if visitor is not None:
            await visitor()


class Bench:
    """One flow between two endpoints, and the steps of its transfers."""

    def __init__(self, source: Fragile, target: Path, ledger: SqliteLedger, clock: Clock) -> None:
        self.fragile, self.ledger, self.clock = source, ledger, clock
        self.storage = Storage(source)
        self.plain = Storage(source.inner)
        self.target = target
        self.sent: list[tuple[str, Notice]] = []
        self.refuse: CrossdockError | None = None
        self.flow = Flow(name="statements", source=Place("bank", "outbox"), rules=(Rule(name="rules[0]"),))

    def actions(self, after: After | None = None, **more: Any) -> Actions:
        """A new process."""
        self.flow = replace(self.flow, after=after or self.flow.after, **more)

        def new(name: str) -> Storage:
            return self.storage if name == "bank" else Storage(LocalBackend(name, self.target))

        async def send(to: Webhook | Mail, notice: Notice) -> None:
            if self.refuse is not None:
                raise self.refuse
            self.sent.append((type(to).__name__, notice))

        return Actions(self.flow, Endpoints(new), self.ledger, clock=self.clock, send=send)

    async def write(self, path: str = "outbox/a/b.csv", data: bytes = b"12345") -> Entry:
        """A partner's file, as a listing shows it."""
        await self.plain.write_bytes(path, data)
        folder = path.rpartition("/")[0]
        (entry,) = [entry async for entry in self.plain.scan(folder) if entry.path == path]
        return entry

    async def delivered(self, entry: Entry, *targets: str) -> list[Lease]:
        """One transfer for each target, all delivered, under leases."""
        planned = [
            Planned(flow="statements", source="bank", entry=entry, target=name, target_path=f"in/{entry.path}")
            for name in targets or ("lake",)
        ]
        await self.ledger.add(planned, who="poll")
        leases = await self.ledger.claim("w1", limit=10)
        for lease in leases:
            await self.ledger.delivered(lease, self.receipt(lease))
        return leases

    def receipt(self, lease: Lease) -> dict[str, Any]:
        return {"finished": self.clock().isoformat(), "size": lease.transfer.entry.size, "sha256": "ab" * 32}

    async def reclaim(self) -> Lease:
        """After a crash."""
        self.clock.move(61)
        (lease,) = await self.ledger.claim("w2")
        assert lease.transfer.state is State.DELIVERED
        return lease

    async def follow(self, lease: Lease, after: After | None = None, **more: Any) -> tuple[str, bool]:
        words, gone = await self.actions(after, **more).follow(lease, lease.transfer.receipt or self.receipt(lease))
        await self.ledger.done(lease, words, gone=gone)
        return words, gone

    async def names(self) -> set[str]:
        return {entry.path async for entry in self.plain.walk("")}

    async def read(self, path: str) -> bytes:
        return await self.plain.read_bytes(path)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    kind: str = getattr(request, "param", "local")
    if kind == "local":
        (tmp_path / "source").mkdir()
        yield LocalBackend("bank", tmp_path / "source")
    elif kind == "openssh":
        server: OpenSSH = request.getfixturevalue("openssh")
        folder = server.folder / uuid.uuid4().hex
        folder.mkdir()
        server.own()
        settings = {
            "type": "sftp",
            "host": server.host,
            "port": server.port,
            "user": server.user,
            "private_key": f"file:{server.key}",
            "host_key": server.fingerprint,
            "root": folder.name,
        }
        yield SftpSettings.model_validate(settings).backend("bank")
    else:
        store: Server = request.getfixturevalue(kind)
        with bucket(store) as peer:
            assert isinstance(peer, BotoPeer)
            yield Retry(s3_backend(store, peer.bucket, monkeypatch), AT_ONCE)


@pytest.fixture
async def bench(place: Backend, tmp_path: Path) -> AsyncIterator[Bench]:
    clock = Clock()
    (tmp_path / "target").mkdir()
    fragile = Fragile(place)
    async with SqliteLedger(tmp_path / "crossdock.db", clock=clock.seconds) as ledger, Storage(fragile):
        fragile.calls.clear()
        yield Bench(fragile, tmp_path / "target", ledger, clock)


everywhere = pytest.mark.parametrize("place", PLACES, indirect=True)


@everywhere
async def test_archive_keep_and_send_again(bench: Bench) -> None:
    """The structure is kept; days later the file goes; moved back before that, it is new."""
    after = After(archive=".done", keep=30 * DAY)
    entry = await bench.write()
    (lease,) = await bench.delivered(entry)
    assert await bench.follow(lease, after) == ("archived as outbox/.done/a/b.csv", True)
    assert await bench.names() == {"outbox/.done/a/b.csv"}
    assert await bench.read("outbox/.done/a/b.csv") == b"12345"
    # Moved back: new, and archived again.
    await bench.plain.rename("outbox/.done/a/b.csv", "outbox/a/b.csv")
    again = [item async for item in bench.plain.scan("outbox/a")]
    (lease,) = await bench.delivered(again[0])
    bench.clock.move(29 * DAY)
    assert await bench.actions(after).sweep() == 0
    assert (await bench.follow(lease, after))[1]
    assert await bench.names() == {"outbox/.done/a/b.csv"}
    bench.clock.move(30 * DAY + 1)
    assert await bench.actions(after).sweep() == 1
    assert await bench.names() == set()
    assert await bench.ledger.marks("statements", ARCHIVED) == []


@everywhere
async def test_a_name_that_is_taken_in_the_archive_is_never_replaced(bench: Bench) -> None:
    for number in range(13):
        (lease,) = await bench.delivered(await bench.write(data=b"x" * number))
        assert (await bench.follow(lease, After(archive=".done")))[1]
        bench.clock.move(1)
    found = await bench.names()
    assert {"outbox/.done/a/b.csv", "outbox/.done/a/b~1.csv", "outbox/.done/a/b~9.csv"} < found
    assert {"outbox/.done/a/b~t11.csv", "outbox/.done/a/b~t13.csv"} < found
    assert sorted([len(await bench.read(name)) for name in found]) == list(range(13))


@everywhere
async def test_delete(bench: Bench) -> None:
    (lease,) = await bench.delivered(await bench.write())
    assert await bench.follow(lease, After(delete=True)) == ("removed the source", True)
    assert await bench.names() == set()


@everywhere
@pytest.mark.parametrize("after", [After(archive=".done"), After(delete=True)], ids=["archive", "delete"])
async def test_a_newer_file_is_left_alone(bench: Bench, after: After) -> None:
    (lease,) = await bench.delivered(await bench.write())
    await bench.write(data=b"newer one")
    bench.fragile.calls.clear()
    words, gone = await bench.follow(lease, after)
    assert ("left alone" in words, gone) == (True, False)
    assert set(bench.fragile.calls) == {"stat"}
    assert await bench.names() == {"outbox/a/b.csv"}
    assert await bench.read("outbox/a/b.csv") == b"newer one"


@everywhere
@pytest.mark.parametrize("after", [After(archive=".done"), After(delete=True)], ids=["archive", "delete"])
async def test_a_newer_file_that_comes_in_that_moment_is_left_alone(bench: Bench, after: After) -> None:
    """After our look at the source and before the step that takes it."""
    (lease,) = await bench.delivered(await bench.write())

    async def replace_it() -> None:
        await bench.write(data=b"newer one")

    bench.fragile.intrude[("stat", "after")] = replace_it
    words, gone = await bench.follow(lease, after)
    assert ("left alone" in words, gone) == (True, False)
    assert await bench.names() == {"outbox/a/b.csv"}
    assert await bench.read("outbox/a/b.csv") == b"newer one"


@pytest.mark.parametrize("place", ["ceph", "moto"], indirect=True)
async def test_a_newer_object_that_comes_between_copy_and_delete_stays(bench: Bench) -> None:
    """What was delivered is archived, and may come again; the newer one has its own transfer."""
    (lease,) = await bench.delivered(await bench.write())

    async def replace_it() -> None:
        await bench.write(data=b"newer one")

    bench.fragile.intrude[("copy", "after")] = replace_it
    words, gone = await bench.follow(lease, After(archive=".done", keep=DAY))
    assert words.startswith("archived as outbox/.done/a/b.csv; ")
    assert gone
    assert await bench.read("outbox/a/b.csv") == b"newer one"
    assert await bench.read("outbox/.done/a/b.csv") == b"12345"
    bench.clock.move(2 * DAY)
    assert await bench.actions().sweep() == 1
    assert await bench.names() == {"outbox/a/b.csv"}


@everywhere
@pytest.mark.parametrize("after", [After(archive=".done", keep=DAY), After(delete=True)], ids=["archive", "delete"])
async def test_killed_anywhere_it_is_done_again(bench: Bench, after: After) -> None:
    """Before and after each call to the endpoint; nothing is lost, nothing is there twice."""
    number = 0
    while True:
        number += 1
        done = 0
        for when in ("before", "after"):
            (lease,) = await bench.delivered(await bench.write(data=b"run %d" % number))
            bench.fragile.calls.clear()
            bench.fragile.die_at = (number, when)
            try:
                await bench.follow(lease, after)
                done += 1
            except Killed:
                bench.fragile.die_at = None
                words, gone = await bench.follow(await bench.reclaim(), after)
                assert gone, words
                assert words.startswith(("archived as", "removed the source", "the source was gone")), words
            bench.fragile.die_at = None
            if after.delete:
                assert await bench.names() == set()
            else:
                assert await bench.names() == {"outbox/.done/a/b.csv"}
                (mark,) = await bench.ledger.marks("statements", ARCHIVED)
                assert mark.key == "outbox/.done/a/b.csv"
                bench.clock.move(2 * DAY)
                assert await bench.actions(after).sweep() == 1
                assert await bench.names() == set()
        if done == 2:
            break
    assert number > 2


@everywhere
async def test_the_last_destination_takes_the_source(bench: Bench) -> None:
    after = After(archive=".done")
    entry = await bench.write()
    plan = [
        Planned(flow="statements", source="bank", entry=entry, target=name, target_path="x") for name in ("lake", "sea")
    ]
    await bench.ledger.add(plan, who="poll")
    first, second = await bench.ledger.claim("w1", limit=2)
    await bench.ledger.delivered(first, bench.receipt(first))
    assert await bench.follow(first, after) == ("the source waits for sea:x", False)
    assert await bench.names() == {"outbox/a/b.csv"}
    await bench.ledger.delivered(second, bench.receipt(second))
    assert await bench.follow(second, after) == ("archived as outbox/.done/a/b.csv", True)
    # And it is free for both.
    await bench.plain.rename("outbox/.done/a/b.csv", "outbox/a/b.csv")
    assert [added.new for added in await bench.ledger.add(plan, who="poll")] == [True, True]


@everywhere
async def test_two_workers_at_once(bench: Bench) -> None:
    """Both are last: one moves the file, and both are right."""
    for after in (After(archive=".done"), After(delete=True)):
        leases = await bench.delivered(await bench.write(data=b"both"), "lake", "sea", "pond")
        found = await asyncio.gather(*(bench.follow(lease, after) for lease in leases))
        assert [gone for _, gone in found] == [True] * 3, found
        assert await bench.names() == {"outbox/.done/a/b.csv"}


async def test_a_failed_or_cancelled_sibling_keeps_the_source(bench: Bench) -> None:
    entry = await bench.write()
    plan = [
        Planned(flow="statements", source="bank", entry=entry, target=name, target_path="x")
        for name in ("lake", "sea", "pond", "well")
    ]
    await bench.ledger.add(plan, who="poll")
    lake, sea, pond, well = await bench.ledger.claim("w1", limit=4)
    await bench.ledger.failed(sea, "no such bucket")
    await bench.ledger.cancel([pond.id], who="me", why="test")
    await bench.ledger.skipped(well, "by a rule")
    await bench.ledger.delivered(lake, bench.receipt(lake))
    assert await bench.follow(lake, After(delete=True)) == ("the source waits for sea:x, pond:x", False)
    assert await bench.names() == {"outbox/a/b.csv"}


@everywhere
async def test_the_senders_marker_goes_with_its_file(bench: Bench) -> None:
    """A stale one would vouch for a file that is still being sent; one that speaks for several files stays."""
    settle = Settle(marker="{name}.ok")
    for after in (After(archive=".done", keep=DAY), After(delete=True)):
        for marked in (True, False):
            entry = await bench.write()
            if marked:
                await bench.plain.write_bytes("outbox/a/b.csv.ok", b"")
            (lease,) = await bench.delivered(entry)
            assert (await bench.follow(lease, after, settle=settle))[1]
            archived = {"outbox/.done/a/b.csv", "outbox/.done/a/b.csv.ok"} if after.archive else set()
            assert await bench.names() == (archived if marked else archived - {"outbox/.done/a/b.csv.ok"})
            bench.clock.move(2 * DAY)
            assert await bench.actions().sweep() == (1 + marked if after.archive else 0)
            assert await bench.names() == set()
    (lease,) = await bench.delivered(await bench.write())
    await bench.plain.write_bytes("outbox/ready/a/b.csv", b"")
    assert (await bench.follow(lease, After(delete=True), settle=Settle(marker="ready/{path}")))[1]
    assert await bench.names() == set()
    entry = await bench.write()
    await bench.plain.write_bytes("outbox/a/b.ok", b"")
    (lease,) = await bench.delivered(entry)
    assert (await bench.follow(lease, After(delete=True), settle=Settle(marker="{stem}.ok")))[1]
    assert await bench.names() == {"outbox/a/b.ok"}


async def test_a_template_of_the_archive(bench: Bench) -> None:
    after = After(archive="{folder}/.done/{now:%Y-%m}/{stem}_{modified:%Y}{suffix}")
    for path in ("outbox/a/b.csv", "outbox/top.csv"):
        (lease,) = await bench.delivered(await bench.write(path))
        # The month of the delivery, however late the archiving is.
        bench.clock.move(40 * DAY)
        (lease,) = await bench.ledger.claim("w2")
        assert (await bench.follow(lease, after))[1]
        bench.clock.move(-40 * DAY)
    assert {name.rpartition("_")[0] for name in await bench.names()} == {
        "outbox/a/.done/2026-11/b", "outbox/.done/2026-11/top",
    }  # fmt: skip


@everywhere
async def test_an_archived_file_that_is_no_longer_ours_stays(bench: Bench) -> None:
    after = After(archive=".done", keep=DAY)
    (lease,) = await bench.delivered(await bench.write())
    await bench.follow(lease, after)
    await bench.write("outbox/.done/a/b.csv", b"somebody else's")
    bench.clock.move(2 * DAY)
    assert await bench.actions(after).sweep() == 0
    assert await bench.read("outbox/.done/a/b.csv") == b"somebody else's"
    assert await bench.ledger.marks("statements", ARCHIVED) == []


async def test_a_sweep_goes_on_after_an_endpoint_that_fails(bench: Bench) -> None:
    after = After(archive=".done", keep=DAY)
    for number in range(5):
        (lease,) = await bench.delivered(await bench.write(f"outbox/{number}.csv"))
        await bench.follow(lease, after)
    bench.clock.move(2 * DAY)
    bench.fragile.calls.clear()
    bench.fragile.die_at = (3, "before")
    bench.fragile.deadly = ConnectionFailed("gone", operation="stat", endpoint="bank")
    # The first is removed with a look and a removal; then the endpoint is not asked for each of the others.
    assert await bench.actions(after).sweep() == 1
    assert len(bench.fragile.calls) == 3
    assert len(await bench.ledger.marks("statements", ARCHIVED)) == 4
    bench.fragile.die_at = None
    assert await bench.actions(after).sweep() == 4
    assert await bench.names() == set()


async def test_without_the_right_to_rename_it_is_deleted_all_the_same(bench: Bench) -> None:
    (lease,) = await bench.delivered(await bench.write())
    bench.fragile.die_at = (2, "before")
    bench.fragile.deadly = PermissionDenied("no", operation="rename", endpoint="bank")
    assert await bench.follow(lease, After(delete=True)) == ("removed the source", True)
    assert bench.fragile.calls == ["stat", "rename", "delete"]
    assert await bench.names() == set()


@pytest.mark.parametrize("place", ["ceph", "moto"], indirect=True)
async def test_tags(bench: Bench) -> None:
    after = After(tag={"delivered": "yes", "by": "crossdock"})
    (lease,) = await bench.delivered(await bench.write())
    await bench.plain.set_tags("outbox/a/b.csv", {"own": "1"}, pin=await bench.plain.stat("outbox/a/b.csv"))
    assert await bench.follow(lease, after) == ("tagged by, delivered", False)
    inner = bench.fragile.inner
    assert isinstance(inner, Retry)
    calls = inner.inner.calls  # type: ignore[attr-defined]
    request = calls.request("GET", "tag", "x", "x", key="outbox/a/b.csv", query={"tagging": ""})
    answer = await calls.client.call(request)
    for word in (b"<Key>own<", b"<Key>delivered<", b"<Value>yes<", b"<Key>by<"):
        assert word in answer.body
    # And not on a newer one.
    (lease,) = await bench.delivered(await bench.write(data=b"second"))
    await bench.write(data=b"third")
    words, gone = await bench.follow(lease, after)
    assert ("left alone" in words, gone) == (True, False)
    assert b"<Key>" not in (await calls.client.call(request, allow=("NoSuchTagSet", "NoSuchTagSetError"))).body


async def test_tags_where_there_are_none(bench: Bench) -> None:
    (lease,) = await bench.delivered(await bench.write())
    with pytest.raises(Unsupported, match="tag"):
        await bench.follow(lease, After(tag={"a": "b"}))


async def test_a_marker_beside_each_delivered_file(bench: Bench) -> None:
    leases = await bench.delivered(await bench.write(), "lake", "sea")
    for lease in leases:
        words, gone = await bench.follow(lease, After(marker="{name}.done"))
        assert (words, gone) == (f"marked by {lease.transfer.target}:in/outbox/a/b.csv.done", False)
    assert (bench.target / "in/outbox/a/b.csv.done").read_bytes() == b""
    # Where a conflict gave the file another name, the marker goes with it.
    (lease,) = await bench.delivered(await bench.write(data=b"other"))
    receipt = {**bench.receipt(lease), "target_entry": {"path": "in/outbox/a/b~1.csv"}}
    await bench.actions().follow(lease, receipt)
    assert (bench.target / "in/outbox/a/b~1.csv.done").exists()


HOOK = Webhook(url="https://hooks.example/", on=frozenset({"delivered", "failed"}))
MAIL = Mail(to=("ops@example.com",), sender="a@example.com", host="mail.example")


async def test_notices(bench: Bench) -> None:
    (lease,) = await bench.delivered(await bench.write())
    words, _ = await bench.follow(lease, After(delete=True), webhooks=(HOOK,), mails=(MAIL,))
    assert words == "removed the source; the webhook was told"
    ((_, notice),) = bench.sent
    assert notice.id == f"{bench.ledger.id}-{lease.id}"
    assert notice.data == {
        "transfer": lease.id, "source": "bank", "source_path": "outbox/a/b.csv", "target": "lake",
        "target_path": "in/outbox/a/b.csv", "size": 5, "sha256": "ab" * 32,
    }  # fmt: skip
    assert notice.at == bench.clock()
    await bench.actions().failed(lease.transfer, "no such bucket")
    assert [(kind, told.kind) for kind, told in bench.sent[1:]] == [("Webhook", "failed"), ("Mail", "failed")]
    assert bench.sent[1][1].text == "outbox/a/b.csv did not reach lake:in/outbox/a/b.csv: no such bucket"


async def test_a_receiver_that_is_down_does_not_hold_the_transfer(bench: Bench) -> None:
    bench.refuse = NotificationFailed("down", retryable=True)
    (lease,) = await bench.delivered(await bench.write())
    words, gone = await bench.follow(lease, After(delete=True), webhooks=(HOOK,))
    assert (words, gone) == ("removed the source; the webhook is told later", True)
    bench.refuse = None
    assert await bench.actions().sweep() == 0
    assert [notice.id for _, notice in bench.sent] == [f"{bench.ledger.id}-{lease.id}"]


async def test_repeated_after_a_crash_the_notice_has_the_same_id_and_body(bench: Bench) -> None:
    (lease,) = await bench.delivered(await bench.write())
    await bench.actions(After(), webhooks=(HOOK,)).follow(lease, bench.receipt(lease))
    await bench.follow(await bench.reclaim())
    (_, first), (_, second) = bench.sent
    assert (first.id, first.body()) == (second.id, second.body())


@pytest.mark.parametrize("name", ["not utf-8 \udcff.csv", "new\nline.csv", "b~1.csv", ".hidden", "x" * 200])
async def test_odd_names(bench: Bench, name: str) -> None:
    for data in (b"1", b"22"):
        (lease,) = await bench.delivered(await bench.write(f"outbox/{name}", data))
        words, gone = await bench.follow(lease, After(archive=".done", keep=DAY), webhooks=(HOOK,))
        assert gone, words
    assert len(await bench.names()) == 2
    bench.clock.move(2 * DAY)
    assert await bench.actions().sweep() == 2
    assert all(notice.body() for _, notice in bench.sent)
