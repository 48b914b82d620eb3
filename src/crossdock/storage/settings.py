"""What every endpoint's settings share: the base model, durations, sizes, paths and hosts."""

from __future__ import annotations

import importlib
import re
from abc import abstractmethod
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import SplitResult, parse_qsl, unquote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
)

from crossdock.storage.base import Backend
from crossdock.storage.secret import Secret, expanded

__all__ = [
    "ByteSize",
    "Encoding",
    "EndpointSettings",
    "FilePath",
    "Host",
    "LoginRoot",
    "Seconds",
    "query_of",
    "server_of",
    "several",
]

_UNITS_OF_TIME = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS_OF_SIZE = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_MOST_DIGITS = 18
_SLASHES = rb"/+AC8-\x2f\u002f"
"""One slash, but several in utf-7 and in the escapes of Python."""


def _seconds(value: object) -> object:
    # True is no second: `keep: true` would remove what is archived after one.
    if not isinstance(value, (str, bool)):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", str(value))
    if not match:
        raise ValueError("write a duration such as 500ms, 30s, 5m, 2h or 1d")
    return float(match[1]) * _UNITS_OF_TIME[match[2] or "s"]


def _bytes(value: object) -> object:
    if not isinstance(value, (str, bool)):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", str(value).lower())
    if not match or len(match[1]) > _MOST_DIGITS:
        raise ValueError("write a size in bytes, or with K, M, G, T (powers of 1024), such as 64M")
    return int(Decimal(match[1]) * _UNITS_OF_SIZE[match[2]])


def _path(value: object, info: ValidationInfo) -> object:
    """`file:` is optional; `~` is the home folder; a relative path starts at the configuration file's folder."""
    if not isinstance(value, str):
        return value
    path = expanded(value.removeprefix("file:"))
    folder = (info.context or {}).get("folder")
    return path if path.is_absolute() or folder is None else Path(folder) / path


def _encoding(value: str) -> str:
    try:
        # Not one of bytes (base64), nor one in which a slash is another byte (utf-16, EBCDIC), or other bytes as well.
        known = "/a".encode(value, "surrogateescape") == b"/a" and _SLASHES.decode(value).count("/") == 1
    except (LookupError, UnicodeError):
        known = False
    if not known:
        raise ValueError(f"unknown encoding {value!r}; write utf-8, latin-1, cp1252, …")
    return value


def _host(value: str) -> str:
    if "$" in value or value.startswith("env:"):
        raise ValueError("write the host itself: variables are looked up for secrets alone")
    # An address of IPv6 has two colons or more.
    if re.search(r"[/@\s]", value) or value.count(":") == 1:
        raise ValueError("write the host alone, such as sftp.bank.example; the rest goes to user, port and root")
    return value


# A hundred years: added to a date, they make another date, and every clock of the system takes them.
Seconds = Annotated[float, BeforeValidator(_seconds), Field(le=100 * 365 * 86400, allow_inf_nan=False)]
ByteSize = Annotated[int, BeforeValidator(_bytes)]
FilePath = Annotated[Path, BeforeValidator(_path)]
Encoding = Annotated[str, AfterValidator(_encoding)]
Host = Annotated[str, AfterValidator(_host)]


def _root(value: str) -> str:
    if value == "~" or value.startswith("~/"):
        raise ValueError("write what comes after ~/ alone: without a slash at its start it is below the login folder")
    return value


LoginRoot = Annotated[str, AfterValidator(_root)]


class EndpointSettings(BaseModel):
    """One endpoint of the user's file. Each backend's settings derive from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend_class: ClassVar[str]
    """Its "module:class": loaded on first use, and called with the settings and the name that messages use."""
    type: str
    root: str = ""
    """The folder or key prefix that all paths start from."""

    @property
    def slots(self) -> int:
        """Streams and operations that may be under way at once over all connections of this account."""
        return 64

    def shared(self, processes: int) -> Self:
        """The settings for each of several processes, which together take no more than one would."""
        return self

    def looking(self) -> Self:
        """The settings for who only reads: opening with them writes nothing at the endpoint."""
        return self

    @classmethod
    @abstractmethod
    def from_url(cls, url: SplitResult) -> tuple[Self, str]:
        """The settings that a URL stands for, and the path below their root. Raises `ValueError`."""

    def backend(self, name: str) -> Backend:
        """A backend, not yet opened; `name` is used in messages."""
        module, _, kind = self.backend_class.partition(":")
        found: Backend = getattr(importlib.import_module(module), kind)(self, name)
        return found


def query_of(url: SplitResult) -> dict[str, Any]:
    """The settings in a URL's query, as the model takes them. Raises `ValueError` for a key given twice."""
    # "+" is itself, as fingerprints of host keys have it, and no space as in a form.
    pairs = parse_qsl(url.query.replace("+", "%2B"), keep_blank_values=True)
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key} is given twice")
        found[key] = value
    return found


def several(value: object) -> object:
    """One value stands for a list of one; to be used as a `BeforeValidator`."""
    return (value,) if isinstance(value, (str, Secret, Path)) else value


def server_of(url: SplitResult) -> tuple[dict[str, Any], str]:
    """The settings that a server's URL stands for, and the path below their root. Raises `ValueError`.

    `scheme://user@host:port/absolute/path`, or `/~/path` below the folder that signing in leads to; the query holds the
    other settings.
    """
    found, path = query_of(url), url.path
    for key, part in (("host", "host"), ("root", "path")):
        if key in found:
            raise ValueError(f"{key}: write it as the URL's {part}")
    found["host"] = url.hostname or ""
    if url.port is not None:
        found["port"] = url.port
    if url.username:
        found["user"] = unquote(url.username)
    if path == "/~" or path.startswith("/~/"):
        found["root"], path = "", path[3:]
    else:
        found["root"], path = "/", path.lstrip("/")
    return found, path
