"""Running transforms by hand, and through `copy` between real storages."""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from crossdock.storage.local import LocalSettings
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.registry import new_storage
from crossdock.storage.storage import Storage
from crossdock.transfer.copy import CopyOptions
from crossdock.transfer.receipt import Receipt
from crossdock.transfer.transforms import step
from crossdock.transfer.unpack import unpack

SIZES = [1, 7, 1000, 65_536, 10_000_000]
"""Of the chunks that a file is fed in: borders must not matter."""


def run(name: str, data: bytes, options: dict[str, Any] | None = None, *, size: int = 100_000) -> bytes:
    """What becomes of the data, fed in chunks of `size` bytes."""
    transform = step(name, options).start()
    try:
        made = [whole(transform.feed(data[start : start + size])) for start in range(0, len(data), size)]
        return b"".join(made) + whole(transform.finish())
    finally:
        transform.close()


def whole(output: bytes | Iterable[bytes]) -> bytes:
    """All of what one call gave."""
    return output if isinstance(output, bytes) else b"".join(output)


@asynccontextmanager
async def target_of(kind: str, tmp_path: Path) -> AsyncIterator[Storage]:
    """An empty storage of this kind: "local" or "memory"."""
    if kind == "memory":
        async with Storage(MemoryBackend("target")) as storage:
            yield storage
    else:
        folder = tmp_path / "target"
        folder.mkdir()
        async with new_storage("target", LocalSettings(type="local", root=folder)) as storage:
            yield storage


async def everything(storage: Storage) -> list[str]:
    """Every name at the endpoint, temporaries included."""
    found = []
    folders = [""]
    while folders:
        async for entry in storage.scan(folders.pop(), temporaries=True):
            if entry.kind == "dir":
                folders.append(entry.path)
            else:
                found.append(entry.path)
    return sorted(found)


both = pytest.mark.parametrize("kind", ["local", "memory"])


def zipped(files: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] = lambda _: None, **more: Any) -> bytes:
    """A ZIP archive of these files; `change` gets each member before it is written."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **more) as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo(name, (2026, 1, 31, 12, 30, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            change(member)
            with warnings.catch_warnings():
                # Two members of one name are among what is tried.
                warnings.simplefilter("ignore")
                archive.writestr(member, data)
    return buffer.getvalue()


@asynccontextmanager
async def source_with(data: bytes) -> AsyncIterator[Storage]:
    async with Storage(MemoryBackend("source")) as storage:
        await storage.write_bytes("in/a.zip", data)
        yield storage


async def unpacked(
    data: bytes,
    target: Storage,
    options: dict[str, Any] | None = None,
    *,
    before: tuple[Any, ...] = (),
    after: tuple[Any, ...] = (),
    to: str = "out",
    **more: Any,
) -> list[Receipt]:
    async with source_with(data) as source:
        steps = CopyOptions(transforms=(*before, step("unzip", options), *after))
        return await unpack(source, "in/a.zip", target, to, options=steps, **more)


# Members of archives, and one of all of them.
BIG = hashlib.shake_256(b"unpack").digest(700_001)
FILES = {"a.csv": b"a;b\r\n1;2\r\n", "sub/deep/b.bin": BIG, "sub/empty": b"", "gr\u00fc\u00dfe.txt": b"hello"}
PLAIN = zipped(FILES)
