"""Under TLS an upload ends with a goodbye, however slowly the server takes it (RFC 8446 §6.1)."""

from __future__ import annotations

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crossdock.storage.ftp.stream import Data
from crossdock.storage.ftp.wire import Silent
from tests.servers.ftp import write_certificate


def pair(folder: Path) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Client's and server's ends, after the TLS greeting."""
    certificate = folder / "certificate.pem"
    write_certificate(certificate)
    serving, connecting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    serving.load_cert_chain(certificate)
    connecting.load_verify_locations(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as executor:
        plain = socket.create_connection(listener.getsockname(), timeout=10)
        accepted, _ = listener.accept()
        accepted.settimeout(10)
        theirs = executor.submit(serving.wrap_socket, accepted, server_side=True, suppress_ragged_eofs=False)
        ours = connecting.wrap_socket(plain, server_hostname="127.0.0.1")
        return ours, theirs.result(10)


def test_a_goodbye_for_which_there_is_no_room_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow line has all buffers full: FileZilla Server takes what ends without a goodbye for cut off."""
    ours, theirs = pair(tmp_path)
    unwrap = ssl.SSLSocket.unwrap
    refused: list[int] = []

    def crowded(self: ssl.SSLSocket) -> Any:
        if len(refused) < 2:
            refused.append(1)
            raise ssl.SSLWantWriteError
        return unwrap(self)

    monkeypatch.setattr(ssl.SSLSocket, "unwrap", crowded)
    with ours, theirs:
        stream = Data(ours, 10)
        stream.write(b"data")
        stream.end()
        # Without a goodbye, this raises.
        assert [theirs.recv(10), theirs.recv(10)] == [b"data", b""]


def crowded(secured: ssl.SSLSocket) -> Any:
    raise ssl.SSLWantWriteError


def find_no_room(ours: ssl.SSLSocket) -> None:
    """For the goodbye, behind more than the peer and the kernel take."""
    with ours:
        ours.settimeout(0.1)
        with pytest.raises(TimeoutError):
            ours.sendall(bytes(64 * 1024 * 1024))
        with pytest.raises(Silent, match="stood still"):
            Data(ours, 0.1).end()


def test_a_server_that_takes_nothing_more_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair(tmp_path)
    monkeypatch.setattr(ssl.SSLSocket, "unwrap", crowded)
    with theirs:
        find_no_room(ours)


def test_room_for_a_goodbye_is_waited_for_while_the_line_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair(tmp_path)
    left = iter((9, 8, 7, 7))

    monkeypatch.setattr(ssl.SSLSocket, "unwrap", crowded)
    monkeypatch.setattr(Data, "unsent", property(lambda self: next(left)))
    with theirs:
        find_no_room(ours)
    assert list(left) == []
