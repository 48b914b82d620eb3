"""Listings: one page at a time, the next one fetched while this one is being used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime

from crossdock.errors import NotADirectory, NotFound, ProtocolViolation, Unsupported
from crossdock.storage.base import Entry
from crossdock.storage.s3.calls import Calls
from crossdock.storage.s3.pages import Page, as_is, list_page
from crossdock.storage.s3.wire import decoded, parse_time, texts

__all__ = ["leftovers", "scan"]


async def _pages(calls: Calls, path: str, prefix: str, delimiter: str) -> AsyncGenerator[Page]:
    """All pages. Raises `ProtocolViolation` if a page is asked for twice: the listing would never end."""
    page = await list_page(calls, path, prefix, delimiter=delimiter)
    seen: set[int] = set()
    while page.more is not None:
        asked = hash(tuple(page.more.items()))
        if asked in seen:
            raise calls.backend.error(
                ProtocolViolation,
                "list",
                path,
                "the store goes round in circles: it sent the same token or marker twice",
            )
        seen.add(asked)
        following = asyncio.ensure_future(list_page(calls, path, prefix, delimiter=delimiter, more=page.more))
        try:
            yield page
            page = await following
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
    yield page


async def scan(calls: Calls, path: str, *, recursive: bool) -> AsyncGenerator[list[Entry]]:
    """Objects and folders below a prefix. `modified` is when the object was stored.

    Nothing below: `NotADirectory` for an object's name, else `NotFound`; the root of a bucket may be empty.
    """
    prefix = calls.prefix if not path else calls.key(path + "/", "list")
    cut = len(calls.prefix)
    found = False
    odd = False
    async with aclosing(_pages(calls, path, prefix, "" if recursive else "/")) as pages:
        async for page in pages:
            entries: list[Entry] = []
            for key, size, etag, modified in page.objects:
                found = True
                # A zero-byte "folder/" stands for the folder itself (the AWS console makes them).
                if (size == 0 and key.endswith("/")) or len(key) == cut:
                    continue
                entries.append(Entry(path=key[cut:], size=size, etag=etag, modified=modified))
            for common in page.prefixes:
                found = True
                folder = common[cut:-1]
                # "/x" at the root lies in a folder without a name, which would be the root again.
                odd = odd or not folder
                if folder:
                    entries.append(Entry(path=folder, kind="dir"))
            yield entries
    if odd:
        async with aclosing(_pages(calls, path, prefix + "/", "")) as pages:
            async for page in pages:
                yield [
                    Entry(path=key[cut:], size=size, etag=etag, modified=modified)
                    for key, size, etag, modified in page.objects
                ]
    if not found and path:
        # Asked again here: a page has been given out by now, so that no layer repeats the listing.
        missing = ("NotFound", "Forbidden")
        answer = await calls.head(path, calls.key(path, "list"), operation="list", allow=missing, repeat=True)
        if not answer.code:
            raise calls.backend.error(NotADirectory, "list", path, "it is an object")
        raise calls.backend.error(NotFound, "list", path, "no such key, and none below it")


async def leftovers(calls: Calls, path: str) -> AsyncGenerator[tuple[str, str, datetime | None]]:
    """Uploads in parts that were begun and neither published nor aborted: (key, upload id, begun).

    Raises `Unsupported` where they cannot be listed, or a list of objects comes in their place.
    """
    prefix = calls.prefix + path
    query = {"uploads": "", "encoding-type": "url", "prefix": prefix}
    while True:
        request = calls.request("GET", "list", path, "s3:ListBucketMultipartUploads", query=query)
        allow = ("NoSuchUpload", "NotImplemented", "MethodNotAllowed")
        answer = await calls.client.call(request, repeat=True, allow=allow)
        if answer.code == "NoSuchUpload":
            # How rclone's server says that there is none.
            return
        if not answer.code:
            root, space = calls.client.xml(request, answer, "ListMultipartUploadsResult", "ListBucketResult")
        if answer.code or root.tag.endswith("ListBucketResult"):
            reason = "this store does not list uploads that were never ended"
            raise calls.backend.error(Unsupported, "list", path, reason, hint="ask who runs it whether it keeps any")
        encoded = root.findtext(f"{space}EncodingType") == "url"
        keys = () if encoded else root.iter(f"{space}Key")
        if "encoding-type" in query and any(decoded(key.text) != key.text for key in keys):
            # Ceph encodes them as it is asked to, and does not say so; other stores do not.
            del query["encoding-type"]
            continue
        name: Callable[[str | None], str] = decoded if encoded else as_is
        for item in root.iter(f"{space}Upload"):
            row = texts(item, space)
            yield name(row.get("Key")), row.get("UploadId", ""), parse_time(row.get("Initiated"))
        page = texts(root, space)
        if page.get("IsTruncated") != "true":
            return
        markers = {
            "key-marker": name(page.get("NextKeyMarker")),
            "upload-id-marker": page.get("NextUploadIdMarker", ""),
        }
        if markers.items() <= query.items():
            raise calls.client.violation(request, "the list of uploads does not go on")
        query = query | markers
