"""From an address to a signed-in connection: greeting, TLS, name and password, features. Blocking, for one thread."""

from __future__ import annotations

import logging
import re
import socket
from typing import TYPE_CHECKING

from crossdock.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    PermissionDenied,
    ProtocolViolation,
    StorageError,
    Throttled,
    TimedOut,
    Unsupported,
)
from crossdock.storage.ftp.connection import Connection, Features
from crossdock.storage.ftp.faults import hint_for_certificate
from crossdock.storage.ftp.tls import NotTls, TlsLayer, Untrusted, presented
from crossdock.storage.ftp.wire import Lost, Refused, Reply, Silent, Violation, Wire
from crossdock.storage.sockets import reached_in_time

if TYPE_CHECKING:
    from crossdock.storage.ftp.settings import FtpSettings

__all__ = ["TOO_MANY", "Connector"]

log = logging.getLogger("crossdock.storage.ftp")

TOO_MANY = re.compile(r"too many|maximum|max(?:imum)? number|limit|already|connections? from|full", re.IGNORECASE)
_WANTS_TLS = re.compile(r"\b(?:ssl|tls|encrypt\w*|clear ?text|auth command|secure(?! anonymous))\b", re.IGNORECASE)
_REFUSED_HINT = (
    "check user and password with the server's operator; an account that is not admitted gets the same answer "
    "(vsftpd userlist_file, local_enable=YES and the account's shell; ProFTPD RequireValidShell and <Limit LOGIN>; "
    "Pure-FTPd MinUID), and so does one without its home folder"
)
_QUOTED = re.compile(rb'"((?:[^"]|"")*)"')


class Connector:
    """Signs in to one account, as often as asked. Reads its secrets and certificates once."""

    def __init__(self, settings: FtpSettings, endpoint: str) -> None:
        self._settings, self._endpoint = settings, endpoint
        self._tls: TlsLayer | None = None

    def sign_in(self, connection: Connection, *, old_tls: bool) -> None:
        """Raises a `StorageError` that says what to do, or `ConfigError`."""
        host, port = self._settings.address
        name = f"{host} port {port}"
        untried = connection.learned.batches is None
        try:
            try:
                self._sign_in(connection, old_tls=old_tls)
            except Lost:
                if not untried or connection.learned.batches is not False:
                    raise
                # It has just shown that it takes one command at a time: that costs no more than this connection.
                connection.wire.close()
                self._sign_in(connection, old_tls=old_tls)
        except Silent as error:
            hint = "check host, port and firewall, or raise 'connect_timeout' at this endpoint"
            if self._settings.security != "implicit" and connection.connected and connection.wire_is_fresh:
                hint += "; if the server expects TLS from the first byte (port 990), write type: ftps"
            elif not connection.wire_is_fresh:
                hint = (
                    "it has answered before: some servers take their time to refuse a sign-in (Pure-FTPd), so check "
                    "user and password, and raise 'connect_timeout' at this endpoint"
                )
            raise self._error(TimedOut, f"{name}: {error}", hint) from error
        except Lost as error:
            raise self._error(ConnectionFailed, f"{name}: {error}", self._hint_for_loss(connection, error)) from error
        except Violation as error:
            hint = "check that this is an FTP server"
            if self._settings.security != "implicit":
                hint += ", and, if it expects TLS from the first byte (port 990), write type: ftps"
            raise self._error(ProtocolViolation, f"{name}: {error}", hint) from error
        except Refused as error:
            raise self._refused(name, error) from error
        except Untrusted as error:
            hint = hint_for_certificate(error, error.fingerprint or self._presented(connection))
            raise self._error(
                AuthenticationFailed, f"{name} presents a certificate that is not trusted: {error}", hint
            ) from error
        except NotTls as error:
            reason = f"{name}: the TLS greeting fails: {error}"
            raise self._error(ProtocolViolation, reason, self._hint_for_tls(error)) from error

    def _sign_in(self, connection: Connection, *, old_tls: bool) -> None:
        settings = self._settings
        connected = self._connect(connection)
        if settings.security != "none" and self._tls is None:
            self._tls = TlsLayer(settings)
        connection.old_tls = old_tls
        if settings.security == "implicit":
            assert self._tls is not None
            connected = self._tls.control(connected, connection.attach, old=old_tls)
            connection.tls = self._tls
        wire = Wire(connected, connection.learned)
        connection.attach_wire(wire)
        greeting = wire.reply()
        while greeting.code < 200:
            greeting = wire.reply()
        if not greeting.good:
            raise Refused(b"connect", greeting)
        if settings.security == "explicit":
            wire = self._upgrade(connection, wire, old_tls=old_tls)
        self._log_in(wire)
        if connection.tls is not None:
            wire.must(b"PBSZ 0")
            # Never without: the data would travel in clear text.
            wire.must(b"PROT P")
        if "QTCP at" in greeting.text:
            # IBM i: else names are those of libraries, and its listings in a dialect of their own.
            for command in (b"SITE NAMEFMT 1", b"SITE LISTFMT 1"):
                wire.ask(command)
        connection.features = self._features(wire, greeting)
        if "UTF8" in connection.features and _is_utf8(settings.encoding):
            wire.ask(b"OPTS UTF8 ON")
        if "MLST" in connection.features and connection.features.known:
            self._choose_facts(wire, connection.features.arguments.get("MLST", ""))
        connection.home = _prepared(wire)
        wire.signed_in = True
        wire.wait_for(settings.timeout)

    def _connect(self, connection: Connection) -> socket.socket:
        settings = self._settings
        try:
            learned = connection.learned
            # Silence takes long: the address that answered before is asked first.
            connected, learned.address = reached_in_time(*settings.address, settings.connect_timeout, learned.address)
            connected.settimeout(settings.connect_timeout)
        except TimeoutError as error:
            raise Silent(f"no answer within {settings.connect_timeout:g} s") from error
        except (OSError, UnicodeError) as error:
            # The latter for what can be no host's name, such as one with two dots together.
            raise Lost(f"cannot connect: {getattr(error, 'strerror', None) or error}") from error
        connection.attach(connected)
        connection.family = connected.family
        try:
            connection.peer = connected.getpeername()[0]
        except OSError as error:
            raise Lost(f"the connection broke at once: {error.strerror or error}") from error
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # While a transfer takes its time, this keeps the connection in the tables of what lies between.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, option):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return connected

    def _upgrade(self, connection: Connection, wire: Wire, *, old_tls: bool) -> Wire:
        reply = wire.ask(b"AUTH TLS")[0]
        if not reply.good:
            host, port = self._settings.address
            raise self._error(
                Unsupported,
                f"{host} port {port} offers no TLS: {reply}",
                "nothing was sent in clear text: ask its operator for TLS (vsftpd ssl_enable=YES, ProFTPD "
                "TLSEngine on, Pure-FTPd TLS 1), or, if clear text is acceptable for this server, write type: ftp",
            )
        if not wire.quiet:
            # Whoever sits in between could slip in answers before the encryption (the class of CVE-2011-1575).
            raise Violation("the server said more than was asked before TLS began")
        assert self._tls is not None
        secured = self._tls.control(wire.socket, connection.attach, old=old_tls)
        connection.tls = self._tls
        found = Wire(secured, connection.learned)
        connection.attach_wire(found)
        return found

    def _presented(self, connection: Connection) -> str | None:
        """What the server presents, seen on a connection of its own, on which nothing is sent that matters."""
        try:
            connected = self._connect(connection)
            with connected:
                if self._settings.security == "explicit":
                    wire = Wire(connected)
                    if not (wire.reply().good and wire.ask(b"AUTH TLS")[0].good and wire.quiet):
                        return None
                return presented(connected)
        except (Lost, Violation):
            return None

    def _log_in(self, wire: Wire) -> None:
        settings = self._settings
        user = settings.user.encode(settings.encoding, "surrogateescape")
        reply = wire.ask(b"USER " + user)[0]
        if reply.code == 331:
            if settings.password is not None:
                password = settings.password.reveal()
            elif settings.user == "anonymous":
                password = "crossdock@"
            else:
                raise Refused(b"USER", reply)
            secret = password.encode(settings.encoding, "surrogateescape")
            if any(byte in secret for byte in b"\r\n\0"):
                raise self._error(AuthenticationFailed, "the password holds a line break or NUL", "check the secret")
            reply = wire.ask(b"PASS " + secret)[0]
            if not reply.good:
                # Some repeat the command that they refuse.
                said = tuple(line.replace(secret, b"***") for line in reply.lines) if secret else reply.lines
                raise Refused(b"PASS", Reply(reply.code, said))
        elif not reply.good:
            raise Refused(b"USER", reply)

    def _features(self, wire: Wire, greeting: Reply) -> Features:
        reply = wire.ask(b"FEAT")[0]
        if not reply.good:
            # aioftp's server has MLST and MLSD, and no FEAT; its MDTM is missing.
            facts = wire.ask(b"MLST")[0]
            found_facts = facts.good and any(b"type=" in line.lower() for line in facts.lines)
            return Features(frozenset({"MLST"} if found_facts else ()), greeting=greeting.text, known=False)
        found: dict[str, str] = {}
        for line in reply.lines[1:-1] if len(reply.lines) > 2 else reply.lines:
            name, _, argument = line.decode("utf-8", "replace").strip().partition(" ")
            found[name.upper()] = argument
        return Features(frozenset(found), found, greeting.text)

    def _choose_facts(self, wire: Wire, offered: str) -> None:
        facts = {fact.rstrip("*").lower(): fact.endswith("*") for fact in offered.split(";") if fact}
        wanted = [name for name in ("type", "size", "modify") if name in facts]
        if not all(facts[name] for name in wanted):
            wire.ask(b"OPTS MLST " + "".join(f"{name};" for name in wanted).encode())

    def _hint_for_loss(self, connection: Connection, error: Lost) -> str:
        if connection.tls is not None and connection.wire_is_fresh:
            return (
                "it ended right after the TLS greeting: if the server asks for a client certificate (ProFTPD "
                "TLSVerifyClient, vsftpd require_cert, Pure-FTPd TLS 3), set client_certificate to one that it trusts"
            )
        if "WRONG_VERSION" in str(error):
            return "the server left TLS, as vsftpd does to report a mistake in its own settings: ask its operator"
        if connection.connected and connection.wire_is_fresh and self._settings.security != "implicit":
            return (
                "check host and port; if the server expects TLS from the first byte (port 990), write type: ftps; "
                "if it does not admit this machine, ask its operator (ProFTPD <Limit LOGIN>, hosts.deny, a firewall)"
            )
        return "check host, port and firewall"

    def _hint_for_tls(self, error: NotTls) -> str:
        reason = str(error).upper()
        if self._settings.security == "implicit" and ("WRONG_VERSION" in reason or "RECORD" in reason):
            return "the server does not expect TLS from the first byte: write type: ftpes (explicit TLS, port 21)"
        if "VERSION" in reason or "UNSUPPORTED_PROTOCOL" in reason:
            return "the server must offer TLS 1.2 or later: ask its operator"
        if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
            return (
                "the server may ask for a client certificate: set client_certificate; or it offers no cipher that is "
                "sound: ask its operator (vsftpd ssl_ciphers=HIGH, ProFTPD TLSCipherSuite, Pure-FTPd -J)"
            )
        return "check type, host and port"

    def _refused(self, name: str, error: Refused) -> StorageError:
        reply = error.reply
        said = f"{name}: {error}"
        if reply.code in (421, 530) and TOO_MANY.search(reply.text):
            options = "vsftpd max_clients and max_per_ip, ProFTPD MaxClientsPerUser and the like, Pure-FTPd -c and -C"
            hint = f"lower 'max_connections' at this endpoint, or ask its operator for more ({options})"
            return self._error(Throttled, said, hint)
        if "may not use encryption" in reply.text:
            hint = "the server admits this account in clear text alone: vsftpd allow_anon_ssl=YES, or write type: ftp"
            return self._error(Unsupported, said, hint)
        if self._settings.security == "none" and _WANTS_TLS.search(reply.text):
            return self._error(Unsupported, said, "the server insists on TLS: write type: ftpes")
        if error.command in ("PBSZ", "PROT"):
            return self._error(Unsupported, said, "the server does not encrypt data connections: ask its operator")
        if "OOPS" in reply.text and "chroot" not in reply.text:
            hint = "vsftpd reports a mistake in its own settings in this way: tell its operator, with this message"
            return self._error(ConnectionFailed, said, hint)
        if reply.code == 421 or error.command == "connect":
            return self._error(Throttled, said, "the server is not ready: try again later")
        if "chroot" in reply.text.lower():
            hint = "vsftpd does not let in whoever could write to the root of its chroot: allow_writeable_chroot=YES"
            return self._error(PermissionDenied, said, f"{hint}, or a root that is not writable")
        if error.command in ("USER", "PASS"):
            if reply.code == 331:
                return self._error(AuthenticationFailed, said, "the server asks for a password: set password: env:NAME")
            if reply.code in (331, 332, 430, 500, 501, 502, 503, 504, 530, 532, 534, 550):
                return self._error(AuthenticationFailed, said, _REFUSED_HINT)
        return self._error(ProtocolViolation, said, "check that this is an FTP server")

    def _error(self, kind: type[StorageError], reason: str, hint: str) -> StorageError:
        return kind(reason, operation="connect", endpoint=self._endpoint, hint=hint)


def _is_utf8(encoding: str) -> bool:
    return encoding.lower().replace("-", "").replace("_", "") == "utf8"


def _prepared(wire: Wire) -> bytes:
    """Ask for bytes as they are. Returns the folder that a sign-in leads to, as an absolute path; or the root.

    The first commands that are sent together: here nothing comes to grief where that fails.
    """
    kind, reply = wire.ask(b"TYPE I", b"PWD")
    if not kind.good:
        raise Refused(b"TYPE I", kind)
    match = _QUOTED.search(b" ".join(reply.lines)) if reply.code == 257 else None
    found = match[1].replace(b'""', b'"') if match else b"/"
    return found if found.startswith(b"/") else b"/" + found
