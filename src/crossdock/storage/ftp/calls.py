"""What the verbs are made of: an account's connections, names below the root, what the server can do."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from crossdock.errors import ConnectionFailed, InvalidPath, NotFound, PermissionDenied, StorageError
from crossdock.storage.accounts import Member
from crossdock.storage.base import SECONDS_32, Backend, Capabilities
from crossdock.storage.ftp.connection import Connection, Features
from crossdock.storage.ftp.faults import Translate, hint_for, hint_for_permission
from crossdock.storage.ftp.pool import Pool, leave, pool_for
from crossdock.storage.ftp.settings import FtpSettings
from crossdock.storage.ftp.tls import SessionRefused
from crossdock.storage.ftp.wire import Refused, Reply

__all__ = ["Calls"]

log = logging.getLogger("crossdock.storage.ftp")

T = TypeVar("T")
_MOST_NAME = 255
_UNDECODABLE = re.compile(r"[\udc80-\udcff]")


class Calls(Member[Pool]):
    """One account, below one folder."""

    def __init__(self, settings: FtpSettings, backend: Backend) -> None:
        super().__init__(backend)
        self.settings = settings
        self.features = Features()
        self.can_append = self.can_restart = self.can_stamp = True
        self.folders: set[bytes] = set()
        """Folders that have been seen, at a server that tells too late that one is missing."""
        self.base: bytes | None = None
        """The root, as the server knows it, once there has been a connection."""
        self.home = b"/"
        """Where the sign-in leads to."""

    def _join(self) -> Pool:
        return pool_for(self.settings, self.backend.endpoint)

    async def _leave(self, pool: Pool) -> None:
        await leave(self.settings, pool)

    def capable(self) -> Capabilities:
        """Of the endpoint, as far as is known by now."""
        staged = self.settings.staging == "rename"
        restarts = self.can_restart and (not self.features.known or "REST" in self.features)
        looks = self.settings.verify != "none"
        return Capabilities(
            rename=staged,
            directories=True,
            # Where a rename may not replace, the old file steps aside first, and a crash may leave none under the name.
            atomic_write=staged and self.features.replaces,
            in_place=not staged,
            read_offset=restarts,
            resume_write=staged and looks and restarts and self.can_append,
            digests=frozenset(self.features.digests) & {"sha256"} if self.settings.verify == "digest" else frozenset(),
            mtime_precision=timedelta(seconds=1) if self.features.sets_times and self.can_stamp else None,
            mtime_range=SECONDS_32,
            max_connections=self.settings.max_connections,
        )

    def cannot_append(self) -> None:
        """The server refused to go on with a file: from now on, each attempt starts anew."""
        self.can_append = False
        self.backend.capabilities = self.capable()

    def cannot_stamp(self) -> None:
        """The server does not set a file's time, whatever it told of itself."""
        self.can_stamp = False
        self.backend.capabilities = self.capable()

    def not_stamped(self, path: str, reply: Reply) -> None:
        """The server refused to set a file's time."""
        log.info("the server does not keep the time of %s:%r: %s", self.backend.endpoint, path, reply)
        if reply.code >= 500:
            self.cannot_stamp()

    def lost_at_stamp(self) -> None:
        """A session has ended as a file's time was set: if that was no mishap, none is set from now on."""
        if self.pool.account.learned.survives_stamps is not False:
            return
        log.info("%s ends the session when a file's time is set, and is not asked to again", self.backend.endpoint)
        self.cannot_stamp()

    def cannot_restart(self) -> None:
        """The server refused to read from the middle of a file: from now on, each attempt starts anew."""
        self.can_restart = False
        self.backend.capabilities = self.capable()

    def encoded(self, path: str, operation: str, shown: str) -> bytes:
        """A name as it is sent. Raises `InvalidPath` for one that the server might take for another."""

        def refused(reason: str) -> StorageError:
            return self.backend.error(InvalidPath, operation, shown, reason, hint=hint_for(InvalidPath))

        if any(character in path for character in "\r\n\0"):
            # Each would end the command, and what follows be one of its own.
            raise refused("FTP cannot carry a line break in a name")
        if _UNDECODABLE.search(path) and not self.features.takes_bytes:
            error = refused(
                f"the name is not {self.settings.encoding}, and the server might store it under another one"
            )
            if operation in ("list", "read", "stat"):
                error.hint = "write at the endpoint what the server's names are in, such as encoding: latin-1"
            raise error
        if self.features.alters(path):
            raise refused("the server might store the name under another one")
        try:
            found = path.encode(self.settings.encoding, "surrogateescape")
        except UnicodeEncodeError as error:
            raise refused(f"the name cannot be written in {self.settings.encoding}") from error
        if b"\xff" not in found:
            return found
        escape = self.features.telnet_escape
        if escape is None:
            raise refused("not all servers take the byte 255 in a name alike")
        return found.replace(b"\xff", escape)

    def full(self, path: str, operation: str) -> bytes:
        """The path as the server knows it: absolute, so that no option or home folder is read into it."""
        base = self.base or b""
        return base + b"/" + self.encoded(path, operation, path) if path else base or b"/"

    async def call(self, operation: str, path: str, work: Callable[..., T], *arguments: object) -> T:
        """Call `work(connection, …)` in the thread of a connection."""
        with Translate(operation, self.backend.endpoint, path):
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

    async def call_on(
        self, connection: Connection, operation: str, path: str, work: Callable[..., T], *arguments: object
    ) -> T:
        """Call `work(connection, …)` on this connection, which is the caller's; on another once it has broken."""
        if not connection.alive:
            return await self.call(operation, path, work, *arguments)
        with Translate(operation, self.backend.endpoint, path):
            return await connection.run(work, connection, *arguments)

    def explained(self, error: Refused, operation: str, path: str) -> StorageError | None:
        """What the refusal does not say and the name does."""
        longest = max(len(part.encode("utf-8", "surrogateescape")) for part in path.split("/"))
        # aioftp's server says 451 of all that the system refuses.
        if (error.reply.code >= 500 or error.reply.code == 451) and longest > _MOST_NAME:
            reason = f"a name of {longest} bytes ({error})"
            return self.backend.error(InvalidPath, operation, path, reason, hint=hint_for(InvalidPath))
        return None

    def lost(self, operation: str, path: str, reason: str) -> StorageError:
        """The connection has failed before its work was done."""
        return self.backend.error(
            ConnectionFailed, operation, path, reason, hint="try again; if it stays so, ask the server's operator"
        )

    def no_root(self, operation: str, reason: str) -> StorageError:
        """Why the root itself cannot be looked at."""
        if self.base in (b"", b"/", self.home):
            # It is there, since the sign-in leads to it.
            hint = hint_for_permission("LIST")
            return self.backend.error(
                PermissionDenied, operation, "", f"the root may not be looked at: {reason}", hint=hint
            )
        root, home = (part.decode("utf-8", "backslashreplace") for part in (self.base or b"/", self.home))
        return self.backend.error(
            NotFound,
            operation,
            "",
            f"no such folder: {root}",
            hint=f"the sign-in leads to {home}, and a server with a chroot (vsftpd chroot_local_user, ProFTPD "
            "DefaultRoot, Pure-FTPd -A) shows nothing above: write the endpoint's root as it is seen from there",
        )
