"""The storage contract over NetStorage's HTTP interface."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator
from datetime import timedelta

from crossdock.errors import (
    AlreadyExists,
    NotADirectory,
    NotAFile,
    NotFound,
    PermissionDenied,
    SourceChanged,
    Unsupported,
    shown,
)
from crossdock.storage.base import SECONDS_32, Backend, Capabilities, Entry, Reader, WriteOptions, Writer
from crossdock.storage.http import http_date
from crossdock.storage.netstorage import listing
from crossdock.storage.netstorage.calls import Calls
from crossdock.storage.netstorage.client import Client
from crossdock.storage.netstorage.reader import NetStorageReader
from crossdock.storage.netstorage.settings import NetStorageSettings
from crossdock.storage.netstorage.signing import WINDOW
from crossdock.storage.netstorage.writer import NetStorageWriter
from crossdock.storage.staging import publish_by_swap, staged_path, token_of, undo_swap

__all__ = ["NetStorageBackend"]

_STORES = {"AkamaiNetStorage": "object-store", "Apache": "file-store"}
"""What the two kinds of store call themselves."""


class NetStorageBackend(Backend):
    """One CP code, or a folder in it.

    An object-store may hold a file and a folder of one name, and names with empty components or dots, by other
    clients' doing: here the file is the one that is seen, and such a name in a listing is an error.
    """

    def __init__(self, settings: NetStorageSettings, endpoint: str) -> None:
        self.settings, self.endpoint = settings, endpoint
        self.client = Client(settings, endpoint)
        self.calls = Calls(self.client, settings, self)
        self.store = f"netstorage:{settings.service.lower()}"
        self.capabilities = Capabilities(
            rename=True,
            directories=True,
            atomic_write=settings.rename_replaces,
            read_offset=True,
            recursive_scan=settings.store == "object-store" and settings.listing == "flat",
            pinned_delete=True,
            digests=frozenset({"md5", "sha256"}),
            mtime_precision=timedelta(seconds=1),
            mtime_range=SECONDS_32,
            max_connections=settings.max_connections,
        )

    async def open(self) -> None:
        """Raises `ConfigError`; contacts nobody."""
        await self.client.open()

    async def close(self) -> None:
        await self.client.close()

    def address(self, path: str) -> str:
        return self.calls.full(path)

    # -- looking --------------------------------------------------------------------------------------------------

    async def stat(self, path: str) -> Entry:
        found = await self.calls.look(path, "stat", implicit=True)
        if found is not None:
            return found
        if not path and not self.settings.root:
            return Entry(path="", kind="dir")
        raise self.error(NotFound, "stat", path, "no such file or folder")

    def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        if not recursive:
            return listing.scan_folder(self.calls, path)
        if not self.capabilities.recursive_scan:
            raise self._unsupported("list recursively", path)
        return listing.scan_tree(self.calls, path)

    async def usage(self, path: str = "") -> tuple[int, int]:
        """(files, bytes) below a folder, as NetStorage counts them."""
        request = self.calls.request("GET", "du", path, "du", {"format": "xml", "encoding": "utf-8"})
        found = await self.client.xml(request, await self.client.call(request), "du")
        return found.files, found.size

    # -- what doctor asks -----------------------------------------------------------------------------------------

    async def server(self) -> str:
        """What the service calls itself, and how far apart the clocks are."""
        name, skew = await self._greeting()
        return f"{shown(name) or 'nameless'} at {self.client.service}, its clock {round(skew):+d} s from here"

    async def remarks(self) -> list[tuple[str, str, str]]:
        """(what, detail, remedy) of what works today and need not tomorrow."""
        name, skew = await self._greeting()
        found = []
        if not self.settings.tls:
            found.append(("tls", "names and files travel in clear text", "leave out 'tls: false'"))
        if abs(skew) >= WINDOW / 2:
            detail = f"it is {abs(skew):.0f} of {WINDOW} allowed seconds off"
            found.append(("clock", detail, "set this machine's clock, and keep it set: 'timedatectl set-ntp true'"))
        kind = _STORES.get(name.partition("/")[0])
        if kind is not None and kind != self.settings.store:
            found.append(("store", f"{shown(name)} is of kind {kind}", f"set 'store: {kind}'"))
        return found

    async def _greeting(self) -> tuple[str, float]:
        """(name of the service, seconds that its clock is ahead)."""
        request = self.calls.request("GET", "stat", "", "stat", {"format": "xml", "encoding": "utf-8"})
        answer = await self.client.call(request, allow=(404,), repeat=True)
        theirs = http_date(answer.headers.get("Date"))
        return answer.headers.get("Server", ""), theirs.timestamp() - time.time() if theirs else 0.0

    # -- moving bytes ---------------------------------------------------------------------------------------------

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        return await NetStorageReader.open(self.calls, path, offset, pin)

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        return NetStorageWriter(self.calls, path, options)

    def leftover(self, path: str, attempt: str) -> bytes | None:
        return token_of(path, attempt)

    async def discard(self, checkpoint: bytes) -> None:
        if "attempt" not in json.loads(checkpoint):
            raise self.error(Unsupported, "discard", "", "this is no token of NetStorage's")
        await self.calls.remove(staged_path(checkpoint))
        if not self.settings.rename_replaces:
            await undo_swap(self.rename, self.calls.remove, checkpoint)

    async def is_staged(self, checkpoint: bytes) -> bool | None:
        # A temporary is seen only once it is whole: being absent, it may never have been there.
        return True if await self.calls.look(staged_path(checkpoint), "stat") is not None else None

    # -- changing names -------------------------------------------------------------------------------------------

    async def delete(self, path: str) -> None:
        found = await self.calls.look(path, "delete", implicit=True) if path else Entry(path="", kind="dir")
        if found is None:
            return
        if found.kind == "dir":
            raise self.error(NotAFile, "delete", path, "it is a folder")
        await self.calls.remove(path)

    async def delete_pinned(self, path: str, pin: Entry) -> None:
        found = await self.calls.look(path, "delete")
        if found is None:
            return
        if found.fingerprint != pin.fingerprint:
            reason = "it is not the file that was listed"
            raise SourceChanged.at("delete", self.endpoint, path, reason, hint="list it again and let it settle")
        await self.calls.remove(path)

    async def rename(self, path: str, target: str, *, overwrite: bool = False) -> None:
        """Without `overwrite`, "never replaces" is only as good as a look at the target just before."""
        source = await self.calls.look(path, "rename", implicit=True)
        if source is None:
            raise self.error(NotFound, "rename", path, "no such file")
        if source.kind == "dir":
            raise self.error(NotAFile, "rename", path, "it is a folder", hint="rename the files below it")
        there = await self.calls.look(target, "rename")
        if there is not None and there.kind == "dir":
            raise self.error(NotAFile, "rename", target, "a folder has this name")
        if there is not None and not overwrite:
            raise self.error(AlreadyExists, "rename", target, "the name is taken")
        await self.calls.make_parents(target, "rename")
        try:
            await self.calls.move(path, target, source)
        except AlreadyExists:
            if not overwrite or self.settings.rename_replaces:
                raise
            await publish_by_swap(self.calls.swap_rename, self.calls.remove, path, target, secrets.token_hex(6))

    # -- folders --------------------------------------------------------------------------------------------------

    async def make_dir(self, path: str) -> None:
        self.calls.folders.discard(self.calls.full(path))
        await self.calls.make_folders(self.calls.full(path), path, "mkdir")

    async def remove_dir(self, path: str) -> None:
        found = await self.calls.look(path, "rmdir", implicit=True)
        if found is None:
            return
        if found.kind != "dir":
            raise self.error(NotADirectory, "rmdir", path, "it is a file")
        # What the interface does to a folder with something in it is not documented, so it is not tried.
        request = self.calls.request(
            "GET", "rmdir", path, "dir", {"format": "xml", "encoding": "utf-8", "max_entries": 1}
        )
        answer = await self.client.call(request, allow=(404,), repeat=True)
        if answer.good and (await self.client.xml(request, answer, "stat")).items:
            raise self._not_empty(path)
        self.calls.folders.discard(self.calls.full(path))
        answer = await self.client.call(
            self.calls.request("POST", "rmdir", path, "rmdir"), allow=(404, 409, 412), repeat=True
        )
        if not answer.good and answer.status != 404:
            raise self._not_empty(path)

    def _not_empty(self, path: str) -> Exception:
        return self.error(PermissionDenied, "rmdir", path, "the folder is not empty")
