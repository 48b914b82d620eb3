"""Where client and server have no algorithm in common: what the server knows alone, and the line that allows it."""

from __future__ import annotations

from collections.abc import Sequence

import asyncssh

from crossdock.errors import ConfigError
from crossdock.storage.sftp.login import algorithms

__all__ = ["lacking", "remedy"]

_TYPE_AND_COOKIE = 17
_SIGNALS = ("kex-strict-", "ext-info-")
"""In the list of key exchanges, and none (RFC 8308 §2.1; OpenSSH's PROTOCOL §1.10)."""
_OF_AUTHENTICATED_CIPHERS = ("gcm", "poly1305")
_HOST_KEY = "host key"


def lacking(
    connection: asyncssh.SSHClientConnection | None, host_keys: Sequence[str], legacy: Sequence[str]
) -> dict[str, list[str]]:
    """What should have been agreed on → the server's names for it. Empty: all of it was, or the server said nothing.

    asyncssh tells the first of them only, and nothing where the server is faster to hang up.
    """
    offered = _name_lists(getattr(connection, "_server_kexinit", b""))
    if not offered:
        return {}
    ours = algorithms(legacy)
    ciphers = set(ours["encryption_algs"]) & set(offered[2])
    found = {
        "key exchange": (ours["kex_algs"], [name for name in offered[0] if not name.startswith(_SIGNALS)]),
        _HOST_KEY: (host_keys, offered[1]),
        "cipher": (ours["encryption_algs"], offered[2]),
        "MAC": (ours["mac_algs"], offered[4]),
    }
    if any(name in cipher for cipher in ciphers for name in _OF_AUTHENTICATED_CIPHERS):
        del found["MAC"]
    return {what: theirs for what, (mine, theirs) in found.items() if not set(mine) & set(theirs)}


def remedy(found: dict[str, list[str]], host_keys: Sequence[str], legacy: Sequence[str]) -> str | None:
    """The line for the endpoint with which all would be agreed on; None: there is none."""
    wanted = list(legacy)
    for what, names in found.items():
        if what == _HOST_KEY:
            # A key of another kind than those that are trusted stays untrusted.
            able = ["ssh-rsa"] if "ssh-rsa" in names and "rsa-sha2-256" in host_keys else []
        else:
            able = [name for name in names if _is_known(name)]
        if not able:
            return None
        wanted.append(able[0])
    return f"legacy: [{', '.join(wanted)}]"


def _is_known(name: str) -> bool:
    try:
        algorithms([name])
    except ConfigError:
        return False
    return True


def _name_lists(message: bytes) -> list[list[str]]:
    """Of a KEXINIT (RFC 4253 §7.1): key exchanges, host keys, then ciphers and MACs, each to and from the server."""
    found: list[list[str]] = []
    at = _TYPE_AND_COOKIE
    for _ in range(6):
        start = at + 4
        at = start + int.from_bytes(message[at:start], "big")
        if len(message) < at or at == start:
            return []
        found.append(message[start:at].decode("ascii", "replace").split(","))
    return found
