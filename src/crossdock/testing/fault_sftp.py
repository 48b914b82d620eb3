"""An SFTP server (version 3, on asyncssh) that answers well until it is told to lie, to die or to stall."""

from __future__ import annotations

import asyncio
import os
import struct
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, Literal, Self, cast

import asyncssh
from asyncssh.constants import (
    FX_EOF,
    FX_FAILURE,
    FX_OK,
    FXP_ATTRS,
    FXP_CLOSE,
    FXP_DATA,
    FXP_EXTENDED,
    FXP_FSETSTAT,
    FXP_FSTAT,
    FXP_LSTAT,
    FXP_MKDIR,
    FXP_NAME,
    FXP_OPEN,
    FXP_OPENDIR,
    FXP_READ,
    FXP_READDIR,
    FXP_REALPATH,
    FXP_REMOVE,
    FXP_RENAME,
    FXP_RMDIR,
    FXP_SETSTAT,
    FXP_STAT,
    FXP_STATUS,
    FXP_WRITE,
)
from asyncssh.packet import Byte, SSHPacket, String, UInt32
from asyncssh.sftp import SFTPServerHandler
from asyncssh.stream import SSHReader, SSHServerStreamSession, SSHWriter

from crossdock.testing.faults import flipped

__all__ = ["FaultySftpServer", "SftpFault"]

_NAMES = {
    FXP_OPEN: "open",
    FXP_CLOSE: "close",
    FXP_READ: "read",
    FXP_WRITE: "write",
    FXP_LSTAT: "lstat",
    FXP_FSTAT: "fstat",
    FXP_STAT: "stat",
    FXP_SETSTAT: "setstat",
    FXP_FSETSTAT: "fsetstat",
    FXP_OPENDIR: "opendir",
    FXP_READDIR: "readdir",
    FXP_REMOVE: "remove",
    FXP_MKDIR: "mkdir",
    FXP_RMDIR: "rmdir",
    FXP_REALPATH: "realpath",
    FXP_RENAME: "rename",
}

How = Literal["fail", "eof", "drop", "lost", "stall", "lie", "short", "empty", "flip", "late", "wrong id", "bare"]


@dataclass(slots=True, kw_only=True, eq=False)
class SftpFault:
    """One thing that goes wrong with one kind of request.

    `request`: "open", "close", "read", "write", "lstat", "fstat", "stat", "setstat", "fsetstat", "opendir",
    "readdir", "remove", "mkdir", "rmdir", "realpath", "rename", or an extension without its domain: "posix-rename",
    "fsync", "hardlink", "limits", "statvfs", …

    `how`:
    - fail: the answer is status `code`; nothing is done.      - eof: the answer is "end of file"; nothing is done.
    - drop: the connection is cut instead of doing it.         - lost: it is done, then the connection is cut.
    - stall: nothing more is ever answered on the session.     - lie: the answer is OK; nothing is done.
    - short: half of the data asked for (an honest server may). - empty: data or names, but none of them.
    - flip: one bit of the data, read or written, is wrong.    - bare: attributes that say nothing.
    - late: the answer comes after that to the next request.   - wrong id: the answer bears another request's number.
    """

    request: str
    how: How = "fail"
    at: int = 0
    """read, write: strike at the first request that reaches byte `at` of its file."""
    after: int = 0
    """Let so many requests that fit pass first."""
    times: int | None = 1
    """How often; None: always."""
    code: int = FX_FAILURE
    fired: int = 0


class _Server(asyncssh.SSHServer):
    def __init__(self, owner: FaultySftpServer) -> None:
        self._owner = owner

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._owner.accepted += 1
        self._owner.connections.add(conn)
        self._connection = conn

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.connections.discard(self._connection)

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == (self._owner.user, self._owner.password)

    def session_requested(
        self,
    ) -> tuple[asyncssh.SSHServerChannel[bytes], asyncssh.SSHServerSession[bytes]]:
        return self._connection.create_server_channel(encoding=None), _Session(self._owner, self._connection)


class _Session(SSHServerStreamSession[bytes]):
    """Runs our own handler for the subsystem; asyncssh's `sftp_factory` would only take its own."""

    def __init__(self, owner: FaultySftpServer, connection: asyncssh.SSHServerConnection) -> None:
        super().__init__(None)
        self._owner, self._connection = owner, connection
        self._encoding = None

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def session_started(self) -> None:
        assert self._chan is not None
        channel = cast(asyncssh.SSHServerChannel[bytes], self._chan)
        files = _Files(channel, self._owner)
        handler = _Handler(
            self._owner, self._connection, files, SSHReader(self, self._chan), SSHWriter(self, self._chan)
        )
        self._connection.create_task(handler.run())


class _Files(asyncssh.SFTPServer):
    """asyncssh's file operations, with the answers that OpenSSH's server gives."""

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], owner: FaultySftpServer) -> None:
        super().__init__(channel, chroot=os.fsencode(owner.folder))
        self._owner = owner

    def close(self, file_obj: object) -> None:
        opened = cast(BinaryIO, file_obj)
        written = opened.writable()
        super().close(file_obj)
        if self._owner.takes and written:
            path = Path(os.fsdecode(opened.name))
            self._owner.taken[path.relative_to(self._owner.folder).as_posix()] = path.read_bytes()
            path.unlink()

    def map_path(self, path: bytes) -> bytes:
        if any(len(part) > 255 for part in path.split(b"/")):
            raise asyncssh.SFTPBadMessage("File name too long")
        return super().map_path(path)

    def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        # asyncssh would only notice at the first readdir; real servers refuse the opendir.
        if not os.path.isdir(self.map_path(path)):  # noqa: PTH112 - paths as bytes
            raise asyncssh.SFTPNoSuchFile("Not a directory")
        return super().scandir(path)


class _Handler(SFTPServerHandler):
    """Looks at every request before asyncssh does, and at every answer before the client does."""

    def __init__(
        self,
        owner: FaultySftpServer,
        connection: asyncssh.SSHServerConnection,
        files: asyncssh.SFTPServer,
        reader: SSHReader[bytes],
        writer: SSHWriter[bytes],
    ) -> None:
        super().__init__(files, reader, writer, 3)
        self._owner, self._connection = owner, connection
        self._extensions = [item for item in self._extensions if _short(item[0]) not in owner.without]
        self._held: list[tuple[int, int | None, bytes]] = []
        self._fault: SftpFault | None = None

    async def _process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        body = packet.get_remaining_payload()
        if pkttype == FXP_EXTENDED:
            request, end = _short(_string(body, 0)), 0
        else:
            request = _NAMES.get(pkttype, "other")
            end = _end(pkttype, body)
        fault = self._owner.due(request, end)
        if fault is None:
            await super()._process_packet(pkttype, pktid, packet)
            return
        if fault.how == "stall":
            await asyncio.Event().wait()
        elif fault.how == "drop":
            self._connection.abort()
        elif fault.how in ("fail", "eof", "lie"):
            code = {"fail": fault.code, "eof": FX_EOF, "lie": FX_OK}[fault.how]
            super().send_packet(FXP_STATUS, pktid, UInt32(pktid), _status(code, "fault on purpose"))
        else:
            if pkttype == FXP_WRITE and fault.how == "flip":
                packet = _written_wrong(pkttype, pktid, body)
            self._fault = fault
            try:
                await super()._process_packet(pkttype, pktid, packet)
            finally:
                self._fault = None

    def send_packet(self, pkttype: int, pktid: int | None, *args: bytes) -> None:
        # asyncssh passes the number of the request as the first four bytes of the answer.
        fault, body = self._fault, b"".join(args)
        if fault is None:
            super().send_packet(pkttype, pktid, body)
            held, self._held = self._held, []
            for answer in held:
                super().send_packet(*answer)
        elif fault.how == "lost":
            self._connection.abort()
        elif fault.how == "late":
            self._held.append((pkttype, pktid, body))
        elif fault.how == "wrong id":
            super().send_packet(pkttype, pktid, UInt32(int.from_bytes(body[:4], "big") + 1000) + body[4:])
        else:
            super().send_packet(pkttype, pktid, body[:4] + _spoilt(fault.how, pkttype, body[4:]))


def _spoilt(how: How, pkttype: int, body: bytes) -> bytes:
    if pkttype == FXP_DATA:
        data = _string(body, 0)
        if how == "short":
            data = data[: max(1, len(data) // 2)]
        elif how == "empty":
            data = b""
        elif how == "flip":
            data = flipped(data, len(data) // 2)
        return String(data)
    if pkttype == FXP_NAME and how == "empty":
        return UInt32(0)
    if pkttype == FXP_ATTRS and how == "bare":
        return UInt32(0)
    return body


def _written_wrong(pkttype: int, pktid: int, body: bytes) -> SSHPacket:
    start = 4 + struct.unpack_from(">I", body)[0] + 8
    data = _string(body, start)
    packet = SSHPacket(Byte(pkttype) + UInt32(pktid) + body[:start] + String(flipped(data, len(data) // 2)))
    packet.get_byte()
    packet.get_uint32()
    return packet


def _string(body: bytes, at: int) -> bytes:
    length = struct.unpack_from(">I", body, at)[0]
    return body[at + 4 : at + 4 + length]


def _end(pkttype: int, body: bytes) -> int:
    """The first byte of the file after what a read or write asks for; 0 for other requests."""
    if pkttype not in (FXP_READ, FXP_WRITE):
        return 0
    offset, length = struct.unpack_from(">QI", body, 4 + struct.unpack_from(">I", body)[0])
    return int(offset + length)


def _status(code: int, message: str) -> bytes:
    return UInt32(code) + String(message) + String("en")


def _short(extension: bytes) -> str:
    return extension.decode().partition("@")[0]


class FaultySftpServer:
    """Serves `folder` as "/" on a port of 127.0.0.1, to `user` with `key` or `password`.

        async with FaultySftpServer(folder) as server:
            server.add(SftpFault(request="read", how="eof", at=100_000))
            ...                    # connect to 127.0.0.1:server.port, whose host key is server.fingerprint

    `without`: extensions that it does not offer: {"posix-rename", "fsync", "limits", "hardlink", "statvfs"}.
    `takes`: a file that was written is gone once it is closed, as in a drop box; `taken` holds what was in it.
    """

    user: ClassVar[str] = "tester"
    password: ClassVar[str] = "correct horse"

    def __init__(
        self, folder: Path, *faults: SftpFault, without: frozenset[str] = frozenset(), takes: bool = False
    ) -> None:
        self.folder, self.without, self.takes = folder, without, takes
        self.taken: dict[str, bytes] = {}
        """Path below the folder → content."""
        self.faults = list(faults)
        self.requests: Counter[str] = Counter()
        """How many requests of each kind have come."""
        self.accepted = 0
        """Connections taken so far."""
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self.host = "127.0.0.1"
        self.port = 0
        self.fingerprint = ""
        """"SHA256:…" of the host key."""
        self.host_key = ""
        """"ssh-ed25519 AAAA…"."""
        self.key = Path()
        """The client's private key: a file, mode 0600."""
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._listener: asyncssh.SSHAcceptor | None = None

    async def __aenter__(self) -> Self:
        host, client = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
        self.fingerprint = host.get_fingerprint()
        self.host_key = host.export_public_key().decode().strip()
        self._scratch = tempfile.TemporaryDirectory(prefix="crossdock-")
        self.key = Path(self._scratch.name) / "key"
        self.key.touch(0o600)
        self.key.write_bytes(client.export_private_key())
        self._listener = await asyncssh.listen(
            self.host,
            0,
            server_factory=lambda: _Server(self),
            server_host_keys=[host],
            authorized_client_keys=asyncssh.import_authorized_keys(client.export_public_key().decode()),
        )
        self.port = self._listener.get_port()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        assert self._scratch is not None
        self._listener.close()
        self.drop()
        await self._listener.wait_closed()
        self._scratch.cleanup()

    def add(self, fault: SftpFault) -> SftpFault:
        self.faults.append(fault)
        return fault

    def drop(self) -> None:
        """Cut every connection at once."""
        for connection in tuple(self.connections):
            connection.abort()

    def due(self, request: str, end: int) -> SftpFault | None:
        """The fault that this request meets, now used up once; None: it is served well."""
        self.requests[request] += 1
        for fault in self.faults:
            if fault.request != request or (fault.times is not None and fault.fired >= fault.times):
                continue
            if request in ("read", "write") and end <= fault.at:
                continue
            if fault.after > 0:
                fault.after -= 1
                continue
            fault.fired += 1
            return fault
        return None
