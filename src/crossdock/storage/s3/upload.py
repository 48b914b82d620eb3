"""An upload in parts: started once, published once, and never left behind by a failure or a cancellation."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import replace

from crossdock.errors import AlreadyExists, ConnectionFailed, CrossdockError, IntegrityError, Throttled
from crossdock.storage.base import Entry
from crossdock.storage.s3.calls import UNHEARD, Calls, Part
from crossdock.storage.s3.entries import entry_of, stored_of
from crossdock.storage.s3.request import Answer
from crossdock.storage.s3.wire import ATTEMPT, VERSION

__all__ = ["Upload", "token_of"]

log = logging.getLogger("crossdock.storage.s3")

_UNSEEN = ("NotFound", "Forbidden", "AccessDenied", "MethodNotAllowed")


def token_of(calls: Calls, path: str, key: str, upload: str | None) -> bytes:
    """What names an upload, for `Backend.discard`."""
    return json.dumps({"bucket": calls.settings.bucket, "key": key, "path": path, "upload": upload}).encode()


class Upload:
    """The parts of one object to be. `attempt` tells our own object from another's once it is published."""

    def __init__(self, calls: Calls, path: str, key: str, attempt: str, *, create_new: bool) -> None:
        self.calls, self.path, self.key, self.attempt = calls, path, key, attempt
        self.id: str | None = None
        self.parts: dict[int, Part] = {}
        self.torn = False
        """Parts were cancelled on their way: the store may still be taking them in."""
        self.left: CrossdockError | None = None
        """As `Writer.left`."""
        self._create_new = create_new
        self._tagging: str | None = None
        self._creation: asyncio.Task[str] | None = None

    async def start(self, headers: Mapping[str, str], *, hash_parts: bool = True) -> None:
        """Cancelled midway, `abort` still learns the id."""
        self._tagging = headers.get("x-amz-tagging")
        self._creation = asyncio.ensure_future(
            self.calls.create_upload(self.path, self.key, headers, hash_parts=hash_parts)
        )
        self.id = await asyncio.shield(self._creation)

    def token(self) -> bytes:
        """For `Backend.discard`."""
        return token_of(self.calls, self.path, self.key, self.id)

    async def complete(self) -> Entry:
        """Publish, then look at what is stored.

        An answer that got lost is made up for: if the store no longer knows the upload, or the name is taken, the
        object that is there may be this attempt's own.
        """
        calls, parts = self.calls, [self.parts[number] for number in sorted(self.parts)]
        upload, size = self.id or "", sum(part.size for part in parts)
        headers = {"if-none-match": "*"} if self._create_new else {}
        allow = ("NoSuchUpload", "PreconditionFailed", "ConditionalRequestConflict")
        answer = await calls.client.retry.run(
            lambda: calls.complete(self.path, self.key, upload, parts, headers, allow)
        )
        if answer.code:
            found = await self.published(size)
            if found is None:
                raise self._refused(answer.code)
            self.id = None
            return found
        self.id = None
        return await self._verified(stored_of(self.path, answer.headers, size), size)

    async def published(self, size: int) -> Entry | None:
        """The object under the final name, if this very attempt wrote it."""
        answer = await self.calls.head(self.path, self.key, operation="write", allow=_UNSEEN, repeat=True)
        if answer.code or answer.headers.get(ATTEMPT) != self.attempt:
            return None
        entry = entry_of(self.path, answer.headers)
        return replace(entry, size=size) if entry.size in (None, size) else None

    def _refused(self, code: str) -> CrossdockError:
        error = self.calls.backend.error
        if code == "PreconditionFailed":
            return error(AlreadyExists, "write", self.path, "the name is taken")
        if code == "ConditionalRequestConflict":
            found = error(Throttled, "write", self.path, "somebody else was writing the same name", hint="run it again")
        else:
            found = error(
                ConnectionFailed, "write", self.path, "the upload is gone", hint="somebody aborted it: start it again"
            )
        # Completing it again cannot help; a new upload can.
        found.exhausted = True
        return found

    async def _verified(self, entry: Entry, size: int) -> Entry:
        answer = await self._seen(entry.attributes.get(VERSION))
        # Gone, hidden from us, or replaced already: what was completed is all that can be told.
        if answer.code or answer.headers.get(ATTEMPT) != self.attempt:
            return entry
        stored = entry_of(self.path, answer.headers)
        # Some proxies leave the length out.
        if stored.size not in (None, size):
            reason = f"{size} bytes sent, the store holds {stored.size}"
            hint = "remove the object and run it again"
            raise IntegrityError.at("write", self.calls.backend.endpoint, self.path, reason, hint=hint)
        # Ceph takes the tags of an upload in parts and forgets them.
        untagged = answer.headers.get("x-amz-tagging-count", "0") == "0"
        if self._tagging and untagged and not self.calls.client.amazon:
            await self.calls.restore_tags(self.path, self.key, self._tagging, stored.attributes.get(VERSION))
        return replace(stored, size=size)

    async def _seen(self, version: str | None) -> Answer:
        unheard = (*UNHEARD, "BadRequest") if version else ()
        answer = await self.calls.head(
            self.path, self.key, operation="verify", allow=(*_UNSEEN, *unheard), repeat=True, version=version
        )
        # Cloudflare's store tells versions, and knows none.
        return await self._seen(None) if answer.code in unheard else answer

    async def abort(self) -> None:
        """Remove the parts; what cannot be removed now is logged, and `leftovers` finds it."""
        if self._creation is not None and not self._creation.done():
            await asyncio.wait({self._creation})
        if self._creation is not None and not self._creation.cancelled() and self._creation.exception() is None:
            self.id = self.id or (self._creation.result() if not self.parts else None)
        self._creation = None
        if self.id is None:
            return
        upload, self.id = self.id, None
        try:
            await self.calls.abort_upload(self.path, self.key, upload)
            # A part that was on its way can arrive after the upload has been aborted, and would be kept (and billed).
            for _ in range(3 if self.torn else 0):
                if await self.calls.list_parts(self.path, self.key, upload) is None:
                    break
                await self.calls.abort_upload(self.path, self.key, upload)
        except CrossdockError as error:
            log.warning("upload %s of %r was left behind: %s", upload, self.key, error)
            self.left = error
