"""How S3 writes things down: names in URLs, dates, metadata headers, XML."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.errors import MessageError
from email.header import decode_header, make_header
from urllib.parse import quote, unquote_plus, urlencode
from xml.etree import ElementTree
from xml.sax.saxutils import escape

__all__ = [
    "ATTEMPT",
    "MTIME",
    "VERSION",
    "Metadata",
    "attribute_headers",
    "attributes_of",
    "decoded",
    "element",
    "etag_of",
    "format_mtime",
    "number_of",
    "parse_mtime",
    "parse_time",
    "parse_xml",
    "quoted",
    "tagging",
    "texts",
]

Metadata = Mapping[str, str]

MTIME = "x-amz-meta-mtime"
"""rclone's key: seconds since the epoch with decimals."""
ATTEMPT = "x-amz-meta-crossdock-attempt"
"""Which attempt wrote the object: tells our own success, whose answer was lost, from somebody else's."""

VERSION = "version-id"
"""The attribute that tells an object's version. Listings have none, so it is no part of an entry's identity."""

_META = "x-amz-meta-"
_SYSTEM = (
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NOT_XML = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]")
_REFERENCE = re.compile(rb"&#([xX][0-9a-fA-F]{1,6}|[0-9]{1,7});")
_SECONDS = re.compile(r"-?[0-9]{1,14}(\.[0-9]{1,18})?")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def quoted(text: str) -> str:
    """A key as a URL's path: every byte but unreserved ones and "/" escaped, nothing normalised."""
    return quote(text, safe="/~")


def tagging(tags: Mapping[str, str]) -> str:
    """Tags as a header holds them; a space is "%20", as Ceph 20 keeps a "+" for what it is."""
    return urlencode(tags, safe="", quote_via=quote)


def decoded(text: str | None) -> str:
    """A name out of a listing with `encoding-type=url`, where "+" is a space."""
    if not text:
        return ""
    return unquote_plus(text, errors="surrogateescape") if "%" in text or "+" in text else text


def etag_of(text: str | None) -> str | None:
    """Without its quotes; None if there is none, or one that no header can carry back.

    A proxy that could change a body calls its ETag weak (RFC 9110, 8.8.1), though the store's own is not.
    """
    found = (text or "").strip().removeprefix("W/").strip('"')
    return found if found.isprintable() and found else None


def parse_time(text: str | None) -> datetime | None:
    """An ISO 8601 time as in listings; None if it is not one."""
    try:
        found = datetime.fromisoformat(text or "")
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def number_of(text: str | None) -> int | None:
    """Of bytes or parts; None if it cannot be one."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None


def format_mtime(moment: datetime) -> str:
    """Seconds since the epoch, to the microsecond, without trailing zeros."""
    whole = Decimal((moment - _EPOCH) // _MICROSECOND).scaleb(-6)
    text = f"{whole:f}"
    return text.rstrip("0").rstrip(".")


def parse_mtime(text: str | None) -> datetime | None:
    """What `format_mtime` (or rclone, to the nanosecond) wrote; None if it cannot be one."""
    # No exponents: 1e999999 takes half a minute.
    if not text or not _SECONDS.fullmatch(text):
        return None
    try:
        return _EPOCH + int(Decimal(text).scaleb(6)) * _MICROSECOND
    except OverflowError:
        return None


def attributes_of(headers: Mapping[str, str]) -> dict[str, str]:
    """`Entry.attributes` from an object's headers, without what crossdock adds itself."""
    version = headers.get("x-amz-version-id", "null")
    found = {} if version == "null" else {VERSION: version}
    for name, value in headers.items():
        name = name.lower()
        if name in _SYSTEM:
            if text := _coding(value) if name == "content-encoding" else value:
                found[name] = text
        elif name.startswith(_META) and name not in (MTIME, ATTEMPT):
            found["meta-" + name.removeprefix(_META)] = _plain(value)
    return found


def _coding(value: str) -> str:
    """Without how a request was sent, which some stores (DigitalOcean's, old ones of Ceph) keep with the object."""
    found = [each.strip() for each in value.split(",")]
    return ", ".join(each for each in found if each.lower() != "aws-chunked")


def attribute_headers(attributes: Mapping[str, str]) -> dict[str, str]:
    """The reverse. Raises `ValueError` for a metadata name that no header can carry; what S3 does not know is left."""
    headers: dict[str, str] = {}
    for name, value in attributes.items():
        if name.startswith("meta-"):
            name = name.removeprefix("meta-").lower()
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"metadata cannot be named {name!r}")
            headers[_META + name] = _safe(value)
        elif name in _SYSTEM:
            headers[name] = _safe(value)
    return headers


def _safe(value: str) -> str:
    """As it may stand in a header: RFC 2047 for what is not printable ASCII, which S3 itself answers with."""
    if value.isascii() and value.isprintable() and value == value.strip() and not value.startswith("=?"):
        return value
    text = base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
    return f"=?UTF-8?B?{text}?="


def _plain(value: str) -> str:
    if not value.startswith("=?"):
        return value
    try:
        found = str(make_header(decode_header(value)))
        found.encode("utf-8", "surrogateescape")
    except (MessageError, ValueError, LookupError):
        return value
    return found


def parse_xml(body: bytes, *roots: str, lenient: bool = False) -> tuple[ElementTree.Element, str]:
    """The root element, which must be one of `roots` or an `Error`, and the namespace as in tags ("{…}" or "").

    `lenient`: characters that XML cannot carry become "?"; stores echo keys that hold them, which we need not read.
    Raises `ValueError` for anything else: HTML, a document type (entity expansion), another encoding than UTF-8.
    """
    # A space before the declaration is how S3 keeps the connection alive during long operations.
    body = body.strip()
    if b"<!DOCTYPE" in body:
        raise ValueError("the answer has a document type")
    try:
        found = _parsed(body)
    except ElementTree.ParseError as error:
        if not lenient:
            raise ValueError(f"the answer is not XML: {error}") from error
        return parse_xml(_replaced(body), *roots)
    start, brace, name = found.tag.rpartition("}")
    if name not in (*roots, "Error"):
        raise ValueError(f"the answer is <{name}>, not <{roots[0]}>")
    return found, start + brace


def _parsed(body: bytes) -> ElementTree.Element:
    parser = ElementTree.XMLParser(encoding="utf-8")
    parser.feed(body)
    return parser.close()


def _replaced(body: bytes) -> bytes:
    def reference(found: re.Match[bytes]) -> bytes:
        digits = found[1]
        number = int(digits[1:], 16) if digits[:1] in b"xX" else int(digits)
        return found[0] if number in (9, 10, 13) or 32 <= number < 0xFFFE else b"?"

    return _NOT_XML.sub(b"?", _REFERENCE.sub(reference, body))


def texts(parent: ElementTree.Element, space: str) -> dict[str, str]:
    """Tag → text of the direct children, without the namespace; a repeated tag keeps the last."""
    cut = len(space)
    return {child.tag[cut:]: child.text or "" for child in parent}


def element(name: str, children: Iterable[tuple[str, str]]) -> str:
    """`<name><tag>text</tag>…</name>`, text escaped."""
    return f"<{name}>{''.join(f'<{tag}>{escape(text)}</{tag}>' for tag, text in children)}</{name}>"
