"""How NetStorage writes things down: paths, actions, times, XML. Names are text with `surrogateescape` throughout."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote
from xml.etree import ElementTree

from crossdock.storage.base import Entry, Kind

__all__ = ["LAST_TIME", "Answered", "Item", "action_of", "entry_of", "md5_of", "parse_xml", "quoted", "time_of"]

LAST_TIME = 2**32 - 1
"""The latest modification time that is sent, in seconds since 1970."""
_PIECE = 64 * 1024
_KINDS: dict[str, Kind] = {"file": "file", "dir": "dir", "symlink": "link"}
_ETAG = re.compile(r'"?([0-9a-f]{32}):\d+(?:\.\d+)?"?')
_MD5 = re.compile(r"[0-9a-fA-F]{32}")


def quoted(path: str) -> str:
    """A path as on the request line: every byte escaped but unreserved ones (RFC 3986) and "/"."""
    return quote(path.encode("utf-8", "surrogateescape"), safe="/~")


def action_of(name: str, **parameters: str | int) -> str:
    """The value of the action header."""
    pairs = {"version": "1", "action": name} | {key: str(value) for key, value in parameters.items()}
    return "&".join(f"{key}={quote(text.encode('utf-8', 'surrogateescape'), safe='')}" for key, text in pairs.items())


@dataclass(slots=True)
class Item:
    """One name of an answer, as written there."""

    kind: Kind
    name: str
    size: int | None
    modified: datetime | None
    md5: str | None


@dataclass(slots=True)
class Answered:
    """An answer in XML. `resume`: where the next page starts; None: this was the last one."""

    items: list[Item] = field(default_factory=list)
    resume: str | None = None
    files: int = 0
    size: int = 0


def parse_xml(body: bytes, root: Literal["stat", "list", "du"]) -> Answered:
    """Raises `ValueError` for what is no such answer. Unknown tags and attributes are ignored, as Akamai asks."""
    # In an encoding of two bytes a document type would not be seen.
    if b"<!" in body or b"\0" in body:
        raise ValueError("the answer has a document type, a comment or a NUL")
    parser = ElementTree.XMLParser()
    try:
        # In pieces: within one, no other thread gets its turn.
        for start in range(0, len(body), _PIECE):
            parser.feed(body[start : start + _PIECE])
        document = parser.close()
    except (ElementTree.ParseError, LookupError) as error:
        raise ValueError(f"the answer is not XML: {error}") from error
    if document.tag != root:
        raise ValueError(f"the answer is <{document.tag}>, not <{root}>")
    found = Answered()
    for child in document:
        if child.tag == "file":
            found.items.append(_item(child))
        elif child.tag == "resume":
            found.resume = _text(child, "start")
            if not found.resume:
                raise ValueError("<resume> does not say where")
        elif child.tag == "du-info":
            found.files, found.size = _number(child, "files") or 0, _number(child, "bytes") or 0
    return found


def _item(element: ElementTree.Element) -> Item:
    kind = _KINDS.get(element.get("type", ""), "other")
    name = _text(element, "name")
    if name is None:
        raise ValueError("a <file> without a name")
    md5 = element.get("md5", "")
    return Item(
        kind=kind,
        name=name,
        size=_number(element, "size") if kind == "file" else None,
        modified=time_of(_number(element, "mtime")),
        md5=md5.lower() if _MD5.fullmatch(md5) else None,
    )


def _text(element: ElementTree.Element, name: str) -> str | None:
    """An attribute; what XML cannot express stands in NAME_base64."""
    encoded = element.get(f"{name}_base64")
    if encoded is None:
        return element.get(name)
    try:
        return base64.b64decode(encoded, validate=True).decode("utf-8", "surrogateescape")
    except binascii.Error as error:
        raise ValueError(f"{name}_base64 is not base64") from error


def _number(element: ElementTree.Element, name: str) -> int | None:
    text = element.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise ValueError(f"{name}={text[:40]!r} is not a number")
    return int(text)


def time_of(seconds: int | None) -> datetime | None:
    """Whole seconds since 1970; None for what is no time of ours."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def md5_of(etag: str | None) -> str | None:
    """The MD5 in an object-store's ETag, `"MD5:MTIME.MICROSECONDS"`; a file-store's does not tell it."""
    found = _ETAG.fullmatch(etag or "")
    return found[1] if found else None


def entry_of(path: str, item: Item) -> Entry:
    """What an answer says of the name that is `path` here."""
    return Entry(
        path=path,
        kind=item.kind,
        size=item.size,
        modified=item.modified,
        etag=item.md5,
        digests={"md5": item.md5} if item.md5 else {},
    )
