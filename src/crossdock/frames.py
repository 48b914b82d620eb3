"""Messages between a process and one that it has started: our own code on both sides, so that unpickling is safe."""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ["Frames", "packed", "received"]

_HEAD = struct.Struct(">I")


def packed(value: object) -> bytes:
    """A frame: four bytes of length, and the pickle."""
    body = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return _HEAD.pack(len(body)) + body


class Frames:
    """Takes bytes as they come, and gives frames' values."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        self._bytes += data
        found = []
        while len(self._bytes) >= _HEAD.size:
            end = _HEAD.size + _HEAD.unpack_from(self._bytes)[0]
            if len(self._bytes) < end:
                break
            found.append(pickle.loads(self._bytes[_HEAD.size : end]))
            del self._bytes[:end]
        return found


async def received(reader: asyncio.StreamReader) -> Any:
    """The next frame's value; None when the other process is gone."""
    try:
        (size,) = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        return pickle.loads(await reader.readexactly(size))
    except (EOFError, ConnectionError):
        return None
