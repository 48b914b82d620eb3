"""What `doctor` is told about a server: what it calls itself, how it is spoken to, and what is to be put up with."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING

from crossdock.storage.ftp.connection import Connection
from crossdock.storage.ftp.data import told_address

if TYPE_CHECKING:
    from crossdock.storage.ftp.settings import FtpSettings

__all__ = ["remarks", "server_of"]


def server_of(connection: Connection) -> str:
    secured = connection.wire.socket
    how = secured.version() if isinstance(secured, ssl.SSLSocket) else "clear text"
    features = connection.features
    listed = ", ".join(sorted(features.names)) if features.known else "it does not say"
    greeting = features.greeting.strip("- ")[:80]
    if features.server not in greeting.lower():
        greeting += f" ({features.server}, by its features)"
    return f"{greeting}; {how}; features: {listed}"


def remarks(settings: FtpSettings, connection: Connection) -> Iterator[tuple[str, str, str | None]]:
    """(name, detail, remedy) of what works, but not as well as it could."""
    features = connection.features
    if connection.tls is None:
        yield "tls", "names, passwords and files travel in clear text", "type: ftpes    # if the server offers TLS"
    if settings.mode == "passive" and connection.family == socket.AF_INET:
        told = told_address(connection)
        if told not in (None, connection.peer, "0.0.0.0"):
            yield (
                "passive mode",
                f"PASV names the address {told}, which is not the server's ({connection.peer}): it is not followed "
                "here, and leads others astray",
                "ask the server's operator for its outer address: vsftpd pasv_address, ProFTPD MasqueradeAddress, "
                "Pure-FTPd -P",
            )
    if connection.old_tls:
        yield (
            "tls session",
            "the server takes over sessions of TLS 1.2 only, so that TLS 1.3 is not used",
            "ask the server's operator for a release that resumes TLS 1.3 sessions",
        )
    if "MLST" not in features and "MLSD" not in features:
        yield "listings", "no MLSD: LIST is read instead, and times are asked for file by file (MDTM)", None
    if features.sets_times is None:
        yield "mtime", "no MFMT: modification times are not kept", "crossdock sync --checksum    # compares content"
    elif connection.learned.survives_stamps is False:
        yield (
            "mtime",
            "the server ends the session when a file's time is set: modification times are not kept",
            "ask the server's operator for vsftpd seccomp_sandbox=NO",
        )
    if settings.staging == "rename" and not features.replaces:
        yield (
            "replacing",
            "it is not known whether a rename may replace a file: where it may not, the old file steps aside first",
            None,
        )
