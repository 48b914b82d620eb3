"""Objects called `a` and `a/x`, which only a store without folders can hold both: which of them fails is no chance."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossdock.engine.engine import Engine
from crossdock.engine.sync import SyncOptions, sync
from crossdock.engine.sync.outcome import Outcome
from crossdock.flows.flow import Destination, Flow, Place, Rule
from crossdock.ledger.memory import MemoryLedger
from crossdock.storage.local import LocalSettings
from crossdock.storage.storage import Storage
from tests.engine.clocks import Clock
from tests.engine.places import AT_ONCE
from tests.servers import Ceph
from tests.storage.s3.places import backend, bucket

KEYS = ("a", "a-b", "a/x", "a/y/z", "b/a", "c/d", "c/d/e")
BURIED = {"a/x", "a/y/z", "c/d/e"}


@pytest.mark.parametrize("dry_run", [False, True])
async def test_sync(ceph: Ceph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry_run: bool) -> None:
    with bucket(ceph) as peer:
        for key in KEYS:
            peer.write(key, key.encode())
        local = Storage(LocalSettings(root=tmp_path).backend("here"))
        async with Storage(backend(ceph, peer.bucket, monkeypatch)) as store, local:
            said: list[Outcome] = []
            await sync(store, "", local, "", SyncOptions(dry_run=dry_run), report=said.append)
        assert {each.path for each in said if each.action == "copy"} == set(KEYS) - BURIED
        errors = {each.path: str(each.error) for each in said if each.action == "fail"}
        assert errors.keys() == BURIED
        assert "write here:a/y/z: a file of the source, 'a', is above it. Next: leave one out" in errors["a/y/z"]
        found = {str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()}
        assert found == (set() if dry_run else set(KEYS) - BURIED)


@pytest.mark.parametrize("folders", [True, False])
async def test_flow(ceph: Ceph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: bool) -> None:
    """Told by the plan as well; where the target is a store, too, all go."""
    (tmp_path / "lake").mkdir()
    with bucket(ceph) as peer, bucket(ceph) as other:
        for key in KEYS:
            peer.write(key, key.encode())

        def new(name: str) -> Storage:
            if folders and name == "lake":
                return Storage(LocalSettings(root=tmp_path / "lake").backend("lake"))
            return Storage(backend(ceph, (other if name == "lake" else peer).bucket, monkeypatch))

        rules, clock = (Rule(name="to", to=(Destination(endpoint="lake", template="in/{path}"),)),), Clock()
        flow = Flow(name="f", source=Place("bank"), rules=rules, settle=AT_ONCE)
        async with (
            MemoryLedger(clock=clock.seconds) as ledger,
            Engine([flow], new, ledger, clock=clock, transfers=4) as engine,
        ):
            summary = await engine.run_once()
        stuck = {path: reason for _, path, reason in summary.stuck}
        assert stuck.keys() == (BURIED if folders else set())
        assert (summary.delivered, summary.failed) == (len(KEYS) - len(stuck), 0)
        if folders:
            assert stuck["a/y/z"] == "a goes to lake:in/a, and nothing can be below a file there"
