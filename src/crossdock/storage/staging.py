"""Temporary name, then rename: how local, SFTP, FTP and NetStorage publish a file in one step.

`StagedWriter` holds the order of things (count → seal → verify → publish → clean up); a backend supplies the four
primitives. The temporary lies in the target's own folder, so that the rename stays within one file system; its name
carries a digest of the final name and the attempt's own random id, so that no attempt can touch another's file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from crossdock.errors import AlreadyExists, CrossdockError, IntegrityError, NotFound, StorageError, Unsupported
from crossdock.storage.base import Backend, Entry, Expect, WriteOptions, Writer
from crossdock.storage.waiting import to_its_end

__all__ = [
    "TEMPORARY_MARK",
    "StagedWriter",
    "Stored",
    "is_temporary",
    "lasts",
    "publish_by_swap",
    "staged_path",
    "still_staged",
    "taken",
    "temporary_path",
    "token_of",
    "undo_swap",
]

log = logging.getLogger("crossdock.storage")

# 38 bytes: fits every file system's limit of 255 whatever the length of the final name.
TEMPORARY_MARK = ".crossdock-"
"""In every temporary's path; to look for it is cheaper than to ask `is_temporary`."""
# Two characters more: an FTP server is asked with one letter what it makes of those beyond ASCII.
_TEMPORARY = re.compile(r"\.crossdock-[0-9a-f]{8}-[0-9a-f]{12}\.(?:part.{0,2}|old)", re.DOTALL)


def temporary_path(path: str, attempt: str, suffix: str = "part") -> str:
    """Where an attempt (12 hex digits) stages `path`: a sibling, hidden, unique to both."""
    folder, slash, name = path.rpartition("/")
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{folder}{slash}.crossdock-{digest}-{attempt}.{suffix}"


def is_temporary(path: str) -> bool:
    """True for the names that `temporary_path` makes."""
    return TEMPORARY_MARK in path and _TEMPORARY.fullmatch(path.rpartition("/")[2]) is not None


@dataclass(frozen=True, slots=True)
class Stored:
    """What the endpoint says about a sealed temporary; None: it may not be asked (write-only drop box)."""

    size: int | None
    entry: Entry | None = None
    """The file as it will be listed under its final name."""


class StagedWriter(Writer):
    """A `Writer` over a temporary. Subclasses implement `_append`, `_seal`, `_publish`, `_remove` and `_let_go`."""

    def __init__(self, endpoint: str, path: str, options: WriteOptions) -> None:
        self.endpoint, self.path, self.options = endpoint, path, options
        if options.resume is None:
            self.attempt = options.attempt or secrets.token_hex(6)
        else:
            token = json.loads(options.resume)
            self.attempt, self.offset = str(token["attempt"]), int(token["offset"])
        self.temporary = temporary_path(path, self.attempt)
        self.size = self.offset
        self._sealed: Stored | None = None
        self._ended = False

    @abstractmethod
    async def _append(self, data: bytes) -> None:
        """Add bytes at the end of the temporary, making it first if need be."""

    @abstractmethod
    async def _seal(self) -> Stored:
        """Flush to the disk, set the modification time, close; then say what is stored."""

    @abstractmethod
    async def _publish(self, stored: Stored) -> Entry:
        """Give the temporary its final name, in one step where the endpoint can."""

    @abstractmethod
    async def _remove(self) -> None:
        """Close and remove the temporary, if there is one. Raises why it cannot be reached."""

    async def _let_go(self) -> None:
        """Close the temporary but keep it."""

    async def _keep(self) -> None:
        """Let go of what another attempt is to build on."""
        await self._let_go()

    async def write(self, data: bytes) -> None:
        self._check()
        if self._sealed is not None:
            raise RuntimeError("the writer is sealed")
        await self._append(data)
        self.size += len(data)

    def _check(self) -> None:
        if self._ended:
            raise RuntimeError("the writer has ended")

    async def seal(self, expect: Expect) -> bytes | None:
        await self._verified(expect)
        return token_of(self.path, self.attempt, self.size) if is_temporary(self.temporary) else None

    async def _verified(self, expect: Expect) -> Stored:
        self._check()
        for declared in (expect.size, self.options.size):
            if declared is not None and declared != self.size:
                raise self._mismatch(f"{self.size} bytes were written, {declared} expected")
        if self._sealed is None:
            stored = await self._seal()
            if stored.size is not None and stored.size != self.size:
                raise self._mismatch(f"{self.size} bytes were written, the endpoint holds {stored.size}")
            self._sealed = stored
        return self._sealed

    async def commit(self, expect: Expect) -> Entry:
        entry = await self._publish(await self._verified(expect))
        self._ended = True
        return entry

    async def abort(self) -> None:
        """If the caller is cancelled, that is heard once it is done: nobody else would remove the temporary."""
        if self._ended:
            return
        try:
            await to_its_end(self._remove())
        except CrossdockError as error:
            log.warning("%s:%r may be left behind: %s", self.endpoint, self.temporary, error)
            self.left = error
        self._ended = True

    def checkpoint(self) -> bytes | None:
        safe = self._safe_size()
        if self._ended or not safe:
            return None
        return token_of(self.path, self.attempt, safe)

    def _safe_size(self) -> int:
        """How many bytes the endpoint has acknowledged; 0: nothing to resume from."""
        return 0

    async def suspend(self) -> None:
        if self.checkpoint() is None:
            await self.abort()
        elif not self._ended:
            await self._keep()
            self._ended = True

    async def leave(self) -> None:
        if not self._ended:
            self._ended = True
            await self._let_go()

    def _mismatch(self, reason: str) -> IntegrityError:
        reason = f"{reason}; nothing was published"
        return IntegrityError.at("write", self.endpoint, self.path, reason, hint="run it again")


def token_of(path: str, attempt: str, offset: int = 0, **more: str) -> bytes:
    """What `Backend.discard` and `WriteOptions.resume` take. `more`: what a backend's own `is_staged` looks for."""
    return json.dumps({"path": path, "attempt": attempt, "offset": offset, **more}).encode()


def staged_path(checkpoint: bytes) -> str:
    """The temporary that a `StagedWriter.checkpoint()` names."""
    token = json.loads(checkpoint)
    return temporary_path(str(token["path"]), str(token["attempt"]))


async def still_staged(backend: Backend, checkpoint: bytes) -> bool | None:
    """`Backend.is_staged`, where a temporary can be looked at by its name as soon as it is begun."""
    path = staged_path(checkpoint)
    try:
        await backend.stat(path)
    except NotFound:
        try:
            await backend.stat(path.rpartition("/")[0])
        except NotFound:
            # With its folder: a mount may be missing.
            return None
        return False
    return True


def lasts(wanted: datetime | None, found: datetime | None) -> bool:
    """Whether a time that a server agreed to set may have been set: FAT rounds to 2 seconds, and not all tell it."""
    return wanted is None or found is None or abs(wanted - found) <= timedelta(seconds=2)


def taken(backend: Backend, written: str, path: str) -> StorageError:
    """Of a file that was closed, and is gone: drop boxes take it at once, IBM Sterling's mailboxes among them."""
    name = "" if written == path else f" (as {written!r})"
    reason = f"what was sent is gone since it was closed{name}: the server takes files at once, or hides them"
    hint = "ask its operator whether it arrived; then write verify: none at this endpoint"
    if written != path:
        hint += ", and staging: none where files are taken at once"
    return backend.error(Unsupported, "write", path, reason, hint=hint)


async def publish_by_swap(
    rename: Callable[[str, str], Awaitable[None]],
    remove: Callable[[str], Awaitable[None]],
    temporary: str,
    path: str,
    attempt: str,
) -> None:
    """Replace `path` where the endpoint cannot rename over an existing file.

    The old file steps aside and comes back if the new one cannot take its place; for a moment there is no file under
    the final name, but never a partial one. `rename(old, new)` must fail if `new` exists, and after a connection has
    broken it is to use another.
    If the caller is cancelled, that is heard once it is done: half of it would leave no file under the name.
    """
    aside = temporary_path(path, attempt, "old")

    async def swap() -> None:
        try:
            with suppress(NotFound):
                await rename(path, aside)
            await rename(temporary, path)
        except StorageError:
            # Also after the first step: it may have been done, and its answer lost.
            await put_back()
            raise
        try:
            await remove(aside)
        except StorageError as error:
            if error.retryable:
                raise
            # It is published: as a failure, it would be sent again each time.
            log.warning("the file that was %r stays at %r: %s", path, aside, error)

    async def put_back() -> None:
        try:
            await rename(aside, path)
        except (AlreadyExists, NotFound):
            return
        except StorageError as error:
            log.warning("the file that was %r may lie at %r: %s", path, aside, error)

    await to_its_end(swap())


async def undo_swap(
    rename: Callable[[str, str], Awaitable[None]], remove: Callable[[str], Awaitable[None]], checkpoint: bytes
) -> None:
    """Mend a swap that a killed attempt left half done: the old file comes back, unless the new one took its place."""
    token = json.loads(checkpoint)
    path = str(token["path"])
    aside = temporary_path(path, str(token["attempt"]), "old")
    try:
        await rename(aside, path)
    except NotFound:
        return
    except AlreadyExists:
        await remove(aside)
