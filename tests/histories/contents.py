"""What files hold, and what becomes of them on their way: by the words of what was put, whatever it was made into."""

from __future__ import annotations

import gzip
import zipfile
from io import BytesIO

__all__ = ["MEMBERS", "packed", "plain"]

MEMBERS = ("m1", "m2")
_SOME_TIME = (2026, 1, 1, 0, 0, 0)


def packed(data: bytes) -> bytes:
    """An archive of two files, of which the second is told by one byte more."""
    found = BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        for member, more in zip(MEMBERS, (b"", b"2"), strict=True):
            archive.writestr(zipfile.ZipInfo(member, _SOME_TIME), data + more)
    return found.getvalue()


def plain(content: bytes | None) -> bytes | None:
    if content is None:
        return None
    if content.startswith(b"PK"):
        with zipfile.ZipFile(BytesIO(content)) as archive:
            return archive.read(MEMBERS[0])
    if content.startswith(b"\x1f\x8b"):
        try:
            return gzip.decompress(content)
        except EOFError:
            return b"cut off"
    return content
