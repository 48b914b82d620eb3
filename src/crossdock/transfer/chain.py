"""The transforms of one file, run in threads between its reader and its writer."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

from crossdock.errors import CrossdockError, TransformFailed, raised_at

if TYPE_CHECKING:
    from crossdock.transfer.transforms.base import Step, Transform

__all__ = ["Chain"]

log = logging.getLogger("crossdock.transfer")

_BATCH = 1024 * 1024
"""Bytes of output that a thread makes before the event loop takes them."""
_LONGEST_REASON = 1000
"""Characters."""


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(8, thread_name_prefix="crossdock-transform")


# A forked child has the executor's object but none of its threads.
os.register_at_fork(after_in_child=_threads.cache_clear)


class Chain:
    """Each step's output is the next one's input. `file` is how messages name the file.

    Memory: the chunk that is fed, up to 1 MiB and one piece of output, and what each transform holds.
    """

    def __init__(self, steps: Sequence[Step], file: str) -> None:
        self.file = file
        self._steps = steps
        self._transforms: list[Transform] = []
        self._running: asyncio.Future[tuple[list[bytes], bool]] | None = None
        self._pieces: Iterator[bytes] | None = None
        self._stopped = False

    async def feed(self, data: bytes, take: Callable[[bytes], Awaitable[None]]) -> None:
        """Give `take` what becomes of the next chunk. Raises `TransformFailed`, and what `take` raises."""
        await self._run(self._through(0, data), take)

    async def finish(self, take: Callable[[bytes], Awaitable[None]]) -> None:
        """Give `take` what is left at the end; every transform agrees when this returns."""
        await self._run(self._ends(), take)

    async def close(self) -> None:
        """Give everything back; whatever still runs is stopped first. Safe to repeat, and at any point."""
        self._stopped = True
        for number in range(len(self._transforms)):
            self._quietly(number, "stop")
        if self._running is not None:
            await asyncio.wait([self._running])
            self._running.exception()
        if self._transforms:
            await asyncio.get_running_loop().run_in_executor(_threads(), self._close)

    def _close(self) -> None:
        pieces, self._pieces = self._pieces, None
        if pieces is not None:
            pieces.close()  # type: ignore[attr-defined]
        while self._transforms:
            self._quietly(len(self._transforms) - 1, "close")
            self._transforms.pop()

    def _quietly(self, number: int, method: str) -> None:
        """Whatever has become of the file, it is not for a transform's tidying up to change that, or to end the run."""
        try:
            getattr(self._transforms[number], method)()
        except (Exception, SystemExit) as error:  # noqa: BLE001 (a user's own code may raise anything)
            name = self._steps[number].name
            log.warning("transform %s of %s: %s: %s: %s", name, self.file, method, type(error).__name__, error)

    async def _run(self, pieces: Iterator[bytes], take: Callable[[bytes], Awaitable[None]]) -> None:
        self._pieces = pieces
        ended = False
        while not ended:
            self._running = asyncio.get_running_loop().run_in_executor(_threads(), self._batch, pieces)
            # Not awaited itself: cancelling would leave a thread behind of which `close` knows nothing.
            await asyncio.wait([self._running])
            batch, ended = self._running.result()
            for piece in batch:
                await take(piece)

    def _batch(self, pieces: Iterator[bytes]) -> tuple[list[bytes], bool]:
        if not self._transforms:
            for step in self._steps:
                self._transforms.append(self._start(step))
        batch: list[bytes] = []
        size = 0
        if self._stopped:
            return batch, False
        for piece in pieces:
            batch.append(piece)
            size += len(piece)
            if size >= _BATCH or self._stopped:
                return batch, False
        return batch, True

    def _start(self, step: Step) -> Transform:
        try:
            return step.start()
        except CrossdockError:
            raise
        except (Exception, SystemExit) as error:
            raise self._failed(step, error) from error

    def _through(self, first: int, data: bytes) -> Iterator[bytes]:
        """What the transforms from `first` on make of a chunk."""
        if first == len(self._steps):
            yield data
            return
        for piece in self._pieces_of(first, data):
            yield from self._through(first + 1, piece)

    def _ends(self) -> Iterator[bytes]:
        for number in range(len(self._steps)):
            for piece in self._pieces_of(number, None):
                yield from self._through(number + 1, piece)

    def _pieces_of(self, number: int, data: bytes | None) -> Iterator[bytes]:
        """One transform's output, its failures named; None is the end of the file."""
        try:
            transform = self._transforms[number]
            # Any: a user's own may give what it should not.
            output: Any = transform.finish() if data is None else transform.feed(data)
            many = isinstance(output, Iterable) and not isinstance(output, (bytes, bytearray, memoryview, str))
            for piece in output if many else (output,):
                if not isinstance(piece, bytes):
                    raise TypeError(f"it gave {type(piece).__name__}, not bytes")
                if piece:
                    yield piece
        except CrossdockError:
            raise
        except (Exception, SystemExit) as error:
            # Whatever a transform raises, a user's own above all, means that this file is not to be published.
            raise self._failed(self._steps[number], error) from error

    def _failed(self, step: Step, error: BaseException) -> TransformFailed:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        # It may quote the file, and goes to the ledger and into mails.
        reason = f"{reason[:_LONGEST_REASON]}…" if len(reason) > _LONGEST_REASON else reason
        hint: str | None = getattr(error, "hint", None)
        if step.name.startswith("python:") and not hasattr(error, "hint"):
            reason += raised_at(error)
            hint = "mend the class, or correct the file at its source"
        return TransformFailed(
            f"transform {step.name} of {self.file}: {reason}; nothing was published",
            hint=hint or "correct the file at its source, or the rule's list of transforms",
        )
