"""Data connections: where they lead, under which TLS session, and how they end. Blocking, for one thread."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import time
from typing import TYPE_CHECKING

from crossdock.storage.ftp.tls import SessionRefused
from crossdock.storage.ftp.wire import Lost, Refused, Reply, Silent, Violation, be_patient, shut

if TYPE_CHECKING:
    from crossdock.storage.ftp.connection import Connection

__all__ = ["Data", "Uncalled", "Unreachable", "about_session", "begin", "finish", "invitation", "told_address"]

_EXTENDED = re.compile(rb"\((.)\1\1(\d{1,5})\1\)")
_PASSIVE = re.compile(rb"(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3})")
_UNKNOWN = (500, 501, 502, 504, 522)
_SESSION = re.compile(r"reus|resum|session|\b(?:ssl|tls)\b", re.IGNORECASE)
_CANNOT_BUILD = re.compile(r"operation not permitted", re.IGNORECASE)
_BUFFER = 4 * 1024 * 1024


class Data:
    """An open data connection."""

    def __init__(self, connected: socket.socket, timeout: float) -> None:
        self.socket = connected
        self._timeout = timeout
        self._ended = False
        self._buffer = bytearray()
        self.ragged = False
        """TLS ended without its goodbye: nothing proves that the end is the end."""

    def read(self, size: int, *, end: int = -1) -> bytes:
        """Up to `size` bytes, fewer only at the end. Raises `Lost`, `Silent`.

        `end`: how many there should be still; if so many come and no more, in time, the server's last word on the
        control connection tells whether that was the end.
        """
        if isinstance(self.socket, ssl.SSLSocket):
            return self._read_records(self.socket, size)
        try:
            # The kernel fills the whole chunk, and minds the time, in one call.
            found = self.socket.recv(size, socket.MSG_WAITALL)
            while found and len(found) < size and len(found) != end:
                more = self.socket.recv(size - len(found), socket.MSG_WAITALL)
                if not more:
                    break
                found += more
        except BlockingIOError as error:
            raise self._lost(TimeoutError()) from error
        except OSError as error:
            raise self._lost(error) from error
        return found

    def _read_records(self, secured: ssl.SSLSocket, size: int) -> bytes:
        """A TLS record at a time, which is 16 KiB, into one buffer."""
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        filled = 0
        with memoryview(self._buffer) as view:
            try:
                while filled < size and (got := secured.recv_into(view[filled:size])):
                    filled += got
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
                self.ragged = isinstance(error, ssl.SSLEOFError)
            except OSError as error:
                raise self._lost(error) from error
            return bytes(view[:filled])

    def write(self, data: bytes | memoryview) -> None:
        try:
            self.socket.sendall(data)
        except BlockingIOError as error:
            raise self._lost(TimeoutError()) from error
        except OSError as error:
            raise self._lost(error) from error

    def end(self) -> None:
        """Say that this was all: under TLS its goodbye, then FIN. What the peer still says is left unread for now."""
        self._ended = True
        try:
            if isinstance(self.socket, ssl.SSLSocket):
                self._say_goodbye(self.socket)
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._lost(error) from error

    def end_quietly(self) -> None:
        """`end`, if that has not been done; whether it arrives no longer matters."""
        if not self._ended:
            try:
                self.end()
            except Lost:
                return

    def _say_goodbye(self, secured: ssl.SSLSocket) -> None:
        # All data went out by now, so that the goodbye fits the send buffer. Its answer is not waited for: some never
        # send one.
        secured.settimeout(0)
        try:
            secured.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError):
            return
        except ssl.SSLError as error:
            raise ConnectionError(error.reason or str(error)) from error
        finally:
            secured.settimeout(self._timeout)

    def _lost(self, error: OSError) -> Lost:
        if isinstance(error, TimeoutError):
            return Silent(f"the data connection stood still for {self._timeout:g} s")
        return Lost(f"the data connection broke: {error.strerror or error}")

    def reset(self) -> None:
        """End it such that the peer cannot take the end for the end of the file."""
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            shut(self.socket)
        self.socket.close()

    def close(self) -> None:
        self.socket.close()


def invitation(connection: Connection) -> tuple[bytes, ...]:
    """The command whose reply says where to connect, if it can be sent along with others; for `begin`."""
    return (b"EPSV",) if connection.extended and connection.settings.mode != "active" else ()


def begin(connection: Connection, command: bytes, *, offset: int = 0, invited: Reply | None = None) -> Data:
    """Connect, send the command that moves bytes, and secure the connection once the server has agreed.

    `invited`: the reply to `invitation`, if that was sent already.

    Raises `Refused`, `SessionRefused`, `Lost`, `Violation`.
    """
    connection.mark_busy()
    listener: socket.socket | None = None
    connected: socket.socket | None = None
    try:
        if connection.settings.mode == "active":
            listener = _listen(connection)
        else:
            connected = _connect(connection, invited)
        if offset:
            connection.wire.must(b"REST %d" % offset, 350)
        connection.wire.send(command)
        connection.pending = True
        reply = connection.wire.reply()
        if reply.code >= 200:
            connection.pending = False
            if about_session(connection, reply):
                raise SessionRefused(str(reply))
            if listener is not None and reply.code == 425:
                raise Uncalled(str(reply))
            raise Refused(command, reply)
        if listener is not None:
            connected = _accept(connection, listener)
        assert connected is not None
        return _secured(connection, connected)
    except BaseException:
        if connected is not None:
            connected.close()
        raise
    finally:
        if listener is not None:
            listener.close()


def finish(connection: Connection, data: Data) -> Reply:
    """The server's last word on a transfer, which decides it. Raises `Refused`, `SessionRefused`."""
    # vsftpd says nothing before it has heard the goodbye, not even when it was the sender.
    if connection.tls is None:
        connection.data = None
        data.close()
    else:
        data.end_quietly()
    try:
        reply = connection.wire.reply()
    finally:
        data.close()
        connection.data = None
    connection.pending = False
    if reply.good:
        return reply
    if about_session(connection, reply):
        raise SessionRefused(str(reply))
    raise Refused(b"transfer", reply)


def about_session(connection: Connection, reply: Reply) -> bool:
    """vsftpd says 522 "session reuse required", ProFTPD 425 "Operation not permitted", others 425 "TLS session …"."""
    if connection.tls is None:
        return False
    if reply.code == 522:
        return True
    return reply.code in (425, 426, 450, 451, 534) and bool(
        _SESSION.search(reply.text) or (reply.code == 425 and _CANNOT_BUILD.search(reply.text))
    )


def _connect(connection: Connection, invited: Reply | None) -> socket.socket:
    port = _passive_port(connection, invited)
    host = connection.peer
    settings = connection.settings
    connected = socket.socket(connection.family, socket.SOCK_STREAM)
    try:
        connection.attach_data(connected)
        be_patient(connected, settings.connect_timeout)
        connected.connect((host, port))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        connected.close()
        connection.data = None
        silent = isinstance(error, (TimeoutError, BlockingIOError))
        reason = "no answer" if silent else (error.strerror or str(error))
        raise Unreachable(host, port, reason) from error
    return connected


class Unreachable(Lost):
    """The server named a port that cannot be reached from here."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"the data connection to {host} port {port} fails: {reason}")


class Uncalled(Lost):
    """In active mode the server did not connect back."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the server did not connect back: {reason}")


def _passive_port(connection: Connection, invited: Reply | None) -> int:
    """Only the port is taken: the address is always the one that the control connection leads to (CVE-2021-4189)."""
    if connection.extended:
        reply = invited or connection.wire.ask(b"EPSV")[0]
        if reply.code == 229:
            match = _EXTENDED.search(b" ".join(reply.lines))
            return _port(connection, int(match[2]) if match else 0, reply)
        if reply.code not in _UNKNOWN or connection.family != socket.AF_INET:
            raise Refused(b"EPSV", reply)
        connection.extended = False
    reply = connection.wire.must(b"PASV", 227)
    match = _PASSIVE.search(b" ".join(reply.lines))
    numbers = [int(number) for number in match.groups()] if match else [256]
    if max(numbers) > 255:
        return _port(connection, 0, reply)
    return _port(connection, numbers[4] * 256 + numbers[5], reply)


def told_address(connection: Connection) -> str | None:
    """Where PASV would lead, which is never followed; None: the server does not say. Raises `Lost`, `Violation`."""
    reply = connection.wire.ask(b"PASV")[0]
    match = _PASSIVE.search(b" ".join(reply.lines)) if reply.code == 227 else None
    return b".".join(match.groups()[:4]).decode() if match else None


def _port(connection: Connection, port: int, reply: Reply) -> int:
    if not 0 < port < 65536:
        connection.wire.alive = False
        raise Violation(f"a passive port that is none: {reply}")
    return port


def _listen(connection: Connection) -> socket.socket:
    host = connection.wire.socket.getsockname()[0]
    listener = socket.create_server((host, 0), family=connection.family, backlog=8)
    port = listener.getsockname()[1]
    kind = 2 if connection.family == socket.AF_INET6 else 1
    try:
        connection.attach_data(listener)
        reply = connection.wire.ask(b"EPRT |%d|%s|%d|" % (kind, host.partition("%")[0].encode(), port))[0]
        if reply.code in _UNKNOWN and kind == 1:
            numbers = host.replace(".", ",").encode()
            connection.wire.must(b"PORT %s,%d,%d" % (numbers, port // 256, port % 256))
        elif not reply.good:
            raise Refused(b"EPRT", reply)
    except BaseException:
        listener.close()
        raise
    return listener


def _accept(connection: Connection, listener: socket.socket) -> socket.socket:
    """The server's own connection; whoever else comes is turned away."""
    deadline = time.monotonic() + connection.settings.connect_timeout
    strangers: set[str] = set()
    try:
        while True:
            listener.settimeout(max(deadline - time.monotonic(), 0.001))
            connected, address = listener.accept()
            if address[0] == connection.peer:
                break
            strangers.add(address[0])
            connected.close()
    except OSError as error:
        others = f"; turned away: {', '.join(sorted(strangers))}" if strangers else ""
        raise Uncalled(f"nothing came within {connection.settings.connect_timeout:g} s{others}") from error
    connection.attach_data(connected)
    return connected


def _secured(connection: Connection, connected: socket.socket) -> Data:
    timeout = connection.settings.timeout
    if connection.tls is None:
        be_patient(connected, timeout)
        return Data(connected, timeout)
    connected.settimeout(timeout)
    control = connection.wire.socket
    assert isinstance(control, ssl.SSLSocket)
    try:
        secured = connection.tls.data(connected, connection.attach_data, control)
    except TimeoutError as error:
        raise Silent("no answer to the TLS greeting on the data connection") from error
    except OSError as error:
        # The server has more to say on the control connection.
        reply = connection.wire.reply()
        connection.pending = False
        if about_session(connection, reply):
            raise SessionRefused(str(reply)) from error
        raise Refused(b"transfer", reply) from error
    return Data(secured, timeout)
