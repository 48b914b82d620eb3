"""Whether an object still is the one that was meant, and what happens to it only then: taking it away, tagging it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from crossdock.errors import SourceChanged, StorageError, Unsupported
from crossdock.storage.base import Entry
from crossdock.storage.s3.calls import Calls
from crossdock.storage.s3.faults import changed
from crossdock.storage.s3.pages import list_page
from crossdock.storage.s3.request import Answer, Request
from crossdock.storage.s3.wire import VERSION, etag_of, tagging

__all__ = ["delete_exactly", "delete_pinned", "differs", "set_tags"]

_REPLACED = "a newer object has come; it is left alone"


async def differs(calls: Calls, request: Request, pin: Entry, entry: Entry) -> SourceChanged | None:
    """Why an object that was asked for is not `pin`, as it was listed, if it is not.

    If the store lists it so all the same, a flow that took it for a change would never move it, nor tell anybody: what
    is listed next is what it knows already.
    """
    for name, old, new in (("size", pin.size, entry.size), ("ETag", pin.etag, entry.etag)):
        if old is None or old == new:
            continue
        error = changed(calls.client.place(request), f"its {name} is {new}, it was listed with {old}")
        with suppress(StorageError):
            page = await list_page(
                calls, request.path, request.key, limit=1, operation=request.operation, bucket=request.bucket
            )
            if [each[:3] for each in page.objects] == [(request.key, pin.size, pin.etag)]:
                error.message += ", and still is"
                error.hint = "ask who runs the store why it lists what it does not have; cp does without its lists"
                error.still_listed = True
        return error
    return None


async def delete_pinned(calls: Calls, path: str, pin: Entry) -> None:
    """Delete by ETag; a bucket with versions keeps this one as history. Raises `SourceChanged`."""
    if not await delete_exactly(calls, path, pin, "delete"):
        raise _changed(calls, "DELETE", "delete", path, calls.key(path, "delete"))


async def delete_exactly(calls: Calls, path: str, pin: Entry, operation: str) -> bool:
    """Delete what has the ETag of `pin`, or is gone already; False: another object is there.

    Where If-Match on a delete is ignored, refused, or misjudged (by Swift, of an object that came in parts), the look
    before narrows the gap to one round trip.
    """
    key = calls.key(path, operation)
    seen = "" if calls.client.amazon else await _look(calls, path, key, pin, operation, pin.etag)
    if not seen:
        seen = (await calls.delete(path, key, etag=pin.etag, repeat=True)).code
    if seen == "PreconditionFailed" and not calls.client.amazon:
        seen = await _look(calls, path, key, pin, operation, None)
        if not seen:
            await calls.delete(path, key, repeat=True)
    return seen != "PreconditionFailed"


async def _look(calls: Calls, path: str, key: str, pin: Entry, operation: str, etag: str | None) -> str:
    """Empty if the pinned object is there, else "NotFound" or, of another one, "PreconditionFailed"."""
    allow = ("PreconditionFailed", "NotFound")
    answer = await calls.head(path, key, operation=operation, etag=etag, allow=allow, repeat=True)
    return "PreconditionFailed" if _is_another(answer, pin) else answer.code


def _is_another(answer: Answer, pin: Entry) -> bool:
    """Whether a store that does not hear If-Match shows another object than the pinned one."""
    etag = etag_of(answer.headers.get("etag"))
    return not answer.code and etag is not None and pin.etag is not None and etag != pin.etag


async def set_tags(calls: Calls, path: str, tags: Mapping[str, str], pin: Entry) -> None:
    """Add these tags to those that the object has. Raises `SourceChanged`, `NotFound`.

    In a bucket with versions exactly the pinned one is tagged; elsewhere the look narrows the gap to one round trip.
    """
    key = calls.key(path, "tag")
    answer = await calls.head(path, key, operation="tag", etag=pin.etag, allow=("PreconditionFailed",), repeat=True)
    if answer.code or _is_another(answer, pin):
        raise _changed(calls, "HEAD", "tag", path, key)
    version = pin.attributes.get(VERSION) or answer.headers.get("x-amz-version-id")
    query = {"versionId": version, "tagging": ""} if version else {"tagging": ""}
    request = calls.request("GET", "tag", path, "s3:GetObjectTagging", key=key, query=query)
    old = await calls.tags(request)
    merged = {**(old or {}), **tags}
    if old is None or (merged != old and not await calls.tag(path, key, tagging(merged), version)):
        raise calls.backend.error(Unsupported, "tag", path, "this store keeps no tags", hint="take the tags out")


def _changed(calls: Calls, method: str, operation: str, path: str, key: str) -> StorageError | Exception:
    request = calls.request(method, operation, path, "s3:GetObject", key=key)
    return changed(calls.client.place(request), _REPLACED)
