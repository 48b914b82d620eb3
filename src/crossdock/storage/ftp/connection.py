"""One signed-in control connection and the one thread that all its work runs in."""

from __future__ import annotations

import asyncio
import re
import select
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from crossdock.storage.ftp.wire import Learned, Lost, Reply, Violation, Wire, shut
from crossdock.storage.threads import Call, as_future

if TYPE_CHECKING:
    from crossdock.storage.ftp.settings import FtpSettings
    from crossdock.storage.ftp.tls import TlsLayer

__all__ = ["Connection", "Features"]

T = TypeVar("T")
_ALTERED = re.compile(r"[\x00-\x1f\x7f]| (?=/|$)")
_ALTERED_BY_SOME = re.compile(r'[\x00-\x1f\x7f\\"]| (?=/|$)')
_PATTERN = re.compile(rb"[*?[]")
_VSFTPD = frozenset(("EPRT", "EPSV", "MDTM", "PASV", "REST", "SIZE", "TVFS"))
"""What it offers, and no more, apart from TLS and UTF8."""
_GRACE = 5.0
"""Seconds in which a cancelled command may still get its answer, so that its effect is known."""


@dataclass(frozen=True, slots=True)
class Features:
    """What FEAT (RFC 2389) and the greeting tell. Many a server is told to greet in words of its operator's own."""

    names: frozenset[str] = frozenset()
    arguments: dict[str, str] = field(default_factory=dict)
    greeting: str = ""
    known: bool = True
    """False: the server has no FEAT, and everything is found out by trying."""
    server: str = field(init=False)
    """Which one it is, of those whose ways are known, by its greeting or by what it alone offers; "": another."""

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __post_init__(self) -> None:
        greeting = self.greeting.lower()
        found = next((name for name in ("vsftpd", "proftpd", "pure-ftpd", "pyftpdlib") if name in greeting), "")
        if not found and self.names - {"AUTH", "PBSZ", "PROT", "UTF8"} == _VSFTPD:
            found = "vsftpd"
        elif not found and "MFF" in self.names and "unix.groupname" in self.arguments.get("MLST", "").lower():
            found = "proftpd"
        object.__setattr__(self, "server", found)

    @property
    def vsftpd(self) -> bool:
        return self.server == "vsftpd"

    @property
    def replaces(self) -> bool:
        """Known to rename by rename(2), which replaces in one step; of others it is not known."""
        return self.server in ("vsftpd", "pure-ftpd", "pyftpdlib")

    def alters(self, path: str) -> bool:
        """Whether the server might store a file under another name than this.

        Pure-FTPd writes "_" for what it does not like; ftp-srv takes a backslash for "/" and drops quotation marks,
        Apache FtpServer does the former, and so do servers on Windows. For it "~" is the account's home, anywhere.
        """
        if self.verbatim:
            return False
        if self.apache and "~" in path.split("/"):
            return True
        # Pure-FTPd refuses what looks like a path of Windows, by itself.
        return (_ALTERED if self.server == "pure-ftpd" else _ALTERED_BY_SOME).search(path) is not None

    @property
    def verbatim(self) -> bool:
        """Known to store every name as it was sent."""
        return self.server in ("vsftpd", "proftpd", "pyftpdlib")

    @property
    def takes_bytes(self) -> bool:
        """Known to store names that are no UTF-8; pyftpdlib, for one, writes U+FFFD for what it cannot decode."""
        return self.server in ("vsftpd", "proftpd", "pure-ftpd")

    @property
    def apache(self) -> bool:
        """Apache FtpServer, the one that has MMD5. Names with a dot first are in its MLSD if that is asked for."""
        return {"MLST", "MD5", "MMD5"} <= self.names

    def describes(self, name: bytes) -> bool:
        """Whether it has MLST for this name; Apache FtpServer's takes some for patterns, and tells of the folder."""
        return "MLST" in self.names and not (self.apache and _PATTERN.search(name))

    @property
    def times_by_listing(self) -> bool:
        """Only its listing tells when a file was modified, as LightFTP's: it has MLSD, and neither MLST nor MDTM."""
        return "MLSD" in self.names and not self.names & {"MLST", "MDTM"}

    @property
    def queues(self) -> bool:
        """Known to read one command after the other from the socket, and none while it transfers a file.

        ProFTPD and Pure-FTPd look for commands during a transfer, and answer or drop them. Without MLST, all that is
        queued is answered by 213 or a refusal, from which a reply that nobody asked for can be told.
        """
        return self.vsftpd and "MLST" not in self.names

    @property
    def careless(self) -> bool:
        """It may take a file before it has looked for its folder, or put it in the place of a folder.

        Servers made with Go's goftp do, rclone's among them. Those that are known look first.
        """
        return not (self.replaces or self.verbatim)

    @property
    def telnet_escape(self) -> bytes | None:
        """What stands for the byte 255, which begins a Telnet command (RFC 854); None: not known of this server."""
        if self.server == "proftpd":
            return b"\xff\xff"
        return b"\xff" if self.vsftpd else None

    @property
    def sets_times(self) -> bytes | None:
        """The command that sets a file's time; vsftpd overloads MDTM and says so nowhere."""
        return b"MFMT" if "MFMT" in self.names else b"MDTM" if self.vsftpd and "MDTM" in self.names else None

    @property
    def digests(self) -> dict[str, bytes]:
        """Algorithm → command, of those that the server computes."""
        found = {
            algorithm: name.encode()
            for algorithm, name in (("sha256", "XSHA256"), ("sha1", "XSHA1"), ("md5", "XMD5"), ("crc32", "XCRC"))
            if name in self.names
        }
        if "HASH" in self.names:
            offered = {name.strip("* ").upper() for name in self.arguments.get("HASH", "").split(";")}
            for algorithm, name in (("sha256", "SHA-256"), ("sha1", "SHA-1"), ("md5", "MD5")):
                if name in offered:
                    found[algorithm] = b"HASH " + name.encode()
        return found


def _work_off(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := calls.get()) is not None:
        call()
        del call


class Connection:
    """Made by `connecting.sign_in`. Its attributes are the thread's, but for `kill`, `broken` and the idle time."""

    def __init__(self, settings: FtpSettings, learned: Learned | None = None) -> None:
        self.settings = settings
        self.learned = learned or Learned()
        self.features = Features()
        self.tls: TlsLayer | None = None
        self.old_tls = False
        self.home = b"/"
        self.peer = ""
        self.family: socket.AddressFamily = socket.AF_INET
        self.extended = self.learned.extended is not False
        """EPSV is understood, and of use, as far as is known."""
        self.invites = False
        """EPSV has been answered."""
        self.lists_hidden: bool | None = None
        """`LIST -a` is understood; None: not tried."""
        self.data: socket.socket | None = None
        self.pending = False
        """A transfer has begun and its last reply has not been read."""
        self.broken = False
        """It may not serve anyone else: a late reply could answer the next command."""
        self.overlooked = False
        """The server did not see a data connection, as TLS was not up on it."""
        self.made = self.used = time.monotonic()
        self._wire: Wire | None = None
        self._connecting: socket.socket | None = None
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._given = self._done = 0
        self._killed = self._parted = False

    # -- the thread's side ------------------------------------------------------------------------------------------

    @property
    def wire(self) -> Wire:
        if self._wire is None:
            raise Lost("not connected")
        return self._wire

    @property
    def connected(self) -> bool:
        """There was somebody to connect to, whether he has said a word or not."""
        return self._wire is not None

    @property
    def wire_is_fresh(self) -> bool:
        """The server has not said a word yet."""
        return self._wire is None or not self._wire.heard

    def attach(self, connected: socket.socket) -> None:
        """What `kill` has to end while there is no wire yet, or another socket takes over."""
        self._connecting = connected
        if self._killed:
            connected.close()
            raise Lost("the connection was given up")

    def attach_wire(self, wire: Wire) -> None:
        self._wire = wire
        self.attach(wire.socket)

    def attach_data(self, connected: socket.socket) -> None:
        """What ends a transfer when it is shut down; told before it blocks."""
        self.data = connected
        if self.broken:
            raise Lost("the transfer was given up")

    @property
    def queues(self) -> bool:
        """Commands may be sent along with a transfer."""
        return self.features.queues and self.learned.queues is not False

    def describes(self, name: bytes) -> bool:
        """Whether to ask MLST about this name."""
        return self.learned.describes is not False and self.features.describes(name)

    def mark_busy(self) -> None:
        if self._killed or self.broken or self.pending:
            raise Lost("the connection was given up")

    def stop_transfer(self) -> Reply | None:
        """End a transfer and hear the server's last word on it, so that it is certain that it has ended."""
        shut(self.data)
        try:
            return self._last_word() if self.pending else None
        finally:
            data, self.data = self.data, None
            if data is not None:
                data.close()

    def _last_word(self) -> Reply | None:
        usual = self.wire.patience
        self.wire.wait_for(_GRACE)
        try:
            reply = self.wire.final()
        except (Lost, Violation):
            return None
        self.wire.wait_for(usual)
        self.pending = False
        return reply

    # -- the event loop's side --------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        wire = self._wire
        return not (self.broken or self.pending or self._killed) and wire is not None and wire.alive and not wire.owed

    @property
    def alive_in_transfer(self) -> bool:
        return not (self.broken or self._killed) and self._wire is not None and self._wire.alive

    @property
    def at_work(self) -> bool:
        """Its thread has something to do, each part of which minds its own time."""
        return self._given != self._done

    def end_data(self) -> None:
        """Wake the thread from whatever it does with the data connection."""
        shut(self.data)

    def stale(self) -> bool:
        """The server has closed it meanwhile, or said something that nobody asked for."""
        if self._wire is None or not self._wire.quiet:
            return True
        poll = select.poll()
        poll.register(self._wire.socket, select.POLLIN)
        return bool(poll.poll(0))

    def _begin(self, call: Callable[[], None]) -> None:
        if self._parted:
            # No thread is left to wait for; without a connection it fails at once.
            call()
            return
        if self._thread is None:
            self._thread = Thread(target=_work_off, args=(self._calls,), name="crossdock-ftp", daemon=True)
            self._thread.start()

        def work() -> None:
            try:
                call()
            finally:
                self._done += 1

        self._given += 1
        self._calls.put(work)

    def begin(self, work: Callable[..., T], *arguments: object) -> Future[T]:
        future, call = as_future(work, arguments)
        self._begin(call)
        return future

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Call `work` in the thread. A caller who is cancelled fares as with `wait`."""
        call = Call(work, arguments)
        self._begin(call)
        try:
            return await call.told
        except asyncio.CancelledError:
            killer = self._give_up()
            await call.heard_out()
            killer.cancel()
            raise

    def _give_up(self) -> asyncio.TimerHandle:
        """End the transfer, and the connection if that does not wake the thread in time."""
        self.broken = True
        shut(self.data)
        return asyncio.get_running_loop().call_later(_GRACE, self.kill)

    async def wait(self, future: Future[T]) -> T:
        """The result. If the caller is cancelled, the transfer is ended, the command heard out, and none follows."""
        wrapped = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(wrapped)
        except asyncio.CancelledError:
            killer = self._give_up()
            while not wrapped.done():
                try:
                    await asyncio.wait([wrapped])
                except asyncio.CancelledError:
                    continue
            killer.cancel()
            if not wrapped.cancelled():
                wrapped.exception()  # seen: nobody is left to tell
            raise

    def kill(self) -> None:
        """End everything at once, from any thread."""
        self._killed = self.broken = True
        shut(self.data)
        shut(self._connecting)

    def close(self) -> Future[None]:
        """Say goodbye if that can be done without much waiting, and let go."""
        parting: Future[None] = Future()
        # Running from the start: whoever waits and is cancelled must not cancel it, and leave the sockets open.
        parting.set_running_or_notify_cancel()

        def part() -> None:
            try:
                self._part()
            except BaseException as error:  # noqa: BLE001 (handed to whoever waits)
                parting.set_exception(error)
            else:
                parting.set_result(None)

        self._begin(part)
        self._parted = True
        self._calls.put(None)
        return parting

    def _part(self) -> None:
        if self.data is not None:
            self.data.close()
        if self._wire is None:
            if self._connecting is not None:
                self._connecting.close()
            return
        try:
            if self.alive:
                self._wire.wait_for(1)
                self._wire.ask(b"QUIT")
        except (Lost, Violation):
            return
        finally:
            self._wire.close()
