"""Does the store honour `If-None-Match: *`? Some take the header and replace the object all the same."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine
from typing import Any

from crossdock.errors import NotFound, PermissionDenied, ProtocolViolation, StorageError, Unsupported
from crossdock.storage.s3.calls import Calls
from crossdock.storage.s3.request import Body
from crossdock.storage.s3.upload import Upload
from crossdock.storage.staging import temporary_path

__all__ = ["conditional_writes", "remove"]

log = logging.getLogger("crossdock.storage.s3")

_KNOWN: dict[tuple[str, str], bool] = {}
"""(service, bucket) → what this process has found out."""
_PATIENCE = 5.0
"""Seconds that a probe may go on for when it is cancelled: at its end it removes what it has written."""


async def conditional_writes(calls: Calls) -> bool:
    """Known of Amazon; of other stores found out with a hidden object, once per process and bucket.

    Without the right to write it is False. Raises `ConnectionFailed` and the like if the store cannot be asked.
    """
    setting = calls.settings.conditional_writes
    if setting != "auto":
        return setting == "on"
    if calls.settings.anonymous:
        return False
    if calls.client.amazon:
        return True
    place = (calls.client.service, calls.settings.bucket)
    if place not in _KNOWN:
        try:
            _KNOWN[place] = await _whole(_honoured(calls))
        except (PermissionDenied, NotFound, Unsupported, ProtocolViolation):
            return False
        except StorageError as error:
            # Of the object that nobody asked for nothing is told.
            found = type(error)(
                error.reason,
                operation="open",
                endpoint=error.endpoint,
                hint=error.hint,
                retry_after=error.retry_after,
            )
            found.exhausted = error.exhausted
            raise found from error
    return _KNOWN[place]


async def _whole(probing: Coroutine[Any, Any, bool]) -> bool:
    running = asyncio.ensure_future(probing)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running], timeout=_PATIENCE)
        raise
    finally:
        if not running.done():
            running.add_done_callback(lambda task: task.cancelled() or task.exception())
            running.cancel()
        elif not running.cancelled():
            running.exception()  # noted as seen: who was cancelled hears of that


async def _honoured(calls: Calls) -> bool:
    path = temporary_path("probe", secrets.token_hex(6))
    key = calls.key(path, "probe")
    once = {"if-none-match": "*"}
    body = Body([b"crossdock asks whether this store honours If-None-Match"])
    versions: list[str | None] = []
    try:
        for expected in ("", "PreconditionFailed"):
            answer = await calls.put(path, key, once, body, allow=("PreconditionFailed",))
            if not answer.code:
                versions.append(answer.headers.get("x-amz-version-id"))
            if answer.code != expected:
                return False
        return await _honoured_for_parts(calls, path, key, body, versions)
    finally:
        for version in versions:
            await remove(calls, path, key, None if version == "null" else version)


async def remove(calls: Calls, path: str, key: str, version: str | None) -> None:
    """Where a version may not be deleted (it is locked, say), it is hidden at least."""
    try:
        await calls.delete(path, key, version=version, repeat=True)
    except Unsupported:
        # Cloudflare's store tells versions, and knows none.
        if version is None:
            raise
        await remove(calls, path, key, None)
    except PermissionDenied:
        log.warning(
            "%s: %r was written to see what this store can do, and may not be deleted: "
            "set 'conditional_writes' to 'on' or 'off'",
            calls.backend.endpoint,
            key,
        )
        if version is not None:
            await remove(calls, path, key, None)


async def _honoured_for_parts(calls: Calls, path: str, key: str, body: Body, versions: list[str | None]) -> bool:
    upload = Upload(calls, path, key, "", create_new=True)
    try:
        await upload.start({})
        part = await calls.put_part(path, key, upload.id or "", 1, body)
        answer = await calls.complete(
            path, key, upload.id or "", [part], {"if-none-match": "*"}, ("PreconditionFailed",)
        )
        if not answer.code:
            versions.append(answer.headers.get("x-amz-version-id"))
        return answer.code == "PreconditionFailed"
    finally:
        await upload.abort()
