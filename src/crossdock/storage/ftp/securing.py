"""Data connections and TLS: when it begins, and under which session. Blocking, for one thread."""

from __future__ import annotations

import re
import socket
import ssl
from typing import TYPE_CHECKING

from crossdock.storage.ftp.stream import Data
from crossdock.storage.ftp.tls import SessionRefused
from crossdock.storage.ftp.wire import Lost, Refused, Reply, Silent, Violation, be_patient
from crossdock.storage.sockets import mind_silence

if TYPE_CHECKING:
    from crossdock.storage.ftp.connection import Connection

__all__ = ["Overlooked", "Unsecured", "about_session", "overlooks", "patient", "secured", "secured_first"]

_SESSION = re.compile(r"reus|resum|session|\b(?:ssl|tls)\b", re.IGNORECASE)
_CANNOT_BUILD = re.compile(r"operation not permitted", re.IGNORECASE)


def patient(connection: Connection, connected: socket.socket) -> Data:
    settings = connection.settings
    if settings.timeout != settings.connect_timeout or settings.mode == "active":
        be_patient(connected, settings.timeout)
    mind_silence(connected, settings.timeout)
    return Data(connected, settings.timeout)


def secured(connection: Connection, connected: socket.socket) -> Data:
    """Under TLS, if there is any, once the server has agreed.

    Raises `Refused`, `SessionRefused`, `Silent`, `Unsecured`.
    """
    timeout = connection.settings.timeout
    if connection.tls is None:
        return patient(connection, connected)
    connected.settimeout(timeout)
    control = connection.wire.socket
    assert isinstance(control, ssl.SSLSocket)
    try:
        found = connection.tls.data(connected, connection.attach_data, control)
    except TimeoutError as error:
        raise Silent("no answer to the TLS greeting on the data connection") from error
    except OSError as error:
        # The server has more to say on the control connection.
        reply = connection.wire.reply()
        connection.pending = False
        if about_session(connection, reply):
            raise SessionRefused(str(reply)) from error
        if reply.good:
            raise Unsecured(reply) from error
        raise Refused(b"transfer", reply) from error
    return Data(found, timeout)


def about_session(connection: Connection, reply: Reply) -> bool:
    """vsftpd says 522 "session reuse required", ProFTPD 425 "Operation not permitted", others 425 "TLS session …"."""
    if connection.tls is None:
        return False
    if reply.code == 522:
        return True
    return reply.code in (425, 426, 450, 451, 534) and bool(
        _SESSION.search(reply.text) or (reply.code == 425 and _CANNOT_BUILD.search(reply.text))
    )


class Unsecured(Violation):
    """A data connection ended before TLS was up on it, and the server calls that complete.

    Servers made with Go begin TLS with the first byte that they send. Nothing tells what is empty from what was cut
    off on its way, unless its size was told.
    """

    def __init__(self, reply: Reply) -> None:
        super().__init__(
            f"the server ends the data connection before TLS is up on it, and calls that complete: {reply}"
        )


class Overlooked(SessionRefused):
    """The server has not seen the data connection that there is. On this control connection it may not be ready yet."""


def overlooks(connection: Connection, stream: Data | None, reply: Reply) -> bool:
    """Node's servers see a connection once TLS is up on it: ftp-srv waits for that before it agrees, and then says 425.

    `stream`: what `secured_first` gave.
    """
    learned = connection.learned
    if connection.tls is None or stream is not None or reply.code != 425 or learned.secures_first is False:
        return False
    connection.overlooked = learned.secures_first = True
    return True


def secured_first(connection: Connection, connected: socket.socket) -> Data | None:
    """TLS before the server has agreed; None where that is not known to be needed. Raises `Lost`."""
    if connection.tls is None or not connection.learned.secures_first:
        return None
    settings, control = connection.settings, connection.wire.socket
    assert isinstance(control, ssl.SSLSocket)
    connected.settimeout(settings.connect_timeout)
    try:
        found = connection.tls.data(connected, connection.attach_data, control)
    except OSError as error:
        connection.learned.secures_first = False
        raise Lost(f"TLS on the data connection fails before the server has agreed: {error}") from error
    found.settimeout(settings.timeout)
    return Data(found, settings.timeout)
