"""Which host keys a server may present: pins, known_hosts files, authorities, revocations."""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from crossdock.errors import ConfigError

__all__ = ["FAMILIES", "Trust", "family", "load_trust"]

FAMILIES: dict[str, tuple[str, ...]] = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa": ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
"""Kinds of host key and the signatures that prove them, best first; a server presents one key of what is asked for."""
_SHORTEST_RSA = 2048
_HOSTS = re.compile(r"^([ \t]*(?:@\S+[ \t]+)?)([^@#|\s]\S*)", re.MULTILINE)
"""The names in a line of a known_hosts file, unless they are hashed."""


def family(key: asyncssh.SSHKey) -> str:
    """The entry of `FAMILIES` that a key belongs to."""
    name = key.get_algorithm()
    return "ecdsa" if name.startswith("ecdsa-") else name


@dataclass(frozen=True, slots=True)
class Trust:
    """What may be presented by `name`, which is the host as known_hosts files write it."""

    name: str
    pins: frozenset[str] = frozenset()
    """"SHA256:…" fingerprints."""
    keys: tuple[asyncssh.SSHKey, ...] = ()
    authorities: tuple[asyncssh.SSHKey, ...] = ()
    revoked: tuple[asyncssh.SSHKey, ...] = ()
    legacy: frozenset[str] = field(default=frozenset())

    @property
    def empty(self) -> bool:
        return not (self.pins or self.keys or self.authorities)

    @property
    def expected(self) -> list[str]:
        """The fingerprints that would be accepted."""
        return sorted(self.pins | {key.get_fingerprint() for key in self.keys})

    def accepts(self, key: asyncssh.SSHKey) -> bool:
        if any(key == other for other in self.revoked) or self.refusal(key):
            return False
        return key.get_fingerprint() in self.pins or any(key == other for other in self.keys)

    def refusal(self, key: asyncssh.SSHKey) -> str | None:
        """Why a key would not do even if it were trusted."""
        if any(key == other for other in self.revoked):
            return "it is marked @revoked"
        bits = getattr(getattr(key, "pyca_key", None), "key_size", None)
        if key.get_algorithm() == "ssh-rsa" and bits is not None and bits < _SHORTEST_RSA and not self.legacy:
            return f"an RSA key of {bits} bits is too short"
        return None

    @property
    def kinds(self) -> list[str]:
        """The families that a trusted key may be of, best first; a fingerprint does not tell its kind."""
        if self.pins or self.empty:
            return list(FAMILIES)
        known = {family(key) for key in self.keys}
        return [kind for kind in FAMILIES if kind in known]

    def algorithms(self, kinds: Sequence[str], *, certificates: bool) -> list[str]:
        """What to ask a server for; it shows one key, of the first kind in this list that it has."""
        names = [name for kind in kinds for name in FAMILIES[kind]]
        if "ssh-rsa" in self.legacy and "ssh-rsa" in kinds:
            names.append("ssh-rsa")
        if not certificates:
            return names
        return [f"{name}-cert-v01@openssh.com" for each in FAMILIES.values() for name in each] + names


def load_trust(
    host: str, port: int, pins: Sequence[str], files: Sequence[Path], *, legacy: Sequence[str] = ()
) -> Trust:
    """Collect what is trusted for a host. Reads files: not for the event loop. Raises `ConfigError`.

    `files`: known_hosts files that must exist; without them the user's and the machine's are read, for keys if there
    are no `pins`, and for revocations in any case.
    """
    name = host if port == 22 else f"[{host}]:{port}"
    prints: set[str] = set()
    keys: list[asyncssh.SSHKey] = []
    for pin in pins:
        _add_pin(pin, prints, keys)
    usual = (Path("~/.ssh/known_hosts").expanduser(), Path("/etc/ssh/ssh_known_hosts"))
    # A Path's own is_file() raises where HOME is a folder that this account may not look into.
    there = list(files) or [path for path in usual if os.path.isfile(path)]  # noqa: PTH113
    known, authorities, revoked = _match(there, host, port)
    if pins and not files:
        known, authorities = [], []
    return Trust(name, frozenset(prints), (*keys, *known), tuple(authorities), tuple(revoked), frozenset(legacy))


def _match(
    files: Sequence[Path], host: str, port: int
) -> tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey], list[asyncssh.SSHKey]]:
    found: tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey], list[asyncssh.SSHKey]] = ([], [], [])
    for path in files:
        try:
            text = path.read_text(errors="surrogateescape")
            hosts = asyncssh.import_known_hosts(_HOSTS.sub(lambda line: line[1] + line[2].lower(), text))
            matched = asyncssh.match_known_hosts(hosts, host, "", None if port == 22 else port)
            # asyncssh leaves out what is revoked for a port, unless the file trusts a key for it as well.
            names = [host] if port == 22 else [f"[{host}]:{port}", host]
            revoked = [key for name in names for key in asyncssh.match_known_hosts(hosts, name, "", None)[2]]
        except OSError as error:
            hint = "name a file that is there, or pin the server by host_key: 'crossdock trust HOST' shows it"
            raise ConfigError(f"cannot read {path}: {error.strerror}", key="known_hosts", hint=hint) from error
        except (ValueError, NameError) as error:
            # asyncssh's NameError is of a certificate of X.509, without the package for those. Not its own words: they
            # repeat the line, and the file may be a key or a password by mistake.
            reason = f"{path} is not a known_hosts file: see its line {_wrong_line(text)}"
            raise ConfigError(reason, key="known_hosts", hint="write there what 'crossdock trust' shows") from error
        for into, more in zip(found, (*matched[:2], revoked), strict=True):
            into.extend(more)
    return found


def _wrong_line(text: str) -> int:
    for number, line in enumerate(text.splitlines(), 1):
        try:
            asyncssh.import_known_hosts(line)
        except (ValueError, NameError):
            return number
    return 1


def _add_pin(pin: str, prints: set[str], keys: list[asyncssh.SSHKey]) -> None:
    pin = pin.strip()
    if pin.startswith("SHA256:"):
        digest = pin.removeprefix("SHA256:").rstrip("=")
        try:
            length = len(base64.b64decode(digest + "=" * (-len(digest) % 4), validate=True))
        except (binascii.Error, ValueError):
            length = 0
        if length != 32:
            raise ConfigError(f"{pin!r} is not a SHA-256 fingerprint", key="host_key", hint="copy it whole: SHA256:…")
        prints.add(f"SHA256:{digest}")
        return
    words = pin.split()
    # A known_hosts line names the host first.
    if len(words) >= 3 and not words[0].startswith(("ssh-", "ecdsa-")):
        words = words[1:]
    try:
        keys.append(asyncssh.import_public_key(" ".join(words[:2])))
    except ValueError as error:  # a KeyImportError, or one of ASN.1
        raise ConfigError(
            f"{pin[:60]!r} is neither a fingerprint nor a public key",
            key="host_key",
            hint='write "SHA256:…" or "ssh-ed25519 AAAA…"',
        ) from error
