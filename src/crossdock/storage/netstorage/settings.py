"""What the user writes about a NetStorage endpoint."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, unquote

from pydantic import AfterValidator, Field

from crossdock.storage.secret import Secret
from crossdock.storage.settings import ByteSize, EndpointSettings, FilePath, Seconds, query_of

__all__ = ["NetStorageSettings"]

MIB = 1024**2


def _host(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", value):
        raise ValueError("write the host alone, such as example-nsu.akamaihd.net")
    return value


def _root(value: str) -> str:
    root = value.strip("/")
    if root and any(part in ("", ".", "..") for part in root.split("/")):
        raise ValueError("a root has no empty component, no '.' and no '..'")
    return root


class NetStorageSettings(EndpointSettings):
    """A CP code of Akamai NetStorage, or a folder in it, by the signed HTTP interface."""

    backend_class = "crossdock.storage.netstorage.backend:NetStorageBackend"
    type: Literal["netstorage"] = "netstorage"
    host: Annotated[str, AfterValidator(_host)]
    """The storage group's connection hostname, such as example-nsu.akamaihd.net."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """443; 80 without TLS."""
    cp_code: str = Field(pattern=r"^[0-9]+$", coerce_numbers_to_str=True)
    """The first component of every path there."""
    root: Annotated[str, AfterValidator(_root)] = ""
    """The folder below the CP code that all paths start from."""
    key_name: str = Field(pattern=r"^[^\s,]+$")
    """The id of the upload account that the key belongs to."""
    key: Secret
    """The account's HTTP API key."""

    store: Literal["object-store", "file-store"] = "object-store"
    """The storage group's kind. A file-store (NetStorage 3) lists folder by folder only."""
    rename_replaces: bool = False
    """Renaming onto a file that exists is known to replace it in one step. Akamai does not say; otherwise it is tried,
    and where it is refused, the old file steps aside first: for a moment there is none under the name."""
    listing: Literal["flat", "folders"] = "flat"
    """folders: walk folder by folder also in an object-store, for names that are not UTF-8."""

    tls: bool = True
    """false: plain HTTP; the key is never sent, but the files are."""
    ca_file: FilePath | None = None
    """Authorities to trust (PEM), or the server's own certificate, instead of the system's authorities."""
    buffer: ByteSize = Field(default=4 * MIB, ge=0)
    """Bytes. Files up to this size are held until they are stored, and sent again if need be; larger ones are streamed
    once, so that what fails is a new attempt. Memory of a write: buffer + 1 MiB."""
    requests_per_second: float | None = Field(default=None, gt=0)
    """Requests started by this endpoint, at most. NetStorage answers 429 or 500 to accounts that ask too often."""
    max_connections: int = Field(default=8, ge=1, le=64)
    """Files and operations under way at once; at least 3, so that a copy within the endpoint comes to its end."""
    timeout: Seconds = Field(default=60, gt=0)
    """Seconds of silence after which a request is given up."""
    connect_timeout: Seconds = Field(default=10, gt=0)

    @property
    def slots(self) -> int:
        return self.max_connections

    def shared(self, processes: int) -> Self:
        rate = self.requests_per_second
        return self.model_copy(
            update={
                "max_connections": max(1, self.max_connections // processes),
                "requests_per_second": rate / processes if rate else None,
            }
        )

    @classmethod
    def from_url(cls, url: SplitResult) -> tuple[Self, str]:
        """`netstorage://KEY_NAME@HOST/CP_CODE/path?key=env:NAME`."""
        if not url.hostname or not url.username:
            raise ValueError("write netstorage://KEY_NAME@HOST/CP_CODE/path?key=env:NAME")
        cp_code, _, path = url.path.removeprefix("/").partition("/")
        given = {"host": url.hostname, "port": url.port, "key_name": unquote(url.username), "cp_code": cp_code}
        return cls(**{**query_of(url), **given}), path

    @property
    def service(self) -> str:
        """Scheme, host and port."""
        port = f":{self.port}" if self.port else ""
        return f"{'https' if self.tls else 'http'}://{self.host}{port}"
