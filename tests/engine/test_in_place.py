"""Attempts that are killed as they write under the file's own name (`staging: none`), where nothing may be replaced."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from crossdock.engine.engine import Engine
from crossdock.engine.recovery import Record, where
from crossdock.flows.flow import Destination, OnConflict, Rule, TransformSpec
from crossdock.ledger.base import Planned
from crossdock.storage.ftp import FtpSettings
from crossdock.storage.sftp import SftpSettings
from crossdock.storage.storage import Storage
from crossdock.testing.fault_ftp import FaultyFtpServer
from crossdock.testing.fault_sftp import FaultySftpServer, SftpFault
from tests.engine.places import House, flow

DATA = bytes(range(256)) * 3000
NOTHING: Mapping[str, Any] = {}
POLICIES: tuple[OnConflict, ...] = ("skip", "fail", "version")


class Scene:
    """A target that stages nothing, at a folder."""

    def __init__(self, home: House, folder: Path, target: Storage) -> None:
        self.home, self.folder, self.target = home, folder, target

    def new(self, name: str) -> Storage:
        return self.home.new("src") if name == "src" else self.target

    async def killed(
        self,
        there: bytes | None,
        *,
        recorded: bool = True,
        at: str = "",
        data: bytes = DATA,
        more: Mapping[str, Any] = NOTHING,
    ) -> None:
        """A worker had begun, and had written so much."""
        ledger = self.home.ledger
        await self.home.put("a", data)
        entry = await Storage(self.home.src).stat("a")
        await ledger.add([Planned(flow="f", source="src", entry=entry, target="dst", target_path="in/a")], who="poll")
        (lease,) = await ledger.claim("killed")
        if recorded:
            record = Record(to="in/a", at=at or where(self.target), in_place=True)
            await ledger.staged(lease, replace(record, **more).dump())
        if there is not None:
            (self.folder / "in").mkdir()
            (self.folder / "in/a").write_bytes(there)
        self.home.clock.move(61)

    async def next(self, on_conflict: OnConflict, **more: Any) -> tuple[str, str]:
        """The next worker comes: the transfer's state then, and why."""
        to = (Destination("dst", "in/{path}"),)
        found = flow(rules=(Rule(name="all", to=to, **more),), on_conflict=on_conflict)
        async with Engine([found], self.new, self.home.ledger, clock=self.home.clock) as engine:
            await engine.run_once(patience=0)
        (transfer,) = (await self.home.transfers()).values()
        return str(transfer.state), transfer.why or ""

    def files(self) -> dict[str, bytes]:
        return files(self.folder)


def files(folder: Path) -> dict[str, bytes]:
    found = [each for each in folder.rglob("*") if each.is_file()]
    return {str(each.relative_to(folder)): each.read_bytes() for each in found}


@asynccontextmanager
async def sftp(server: FaultySftpServer) -> AsyncGenerator[Storage]:
    given = {"host": server.host, "port": server.port, "user": server.user, "root": "/", "staging": "none"}
    given |= {"private_key": f"file:{server.key}", "host_key": server.fingerprint}
    async with Storage(SftpSettings.model_validate(given).backend("dst")) as target:
        yield target


@pytest.fixture(params=["sftp", "ftp"])
async def scene(home: House, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncGenerator[Scene]:
    folder = tmp_path / "target"
    folder.mkdir()
    if request.param == "sftp":
        async with FaultySftpServer(folder) as server, sftp(server) as target:
            yield Scene(home, folder, target)
    else:
        secret = tmp_path / "secret"
        secret.write_text(FaultyFtpServer.password)
        secret.chmod(0o600)
        async with FaultyFtpServer(folder) as other:
            given = {"type": "ftp", "host": other.host, "port": other.port, "user": other.user, "staging": "none"}
            settings = FtpSettings.model_validate({**given, "password": f"file:{secret}"})
            async with Storage(settings.backend("dst")) as target:
                yield Scene(home, folder, target)


@pytest.mark.parametrize("on_conflict", POLICIES)
@pytest.mark.parametrize("there", [None, b"", DATA[:1], DATA[:-1]], ids=["nothing", "empty", "a byte", "all but one"])
async def test_what_a_killed_attempt_had_begun_is_not_in_the_way(
    scene: Scene, there: bytes | None, on_conflict: OnConflict
) -> None:
    await scene.killed(there)
    assert (await scene.next(on_conflict))[0] == "done"
    assert scene.files() == {"in/a": DATA}


@pytest.mark.parametrize("on_conflict", POLICIES)
async def test_what_was_written_in_full_is_delivered(scene: Scene, on_conflict: OnConflict) -> None:
    await scene.killed(DATA)
    state, _ = await scene.next(on_conflict)
    assert state == "done"
    assert scene.files()["in/a"] == DATA


@pytest.mark.parametrize("there", [b"another's", DATA[:-1] + b"?", DATA + b"more"], ids=["other", "as long", "longer"])
@pytest.mark.parametrize("on_conflict", POLICIES)
async def test_what_is_not_how_it_begins_stays(scene: Scene, there: bytes, on_conflict: OnConflict) -> None:
    """Somebody has put it there since; or it may be a part, which is not taken for a file that is to be kept."""
    await scene.killed(there)
    state, why = await scene.next(on_conflict)
    assert scene.files()["in/a"] == there
    part = len(there) < len(DATA)
    assert state == {"version": "done", "skip": "failed" if part else "skipped"}.get(on_conflict, "failed")
    assert ("had begun to write it in place" in why) == (part and on_conflict != "version")
    if on_conflict == "version":
        assert scene.files()["in/a~1"] == DATA


@pytest.mark.parametrize("how", ["not recorded", "another place"])
async def test_what_no_attempt_had_begun_there_stays(scene: Scene, how: str) -> None:
    await scene.killed(
        b"", recorded=how != "not recorded", at="sftp:me@elsewhere:22/" if how == "another place" else ""
    )
    assert (await scene.next("skip"))[0] == "skipped"
    assert scene.files() == {"in/a": b""}


@pytest.mark.parametrize("there", [b"", b"\x1f\x8b"], ids=["empty", "begun"])
async def test_what_steps_have_made_is_compared_with_nothing(scene: Scene, there: bytes) -> None:
    """What is empty goes; else it is told, once: who looks at it, and says to go on, is asked no more."""
    await scene.killed(there)
    zipped = (TransformSpec("gzip"),)
    state, why = await scene.next("skip", transforms=zipped)
    assert state == ("done" if not there else "failed")
    if not there:
        return
    assert why.endswith("Next: see what is there, and remove it if it is a part")
    (transfer,) = (await scene.home.transfers()).values()
    await scene.home.ledger.requeue([transfer.id], who="me", why="seen")
    assert (await scene.next("skip", transforms=zipped))[0] == "skipped"
    assert scene.files() == {"in/a": there}


async def test_a_source_that_is_gone_leaves_what_is_there(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    await scene.killed(DATA[:7])
    await Storage(scene.home.src).delete("a")
    assert (await scene.next("skip"))[0] == "skipped"
    assert scene.files() == {"in/a": DATA[:7]}
    assert "an attempt was killed as it wrote dst:in/a in place: what is there by now may be a part" in caplog.text


def zipped(**members: bytes) -> bytes:
    found = BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return found.getvalue()


@pytest.mark.parametrize("on_conflict", POLICIES)
@pytest.mark.parametrize("there", [b"", DATA[:5], b"another's", None], ids=["empty", "begun", "other", "not begun"])
async def test_the_beginning_of_a_file_of_an_archive(
    scene: Scene, on_conflict: OnConflict, there: bytes | None
) -> None:
    """The first was published, the second begun. What is not how it begins may be a part, and stays."""
    first = hashlib.sha256(b"1").hexdigest()
    more = {"member": "in/a/one", "member_sha256": first}
    await scene.killed(None, data=zipped(one=b"1", two=DATA), more=more)
    (scene.folder / "in/a").mkdir(parents=True)
    (scene.folder / "in/a/one").write_bytes(b"1")
    if there is not None:
        (scene.folder / "in/a/two").write_bytes(there)
    state, why = await scene.next(on_conflict, transforms=(TransformSpec("unzip"),))
    found = scene.files()
    whole = {"in/a/one": b"1", "in/a/two": DATA}
    if there != b"another's":
        assert (state, found) == ("done", whole)
    elif on_conflict == "version":
        assert (state, found) == ("done", {**whole, "in/a/two": there, "in/a~1/one": b"1", "in/a~1/two": DATA})
    else:
        assert (state, found) == ("failed", {**whole, "in/a/two": there})
        assert "had begun to write it in place" in why


@pytest.mark.parametrize("on_conflict", POLICIES)
@pytest.mark.parametrize("packed", [False, True], ids=["file", "archive"])
async def test_an_answer_that_is_lost_as_the_file_is_made(
    home: House, tmp_path: Path, on_conflict: OnConflict, packed: bool
) -> None:
    """Whether it is ours or another's file nobody heard: the next attempt looks."""
    await home.put("a", zipped(one=DATA) if packed else DATA)
    name = "in/a/one" if packed else "in/a"
    steps = (TransformSpec("unzip"),) if packed else ()
    rule = Rule(name="all", to=(Destination("dst", "in/{path}"),), transforms=steps)
    found = flow(rules=(rule,), on_conflict=on_conflict)
    (tmp_path / "target").mkdir()
    async with FaultySftpServer(tmp_path / "target") as server, sftp(server) as target:

        def new(endpoint: str) -> Storage:
            return home.new("src") if endpoint == "src" else target

        async with Engine([found], new, home.ledger, clock=home.clock) as engine:
            # The first is refused, as there is no folder yet.
            server.faults.append(SftpFault(request="open", how="lost", after=1))
            await engine.discover("f")
            assert (await engine.run_once(patience=0)).waiting == 1
            assert (tmp_path / "target" / name).read_bytes() == b""
            home.clock.move(61)
            assert (await engine.run_once(patience=0)).delivered == 1
    assert files(tmp_path / "target") == {name: DATA}
