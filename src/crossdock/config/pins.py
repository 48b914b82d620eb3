"""Host keys as they are pinned at an endpoint: can they be any server's at all? Whose they are, connecting shows."""

from __future__ import annotations

import base64
import binascii
import re

from crossdock.config.mistakes import Key, Report, brief
from crossdock.storage.settings import EndpointSettings

__all__ = ["check_pins"]

_PIN = "SHA256:"
_HOSTS = {"host_key": "host", "jump_host_key": "jump"}


def check_pins(report: Report, key: Key, settings: EndpointSettings) -> None:
    """Adds to the report what is pinned and cannot be: not SHA-256, not a public key."""
    found = settings.model_dump(include={*_HOSTS, *_HOSTS.values(), "port"})
    for name, of in _HOSTS.items():
        known = report.sound((*key, of), below=False) and found.get(of)
        host = str(known or "HOST").rpartition("@")[2]
        if of == "host" and report.sound((*key, "port"), below=False) and found.get("port"):
            host = f"[{host}]:{found['port']}" if ":" in host else f"{host}:{found['port']}"
        for at, pin in enumerate(found.get(name) or ()):
            reason = _wrong(pin.strip())
            if reason is not None:
                hint = f"write what 'crossdock trust {host}' shows: \"SHA256:…\" with 43 characters after the colon"
                report.mistake((*key, name, at), f"{reason}: {brief(pin)}", hint)


def _wrong(pin: str) -> str | None:
    if pin.startswith(_PIN):
        digest = pin.removeprefix(_PIN).removesuffix("=")
        # OpenSSH writes the 32 bytes in base64, without the padding (ssh-keygen(1), -l).
        whole = _decoded(f"{digest}=")
        return None if len(whole) == 32 and _encoded(whole) == f"{digest}=" else "no key has this fingerprint"
    words = pin.split()
    # A known_hosts line names the host first.
    if len(words) >= 3 and not words[0].startswith(("ssh-", "ecdsa-", "sk-")):
        words = words[1:]
    if len(words) < 2 or not re.fullmatch(r"[a-z0-9@.-]+", words[0]):
        return "neither a fingerprint nor a public key"
    blob, name = _decoded(words[1]), words[0].encode()
    # RFC 4253, section 6.6: the blob starts with the length and the name of its format.
    if not blob.startswith(len(name).to_bytes(4, "big") + name) or len(blob) < len(name) + 36:
        return "not a whole public key"
    return None


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
