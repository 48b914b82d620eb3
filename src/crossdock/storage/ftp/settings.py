"""What an FTP endpoint can be told: one model behind the types `ftp`, `ftpes` and `ftps`."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult

from pydantic import BeforeValidator, Field, field_validator, model_validator

from crossdock.storage.secret import Secret
from crossdock.storage.settings import (
    Encoding,
    EndpointSettings,
    FilePath,
    Host,
    LoginRoot,
    Seconds,
    server_of,
    several,
)

__all__ = ["FtpSettings", "Tls"]

Tls = Literal["none", "explicit", "implicit"]
_TLS: dict[str, Tls] = {"ftp": "none", "ftpes": "explicit", "ftps": "implicit"}


class FtpSettings(EndpointSettings):
    """A folder on a server that speaks FTP (RFC 959, 3659), in clear text or under TLS (RFC 4217)."""

    backend_class = "crossdock.storage.ftp.backend:FtpBackend"
    type: Literal["ftp", "ftpes", "ftps"]
    """ftpes: TLS from AUTH TLS on, port 21. ftps: TLS from the first byte, port 990. ftp: all in clear text."""
    host: Host = Field(min_length=1)
    port: int | None = Field(default=None, ge=1, le=65535)
    """21; 990 for implicit TLS."""
    user: str = "anonymous"
    password: Secret | None = None
    root: LoginRoot = ""
    """Absolute, or below the login folder ("" is the login folder itself)."""

    tls: Tls | None = None
    """What the type says, unless the type is ftp: `{type: ftp, tls: explicit}` is another way to write ftpes."""
    certificate: Annotated[tuple[str, ...], BeforeValidator(several)] = ()
    """"SHA256:…" (hexadecimal) fingerprints of the server's certificate; any of them may be presented, and no other."""
    ca_file: FilePath | None = None
    """Authorities to trust (PEM), or the server's own certificate, instead of the system's authorities."""
    client_certificate: FilePath | None = None
    client_key: FilePath | None = None
    """The key of the client certificate, unless it is in the same file."""
    client_key_passphrase: Secret | None = None

    mode: Literal["passive", "active"] = "passive"
    """active: the server connects back to this machine, which few networks allow."""
    timeout: Seconds = Field(default=30, gt=0)
    """Silence, while an answer is due, after which a connection is given up."""
    connect_timeout: Seconds = Field(default=30, gt=0)
    keepalive: Seconds = Field(default=45, ge=0)
    """Seconds after which an idle connection is used for a NOOP. 0: never."""
    max_connections: int = Field(default=4, ge=1, le=64)
    """Of this account. Each moves one file at a time."""

    verify: Literal["digest", "size", "none"] = "digest"
    """digest: by the server's own digest where it has one, else by size. none: a drop box that hides what it holds."""
    staging: Literal["rename", "none"] = "rename"
    """none: write under the final name at once, for servers that forbid renaming; a partial file can be seen."""
    encoding: Encoding = "utf-8"
    """Of the names at the server."""

    @field_validator("certificate")
    @classmethod
    def _fingerprints(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_fingerprint(one) for one in value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tls not in (None, _TLS[self.type]) and self.type != "ftp":
            raise ValueError(f"type {self.type} means tls: {_TLS[self.type]}; leave tls out")
        if self.security == "none":
            for key in ("certificate", "ca_file", "client_certificate", "client_key"):
                if getattr(self, key):
                    raise ValueError(f"{key} needs TLS; write type: ftpes")
        if self.client_key is not None and self.client_certificate is None:
            raise ValueError("client_key needs client_certificate")
        if any(character in self.user for character in "\r\n\0"):
            raise ValueError("user: a line break or NUL in the name")
        return self

    @property
    def security(self) -> Tls:
        return self.tls or _TLS[self.type]

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port or (990 if self.security == "implicit" else 21)

    @property
    def slots(self) -> int:
        return max(self.max_connections * 4, 16)

    @classmethod
    def from_url(cls, url: SplitResult) -> tuple[Self, str]:
        """ftpes://user@host:port/absolute/path, or /~/path below the login folder; the query holds settings."""
        found, path = server_of(url)
        return cls.model_validate({**found, "type": url.scheme}), path

    def shared(self, processes: int) -> Self:
        """The account's connections are divided up: servers count them, and each costs both sides a sign-in."""
        return self.model_copy(update={"max_connections": max(1, self.max_connections // processes)})


def _fingerprint(value: str) -> str:
    digits = value.removeprefix("SHA256:").removeprefix("sha256:").replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise ValueError(
            'write "SHA256:" and 64 hexadecimal digits, as "openssl x509 -noout -fingerprint -sha256" prints them'
        )
    return digits
