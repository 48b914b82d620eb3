"""A house of endpoints in memory, and a bench between real ones."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crossdock.ledger.memory import MemoryLedger
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.storage.base import Backend
from crossdock.storage.local import LocalSettings
from crossdock.storage.retry import Retry
from crossdock.storage.sftp.settings import SftpSettings
from crossdock.storage.storage import Storage
from tests.engine.bench import Bench, Fragile
from tests.engine.clocks import Clock
from tests.engine.places import House
from tests.servers import OpenSSH
from tests.storage.s3.places import AT_ONCE, BotoPeer, Server, bucket
from tests.storage.s3.places import backend as s3_backend


@pytest.fixture
async def home() -> AsyncIterator[House]:
    clock = Clock()
    async with MemoryLedger(clock=clock.seconds) as ledger:
        yield House(ledger, clock)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    kind: str = getattr(request, "param", "local")
    if kind == "local":
        (tmp_path / "source").mkdir()
        yield LocalSettings(root=tmp_path / "source").backend("bank")
    elif kind == "openssh":
        server: OpenSSH = request.getfixturevalue("openssh")
        folder = server.folder / uuid.uuid4().hex
        folder.mkdir()
        server.own()
        yield SftpSettings.model_validate(server.settings(root=folder.name)).backend("bank")
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
