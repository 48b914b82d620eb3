"""The engine over endpoints that fail: what is tried again, what is not, and what is never done twice."""

from __future__ import annotations

import asyncio
import random
import uuid
from dataclasses import replace
from datetime import timedelta
from gzip import decompress
from pathlib import Path
from typing import Any

import pytest

from crossdock.engine.engine import Engine
from crossdock.engine.recovery import Record, attempt_id
from crossdock.errors import CrossdockError, PermissionDenied, Throttled
from crossdock.flows.flow import After, Destination, Retry, Rule, TransformSpec
from crossdock.ledger.base import Query, State
from crossdock.storage.base import WriteOptions, Writer
from crossdock.storage.layers import Observe
from crossdock.storage.local import LocalSettings
from crossdock.storage.sftp import SftpSettings
from crossdock.storage.staging import is_temporary
from crossdock.storage.storage import Storage
from crossdock.testing.cut import CutProxy
from tests.engine.bench import Killed
from tests.engine.clocks import Clock
from tests.engine.places import House, broken, flow, lost
from tests.servers import OpenSSH


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


@pytest.mark.parametrize("at", ["open", "write", "chunk", "commit", "publish"])
async def test_a_backend_with_a_mistake_stops_nothing_else(home: House, at: str) -> None:
    """What it lets out, which is no error of ours, is one attempt's failure, and no end of the run."""
    flows = flow(), flow(name="g", rules=(Rule(name="all", to=(Destination(endpoint="dst2"),)),))
    await home.put("a")
    home.dst.faults[at] = [ValueError("invalid literal for int(): 'ten'")]
    new = home.new
    home.new = lambda name: Storage(Observe(new(name).backend))  # type: ignore[method-assign]
    first = await home.run(*flows)
    assert (first.delivered, first.waiting, first.good) == (1, 1, False)
    assert home.dst2.hold("a") == b"data"
    error = (await home.transfers())["a", "dst"].error
    assert "dst:" in (error or "") and "ValueError: invalid literal for int(): 'ten'" in (error or "")
    home.clock.move(5.1)
    assert (await home.run(*flows)).good
    assert home.dst.hold("a") == b"data"
    assert home.dst.staged == []


async def test_gives_up_after_its_time(home: House) -> None:
    await home.put("a")
    home.dst.faults["commit"] = [broken(), broken()]
    hurried = flow(retry=Retry(attempts=9, give_up=60.0, base=1.0))
    await home.run(hurried)
    home.clock.move(61)
    assert (await home.run(hurried)).failed == 1


async def test_gives_up_by_the_clock_of_the_ledger(home: House) -> None:
    """A database's may be far from ours, either way."""
    await home.put("a")
    for hours, later in ((48, 60), (-48, 86400), (-48, 0)):
        home.dst.faults["commit"] = [broken()]
        ours = Clock()
        ours.now = home.clock() + timedelta(hours=hours)
        async with Engine([flow()], home.new, home.ledger, clock=ours) as engine:
            assert (await engine.run_once(patience=0.0)).failed == (not later)
        home.clock.move(later)


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


@pytest.mark.parametrize("error", [PermissionDenied("no", operation="write", endpoint="dst"), lost()])
async def test_who_gives_up_may_be_killed_as_well(home: House, error: CrossdockError) -> None:
    """Once what it had staged is removed, and before that is recorded: its being gone proves nothing."""
    once = flow(retry=Retry(attempts=1, give_up=0.0))
    await home.put("a", b"1")
    home.dst.faults["commit"] = [error]
    discard, begin = home.dst.discard, home.dst.begin_write

    async def begin_write(path: str, options: WriteOptions) -> Writer:
        writer = await begin(path, options)
        abort = writer.abort

        async def dies() -> None:
            await abort()
            raise Killed

        writer.abort = dies  # type: ignore[method-assign]
        return writer

    async def dies(checkpoint: bytes) -> None:
        await discard(checkpoint)
        raise Killed

    home.dst.discard, home.dst.begin_write = dies, begin_write  # type: ignore[method-assign]
    with pytest.raises(Killed):
        await home.run(once)
    home.dst.discard, home.dst.begin_write = discard, begin  # type: ignore[method-assign]
    home.clock.move(61)
    assert (await home.run(once)).delivered == 1
    assert home.dst.hold("a") == b"1"


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


async def test_what_was_staged_many_leases_ago_is_removed(home: House, tmp_path: Path) -> None:
    """A file that waits for another, which has ended its workers, is claimed and given back again and again."""
    await home.put("a", bytes(3 << 20))

    def new(name: str) -> Storage:
        return home.new("src") if name == "src" else Storage(LocalSettings(root=tmp_path).backend("dst"))

    async with Engine([flow()], new, home.ledger, clock=home.clock) as engine, new("dst") as dst:
        await engine.discover("f")
        (lease,) = await home.ledger.claim("killed", lease=1.0)
        writer = await dst.begin_write("a", WriteOptions(attempt=attempt_id(home.ledger.id, lease.id, lease.fence)))
        await writer.write(bytes(3 << 20))
        await writer.leave()
        home.clock.move(2)
        for _ in range(20):
            (lease,) = await home.ledger.claim("careful")
            await home.ledger.released(lease, "it waits")
        assert [is_temporary(path.name) for path in tmp_path.iterdir()] == [True]
        assert (await engine.run_once(patience=0)).delivered == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


async def test_a_lost_wire_is_resumed(home: House) -> None:
    await home.put("a", b"x" * 3_000_000)
    home.dst.faults["commit"] = [lost()]
    await home.run(flow())
    home.clock.move(20)
    assert (await home.run(flow())).delivered == 1
    assert (home.dst.hold("a"), home.dst.staged) == (b"x" * 3_000_000, [])


@pytest.mark.parametrize("ended", ["lost", "killed"])
async def test_what_could_not_be_swept_is_swept_later(home: House, ended: str) -> None:
    """Though a newer file has the name by then, which ended it at once: a hidden file stayed for good."""
    home.dst.capabilities = replace(home.dst.capabilities, resume_write=False)
    both = flow(rules=(Rule(name="all", to=(Destination(endpoint="dst"), Destination(endpoint="dst2"))),))
    await home.put("a", b"older")
    if ended == "lost":
        home.dst.faults["chunk"], home.dst.faults["abort"] = [lost()], [lost()]
    else:
        async with home.engine(both) as engine:
            await engine.discover("f")
        leases = await home.ledger.claim("killed", limit=2)
        (lease,) = [each for each in leases if each.transfer.target == "dst"]
        options = WriteOptions(attempt=attempt_id(home.ledger.id, lease.id, lease.fence))
        await (await home.dst.begin_write("a", options)).write(b"old")
        home.clock.move(61)
        home.dst.faults["discard"] = [Throttled("slow down", operation="delete", endpoint="dst", path="a")]
    await home.run(both)
    assert len(home.dst.staged) == 1
    await home.put("a", b"the newer one")
    await home.run(both)
    home.clock.move(60)
    await home.run(both)
    assert (home.dst.staged, home.dst.hold("a"), home.dst2.hold("a")) == ([], b"the newer one", b"the newer one")
    assert sorted([each.state for each in await home.ledger.find(Query())]) == ["done", "done", "done", "skipped"]


async def test_what_a_server_that_went_away_still_holds_is_swept_later(
    home: House, openssh: OpenSSH, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one, whose writer cannot say so by raising: the first error is the one that matters."""
    folder = openssh.folder / uuid.uuid4().hex
    folder.mkdir()
    openssh.own()
    both = (Destination("there"), Destination("dst2"))
    gzipped = flow(rules=(Rule(name="all", to=both, transforms=(TransformSpec("gzip"),)),))
    new = home.new
    async with CutProxy("127.0.0.1", openssh.port) as wire:
        there = SftpSettings.model_validate(openssh.settings(root=folder.name, port=wire.port))
        monkeypatch.setattr(home, "new", lambda name: Storage(there.backend(name)) if name == "there" else new(name))
        await home.put("a", random.Random(1).randbytes(3_000_001))
        wire.cut_after(2_000_000, direction="up")
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(home.run(gzipped))
            await wire.wait_cut()
            wire.refusing = True
            assert (await running).waiting == 1
        assert [is_temporary(name.name) for name in folder.iterdir()] == [True]
        await home.put("a", b"the newer one")
        wire.heal()
        for _ in range(3):
            await home.run(gzipped)
            home.clock.move(3600)
    assert [file.name for file in folder.iterdir()] == ["a"]
    assert decompress((folder / "a").read_bytes()) == b"the newer one"


async def test_what_was_published_is_found_though_the_source_is_down(home: House) -> None:
    """Long enough to give up: it would be called failed, and be sent twice if somebody tried it again."""
    await home.put("a")
    home.dst.faults["publish"] = [lost()]
    await home.run(flow())
    home.clock.move(2 * 86400)
    home.src.faults["open"] = [lost("src") for _ in range(9)]
    assert (await home.run(flow())).delivered == 1
    assert home.dst.calls["commit"] == 1


async def test_the_marker_of_a_version_that_was_published_unheard(home: House) -> None:
    """Of what a crash or a lost answer has left, the receipt is made later: the marker is that of this version."""
    versions = flow(on_conflict="version", after=After(marker="{name}.done"))
    await Storage(home.dst).write_bytes("a", b"other")
    await home.put("a")
    home.dst.faults["publish"] = [lost()]
    await home.run(versions)
    home.clock.move(60)
    assert (await home.run(versions)).delivered == 1
    assert sorted(home.dst._files) == ["a", "a~1", "a~1.done"]


def breaks_a_write(home: House) -> None:
    """After its first chunk, which stays staged."""
    begin = home.dst.begin_write

    async def begin_write(path: str, options: WriteOptions) -> Writer:
        home.dst.begin_write = begin  # type: ignore[method-assign]
        writer = await begin(path, options)
        write = writer.write

        async def breaks(data: bytes) -> None:
            await write(data)
            raise lost()

        writer.write = breaks  # type: ignore[method-assign]
        return writer

    home.dst.begin_write = begin_write  # type: ignore[method-assign]


async def test_what_was_staged_for_a_name_that_is_taken_by_now(home: House) -> None:
    """It is removed; the next version is sent from its first byte."""
    versions = flow(on_conflict="version")
    await home.put("a", b"x" * 3_000_000)
    breaks_a_write(home)
    await home.run(versions)
    assert home.dst.staged
    await Storage(home.dst).write_bytes("a", b"other")
    home.clock.move(20)
    assert (await home.run(versions)).delivered == 1
    assert (home.dst.hold("a~1"), home.dst.hold("a"), home.dst.staged) == (b"x" * 3_000_000, b"other", [])


async def test_what_was_staged_before_the_rule_got_a_transform(home: House) -> None:
    """It is removed: the file is changed from its first byte on."""
    await home.put("a", b"x\n" * 3_000_000)
    breaks_a_write(home)
    await home.run(flow())
    assert home.dst.staged
    home.clock.move(20)
    lines = TransformSpec("lines", {"to": "crlf"})
    assert (await home.run(flow(rules=(Rule(name="all", to=(Destination("dst"),), transforms=(lines,)),)))).delivered
    assert (home.dst.hold("a"), home.dst.staged) == (b"x\r\n" * 3_000_000, [])
