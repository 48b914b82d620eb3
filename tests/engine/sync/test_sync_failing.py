"""One-way sync of a tree: of files and listings that fail, and of a run that is broken off."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from crossdock.engine.sync import Outcome, SyncOptions, sync
from crossdock.errors import Conflict, ConnectionFailed, NoSpace, NotFound, PermissionDenied, StorageError
from crossdock.flows.filters import Filters, Rule
from crossdock.storage.base import Backend, Capabilities, Entry, Reader
from crossdock.storage.layers import Layer
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.retry import RetryPolicy
from crossdock.storage.staging import StagedWriter
from crossdock.storage.storage import Storage
from tests.engine.places import Faulty, lost
from tests.engine.sync.trees import TREE, content, filled, run


class Vanishes(Layer):
    """Its folder is gone before, or after, the first page; an object store learns that only at the end of a listing."""

    def __init__(self, inner: Backend, after: int) -> None:
        super().__init__(inner)
        self._after = after

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return replace(self.inner.capabilities, recursive_scan=True)

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        files = [entry async for entry in Storage(self.inner).walk(path)]
        yield files[: self._after]
        raise self.inner.error(NotFound, "list", path, "no such key, and none below it")


async def test_a_target_that_is_not_there_is_empty_and_one_that_vanishes_is_an_error() -> None:
    source = await filled("a", TREE)
    target = await filled("b", TREE)
    summary, _ = await run(source, Storage(Vanishes(target.backend, 0)))
    assert summary.copied == len(TREE)
    with pytest.raises(NotFound):
        await run(source, Storage(Vanishes(target.backend, 1)))


async def test_missing_source_is_an_error_not_an_empty_tree() -> None:
    source, target = await filled("a", TREE), await filled("b", TREE)
    with pytest.raises(NotFound):
        await run(source, target, folder="misspelt", delete=True)
    assert await content(target) == TREE


class Locked(Layer):
    """Folders called "locked" may not be listed."""

    all_at_once = False

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return replace(self.inner.capabilities, recursive_scan=self.all_at_once)

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        if recursive:
            found = [entry async for entry in Storage(self.inner).walk(path)]
            for entry in found:
                if "/locked/" in f"/{entry.path}":
                    raise self.inner.error(PermissionDenied, "list", entry.path.rpartition("/")[0], "not permitted")
                yield [entry]
            return
        if path.rpartition("/")[2] == "locked":
            raise self.inner.error(PermissionDenied, "list", path, "not permitted")
        async for page in self.inner.scan(path):
            yield page


@pytest.mark.parametrize("all_at_once", [False, True])
async def test_a_folder_that_may_not_be_listed_is_left_out_if_a_rule_says_so(all_at_once: bool) -> None:
    tree = {"in/a": b"1", "in/locked/b": b"2", "in/m/locked/c": b"3", "in/z": b"4"}
    source, target = Locked((await filled("a", tree)).backend), Locked((await filled("b", {"locked/x": b"5"})).backend)
    source.all_at_once = target.all_at_once = all_at_once
    rules = Filters(rules=(Rule(False, "locked/"),))
    _, outcomes = await run(Storage(source), Storage(target), "in", filters=rules, delete=True)
    assert {path: outcome.action for path, outcome in outcomes.items()} == {
        "a": "copy", "locked/": "skip", "m/locked/": "skip", "z": "copy",
    }  # fmt: skip
    assert outcomes["locked/"].reason == "excluded by 'locked/'; may not be listed"
    assert await content(Storage(target.inner)) == {"a": b"1", "z": b"4", "locked/x": b"5"}
    for filters, folder in ((Filters(), "in"), (Filters(rules=(Rule(False, "m/"),)), "in"), (rules, "in/locked")):
        with pytest.raises(PermissionDenied):
            await run(Storage(source), Storage(MemoryBackend("c")), folder, filters=filters)


class Denies(Layer):
    def __init__(self, inner: Backend, denied: str) -> None:
        super().__init__(inner)
        self._denied = denied

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        if path == self._denied:
            raise self.error(PermissionDenied, "read", path, "no")
        return await super().begin_read(path, offset=offset, pin=pin)


async def test_one_bad_file_does_not_stop_the_others() -> None:
    source, target = await filled("a", TREE), await filled("b", {"extra": b"x"})
    denying = Storage(Denies(source.backend, "b/c.txt"))
    summary, outcomes = await run(denying, target)
    assert (summary.failed, summary.copied) == (1, len(TREE) - 1)
    assert isinstance(outcomes["b/c.txt"].error, PermissionDenied)
    assert outcomes["b/c.txt"].as_json()["kind"] == "PermissionDenied"
    with pytest.raises(Conflict, match=r"but 1 failed; nothing was deleted\. Next: mend what failed, then run"):
        await run(denying, target, delete=True)
    assert (await content(target))["extra"] == b"x"


@pytest.mark.parametrize("kind", [ConnectionFailed, NoSpace])
@pytest.mark.parametrize("transfers", [4, 20])
async def test_it_ends_when_the_target_is_gone(kind: type[StorageError], transfers: int) -> None:
    """Else each of the files waits for its own attempts to fail."""
    source = await filled("a", {f"{number:03}": b"x" for number in range(500)})
    backend = Faulty("b")
    target = Storage(backend)
    await target.write_bytes("extra", b"x")
    most = max(32, 2 * transfers)
    policy = RetryPolicy(attempts=1)

    def failing(count: int) -> None:
        backend.faults["write"] = [backend.error(kind, "write", "x", "gone") for _ in range(count)]

    outcomes: list[Outcome] = []
    failing(500)
    with pytest.raises(kind) as raised:
        options = SyncOptions(policy=policy, transfers=transfers, delete=True, max_delete=500)
        await sync(source, "", target, "", options, report=outcomes.append)
    assert "files in a row failed for such a reason" in raised.value.__notes__[0]
    assert {outcome.action for outcome in outcomes} == {"fail"}
    assert most <= len(outcomes) < most + transfers
    assert await content(target) == {"extra": b"x"}
    failing(most - 1)
    summary, _ = await run(source, target, policy=policy, transfers=transfers)
    assert (summary.copied, summary.failed) == (500 - most + 1, most - 1)


async def test_files_that_fail_for_reasons_of_their_own_never_end_it() -> None:
    tree = {f"{number:03}": b"x" for number in range(100)}
    source, target = await filled("a", tree), await filled("b", {f"{name}/in": b"" for name in tree})
    summary, _ = await run(source, target)
    assert summary.failed == 100


async def test_folder_in_the_way_of_a_file_is_reported() -> None:
    source, target = await filled("a", {"x": b"file", "y": b"2"}), await filled("b", {"x/inner": b"1"})
    _, outcomes = await run(source, target)
    assert outcomes["x"].action == "fail"
    assert await content(target) == {"x/inner": b"1", "y": b"2"}


async def test_cancelled_sync_leaves_whole_files_only() -> None:
    for turns in range(5, 400, 12):
        source, target = await filled("a", TREE), await filled("b", {})
        task = asyncio.create_task(sync(source, "", target, "", report=lambda _: None))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for path, data in (await content(target)).items():
            assert TREE[path] == data
        assert not [e.path async for e in target.scan(temporaries=True) if e.path.startswith(".crossdock")]


async def test_cancelled_sync_lets_each_file_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at a server: cleaning up takes one file longer than another, and may be interrupted."""
    write, abort = StagedWriter.write, StagedWriter.abort
    begun, turns, all_begun = 0, 0, asyncio.Event()

    async def write_and_wait(self: StagedWriter, data: bytes) -> None:
        nonlocal begun
        await write(self, data)
        begun += 1
        if begun == 8:
            all_begun.set()
        await asyncio.Event().wait()

    async def slower_each_time(self: StagedWriter) -> None:
        nonlocal turns
        turns += 10
        for _ in range(turns):
            await asyncio.sleep(0)
        await abort(self)

    source, target = await filled("a", {f"f{n}": b"x" * 1000 for n in range(8)}), await filled("b", {})
    monkeypatch.setattr(StagedWriter, "write", write_and_wait)
    monkeypatch.setattr(StagedWriter, "abort", slower_each_time)
    task = asyncio.create_task(sync(source, "", target, "", report=lambda _: None))
    await all_begun.wait()
    assert len([entry async for entry in target.scan(temporaries=True)]) == 8
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [entry.path async for entry in target.scan(temporaries=True)] == []


async def test_cancelled_sync_ends_though_a_comparison_fails_at_that_moment() -> None:
    """Of the two files that are read side by side, one fails; the next pair then has its turn."""
    ends = [Faulty("a"), Faulty("b")]
    for end in ends:
        for number in range(9):
            await Storage(end).write_bytes(f"f{number}", b"data")
        end.gates["read"] = asyncio.Event()
    ends[0].faults["read"].append(lost("a"))
    source, target = map(Storage, ends)
    options = SyncOptions(checksum=True, transfers=1)
    task = asyncio.create_task(sync(source, "", target, "", options, report=lambda _: None))
    while not all(end.calls["read"] for end in ends):
        await asyncio.sleep(0)
    ends[0].gates["read"].set()
    task.cancel()
    ended, _ = await asyncio.wait([task], timeout=60)
    task.cancel()
    assert ended == {task}, "it goes on"
    assert task.cancelled()


_ENDED = """
import asyncio, sys
from crossdock.cli.session import run_in_child
from crossdock.engine.sync.processes import Pool
from crossdock.errors import TransferError
from crossdock.storage.base import Entry
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.storage import Storage

pool = Pool(1, lambda: Storage(MemoryBackend("a")), lambda: Storage(MemoryBackend("b")))

async def main():
    async with pool, asyncio.timeout(40):
        pool._children[0].writer.transport.abort()
        for _ in range(int(sys.argv[1])):
            await asyncio.sleep(0)
        try:
            await pool("a", "a", Entry(path="a", size=1), lambda size: None)
        except TransferError as error:
            print(error.message)

run_in_child(main())
"""


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_a_process_that_has_ended_is_given_nothing(turns: int) -> None:
    """Its socket closes a turn of the event loop before its listener hears of that; uvloop then refuses to write."""
    done = subprocess.run([sys.executable, "-c", _ENDED, str(turns)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("copy a: the process that was to move it has ended\n", "")
