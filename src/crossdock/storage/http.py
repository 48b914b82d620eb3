"""What the endpoints that are reached over HTTP share: whole answers, dates, and requests that got no answer."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult
from urllib.request import getproxies, proxy_bypass

import aiohttp

from crossdock.errors import AuthenticationFailed, ConfigError, ConnectionFailed, ProtocolViolation, TimedOut, shown
from crossdock.storage.sockets import context_for, system_words

__all__ = [
    "CLOCK_SET",
    "FAILURES",
    "NotHttp",
    "TooLong",
    "Unreachable",
    "http_date",
    "no_answer",
    "proxy_of",
    "retry_after",
    "trusted",
    "whole",
]

FAILURES = (aiohttp.ClientError, TimeoutError, OSError, UnicodeError)
"""What is raised for a request without an answer; the last, for what can be no host's name, such as "a..b"."""
CLOCK_SET = 60.0
"""Seconds after which a clock that is wrong may have been set; no account is locked for it."""
_LONGEST_PAUSE = 3600.0


class Unreachable(OSError):
    """No connection came about, for the reason given."""

    def __init__(self, os_error: OSError) -> None:
        super().__init__(os_error.errno, os_error.strerror)
        self.os_error = os_error


class NotHttp(OSError):
    """An answer that is no HTTP."""


class TooLong(Exception):
    """An answer of more bytes than any that is meant."""


class _Content(Protocol):
    def iter_any(self) -> AsyncIterator[bytes]: ...


def trusted(ca_file: Path | str | None) -> ssl.SSLContext:
    """Who may vouch for a server: those in the file, else the system's. Raises `ConfigError`."""
    try:
        return context_for(ca_file)
    except OSError as error:
        reason = f"cannot read the certificates in {ca_file}: {error.strerror or error}"
        raise ConfigError(reason, hint="name a PEM file with the authority's certificate") from error


def proxy_of(url: SplitResult) -> str | None:
    """The proxy that the environment names for a URL; every variable there is read for it.

    An exception from it (`no_proxy`) may have a port, and brackets round an address of IPv6, or none.
    """
    host = url.hostname or ""
    in_url = f"[{host}]" if ":" in host else host
    port = url.port or (443 if url.scheme == "https" else 80)
    if any(map(proxy_bypass, (host, in_url, f"{in_url}:{port}"))):
        return None
    return getproxies().get(url.scheme)


def http_date(text: str | None) -> datetime | None:
    """An RFC 9110 date; None if it is not one."""
    try:
        found = parsedate_to_datetime(text or "")
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that the server asks to be left alone for (RFC 9110, 10.2.3), an hour at most: it may mistake the time.

    `headers` in any case, or in lower case.
    """
    text = headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _LONGEST_PAUSE)
    moment = http_date(text) if text else None
    return min(max(0.0, (moment - now).total_seconds()), _LONGEST_PAUSE) if moment else None


async def whole(content: _Content, most: int) -> bytes:
    """What is left of an answer. Raises `TooLong`, and what is in `FAILURES`."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            raise TooLong(f"an answer of more than {most} bytes")
    return b"".join(chunks)


_Kind = type[AuthenticationFailed] | type[ConnectionFailed] | type[ProtocolViolation] | type[TimedOut]


def no_answer(service: str, setting: str, error: Exception) -> tuple[_Kind, str, str | None]:
    """Kind, reason and remedy for one of `FAILURES`. `setting`: the name of the one that says where the service is."""
    if isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError, ssl.SSLError)):
        hint = "set 'ca_file' to the authority that signed the server's certificate"
        if "WRONG_VERSION_NUMBER" in str(error):
            hint = f"what answers there speaks no TLS: check the port and the scheme of '{setting}'"
        return AuthenticationFailed, f"TLS with {service} failed: {_words(error)}", hint
    if isinstance(error, aiohttp.ConnectionTimeoutError) or (
        isinstance(error, Unreachable) and isinstance(error.os_error, TimeoutError)
    ):
        return TimedOut, f"no connection to {service} in time", f"check '{setting}', the proxy and the firewall"
    if isinstance(error, TimeoutError):
        return TimedOut, f"{service} went silent", None
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        reason = f"cannot connect to the proxy {error.host}:{error.port} on the way to {service}: {_words(error)}"
        return ConnectionFailed, reason, "check the environment's http_proxy, https_proxy and no_proxy"
    if isinstance(error, (aiohttp.ClientConnectorError, Unreachable, UnicodeError)):
        return ConnectionFailed, f"cannot connect to {service}: {_words(error)}", f"check '{setting}' and the network"
    if isinstance(error, (aiohttp.ClientResponseError, aiohttp.InvalidURL, NotHttp)):
        reason = f"{service} does not speak HTTP: {_words(error)}"
        return ProtocolViolation, reason, f"check '{setting}', its port, and whether it takes TLS"
    return ConnectionFailed, f"the connection to {service} broke: {_words(error)}", None


def _words(error: BaseException) -> str:
    """Without the URL and headers that aiohttp's own texts carry."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if cause is not error:
        return _words(cause)
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        return system_words(error)
    if isinstance(error, NotHttp):
        return shown(str(error))[:200]
    if isinstance(error, aiohttp.ClientResponseError) and error.message:
        # Below its first line the parser quotes what it has read.
        return shown(error.message.strip().partition("\n")[0].rstrip(":"))
    return str(error) if isinstance(error, UnicodeError) else type(error).__name__
