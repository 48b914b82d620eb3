"""Hints that something below a local folder has changed. Hints may be lost: rescans are the truth."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

from crossdock.errors import ConfigError

__all__ = ["watch"]

log = logging.getLogger("crossdock.engine")

_QUIET_MS = 200
"""A hint is given when nothing has changed for so long, or after `_LONGEST_MS` of changes."""
_LONGEST_MS = 2000
_LOOK_MS = 1000
_AGAIN = 60.0
"""Seconds until a folder that cannot be watched (missing, too many watches) is tried again."""


async def watch(path: str | Path, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> AsyncGenerator[None]:
    """Yields once when the watch stands, and after changes below `path`. Ends only when it is closed.

    What goes wrong is logged and tried again; until then there are no hints, and `every` finds the files. Raises
    `ConfigError` if the extra is not installed.
    """
    try:
        from watchfiles import awatch
    except ImportError as error:
        raise ConfigError("watching a folder needs a library", hint="pip install 'crossdock[watch]'") from error
    while True:
        stands = False
        # No filter: which files count is the flow's decision, not the library's.
        changes = awatch(
            path,
            watch_filter=None,
            debounce=_LONGEST_MS,
            step=_QUIET_MS,
            rust_timeout=_LOOK_MS,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )
        try:
            folder = await asyncio.to_thread(_identity, path)
            async with aclosing(changes):
                async for found in changes:
                    # The first answer, even an empty one: what came before the watch stood is not missed.
                    if found or not stands:
                        stands = True
                        yield None
                    # A folder that is made anew under the same name is not the one that is watched.
                    if found and await asyncio.to_thread(_identity, path) != folder:
                        raise FileNotFoundError("the folder was replaced")
        except (OSError, RuntimeError) as error:
            log.warning("cannot watch %s, so it is only looked at from time to time: %s", path, error)
        await sleep(_AGAIN)


def _identity(path: str | Path) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino
