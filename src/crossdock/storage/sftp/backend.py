"""A folder on an SFTP server as a storage backend."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import timedelta

from crossdock.errors import NotADirectory, NotFound, PermissionDenied
from crossdock.storage.base import SECONDS_32, Backend, Capabilities, Entry, Reader, WriteOptions, Writer
from crossdock.storage.sftp import codec, listing
from crossdock.storage.sftp.calls import Calls, entry_of, kind_of, kind_told, means_missing
from crossdock.storage.sftp.changing import HARDLINK, POSIX_RENAME, make_folders, make_parents, move, remove, replaced
from crossdock.storage.sftp.codec import parse_name, text
from crossdock.storage.sftp.disks import identity
from crossdock.storage.sftp.faults import Translate, hint_for
from crossdock.storage.sftp.reader import open_reader
from crossdock.storage.sftp.reasons import below_file, lacks_times, refused
from crossdock.storage.sftp.settings import SftpSettings
from crossdock.storage.sftp.wire import Session, Status, checked
from crossdock.storage.sftp.writer import SftpWriter
from crossdock.storage.staging import staged_path, still_staged, token_of, undo_swap

__all__ = ["SftpBackend"]

_OPENSSH_OWN = frozenset((b"fsync@openssh.com", b"fstatvfs@openssh.com", HARDLINK))


class SftpBackend(Backend):
    """Speaks SFTP to one account below one folder. Connections come from the account's pool."""

    def __init__(self, settings: SftpSettings, endpoint: str) -> None:
        self.endpoint, self.settings = endpoint, settings
        self.calls = Calls(settings, self)
        self.capabilities = self._capable()

    def _capable(self) -> Capabilities:
        staged = self.settings.staging == "rename"
        looks = self.settings.verify == "size"
        return Capabilities(
            rename=True,
            directories=True,
            # Without it the old file steps aside first, and a crash may leave none under the name.
            atomic_write=staged and self.calls.posix_rename,
            in_place=not staged,
            create_new=not staged or self.calls.openssh or self.calls.hardlink,
            read_offset=True,
            resume_write=staged and looks and self.calls.resumes,
            mtime_precision=timedelta(seconds=1) if self.calls.keeps_times else None,
            mtime_range=SECONDS_32,
            max_connections=self.settings.max_connections,
            streams_per_connection=self.settings.streams_per_connection,
        )

    async def open(self) -> None:
        calls = self.calls
        calls.join()
        if calls.base is not None:
            return
        connection = await calls.pool.acquire()
        try:
            session = connection.session
            calls.posix_rename = POSIX_RENAME in session.extensions
            calls.hardlink = HARDLINK in session.extensions
            # OpenSSH renames by link(2), which cannot replace; what others do is not known, behind its sshd as well.
            calls.openssh = "OpenSSH" in connection.server and session.extensions.keys() >= _OPENSSH_OWN
            with Translate("open", self.endpoint, ""):
                if calls.openssh:
                    # It may have been told to set none: internal-sftp -P setstat,fsetstat
                    base, timeless = await asyncio.gather(self._root(session), lacks_times(calls, session, b"."))
                    missing = list[bytes]()
                else:
                    base = await self._root(session)
                    missing, timeless = await asyncio.gather(
                        refused(session, base, (POSIX_RENAME, HARDLINK)), lacks_times(calls, session, base)
                    )
            calls.base, calls.keeps_times = base, not timeless
            for name in missing:
                calls.posix_rename = calls.posix_rename and name != POSIX_RENAME
                calls.hardlink = calls.hardlink and name != HARDLINK
            host = self.settings.host.lower()
            self.store = f"sftp:{self.settings.user}@{host}:{self.settings.port or 22}"
            self.capabilities = self._capable()
        except BaseException:
            calls.base = None
            raise
        finally:
            calls.pool.release(connection)

    async def _root(self, session: Session) -> bytes:
        root = self.calls.encoded(self.settings.root, "open", "")
        if root.startswith(b"/"):
            return root.rstrip(b"/")
        below = root.removeprefix(b"~").strip(b"/")
        try:
            home = parse_name(checked(await session.request(codec.REALPATH, text(b".")), codec.NAME)).rstrip(b"/")
        except Status:
            home = b"."
        return home + b"/" + below if below else home

    async def close(self) -> None:
        self.calls.base = None
        await self.calls.leave()

    def address(self, path: str) -> str:
        return self.calls.full(path, "open").decode("utf-8", "surrogateescape")

    async def server(self) -> str:
        """What the server calls itself, and its extensions."""
        connection = await self.calls.pool.acquire()
        try:
            extensions = sorted(name.decode("ascii", "replace") for name in connection.session.extensions)
            return f"{connection.server}; extensions: {', '.join(extensions) or 'none'}"
        finally:
            self.calls.pool.release(connection)

    async def remarks(self) -> list[tuple[str, str, str | None]]:
        """What works, but not as well as it could: (name, detail, remedy)."""
        if self.calls.keeps_times:
            return []
        return [("mtime", "modification times cannot be set", "crossdock sync --checksum    # compares content")]

    async def prove_times(self, entry: Entry) -> None:
        calls = self.calls
        if not calls.doubts_times or not calls.keeps_times or entry.modified is None:
            return
        async with calls.session("ask", entry.path) as session:
            name, seconds = text(calls.full(entry.path, "ask")), codec.times(int(entry.modified.timestamp()))
            try:
                await session.status(codec.SETSTAT, name, seconds)
            except Status:
                calls.cannot_stamp()
        calls.doubts_times = False

    # -- asking ---------------------------------------------------------------------------------------------------

    async def stat(self, path: str) -> Entry:
        asked = codec.STAT if self.settings.links == "follow" or not path else codec.LSTAT
        async with self.calls.session("stat", path) as session:
            name = self.calls.full(path, "stat")
            try:
                attrs = await session.attrs(asked, text(name))
                if any(told is not None for told in attrs) or not await below_file(self.calls, session, name):
                    return entry_of(path, attrs, await kind_told(session, name, attrs))
                # Apache MINA describes what is below a file, without a single attribute.
                raise self.error(NotFound, "stat", path, "no such file", hint=hint_for(NotFound))
            except Status as error:
                vague = error.code == codec.FAILURE
                if vague and (await means_missing(session, name, error) or await below_file(self.calls, session, name)):
                    raise self.error(NotFound, "stat", path, "no such file", hint=hint_for(NotFound)) from error
                raise

    def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        if recursive:
            raise self._unsupported("list recursively", path)
        return listing.scan(self.calls, path)

    # -- moving bytes ---------------------------------------------------------------------------------------------

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        return await open_reader(self.calls, path, offset, pin)

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        await self.calls.must_keep(path, "write")
        writer = SftpWriter(self.calls, path, options)
        if options.resume is not None:
            await writer.reopen()
        return writer

    async def discard(self, checkpoint: bytes) -> None:
        await remove(self.calls, staged_path(checkpoint), "discard")
        if not self.calls.posix_rename:
            await undo_swap(self.rename, self.delete, checkpoint)

    def leftover(self, path: str, attempt: str) -> bytes | None:
        # Whether it may be resumed is another matter.
        return token_of(path, attempt) if self.settings.staging == "rename" and self.settings.verify == "size" else None

    async def is_staged(self, checkpoint: bytes) -> bool | None:
        there = await still_staged(self, checkpoint)
        # Others may show an upload only once it is closed, or remove what a connection that broke had sent; and what is
        # not on the disk, a machine that loses its power forgets.
        if there is False and self.calls.openssh and self.settings.fsync:
            path, disk = staged_path(checkpoint), json.loads(checkpoint).get("disk")
            async with self.calls.session("stat", path) as session:
                folder = self.calls.full(path, "stat").rpartition(b"/")[0] or b"/"
                return None if disk and disk != await identity(session, folder) else False
        return there or None

    # -- changing names -------------------------------------------------------------------------------------------

    async def delete(self, path: str) -> None:
        await remove(self.calls, path, "delete")

    async def rename(self, path: str, target: str, *, overwrite: bool = False) -> None:
        await self.calls.must_keep(target, "rename")
        async with self.calls.session("rename", path) as session:
            old, new = self.calls.full(path, "rename"), self.calls.full(target, "rename")
            if await kind_of(session, old) is None:
                raise self.error(NotFound, "rename", path, "no such file", hint=hint_for(NotFound))

            async def step() -> None:
                if overwrite:
                    await replaced(self.calls, session, path, target, secrets.token_hex(6), "rename")
                else:
                    await move(self.calls, session, old, new, target, overwrite=False)

            if not overwrite or self.calls.posix_rename:
                with suppress(NotFound):
                    await step()
                    return
            await make_parents(self.calls, session, target, "rename")
            await step()

    async def make_dir(self, path: str) -> None:
        await self.calls.must_keep(path, "mkdir")
        async with self.calls.session("mkdir", path) as session:
            await make_folders(self.calls, session, self.calls.full(path, "mkdir"), path, "mkdir")

    async def remove_dir(self, path: str) -> None:
        async with self.calls.session("rmdir", path) as session:
            name = self.calls.full(path, "rmdir")
            if not self.calls.openssh and await kind_of(session, name) not in ("dir", None):
                raise self.error(NotADirectory, "rmdir", path, "it is a file")
            try:
                await session.status(codec.RMDIR, text(name))
            except Status as error:
                kind = await kind_of(session, name)
                if kind is None:
                    return
                if kind != "dir":
                    raise self.error(NotADirectory, "rmdir", path, "it is a file") from error
                if error.code in (codec.FAILURE, codec.ALREADY_EXISTS):
                    raise self.error(PermissionDenied, "rmdir", path, "the folder is not empty") from error
                raise
