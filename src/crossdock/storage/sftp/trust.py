"""The host keys that a server offers, fetched without signing in: for `crossdock trust HOST`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncssh
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs

from crossdock.errors import ConnectionFailed, ProtocolViolation, TimedOut
from crossdock.storage.sftp.addresses import reached
from crossdock.storage.sftp.hostkeys import FAMILIES, family
from crossdock.storage.sftp.login import know_account
from crossdock.storage.sockets import system_words

__all__ = ["HostKey", "offered_keys"]


@dataclass(frozen=True, slots=True)
class HostKey:
    """One public key of a server."""

    algorithm: str
    fingerprint: str
    """"SHA256:…", as OpenSSH shows it."""
    line: str
    """"host algorithm base64", as a known_hosts file holds it."""


async def offered_keys(host: str, port: int = 22, *, timeout: float = 15) -> list[HostKey]:
    """All kinds of host keys that the server has, best first; no sign-in is tried.

    `timeout`: seconds for each kind. Raises `ConnectionFailed`, `TimedOut`, `ProtocolViolation`. What comes back is
    what somebody at that address presents: compare a fingerprint with one from another source before trusting it.
    """
    name = host if port == 22 else f"[{host}]:{port}"
    place = f"sftp://[{host}]:{port}" if ":" in host else f"sftp://{host}:{port}"
    # Outdated ones as well: nothing is sent under them, and a key's fingerprint is the same.
    exchanges = [name.decode() for name in get_kex_algs() if not name.startswith(b"gss-")]
    await asyncio.to_thread(know_account)
    options = asyncssh.SSHClientConnectionOptions(
        config=None,
        client_keys=None,
        agent_path=None,
        x509_trusted_certs=None,
        x509_trusted_cert_paths=[],
        encryption_algs=[name.decode() for name in get_encryption_algs()],
        mac_algs=[name.decode() for name in get_mac_algs()],
    )
    found: list[HostKey] = []
    address: object = None
    kinds = list(FAMILIES)
    while kinds:
        names = [algorithm for kind in kinds for algorithm in FAMILIES[kind]] + ["ssh-rsa"] * ("ssh-rsa" in kinds)
        try:
            async with asyncio.timeout(timeout):
                sock, address = await reached(host, port, timeout, address)
                with sock:
                    key = await asyncssh.get_server_host_key(
                        host,
                        port,
                        sock=sock,
                        config=None,
                        kex_algs=exchanges,
                        server_host_key_algs=names,
                        options=options,
                    )
        except TimeoutError as error:
            raise TimedOut(
                f"no answer for {timeout:g} seconds", operation="trust", endpoint=place, hint="check host and port"
            ) from error
        except (asyncssh.Error, OSError) as error:
            # A server without any further kind of key may just hang up.
            if found:
                break
            reason = system_words(error) if isinstance(error, OSError) else str(error)
            raise ConnectionFailed(reason, operation="trust", endpoint=place, hint="check host and port") from error
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            # As in `connect`: what a hostile key exchange makes of the libraries below.
            hint = "check that this is an SSH server"
            raise ProtocolViolation(repr(error), operation="trust", endpoint=place, hint=hint) from error
        if key is None or family(key) not in kinds:
            break
        kinds.remove(family(key))
        public = key.export_public_key().decode().split()
        found.append(HostKey(key.get_algorithm(), key.get_fingerprint(), f"{name} {public[0]} {public[1]}"))
    return found
