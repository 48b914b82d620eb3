"""Does the store keep a key as it is?

Some (SeaweedFS) put "a//b" and "a\\b" where "a/b" is, and "a/" is a folder; some (pys3local) "a%20b" where "a b" is.
"""

from __future__ import annotations

import re
import secrets

from crossdock.errors import InvalidPath, PermissionDenied, ProtocolViolation, Unsupported
from crossdock.storage.s3.calls import Calls
from crossdock.storage.s3.pages import list_page
from crossdock.storage.s3.probe import remove
from crossdock.storage.s3.request import Body
from crossdock.storage.staging import temporary_path

__all__ = ["must_keep"]

_KINDS = {
    "a backslash": (re.compile(r"\\"), "{0}\\{0}"),
    "an empty folder's name": (re.compile(r"^/|//"), "{0}//{0}"),
    "a percent sign before two hex digits": (re.compile("%[0-9A-Fa-f]{2}"), "{0}%41{0}"),
    "a slash at the end": (re.compile(r"/$"), "{0}/"),
}
"""What a key may have → how to tell, and a hidden key that has it."""
_KNOWN: dict[tuple[str, str, str], bool] = {}
"""(service, bucket, kind) → what this process has found out."""


async def must_keep(calls: Calls, path: str, operation: str) -> None:
    """Raises `InvalidPath` for a name that the store would put under another one.

    Known of Amazon; of other stores found out with a hidden object, once per process, bucket and kind of name.
    """
    if calls.client.amazon:
        return
    key = calls.key(path, operation)
    for kind, (sign, hidden) in _KINDS.items():
        if not sign.search(key):
            continue
        place = (calls.client.service, calls.settings.bucket, kind)
        if place not in _KNOWN:
            found = await _kept(calls, hidden, temporary_path("probe", secrets.token_hex(6)))
            if found is None:
                continue
            _KNOWN[place] = found
        if not _KNOWN[place]:
            reason = f"the store does not keep {kind}, and would put it under another name"
            hint = "give it another name in the rule or command that moves it"
            raise calls.backend.error(InvalidPath, operation, path, reason, hint=hint)


async def _kept(calls: Calls, hidden: str, name: str) -> bool | None:
    """Whether what is written under such a name is listed under it. None: it may not be written or listed."""
    path = hidden.format(name)
    key = calls.key(path, "probe")
    body = Body([b"crossdock asks whether this store keeps such a name"])
    try:
        answer = await calls.put(path, key, {}, body)
    except PermissionDenied:
        return None
    except (InvalidPath, Unsupported, ProtocolViolation):
        return False
    try:
        # Not by the whole key: SeaweedFS puts the prefix that it is asked for in front of what it has.
        page = await list_page(calls, path, calls.key(name, "probe"), limit=1, operation="probe")
        return [(name, size) for name, size, _, _ in page.objects] == [(key, body.size)]
    except PermissionDenied:
        return None
    except ProtocolViolation:
        return False
    finally:
        version = answer.headers.get("x-amz-version-id")
        await remove(calls, path, key, None if version == "null" else version)
