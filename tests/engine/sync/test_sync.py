"""One-way sync of a tree: what is moved, and what is left alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crossdock.errors import Conflict, InvalidPath, NotAFile
from crossdock.flows.filters import Filters
from crossdock.storage.base import Backend, Capabilities, Entry, WriteOptions, Writer
from crossdock.storage.layers import Layer
from crossdock.storage.local import LocalSettings
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.sftp import SftpSettings
from crossdock.storage.storage import Storage
from tests.engine.sync.trees import TREE, content, filled, run
from tests.servers import Moto, OpenSSH
from tests.storage.s3.places import backend, bucket


async def test_moves_the_tree_and_then_nothing() -> None:
    """Every byte arrives under its own path; a second run moves nothing."""
    source, target = await filled("a", TREE), await filled("b", {})
    summary, outcomes = await run(source, target, to="deep/er")
    assert await content(target, "deep/er") == TREE
    assert (summary.copied, summary.size) == (len(TREE), sum(map(len, TREE.values())))
    for path, data in TREE.items():
        assert outcomes[path].reason == "new"
        assert outcomes[path].sha256 == hashlib.sha256(data).hexdigest()
    summary, outcomes = await run(source, target, to="deep/er")
    assert (summary.copied, summary.skipped) == (0, len(TREE))
    assert {outcome.reason for outcome in outcomes.values()} == {"unchanged"}


async def test_walk_order_merges_names_that_sort_round_the_slash() -> None:
    """`b-x/f` < `b.y` < `b/c`: both sides list in code-point order of whole paths, or files would move twice."""
    storage = await filled("a", TREE)
    assert [entry.path async for entry in storage.walk()] == sorted(TREE)


async def test_changes_are_found_by_size_time_and_content() -> None:
    source, target = await filled("a", TREE), await filled("b", {})
    await run(source, target)
    stamp = (await source.stat("b.y")).modified
    await source.write_bytes("a.txt", b"longer")
    await source.write_bytes("b.y", b"DOT", WriteOptions(modified=stamp))
    await source.write_bytes("b/c.txt", b"C" * 100_000)
    summary, outcomes = await run(source, target)
    assert {path: o.reason for path, o in outcomes.items() if o.action == "copy"} == {
        "a.txt": "size differs",
        "b/c.txt": "modification time differs",
    }
    summary, outcomes = await run(source, target, checksum=True)
    assert {path: o.reason for path, o in outcomes.items() if o.action == "copy"} == {"b.y": "content differs"}
    assert summary.copied == 1
    assert await content(target) == await content(source)


async def test_a_target_that_shows_its_names_twice_loses_none() -> None:
    """The second one has no file at the source beside it."""

    class Doubled(Layer):
        async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
            async for page in super().scan(path, recursive=recursive):
                yield page + page

    source, target = await filled("a", TREE), await filled("b", TREE)
    summary, _ = await run(source, Storage(Doubled(target.backend)), delete=True, max_delete=100)
    assert summary.deleted == 0
    assert await content(target) == TREE


async def test_dry_run_decides_the_same_and_does_nothing() -> None:
    source = await filled("a", TREE)
    target = await filled("b", {"a.txt": b"other size", "extra": b"x", "b.y": b"dot"})
    before = await content(target)
    dry, planned = await run(source, target, dry_run=True, delete=True, max_delete=1)
    assert await content(target) == before
    wet, done = await run(source, target, delete=True, max_delete=1)
    assert {p: (o.action, o.reason) for p, o in planned.items()} == {p: (o.action, o.reason) for p, o in done.items()}
    assert (dry.copied, dry.deleted, dry.skipped) == (wet.copied, wet.deleted, wet.skipped)
    assert await content(target) == TREE


@pytest.mark.parametrize("to", ["", "in/deep"])
async def test_dry_run_knows_of_what_is_in_the_way(to: str, tmp_path: Path) -> None:
    """A folder, also an empty one, where a file is to go, and a file, pipe or link where a folder is needed."""
    tree = {"f": b"1", "g/h/i": b"2", "j": b"3", "new/k": b"4", "old/l": b"5", "p/q/m": b"6", "r/s/n": b"7"}
    source = await filled("a", tree)
    (tmp_path / to / "f").mkdir(parents=True)
    (tmp_path / to / "old").mkdir()
    (tmp_path / to / "g").write_bytes(b"a file")
    os.mkfifo(tmp_path / to / "p")
    (tmp_path / to / "r").symlink_to("old")
    async with Storage(LocalSettings(root=tmp_path).backend("b")) as target:
        _, planned = await run(source, target, to=to, dry_run=True)
        _, done = await run(source, target, to=to)
    assert {path for path, outcome in done.items() if outcome.action == "fail"} == {"f", "g/h/i", "p/q/m", "r/s/n"}
    for path, outcome in done.items():
        assert planned[path].action == outcome.action
        assert type(planned[path].error) is type(outcome.error)
        assert (getattr(planned[path].error, "hint", None)) == getattr(outcome.error, "hint", None)
        if path.count("/") == 2:
            assert str(planned[path].error) == str(outcome.error)


async def test_dry_run_knows_of_names_that_cannot_be() -> None:
    """Also in a folder that is not there yet."""

    class OneLine(Layer):
        async def stat(self, path: str) -> Entry:
            self._check(path, "stat")
            return await super().stat(path)

        async def begin_write(self, path: str, options: WriteOptions) -> Writer:
            self._check(path, "write")
            return await super().begin_write(path, options)

        def _check(self, path: str, operation: str) -> None:
            if "\n" in path:
                raise self.inner.error(InvalidPath, operation, path, "a line break in the name")

    source, target = await filled("a", {"f": b"1", "g\n": b"2", "h/i\nj": b"3"}), await filled("b", {})
    for dry_run in (True, False):
        _, outcomes = await run(source, Storage(OneLine(target.backend)), dry_run=dry_run)
        assert {path for path, outcome in outcomes.items() if outcome.action == "fail"} == {"g\n", "h/i\nj"}


class Uploads(Layer):
    """Lists the time of the upload instead of the file's own, and the content's MD5 as its etag, as S3 stores do."""

    def __init__(self, inner: Backend, etags: dict[str, str]) -> None:
        super().__init__(inner)
        self._etags, self.asked = etags, 0

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return replace(self.inner.capabilities, lists_mtime=False)

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        async for page in self.inner.scan(path, recursive=recursive):
            yield [replace(e, modified=datetime.now(UTC), etag=self._etags.get(e.path)) for e in page]

    async def stat(self, path: str) -> Entry:
        self.asked += 1
        return await super().stat(path)


@pytest.mark.parametrize("stored", ["md5", "opaque", "other content"])
async def test_upload_times_are_settled_by_content_or_by_the_files_own_time(tmp_path: Path, stored: str) -> None:
    """A matching MD5 settles a small file without a request; what says nothing is asked for its own time."""
    stamp = datetime(2026, 1, 1, tzinfo=UTC)
    memory = Storage(MemoryBackend("store"))
    await memory.write_bytes("f", b"content", WriteOptions(modified=stamp))
    async with Storage(LocalSettings(root=tmp_path).backend("disk")) as disk:
        await disk.write_bytes(
            "f", b"CONTENT" if stored == "other content" else b"content", WriteOptions(modified=stamp)
        )
        etag = "opaque-1" if stored == "opaque" else hashlib.md5(b"content", usedforsecurity=False).hexdigest()
        store = Uploads(memory.backend, {"f": etag})
        for ours, theirs in ((Storage(store), disk), (disk, Storage(store))):
            store.asked = 0
            _, outcomes = await run(ours, theirs)
            assert outcomes["f"].reason == "unchanged"
            assert store.asked == (0 if stored == "md5" else 1)
        later = stamp + timedelta(hours=1)
        await memory.write_bytes("f", b"content", WriteOptions(modified=later))
        if stored != "md5":
            _, outcomes = await run(Storage(store), disk)
            assert outcomes["f"].reason == "modification time differs"


async def test_what_was_uploaded_in_the_second_of_a_change_is_not_taken_for_it() -> None:
    """The store lists when a file came, which may be when the next one of its size was made."""
    now = datetime(2026, 1, 1, tzinfo=UTC)

    class AtOnce(Uploads):
        async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
            async for page in super().scan(path, recursive=recursive):
                yield [replace(entry, modified=now) for entry in page]

    source, memory = await filled("a", {}), await filled("b", {})
    await memory.write_bytes("f", b"older", WriteOptions(modified=now - timedelta(seconds=9)))
    await source.write_bytes("f", b"newer", WriteOptions(modified=now))
    target = Storage(AtOnce(memory.backend, {}))
    _, outcomes = await run(source, target)
    assert outcomes["f"].reason == "modification time differs"
    assert await content(memory) == {"f": b"newer"}
    _, outcomes = await run(source, target)
    assert outcomes["f"].reason == "unchanged"


async def test_what_each_page_leaves_open_is_looked_at() -> None:
    """Every folder is a page of its own."""
    source, memory = await filled("a", {}), await filled("b", {})
    for name in ("a/f", "b/f", "c/f"):
        await memory.write_bytes(name, b"older", WriteOptions(modified=datetime(2026, 1, 1, tzinfo=UTC)))
        await source.write_bytes(name, b"newer", WriteOptions(modified=datetime(2026, 1, 2, tzinfo=UTC)))
    summary, _ = await run(source, Storage(Uploads(memory.backend, {})))
    assert summary.copied == 3
    assert await content(memory) == await content(source)


@pytest.mark.parametrize("etag", ["0" * 32, "0-2"])
async def test_one_md5_at_two_stores_settles_it(etag: str) -> None:
    """Whoever copied it there, and whenever; the etag of an upload in parts is no digest, and may be another's."""
    ends = [Uploads((await filled(name, {"f": b"content"})).backend, {"f": etag}) for name in ("one", "other")]
    _, outcomes = await run(Storage(ends[0]), Storage(ends[1]))
    assert outcomes["f"].reason == ("unchanged" if etag == "0" * 32 else "modification time differs")
    assert [end.asked for end in ends] == ([0, 0] if etag == "0" * 32 else [1, 1])


@pytest.mark.parametrize(("folder", "to"), [("", ""), ("b", "b"), ("b", "b/d"), ("b/d", "b"), ("", "b")])
async def test_into_its_own_source_is_refused(folder: str, to: str) -> None:
    storage = await filled("a", TREE)
    with pytest.raises(Conflict, match="overlap"):
        await run(storage, storage, folder, to)
    assert await content(storage) == TREE


@pytest.mark.parametrize(
    ("one", "other"), [("real", "real"), ("real", "real/in"), ("real/in", "real"), ("real", "link/in")]
)
async def test_overlap_of_two_endpoints_on_one_disk(tmp_path: Path, one: str, other: str) -> None:
    """Different roots and links do not hide that it is the same place."""
    (tmp_path / "real/in").mkdir(parents=True)
    (tmp_path / "real/in/file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    ends = [LocalSettings(root=tmp_path / name).backend(name) for name in (one, other)]
    async with Storage(ends[0]) as source, Storage(ends[1]) as target:
        with pytest.raises(Conflict, match="overlap"):
            await run(source, target)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "in", "link", "real"]


async def test_overlap_of_two_endpoints_on_one_server(openssh: OpenSSH) -> None:
    (openssh.folder / "overlap/in").mkdir(parents=True)
    roots = ["overlap", f"{openssh.folder}/overlap/in"]
    ends = [SftpSettings.model_validate(openssh.settings(root=root)).backend("s") for root in roots]
    async with Storage(ends[0]) as source, Storage(ends[1]) as target:
        with pytest.raises(Conflict, match="overlap"):
            await run(source, target)


async def test_a_whole_bucket_into_another(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    with bucket(moto) as one, bucket(moto) as other:
        for path, data in TREE.items():
            one.write(path, data)
        ends = [backend(moto, each.bucket, monkeypatch) for each in (one, other)]
        async with Storage(ends[0]) as source, Storage(ends[1]) as target:
            await run(source, target)
            assert await content(target) == TREE
            summary, _ = await run(source, target)
            assert (summary.copied, summary.skipped) == (0, len(TREE))
            with pytest.raises(Conflict, match="overlap"):
                await run(source, source, "", "b")


async def test_neighbours_with_a_common_prefix_do_not_overlap() -> None:
    storage = await filled("a", TREE)
    await run(storage, storage, "b", "b2")
    assert (await content(storage, "b2")).keys() == {"c.txt", "d/e.bin"}


async def test_links_and_special_files_are_skipped_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    os.mkfifo(tmp_path / "pipe")
    target = await filled("b", {})
    async with Storage(LocalSettings(root=tmp_path).backend("disk")) as source:
        _, outcomes = await run(source, target)
    assert {path: o.action for path, o in outcomes.items()} == {"real": "copy", "link": "skip", "pipe": "skip"}
    assert "link" in outcomes["link"].reason
    assert "regular" in outcomes["pipe"].reason


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_link_in_the_way_of_a_file_is_a_failure(tmp_path: Path, dry_run: bool) -> None:
    """Not a file left out: what is there is not the source's."""
    source = await filled("a", {"x": b"file", "y": b"2"})
    (tmp_path / "x").symlink_to("elsewhere")
    async with Storage(LocalSettings(root=tmp_path).backend("b")) as target:
        summary, outcomes = await run(source, target, dry_run=dry_run)
    assert (summary.failed, summary.copied) == (1, 1)
    assert isinstance(outcomes["x"].error, NotAFile)
    assert os.readlink(tmp_path / "x") == "elsewhere"


async def test_age_is_measured_against_the_start_of_the_run() -> None:
    source, target = await filled("a", {"new": b"n"}), await filled("b", {})
    await source.write_bytes("old", b"o", WriteOptions(modified=datetime.now(UTC) - timedelta(hours=2)))
    _, outcomes = await run(source, target, filters=Filters(min_age=timedelta(hours=1)))
    assert {path: o.action for path, o in outcomes.items()} == {"new": "skip", "old": "copy"}


PROCESSES = """
import asyncio, json, sys
from crossdock.engine.sync.processes import Pool
from crossdock.engine.sync import sync
from crossdock.storage.local import LocalSettings
from crossdock.storage.registry import new_storage

source = lambda: new_storage("a", LocalSettings(root=sys.argv[1]))
target = lambda: new_storage("b", LocalSettings(root=sys.argv[2]))
pool = Pool(3, source, target)
outcomes, moved, used = [], [], set()

async def courier(*asked):
    moving = asyncio.create_task(pool(*asked))
    await asyncio.sleep(0)
    used.update(each.child.pid for each in pool._pending.values())
    return await moving

async def main():
    async with source() as here, target() as there, pool:
        progress = lambda p, n, s: moved.append(n)
        await sync(here, "", there, "", report=outcomes.append, progress=progress, courier=courier)

asyncio.run(main())
print(json.dumps({"outcomes": [outcome.as_json() for outcome in outcomes], "moved": sum(moved), "used": len(used)}))
"""


_BROKEN = """
import asyncio
from crossdock.engine.sync.processes import Pool
from crossdock.errors import TransferError
from crossdock.storage.base import Entry
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.storage import Storage

class Broken(MemoryBackend):
    async def begin_read(self, path, *, offset=0, pin=None):
        raise ZeroDivisionError("a mistake")

pool = Pool(2, lambda: Storage(Broken("a")), lambda: Storage(MemoryBackend("b")))

async def main():
    async with pool, asyncio.timeout(40):
        for _ in range(3):
            try:
                await pool("a", "a", Entry(path="a", size=1), lambda size: None)
            except (TransferError, ZeroDivisionError) as error:
                print(error, *(line for note in error.__notes__ for line in note.splitlines()[-1:]))

asyncio.run(main())
"""


def test_a_mistake_in_a_process_is_waited_for_by_nobody() -> None:
    """It is raised as if there were but one process, with its traceback; nobody is to look for memory."""
    done = subprocess.run([sys.executable, "-c", _BROKEN], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["a mistake ZeroDivisionError: a mistake"] * 3, done.stderr
    assert done.stderr == ""


def test_several_processes_move_the_same_tree(tmp_path: Path) -> None:
    """Each process has its own connections; outcomes, errors and progress come back to the one who asked."""
    ours, theirs = tmp_path / "a", tmp_path / "b"
    files = {f"d{n % 7}/f{n}": hashlib.shake_128(str(n).encode()).digest(n * 997) for n in range(120)}
    for path, data in files.items():
        (ours / path).parent.mkdir(parents=True, exist_ok=True)
        (ours / path).write_bytes(data)
    theirs.mkdir()
    (theirs / "d0").write_bytes(b"a file where a folder should be")
    done = subprocess.run(
        [sys.executable, "-c", PROCESSES, str(ours), str(theirs)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = {path: data for path, data in files.items() if not path.startswith("d0/")}
    assert {str(p.relative_to(theirs)): p.read_bytes() for p in theirs.glob("*/*")} == expected
    assert found["moved"] == sum(map(len, expected.values()))
    assert found["used"] == 3
    proofs = {outcome["target"]: outcome["verified"] for outcome in found["outcomes"] if outcome["action"] == "copy"}
    assert proofs == {f"b:{path}": "size" for path in expected}
    failed = [outcome for outcome in found["outcomes"] if outcome["action"] == "fail"]
    assert len(failed) == len(files) - len(expected)
    assert {outcome["kind"] for outcome in failed} == {"NotADirectory"}
