"""A webhook: one POST of JSON, signed as Standard Webhooks lays down (https://www.standardwebhooks.com).

Headers: `webhook-id`, the same for every repetition of a notice; `webhook-timestamp`, seconds since 1970 of this try;
`webhook-signature`, "v1," and the base64 of HMAC-SHA256 over `id.timestamp.body` with the shared secret. A secret
"whsec_…" is the base64 of the key; any other is the key itself.

The address comes from a file that others may have written, so it must not reach into our own network: every address
that the name stands for is looked at, and the connection goes to one of those, whatever the name stands for by then.
Redirects are not followed, and what the receiver says beyond its status is not read.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import socket
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from crossdock.engine.notices.notice import Notice, NotificationFailed
from crossdock.errors import ConfigError
from crossdock.flows.flow import Webhook
from crossdock.storage.sockets import context_for

__all__ = ["forbidden", "post", "signature"]

Lookup = Callable[[str, int], "Iterable[str]"]
"""(host, port) → addresses; raises `OSError`. Blocks."""

_TIMEOUT = aiohttp.ClientTimeout(total=20, connect=10)
_LONGEST_WAIT = 86400.0
_AGAIN = frozenset({408, 425, 429})
"""Client errors that say "later"; every other 4xx says "not like this"."""
# Global by registry, yet inside a cloud: Azure's metadata (168.63.129.16); Oracle's lies in 192.0.0.0/24.
_METADATA = tuple(ipaddress.ip_network(text) for text in ("168.63.129.16/32", "192.0.0.0/24"))
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_TRANSLATED = ipaddress.IPv6Network("64:ff9b:1::/48")


def signature(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`. Raises `ConfigError` for a "whsec_…" that is no base64."""
    key = secret.encode()
    if secret.startswith("whsec_"):
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error as error:
            hint = "copy it again from the receiver, whole"
            raise ConfigError("a webhook's secret that starts with whsec_ is not base64", hint=hint) from error
    digest = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def forbidden(address: str) -> bool:
    """True for an address that is not of the public internet, in whatever form it is wrapped."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return forbidden(str(inner))
        if found.is_site_local or found in _LOCAL_TRANSLATED:
            return True
    if any(found in network for network in _METADATA if network.version == found.version):
        return True
    return not found.is_global or found.is_multicast or found.is_reserved or found.is_unspecified


def look_up(host: str, port: int) -> list[str]:
    """What the system's resolver says."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _Forbidden(Exception):
    """Not an `OSError`, so that the HTTP client does not take it for a failure of the network."""


class _Checked(AbstractResolver):
    """Gives the client addresses that were looked at; one that is forbidden makes the name forbidden."""

    def __init__(self, lookup: Lookup, allow_private: bool) -> None:
        self._lookup, self._allow_private = lookup, allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = list(await asyncio.to_thread(self._lookup, host, port))
        for address in addresses:
            if not self._allow_private and forbidden(address):
                raise _Forbidden(address)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=int(socket.AI_NUMERICHOST),
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


async def post(
    webhook: Webhook, notice: Notice, *, clock: Callable[[], float] = time.time, lookup: Lookup = look_up
) -> None:
    """Once; returns when the receiver has answered 2xx. Raises `NotificationFailed`, `ConfigError`."""
    url, where = _address(webhook)
    secret = await asyncio.to_thread(webhook.secret.reveal) if webhook.secret is not None else None
    body, timestamp = notice.body(), int(clock())
    headers = {
        "content-type": "application/json",
        "user-agent": "crossdock",
        "webhook-id": notice.id,
        "webhook-timestamp": str(timestamp),
    }
    if secret is not None:
        headers["webhook-signature"] = signature(secret, notice.id, timestamp, body)
    connector = aiohttp.TCPConnector(
        resolver=_Checked(lookup, webhook.allow_private),
        use_dns_cache=False,
        force_close=True,
        ssl=await asyncio.to_thread(context_for) if url.scheme == "https" else True,
    )
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT, trust_env=False) as session:
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                status, retry_after, location = (
                    answer.status,
                    answer.headers.get("retry-after"),
                    answer.headers.get("location"),
                )
    except _Forbidden as error:
        raise _private(where, str(error)) from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise NotificationFailed(
            f"{where}: its certificate is not trusted: {error.certificate_error}",
            retryable=True,
            hint="the receiver needs a certificate for this name, of an authority that this machine trusts "
            "(SSL_CERT_FILE names others); the notice is sent again",
        ) from error
    except aiohttp.InvalidURL as error:
        raise ConfigError(f"{where}: {error.description or 'no address'}", hint="write https://host/path") from error
    except UnicodeError as error:
        raise ConfigError(f"{where}: no receiver can have this name", hint="write https://host/path") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        # Of an answer that cannot be read, the client's words hold the whole address.
        odd = isinstance(error, aiohttp.ClientResponseError)
        raise NotificationFailed(
            f"{where}: {'what it answers is no HTTP' if odd else str(error) or 'no answer in time'}",
            retryable=True,
            hint="see that the receiver is up and can be reached from here; the notice is sent again",
        ) from error
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise NotificationFailed(
            f"{where}: {status}, it redirects", retryable=False, hint=f"write the final address{_origin(location)}"
        )
    again = status >= 500 or status in _AGAIN
    raise NotificationFailed(
        f"{where}: refused with {status}",
        retryable=again,
        retry_after=_seconds(retry_after, clock()) if again else None,
        hint="the receiver's log says why" + ("; the notice is sent again" if again else ""),
    )


def _address(webhook: Webhook) -> tuple[URL, str]:
    """The URL, and what may be said of it: paths and queries of webhooks are secrets as often as not."""
    try:
        url = URL(webhook.url)
        host, port = url.host, url.port
    except ValueError as error:
        raise ConfigError(f"a webhook's address cannot be read: {error}", hint="write https://host/path") from error
    where = f"webhook {url.scheme}://{host}:{port}"
    if url.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{where}: not an address of the web", hint="write https://host/path")
    if url.user is not None:
        raise ConfigError(f"{where}: a user name in the address", hint="sign with 'secret' instead")
    if webhook.allow_private:
        return url, where
    if url.scheme != "https":
        raise ConfigError(
            f"{where}: not encrypted", hint="write https://, or 'allow_private: true' for one of your own"
        )
    try:
        # The client does not resolve what is an address already; to it that is whatever has a colon.
        literal = host if ":" in host else str(ipaddress.ip_address(host))
    except ValueError:
        try:
            # "127.1", "2130706433", "0177.0.0.1": older aiohttp takes these for addresses as well.
            literal = socket.inet_ntoa(socket.inet_aton(host))
        except OSError:
            return url, where
    if forbidden(literal):
        raise _private(where, literal)
    return url, where


def _origin(location: str | None) -> str:
    """Where it redirects to, without the rest, which is as secret as that of the address itself."""
    try:
        return f", at {URL(location or '').origin()}"
    except ValueError:
        return ""


def _private(where: str, address: str) -> NotificationFailed:
    return NotificationFailed(
        f"{where}: {address} is not a public address",
        retryable=False,
        hint="write 'allow_private: true' if the receiver is one of your own",
    )


def _seconds(text: str | None, now: float) -> float | None:
    """`Retry-After` of RFC 9110, in seconds or as a date."""
    if not text:
        return None
    if text.strip().isdecimal():
        return min(float(text), _LONGEST_WAIT)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max(0.0, (at - datetime.fromtimestamp(now, UTC)).total_seconds()), _LONGEST_WAIT)
