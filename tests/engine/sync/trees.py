"""Trees of files in memory, and one sync of them."""

from __future__ import annotations

import os

from crossdock.engine.sync import Outcome, Summary, SyncOptions, sync
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.storage import Storage

TREE = {
    "a.txt": b"a",
    "b/c.txt": b"c" * 100_000,
    "b/d/e.bin": os.urandom(300_000),
    "b-x/f": b"",
    "b.y": b"dot",
    "zä/ü 1.csv": "é".encode(),
}


async def filled(name: str, tree: dict[str, bytes]) -> Storage:
    storage = Storage(MemoryBackend(name))
    for path, data in tree.items():
        await storage.write_bytes(path, data)
    return storage


async def content(storage: Storage, folder: str = "") -> dict[str, bytes]:
    skip = len(folder) + 1 if folder else 0
    return {entry.path[skip:]: await storage.read_bytes(entry.path) async for entry in storage.walk(folder)}


async def run(
    source: Storage, target: Storage, folder: str = "", to: str = "", **options: object
) -> tuple[Summary, dict[str, Outcome]]:
    outcomes: list[Outcome] = []
    summary = await sync(source, folder, target, to, SyncOptions(**options), report=outcomes.append)  # type: ignore[arg-type]
    found = {outcome.path: outcome for outcome in outcomes}
    assert len(found) == len(outcomes), "one outcome per file"
    return summary, found
