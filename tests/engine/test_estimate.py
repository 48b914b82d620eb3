"""The estimate of requests is what a copy sends, counted at the client, whatever the size."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from crossdock.engine.estimate import requests
from crossdock.storage.local import LocalSettings
from crossdock.storage.s3.backend import S3Backend
from crossdock.storage.s3.client import Client, Response
from crossdock.storage.s3.request import Request
from crossdock.storage.storage import Storage
from crossdock.transfer.copy import CopyOptions, copy
from tests.servers import Moto
from tests.storage.s3.places import BotoPeer, backend, bucket

MIB = 1024**2
SIZES = [0, 1, 5 * MIB, 5 * MIB + 1, 12 * MIB]


@pytest.fixture
def peer(moto: Moto) -> Iterator[BotoPeer]:
    with bucket(moto) as found:
        yield found


@pytest.fixture
async def lake(moto: Moto, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Storage]:
    settings = {"part_size": "5M", "copy_threshold": "6M", "copy_part_size": "5M"}
    async with Storage(backend(moto, peer.bucket, monkeypatch, **settings)) as found:
        yield found


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Method → requests that any client sends."""
    found: Counter[str] = Counter()
    send = Client.send

    async def counted(self: Client, request: Request) -> Response:
        found[request.method] += 1
        return await send(self, request)

    monkeypatch.setattr(Client, "send", counted)
    return found


def settings_of(storage: Storage) -> object:
    assert isinstance(storage.backend, S3Backend)
    return storage.backend.settings


@pytest.mark.parametrize("size", SIZES)
async def test_writing_and_reading(lake: Storage, tmp_path: Path, sent: Counter[str], size: int) -> None:
    folder = LocalSettings(root=tmp_path)
    (tmp_path / "a").write_bytes(b"x" * size)
    async with Storage(folder.backend("folder")) as local:
        sent.clear()
        await copy(local, "a", lake, "a")
        assert dict(sent) == requests(size, folder, settings_of(lake))
        (entry,) = [entry async for entry in lake.scan()]
        sent.clear()
        await copy(lake, "a", local, "b", pin=entry)
        assert dict(sent) == requests(size, settings_of(lake), folder)
    assert (tmp_path / "b").stat().st_size == size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overwrite", [True, False], ids=["overwrite", "fail"])
async def test_within_the_store(lake: Storage, peer: BotoPeer, sent: Counter[str], size: int, overwrite: bool) -> None:
    peer.client.put_object(Bucket=peer.bucket, Key="a", Body=b"x" * size)
    (entry,) = [entry async for entry in lake.scan()]
    settings = settings_of(lake)
    sent.clear()
    await copy(lake, "a", lake, "b", pin=entry, options=CopyOptions(overwrite=overwrite))
    expected = requests(size, settings, settings, on_conflict="overwrite" if overwrite else "fail")
    assert dict(sent) == expected
    assert len(peer.read("b")) == size


def test_two_stores_and_transforms(lake: Storage) -> None:
    settings = settings_of(lake)
    assert requests(12 * MIB, settings, settings, transforms=True) == {"GET": 3, "POST": 2, "PUT": 3, "HEAD": 1}
    assert requests(None, settings, settings, transforms=True) == {"GET": 1, "PUT": 1}
    assert requests(1, LocalSettings(root=Path("/x")), settings, on_conflict="version") == {"HEAD": 1, "PUT": 1}
