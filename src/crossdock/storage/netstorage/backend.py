"""The storage contract over NetStorage's HTTP interface."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import AsyncGenerator, Mapping
from datetime import timedelta
from typing import Literal

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
from crossdock.storage.base import Backend, Capabilities, Entry, Reader, WriteOptions, Writer
from crossdock.storage.http import http_date
from crossdock.storage.netstorage import listing
from crossdock.storage.netstorage.client import Answer, Client, Request
from crossdock.storage.netstorage.reader import NetStorageReader
from crossdock.storage.netstorage.settings import NetStorageSettings
from crossdock.storage.netstorage.signing import WINDOW
from crossdock.storage.netstorage.wire import entry_of
from crossdock.storage.netstorage.writer import NetStorageWriter
from crossdock.storage.staging import publish_by_swap, staged_path, token_of, undo_swap

__all__ = ["NetStorageBackend"]

_STORES = {"AkamaiNetStorage": "object-store", "Apache": "file-store"}
"""What the two kinds of store call themselves."""
log = logging.getLogger("crossdock.storage")


class NetStorageBackend(Backend):
    """One CP code, or a folder in it.

    An object-store may hold a file and a folder of one name, and names with empty components or dots, by other
    clients' doing: here the file is the one that is seen, and such a name in a listing is an error.
    """

    def __init__(self, settings: NetStorageSettings, endpoint: str) -> None:
        self.settings, self.endpoint = settings, endpoint
        self.client = Client(settings, endpoint)
        self.prefix = f"{settings.cp_code}/{settings.root}/" if settings.root else f"{settings.cp_code}/"
        self._folders: set[str] = set()
        """Whole names of folders known to be there; one that has gone since is made again by the upload itself."""
        self.capabilities = Capabilities(
            rename=True,
            directories=True,
            atomic_write=settings.rename_replaces,
            read_offset=True,
            recursive_scan=settings.store == "object-store" and settings.listing == "flat",
            pinned_delete=True,
            digests=frozenset({"md5", "sha256"}),
            mtime_precision=timedelta(seconds=1),
            max_connections=settings.max_connections,
        )

    async def open(self) -> None:
        """Raises `ConfigError`; contacts nobody."""
        await self.client.open()

    async def close(self) -> None:
        await self.client.close()

    def full(self, path: str) -> str:
        """The whole name there, from the CP code on, without a slash at either end."""
        return self.prefix + path if path else self.prefix[:-1]

    def request(
        self,
        method: Literal["GET", "POST", "PUT"],
        operation: str,
        path: str,
        action: str,
        parameters: Mapping[str, str | int] | None = None,
        *,
        at: str | None = None,
        name: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Request:
        """An action on `at` (default: `path`), or on the whole `name`; messages say `path`."""
        return Request(
            method=method,
            operation=operation,
            path=path,
            name=name or "/" + self.full(path if at is None else at),
            action=action,
            parameters=parameters or {},
            headers=headers or {},
        )

    def note(self, text: str) -> None:
        """Say in the log what nobody waits to hear."""
        log.warning("%s: %s", self.endpoint, text)

    # -- looking --------------------------------------------------------------------------------------------------

    async def look(
        self, path: str, operation: str, *, implicit: bool = False, called: str | None = None
    ) -> Entry | None:
        """What has the name; None if nothing has. `implicit`: also folders that only files below tell of.

        That is asked only if nothing else is found: NetStorage is slow to answer it.
        """
        found = await self._look(self.full(path), path, operation, {}, called=called)
        if found is None and implicit and self.settings.store == "object-store":
            found = await self._look(self.full(path), path, operation, {"implicit": "yes"}, called=called)
        return found

    async def _look(
        self,
        name: str,
        path: str,
        operation: str,
        more: Mapping[str, str | int],
        *,
        called: str | None = None,
    ) -> Entry | None:
        parameters = {"format": "xml", "encoding": "utf-8", **more}
        request = self.request(
            "GET", operation, path if called is None else called, "stat", parameters, name="/" + name
        )
        answer = await self.client.call(request, allow=(404,), repeat=True)
        if not answer.good:
            return None
        items = self.client.xml(request, answer, "stat").items
        if not items:
            raise self.client.violation(request, "an answer that describes nothing")
        return entry_of(path, items[0])

    async def stat(self, path: str) -> Entry:
        found = await self.look(path, "stat", implicit=True)
        if found is not None:
            return found
        if not path and not self.settings.root:
            return Entry(path="", kind="dir")
        raise self.error(NotFound, "stat", path, "no such file or folder")

    def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        if not recursive:
            return listing.scan_folder(self, path)
        if not self.capabilities.recursive_scan:
            raise self._unsupported("list recursively", path)
        return listing.scan_tree(self, path)

    async def usage(self, path: str = "") -> tuple[int, int]:
        """(files, bytes) below a folder, as NetStorage counts them."""
        request = self.request("GET", "du", path, "du", {"format": "xml", "encoding": "utf-8"})
        found = self.client.xml(request, await self.client.call(request), "du")
        return found.files, found.size

    # -- what doctor asks -----------------------------------------------------------------------------------------

    async def server(self) -> str:
        """What the service calls itself, and how far apart the clocks are."""
        name, skew = await self._greeting()
        return f"{shown(name) or 'nameless'} at {self.client.service}, its clock {skew:+.0f} s from here"

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
            found.append(("store", f"{shown(name)} is a {kind}", f"set 'store: {kind}'"))
        return found

    async def _greeting(self) -> tuple[str, float]:
        """(name of the service, seconds that its clock is ahead)."""
        request = self.request("GET", "stat", "", "stat", {"format": "xml", "encoding": "utf-8"})
        answer = await self.client.call(request, allow=(404,), repeat=True)
        theirs = http_date(answer.headers.get("Date"))
        return answer.headers.get("Server", ""), theirs.timestamp() - self.client.clock() if theirs else 0.0

    # -- moving bytes ---------------------------------------------------------------------------------------------

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        return await NetStorageReader.open(self, path, offset, pin)

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        if options.resume is not None:
            raise self._unsupported("resume a write", path)
        if not options.overwrite:
            raise self._unsupported("create without replacing", path)
        return NetStorageWriter(self, path, options)

    def leftover(self, path: str, attempt: str) -> bytes | None:
        return token_of(path, attempt)

    async def discard(self, checkpoint: bytes) -> None:
        if "attempt" not in json.loads(checkpoint):
            raise self.error(Unsupported, "discard", "", "this is no token of NetStorage's")
        await self.remove(staged_path(checkpoint))
        if not self.settings.rename_replaces:
            await undo_swap(self.rename, self.remove, checkpoint)

    async def is_staged(self, checkpoint: bytes) -> bool | None:
        # A temporary is seen only once it is whole: being absent, it may never have been there.
        return True if await self.look(staged_path(checkpoint), "stat") is not None else None

    # -- changing names -------------------------------------------------------------------------------------------

    async def delete(self, path: str) -> None:
        found = await self.look(path, "delete", implicit=True) if path else Entry(path="", kind="dir")
        if found is None:
            return
        if found.kind == "dir":
            raise self.error(NotAFile, "delete", path, "it is a folder")
        await self.remove(path)

    async def delete_pinned(self, path: str, pin: Entry) -> None:
        found = await self.look(path, "delete")
        if found is None:
            return
        if found.fingerprint != pin.fingerprint:
            raise SourceChanged(
                f"delete {self.endpoint}:{shown(path)}: it is not the file that was listed",
                hint="list it again and let it settle",
            )
        await self.remove(path)

    async def remove(self, path: str) -> None:
        """Delete the file that has exactly this name, if there is one."""
        await self.client.call(self.request("POST", "delete", path, "delete"), allow=(404,), repeat=True)

    async def rename(self, path: str, target: str, *, overwrite: bool = False) -> None:
        """Without `overwrite`, "never replaces" is only as good as a look at the target just before."""
        source = await self.look(path, "rename", implicit=True)
        if source is None:
            raise self.error(NotFound, "rename", path, "no such file")
        if source.kind == "dir":
            raise self.error(NotAFile, "rename", path, "it is a folder", hint="rename the files below it")
        there = source if path == target else await self.look(target, "rename")
        if there is not None and there.kind == "dir":
            raise self.error(NotAFile, "rename", target, "a folder has this name")
        if there is not None and not overwrite:
            raise self.error(AlreadyExists, "rename", target, "the name is taken")
        if path == target:
            return
        await self.make_parents(target, "rename")
        try:
            await self.move(path, target, source)
        except AlreadyExists:
            if not overwrite or self.settings.rename_replaces:
                raise
            await publish_by_swap(self.swap_rename, self.remove, path, target, secrets.token_hex(6))

    async def swap_rename(self, path: str, target: str) -> None:
        """One step of a swap. Raises `NotFound`, `AlreadyExists`."""
        source = await self.look(path, "rename")
        if source is None:
            raise self.error(NotFound, "rename", path, "no such file")
        await self.move(path, target, source)

    async def move(self, path: str, target: str, source: Entry, *, called: str | None = None) -> None:
        """One rename. Tried again until it is known what became of it: an answer may be lost after the deed.

        Raises `NotFound`, and `AlreadyExists` where the store does not replace.
        """
        destination = "/" + self.full(target)
        request = self.request("POST", "rename", called or path, "rename", {"destination": destination}, at=path)
        tries = 0

        async def once() -> None:
            nonlocal tries
            tries += 1
            answer = await self.client.call(request, allow=(404, 409, 412))
            if answer.good or (tries > 1 and await self._has_moved(path, target, source)):
                return
            if answer.status == 404:
                raise self.error(NotFound, "rename", called or path, "it has gone", hint="run it again")
            raise self.error(AlreadyExists, "rename", called or target, f"HTTP {answer.status}{_words(answer)}")

        await self.client.retry.run(once)

    async def _has_moved(self, path: str, target: str, source: Entry) -> bool:
        if await self.look(path, "rename") is not None:
            return False
        found = await self.look(target, "rename")
        return found is not None and found.fingerprint == source.fingerprint

    # -- folders --------------------------------------------------------------------------------------------------

    async def make_parents(self, path: str, operation: str) -> None:
        """Make the folders above, so that FTP and SFTP accounts of the same storage see them. `NotADirectory`."""
        await self._make(self.full(path).rpartition("/")[0], path, operation)

    async def make_dir(self, path: str) -> None:
        self._folders.discard(self.full(path))
        await self._make(self.full(path), path, "mkdir")

    async def _make(self, name: str, path: str, operation: str) -> None:
        missing: list[str] = []
        at = name
        while "/" in at and at not in self._folders:
            if await self._is_folder(at, path, operation):
                break
            missing.append(at)
            at = at.rpartition("/")[0]
        for at in reversed(missing):
            request = self.request("POST", operation, path, "mkdir", name="/" + at)
            answer = await self.client.call(request, allow=(409,), repeat=True)
            if not answer.good and not await self._is_folder(at, path, operation):
                raise self.error(PermissionDenied, operation, path, f"cannot make the folder /{shown(at)}")
        self._folders.update(missing, (name,))

    async def _is_folder(self, name: str, path: str, operation: str) -> bool:
        found = await self._look(name, path, operation, {})
        if found is not None and found.kind in ("file", "other"):
            raise self.error(NotADirectory, operation, path, f"/{shown(name)} is a file")
        return found is not None

    async def remove_dir(self, path: str) -> None:
        found = await self.look(path, "rmdir", implicit=True)
        if found is None:
            return
        if found.kind != "dir":
            raise self.error(NotADirectory, "rmdir", path, "it is a file")
        # What the interface does to a folder with something in it is not documented, so it is not tried.
        request = self.request("GET", "rmdir", path, "dir", {"format": "xml", "encoding": "utf-8", "max_entries": 1})
        answer = await self.client.call(request, allow=(404,), repeat=True)
        if answer.good and self.client.xml(request, answer, "stat").items:
            raise self._not_empty(path)
        self._folders.discard(self.full(path))
        answer = await self.client.call(
            self.request("POST", "rmdir", path, "rmdir"), allow=(404, 409, 412), repeat=True
        )
        if not answer.good and answer.status != 404:
            raise self._not_empty(path)

    def _not_empty(self, path: str) -> Exception:
        return self.error(PermissionDenied, "rmdir", path, "the folder is not empty")


def _words(answer: Answer) -> str:
    words = " ".join(answer.body.decode("utf-8", "replace").split())[:200]
    return f": {shown(words)}" if words else ""
