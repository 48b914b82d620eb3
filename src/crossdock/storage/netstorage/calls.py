"""The actions that the verbs are made of, on names below the endpoint's root."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from crossdock.errors import AlreadyExists, NotADirectory, NotFound, PermissionDenied, shown
from crossdock.storage.base import Backend, Entry
from crossdock.storage.netstorage.client import Answer, Client, Request
from crossdock.storage.netstorage.settings import NetStorageSettings
from crossdock.storage.netstorage.wire import entry_of

__all__ = ["Calls"]


class Calls:
    """One CP code, below one folder; what is known of the folders there."""

    def __init__(self, client: Client, settings: NetStorageSettings, backend: Backend) -> None:
        self.client, self.settings, self.backend = client, settings, backend
        self.prefix = f"{settings.cp_code}/{settings.root}/" if settings.root else f"{settings.cp_code}/"
        self.folders: set[str] = set()
        """Whole names of folders known to be there; one that has gone since is made again by the upload itself."""

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
        items = (await self.client.xml(request, answer, "stat")).items
        if not items:
            raise self.client.violation(request, "an answer that describes nothing")
        return entry_of(path, items[0])

    # -- changing names -------------------------------------------------------------------------------------------

    async def remove(self, path: str) -> None:
        """Delete the file that has exactly this name, if there is one."""
        await self.client.call(self.request("POST", "delete", path, "delete"), allow=(404,), repeat=True)

    async def swap_rename(self, path: str, target: str) -> None:
        """One step of a swap. Raises `NotFound`, `AlreadyExists`."""
        source = await self.look(path, "rename")
        if source is None:
            raise self.backend.error(NotFound, "rename", path, "no such file")
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
                raise self.backend.error(NotFound, "rename", called or path, "it has gone", hint="run it again")
            raise self.backend.error(AlreadyExists, "rename", called or target, f"HTTP {answer.status}{_words(answer)}")

        await self.client.retry.run(once)

    async def _has_moved(self, path: str, target: str, source: Entry) -> bool:
        if await self.look(path, "rename") is not None:
            return False
        found = await self.look(target, "rename")
        return found is not None and found.fingerprint == source.fingerprint

    # -- folders --------------------------------------------------------------------------------------------------

    async def make_parents(self, path: str, operation: str) -> None:
        """Make the folders above, so that FTP and SFTP accounts of the same storage see them. `NotADirectory`."""
        await self.make_folders(self.full(path).rpartition("/")[0], path, operation)

    async def make_folders(self, name: str, path: str, operation: str) -> None:
        """Make the folder with this whole name and those above, unless they are known. `NotADirectory`."""
        missing: list[str] = []
        at = name
        while "/" in at and at not in self.folders:
            if await self._is_folder(at, path, operation):
                break
            missing.append(at)
            at = at.rpartition("/")[0]
        for at in reversed(missing):
            request = self.request("POST", operation, path, "mkdir", name="/" + at)
            answer = await self.client.call(request, allow=(409,), repeat=True)
            if not answer.good and not await self._is_folder(at, path, operation):
                raise self.backend.error(PermissionDenied, operation, path, f"cannot make the folder /{shown(at)}")
        self.folders.update(missing, (name,))

    async def _is_folder(self, name: str, path: str, operation: str) -> bool:
        found = await self._look(name, path, operation, {})
        if found is not None and found.kind in ("file", "other"):
            raise self.backend.error(NotADirectory, operation, path, f"/{shown(name)} is a file")
        return found is not None


def _words(answer: Answer) -> str:
    words = " ".join(answer.body.decode("utf-8", "replace").split())[:200]
    return f": {shown(words)}" if words else ""
