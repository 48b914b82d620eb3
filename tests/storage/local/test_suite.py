"""The whole contract against a folder."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from crossdock.storage.local import LocalSettings
from crossdock.storage.storage import Storage
from crossdock.testing import FolderPeer, Peer, StorageSuite


class TestLocal(StorageSuite):
    @pytest.fixture
    async def storage(self, tmp_path: Path) -> AsyncGenerator[Storage]:
        async with Storage(LocalSettings(root=tmp_path).backend("disk")) as storage:
            yield storage

    @pytest.fixture
    def peer(self, storage: Storage, tmp_path: Path) -> Peer | None:
        return FolderPeer(tmp_path)
