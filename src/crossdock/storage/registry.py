"""URL or type → backend. Others' backends register in the entry-point group "crossdock.storage"."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeGuard
from urllib.parse import unquote, urlsplit

from crossdock.errors import ConfigError, NotInstalled
from crossdock.storage.layers import Observe
from crossdock.storage.limits import Limit, Throttle
from crossdock.storage.rate import TokenBucket
from crossdock.storage.retry import Reopen, Retry, RetryPolicy
from crossdock.storage.storage import Storage

if TYPE_CHECKING:
    from crossdock.storage.settings import EndpointSettings

__all__ = ["backend_types", "extra_named", "is_type", "new_storage", "parse_url", "settings_class"]

_BUILT_IN = {
    "ftp": "crossdock.storage.ftp:FtpSettings",
    "ftpes": "crossdock.storage.ftp:FtpSettings",
    "ftps": "crossdock.storage.ftp:FtpSettings",
    "local": "crossdock.storage.local:LocalSettings",
    "memory": "crossdock.storage.memory:MemorySettings",
    "netstorage": "crossdock.storage.netstorage:NetStorageSettings",
    "s3": "crossdock.storage.s3:S3Settings",
    "sftp": "crossdock.storage.sftp:SftpSettings",
}
_SCHEMES = {"file": "local"}
_WORDS = {
    "extra_forbidden": "there is no such setting",
    "string_too_short": "it is missing",
    "missing": "it is missing",
}
"""What pydantic finds → how it is said of a URL."""
_PASSWORD = re.compile(r"(://[^:@/?#]*:).*@", re.DOTALL)
_EXTRAS = frozenset({"asyncssh", "python_socks", "aiohttp", "botocore"})
"""Packages that come with the extra of the type that needs them."""


@cache
def backend_types() -> dict[str, str]:
    """Type → "module:class" of its settings, installed and built in."""
    return {point.name: point.value for point in entry_points(group="crossdock.storage")} | _BUILT_IN


def is_type(kind: object) -> TypeGuard[str]:
    """Whether there is such a type. What is installed is searched, which takes 10 ms, for no type that is built in."""
    return isinstance(kind, str) and (kind in _BUILT_IN or kind in backend_types())


def settings_class(kind: str) -> type[EndpointSettings]:
    """The settings model of a type. Raises `ConfigError` for an unknown type or a missing extra."""
    if not is_type(kind):
        known = ", ".join(sorted(backend_types()))
        raise ConfigError(f"unknown endpoint type {kind!r}", key="type", hint=f"write one of: {known}")
    module, _, name = (_BUILT_IN.get(kind) or backend_types()[kind]).partition(":")
    with extra_named(kind):
        found: type[EndpointSettings] = getattr(importlib.import_module(module), name)
    return found


@contextmanager
def extra_named(kind: str) -> Iterator[None]:
    """A library that is not installed is an error of the configuration, which says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRAS:
            raise
        raise NotInstalled(
            f"type {kind} needs the package {error.name}", hint=f"pip install 'crossdock[{kind}]'"
        ) from error


def parse_url(url: str) -> tuple[EndpointSettings, str]:
    """The settings and path of a location written as a URL. Raises `ConfigError`."""
    # Without the query, where what should have been a reference may be the secret itself.
    shown = url.partition("?")[0]
    try:
        parts = urlsplit(url)
        password = parts.password
        _ = parts.port
    except ValueError as error:
        # By a password with "/", "?", "#" or "[" in it, what comes before that looks like host and port.
        if _PASSWORD.search(url):
            raise _secret_in(_PASSWORD.sub(r"\1…@", url)) from None
        raise ConfigError(f"{shown}: {error}", hint="see 'As a URL' in the reference") from error
    if password is not None:
        raise _secret_in(url.replace(f":{password}@", ":…@"))
    kind = _SCHEMES.get(parts.scheme, parts.scheme)
    if not is_type(kind):
        known = ", ".join(sorted({*backend_types(), *_SCHEMES} - {*_SCHEMES.values()}))
        raise ConfigError(f"{shown}: unknown endpoint type {kind!r}", hint=f"begin it with one of: {known}")
    try:
        found, path = settings_class(kind).from_url(parts)
    except ValueError as error:
        raise ConfigError(f"{shown}: {_reasons(error)}", hint="see 'As a URL' in the reference") from error
    return found, unquote(path, errors="surrogateescape")


def _secret_in(url: str) -> ConfigError:
    return ConfigError(
        f"{url.partition('?')[0]}: a password in a URL is seen by every process on the machine",
        hint="export it and add '?password=env:NAME' to the URL, or name the endpoint in crossdock.yaml",
    )


def new_storage(
    name: str,
    settings: EndpointSettings,
    *,
    bandwidth: TokenBucket | None = None,
    retry: RetryPolicy | None = None,
) -> Storage:
    """A storage over the endpoint with all its layers, not yet opened (`async with` opens it)."""
    with extra_named(settings.type):
        backend = settings.backend(name)
    layered = Limit(Reopen(Observe(backend), retry), settings.slots)
    return Storage(Retry(Throttle(layered, bandwidth) if bandwidth else layered, retry))


def _reasons(error: ValueError) -> str:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))}: {_WORDS.get(item['type'], item['msg'].removeprefix('Value error, '))}"
        for item in error.errors(include_url=False)
    )
