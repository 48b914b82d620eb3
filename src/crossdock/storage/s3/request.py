"""What is asked of the store, and what it answers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["Answer", "Body", "Request"]

_OFF_THE_LOOP = 64 * 1024
"""Bytes; hashing more than this takes long enough to be worth a thread."""
_LARGE = 1024 * 1024
"""Bytes; from here on a body is worth a thread and a connection for such bodies."""


class Body:
    """What a request sends: the caller's chunks, neither joined nor copied, and sent again as often as needed."""

    def __init__(self, chunks: Iterable[bytes | memoryview] = ()) -> None:
        self.chunks = tuple(chunks)
        self.size = sum(len(chunk) for chunk in self.chunks)
        self._sha256: str | None = None

    async def sha256(self) -> str:
        """In hexadecimal; computed once, in a thread if it takes long."""
        if self._sha256 is None:
            self._sha256 = (await self._hashed("sha256")).hex()
        return self._sha256

    async def md5(self) -> str:
        """In base64, as Content-MD5 has it."""
        return base64.b64encode(await self._hashed("md5")).decode()

    async def _hashed(self, name: str) -> bytes:
        return await asyncio.to_thread(self._hash, name) if self.size > _OFF_THE_LOOP else self._hash(name)

    def _hash(self, name: str) -> bytes:
        digest = hashlib.new(name, usedforsecurity=name != "md5")
        for chunk in self.chunks:
            digest.update(chunk)
        return digest.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One REST call. `operation`, `path` and `action` are for messages."""

    method: str
    operation: str
    path: str
    action: str
    bucket: str
    key: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    expected: int = 0
    """Bytes that the answer's body may have; the caller has room for them."""
    packed: bool = False
    """Of an object that was stored with a `Content-Encoding`: its bytes as they are stored."""

    @property
    def large(self) -> bool:
        return max(self.expected, self.body.size if self.body else 0) >= _LARGE


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `code` is "" after a success, else one of the codes that the caller allowed."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    code: str = ""
