"""Publishing where a rename may not replace: the old file steps aside."""

from __future__ import annotations

from collections.abc import Callable

from crossdock.storage.ftp import changing
from crossdock.storage.ftp.calls import Calls
from crossdock.storage.ftp.connection import Connection
from crossdock.storage.staging import publish_by_swap

__all__ = ["swap"]


async def swap(
    calls: Calls, connection: Connection, temporary: str, path: str, attempt: str, let_go: Callable[[], None]
) -> None:
    """By this connection, which is the caller's, and once it has broken by others: then the caller is to `let_go`."""

    async def rename(old: str, new: str) -> None:
        await step(old, changing.move_beside, calls.full(old, "write"), calls.full(new, "write"))

    async def remove(path: str) -> None:
        await step(path, changing.remove, calls.full(path, "write"))

    async def step(path: str, work: Callable[..., None], *names: bytes) -> None:
        if not connection.alive:
            let_go()
        await calls.call_on(connection, "write", path, work, *names)

    await publish_by_swap(rename, remove, temporary, path, attempt)
