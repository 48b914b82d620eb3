"""Two names of one place, of which nobody knows that they are one: a flow that takes its source away would lose it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from crossdock.engine.engine import Engine
from crossdock.engine.sync import SyncOptions, sync
from crossdock.errors import Conflict, InvalidPath
from crossdock.flows.flow import After, Destination, Flow, Place, Rule
from crossdock.ledger.base import Query
from crossdock.ledger.memory import MemoryLedger
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.registry import new_storage, settings_class
from crossdock.storage.s3.backend import S3Backend
from crossdock.storage.storage import Storage
from crossdock.transfer.copy import CopyOptions, copy
from tests.engine.clocks import Clock
from tests.engine.places import AT_ONCE
from tests.servers import Ceph, Moto, OpenSSH, Vsftpd
from tests.storage.s3.places import backend as s3_backend
from tests.storage.s3.places import bucket

DELETE, ARCHIVE = After(delete=True), After(archive=".done")
BOTH = pytest.mark.parametrize("after", [DELETE, ARCHIVE], ids=["delete", "archive"])
ONLY = b"the only one"


def storage(name: str, given: Mapping[str, Any]) -> Storage:
    return new_storage(name, settings_class(given["type"]).model_validate(given))


def folder_of(server: OpenSSH | Vsftpd, *names: str) -> Path:
    folder = server.folder / uuid.uuid4().hex
    for name in ("", *names):
        (folder / name).mkdir()
        (folder / name / "a.csv").write_bytes(ONLY)
    if isinstance(server, OpenSSH):
        server.own()
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


async def run(partner: Storage, lake: Storage, after: After, **more: Any) -> list[tuple[str, str]]:
    """What became of the transfers of a flow from the one's root to the other's."""
    rules = (Rule(name="to", to=(Destination(endpoint="lake"),)),)
    flow = Flow(name="f", source=Place("partner"), rules=rules, settle=AT_ONCE, after=after, **more)
    ends, clock = {"partner": partner, "lake": lake}, Clock()
    async with MemoryLedger(clock=clock.seconds) as ledger:
        async with Engine([flow], lambda name: Storage(ends[name].backend), ledger, clock=clock) as engine:
            await engine.run_once()
        return [(str(each.state), each.error or each.why) for each in await ledger.find(Query())]


@BOTH
@pytest.mark.parametrize("conflict", ["overwrite", "fail", "skip", "version"])
async def test_a_flow_into_its_own_source(openssh: OpenSSH, vsftpd: Vsftpd, after: After, conflict: Any) -> None:
    for server in (openssh, vsftpd):
        folder = folder_of(server)
        one = openssh.settings(root=folder.name)
        if server is vsftpd:
            one = vsftpd.settings(root=f"{vsftpd.root}{folder.name}", certificate=vsftpd.fingerprint)
        other = {**one, "host": "localhost"}
        ((state, error),) = await run(storage("partner", one), storage("lake", other), after, on_conflict=conflict)
        assert files(folder) == {"a.csv": ONLY}, server.name
        assert state == "failed", error
        said = (
            "write lake:a.csv: this is the source itself, partner:a.csv, by another name. Next: send it somewhere else"
        )
        assert error == said


async def test_no_version_of_the_source_itself(openssh: OpenSSH) -> None:
    """Each run would have made one more of each, and of those that the last one made."""
    folder = folder_of(openssh)
    one = openssh.settings(root=folder.name)
    ends = storage("partner", one), storage("lake", {**one, "host": "localhost"})
    ((state, error),) = await run(*ends, After(), on_conflict="version")
    assert (state, files(folder)) == ("failed", {"a.csv": ONLY})
    assert "this is the source itself, partner:a.csv, by another name" in error


@BOTH
async def test_by_another_protocol(openssh: OpenSSH, after: After) -> None:
    folder = folder_of(openssh)
    ends = storage("partner", openssh.settings(root=folder.name)), storage("lake", {"type": "local", "root": folder})
    for one, other in (ends, ends[::-1]):
        one.backend.endpoint, other.backend.endpoint = "partner", "lake"
        ((state, _),) = await run(one, other, after)
        assert (state, files(folder)) == ("failed", {"a.csv": ONLY})


@BOTH
async def test_two_addresses_of_one_store(ceph: Ceph, after: After, monkeypatch: pytest.MonkeyPatch) -> None:
    with bucket(ceph) as peer:
        peer.write("a.csv", ONLY)
        one = s3_backend(ceph, peer.bucket, monkeypatch)
        url = ceph.endpoint_url.replace("127.0.0.1", "localhost")
        other = S3Backend(one.settings.model_copy(update={"endpoint_url": url}), "lake")
        ((state, _),) = await run(Storage(one), Storage(other), after)
        assert (state, peer.names(), peer.read("a.csv")) == ("failed", {"a.csv"}, ONLY)


@BOTH
async def test_a_target_that_holds_the_same_is_another_place(openssh: OpenSSH, after: After) -> None:
    folder = folder_of(openssh, "in", "out")
    ends = [openssh.settings(root=f"{folder.name}/{name}") for name in ("in", "out")]
    ((state, _),) = await run(storage("partner", ends[0]), storage("lake", {**ends[1], "host": "localhost"}), after)
    moved = {"in/.done/a.csv": ONLY} if after is ARCHIVE else {}
    assert (state, files(folder)) == ("done", {"a.csv": ONLY, "out/a.csv": ONLY, **moved})


class Counting(MemoryBackend):
    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.store, self.looks = None, 0

    async def stat(self, path: str) -> Any:
        self.looks += 1
        return await super().stat(path)


async def test_it_is_asked_once_for_each_folder() -> None:
    ends: list[Counting] = [Counting("partner"), Counting("lake")]
    async with Storage(ends[0]) as one, Storage(ends[1]) as other:
        for number in range(30):
            await one.write_bytes(f"in/{number}", b"x")
            await copy(one, f"in/{number}", other, f"in/{number}", options=CopyOptions(takes_source=True))
        assert ends[1].looks == 1


async def test_in_place(openssh: OpenSSH) -> None:
    """Where nothing is staged, the first byte to be written would have cut off the file that is read."""
    folder = folder_of(openssh)
    one = openssh.settings(root=folder.name)
    async with storage("a", one) as source, storage("b", {**one, "host": "localhost", "staging": "none"}) as target:
        with pytest.raises(InvalidPath, match=r"the source itself, a:a\.csv, by another name"):
            await copy(source, "a.csv", target, "a.csv")
    assert files(folder) == {"a.csv": ONLY}


@pytest.mark.parametrize("options", [SyncOptions(), SyncOptions(checksum=True, delete=True), SyncOptions(delete=True)])
async def test_sync(openssh: OpenSSH, options: SyncOptions) -> None:
    folder = folder_of(openssh, "sub")
    one = openssh.settings(root=folder.name)
    async with storage("a", one) as source, storage("b", {"type": "local", "root": folder}) as target:
        await copy(source, "a.csv", target, "a.csv")
        await sync(source, "", target, "", options=options, report=lambda _: None)
    assert files(folder) == {"a.csv": ONLY, "sub/a.csv": ONLY}


@pytest.mark.parametrize(("here", "there"), [("", ""), ("", "sub"), ("sub", ""), ("sub", "sub/er")])
async def test_sync_into_a_parent_or_a_child(
    openssh: OpenSSH, vsftpd: Vsftpd, moto: Moto, monkeypatch: pytest.MonkeyPatch, here: str, there: str
) -> None:
    """Each time, all of it would go a level deeper; and with `delete`, the source is what only the target has."""
    for server in (openssh, vsftpd):
        folder = folder_of(server, "sub")
        one = openssh.settings(root=folder.name)
        if server is vsftpd:
            one = vsftpd.settings(root=f"{vsftpd.root}{folder.name}", certificate=vsftpd.fingerprint)
        async with storage("a", one) as source, storage("b", {**one, "host": "localhost"}) as target:
            with pytest.raises(Conflict, match="overlap"):
                await sync(source, here, target, there, options=SyncOptions(delete=True, max_delete=1.0))
            await sync(source, "sub", target, "sub2")
        assert files(folder) == {"a.csv": ONLY, "sub/a.csv": ONLY, "sub2/a.csv": ONLY}
    with bucket(moto) as peer:
        peer.write("sub/a.csv", ONLY)
        first = s3_backend(moto, peer.bucket, monkeypatch)
        url = moto.endpoint_url.replace("127.0.0.1", "localhost")
        other = S3Backend(first.settings.model_copy(update={"endpoint_url": url}), "lake")
        async with Storage(first) as source, Storage(other) as target:
            with pytest.raises(Conflict, match="overlap"):
                await sync(source, here, target, there)
        assert peer.names() == {"sub/a.csv"}
