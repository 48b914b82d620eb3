"""Calls of a thread that a coroutine waits for: an executor takes more locks, and more turns of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

__all__ = ["Call", "Workers", "as_future"]

T = TypeVar("T")


class Call(Generic[T]):
    """Something that a thread is to call while a coroutine waits; made on the event loop that it belongs to."""

    def __init__(self, work: Callable[..., T], arguments: tuple[object, ...]) -> None:
        self._work, self._arguments = work, arguments
        self._loop = asyncio.get_running_loop()
        self._result: T | None = None
        self._error: BaseException | None = None
        self.told: asyncio.Future[T] = self._loop.create_future()
        self.ended = False

    def __call__(self) -> None:
        try:
            self._result = self._work(*self._arguments)
        except BaseException as error:  # noqa: BLE001 (handed to the coroutine)
            self._error = error
        try:
            self._loop.call_soon_threadsafe(self._tell)
        except RuntimeError:
            return  # the event loop has ended: nobody is left to tell

    def _tell(self) -> None:
        self.ended = True
        if self.told.done():
            return
        if self._error is not None:
            self.told.set_exception(self._error)
            self._error = None
        else:
            self.told.set_result(self._result)  # type: ignore[arg-type]

    async def heard_out(self) -> None:
        """Wait for the end, of which nobody wants the result, however often that is interrupted."""
        while not self.ended:
            self.told = self._loop.create_future()
            try:
                await self.told
            except asyncio.CancelledError:
                continue
            except BaseException:  # noqa: BLE001 (nobody is left to tell)
                return


def as_future(work: Callable[..., T], arguments: tuple[object, ...]) -> tuple[Future[T], Callable[[], None]]:
    """A future for whoever does not wait on the event loop, and what a thread is to call to settle it."""
    future: Future[T] = Future()

    def call() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            found = work(*arguments)
        except BaseException as error:  # noqa: BLE001 (handed to whoever asks for the result)
            future.set_exception(error)
        else:
            future.set_result(found)

    return future, call


class Workers:
    """Up to `most` threads, started when those that there are have work. Used from one event loop."""

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._given = 0
        self._done: list[int] = []
        """By thread, which alone changes it, so that it takes no lock."""

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Have `work` called. If the caller is cancelled, that is heard once the thread is done.

        A thread cannot be stopped; were it left running, it could make what a cancelled caller then cleans up.
        """
        call = Call(work, arguments)
        self._give(call)
        try:
            return await call.told
        except asyncio.CancelledError:
            await call.heard_out()
            raise

    def begin(self, work: Callable[..., T], *arguments: object) -> Future[T]:
        """Have `work` called, after what was given before has begun."""
        future, call = as_future(work, arguments)
        self._give(call)
        return future

    def _give(self, call: Callable[[], None]) -> None:
        self._given += 1
        if len(self._threads) < self._most and self._given - sum(self._done) > len(self._threads):
            number = len(self._threads)
            self._done.append(0)
            thread = Thread(target=self._work_off, args=(number,), name=f"{self._name}_{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._calls.put(call)

    def _work_off(self, number: int) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call
            self._done[number] += 1

    def end(self) -> None:
        """Wait until all that was given is done, and no thread is left. Blocks."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()
