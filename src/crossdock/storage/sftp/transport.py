"""A shorter way for the bulk of what is sent and received: SSH_MSG_CHANNEL_DATA under AES-GCM.

asyncssh precedes every packet with an SSH_MSG_IGNORE (a defence of CBC ciphers that GCM does not need), makes a new
AESGCM object for each, copies what it sends five times, and moves all that it has received up by each packet it takes.
`speed_up` shortens that on one connection, and only where asyncssh's internals look as they did when this was written;
all else takes asyncssh's way.
"""

from __future__ import annotations

import inspect
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import asyncssh
from asyncssh.connection import SSHConnection
from asyncssh.constants import MSG_CHANNEL_DATA
from asyncssh.crypto.cipher import GCMCipher
from asyncssh.encryption import GCMEncryption
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["Inbox", "speed_up"]

log = logging.getLogger("crossdock.storage.sftp")


class Inbox:
    """Received bytes, of which asyncssh takes the head (`[:n]`) and keeps the rest (`[n:]`): here without a copy."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __iadd__(self, data: bytes) -> Inbox:
        self._data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0
        return self

    def __len__(self) -> int:
        return len(self._data) - self._at

    def __getitem__(self, part: slice) -> bytes | Inbox:
        start = self._at + (part.start or 0)
        if part.stop is None:
            self._at = start
            return self
        return self._data[start : self._at + part.stop]


_ATTRIBUTES: dict[str, type | tuple[type, ...]] = {
    "_auth_complete": bool,
    "_kex_complete": bool,
    "_rekey_bytes": int,
    "_rekey_bytes_sent": int,
    "_rekey_seconds": (int, float),
    "_rekey_time": (int, float),
    "_send_seq": int,
    "_send_enchdrlen": int,
    "_send_blocksize": int,
    "_send_encryption": GCMEncryption,
    "_recv_encryption": GCMEncryption,
    "_inpbuf": (bytes, Inbox),
    "_compressor": type(None),
}


def speed_up(ssh: asyncssh.SSHClientConnection) -> bool:
    """Install the shorter way on a connection that is signed in. False: asyncssh's own stays."""
    if not _as_expected(ssh):
        log.debug("asyncssh sends channel data in its own way on this connection")
        return False
    ssh.send_packet = _sender(ssh, ssh.send_packet)  # type: ignore[method-assign]
    if isinstance(ssh._inpbuf, bytes):
        ssh._inpbuf = Inbox(ssh._inpbuf)  # type: ignore[assignment]
    return True


class _Opener(GCMEncryption):
    """Opens packets with one AESGCM object per key, and one copy."""

    def __init__(self, cipher: Any) -> None:
        super().__init__(cipher)
        self._decrypt = AESGCM(cipher._key).decrypt

    def decrypt_packet(self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes) -> bytes | None:
        cipher: Any = self._cipher
        try:
            opened = self._decrypt(cipher._iv, b"".join((first[header_len:], rest, mac)), first[:header_len])
        except InvalidTag:
            return None
        finally:
            cipher._update_iv()
        return opened


def _as_expected(ssh: Any) -> bool:
    if list(inspect.signature(SSHConnection.send_packet).parameters) != ["self", "pkttype", "args", "handler"]:
        return False
    if not all(isinstance(getattr(ssh, name, ssh), kind) for name, kind in _ATTRIBUTES.items()):
        return False
    cipher = getattr(ssh._send_encryption, "_cipher", None)
    return (
        isinstance(cipher, GCMCipher)
        and isinstance(getattr(cipher, "_key", None), bytes)
        and isinstance(getattr(cipher, "_iv", None), bytes)
        and len(cipher._iv) == 12
        and callable(getattr(cipher, "_update_iv", None))
        and callable(getattr(getattr(ssh, "_transport", None), "writelines", None))
    )


def _sender(ssh: Any, original: Callable[..., None]) -> Callable[..., None]:
    current: Any = None
    encrypt: Callable[[bytes, bytes, bytes], bytes]

    def send_packet(pkttype: int, *args: bytes, handler: Any = None) -> None:
        nonlocal current, encrypt
        encryption = ssh._send_encryption
        # Here because requests pass by often: new keys bring asyncssh's own opener back.
        if type(ssh._recv_encryption) is GCMEncryption:
            ssh._recv_encryption = _Opener(ssh._recv_encryption._cipher)
        if (
            pkttype != MSG_CHANNEL_DATA
            or not ssh._kex_complete
            or not ssh._auth_complete
            or ssh._compressor is not None
            or ssh._transport is None
            or type(encryption) is not GCMEncryption
            or ssh._rekey_bytes_sent >= ssh._rekey_bytes
            or (ssh._rekey_seconds and time.monotonic() >= ssh._rekey_time)
        ):
            original(pkttype, *args, handler=handler)
            return
        cipher = encryption._cipher
        if cipher is not current:
            current, encrypt = cipher, AESGCM(cipher._key).encrypt
        length = 1 + sum(map(len, args))
        padding = -(ssh._send_enchdrlen + length) % ssh._send_blocksize
        if padding < 4:
            padding += ssh._send_blocksize
        packet = b"".join((bytes((padding, pkttype)), *args, os.urandom(padding)))
        header = len(packet).to_bytes(4, "big")
        sealed = encrypt(cipher._iv, packet, header)
        cipher._update_iv()
        ssh._transport.writelines((header, sealed))
        ssh._send_seq = (ssh._send_seq + 1) & 0xFFFFFFFF
        ssh._rekey_bytes_sent += len(packet)

    return send_packet
