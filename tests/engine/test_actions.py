"""What else follows a delivery, at real endpoints: tags, markers and notices, repeated after a crash."""

from __future__ import annotations

import pytest

from crossdock.engine.notices.notice import NotificationFailed
from crossdock.errors import Unsupported
from crossdock.flows.flow import After, Mail, Webhook
from crossdock.storage.base import Entry
from crossdock.storage.local.writer import LocalWriter
from crossdock.storage.retry import Retry
from crossdock.storage.staging import Stored, is_temporary
from tests.engine.bench import DAY, Bench, Killed


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


async def test_what_a_killed_process_staged_of_a_marker_is_swept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(self: LocalWriter) -> None:
        pass

    async def die(self: LocalWriter, stored: Stored) -> Entry:
        raise Killed

    (lease,) = await bench.delivered(await bench.write())
    with monkeypatch.context() as patch:
        patch.setattr(LocalWriter, "_publish", die)
        patch.setattr(LocalWriter, "abort", nothing)
        with pytest.raises(Killed):
            await bench.follow(lease, After(marker="{name}.done"))
    folder = bench.target / "in/outbox/a"
    assert [is_temporary(path.name) for path in folder.iterdir()] == [True]
    await bench.follow(await bench.reclaim())
    assert [path.name for path in folder.iterdir()] == ["b.csv.done"]


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
    bench.refuse = NotificationFailed("down", retryable=True, hint="wait")
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
