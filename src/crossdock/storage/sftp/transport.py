"""A shorter way out for the bulk of what is sent: SSH_MSG_CHANNEL_DATA under AES-GCM.

asyncssh precedes every packet with an SSH_MSG_IGNORE (a defence of CBC ciphers that GCM does not need), makes a new
AESGCM object for each and copies the data five times. `speed_up` replaces the sending of channel data on one
connection, and only where asyncssh's internals look as they did when this was written; all else takes asyncssh's way.
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
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["speed_up"]

log = logging.getLogger("crossdock.storage.sftp")

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
    "_compressor": type(None),
}


def speed_up(ssh: asyncssh.SSHClientConnection) -> bool:
    """Install the shorter way on a connection that is signed in. False: asyncssh's own stays."""
    if not _as_expected(ssh):
        log.debug("asyncssh sends channel data in its own way on this connection")
        return False
    ssh.send_packet = _sender(ssh, ssh.send_packet)  # type: ignore[method-assign]
    return True


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
