from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from crossdock.storage.memory import MemoryBackend
from crossdock.storage.storage import Storage
from crossdock.testing import StorageSuite


class TestMemory(StorageSuite):
    max_name = None

    @pytest.fixture
    async def storage(self) -> AsyncGenerator[Storage]:
        async with Storage(MemoryBackend()) as storage:
            yield storage
