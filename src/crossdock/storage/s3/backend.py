"""The storage contract over S3."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta

from crossdock.errors import (
    AlreadyExists,
    NotAFile,
    NotFound,
    Unsupported,
)
from crossdock.storage.base import Backend, Capabilities, Entry, Leftover, Reader, WriteOptions, Writer
from crossdock.storage.s3 import listing, pinned, probe
from crossdock.storage.s3.calls import Calls
from crossdock.storage.s3.client import Client
from crossdock.storage.s3.copying import Copy
from crossdock.storage.s3.entries import entry_of
from crossdock.storage.s3.faults import changed
from crossdock.storage.s3.names import must_keep
from crossdock.storage.s3.pages import list_page
from crossdock.storage.s3.reader import S3Reader
from crossdock.storage.s3.settings import S3Settings
from crossdock.storage.s3.upload import token_of
from crossdock.storage.s3.wire import quoted
from crossdock.storage.s3.writer import S3Writer

__all__ = ["S3Backend"]


class S3Backend(Backend):
    """One bucket, or a prefix of it. Keys are opaque: "a//b", "/x" and "a/./b" are three names like any other.

    `scan` tells when an object was stored (`LastModified`); `stat` and readers tell the modification time that was
    kept with it, if there is one.
    """

    def __init__(self, settings: S3Settings, endpoint: str) -> None:
        self.settings, self.endpoint = settings, endpoint
        self.client = Client(settings, self)
        self.calls = Calls(self.client, settings, self)
        self._opened = False
        self.capabilities = Capabilities(
            rename=True,
            atomic_write=True,
            read_offset=True,
            resume_write=True,
            recursive_scan=settings.listing == "flat",
            server_copy=True,
            pinned_delete=True,
            tags=True,
            pinned_reads=True,
            lists_mtime=False,
            mtime_precision=timedelta(microseconds=1),
            max_connections=settings.max_connections,
        )

    async def open(self) -> None:
        """Raises `ConfigError`; contacts the store only to learn whether it honours conditional writes."""
        if self._opened:
            return
        await self.client.open()
        self.store = f"s3:{self.client.service}:{self.client.region}:{self.settings.identity()}"
        self.capabilities = replace(self.capabilities, create_new=await probe.conditional_writes(self.calls))
        self._opened = True

    async def close(self) -> None:
        self._opened = False
        await self.client.close()

    async def server(self) -> str:
        """Where the store is."""
        return f"{self.client.service}, region {self.client.region}"

    async def stat(self, path: str) -> Entry:
        if path:
            answer = await self.calls.head(path, self.calls.key(path, "stat"), allow=("NotFound",))
            if not answer.code:
                return entry_of(path, answer.headers)
        prefix = self.calls.prefix if not path else self.calls.key(path + "/", "stat")
        page = await list_page(self.calls, path, prefix, limit=1, operation="stat")
        if not path or page.objects:
            return Entry(path=path, kind="dir")
        raise self.error(NotFound, "stat", path, "no such key, and none below it")

    def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        if recursive and not self.capabilities.recursive_scan:
            raise self._unsupported("list recursively", path)
        return listing.scan(self.calls, path, recursive=recursive)

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        return await S3Reader.open(self.calls, path, self.calls.key(path, "read"), offset, pin)

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        await must_keep(self.calls, path, "write")
        writer = S3Writer(self.calls, path, self.calls.key(path, "write"), options)
        if options.resume is not None:
            await writer.resume(options.resume)
        return writer

    async def delete(self, path: str) -> None:
        if not path:
            raise self.error(NotAFile, "delete", path, "it is the root of the endpoint")
        await self.calls.delete(path, self.calls.key(path, "delete"))

    def address(self, path: str) -> str:
        key = self.calls.key(path, "copy") if path else self.calls.prefix.removesuffix("/")
        return f"/{self.settings.bucket}/{quoted(key)}" if key else f"/{self.settings.bucket}"

    async def server_copy(self, address: str, path: str, options: WriteOptions, *, pin: Entry | None = None) -> Entry:
        await must_keep(self.calls, path, "copy")
        return await Copy(self.calls, address, path, self.calls.key(path, "copy"), options).run(pin)

    async def rename(self, path: str, target: str, *, overwrite: bool = False) -> None:
        """Copy within the store, then delete exactly what was copied: a newer upload stays, as `SourceChanged`.

        Without conditional writes, "never replaces" is only as good as a look at the target just before.
        """
        source = await self.stat(path)
        if source.kind == "dir":
            raise self.error(NotAFile, "rename", path, "it is a prefix", hint="rename the objects below it")
        if path == target:
            if overwrite:
                return
            raise self.error(AlreadyExists, "rename", target, "it is its own name")
        create_new = self.capabilities.create_new and not overwrite
        if not overwrite and not create_new:
            await self._refuse_taken(target)
        await self.server_copy(self.address(path), target, WriteOptions(overwrite=not create_new), pin=source)
        await self._delete_exactly(path, source)

    async def _refuse_taken(self, target: str) -> None:
        key = self.calls.key(target, "rename")
        answer = await self.calls.head(target, key, operation="rename", allow=("NotFound",))
        if not answer.code:
            raise self.error(AlreadyExists, "rename", target, "the name is taken")

    async def _delete_exactly(self, path: str, source: Entry) -> None:
        # Never by its version: that would bring the one before it back under the name.
        if not await pinned.delete_exactly(self.calls, path, source, "rename"):
            key = self.calls.key(path, "rename")
            request = self.calls.request("DELETE", "rename", path, "s3:DeleteObject", key=key)
            raise changed(self.client.place(request), "a newer object has come; it stays, the older one was copied")

    async def delete_pinned(self, path: str, pin: Entry) -> None:
        await pinned.delete_pinned(self.calls, path, pin)

    async def set_tags(self, path: str, tags: Mapping[str, str], *, pin: Entry) -> None:
        await pinned.set_tags(self.calls, path, tags, pin)

    async def discard(self, checkpoint: bytes) -> None:
        token = json.loads(checkpoint)
        if token["bucket"] != self.settings.bucket:
            raise self.error(Unsupported, "discard", token["path"], f"it lies in bucket {token['bucket']!r}")
        await self.calls.abort_upload(token["path"], token["key"], token["upload"])

    async def leftovers(self, path: str) -> AsyncGenerator[Leftover]:
        """Uploads that were neither published nor aborted. Their parts are stored, and billed, until they are."""
        async with aclosing(listing.leftovers(self.calls, path)) as uploads:
            async for key, upload, begun in uploads:
                name = key.removeprefix(self.calls.prefix)
                yield Leftover(name, begun, token_of(self.calls, name, key, upload))
