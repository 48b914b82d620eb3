"""A store, a proxy in front of it that fails, and an endpoint there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

import pytest

from crossdock.storage.storage import Storage
from tests.storage.s3.faults import FaultProxy
from tests.storage.s3.places import BotoPeer, Server, backend, bucket


@pytest.fixture
def peer(moto: Server) -> Iterator[BotoPeer]:
    with bucket(moto) as found:
        yield found


@pytest.fixture
async def proxy(moto: Server) -> AsyncGenerator[FaultProxy]:
    async with FaultProxy(moto) as found:
        yield found


@pytest.fixture
async def storage(proxy: FaultProxy, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Storage]:
    inner = backend(
        proxy,
        peer.bucket,
        monkeypatch,
        part_size="5M",
        copy_threshold="5M",
        copy_part_size="5M",
        conditional_writes="on",
    )
    async with Storage(inner) as found:
        yield found
