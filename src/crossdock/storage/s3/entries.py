"""Objects, as the headers of an answer describe them."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import replace

from crossdock.storage.base import Entry
from crossdock.storage.http import http_date
from crossdock.storage.s3.wire import MTIME, VERSION, attributes_of, etag_of, number_of, parse_mtime

__all__ = ["entry_of", "stored_of", "with_etag"]

_SHA256 = re.compile(r"[A-Za-z0-9+/]{43}=")


def entry_of(path: str, headers: Mapping[str, str], size: int | None = None) -> Entry:
    """An object as the headers of an answer describe it; `size` where Content-Length is another's.

    Without `version`, which would set it apart from the same object in a listing: it is an attribute.
    """
    if size is None:
        size = number_of(headers.get("content-length"))
    digests = {}
    # With a dash it is a checksum of the parts' checksums.
    if (checksum := headers.get("x-amz-checksum-sha256")) and _SHA256.fullmatch(checksum):
        digests["sha256"] = base64.b64decode(checksum).hex()
    return Entry(
        path=path,
        size=size,
        modified=parse_mtime(headers.get(MTIME)) or http_date(headers.get("last-modified")),
        etag=etag_of(headers.get("etag")),
        digests=digests,
        attributes=attributes_of(headers),
    )


def stored_of(path: str, headers: Mapping[str, str], size: int) -> Entry:
    """A new object as the answer to its publication describes it: such headers say nothing else of it."""
    entry = entry_of(path, headers, size)
    return replace(entry, modified=None, attributes={k: v for k, v in entry.attributes.items() if k == VERSION})


def with_etag(headers: Mapping[str, str], etag: str | None) -> dict[str, str]:
    """The headers of an answer that tells the ETag in its body; names in lower case."""
    return {name.lower(): value for name, value in headers.items()} | {"etag": etag or ""}
