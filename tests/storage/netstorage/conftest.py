"""`FakeNetStorage`, and an endpoint there."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from crossdock.storage.netstorage.backend import NetStorageBackend
from crossdock.storage.retry import Reopen, Retry
from crossdock.storage.storage import Storage
from crossdock.testing import FakeNetStorage
from tests.storage.netstorage.places import AT_ONCE, backend


@pytest.fixture
async def server() -> AsyncGenerator[FakeNetStorage]:
    async with FakeNetStorage() as server:
        yield server


@pytest.fixture
async def place(server: FakeNetStorage, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[NetStorageBackend]:
    found = backend(server, monkeypatch)
    async with Storage(found):
        yield found


@pytest.fixture
def storage(place: NetStorageBackend) -> Storage:
    return Storage(Retry(Reopen(place, AT_ONCE), AT_ONCE))
