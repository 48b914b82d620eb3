"""TLS (RFC 4217): who is trusted, and the session that a data connection takes over from its control connection."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from crossdock.errors import ConfigError
from crossdock.storage.ftp.wire import Lost, Silent
from crossdock.storage.sockets import TlsSocket, context_for

if TYPE_CHECKING:
    from crossdock.storage.ftp.settings import FtpSettings

__all__ = ["NotTls", "SessionRefused", "TlsLayer", "Untrusted", "presented"]


class Untrusted(Exception):
    """The server's certificate is not one to trust.

    `fingerprint`: of what it presented, where known; `code`: OpenSSL's X509_V_ERR_…, 0 where a pin decides.
    """

    def __init__(self, reason: str, fingerprint: str | None = None, *, code: int = 0) -> None:
        super().__init__(reason)
        self.fingerprint, self.code = fingerprint, code


class NotTls(Exception):
    """What answered a TLS greeting does not speak TLS, or not a version that is sound."""


class SessionRefused(Exception):
    """The server did not accept the TLS session of the control connection on a data connection."""


def shown_fingerprint(digest: str) -> str:
    return "SHA256:" + ":".join(digest[at : at + 2] for at in range(0, len(digest), 2)).upper()


class TlsLayer:
    """Both contexts of one endpoint: TLS 1.2 and up, and 1.2 alone, for servers that cannot resume 1.3. Reads files."""

    def __init__(self, settings: FtpSettings) -> None:
        self._pins = frozenset(settings.certificate)
        self._name = settings.host
        self._contexts = (_context(settings), _context(settings))
        self._contexts[1].maximum_version = ssl.TLSVersion.TLSv1_2

    def control(self, connected: socket.socket, attach: Callable[[socket.socket], None], *, old: bool) -> ssl.SSLSocket:
        """`attach` is told the socket that takes over, before it blocks. Raises `Untrusted`, `NotTls`, `Lost`."""
        try:
            wrapped = self._contexts[old].wrap_socket(
                connected, server_hostname=self._name, do_handshake_on_connect=False
            )
        except OSError as error:
            raise Lost(f"the connection broke before the TLS greeting: {error.strerror or error}") from error
        try:
            attach(wrapped)
            self._greet(wrapped)
            self._check(wrapped)
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    @staticmethod
    def _greet(wrapped: ssl.SSLSocket) -> None:
        try:
            wrapped.do_handshake()
        except ssl.SSLCertVerificationError as error:
            raise Untrusted(error.verify_message or str(error), code=error.verify_code) from error
        except ssl.SSLError as error:
            raise NotTls(error.reason or str(error)) from error
        except TimeoutError as error:
            raise Silent(f"no answer to the TLS greeting within {wrapped.gettimeout():g} s") from error
        except OSError as error:
            raise Lost(f"the connection broke in the TLS greeting: {error.strerror or error}") from error

    def data(
        self, connected: socket.socket, attach: Callable[[socket.socket], None], control: ssl.SSLSocket
    ) -> ssl.SSLSocket:
        """Raises `OSError`; `Untrusted` if it is another server than that of the control connection."""
        wrapped = control.context.wrap_socket(
            connected,
            server_hostname=self._name,
            session=control.session,
            suppress_ragged_eofs=False,
            do_handshake_on_connect=False,
        )
        try:
            attach(wrapped)
            wrapped.do_handshake()
            # A resumed session presents no certificate of its own: it proves that it is the same server.
            if not wrapped.session_reused and wrapped.getpeercert(True) != control.getpeercert(True):
                self._check(wrapped)
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    def _check(self, wrapped: ssl.SSLSocket) -> None:
        if not self._pins:
            return
        digest = _digest(wrapped)
        if digest not in self._pins:
            raise Untrusted("it is not the certificate that is pinned", shown_fingerprint(digest))


def presented(connected: socket.socket) -> str | None:
    """The fingerprint of what a server presents, whether it is to be trusted or not. For messages; nothing is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = TlsSocket
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with context.wrap_socket(connected) as wrapped:
            return shown_fingerprint(_digest(wrapped))
    except OSError:
        return None


def _digest(wrapped: ssl.SSLSocket) -> str:
    return hashlib.sha256(wrapped.getpeercert(True) or b"").hexdigest()


def _context(settings: FtpSettings) -> ssl.SSLContext:
    if settings.certificate:
        # The pin says more than any authority could; it is checked before anything else is sent.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.sslsocket_class = TlsSocket
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        try:
            context = context_for(settings.ca_file)
        except OSError as error:
            hint = "name a PEM file with the authority's certificate"
            raise ConfigError(f"cannot use {settings.ca_file}: {error}", key="ca_file", hint=hint) from error
    if settings.client_certificate is not None:
        passphrase = settings.client_key_passphrase

        def reveal() -> str:
            # Without this, OpenSSL would ask at the terminal.
            if passphrase is None:
                raise ConfigError(
                    "the client key is encrypted", key="client_key", hint="set client_key_passphrase: env:NAME"
                )
            return passphrase.reveal()

        try:
            context.load_cert_chain(settings.client_certificate, settings.client_key, reveal)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"cannot use {settings.client_certificate}: {error}",
                key="client_certificate",
                hint="PEM, with its key in the same file or in client_key",
            ) from error
    return context
