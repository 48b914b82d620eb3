"""A folder on an SFTP server as a storage backend."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from crossdock.errors import (
    AlreadyExists,
    InvalidPath,
    NotADirectory,
    NotAFile,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    StorageError,
)
from crossdock.storage.base import Backend, Capabilities, Entry, Kind, Reader, WriteOptions, Writer
from crossdock.storage.sftp import codec
from crossdock.storage.sftp.codec import Attrs, Violation, parse_name, text
from crossdock.storage.sftp.faults import Translate, hint_for
from crossdock.storage.sftp.listing import MISSING, kind_of_mode, listed
from crossdock.storage.sftp.pool import Pool, leave, pool_for
from crossdock.storage.sftp.reader import open_reader
from crossdock.storage.sftp.reasons import below_file, explain, lacks_folder, not_moved, refused
from crossdock.storage.sftp.wire import Session, Status, checked
from crossdock.storage.sftp.writer import SftpWriter
from crossdock.storage.staging import publish_by_swap, staged_path, token_of, undo_swap

if TYPE_CHECKING:
    from asyncio import Future

    from crossdock.storage.sftp.settings import SftpSettings
    from crossdock.storage.sftp.wire import Reply

__all__ = ["SftpBackend"]

log = logging.getLogger("crossdock.storage.sftp")

_POSIX_RENAME, _HARDLINK = b"posix-rename@openssh.com", b"hardlink@openssh.com"
_OPENSSH_OWN = frozenset((b"fsync@openssh.com", b"fstatvfs@openssh.com", _HARDLINK))
_LISTS_AHEAD = 4
_EMPTY_REPLIES = 16


class SftpBackend(Backend):
    """Speaks SFTP to one account below one folder. Connections come from the account's pool."""

    def __init__(self, settings: SftpSettings, endpoint: str) -> None:
        self.endpoint, self.settings = endpoint, settings
        self.posix_rename = self._hardlink = False
        self.openssh = False
        """Answered by OpenSSH's own SFTP server; what others take for a file or a folder is looked at first."""
        self._pool: Pool | None = None
        self._base: bytes | None = None
        self.capabilities = self._capable()

    def _capable(self) -> Capabilities:
        staged = self.settings.staging == "rename"
        looks = self.settings.verify == "size"
        return Capabilities(
            rename=True,
            directories=True,
            # Without it the old file steps aside first, and a crash may leave none under the name.
            atomic_write=staged and self.posix_rename,
            create_new=not staged or self.openssh or self._hardlink,
            read_offset=True,
            resume_write=staged and looks,
            mtime_precision=timedelta(seconds=1),
            max_connections=self.settings.max_connections,
            streams_per_connection=self.settings.streams_per_connection,
        )

    async def open(self) -> None:
        if self._pool is None:
            self._pool = pool_for(self.settings, self.endpoint)
        if self._base is not None:
            return
        connection = await self._pool.acquire()
        try:
            session = connection.session
            with Translate("open", self.endpoint, ""):
                self._base = await self._root(session)
            self.posix_rename = _POSIX_RENAME in session.extensions
            self._hardlink = _HARDLINK in session.extensions
            # OpenSSH renames by link(2), which cannot replace; what others do is not known, behind its sshd as well.
            self.openssh = "OpenSSH" in connection.server and session.extensions.keys() >= _OPENSSH_OWN
            if not self.openssh:
                for name in await refused(session, self._base or b"", (_POSIX_RENAME, _HARDLINK)):
                    self.posix_rename = self.posix_rename and name != _POSIX_RENAME
                    self._hardlink = self._hardlink and name != _HARDLINK
            host = self.settings.host.lower()
            self.store = f"sftp:{self.settings.user}@{host}:{self.settings.port or 22}"
            self.capabilities = self._capable()
        finally:
            self._pool.release(connection)

    async def _root(self, session: Session) -> bytes:
        root = self._encoded(self.settings.root, "open", "")
        if root.startswith(b"/"):
            return root.rstrip(b"/")
        below = root.removeprefix(b"~").strip(b"/")
        try:
            home = parse_name(checked(await session.request(codec.REALPATH, text(b".")), codec.NAME)).rstrip(b"/")
        except Status:
            home = b"."
        return home + b"/" + below if below else home

    async def close(self) -> None:
        pool, self._pool, self._base = self._pool, None, None
        if pool is not None:
            await leave(self.settings, pool)

    def address(self, path: str) -> str:
        return self.full(path, "open").decode("utf-8", "surrogateescape")

    # -- names ----------------------------------------------------------------------------------------------------

    def _encoded(self, path: str, operation: str, shown: str) -> bytes:
        try:
            return path.encode(self.settings.encoding, "surrogateescape")
        except UnicodeEncodeError as error:
            raise self.error(
                InvalidPath, operation, shown, f"the name cannot be written in {self.settings.encoding}"
            ) from error

    def full(self, path: str, operation: str) -> bytes:
        """The path as the server knows it."""
        base = self._base or b""
        return base + b"/" + self._encoded(path, operation, path) if path else base or b"/"

    def entry(self, path: str, attrs: Attrs, kind: Kind | None = None) -> Entry:
        found = kind or kind_of_mode(attrs.permissions) or "file"
        modified = None if attrs.modified is None else datetime.fromtimestamp(attrs.modified, UTC)
        return Entry(path=path, kind=found, size=attrs.size if found == "file" else None, modified=modified)

    # -- asking ---------------------------------------------------------------------------------------------------

    @property
    def pool(self) -> Pool:
        if self._pool is None:
            raise self.error(ProtocolViolation, "use", "", "the endpoint is not open")
        return self._pool

    async def stat(self, path: str) -> Entry:
        connection = await self.pool.acquire()
        try:
            with Translate("stat", self.endpoint, path):
                asked = codec.STAT if self.settings.links == "follow" or not path else codec.LSTAT
                name = self.full(path, "stat")
                try:
                    return self.entry(path, await connection.session.attrs(asked, text(name)))
                except Status as error:
                    if error.code == codec.FAILURE and await below_file(self, connection.session, name):
                        raise self.error(NotFound, "stat", path, "no such file", hint=hint_for(NotFound)) from error
                    raise
        finally:
            self.pool.release(connection)

    async def kind_of(self, session: Session, name: bytes) -> Kind | None:
        """What a name is; None if there is no such thing."""
        try:
            attrs = await session.attrs(codec.LSTAT, text(name))
        except Status as error:
            if error.code in MISSING:
                return None
            raise
        return kind_of_mode(attrs.permissions) or "file"

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        if recursive:
            raise self._unsupported("list recursively", path)
        connection = await self.pool.acquire()
        session = connection.session
        try:
            with Translate("list", self.endpoint, path):
                handle = await self._open_folder(session, path)
        finally:
            # The handle stays, the right to the connection does not: nothing is held between two pages.
            self.pool.release(connection)
        queue: deque[Future[Reply]] = deque()
        prefix = path + "/" if path else ""
        empty = 0
        try:
            while True:
                with Translate("list", self.endpoint, path):
                    while len(queue) < _LISTS_AHEAD:
                        queue.append(session.request(codec.READDIR, handle))
                    try:
                        found = codec.names(checked(await queue.popleft(), codec.NAME))
                    except Status as error:
                        if error.code == codec.EOF:
                            return
                        raise await self._no_folder(session, path, error) from error
                    empty = 0 if found else empty + 1
                    if empty > _EMPTY_REPLIES:
                        raise Violation("a listing that does not end and names nothing")
                    page = await listed(self, session, prefix, found)
                yield page
        finally:
            for future in queue:
                future.cancel()
            self.close_quietly(session, handle, path)

    async def _open_folder(self, session: Session, path: str) -> bytes:
        try:
            return await session.open_folder(self.full(path, "list"))
        except Status as error:
            raise await self._no_folder(session, path, error) from error

    async def _no_folder(self, session: Session, path: str, error: Status) -> Exception:
        """OpenSSH says "no such file" of what is no folder, others "failure", and some only when its names are read."""
        asked = error.code in (*MISSING, codec.FAILURE)
        if asked and await self.kind_of(session, self.full(path, "list")) in ("file", "other"):
            return self.error(NotADirectory, "list", path, "it is no folder")
        return error

    # -- moving bytes ---------------------------------------------------------------------------------------------

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        return await open_reader(self, self.pool, path, offset, pin)

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        writer = SftpWriter(self, self.pool, path, options)
        if options.resume is not None:
            await writer.reopen()
        return writer

    async def discard(self, checkpoint: bytes) -> None:
        await self._remove(staged_path(checkpoint), "discard")
        if not self.posix_rename:
            await undo_swap(self.rename, self.delete, checkpoint)

    def leftover(self, path: str, attempt: str) -> bytes | None:
        return token_of(path, attempt) if self.capabilities.resume_write else None

    async def is_staged(self, checkpoint: bytes) -> bool | None:
        try:
            await self.stat(staged_path(checkpoint))
        except NotFound:
            return False
        return True

    # -- changing names -------------------------------------------------------------------------------------------

    async def delete(self, path: str) -> None:
        await self._remove(path, "delete")

    async def _remove(self, path: str, operation: str) -> None:
        connection = await self.pool.acquire()
        session, name = connection.session, self.full(path, operation)
        try:
            with Translate(operation, self.endpoint, path):
                try:
                    await session.status(codec.REMOVE, text(name))
                except Status as error:
                    if error.code in MISSING:
                        return
                    raise await self.explain(session, operation, path, error) from error
        finally:
            self.pool.release(connection)

    async def rename(self, path: str, target: str, *, overwrite: bool = False) -> None:
        connection = await self.pool.acquire()
        session = connection.session
        old, new = self.full(path, "rename"), self.full(target, "rename")
        try:
            with Translate("rename", self.endpoint, path):
                if await self.kind_of(session, old) is None:
                    raise self.error(NotFound, "rename", path, "no such file", hint=hint_for(NotFound))
                if overwrite and not self.posix_rename:
                    await self._swap(session, path, target)
                    return
                try:
                    await self.move(session, old, new, target, overwrite=overwrite)
                except NotFound:
                    await self.make_parents(session, target, "rename")
                    await self.move(session, old, new, target, overwrite=overwrite)
        finally:
            self.pool.release(connection)

    async def _swap(self, session: Session, path: str, target: str) -> None:
        async def rename(old: str, new: str) -> None:
            with Translate("rename", self.endpoint, old):
                await session.status(codec.RENAME, text(self.full(old, "rename")), text(self.full(new, "rename")))

        if await self.kind_of(session, self.full(target, "rename")) == "dir":
            raise self.error(NotAFile, "rename", target, "a folder has this name")
        await self.make_parents(session, target, "rename")
        await publish_by_swap(rename, self.delete, path, target, "0" * 12)

    async def move(
        self, session: Session, old: bytes, new: bytes, shown: str, *, overwrite: bool, operation: str = "rename"
    ) -> None:
        """One rename. Raises `AlreadyExists`, `NotAFile`; `NotFound` if `old` or the folder of `new` is missing."""
        try:
            if overwrite:
                if not self.openssh and operation != "write" and await self.kind_of(session, new) == "dir":
                    raise self.error(NotAFile, operation, shown, "a folder has this name")
                checked(await session.extended(_POSIX_RENAME, text(old), text(new)), codec.STATUS)
            elif self.openssh or not self._hardlink:
                if not self.openssh and await self.kind_of(session, new) is not None:
                    raise self.error(AlreadyExists, operation, shown, "the file exists")
                await session.status(codec.RENAME, text(old), text(new))
            else:
                checked(await session.extended(_HARDLINK, text(old), text(new)), codec.STATUS)
                await session.status(codec.REMOVE, text(old))
        except Status as error:
            raise await not_moved(self, session, operation, shown, error, overwrite=overwrite) from error

    async def make_parents(self, session: Session, path: str, operation: str) -> None:
        """Make the folders above `path`, from the lowest that is missing. Raises `NotADirectory`."""
        await self._make(session, self.full(path, operation).rpartition(b"/")[0], path, operation)

    async def _make(self, session: Session, folder: bytes, path: str, operation: str) -> None:
        missing: list[bytes] = []
        while folder:
            try:
                await session.status(codec.MKDIR, text(folder), codec.NO_ATTRS)
            except Status as error:
                if b"/" in folder and await lacks_folder(self, session, folder, error):
                    missing.append(folder)
                    folder = folder.rpartition(b"/")[0]
                    continue
                await self._must_be_folder(session, folder, path, operation, error)
            if not missing:
                return
            folder = missing.pop()

    async def _must_be_folder(self, session: Session, folder: bytes, path: str, operation: str, error: Status) -> None:
        """Made by somebody else meanwhile is as good as made."""
        try:
            attrs = await session.attrs(codec.STAT, text(folder))
        except Status:
            above = await below_file(self, session, folder)
            if above:
                raise self.error(NotADirectory, operation, path, f"{above!r} is a file") from error
            raise error from None
        if kind_of_mode(attrs.permissions) not in ("dir", None):
            raise self.error(NotADirectory, operation, path, f"{folder.decode(errors='replace')!r} is a file")

    async def make_dir(self, path: str) -> None:
        connection = await self.pool.acquire()
        try:
            with Translate("mkdir", self.endpoint, path):
                await self._make(connection.session, self.full(path, "mkdir"), path, "mkdir")
        finally:
            self.pool.release(connection)

    async def remove_dir(self, path: str) -> None:
        connection = await self.pool.acquire()
        session, name = connection.session, self.full(path, "rmdir")
        try:
            with Translate("rmdir", self.endpoint, path):
                if not self.openssh and await self.kind_of(session, name) not in ("dir", None):
                    raise self.error(NotADirectory, "rmdir", path, "it is a file")
                try:
                    await session.status(codec.RMDIR, text(name))
                except Status as error:
                    kind = await self.kind_of(session, name)
                    if kind is None:
                        return
                    if kind != "dir":
                        raise self.error(NotADirectory, "rmdir", path, "it is a file") from error
                    if error.code == codec.FAILURE:
                        raise self.error(PermissionDenied, "rmdir", path, "the folder is not empty") from error
                    raise
        finally:
            self.pool.release(connection)

    # -- what went wrong ------------------------------------------------------------------------------------------

    def close_quietly(self, session: Session, handle: bytes, path: str) -> None:
        """Close a handle whose fate no longer matters."""

        def note(future: Future[Reply]) -> None:
            if not future.cancelled() and future.exception() is None:
                kind, payload = future.result()
                if kind == codec.STATUS and codec.parse_status(payload)[0] != codec.OK:
                    log.info("closing %s:%r: %s", self.endpoint, path, codec.parse_status(payload))

        if session.alive:
            session.request(codec.CLOSE, handle).add_done_callback(note)

    async def explain(
        self, session: Session, operation: str, path: str, error: Status, *, creates: bool = False
    ) -> StorageError:
        return await explain(self, session, operation, path, error, creates=creates)
