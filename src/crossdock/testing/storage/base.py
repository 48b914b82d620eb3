"""What a backend's test supplies to the suite, and what the suite's themes share."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import aclosing
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import pytest

from crossdock.errors import Unsupported
from crossdock.storage.base import Entry, Expect, Reader, WriteOptions
from crossdock.storage.storage import Storage

__all__ = [
    "KIB",
    "LONG_AGO",
    "MIB",
    "MISSING",
    "FolderPeer",
    "Peer",
    "SuiteBase",
    "at_once",
    "cancelled_at",
    "chunks",
    "content",
    "growing",
    "listed",
    "read_all",
    "same",
    "unsupported",
    "walked",
    "write",
]

T = TypeVar("T")
KIB, MIB = 1024, 1024 * 1024
LONG_AGO = datetime(2001, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
MISSING = ["missing", "missing/below", "missing/far/below"]


class Peer(Protocol):
    """The same place, reached past our code, so that what is there is asserted from outside. Paths as in `Storage`."""

    def read(self, path: str) -> bytes: ...

    def write(self, path: str, data: bytes) -> None:
        """Replace the content, in place where there is such a thing; make folders as needed."""

    def names(self) -> set[str]:
        """Every file with its whole path, temporaries included, and unfinished uploads under any name."""


class FolderPeer:
    """A `Peer` for what lies in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = os.fsencode(folder)

    def _at(self, path: str) -> bytes:
        return os.path.join(self.folder, path.encode("utf-8", "surrogateescape"))  # noqa: PTH118 - paths as bytes

    def read(self, path: str) -> bytes:
        with open(self._at(path), "rb") as file:  # noqa: PTH123
            return file.read()

    def write(self, path: str, data: bytes) -> None:
        where = self._at(path)
        os.makedirs(os.path.dirname(where), exist_ok=True)  # noqa: PTH103, PTH120
        with open(where, "wb") as file:  # noqa: PTH123
            file.write(data)

    def names(self) -> set[str]:
        found = set()
        for folder, _, files in os.walk(self.folder):
            for name in files:
                path = os.path.relpath(os.path.join(folder, name), self.folder)  # noqa: PTH118
                found.add(path.decode("utf-8", "surrogateescape"))
        return found


class SuiteBase:
    """Knobs and fixtures. Override `storage`; the rest only where the endpoint differs."""

    names_refused: ClassVar[frozenset[str]] = frozenset()
    """Keys of `names.NAMES` whose names this endpoint cannot hold, beyond what `Storage.checked` refuses everywhere."""
    max_name: ClassVar[int | None] = 255
    """Bytes of the longest component; None: no limit."""
    max_path: ClassVar[int | None] = None
    """Bytes of the longest path; None: no limit that the suite reaches."""
    large_size: ClassVar[int] = 24 * MIB
    """Bytes of the largest file; more than two parts or windows of the backend."""
    many: ClassVar[int] = 1100
    """Entries of the big folder: more than one page of the listing."""
    folds_case: ClassVar[bool] = False
    """`A` and `a` are one name here."""

    @pytest.fixture
    def storage(self) -> Storage:
        """An open `Storage` on an empty scratch root of its own."""
        raise NotImplementedError("supply a fixture named storage")

    @pytest.fixture
    def peer(self, storage: Storage) -> Peer | None:
        """The scratch root of `storage`, past our code; None if there is no way."""
        return None

    async def names(self, storage: Storage, peer: Peer | None) -> set[str]:
        """All files there are, temporaries included, as the endpoint and, where possible, the peer sees them."""
        found = {entry.path for entry in await self.tree(storage) if entry.kind != "dir"}
        return found | peer.names() if peer is not None else found

    async def tree(self, storage: Storage, path: str = "") -> list[Entry]:
        found = []
        if not storage.capabilities.directories:
            return [entry async for entry in storage.walk(path)]
        for entry in await listed(storage, path, temporaries=True):
            found.append(entry)
            if entry.kind == "dir":
                found += await self.tree(storage, entry.path)
        return found

    async def holds(self, storage: Storage, peer: Peer | None, path: str, data: bytes) -> None:
        """The bytes under `path` are `data`, whoever asks."""
        found = await storage.read_bytes(path, limit=len(data) + MIB)
        assert same(found, data)
        assert (await storage.stat(path)).size == len(data)
        if peer is not None:
            assert same(peer.read(path), data)

    async def fill(self, storage: Storage, peer: Peer | None, files: Iterable[tuple[str, bytes]]) -> None:
        """Make files the fastest way there is."""
        if peer is not None:
            for path, data in files:
                peer.write(path, data)
        else:
            await at_once(8, [storage.write_bytes(path, data) for path, data in files])

    async def staged(self, storage: Storage, path: str, data: bytes, options: WriteOptions | None = None) -> bytes:
        """Write `data`, suspend, and return the checkpoint. The backend can resume, so there must be one."""
        writer = await storage.begin_write(path, options or WriteOptions())
        try:
            for chunk in chunks(data, 256 * KIB):
                await writer.write(chunk)
            token = writer.checkpoint()
            assert token is not None, "nothing to resume from, although bytes are stored"
            await writer.suspend()
        finally:
            await writer.abort()
        return token


def same(found: bytes, wanted: bytes) -> bool:
    """Equality, with a message that says where, instead of megabytes of difference."""
    if found == wanted:
        return True
    at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted)))
    pytest.fail(f"{len(found)} bytes, {len(wanted)} expected; they differ from byte {at} on")


@lru_cache(maxsize=8)
def content(size: int, seed: int = 0) -> bytes:
    """Bytes that repeat nowhere and are the same in every run."""
    return random.Random(seed).randbytes(size)


def chunks(data: bytes, size: int) -> Iterable[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


async def read_all(reader: Reader) -> bytes:
    found = []
    while chunk := await reader.read():
        found.append(chunk)
    assert await reader.read() == b"", "after the end comes the end"
    return b"".join(found)


async def listed(storage: Storage, path: str = "", *, temporaries: bool = False) -> list[Entry]:
    async with aclosing(storage.scan(path, temporaries=temporaries)) as entries:
        return [entry async for entry in entries]


async def walked(storage: Storage, path: str = "") -> list[str]:
    async with aclosing(storage.walk(path)) as entries:
        return [entry.path async for entry in entries]


async def write(
    storage: Storage, path: str, data: bytes, *, chunk: int = 256 * KIB, options: WriteOptions | None = None
) -> Entry:
    """Write in chunks, without saying the size beforehand."""
    async with storage.write(path, options) as writer:
        for part in chunks(data, chunk):
            await writer.write(part)
        return await writer.commit(Expect(size=len(data)))


async def unsupported(action: Awaitable[object]) -> None:
    """The opposite of a capability: the method says so."""
    with pytest.raises(Unsupported):
        await action


async def at_once(width: int, actions: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, in order, with at most `width` actions at a time."""
    slots = asyncio.Semaphore(width)

    async def one(action: Coroutine[Any, Any, T]) -> T:
        async with slots:
            return await action

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(action)) for action in actions]
    return [task.result() for task in tasks]


class _Counted:
    """Awaits a coroutine; calls `strike` when it waits for the n-th time."""

    def __init__(self, action: Coroutine[Any, Any, object], at: int, strike: Callable[[], object]) -> None:
        self._action, self._at, self._strike = action, at, strike
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._action.__await__()
        error: BaseException | None = None
        while True:
            try:
                waiting = steps.send(None) if error is None else steps.throw(error)
            except StopIteration:
                return
            self.waits += 1
            if self.waits == self._at:
                self._strike()
            try:
                yield waiting
                error = None
            except BaseException as raised:  # noqa: BLE001 - handed on to the coroutine above
                error = raised


async def cancelled_at(action: Coroutine[Any, Any, object], wait: int) -> bool:
    """Run `action` in a task and cancel it at its n-th wait, counted from 1. False: it ended before."""
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []

    async def run() -> None:
        await counted

    counted = _Counted(action, wait, lambda: loop.call_soon(tasks[0].cancel))
    tasks.append(asyncio.create_task(run()))
    await asyncio.wait(tasks)
    if not tasks[0].cancelled():
        tasks[0].result()
    return counted.waits >= wait


def growing(limit: int = 400) -> Iterable[int]:
    """1, 2, 3 … 20, then ever wider steps: every early wait, and some of the late ones."""
    at = 1
    while at < limit:
        yield at
        at = at + 1 if at < 20 else int(at * 1.3)
