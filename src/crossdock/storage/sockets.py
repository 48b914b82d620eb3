"""Sockets: TLS on one that its peer may have reset meanwhile, what the kernel holds, and what failures are called."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from contextlib import suppress
from typing import Any

__all__ = ["TlsSocket", "keep_pace", "system_words"]

_UNSENT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_MOST_UNSENT = 512 * 1024


class TlsSocket(ssl.SSLSocket):
    """An `SSLContext.sslsocket_class` for sockets that are connected already.

    CPython's `wrap_socket` asks for the peer's name, takes it for a socket that is yet to be connected where there is
    none, and leaves it open, held by nobody, when it then hears of the reset (`SSLSocket._create`, 3.11 to 3.13).
    """

    def getpeername(self) -> Any:
        """Raises `ConnectionResetError` if there is no peer any more, and closes what has not yet been wrapped."""
        try:
            return super().getpeername()
        except OSError as error:
            if self.session_reused is None:
                self.close()
            if error.errno == errno.ENOTCONN:
                raise ConnectionResetError(errno.ECONNRESET, "the peer has reset the connection") from error
            raise


def keep_pace(connection: socket.socket, most: int = _MOST_UNSENT) -> None:
    """Have the kernel take `most` bytes more than it can send: on a slow line, what it holds would count as silence."""
    if _UNSENT is not None:
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, _UNSENT, most)


def system_words(error: OSError) -> str:
    """What the system calls it. asyncio says "Connect call failed" and the address, which the message names anyway."""
    told = error.strerror or str(error)
    return os.strerror(error.errno) if error.errno and told.startswith("Connect call failed") else told
