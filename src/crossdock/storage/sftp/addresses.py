"""The addresses that a host's name stands for, tried one after the other."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

__all__ = ["reached"]


async def reached(host: str, port: int, seconds: float, first: Any = None) -> tuple[socket.socket, Any]:
    """Connected to the first of the host's addresses that answers, and that address. Raises `OSError`.

    `first`: the one to begin with. Of several, one that says nothing, as beyond a broken IPv6, leaves of `seconds`
    enough for the others; a single one may take as long as the caller waits.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        # What can be no host's name, such as one with two dots together.
        raise OSError(str(error)) from error
    found.sort(key=lambda one: one[4] != first)
    share = seconds / (len(found) + 1) if len(found) > 1 else None
    while True:
        family, kind, protocol, _, address = found.pop(0)
        sock: socket.socket | None = None
        try:
            # Refused where the system lacks the family, as in a container without IPv6.
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            async with asyncio.timeout(share):
                await loop.sock_connect(sock, address)
        except BaseException as error:
            if sock is not None:
                sock.close()
            if not found or not isinstance(error, OSError):
                raise
        else:
            return sock, address
