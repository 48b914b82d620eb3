"""A TLS socket whose peer resets it at any moment is closed, by somebody; a slow line is no silence."""

from __future__ import annotations

import gc
import select
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from crossdock.storage import sockets
from crossdock.storage.sockets import TlsSocket, send_whole, until_taken


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


class Crowded:
    """A socket that takes seven bytes, and then for two timeouts none."""

    def __init__(self) -> None:
        self.taken, self.waits = b"", 0

    def send(self, view: memoryview) -> int:
        if self.taken and self.waits < 2:
            self.waits += 1
            raise TimeoutError
        self.waits = 0
        self.taken += bytes(view[:7])
        return min(7, len(view))


@pytest.mark.parametrize("moves", [True, False])
def test_a_full_buffer_is_no_silence_while_it_is_emptied(monkeypatch: pytest.MonkeyPatch, moves: bool) -> None:
    crowded: Any = Crowded()
    monkeypatch.setattr(sockets, "confirmed", lambda connection: connection.waits if moves else 0)
    if moves:
        send_whole(crowded, b"0123456789" * 3, 20)
        assert crowded.taken == b"0123456789" * 3
    else:
        with pytest.raises(TimeoutError):
            send_whole(crowded, b"0123456789" * 3, 20)


def test_what_is_still_on_its_way_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter(range(50, -1, -1))
    monkeypatch.setattr(sockets, "unsent", lambda connection: next(left))
    monkeypatch.setattr(sockets, "_LOOK", 0.01)
    with pair() as (ours, _):
        until_taken(ours, 30)
    assert next(left, None) is None


def test_what_stands_still_on_its_way_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "unsent", lambda connection: 7)
    monkeypatch.setattr(sockets, "_LOOK", 0.01)
    with pair() as (ours, theirs):
        with pytest.raises(TimeoutError):
            until_taken(ours, 0.1)
        theirs.sendall(b"refused")
        until_taken(ours, 0.1)
