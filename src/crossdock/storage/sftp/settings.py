"""What an SFTP endpoint can be told."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import BeforeValidator, Field, field_validator

from crossdock.storage.base import Backend
from crossdock.storage.secret import Secret
from crossdock.storage.settings import (
    ByteSize,
    Encoding,
    EndpointSettings,
    FilePath,
    Host,
    LoginRoot,
    Seconds,
    server_of,
    several,
)

__all__ = ["SftpSettings"]


class SftpSettings(EndpointSettings):
    """A folder on a server that speaks SFTP version 3 over SSH."""

    backend_class = "crossdock.storage.sftp.backend:SftpBackend"
    type: Literal["sftp"] = "sftp"
    host: Host = Field(min_length=1)
    port: int | None = Field(default=None, ge=1, le=65535)
    """22 unless the ssh_config says otherwise."""
    user: str | None = None
    """The local account's name unless the ssh_config says otherwise."""
    root: LoginRoot = ""
    """Absolute, or below the login folder ("" is the login folder itself)."""

    private_key: Annotated[tuple[Secret, ...], BeforeValidator(several)] = ()
    """The text of a key, or the file that holds it; only these keys are offered."""
    certificate: FilePath | None = None
    """An OpenSSH user certificate for the first private key."""
    passphrase: Secret | None = None
    password: Secret | None = None
    """Answers password and keyboard-interactive sign-in, alone or after a key."""
    agent: bool = False
    """Offer the keys of the running ssh-agent."""

    host_key: Annotated[tuple[str, ...], BeforeValidator(several)] = ()
    """"SHA256:…" fingerprints or public keys ("ssh-ed25519 AAAA…") of the server; any of them may be presented."""
    known_hosts: Annotated[tuple[FilePath, ...], BeforeValidator(several)] = ()
    """Files in OpenSSH's format, @cert-authority and @revoked included; ~/.ssh and /etc/ssh if there is no host_key."""

    ssh_config: bool | str = False
    """Look `host` (true) or this alias up in ~/.ssh/config: HostName, Port, User, IdentityFile, ProxyJump."""
    proxy: str | None = None
    """"socks5://host:port", "socks4://…" or "http://…", with "user@" if it asks for a name."""
    proxy_password: Secret | None = None
    jump: str | None = None
    """"user@host:port" of an SSH server to go through, signed in to with the same keys, never with the password."""
    jump_host_key: Annotated[tuple[str, ...], BeforeValidator(several)] = ()

    legacy: Annotated[tuple[str, ...], BeforeValidator(several)] = ()
    """Outdated algorithms that this one server needs, such as ssh-rsa or diffie-hellman-group14-sha1."""
    timeout: Seconds = Field(default=30, gt=0)
    """Silence, while answers are due, after which a connection is given up."""
    connect_timeout: Seconds = Field(default=30, gt=0)
    keepalive: Seconds = Field(default=15, ge=0)
    """Seconds between signs of life asked for; three unanswered ones end the connection. 0: never ask."""
    max_connections: int = Field(default=4, ge=1, le=64)
    streams_per_connection: int = Field(default=4, ge=1, le=64)
    window: ByteSize = Field(default=4 * 1024 * 1024, ge=16 * 1024, le=64 * 1024 * 1024)
    """Bytes that may be under way in one stream."""

    fsync: bool = True
    """Have the server write to its disk before a file is published, where it can be asked to."""
    verify: Literal["size", "none"] = "size"
    """none: a drop box that may be written to but not looked at."""
    staging: Literal["rename", "none"] = "rename"
    """none: write under the final name at once, for servers that forbid renaming; a partial file can be seen."""
    links: Literal["skip", "follow"] = "skip"
    """follow: a link counts as what it leads to, unless that is a folder above it."""
    encoding: Encoding = "utf-8"
    """Of the names at the server."""

    @field_validator("proxy")
    @classmethod
    def _proxy(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("socks5", "socks4", "http") or not parts.hostname or not parts.port:
            raise ValueError("write socks5://host:port, socks4://host:port or http://host:port")
        if parts.password is not None:
            raise ValueError("write the password as proxy_password: env:NAME")
        return value

    @field_validator("jump")
    @classmethod
    def _jump(cls, value: str | None) -> str | None:
        if value is not None and not ((parts := urlsplit(f"//{value}")).hostname and parts.port != 0):
            raise ValueError("write user@host:port")
        return value

    @classmethod
    def from_url(cls, url: SplitResult) -> tuple[Self, str]:
        """sftp://user@host:port/absolute/path, or /~/path below the login folder; the query holds settings."""
        found, path = server_of(url)
        if found.get("ssh_config") in ("true", "false"):
            # Else it would be taken for an alias.
            found["ssh_config"] = found["ssh_config"] == "true"
        return cls.model_validate(found), path

    def shared(self, processes: int) -> Self:
        """The account's connections are divided up: servers count them, and each costs both sides a sign-in."""
        return self.model_copy(update={"max_connections": max(1, self.max_connections // processes)})

    def backend(self, name: str) -> Backend:
        from crossdock.storage.sftp.loading import ldconfig_only

        with ldconfig_only():
            return super().backend(name)
