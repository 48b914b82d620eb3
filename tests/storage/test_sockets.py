"""A TLS socket whose peer resets it at any moment is closed, by somebody."""

from __future__ import annotations

import gc
import select
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from crossdock.storage.sockets import TlsSocket


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), timeout=5)
        theirs, _ = listener.accept()
        with ours, theirs:
            yield ours, theirs


def reset(theirs: socket.socket, ours: socket.socket) -> None:
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    assert poll.poll(5000)


def context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.sslsocket_class = TlsSocket
    return made


@pytest.mark.parametrize("pending", [b"", b"data that came before"])
def test_a_reset_before_it_is_wrapped_leaves_nothing_open(pending: bytes) -> None:
    with pair() as (ours, theirs):
        theirs.sendall(pending)
        reset(theirs, ours)
        with pytest.raises(ConnectionResetError, match="reset"):
            context().wrap_socket(ours, server_hostname="partner", do_handshake_on_connect=False)
        assert ours.fileno() == -1
    gc.collect()  # what was left open is an error of its own here


def test_a_reset_after_that_is_heard_of_by_whoever_uses_it() -> None:
    with pair() as (ours, theirs):
        with context().wrap_socket(ours, server_hostname="partner", do_handshake_on_connect=False) as wrapped:
            host, port = wrapped.getpeername()
            assert f"raddr={(host, port)}" in repr(wrapped)
            reset(theirs, wrapped)
            assert "raddr" not in repr(wrapped)
            assert wrapped.fileno() != -1
            with pytest.raises(ConnectionResetError):
                wrapped.do_handshake()
