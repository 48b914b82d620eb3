"""A folder on an FTP server as a storage backend."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncGenerator
from dataclasses import replace

from crossdock.errors import AlreadyExists, NotAFile, NotFound, StorageError, Truncated, Unsupported
from crossdock.storage.base import Backend, Entry, Reader, WriteOptions, Writer
from crossdock.storage.ftp import asking, changing, describing, listing, stamps
from crossdock.storage.ftp.calls import Calls
from crossdock.storage.ftp.connection import Connection
from crossdock.storage.ftp.faults import Translate
from crossdock.storage.ftp.reader import FtpReader
from crossdock.storage.ftp.settings import FtpSettings
from crossdock.storage.ftp.wire import Missing, Refused
from crossdock.storage.ftp.writer import FtpWriter
from crossdock.storage.staging import publish_by_swap, staged_path, still_staged, token_of, undo_swap

__all__ = ["FtpBackend"]

_RESTART = re.compile(r"REST: |restart (?:is )?not", re.IGNORECASE)
"""ProFTPD with AllowRetrieveRestart off agrees to REST, and refuses RETR: "451 Restart not permitted, try again"."""


class FtpBackend(Backend):
    """Speaks FTP to one account below one folder. Connections come from the account's pool."""

    def __init__(self, settings: FtpSettings, endpoint: str) -> None:
        self.endpoint, self.settings = endpoint, settings
        self.calls = Calls(settings, self)
        self.capabilities = self.calls.capable()

    async def open(self) -> None:
        calls = self.calls
        calls.join()
        if calls.base is not None:
            return
        connection = await calls.pool.acquire()
        try:
            calls.features = connection.features
            root = calls.encoded(self.settings.root, "open", "")
            below = root.removeprefix(b"~").strip(b"/")
            calls.home = connection.home
            home = connection.home.rstrip(b"/")
            calls.base = root.rstrip(b"/") if root.startswith(b"/") else home + b"/" + below if below else home
            if not root.startswith(b"/") and home.startswith(b"/'"):
                reason = f"the sign-in leads to data sets, of z/OS: {home[1:].decode(errors='replace')}"
                hint = "write as root a folder of its Unix file system, such as /u/acme"
                raise self.error(Unsupported, "open", "", reason, hint=hint)
            if self.settings.verify != "none":
                with Translate("open", self.endpoint, ""):
                    if await connection.run(stamps.lacks_times, connection, calls.base):
                        calls.cannot_stamp()
            host, port = self.settings.address
            self.store = f"ftp:{self.settings.user}@{host.lower()}:{port}"
            self.capabilities = calls.capable()
        except BaseException:
            calls.base = None
            raise
        finally:
            calls.pool.release(connection)

    async def close(self) -> None:
        self.calls.base = None
        await self.calls.leave()

    def address(self, path: str) -> str:
        return self.calls.full(path, "open").decode("utf-8", "surrogateescape")

    async def prove_times(self, entry: Entry) -> None:
        calls = self.calls
        if not calls.can_stamp or entry.modified is None:
            return
        name = calls.full(entry.path, "ask")
        for _ in range(2):  # The first may have been cut off by chance.
            if await calls.call("ask", entry.path, stamps.survives, name, entry.modified):
                return
        calls.lost_at_stamp()

    # -- for doctor -------------------------------------------------------------------------------------------------

    async def server(self) -> str:
        """What the server calls itself, how it is spoken to, and what it offers."""
        connection = await self.calls.pool.acquire()
        try:
            return describing.server_of(connection)
        finally:
            self.calls.pool.release(connection)

    async def remarks(self) -> list[tuple[str, str, str | None]]:
        """What works, but not as well as it could: (name, detail, remedy)."""

        def ask(connection: Connection) -> list[tuple[str, str, str | None]]:
            return list(describing.remarks(self.settings, connection))

        return await self.calls.call("connect", "", ask)

    # -- asking -----------------------------------------------------------------------------------------------------

    async def stat(self, path: str) -> Entry:
        found = await self.calls.call("stat", path, asking.look, self.calls.full(path, "stat"))
        if found is None and not path:
            raise self.calls.no_root("stat", "the server knows nothing of it")
        if found is None:
            raise self.error(NotFound, "stat", path, "no such file or folder", hint="check the path and the root")
        return replace(found, path=path)

    def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        if recursive:
            raise self._unsupported("list recursively", path)
        return listing.scan(self.calls, path)

    # -- moving bytes -----------------------------------------------------------------------------------------------

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        reader = FtpReader(self.calls, path, offset)
        try:
            await reader.open(pin)
        except BaseException as error:
            await reader.close()
            if offset and isinstance(error.__cause__, Refused) and _RESTART.search(str(error.__cause__)):
                self.calls.cannot_restart()
                reason = f"the server does not go on at byte {offset} ({error.__cause__})"
                hint = "it is tried again from the start"
                raise Truncated.at("read", self.endpoint, path, reason, hint=hint) from error
            raise
        return reader

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        writer = FtpWriter(self.calls, path, options)
        if options.resume is not None:
            await writer.reopen()
        return writer

    async def discard(self, checkpoint: bytes) -> None:
        # Whether it may be resumed, or might once, is another matter.
        if self.settings.staging == "none" or "attempt" not in json.loads(checkpoint):
            raise self._unsupported("discard", "")
        staged = staged_path(checkpoint)
        await self.calls.call("discard", staged, changing.remove, self.calls.full(staged, "discard"))
        if not self.calls.features.replaces:
            await undo_swap(self.rename, self.delete, checkpoint)

    def leftover(self, path: str, attempt: str) -> bytes | None:
        return token_of(path, attempt) if self.settings.staging == "rename" and self.settings.verify != "none" else None

    async def is_staged(self, checkpoint: bytes) -> bool | None:
        # vsftpd (delete_failed_uploads), ProFTPD (DeleteAbortedStores) and others remove an upload that broke off.
        return await still_staged(self, checkpoint) or None

    # -- changing names ---------------------------------------------------------------------------------------------

    async def delete(self, path: str) -> None:
        await self.calls.call("delete", path, changing.remove, self.calls.full(path, "delete"))

    async def rename(self, path: str, target: str, *, overwrite: bool = False) -> None:
        if not self.capabilities.rename:
            raise self._unsupported("rename", path)
        old, new = self.calls.full(path, "rename"), self.calls.full(target, "rename")
        was, there = await self.calls.call("rename", path, self._ready, old, new)
        if there == "dir":
            raise self.error(NotAFile, "rename", target, "a folder has this name")
        if there is not None and not overwrite:
            raise self.error(AlreadyExists, "rename", target, "the file exists")
        try:
            if not await self.calls.call("rename", target, self._move, old, new, was, there):
                raise self.error(NotFound, "rename", path, "somebody else has moved or removed it")
        except StorageError as error:
            if there is None or error.retryable or isinstance(error, NotFound):
                raise

            async def step(one: str, other: str) -> None:
                await self.calls.call(
                    "rename",
                    one,
                    changing.move_beside,
                    self.calls.full(one, "rename"),
                    self.calls.full(other, "rename"),
                )

            await publish_by_swap(step, self.delete, path, target, secrets.token_hex(6))

    def _ready(self, connection: Connection, old: bytes, new: bytes) -> tuple[Entry, str | None]:
        """What is to be moved, and what stands under the new name; the folders above it are there."""
        was = asking.look(connection, old)
        if was is None:
            raise Missing("no such file")
        there = asking.kind_of(connection, new)
        if there is None:
            changing.make_folders(connection, new.rpartition(b"/")[0])
        return was, there

    def _move(self, connection: Connection, old: bytes, new: bytes, was: Entry, there: str | None) -> bool:
        """False: it is gone since `_ready` saw it, which vsftpd tells in the words of what is not permitted."""
        try:
            changing.move(connection, old, new, was=was, free=there is None)
        except Refused as error:
            if error.command != "RNFR" or asking.look(connection, old) is not None:
                raise
            return False
        return True

    async def make_dir(self, path: str) -> None:
        await self.calls.call("mkdir", path, changing.make_folders, self.calls.full(path, "mkdir"))

    async def remove_dir(self, path: str) -> None:
        await self.calls.call("rmdir", path, changing.remove_folder, self.calls.full(path, "rmdir"))
