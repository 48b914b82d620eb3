"""A partner's SFTP server on loopback, with a tree whose names are as awkward as real ones get."""

from __future__ import annotations

import asyncio
import os
import secrets
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from crossdock.storage.sftp.login import know_account

__all__ = ["Partner", "fill", "partner"]

_LARGE = 64 * 1024 * 1024
_USER = "acme"


@dataclass(frozen=True, slots=True)
class Partner:
    """How to reach the running server."""

    host: str
    port: int
    user: str
    private_key: Path
    """Mode 600; the one key that is let in."""
    fingerprint: str
    """Of the host key, "SHA256:…"."""


def fill(folder: Path) -> int:
    """Write the tree below `folder`; returns the number of files."""
    composed = unicodedata.normalize("NFC", "Zoë.csv")
    files: dict[str, int] = {
        "empty.csv": 0,
        "large.bin": _LARGE,
        "invoices/quarter 1 + 2.csv": 1_000,
        "invoices/100% done.csv": 2_000,
        "invoices/50%25 off.csv": 3_000,
        'invoices/it\'s "quoted".csv': 10,
        "invoices/semi;colon & $(dollar) #hash.csv": 10,
        "names/-rf": 10,
        "names/ leading space": 10,
        "names/trailing dot.": 10,
        "names/📦 parcel.bin": 300_000,
        "names/" + "l" * 200 + ".txt": 10,
        f"names/composed/{composed}": 10,
        f"names/decomposed/{unicodedata.normalize('NFD', composed)}": 20,
        "a/b/c/d/e/f/deep.txt": 10,
    }
    for name, size in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(secrets.token_bytes(size))
    return len(files)


@asynccontextmanager
async def partner(folder: Path, keys: Path) -> AsyncIterator[Partner]:
    """Serve `folder` while the block runs. `keys`: where the client's new private key is put."""
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    client_key = asyncssh.generate_private_key("ssh-ed25519")
    private_key = keys / "acme_key"
    private_key.touch(mode=0o600)
    private_key.write_bytes(client_key.export_private_key())
    known = client_key.convert_to_public()

    class Account(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return True

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
            return username == _USER and key == known

    class Folder(asyncssh.SFTPServer):
        def __init__(self, channel: asyncssh.SSHServerChannel[bytes]) -> None:
            super().__init__(channel, chroot=os.fsencode(folder))

    await asyncio.to_thread(know_account)
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        config=None,
        server_factory=Account,
        server_host_keys=[host_key],
        sftp_factory=Folder,
        compression_algs=None,
    )
    try:
        yield Partner("127.0.0.1", server.get_port(), _USER, private_key, host_key.get_fingerprint())
    finally:
        server.close()
        await server.wait_closed()
