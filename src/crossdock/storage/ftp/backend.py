"""A folder on an FTP server as a storage backend."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from crossdock.errors import (
    AlreadyExists,
    ConnectionFailed,
    InvalidPath,
    NotAFile,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    StorageError,
    Truncated,
)
from crossdock.storage.base import Backend, Capabilities, Entry, Reader, WriteOptions, Writer
from crossdock.storage.ftp import asking, describing
from crossdock.storage.ftp.connection import Connection, Features
from crossdock.storage.ftp.faults import Translate, hint_for_permission
from crossdock.storage.ftp.listing import Listing
from crossdock.storage.ftp.pool import Pool, leave, pool_for
from crossdock.storage.ftp.reader import FtpReader
from crossdock.storage.ftp.tls import SessionRefused
from crossdock.storage.ftp.wire import Missing, Refused
from crossdock.storage.ftp.writer import FtpWriter
from crossdock.storage.staging import publish_by_swap, staged_path, token_of, undo_swap

if TYPE_CHECKING:
    from crossdock.storage.ftp.settings import FtpSettings

__all__ = ["FtpBackend"]

log = logging.getLogger("crossdock.storage.ftp")

T = TypeVar("T")
_MOST_NAME = 255
_UNDECODABLE = re.compile(r"[\udc80-\udcff]")
_ALTERED = re.compile(r"[\x00-\x1f\x7f]| (?=/|$)")


class FtpBackend(Backend):
    """Speaks FTP to one account below one folder. Connections come from the account's pool."""

    def __init__(self, settings: FtpSettings, endpoint: str) -> None:
        self.endpoint, self.settings = endpoint, settings
        self.features = Features()
        self.can_append = self._can_restart = True
        self.folders: set[bytes] = set()
        """Folders that have been seen, at a server that tells too late that one is missing."""
        self._pool: Pool | None = None
        self._base: bytes | None = None
        self._home = b"/"
        self.capabilities = self._capable()

    def _capable(self) -> Capabilities:
        staged = self.settings.staging == "rename"
        restarts = self._can_restart and (not self.features.known or "REST" in self.features)
        looks = self.settings.verify != "none"
        return Capabilities(
            rename=staged,
            directories=True,
            # Where a rename may not replace, the old file steps aside first, and a crash may leave none under the name.
            atomic_write=staged and self.features.replaces,
            read_offset=restarts,
            resume_write=staged and looks and restarts and self.can_append,
            digests=frozenset(self.features.digests) & {"sha256"} if self.settings.verify == "digest" else frozenset(),
            mtime_precision=timedelta(seconds=1) if self.features.sets_times else None,
            max_connections=self.settings.max_connections,
        )

    async def open(self) -> None:
        if self._pool is None:
            self._pool = pool_for(self.settings, self.endpoint)
        if self._base is not None:
            return
        connection = await self._pool.acquire()
        try:
            self.features = connection.features
            root = self._encoded(self.settings.root, "open", "")
            below = root.removeprefix(b"~").strip(b"/")
            self._home = connection.home
            home = connection.home.rstrip(b"/")
            self._base = root.rstrip(b"/") if root.startswith(b"/") else home + b"/" + below if below else home
            host, port = self.settings.address
            self.store = f"ftp:{self.settings.user}@{host.lower()}:{port}"
            self.capabilities = self._capable()
        finally:
            self._pool.release(connection)

    async def close(self) -> None:
        pool, self._pool, self._base = self._pool, None, None
        if pool is not None:
            await leave(self.settings, pool)

    def address(self, path: str) -> str:
        return self.full(path, "open").decode("utf-8", "surrogateescape")

    def cannot_append(self) -> None:
        """The server refused to go on with a file: from now on, each attempt starts anew."""
        self.can_append = False
        self.capabilities = self._capable()

    # -- for doctor -------------------------------------------------------------------------------------------------

    async def server(self) -> str:
        """What the server calls itself, how it is spoken to, and what it offers."""
        connection = await self.pool.acquire()
        try:
            return describing.server_of(connection)
        finally:
            self.pool.release(connection)

    async def remarks(self) -> list[tuple[str, str, str | None]]:
        """What works, but not as well as it could: (name, detail, remedy)."""
        connection = await self.pool.acquire()
        try:
            return list(describing.remarks(self.settings, connection))
        finally:
            self.pool.release(connection)

    # -- names ------------------------------------------------------------------------------------------------------

    def _encoded(self, path: str, operation: str, shown: str) -> bytes:
        if any(character in path for character in "\r\n\0"):
            # Each would end the command, and what follows be one of its own.
            raise self.error(InvalidPath, operation, shown, "FTP cannot carry a line break in a name")
        odd = None if self.features.verbatim else _ALTERED.search(path)
        if odd or (_UNDECODABLE.search(path) and not self.features.takes_bytes):
            raise self.error(InvalidPath, operation, shown, "the server might store the name under another one")
        try:
            found = path.encode(self.settings.encoding, "surrogateescape")
        except UnicodeEncodeError as error:
            raise self.error(
                InvalidPath, operation, shown, f"the name cannot be written in {self.settings.encoding}"
            ) from error
        if b"\xff" not in found:
            return found
        escape = self.features.telnet_escape
        if escape is None:
            raise self.error(InvalidPath, operation, shown, "not all servers take the byte 255 in a name alike")
        return found.replace(b"\xff", escape)

    def full(self, path: str, operation: str) -> bytes:
        """The path as the server knows it: absolute, so that no option or home folder is read into it."""
        base = self._base or b""
        return base + b"/" + self._encoded(path, operation, path) if path else base or b"/"

    # -- asking -----------------------------------------------------------------------------------------------------

    @property
    def pool(self) -> Pool:
        if self._pool is None:
            raise self.error(ProtocolViolation, "use", "", "the endpoint is not open")
        return self._pool

    def lost(self, operation: str, path: str, reason: str) -> StorageError:
        return self.error(ConnectionFailed, operation, path, reason, hint="it is tried again")

    async def call(self, operation: str, path: str, work: Callable[..., T], *arguments: object) -> T:
        """Call `work(connection, …)` in the thread of a connection."""
        with Translate(operation, self.endpoint, path):
            while True:
                connection = await self.pool.acquire()
                try:
                    return await connection.run(work, connection, *arguments)
                except SessionRefused:
                    if not self.pool.step_down(connection):
                        raise
                except Refused as error:
                    raise self.explained(error, operation, path) or error from error
                finally:
                    self.pool.release(connection)

    def explained(self, error: Refused, operation: str, path: str) -> StorageError | None:
        """What the refusal does not say and the name does."""
        longest = max(len(part.encode("utf-8", "surrogateescape")) for part in path.split("/"))
        if error.reply.code >= 500 and longest > _MOST_NAME:
            return self.error(InvalidPath, operation, path, f"a name of {longest} bytes ({error})")
        return None

    async def stat(self, path: str) -> Entry:
        found = await self.call("stat", path, asking.look, self.full(path, "stat"))
        if found is None and not path:
            raise self._no_root("stat", "the server knows nothing of it")
        if found is None:
            raise self.error(NotFound, "stat", path, "no such file or folder", hint="check the path and the root")
        return replace(found, path=path)

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        if recursive:
            raise self._unsupported("list recursively", path)
        listing = Listing(prefix=path + "/" if path else "", encoding=self.settings.encoding)
        try:
            try:
                await self.call("list", path, asking.list_folder, self.full(path, "list"), listing)
            except NotFound as error:
                if path:
                    raise
                raise self._no_root("list", str(error.reason)) from error
            while True:
                with Translate("list", self.endpoint, path):
                    page = listing.page()
                if not page:
                    return
                yield page if listing.tells_times else await self._timed(page, path)
        finally:
            listing.close()

    def _no_root(self, operation: str, reason: str) -> StorageError:
        if self._base in (b"", b"/", self._home):
            # It is there, since the sign-in leads to it.
            hint = hint_for_permission("LIST")
            return self.error(PermissionDenied, operation, "", f"the root may not be looked at: {reason}", hint=hint)
        root, home = (part.decode("utf-8", "backslashreplace") for part in (self._base or b"/", self._home))
        return self.error(
            NotFound,
            operation,
            "",
            f"no such folder: {root}",
            hint=f"the sign-in leads to {home}, and a server with a chroot (vsftpd chroot_local_user, ProFTPD "
            "DefaultRoot, Pure-FTPd -A) shows nothing above: write the endpoint's root as it is seen from there",
        )

    async def _timed(self, page: list[Entry], path: str) -> list[Entry]:
        """LIST tells times too coarsely to know a file again by: they are asked for."""
        files = [number for number, entry in enumerate(page) if entry.kind == "file"]
        if not files or (self.features.known and "MDTM" not in self.features):
            return page
        names = [self.full(page[number].path, "list") for number in files]
        found = await self.call("list", path, asking.times, names)
        for number, modified in zip(files, found, strict=True):
            page[number] = replace(page[number], modified=modified)
        return page

    # -- moving bytes -----------------------------------------------------------------------------------------------

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        reader = FtpReader(self, path, offset)
        try:
            await reader.open(pin)
        except BaseException as error:
            await reader.close()
            if isinstance(error.__cause__, Refused) and error.__cause__.command == "REST":
                self._can_restart = False
                self.capabilities = self._capable()
                raise Truncated(
                    f"read {self.endpoint}:{path!r}: the server does not go on at byte {offset} ({error.__cause__})",
                    hint="it is tried again from the start",
                ) from error
            raise
        return reader

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        writer = FtpWriter(self, path, options)
        if options.resume is not None:
            await writer.reopen()
        return writer

    async def discard(self, checkpoint: bytes) -> None:
        if not self.capabilities.resume_write:
            raise self._unsupported("discard", "")
        await self._remove(staged_path(checkpoint), "discard")
        if not self.features.replaces:
            await undo_swap(self.rename, self.delete, checkpoint)

    def leftover(self, path: str, attempt: str) -> bytes | None:
        return token_of(path, attempt) if self.capabilities.resume_write else None

    async def is_staged(self, checkpoint: bytes) -> bool | None:
        try:
            await self.stat(staged_path(checkpoint))
        except NotFound:
            return False
        return True

    # -- changing names ---------------------------------------------------------------------------------------------

    async def delete(self, path: str) -> None:
        await self._remove(path, "delete")

    async def _remove(self, path: str, operation: str) -> None:
        await self.call(operation, path, asking.remove, self.full(path, operation))

    async def rename(self, path: str, target: str, *, overwrite: bool = False) -> None:
        if not self.capabilities.rename:
            raise self._unsupported("rename", path)
        old, new = self.full(path, "rename"), self.full(target, "rename")
        there = await self.call("rename", path, self._ready, old, new)
        if there == "dir":
            raise self.error(NotAFile, "rename", target, "a folder has this name")
        if there is not None and not overwrite:
            raise self.error(AlreadyExists, "rename", target, "the file exists")
        try:
            await self.call("rename", target, asking.move, old, new)
        except StorageError as error:
            if there is None or error.retryable:
                raise

            async def step(one: str, other: str) -> None:
                await self.call("rename", one, asking.move, self.full(one, "rename"), self.full(other, "rename"))

            await publish_by_swap(step, self.delete, path, target, "0" * 12)

    def _ready(self, connection: Connection, old: bytes, new: bytes) -> str | None:
        """What stands under the new name; the folders above it are there."""
        if asking.look(connection, old) is None:
            raise Missing("no such file")
        there = asking.kind_of(connection, new)
        if there is None:
            asking.make_folders(connection, new.rpartition(b"/")[0])
        return there

    async def make_dir(self, path: str) -> None:
        await self.call("mkdir", path, asking.make_folders, self.full(path, "mkdir"))

    async def remove_dir(self, path: str) -> None:
        await self.call("rmdir", path, asking.remove_folder, self.full(path, "rmdir"))
