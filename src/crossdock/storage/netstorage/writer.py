"""Uploads: to a temporary name with size and SHA-256, looked at, and only then renamed to the final name."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace

from crossdock.errors import AlreadyExists, CrossdockError, NotAFile, NotFound
from crossdock.storage.base import Entry, Expect, WriteOptions
from crossdock.storage.netstorage.calls import Calls
from crossdock.storage.netstorage.client import Request
from crossdock.storage.netstorage.upload import Held, Upload
from crossdock.storage.netstorage.wire import LAST_TIME
from crossdock.storage.staging import StagedWriter, Stored, publish_by_swap

__all__ = ["NetStorageWriter"]

_HANDED_OVER = 64 * 1024
"""Bytes that are gathered before they are worth a thread for their digests and a chunk on the wire."""
_LOOKS = 4
"""Another replica may answer a moment later than the one that took the file."""


class NetStorageWriter(StagedWriter):
    """Files up to `buffer` bytes are held, and sent with all that is known of them; larger ones stream.

    A stream's SHA-256 is known at its end and follows as a signed trailer, in the form that rclone sends. Either way
    NetStorage refuses what does not match, and what it says it holds (size, MD5) is compared with what was sent.
    """

    def __init__(self, calls: Calls, path: str, options: WriteOptions) -> None:
        super().__init__(calls.backend.endpoint, path, options)
        self._calls = calls
        self._gathered: list[bytes] = []
        self._size = 0
        self._md5, self._sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        self._upload: Upload | None = None
        self._held: list[bytes] = []
        self._sending: asyncio.Task[None] | None = None
        self._publishing: asyncio.Task[Entry] | None = None
        self._parents = self._sent = False

    # -- sending --------------------------------------------------------------------------------------------------

    async def _append(self, data: bytes) -> None:
        await self._make_parents()
        self._gathered.append(bytes(data))
        self._size += len(data)
        if self._size >= _HANDED_OVER:
            await self._hand_over()

    async def _hand_over(self) -> None:
        if not self._size:
            return
        chunk, size = b"".join(self._gathered), self._size
        self._gathered, self._size = [], 0
        if size >= _HANDED_OVER:
            await asyncio.to_thread(self._digest, chunk)
        else:
            self._digest(chunk)
        if self._upload is None:
            self._held.append(chunk)
            if sum(map(len, self._held)) <= self._calls.settings.buffer:
                return
            await self._prepare()
            request = self._request({"sha256": "atend"})
            self._upload = Upload(
                self._calls.client,
                request,
                lambda: self._calls.client.signed(request, sha256=self._sha256.hexdigest()),
            )
            held, self._held = self._held, []
            for one in held:
                await self._upload.write(one)
        else:
            await self._upload.write(chunk)

    def _digest(self, chunk: bytes) -> None:
        self._md5.update(chunk)
        self._sha256.update(chunk)

    def _request(self, parameters: Mapping[str, str | int]) -> Request:
        modified = self.options.modified
        seconds = int(modified.timestamp() // 1) if modified is not None else -1
        kept: dict[str, str | int] = {"mtime": seconds} if 0 <= seconds <= LAST_TIME else {}
        return self._calls.request("PUT", "write", self.path, "upload", {**parameters, **kept}, at=self.temporary)

    async def _prepare(self) -> None:
        """Before the first byte is sent: the folders above, and nothing in the way."""
        await self._make_parents()
        await self._refuse_folder()
        self._sent = True

    async def _make_parents(self) -> None:
        if not self._parents:
            await self._calls.make_parents(self.path, "write")
            self._parents = True

    async def _refuse_folder(self) -> None:
        found = await self._calls.look(self.path, "write")
        if found is not None and found.kind == "dir":
            raise self._calls.backend.error(NotAFile, "write", self.path, "a folder has this name")

    async def _seal(self) -> Stored:
        await self._hand_over()
        if self._upload is not None:
            await self._upload.finish()
        else:
            await self._prepare()
            # Goes on if the caller is cancelled: only its answer tells that nothing more will be stored.
            self._sending = asyncio.create_task(self._send_held())
            await asyncio.shield(self._sending)
        return await self._look()

    async def _send_held(self) -> None:
        client = self._calls.client
        request = self._request({"size": self.size, "sha256": self._sha256.hexdigest()})

        async def once() -> None:
            response, _ = await client.stream(request, Held(self._held, client.settings.timeout))
            if response is not None:
                await client.body(request, response)

        await client.retry.run(once)

    async def _look(self) -> Stored:
        """What NetStorage says it holds under the temporary name."""
        policy = self._calls.client.retry
        for look in range(1, _LOOKS + 1):
            found = await self._calls.look(self.temporary, "write", called=self.path)
            if found is not None:
                break
            await policy.sleep(policy.wait(look, CrossdockError()))
        else:
            raise self._mismatch("what was uploaded is not there")
        md5 = self._md5.hexdigest()
        if found.etag is not None and found.etag != md5:
            raise self._mismatch(f"the bytes that were sent have MD5 {md5}, the endpoint holds {found.etag}")
        return Stored(size=found.size, entry=replace(found, path=self.path))

    # -- publishing -----------------------------------------------------------------------------------------------

    async def _verified(self, expect: Expect) -> Stored:
        await self._hand_over()
        for algorithm, digest in (("md5", self._md5), ("sha256", self._sha256)):
            wanted = expect.digests.get(algorithm)
            if wanted is not None and wanted != digest.hexdigest():
                raise self._mismatch(f"{algorithm} {digest.hexdigest()} was written, {wanted} expected")
        return await super()._verified(expect)

    async def _publish(self, stored: Stored) -> Entry:
        # A swap has to come to its end: half of it would leave no file under the name.
        self._publishing = asyncio.create_task(self._put_in_place(stored))
        return await asyncio.shield(self._publishing)

    async def _put_in_place(self, stored: Stored) -> Entry:
        calls = self._calls
        await self._refuse_folder()
        entry = stored.entry or Entry(path=self.path, size=stored.size)
        try:
            try:
                await calls.move(self.temporary, self.path, entry, called=self.path)
            except AlreadyExists:
                if calls.settings.rename_replaces:
                    raise
                await publish_by_swap(calls.swap_rename, calls.remove, self.temporary, self.path, self.attempt)
        except NotFound as error:
            raise self._mismatch("what was uploaded has gone") from error
        return entry

    # -- giving up ------------------------------------------------------------------------------------------------

    async def _remove(self) -> None:
        self._held, self._gathered = [], []
        if not await self._at_rest() and self._sent:
            await self._calls.remove(self.temporary)

    async def _let_go(self) -> None:
        await self._at_rest()

    async def _at_rest(self) -> bool:
        """Nothing goes on behind our back any more. Whether the file has been published."""
        if self._upload is not None:
            await self._upload.stop()
        published = False
        for task in (self._sending, self._publishing):
            if task is not None:
                await asyncio.wait([task])
                ended_well = not task.cancelled() and task.exception() is None
                published = ended_well and task is self._publishing
        return published
