"""Who signs in where, as whom, and how: settings, ssh_config and secrets resolved into one plan."""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncssh
from asyncssh.config import SSHClientConfig
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_default_kex_algs, get_kex_algs
from asyncssh.mac import get_default_mac_algs, get_mac_algs
from asyncssh.public_key import get_public_key_algs

from crossdock.errors import ConfigError, SecretUnavailable
from crossdock.storage.sftp.hostkeys import Trust, load_trust

if TYPE_CHECKING:
    from crossdock.storage.sftp.settings import SftpSettings

__all__ = ["Guard", "Plan", "Target", "algorithms", "know_account", "make_plan"]

log = logging.getLogger("crossdock.storage.sftp")

CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-ctr",
)
"""AES-GCM first: with the processor's AES instructions it is the fastest by far."""
_SIGNATURES = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
_UNREADABLE = (ValueError, TypeError, LookupError, ArithmeticError, NameError, re.error)
"""What asyncssh, and what it asks, make of keys and certificates that are none, or damaged; OpenSSL's as well."""
_MOST_PROMPTS = 8
_MOST_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Target:
    """One SSH server and the right to sign in to it."""

    host: str
    port: int
    user: str
    trust: Trust
    keys: tuple[asyncssh.SSHKeyPair, ...] = ()
    password: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    target: Target
    jump: Target | None = None


class Guard(asyncssh.SSHClient):
    """asyncssh's questions about one connection: is this host key trusted, what is the password?

    The password goes out once: offering it again by another method would count as a second failure at the server.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._password = target.password
        self._rounds = 0
        self.offered: asyncssh.SSHKey | None = None
        self.reason: str | None = None
        self.certificate = False
        self.expired = False
        """The server asked for a new password."""
        self.connection: asyncssh.SSHClientConnection | None = None
        """None until it holds the socket."""

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self.connection = conn

    @property
    def silent(self) -> bool:
        """The server did not say by which algorithms keys may sign (RFC 8308 §3.1), as old ones do not."""
        return not getattr(self.connection, "_server_sig_algs", True)

    @property
    def other_protocol(self) -> bool:
        """It said something, but no SSH version: as a greeting may come before that, asyncssh waits on."""
        ssh = self.connection
        return bool(getattr(ssh, "_banner_lines", 0)) and ssh is not None and not ssh.get_extra_info("server_version")

    def password_change_requested(self, prompt: str, lang: str) -> Any:
        self.expired = True
        return NotImplemented

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.offered, self.reason = key, self._target.trust.refusal(key)
        return self._target.trust.accepts(key)

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.certificate = True
        self.offered, self.reason = key, "the authority that signed its certificate is not trusted"
        return False

    def password_auth_requested(self) -> str | None:
        password, self._password = self._password, None
        return password

    def kbdint_auth_requested(self) -> str | None:
        return None if self._password is None else ""

    def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> list[str] | None:
        self._rounds += 1
        if self._rounds > _MOST_ROUNDS or len(prompts) > _MOST_PROMPTS:
            log.warning("%s: gives up on a sign-in that asks too many questions", self._target.host)
            return None
        if not prompts:
            return []
        # One hidden prompt is the password's whatever it is called; of several, all must ask for it by name.
        if self._password is None or not all(
            not echo and (len(prompts) == 1 or "password" in prompt.lower()) for prompt, echo in prompts
        ):
            return None
        password, self._password = self._password, None
        return [password] * len(prompts)


def algorithms(legacy: Sequence[str]) -> dict[str, list[str]]:
    """asyncssh's arguments: nothing with SHA-1, MD5 or CBC unless `legacy` names it. Raises `ConfigError`."""

    def names(found: Sequence[bytes]) -> list[str]:
        return [name.decode() for name in found]

    def sound(found: Sequence[bytes]) -> list[str]:
        return [
            name for name in names(found) if "sha1" not in name and "md5" not in name and not name.startswith("gss-")
        ]

    chosen = {
        "kex_algs": (sound(get_default_kex_algs()), names(get_kex_algs())),
        "encryption_algs": (list(CIPHERS), names(get_encryption_algs())),
        "mac_algs": (sound(get_default_mac_algs()), names(get_mac_algs())),
        "signature_algs": (list(_SIGNATURES), names(get_public_key_algs())),
    }
    found = {kind: [name for name in wanted if name in able] for kind, (wanted, able) in chosen.items()}
    for name in legacy:
        kinds = [kind for kind, (_, able) in chosen.items() if name in able]
        if not kinds:
            raise ConfigError(f"unknown algorithm {name!r}", key="legacy", hint="write names as ssh -Q lists them")
        for kind in kinds:
            if name not in found[kind]:
                found[kind].append(name)
    return found


def _config_of(alias: str, user: str) -> dict[str, Any]:
    """What ~/.ssh/config says of a host."""
    path = Path("~/.ssh/config").expanduser()
    if not os.path.isfile(path):  # noqa: PTH113 - a Path's own raises for what may not be looked at
        raise ConfigError(f"there is no {path}", key="ssh_config", hint="remove ssh_config from this endpoint")
    try:
        found = SSHClientConfig.load(None, [path], False, False, False, user, (), alias, ())
    except (asyncssh.ConfigParseError, OSError, *_UNREADABLE) as error:
        known = isinstance(error, (asyncssh.ConfigParseError, OSError))
        reason = str(error).removeprefix(f"{path} ") if known else "a line in it has no name, or is not UTF-8 text"
        hint = "mend it there, or remove ssh_config from this endpoint"
        raise ConfigError(f"{path}: {reason}", key="ssh_config", hint=hint) from error
    wanted = ("Hostname", "Port", "User", "IdentityFile", "ProxyJump")
    return {"Hostname": alias, **{name: found.get(name) for name in wanted if found.get(name)}}


def _import_key(text: str | bytes, source: str, passphrase: str | None) -> asyncssh.SSHKey:
    try:
        return asyncssh.import_private_key(text, passphrase)
    except asyncssh.KeyEncryptionError as error:
        raise ConfigError(f"cannot decrypt {source}", key="passphrase", hint="check the passphrase") from error
    except _UNREADABLE as error:
        reason = str(error) if isinstance(error, asyncssh.KeyImportError) else "it is damaged"
        hint = "set passphrase: env:NAME" if "passphrase" in reason.lower() else "use a key that ssh-keygen made"
        if isinstance(text, str) and text.startswith("-----BEGIN") and "\n" not in text.strip():
            hint = "keep its line ends: as one line it cannot be read"
        head = (text if isinstance(text, str) else text.decode("latin-1")).lstrip()
        if head.startswith("PuTTY-User-Key-File"):
            reason, hint = "it is PuTTY's", "convert it: puttygen KEY.ppk -O private-openssh -o KEY"
        elif head.startswith(("ssh-", "ecdsa-", "sk-", "---- BEGIN SSH2 PUBLIC")):
            reason, hint = "it is the public one", "name the private key, which has no .pub at its end"
        raise ConfigError(f"cannot use {source}: {reason}", key="private_key", hint=hint) from error


def _identity(path: Path, passphrase: str | None) -> asyncssh.SSHKey:
    try:
        mode, text = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        reason = f"cannot read the private key {path}: {error.strerror}"
        raise ConfigError(reason, key="private_key", hint="let this account read it, or set private_key") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"others may read the private key {path}", key="private_key", hint=f"chmod 600 {path}")
    return _import_key(text, str(path), passphrase)


def _sound(pair: asyncssh.SSHKeyPair, legacy: Sequence[str]) -> asyncssh.SSHKeyPair:
    """An RSA key signs by SHA-2 also where the server does not say that it knows that (RFC 8332 §3.3).

    asyncssh takes such a server to know SHA-1 alone, and would not offer the key.
    """
    found = [name for name in pair.sig_algorithms if name.startswith(b"rsa-sha2-")]
    if found and "ssh-rsa" not in legacy:
        pair.sig_algorithms = found
        pair.set_sig_algorithm(found[0])
    return pair


def _key_pairs(settings: SftpSettings, identities: Sequence[str]) -> list[asyncssh.SSHKeyPair]:
    passphrase = settings.passphrase.reveal() if settings.passphrase else None
    keys = [
        _import_key(secret.reveal(), f"the private key of {secret.reference}", passphrase)
        for secret in settings.private_key
    ]
    if not keys:
        paths = [Path(name).expanduser() for name in identities]
        keys = [_identity(path, passphrase) for path in paths if os.path.isfile(path)]  # noqa: PTH113
    if settings.certificate is None:
        return list(asyncssh.load_keypairs(keys)) if keys else []
    if not keys:
        raise ConfigError("a certificate without its private key", key="certificate", hint="set private_key as well")
    try:
        certificate = asyncssh.read_certificate(settings.certificate)
    except (OSError, *_UNREADABLE) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no certificate of OpenSSH"
        hint = "name the file that ssh-keygen -s made: KEY-cert.pub"
        raise ConfigError(f"cannot read {settings.certificate}: {reason}", key="certificate", hint=hint) from error
    try:
        return list(asyncssh.load_keypairs([(keys[0], certificate), *keys[1:]]))
    except ValueError as error:
        reason = f"{settings.certificate} is for another key than the first private_key"
        raise ConfigError(reason, key="certificate", hint="name the one that was made for it") from error


def _keys(settings: SftpSettings, config: dict[str, Any]) -> tuple[asyncssh.SSHKeyPair, ...]:
    return tuple(_sound(pair, settings.legacy) for pair in _key_pairs(settings, config.get("IdentityFile", ())))


def know_account() -> str:
    """This process's account, with a name and a home where the machine knows none: a container may run any number.

    asyncssh asks for both, whatever it is told, and fails without.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = os.environ["LOGNAME"] = f"#{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"
    return user


def _resolve(settings: SftpSettings) -> Plan:
    """Reads files and decrypts keys: not for the event loop."""
    account = know_account()
    user = account if settings.user is None or settings.ssh_config else settings.user
    alias = settings.host if settings.ssh_config is True else settings.ssh_config
    config = _config_of(alias, user) if alias else {}
    user = settings.user or config.get("User", user)
    if user.startswith("#"):
        raise ConfigError(f"this machine has no name for account {user}", key="user", hint="set user at this endpoint")
    # known_hosts files and certificates write it in lower case, revocations included.
    host = str(config.get("Hostname", settings.host)).lower()
    port = settings.port or config.get("Port", 22)
    keys = _keys(settings, config)
    target = Target(
        host=host,
        port=port,
        user=user,
        trust=load_trust(host, port, settings.host_key, settings.known_hosts, legacy=settings.legacy),
        keys=keys,
        password=settings.password.reveal() if settings.password else None,
    )
    through = settings.jump or config.get("ProxyJump")
    if not through or through == "none":
        return Plan(target)
    try:
        parts = urlsplit(f"//{through}")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if "," in through or not parts.hostname:
        raise ConfigError(f"cannot go through {through!r}", key="jump", hint="write one user@host:port")
    hop: dict[str, Any] = {}
    if not settings.jump:
        hop = _config_of(parts.netloc.rpartition("@")[2].removesuffix(f":{port}"), user)
        if hop.get("ProxyJump", "none") != "none":
            raise ConfigError(
                f"{through!r} has a ProxyJump of its own", key="ssh_config", hint="only one is gone through"
            )
    host, port = str(hop.get("Hostname", parts.hostname)).lower(), port or hop.get("Port", 22)
    trust = load_trust(host, port, settings.jump_host_key, settings.known_hosts, legacy=settings.legacy)
    user = parts.username or hop.get("User", user)
    return Plan(target, Target(host, port, user, trust, _keys(settings, hop) if hop.get("IdentityFile") else keys))


async def make_plan(settings: SftpSettings) -> Plan:
    """Resolve everything that a connection needs. Raises `ConfigError`, `SecretUnavailable`."""
    plan = await asyncio.to_thread(_resolve, settings)
    if not settings.agent:
        return plan
    path = os.environ.get("SSH_AUTH_SOCK")
    if not path:
        raise SecretUnavailable("no ssh-agent is running", key="agent", hint="export SSH_AUTH_SOCK, or set private_key")
    try:
        # One that waits for its own user, or is stopped, would be waited for without end.
        async with asyncio.timeout(settings.connect_timeout):
            agent = await asyncssh.connect_agent(path)
            pairs = tuple(_sound(pair, settings.legacy) for pair in await agent.get_keys())
    except (OSError, ValueError) as error:
        reason = str(error) or f"nothing came within {settings.connect_timeout:g} seconds"
        hint = "start it, and see that SSH_AUTH_SOCK names its socket; or set private_key instead"
        raise SecretUnavailable(f"the ssh-agent does not answer: {reason}", key="agent", hint=hint) from error
    if not pairs:
        raise SecretUnavailable("the ssh-agent holds no key", key="agent", hint="ssh-add KEYFILE")

    def with_agent(one: Target) -> Target:
        return Target(one.host, one.port, one.user, one.trust, (*one.keys, *pairs), one.password)

    return Plan(with_agent(plan.target), with_agent(plan.jump) if plan.jump else None)
