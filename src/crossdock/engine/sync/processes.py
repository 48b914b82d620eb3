"""Several processes for one sync: each has its own event loop and connections, and moves the files it is handed.

The processes are forked before the parent's event loop starts, so that the interpreter and its modules are loaded
once. A child ends when the parent's socket closes, whatever ended the parent; what it was moving is aborted first.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import socket
import traceback
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Self

from crossdock.engine.attempts import deliver
from crossdock.errors import CrossdockError, TransferError, shown
from crossdock.frames import packed, received
from crossdock.storage.base import Entry
from crossdock.storage.retry import RetryPolicy
from crossdock.storage.storage import Storage
from crossdock.transfer.receipt import Receipt

__all__ = ["Pool"]

_TOLD_EVERY = 0.1
"""Seconds between two progress messages of a child."""


@dataclass
class _Child:
    pid: int
    sock: socket.socket
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None
    listener: asyncio.Task[None] | None = None
    load: int = 0
    ended: bool = False

    @property
    def takes(self) -> bool:
        # Its socket is closed a moment before its listener hears of that.
        return not self.ended and self.writer is not None and not self.writer.is_closing()


@dataclass
class _Pending:
    path: str
    done: asyncio.Future[tuple[Receipt, int]]
    progress: Callable[[int], None]
    child: _Child


class Pool:
    """`Pool(n, source, target)` forks at once: make it before any event loop or thread exists.

    `source` and `target` give storages not yet opened; they are called in each child. Then `async with pool:` in the
    parent's loop; the pool is a `Courier`.
    """

    def __init__(
        self,
        processes: int,
        source: Callable[[], Storage],
        target: Callable[[], Storage],
        *,
        policy: RetryPolicy | None = None,
        run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
    ) -> None:
        self._children: list[_Child] = []
        self._pending: dict[int, _Pending] = {}
        self._count = 0
        # Made once here, so that the libraries behind them are loaded before the fork and not in every child.
        source(), target()
        gc.freeze()
        for _ in range(processes):
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                ours.close()
                for child in self._children:
                    child.sock.close()
                _run_child(theirs, source, target, policy, run)
            theirs.close()
            self._children.append(_Child(pid, ours))
        gc.unfreeze()

    async def __aenter__(self) -> Self:
        for child in self._children:
            child.reader, child.writer = await asyncio.open_unix_connection(sock=child.sock)
            child.listener = asyncio.create_task(self._listen(child, child.reader))
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in self._children:
            if child.writer is not None:
                child.writer.close()
        for child in self._children:
            if child.listener is not None:
                await asyncio.gather(child.listener, return_exceptions=True)
            await asyncio.to_thread(os.waitpid, child.pid, 0)

    async def __call__(self, path: str, to: str, pin: Entry, progress: Callable[[int], None]) -> tuple[Receipt, int]:
        child = min((child for child in self._children if child.takes), key=lambda child: child.load, default=None)
        if child is None or child.writer is None:
            raise _left_undone(path)
        self._count += 1
        number = self._count
        done: asyncio.Future[tuple[Receipt, int]] = asyncio.get_running_loop().create_future()
        self._pending[number] = _Pending(path, done, progress, child)
        child.load += 1
        try:
            child.writer.write(packed((number, path, to, pin)))
            return await done
        finally:
            child.load -= 1
            del self._pending[number]

    async def _listen(self, child: _Child, reader: asyncio.StreamReader) -> None:
        try:
            while (message := await received(reader)) is not None:
                number, word, value = message
                pending = self._pending.get(number)
                if pending is None or pending.done.done():
                    continue
                if word == "moved":
                    pending.progress(value)
                elif word == "done":
                    pending.done.set_result(value)
                else:
                    pending.done.set_exception(value)
        finally:
            # Whoever is killed with nothing under way would look like the one with the least to do.
            child.ended = True
            for pending in self._pending.values():
                if pending.child is child and not pending.done.done():
                    pending.done.set_exception(_left_undone(pending.path))


def _left_undone(path: str) -> TransferError:
    return TransferError(
        f"copy {shown(path)}: the process that was to move it has ended",
        hint="run it again; the system's log tells if memory ran out",
    )


def _run_child(
    sock: socket.socket,
    source: Callable[[], Storage],
    target: Callable[[], Storage],
    policy: RetryPolicy | None,
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    """Never returns: a forked child must not run the parent's clean-up."""
    # A terminal and systemd tell all processes to stop; the parent decides, and the child follows its socket.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    code = 1
    try:
        run(_serve(sock, source, target, policy))
        code = 0
    finally:
        os._exit(code)


def _portable(error: Exception) -> Exception:
    """A mistake in the program, or a machine at its limits, with where that was, which no traceback tells elsewhere."""
    where = "".join(traceback.format_exception(error)).rstrip()
    try:
        found: Exception = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - what a class of somebody else's does as it is copied
        return RuntimeError(where)
    found.add_note(where)
    return found


async def _serve(
    sock: socket.socket,
    source: Callable[[], Storage],
    target: Callable[[], Storage],
    policy: RetryPolicy | None,
) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    jobs: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()

    async with AsyncExitStack() as stack:

        async def opened() -> tuple[Storage, Storage]:
            ours, theirs = source(), target()
            await asyncio.gather(stack.enter_async_context(ours), stack.enter_async_context(theirs))
            return ours, theirs

        opening = asyncio.create_task(opened())

        async def job(number: int, path: str, to: str, pin: Entry) -> None:
            told = [loop.time(), 0.0]

            def moved(size: int) -> None:
                told[1] += size
                if loop.time() - told[0] > _TOLD_EVERY:
                    writer.write(packed((number, "moved", int(told[1]))))
                    told[:] = loop.time(), 0.0

            try:
                ours, theirs = await asyncio.shield(opening)
                result: object = await deliver(ours, path, theirs, to, pin=pin, policy=policy, progress=moved)
                word = "done"
            except CrossdockError as error:
                result, word = error, "failed"
            except MemoryError:
                # The parent must not wait for this process.
                writer.close()
                raise
            except Exception as error:  # noqa: BLE001 - of which the parent ends, as it would without this process
                result, word = _portable(error), "failed"
            if told[1]:
                writer.write(packed((number, "moved", int(told[1]))))
            writer.write(packed((number, word, result)))

        try:
            while (message := await received(reader)) is not None:
                task = asyncio.create_task(job(*message))
                jobs.add(task)
                task.add_done_callback(jobs.discard)
        finally:
            opening.cancel()
            for task in jobs:
                task.cancel()
            await asyncio.gather(*jobs, opening, return_exceptions=True)
            writer.close()
