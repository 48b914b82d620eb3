"""Digests of what was sent: our own while it is sent, and the server's of what it holds."""

from __future__ import annotations

import hashlib
import logging
import re
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossdock.storage.ftp.connection import Connection

__all__ = ["Own", "difference", "own_digest"]

log = logging.getLogger("crossdock.storage.ftp")


class Own:
    """What a server without SHA-256 is asked for instead, of the bytes that were sent."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self._hash = None if algorithm == "crc32" else hashlib.new(algorithm, usedforsecurity=False)
        self._crc = 0

    def update(self, data: bytes) -> None:
        if self._hash is None:
            self._crc = zlib.crc32(data, self._crc)
        else:
            self._hash.update(data)

    def hexdigest(self) -> str:
        return f"{self._crc:08x}" if self._hash is None else self._hash.hexdigest()


def own_digest(connection: Connection) -> Own | None:
    offered = connection.features.digests
    found = next((name for name in ("sha1", "md5", "crc32") if name in offered), None)
    return None if found is None or "sha256" in offered else Own(found)


def difference(connection: Connection, name: bytes, expected: Mapping[str, str]) -> str | None:
    """What the server holds, if its own digests, of those it offers, are not as expected."""
    offered = connection.features.digests
    for algorithm, wanted in expected.items():
        if algorithm not in offered:
            continue
        found = _digest_of(connection, offered[algorithm], name, len(wanted))
        if found is None:
            log.info("the server offers %s and does not tell it of %r", algorithm, name)
        elif found != wanted.lower():
            return f"the server's {algorithm} is {found}, {wanted} expected"
    return None


def _digest_of(connection: Connection, command: bytes, name: bytes, length: int) -> str | None:
    """The server's own digest of a file, lower-case hexadecimal; None if it does not tell."""
    if command.startswith(b"HASH "):
        if not connection.wire.ask(b"OPTS " + command)[0].good:
            return None
        command = b"HASH"
    elif b" " in name:
        # Without a standard: Serv-U and others tell where the name ends by quotes.
        name = b'"' + name + b'"'
    wire, timeout = connection.wire, connection.wire.patience
    # The server reads the whole file before it answers.
    wire.wait_for(max(600.0, timeout))
    reply = wire.ask(command + b" " + name)[0]
    wire.wait_for(timeout)
    match = re.search(rf"(?<![0-9A-Za-z])[0-9A-Fa-f]{{{length}}}(?![0-9A-Za-z])", reply.text) if reply.good else None
    return match[0].lower() if match else None
