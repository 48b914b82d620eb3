"""One SSH connection: through a proxy or a jump host, host key first, then sign-in, then the SFTP channel."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import asyncssh
from asyncssh.constants import MSG_IGNORE

from crossdock.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    CrossdockError,
    HostKeyMismatch,
    ProtocolViolation,
    StorageError,
    Throttled,
    TimedOut,
    Unsupported,
)
from crossdock.storage.sftp.addresses import reached
from crossdock.storage.sftp.faults import Translate
from crossdock.storage.sftp.hostkeys import family
from crossdock.storage.sftp.login import Guard, Plan, Target, algorithms, make_plan
from crossdock.storage.sftp.negotiating import lacking, remedy
from crossdock.storage.sftp.transport import speed_up
from crossdock.storage.sftp.wire import Session
from crossdock.storage.sockets import system_words

if TYPE_CHECKING:
    from crossdock.storage.sftp.settings import SftpSettings

__all__ = ["Connection", "Connector"]

log = logging.getLogger("crossdock.storage.sftp")
T = TypeVar("T")

# asyncssh narrates every connection at INFO.
_ssh_log = logging.getLogger("asyncssh")
if _ssh_log.level == logging.NOTSET:
    _ssh_log.setLevel(logging.WARNING)

_CHANNEL_WINDOW = 4 * 1024 * 1024
_KEEPALIVES = 3
_TOO_MANY_CONNECTIONS, _NO_MORE_METHODS = 12, 14
_LONGEST_WAIT_TO_CLOSE = 2.0
_MOST_TOLD = 400
"""Characters of a server's list."""


class Connection:
    """A signed-in connection and its SFTP session."""

    def __init__(self, ssh: asyncssh.SSHClientConnection, jump: asyncssh.SSHClientConnection | None) -> None:
        self._ssh, self._jump = ssh, jump
        self.session: Session
        version = ssh.get_extra_info("server_version") or ""
        self.server: str = version
        """The server's identification, such as "SSH-2.0-OpenSSH_9.6"."""

    async def start(self, timeout: float) -> None:
        session = self.session = Session(timeout)
        await self._ssh.create_session(lambda: session, subsystem="sftp", encoding=None, window=_CHANNEL_WINDOW)
        session.on_end = self.abort
        if session.failure is not None:
            raise session.failure
        await session.start()

    def abort(self) -> None:
        """Drop it at once."""
        self._ssh.abort()
        if self._jump is not None:
            self._jump.abort()

    async def close(self) -> None:
        """End it politely, but do not wait for long."""
        self._ssh.close()
        try:
            async with asyncio.timeout(_LONGEST_WAIT_TO_CLOSE):
                await self._ssh.wait_closed()
        except TimeoutError:
            self._ssh.abort()
        if self._jump is not None:
            self._jump.abort()


class Connector:
    """Makes connections of one account. `make` is safe to call again and again."""

    def __init__(self, settings: SftpSettings, endpoint: str) -> None:
        self._settings, self._endpoint = settings, endpoint
        self._kinds: dict[str, str] = {}
        self._addresses: dict[str, Any] = {}
        self._guard: Guard | None = None
        """Of the connection that was begun last."""

    async def make(self) -> Connection:
        """Raises `AuthenticationFailed`, `HostKeyMismatch`, `ConnectionFailed`, `Throttled`, `ConfigError`, …"""
        plan = await make_plan(self._settings)
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                return await self._make(plan)
        except TimeoutError as error:
            if self._guard is not None and self._guard.other_protocol:
                reason = f"{plan.target.trust.name} answers, but not as an SSH server does"
                hint = "check 'port', which is 22 for most; of an FTP server the type is ftpes, or ftp"
                found = self._error(TimedOut, reason, hint)
                found.exhausted = True
                raise found from error
            raise self._error(
                TimedOut,
                f"{plan.target.trust.name} did not complete a connection in {self._settings.connect_timeout:g} seconds",
                "check host, port and firewall, or raise 'connect_timeout' at this endpoint",
            ) from error

    async def _make(self, plan: Plan) -> Connection:
        jump: asyncssh.SSHClientConnection | None = None
        ssh: asyncssh.SSHClientConnection | None = None
        try:
            if plan.jump is not None:
                near = plan.jump
                jump = await self._trusted(near, lambda algs: self._ssh(near, algs))
            ssh = await self._trusted(plan.target, lambda algs: self._ssh(plan.target, algs, jump))
            if not speed_up(ssh):
                _leave_out_ignored(ssh)
            connection = Connection(ssh, jump)
            try:
                with Translate("connect", self._endpoint, ""):
                    await connection.start(self._settings.timeout)
            except asyncssh.ChannelOpenError as error:
                if error.code == asyncssh.OPEN_REQUEST_SESSION_FAILED:
                    raise self._error(
                        Unsupported, "the server offers no SFTP", "ask its operator to enable the sftp subsystem"
                    ) from error
                hint = "lower 'max_connections'; where 1 is too many, ask its operator whether the account may use SFTP"
                raise self._error(Throttled, f"the server opens no session: {error.reason}", hint) from error
            except (asyncssh.Error, OSError) as error:
                raise self._refused(plan.target, error) from error
            return connection
        except BaseException:
            for one in (ssh, jump):
                if one is not None:
                    one.abort()
            raise

    async def _trusted(
        self, target: Target, attempt: Callable[[list[str]], Awaitable[asyncssh.SSHClientConnection]]
    ) -> asyncssh.SSHClientConnection:
        """Ask for host keys until a trusted one is presented, each time without the kinds seen already.

        That ends an attempt in the key exchange, before anything of ours is sent.
        """
        trust = target.trust
        kinds = sorted(trust.kinds, key=lambda kind: kind != self._kinds.get(trust.name))
        certificates = bool(trust.authorities)
        offered: list[asyncssh.SSHKey] = []
        reason: str | None = None
        while kinds or certificates:
            try:
                ssh = await attempt(trust.algorithms(kinds, certificates=certificates))
            except _Untrusted as error:
                reason = error.reason or reason
                if error.key is not None:
                    offered.append(error.key)
                if error.key is None or error.certificate:
                    if not certificates:
                        break
                    # The key itself may be trusted, whatever was wrong with its certificate.
                    certificates = False
                else:
                    kinds = [kind for kind in kinds if kind != family(error.key)]
                if trust.empty:
                    break
            except _NoSuchKey as error:
                reason = reason or str(error)
                break
            except Throttled:
                # A server without any further kind of key may just hang up.
                if not offered and reason is None:
                    raise
                break
            else:
                key = ssh.get_server_host_key()
                if key is not None:
                    self._kinds[trust.name] = family(key)
                return ssh
        raise self._mismatch(target, offered, reason)

    def _mismatch(self, target: Target, offered: list[asyncssh.SSHKey], reason: str | None) -> StorageError:
        keys = ", ".join(f"{key.get_algorithm()} {key.get_fingerprint()}" for key in offered)
        shown = f"the host key {keys}" if keys else "nothing that is trusted"
        line = f'host_key: "{offered[0].get_fingerprint()}"' if offered else "host_key"
        place = f"crossdock trust {target.trust.name}"
        if target.trust.empty:
            return self._error(
                HostKeyMismatch,
                f"no host key is known for {target.trust.name}; it presents {keys}",
                f"compare that with what its operator publishes, then run '{place}' or add '{line}' to the endpoint",
            )
        because = f" ({reason})" if reason else ""
        expected = " or ".join(target.trust.expected) or "a certificate of a trusted authority"
        return self._error(
            HostKeyMismatch,
            f"{target.trust.name} presents {shown}{because}, expected {expected}; nothing was sent to it",
            f"ask its operator whether the key was changed; if so, run '{place}' or set '{line}' at the endpoint",
        )

    async def _ssh(
        self, target: Target, host_algorithms: list[str], jump: asyncssh.SSHClientConnection | None = None
    ) -> asyncssh.SSHClientConnection:
        guard = self._guard = Guard(target)
        settings = self._settings
        legacy = settings.legacy
        options: dict[str, Any] = dict(
            config=None,
            client_factory=lambda: guard,
            known_hosts=([], list(target.trust.authorities), list(target.trust.revoked)),
            server_host_key_algs=host_algorithms,
            username=target.user,
            client_keys=list(target.keys) or None,
            agent_path=None,
            agent_forwarding=False,
            public_key_auth=bool(target.keys),
            password_auth=target.password is not None,
            kbdint_auth=target.password is not None,
            host_based_auth=False,
            preferred_auth=["publickey", "keyboard-interactive", "password"],
            gss_host=None,
            gss_kex=False,
            gss_auth=False,
            x509_trusted_certs=None,
            x509_trusted_cert_paths=[],
            compression_algs=["none"],
            login_timeout=2 * settings.connect_timeout,
            keepalive_interval=settings.keepalive,
            keepalive_count_max=_KEEPALIVES,
            **algorithms(legacy),
        )
        if legacy:
            log.warning("%s: outdated algorithms are allowed: %s", self._endpoint, ", ".join(legacy))
        try:
            if jump is not None:
                options["tunnel"] = jump
            else:
                options["sock"] = await (self._through_proxy(target) if settings.proxy else self._reached(target))
            return await asyncssh.connect(target.host, target.port, **options)
        except asyncssh.HostKeyNotVerifiable as error:
            raise _Untrusted(guard.offered, guard.reason or error.reason, certificate=guard.certificate) from error
        except (asyncssh.Error, OSError) as error:
            if disagreed := lacking(guard.connection, host_algorithms, legacy):
                raise self._disagreed(target, disagreed, host_algorithms) from error
            raise self._refused(target, error, guard) from error
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            # What a hostile key exchange makes of the libraries below.
            raise self._error(
                ProtocolViolation, f"{target.trust.name}: {error!r}", "check that this is an SSH server"
            ) from error
        finally:
            if guard.connection is None and "sock" in options:
                options["sock"].close()

    async def _reached(self, target: Target) -> socket.socket:
        name = target.trust.name
        sock, self._addresses[name] = await reached(
            target.host, target.port, self._settings.connect_timeout, self._addresses.get(name)
        )
        return sock

    async def _through_proxy(self, target: Target) -> socket.socket:
        from python_socks import ProxyError, ProxyType
        from python_socks.async_.asyncio import Proxy

        parts = urlsplit(str(self._settings.proxy))
        password = self._settings.proxy_password
        kinds = {"socks5": ProxyType.SOCKS5, "socks4": ProxyType.SOCKS4, "http": ProxyType.HTTP}
        proxy = Proxy(
            kinds[parts.scheme],
            parts.hostname or "",
            parts.port or 0,
            username=parts.username,
            password=await asyncio.to_thread(password.reveal) if password else None,
            rdns=True if parts.scheme == "socks5" else None,
        )
        try:
            found: socket.socket = await proxy.connect(target.host, target.port)
        except (ProxyError, OSError) as error:
            raise self._error(
                ConnectionFailed,
                f"the proxy {parts.hostname}:{parts.port} does not reach {target.trust.name}: {error}",
                "check 'proxy' at this endpoint",
            ) from error
        return found

    def _disagreed(self, target: Target, found: dict[str, list[str]], host_algorithms: list[str]) -> Exception:
        """OpenSSH's server just hangs up then."""
        line = remedy(found, host_algorithms, self._settings.legacy)
        offers = "; ".join(f"no {what} but {', '.join(names)[:_MOST_TOLD]}" for what, names in found.items())
        if line is None and "host key" in found:
            return _NoSuchKey(f"it has {offers}")
        hint = "the server's operator must offer what is sound today, as OpenSSH does"
        hint += f"; until then write '{line}' at this endpoint" if line else ""
        return self._error(Unsupported, f"no common algorithm with {target.trust.name}: it knows {offers}", hint)

    def _refused(self, target: Target, error: asyncssh.Error | OSError, guard: Guard | None = None) -> CrossdockError:
        """Everything else that ends an attempt, in one table."""
        name = target.trust.name
        if isinstance(error, asyncssh.PermissionDenied) or (
            isinstance(error, asyncssh.DisconnectError)
            and (error.code == _NO_MORE_METHODS or "authentication failures" in error.reason.lower())
        ):
            used = [f"{len(target.keys)} key(s)"] if target.keys else []
            used += ["a password"] if target.password is not None else []
            hint = "check user, private_key and password with the server's operator"
            if not used:
                hint = "set private_key, password or 'agent: true' at this endpoint"
            if guard and guard.expired:
                hint = "its password has expired: have the server's operator set a new one"
            elif guard and guard.silent and any(key.key_algorithm == b"ssh-rsa" for key in target.keys):
                hint += "; an old server may know RSA keys only with 'legacy: [ssh-rsa]' at this endpoint"
            return self._error(
                AuthenticationFailed,
                f"{name} does not let {target.user!r} in with {' and '.join(used) or 'no credentials at all'}",
                hint,
            )
        if isinstance(error, asyncssh.DisconnectError) and error.code == _TOO_MANY_CONNECTIONS:
            return self._error(Throttled, f"{name}: {error.reason}", "lower 'max_connections' at this endpoint")
        if isinstance(error, (asyncssh.ConnectionLost, ConnectionResetError, BrokenPipeError)):
            return self._error(
                Throttled,
                f"{name} closed the connection before SFTP began",
                "check that this is an SSH server; if it limits connections, lower 'max_connections' at this endpoint",
            )
        if isinstance(error, asyncssh.ServiceNotAvailable):
            return self._error(TimedOut, f"{name}: {error.reason}", "check the server")
        if isinstance(error, asyncssh.ChannelOpenError):
            return self._error(ConnectionFailed, f"the jump host does not reach {name}: {error.reason}", "check 'jump'")
        if isinstance(error, asyncssh.Error):
            reason = getattr(error, "reason", None) or str(error)
            return self._error(ProtocolViolation, f"{name}: {reason}", "check that this is an SSH server")
        reason = system_words(error) or "no answer"
        return self._error(ConnectionFailed, f"cannot connect to {name}: {reason}", "check host, port and firewall")

    def _error(self, kind: type[StorageError], reason: str, hint: str) -> StorageError:
        return kind(reason, operation="connect", endpoint=self._endpoint, hint=hint)


def _leave_out_ignored(ssh: asyncssh.SSHClientConnection) -> None:
    """asyncssh precedes each packet by an SSH_MSG_IGNORE, for CBC ciphers' sake. After one, TinySSH never answers."""
    send: Callable[..., None] = ssh.send_packet

    def send_packet(pkttype: int, *args: bytes, handler: Any = None) -> None:
        if pkttype != MSG_IGNORE:
            send(pkttype, *args, handler=handler)

    if "cbc" not in str(ssh.get_extra_info("send_cipher")):
        ssh.send_packet = send_packet  # type: ignore[method-assign]


class _Untrusted(Exception):
    def __init__(self, key: asyncssh.SSHKey | None, reason: str | None, *, certificate: bool) -> None:
        super().__init__(reason)
        self.key, self.reason, self.certificate = key, reason, certificate


class _NoSuchKey(Exception):
    """The server has no host key of the kinds asked for."""
