"""TLS on a socket that its peer may have reset meanwhile."""

from __future__ import annotations

import errno
import ssl
from typing import Any

__all__ = ["TlsSocket"]


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
