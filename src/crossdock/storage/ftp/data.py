"""Data connections: where they lead, under which TLS session, and who has the last word. Blocking, for one thread."""

from __future__ import annotations

import logging
import re
import select
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crossdock.storage.ftp import together
from crossdock.storage.ftp.securing import Overlooked, about_session, overlooks, patient, secured, secured_first
from crossdock.storage.ftp.stream import Data
from crossdock.storage.ftp.tls import SessionRefused
from crossdock.storage.ftp.wire import Lost, Refused, Reply, Violation, be_patient

if TYPE_CHECKING:
    from crossdock.storage.ftp.connection import Connection

__all__ = [
    "LAST_WORD",
    "Data",
    "Uncalled",
    "Unreachable",
    "begin",
    "finish",
    "invitation",
    "send_whole",
    "told_address",
]

log = logging.getLogger("crossdock.storage.ftp")

_EXTENDED = re.compile(rb"\((.)\1\1(\d{1,5})\1\)")
_PASSIVE = re.compile(rb"(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3})")
_BYTES = re.compile(rb"\((\d{1,19}) bytes\)")
_UNKNOWN = (500, 501, 502, 504, 522)
_UNASKED = 32 * 1024
"""Bytes that every kernel takes off our hands at once: a server that does not want them does not hold us up."""
_PAUSES = (0.01, 0.05, 0.2)
"""Seconds between the answers of a server that is not quite done."""
_LOOK = 0.5
"""Seconds between two looks at how much is still to be sent."""
LAST_WORD = 120.0
"""Seconds that a server may take to put a whole file on its disk."""


def invitation(connection: Connection) -> tuple[bytes, ...]:
    """The command whose reply says where to connect, if it can be sent along with others; for `begin`."""
    return (b"EPSV",) if connection.extended and connection.settings.mode != "active" else ()


def begin(
    connection: Connection,
    command: bytes,
    *,
    offset: int = 0,
    invited: Reply | None = None,
    behind: tuple[bytes, ...] = (),
) -> Data:
    """Connect, send the command that moves bytes, and secure the connection once the server has agreed.

    `invited`: the reply to `invitation`, if that was sent already. `behind`: sent along, for a server that queues them;
    if this does not raise, their replies are still to be read, after `finish`.

    Raises `Refused`, `SessionRefused`, `Lost`, `Violation`.
    """
    connection.mark_busy()
    listener: socket.socket | None = None
    connected: socket.socket | None = None
    found: Data | None = None
    try:
        if connection.settings.mode == "active":
            listener = _listen(connection)
        else:
            connected = _connect(connection, invited)
            found = secured_first(connection, connected)
        if offset:
            connection.wire.must(b"REST %d" % offset, 350)
        connection.wire.send(command, *behind)
        connection.pending = True
        reply = together.agreed(connection, len(behind))
        if reply.code >= 200:
            if about_session(connection, reply):
                raise SessionRefused(str(reply))
            if listener is not None and reply.code == 425:
                raise Uncalled(str(reply))
            if connected is not None and overlooks(connection, found, reply):
                raise Overlooked(str(reply))
            if reply.good:
                connection.wire.alive = False
                raise Violation(f"the server calls a transfer complete before it has agreed to it: {reply}")
            raise Refused(command, reply)
        if listener is not None:
            connected = _accept(connection, listener)
        assert connected is not None
        found = found or secured(connection, connected)
        found.told = _told(reply)
        return found
    except BaseException:
        if found is not None:
            found.close()
        if connected is not None:
            connected.close()
        raise
    finally:
        if listener is not None:
            listener.close()


def _told(agreed: Reply) -> int | None:
    """vsftpd and ProFTPD: "150 Opening BINARY mode data connection for NAME (5 bytes)"; by fstat(2) of what is sent."""
    found = _BYTES.findall(b" ".join(agreed.lines))
    return int(found[-1]) if found else None


def send_whole(connection: Connection, command: bytes, parts: Sequence[bytes], *behind: bytes) -> list[Reply] | None:
    """Upload a small file in three round trips, to a server that queues commands; the replies to `behind`.

    All commands leave in one packet, and few bytes as soon as there is a connection: only where the server has answered
    EPSV before. None: it does not want the file, and has done nothing.

    Raises `Refused`, `SessionRefused`, `Lost`, `Violation`.
    """
    connection.mark_busy()
    wire = connection.wire
    wire.send(b"EPSV", command, *behind)
    connection.pending = True
    invited: Reply | None = None
    try:
        with together.doubts(connection, 1):
            invited = wire.final()
        if invited.code != 229:
            raise Refused(b"EPSV", invited)
        connected = _connect(connection, invited)
    except BaseException as error:
        said: Reply | None = None
        if connection.broken and invited is not None and invited.code == 229:
            _send_nothing(connection, invited)
        elif isinstance(error, Unreachable) and connection.stale():
            # It refuses the file, and has closed the port.
            said = connection.stop_transfer()
        # The server may be waiting there.
        connection.kill()
        if said is not None and said.code >= 400:
            raise Refused(command, said) from error
        raise
    stream: Data | None = None
    failed: Lost | None = None
    data = b"".join(parts)
    stream = secured_first(connection, connected)
    if connection.tls is None and len(data) <= _UNASKED:
        stream = patient(connection, connected)
        failed = stream.send_unasked(data)
    reply = together.agreed(connection, len(behind))
    if reply.code >= 200:
        connection.data = None
        if stream is not None:
            stream.close()
        connected.close()
        if about_session(connection, reply):
            raise SessionRefused(str(reply))
        if reply.code == 421:
            raise Refused(command, reply)
        if overlooks(connection, stream, reply):
            raise Overlooked(str(reply))
        return None
    if stream is None:
        stream = secured(connection, connected)
    if connection.tls is not None or len(data) > _UNASKED:
        stream.write(data)
        stream.end()
    finish(connection, stream, patience=LAST_WORD, behind=bool(behind))
    if failed is not None:
        raise failed
    return together.queued(connection, len(behind))


def _send_nothing(connection: Connection, invited: Reply) -> None:
    """The upload was given up, but its command is on its way: the file is made before it is removed, not after."""
    with socket.socket(connection.family) as connected:
        be_patient(connected, 1)
        try:
            connected.connect((connection.peer, _passive_port(connection, invited)))
        except OSError:
            return
    connection.stop_transfer()


def finish(connection: Connection, data: Data, *, patience: float = 0, behind: bool = False) -> Reply:
    """The server's last word on a transfer, which decides it. Raises `Refused`, `SessionRefused`, `Lost`, `Violation`.

    `patience`: after an upload, seconds that it may take at least. `behind`: questions were sent along; see `together`.
    """
    if patience:
        data.end_quietly()
        _drain(connection, data)
    # vsftpd says nothing before it has heard the goodbye, not even when it was the sender.
    if connection.tls is None:
        connection.data = None
        data.close()
    else:
        data.end_quietly()
    wire, usual = connection.wire, connection.wire.patience
    try:
        wire.wait_for(max(patience, usual))
        reply = together.last_word(connection, behind=behind)
        wire.wait_for(usual)
    finally:
        data.close()
        connection.data = None
    connection.pending = False
    if reply.good:
        return reply
    if about_session(connection, reply):
        raise SessionRefused(str(reply))
    raise Refused(b"transfer", reply)


def _drain(connection: Connection, data: Data) -> None:
    """Until the server has taken all, takes no more, or answers: on a slow line that is longer than any answer takes.

    The kernel holds some MiB.
    """
    left = data.unsent
    answer = select.poll()
    answer.register(connection.wire.socket, select.POLLIN)
    connection.used = moved = time.monotonic()
    while left and time.monotonic() - moved < connection.settings.timeout and not answer.poll(_LOOK * 1000):
        before, left = left, data.unsent
        if left < before:
            connection.used = moved = time.monotonic()


def _connect(connection: Connection, invited: Reply | None) -> socket.socket:
    learned = connection.learned
    try:
        found = _reached(connection, _passive_port(connection, invited))
    except Unreachable as error:
        if not connection.extended or learned.extended or connection.pending or connection.broken:
            raise
        if connection.family != socket.AF_INET:
            raise
        # Firewalls that open the port that they see in a reply to PASV need not know EPSV.
        connection.extended = False
        try:
            found = _reached(connection, _passive_port(connection, None))
        except (Refused, Unreachable):
            connection.extended = True
            raise error from None
        log.info("PASV is used from now on: %s", error)
    learned.extended = connection.extended
    return found


def _reached(connection: Connection, port: int) -> socket.socket:
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


def _idle(connection: Connection, command: bytes) -> Reply:
    """The answer of a server that has done what it said it had done. LightFTP says so a moment before."""
    for pause in _PAUSES:
        reply = connection.wire.ask(command)[0]
        if "action is in progress" not in reply.text:
            return reply
        time.sleep(pause)
    return connection.wire.ask(command)[0]


def _passive_port(connection: Connection, invited: Reply | None) -> int:
    """Only the port is taken: the address is always the one that the control connection leads to (CVE-2021-4189)."""
    if connection.extended:
        reply = invited or _idle(connection, b"EPSV")
        if reply.code == 229:
            match = _EXTENDED.search(b" ".join(reply.lines))
            connection.invites = True
            return _port(connection, int(match[2]) if match else 0, reply)
        _must_be_idle(connection, reply)
        if reply.code < 500 or connection.family != socket.AF_INET:
            raise Refused(b"EPSV", reply)
        connection.extended = False
    reply = _idle(connection, b"PASV")
    if reply.code != 227:
        _must_be_idle(connection, reply)
        raise Refused(b"PASV", reply)
    match = _PASSIVE.search(b" ".join(reply.lines))
    numbers = [int(number) for number in match.groups()] if match else [256]
    if max(numbers) > 255:
        return _port(connection, 0, reply)
    return _port(connection, numbers[4] * 256 + numbers[5], reply)


def _must_be_idle(connection: Connection, reply: Reply) -> None:
    """The gem ftpd says "200 Already in passive mode" until somebody has connected; on a new connection it is not."""
    if reply.good:
        connection.wire.alive = False
        raise Lost(f"the server names no port for the data connection: {reply}")


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
