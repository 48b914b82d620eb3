"""One page of a listing: what is asked for, and what the answer says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from xml.etree import ElementTree

from crossdock.errors import ProtocolViolation
from crossdock.storage.s3.calls import UNHEARD, Calls
from crossdock.storage.s3.request import Answer, Request
from crossdock.storage.s3.wire import decoded, etag_of, number_of, parse_time, texts

__all__ = ["Page", "as_is", "list_page"]


@dataclass(frozen=True, slots=True)
class Page:
    """What one answer lists: objects as (key, size, etag, modified), folders as prefixes that end with "/"."""

    objects: list[tuple[str, int | None, str | None, datetime | None]]
    prefixes: list[str]
    more: Mapping[str, str] | None
    """How to ask for the next one."""
    doubtful: bool
    """Folders have names that say another one if the store has not encoded them, as it should."""


async def list_page(
    calls: Calls,
    path: str,
    prefix: str,
    *,
    delimiter: str = "",
    more: Mapping[str, str] | None = None,
    limit: int = 1000,
    operation: str = "list",
    bucket: str | None = None,
) -> Page:
    """One page of ListObjectsV2, of this bucket or another. The first is tried once, later ones as the policy says."""
    query = {"encoding-type": "url", "max-keys": str(limit), "prefix": prefix, **(more or calls.listing)}
    if delimiter:
        query["delimiter"] = delimiter
    request = calls.request("GET", operation, path, "s3:ListBucket", query=query)
    if bucket is not None:
        request = replace(request, bucket=bucket)
    unheard = UNHEARD if more is None and calls.listing and not calls.client.amazon else ()
    answer = await calls.client.call(request, repeat=more is not None, allow=unheard)
    if answer.code:
        del query["list-type"]
        request = replace(request, query=query)
        answer = await calls.client.call(request)
        calls.listing = {}
    page = _parsed(calls, request, answer)
    if not page.doubtful or calls.client.amazon or calls.folders_encoded:
        return _below(calls, request, page, prefix)
    del query["encoding-type"]
    request = replace(request, query=query)
    answer = await calls.client.call(request, repeat=more is not None)
    try:
        plain = _parsed(calls, request, answer)
    except ProtocolViolation:
        # There are names that XML cannot carry.
        plain = page
    else:
        calls.folders_encoded = plain.prefixes == page.prefixes
    return _below(calls, request, plain, prefix)


def _below(calls: Calls, request: Request, page: Page, prefix: str) -> Page:
    for key in (*(each[0] for each in page.objects), *page.prefixes):
        if not key or not key.startswith(prefix):
            raise calls.client.violation(request, f"{key!r} is listed below {prefix!r}")
    return page


def _parsed(calls: Calls, request: Request, answer: Answer) -> Page:
    root, space = calls.client.xml(request, answer, "ListBucketResult")
    name: Callable[[str | None], str] = decoded if root.findtext(f"{space}EncodingType") == "url" else as_is
    objects: list[tuple[str, int | None, str | None, datetime | None]] = []
    prefixes: list[str] = []
    doubtful = False
    contents, common = f"{space}Contents", f"{space}CommonPrefixes"
    for item in root:
        if item.tag == contents:
            row = texts(item, space)
            objects.append(
                (
                    name(row.get("Key")),
                    number_of(row.get("Size")),
                    etag_of(row.get("ETag")),
                    parse_time(row.get("LastModified")),
                )
            )
        elif item.tag == common:
            folder = item.findtext(f"{space}Prefix")
            prefixes.append(name(folder))
            doubtful = doubtful or prefixes[-1] != folder
    names = [*(each[0] for each in objects[-1:]), *prefixes[-1:]]
    more = _more(calls, request, root, space, name, names)
    # A folder that a page ended with is shown again by some stores.
    prefixes = [each for each in prefixes if each != request.query.get("marker")]
    return Page(objects, prefixes, more, doubtful)


def _more(
    calls: Calls,
    request: Request,
    root: ElementTree.Element,
    space: str,
    name: Callable[[str | None], str],
    last: Collection[str],
) -> Mapping[str, str] | None:
    truncated = root.findtext(f"{space}IsTruncated", "").strip().lower()
    if truncated == "false":
        return None
    token = root.findtext(f"{space}NextContinuationToken")
    # Stores that do not look at list-type (Huawei's, Tencent's) answer as before there was a version 2 of it, where a
    # page begins after a name: the one that is told, which old ones of Ceph do not encode, or the last that came.
    told = root.findtext(f"{space}NextMarker") or ""
    marker = told if told in last else name(told) or max(last, default="")
    if truncated != "true" or not (token or marker):
        raise calls.client.violation(request, "the page does not say whether more follows, or how to get it")
    return {"list-type": "2", "continuation-token": token} if token else {"marker": marker}


def as_is(text: str | None) -> str:
    return text or ""
