"""Signature headers of the NetStorage Usage API (Akamai TechDocs, "Signature header authentication")."""

from __future__ import annotations

import base64
import hmac
import secrets
import time

__all__ = ["ACTION", "DATA", "SIGN", "WINDOW", "Signer", "signature"]

ACTION, DATA, SIGN = "X-Akamai-ACS-Action", "X-Akamai-ACS-Auth-Data", "X-Akamai-ACS-Auth-Sign"
WINDOW = 60
"""Seconds that the clocks of both sides may differ."""
_DIGESTS = {"3": "md5", "4": "sha1", "5": "sha256"}


def signature(key: str, data: str, path: str, action: str) -> str:
    """The signature, in base64, over the path exactly as on the request line. Raises `ValueError`: unknown version."""
    digest = _DIGESTS.get(data.partition(",")[0].strip())
    if digest is None:
        raise ValueError(f"unknown signature version in {data!r}")
    message = f"{data}{path}\n{ACTION.lower()}:{action}\n"
    return base64.b64encode(hmac.new(key.encode(), message.encode("latin-1"), digest).digest()).decode()


class Signer:
    """Signs for one account. Every call gives a new time and a new id: nothing is signed once and sent twice."""

    def __init__(self, key_name: str, key: str) -> None:
        self._key_name, self._key = key_name, key

    def headers(self, path: str, action: str) -> dict[str, str]:
        """The three headers of a request, or of an upload's end."""
        data = f"5, 0.0.0.0, 0.0.0.0, {int(time.time())}, {secrets.randbits(63)}, {self._key_name}"
        return {ACTION: action, DATA: data, SIGN: signature(self._key, data, path, action)}
