"""A TLS socket whose peer resets it at any moment is closed, by somebody; a slow line is no silence."""

from __future__ import annotations

import gc
import select
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from crossdock.storage import sockets
from crossdock.storage.ftp.securing import patient
from crossdock.storage.ftp.wire import Silent
from crossdock.storage.sockets import TlsSocket, mind_silence, reached_in_time, receive, send_whole, until_taken


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


class Quiet:
    """A line on which `held` has come, and nothing since; as the kernel minds the time of one call, on a clock of its
    own."""

    def __init__(self, held: bytes) -> None:
        self.held, self.each, self.now = held, 30.0, 0.0

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        if option == socket.SO_RCVTIMEO:
            seconds, micros = struct.unpack("ll", value)
            self.each = seconds + micros / 1e6

    def recv(self, size: int, flags: int = 0) -> bytes:
        assert flags == socket.MSG_WAITALL
        self.now += self.each
        found, self.held = self.held[:size], b""
        if not found:
            raise BlockingIOError
        return found


def test_what_came_first_hides_no_silence() -> None:
    """A call that has something to give takes the whole time all the same: the silence was minded twice over."""
    line: Any = Quiet(b"abc")
    settings = SimpleNamespace(timeout=30, connect_timeout=30, mode="passive")
    stream = patient(cast("Any", SimpleNamespace(settings=settings)), line)
    with pytest.raises(Silent):
        stream.read(100)
    assert line.now == pytest.approx(35)

    line = Quiet(b"abc")
    mind_silence(line, 30)
    assert receive(line, 100) == b"abc"
    with pytest.raises(TimeoutError):
        receive(line, 97)
    assert line.now == pytest.approx(35)


class Net:
    """Eight addresses, of which those in `silent` say nothing; stands for the modules `socket` and `time`."""

    SOCK_STREAM = socket.SOCK_STREAM

    def __init__(self, *silent: int) -> None:
        self.silent, self.asked, self.now, self.open = silent, list[int](), 0.0, 0

    def getaddrinfo(self, host: str, port: int, type: int) -> list[Any]:
        return [(socket.AF_INET, type, 6, "", number) for number in range(8)]

    def monotonic(self) -> float:
        return self.now

    def socket(self, *_: int) -> Net:
        self.open += 1
        return self

    def settimeout(self, seconds: float) -> None:
        self.patience = seconds

    def connect(self, address: int) -> None:
        self.asked.append(address)
        if address in self.silent:
            self.now += self.patience
            raise TimeoutError("timed out")

    def close(self) -> None:
        self.open -= 1


def test_an_address_that_is_silent_leaves_time_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(0, 1)
    monkeypatch.setattr(sockets, "socket", net)
    monkeypatch.setattr(sockets, "time", net)
    _, address = reached_in_time("store", 443, 10)
    assert (address, net.asked, net.open) == (2, [0, 1, 2], 1)
    assert net.now < 3
    reached_in_time("store", 443, 10, address)
    assert net.asked == [0, 1, 2, 2]


def test_a_host_that_is_silent_takes_the_time_limit_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses it has."""
    net = Net(*range(8))
    monkeypatch.setattr(sockets, "socket", net)
    monkeypatch.setattr(sockets, "time", net)
    with pytest.raises(TimeoutError):
        reached_in_time("store", 443, 10)
    assert (net.asked, net.open) == (list(range(8)), 0)
    assert net.now == pytest.approx(10)
