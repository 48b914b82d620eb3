from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from crossdock.errors import InvalidPath
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.storage import Storage
from crossdock.testing import StorageSuite


class TestMemory(StorageSuite):
    max_name = None

    @pytest.fixture
    async def storage(self) -> AsyncGenerator[Storage]:
        async with Storage(MemoryBackend()) as storage:
            yield storage


async def test_a_name_that_comes_from_a_store_without_folders_and_cannot_be_here() -> None:
    """Who reads such a path wrote it; what is written got its name elsewhere, and no shorter path is meant by it."""
    async with Storage(MemoryBackend()) as storage:
        with pytest.raises(InvalidPath, match="an empty component") as refused:
            await storage.write_bytes("a//b", b"")
        assert refused.value.hint == "give it another name in the rule or command that moves it"
        with pytest.raises(InvalidPath, match="an empty component") as refused:
            await storage.stat("a//b")
        assert refused.value.hint == "write the path from the endpoint's root on, without it"
