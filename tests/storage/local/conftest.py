"""A folder, and an endpoint there."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from crossdock.storage.local import LocalSettings
from crossdock.storage.storage import Storage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
async def storage(root: Path) -> AsyncGenerator[Storage]:
    async with Storage(LocalSettings(root=root).backend("disk")) as storage:
        yield storage
