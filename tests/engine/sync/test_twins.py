"""One-way sync to a target that takes `A.csv` and `a.csv` for one file: neither is lost unnoticed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from crossdock.errors import AlreadyExists, ConnectionFailed
from crossdock.storage.base import Entry
from crossdock.storage.layers import Layer
from crossdock.storage.local import LocalSettings
from crossdock.storage.storage import Storage
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.engine.sync.trees import content, filled, run
from tests.storage.ftp.places import FACTS, faulty

TWINS = {"A.csv": b"upper", "a.csv": b"lower", "b.csv": b"b", "c/D.csv": b"upper d", "c/d.csv": b"lower d"}


@pytest.fixture
async def windows(tmp_path: Path) -> AsyncGenerator[tuple[FaultyFtpServer, Storage]]:
    (tmp_path / "home").mkdir()
    async with FaultyFtpServer(tmp_path / "home", features=FACTS) as server:
        server.faults.folds = True
        async with faulty(server) as storage:
            yield server, storage


@pytest.mark.parametrize("there", [(), ("z.csv",), ("1", "z.csv")], ids=["empty", "with a name", "with a digit first"])
async def test_of_two_names_one_is_moved_and_the_other_told(
    windows: tuple[FaultyFtpServer, Storage], there: tuple[str, ...]
) -> None:
    server, target = windows
    for name in there:
        (server.folder / name).touch()
    source = await filled("a", TWINS)
    for copied in (3, 0):
        summary, outcomes = await run(source, target)
        assert (summary.copied, summary.failed) == (copied, 2)
        for name, other in (("a.csv", "A.csv"), ("c/d.csv", "c/D.csv")):
            assert isinstance(outcomes[name].error, AlreadyExists)
            assert f"the target takes this name for that of {other!r}" in str(outcomes[name].error)
        held = await content(target)
        assert {name: held[name] for name in TWINS if name in held} == {
            "A.csv": b"upper", "b.csv": b"b", "c/D.csv": b"upper d"
        }  # fmt: skip


async def test_a_rehearsal_tells_it_as_well(windows: tuple[FaultyFtpServer, Storage]) -> None:
    server, target = windows
    (server.folder / "A.csv").write_bytes(b"upper")
    _, outcomes = await run(await filled("a", TWINS), target, dry_run=True)
    assert outcomes["a.csv"].action == "fail"


@pytest.mark.parametrize("name", ["Report.csv", "Data/x.csv"])
async def test_a_file_whose_name_changed_its_case_is_not_deleted(
    windows: tuple[FaultyFtpServer, Storage], name: str
) -> None:
    server, target = windows
    (server.folder / "Data").mkdir()
    for old in (name, "old.csv", "1", "2"):
        (server.folder / old).write_bytes(b"before")
    source = await filled("a", {name.lower(): b"now", "1": b"before", "2": b"before"})
    for dry_run in (True, False):
        summary, outcomes = await run(source, target, delete=True, max_delete=2, dry_run=dry_run)
        assert (summary.deleted, outcomes[name].action) == (1, "skip")
    assert (await content(target))[name] == b"now"


@pytest.mark.parametrize("name", ["Report.csv", "Data/x.csv"])
async def test_it_is_where_names_are_told_apart(tmp_path: Path, name: str) -> None:
    source = await filled("a", {name.lower(): b"now", "1": b"1"})
    target = Storage(LocalSettings(root=tmp_path).backend("disk"))
    for old in (name, "1"):
        await target.write_bytes(old, b"before")
    for dry_run in (True, False):
        assert (await run(source, target, delete=True, max_delete=1, dry_run=dry_run))[0].deleted == 1
    assert await content(target) == {name.lower(): b"now", "1": b"1"}


class LosesTheLine(Layer):
    at: frozenset[str]

    async def stat(self, path: str) -> Entry:
        if path in self.at:
            raise self.error(ConnectionFailed, "stat", path, "the connection was lost")
        return await self.inner.stat(path)


@pytest.mark.parametrize("many", [1000, 1], ids=["a few", "many"])
async def test_a_line_lost_in_the_moment_of_looking_is_no_word_for_it(
    windows: tuple[FaultyFtpServer, Storage], many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossdock.engine.sync.twins._MANY", many)
    _, target = windows
    loses = LosesTheLine(target.backend)
    loses.at = frozenset({"a.csv", "B.csv"})
    _, outcomes = await run(await filled("a", {"A.csv": b"upper", "a.csv": b"lower", "b.csv": b"b"}), Storage(loses))
    assert isinstance(outcomes["a.csv"].error, ConnectionFailed)
    assert await content(target) == {"A.csv": b"upper", "b.csv": b"b"}


class Counts(Layer):
    asked: list[str]

    async def stat(self, path: str) -> Entry:
        self.asked.append(path)
        return await self.inner.stat(path)


async def test_a_target_of_many_files_is_asked_once_whether_it_tells_them_apart() -> None:
    tree = {f"{number:04}.csv": b"" for number in range(2200)} | TWINS
    source, target = await filled("a", tree), await filled("b", {})
    counts = Counts(target.backend)
    for copied in (len(tree), 0):
        counts.asked = []
        assert (await run(source, Storage(counts)))[0].copied == copied
        assert len([path for path in counts.asked if path not in tree]) == 1
    assert await content(target) == tree
