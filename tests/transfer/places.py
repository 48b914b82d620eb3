"""Two endpoints, and a file at the first."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from crossdock.storage.memory import MemoryBackend
from crossdock.storage.storage import Storage

CONTENT = hashlib.shake_256(b"content").digest(3_000_001)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Storage, Storage]]:
    async with Storage(MemoryBackend("one")) as source, Storage(MemoryBackend("two")) as target:
        await source.write_bytes("in/file.bin", CONTENT)
        yield source, target
