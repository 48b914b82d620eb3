"""What the verbs are made of: an account's connections, names below the root, what the server can do."""

from __future__ import annotations

import logging
import secrets
import stat
from asyncio import Future
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

from crossdock.errors import InvalidPath
from crossdock.storage.accounts import Member
from crossdock.storage.base import Backend, Entry, Kind
from crossdock.storage.sftp import codec
from crossdock.storage.sftp.codec import Attrs, parse_name, text
from crossdock.storage.sftp.faults import Translate, hint_for
from crossdock.storage.sftp.pool import Pool, leave, pool_for
from crossdock.storage.sftp.settings import SftpSettings
from crossdock.storage.sftp.wire import Reply, Session, Status, checked
from crossdock.storage.staging import temporary_path

__all__ = ["Calls", "entry_of", "kind_of", "kind_of_mode", "kind_told", "means_missing"]

log = logging.getLogger("crossdock.storage.sftp")

_PROBE = b"crossdock-\xe9\xff"
_KINDS: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}


class Calls(Member[Pool]):
    """One account, below one folder."""

    def __init__(self, settings: SftpSettings, backend: Backend) -> None:
        super().__init__(backend)
        self.settings = settings
        self.base: bytes | None = None
        """The root, as the server knows it, once it has been asked for."""
        self.posix_rename = self.hardlink = False
        self.openssh = False
        """Answered by OpenSSH's own SFTP server; what others take for a file or a folder is looked at first."""
        self.late_times = True
        """Times after 2038 may be told. Apache MINA takes them, and ends the session when it is to tell them."""
        self.keeps_times = True
        """The time of a file can be set, as far as is known."""
        self.doubts_times = False
        """It may set none: asked about a name that nobody has, the server only failed."""
        self.lists_less = True
        """It may tell more of a file when it is asked than when it lists it."""
        self.resumes = True
        """What is staged is kept when it is opened again, as far as is known."""
        self._takes_bytes: bool | None = None

    def _join(self) -> Pool:
        return pool_for(self.settings, self.backend.endpoint)

    async def _leave(self, pool: Pool) -> None:
        await leave(self.settings, pool)

    def cannot_replace(self) -> None:
        """The server's posix-rename did not replace: from now on, the old file steps aside first."""
        self.posix_rename = False
        self.backend.capabilities = replace(self.backend.capabilities, atomic_write=False)

    def cannot_resume(self) -> None:
        """The server lost what was staged when it was opened again: from now on, each attempt starts anew."""
        self.resumes = False
        self.backend.capabilities = replace(self.backend.capabilities, resume_write=False)

    def cannot_stamp(self) -> None:
        """The server does not set times: from now on, a file's own tells when it was sent."""
        self.keeps_times = False
        self.backend.capabilities = replace(self.backend.capabilities, mtime_precision=None)

    def encoded(self, path: str, operation: str, shown: str) -> bytes:
        """A name in the encoding of the endpoint. Raises `InvalidPath`."""
        try:
            return path.encode(self.settings.encoding, "surrogateescape")
        except UnicodeEncodeError as error:
            raise self.backend.error(
                InvalidPath, operation, shown, f"the name cannot be written in {self.settings.encoding}"
            ) from error

    async def must_keep(self, path: str, operation: str) -> None:
        """Raises `InvalidPath` for a name that the server would put under another one.

        Servers made with Java or JavaScript (Apache MINA, node's ssh2) write U+FFFD for what is no UTF-8, others "_".
        """
        if path.isascii() or self.openssh or self._takes_bytes or _is_utf8(self.encoded(path, operation, path)):
            return
        if self._takes_bytes is None:
            async with self.session(operation, path) as session:
                try:
                    found = await session.request(codec.REALPATH, text((self.base or b"") + b"/" + _PROBE))
                    self._takes_bytes = _PROBE in parse_name(checked(found, codec.NAME))
                except Status:
                    self._takes_bytes = True  # it says nothing of what is not there
                self._takes_bytes = self._takes_bytes and await self._lists_bytes(session)
        if not self._takes_bytes:
            reason = "the server takes names in UTF-8 alone, and would store this one under another"
            raise self.backend.error(InvalidPath, operation, path, reason, hint=hint_for(InvalidPath))

    async def _lists_bytes(self, session: Session) -> bool:
        """Some repeat a name's bytes, and write others ("_", SeaweedFS): what a folder of ours then lists tells."""
        folder = self.full(temporary_path("probe", secrets.token_hex(6)), "probe")
        try:
            await session.status(codec.MKDIR, text(folder), codec.NO_ATTRS)
        except Status:
            return True  # where no folder may be made, it cannot be told
        try:
            await session.status(codec.MKDIR, text(folder + b"/" + _PROBE), codec.NO_ATTRS)
            handle = await session.open_folder(folder)
            try:
                # "." and ".." may come first, in a reply of their own.
                for _ in range(3):
                    page = codec.names(checked(await session.request(codec.READDIR, handle), codec.NAME))
                    if any(name == _PROBE for name, _, _ in page):
                        return True
            finally:
                self.close_quietly(session, handle, "")
        except Status:
            pass
        finally:
            for name in (folder + b"/" + _PROBE, folder):
                try:
                    await session.status(codec.RMDIR, text(name))
                except Status as error:
                    log.info("%s:%r may be left behind: %s", self.backend.endpoint, name, error)
        return False

    def full(self, path: str, operation: str) -> bytes:
        """The path as the server knows it."""
        base = self.base or b""
        return base + b"/" + self.encoded(path, operation, path) if path else base or b"/"

    @asynccontextmanager
    async def session(self, operation: str, path: str) -> AsyncIterator[Session]:
        """One of the account's connections, given back at the end; what goes wrong there is said of `path`."""
        connection = await self.pool.acquire()
        try:
            with Translate(operation, self.backend.endpoint, path):
                yield connection.session
        finally:
            self.pool.release(connection)

    def close_quietly(self, session: Session, handle: bytes, path: str) -> None:
        """Close a handle whose fate no longer matters."""

        def note(future: Future[Reply]) -> None:
            if not future.cancelled() and future.exception() is None:
                kind, payload = future.result()
                if kind == codec.STATUS and codec.parse_status(payload)[0] != codec.OK:
                    log.info("closing %s:%r: %s", self.backend.endpoint, path, codec.parse_status(payload))

        if session.alive:
            session.request(codec.CLOSE, handle).add_done_callback(note)


def entry_of(path: str, attrs: Attrs, kind: Kind | None = None) -> Entry:
    """A name as the server describes it; `kind` where that is known better."""
    found = kind or kind_of_mode(attrs.permissions) or "file"
    modified = None if attrs.modified is None else datetime.fromtimestamp(attrs.modified, UTC)
    return Entry(path=path, kind=found, size=attrs.size if found == "file" else None, modified=modified)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def kind_of_mode(mode: int | None) -> Kind | None:
    """None: the server did not say."""
    file_type = stat.S_IFMT(mode) if mode is not None else 0
    return _KINDS.get(file_type, "other") if file_type else None


async def kind_of(session: Session, name: bytes) -> Kind | None:
    """What a name is; None if there is no such thing."""
    try:
        attrs = await session.attrs(codec.LSTAT, text(name))
    except Status as error:
        if await means_missing(session, name, error):
            return None
        raise
    return await kind_told(session, name, attrs)


async def means_missing(session: Session, name: bytes, error: Status) -> bool:
    """Whether that `name` could not be described tells that nothing is there.

    Some servers call all that goes wrong a failure: then they do so of a name that nobody has, in a folder that is.
    """
    if error.code == codec.FAILURE and session.vague is None:
        session.vague = await _is_vague(session, name)
    return error.code in codec.MISSING or (error.code == codec.FAILURE and session.vague is True)


async def _is_vague(session: Session, name: bytes) -> bool:
    folder = name.rpartition(b"/")[0]
    while True:
        try:
            await session.attrs(codec.STAT, text(folder or b"/"))
            break
        except Status:
            if not folder:
                return False  # it describes nothing at all
        folder = folder.rpartition(b"/")[0]
    try:
        await session.attrs(codec.LSTAT, text(folder + b"/" + temporary_path("probe", secrets.token_hex(6)).encode()))
    except Status as error:
        return error.code == codec.FAILURE and await _describes_files(session, folder)
    return False


async def _describes_files(session: Session, folder: bytes) -> bool:
    """Else what is there would be taken for missing, and replaced: as far as the folder's first names tell."""
    try:
        handle = await session.open_folder(folder or b"/")
        try:
            listed = codec.names(checked(await session.request(codec.READDIR, handle), codec.NAME))
        finally:
            session.request(codec.CLOSE, handle)
        files = [name for name, _, attrs in listed if kind_of_mode(attrs.permissions) == "file"]
        if files:
            await session.attrs(codec.LSTAT, text(folder + b"/" + files[0]))
    except Status as error:
        return error.code == codec.EOF
    return True


async def kind_told(session: Session, name: bytes, attrs: Attrs) -> Kind:
    """What a name that was described is; where the server leaves that out (SolarWinds), only a folder can be listed."""
    kind = kind_of_mode(attrs.permissions)
    if kind is not None:
        return kind
    try:
        handle = await session.open_folder(name)
    except Status:
        return "file"
    session.request(codec.CLOSE, handle)
    return "dir"
