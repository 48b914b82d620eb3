"""Sockets: TLS on one that its peer may have reset meanwhile, what the kernel holds, and what failures are called."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import ssl
import struct
import sys
import termios
import time
from contextlib import suppress
from typing import Any

__all__ = [
    "TlsSocket",
    "confirmed",
    "context_for",
    "keep_pace",
    "mind_silence",
    "reached_in_time",
    "receive",
    "send_whole",
    "system_words",
    "unsent",
    "until_taken",
]

_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None

_UNSENT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_MOST_UNSENT = 512 * 1024
_LOOK = 0.5
"""Seconds between two looks at how much is still to be sent."""
_TURNS = 6
"""Calls that share a time limit: the kernel counts the whole of one, so what came in it would hide a silence since."""


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


def context_for(ca_file: str | os.PathLike[str] | None = None) -> ssl.SSLContext:
    """To reach a server that those in the file vouch for, or whose own certificate is in it; without one, the system's.

    The same under every Python: by itself, 3.13 refuses an authority that `openssl req -x509` has made, whose
    certificate does not say what its key is for (RFC 5280, 4.2.1.3), and Pythons before it refuse a server's own
    certificate as `ca_file` that another has signed. Raises `OSError`.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = TlsSocket
    return context


def keep_pace(connection: socket.socket, most: int = _MOST_UNSENT) -> None:
    """Have the kernel take `most` bytes more than it can send: on a slow line, what it holds would count as silence."""
    if _UNSENT is not None:
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, _UNSENT, most)


def confirmed(connection: socket.socket) -> int:
    """Bytes that the peer's kernel has confirmed (linux/tcp.h, tcpi_bytes_acked); 0: not known.

    Unlike an ioctl, asking this keeps the interpreter's lock, which a thread may wait for long to have again.
    """
    if _TCP_INFO is None:
        return 0
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 128)
    except OSError:
        return 0
    return int.from_bytes(told[120:], sys.byteorder)


def unsent(connection: socket.socket) -> int:
    """Bytes that the peer's kernel has not yet confirmed (tcp(7), SIOCOUTQ)."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])
    except (OSError, ValueError):  # the latter where it is closed
        return 0


def send_whole(connection: socket.socket, data: bytes | memoryview, step: int | None = None) -> None:
    """All of it, at most `step` bytes a call. Its timeout is one of silence, where `sendall` would count the whole.

    Of room in its buffer, some MiB, the kernel tells only when a third is free: a slow line takes longer.
    Raises `TimeoutError`, or `BlockingIOError` where the kernel keeps the timeout.
    """
    view = memoryview(data)
    while view:
        before = confirmed(connection)
        try:
            view = view[connection.send(view[:step]) :]
        except (BlockingIOError, TimeoutError):
            if confirmed(connection) <= before:
                raise


def until_taken(connection: socket.socket, timeout: float) -> None:
    """Until the peer's kernel has all, or the peer answers: on a slow line that is longer than any answer takes.

    Raises `TimeoutError` if nothing moves for `timeout` seconds.
    """
    answer = select.poll()
    answer.register(connection, select.POLLIN)
    left, moved = unsent(connection), time.monotonic()
    while left and not answer.poll(_LOOK * 1000):
        before, left = left, unsent(connection)
        if left < before:
            moved = time.monotonic()
        elif time.monotonic() - moved > timeout:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def mind_silence(connection: socket.socket, timeout: float) -> None:
    """Prepare a blocking socket for `receive`."""
    each = timeout / _TURNS
    value = struct.pack("ll", int(each), int(each % 1 * 1e6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)


def receive(connection: socket.socket, size: int) -> bytes:
    """`size` bytes; fewer on a slow line, none at the end. Raises `TimeoutError` after the silence that is minded."""
    for _ in range(_TURNS):
        with suppress(BlockingIOError):
            return connection.recv(size, socket.MSG_WAITALL)
    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def reached_in_time(host: str, port: int, seconds: float, first: Any = None) -> tuple[socket.socket, Any]:
    """Connected to the first of the host's addresses that answers, and that address. Raises `OSError`, `UnicodeError`.

    `first`: the one to begin with. One that says nothing, as beyond a broken IPv6, leaves of `seconds` enough for the
    others.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    deadline = time.monotonic() + seconds
    failed = OSError("the host has no address")
    found = sorted(found, key=lambda one: one[4] != first)
    for others, (family, kind, protocol, _, address) in zip(range(len(found) - 1, -1, -1), found, strict=True):
        connected: socket.socket | None = None
        try:
            # Refused where the system lacks the family, as in a container without IPv6.
            connected = socket.socket(family, kind, protocol)
            left = deadline - time.monotonic()
            connected.settimeout(max(left / (others + 2) if others else left, 0.001))
            connected.connect(address)
        except OSError as error:
            if connected is not None:
                connected.close()
            failed = error
        else:
            return connected, address
    raise failed


def system_words(error: OSError) -> str:
    """What the system calls it. asyncio says "Connect call failed" and the address, which the message names anyway."""
    told = error.strerror or str(error)
    return os.strerror(error.errno) if error.errno and told.startswith("Connect call failed") else told
