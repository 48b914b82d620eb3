"""An SSH server in this process whose SFTP is ours, in memory, so that a test can make it misbehave at any point."""

from __future__ import annotations

import asyncio
import stat
import struct
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh

from crossdock.storage.sftp import SftpSettings
from crossdock.storage.sftp import codec as c
from crossdock.storage.sftp.codec import U32, text

EXTENSIONS = ((b"posix-rename@openssh.com", b"1"), (b"fsync@openssh.com", b"1"))


def status(code: int, message: bytes = b"") -> tuple[int, bytes]:
    return c.STATUS, U32.pack(code) + text(message) + text(b"")


OK, EOF, MISSING, FAILURE = status(0), status(1), status(2), status(4)


class FakeSftp:
    """Answers requests over `files`; override a method, or set `hook`, to lie. One object serves all its sessions.

    `hook(kind, body)` may return the reply, None for the usual one, or raw bytes to send instead of a packet.
    """

    def __init__(self, **files: bytes) -> None:
        self.files: dict[bytes, bytearray] = {b"/" + name.encode(): bytearray(data) for name, data in files.items()}
        self.folders: set[bytes] = {b"/"}
        self.times: dict[bytes, int] = {}
        self.seen: list[int] = []
        self.bursts: list[list[int]] = []
        """Request types, by the channel write they came in."""
        self.extensions: Sequence[tuple[bytes, bytes]] = EXTENSIONS
        self.version = 3
        self.hook: Callable[[int, bytes], tuple[int, bytes] | bytes | None] | None = None
        self.most_read = 1 << 20
        self.attributes = c.A_SIZE | c.A_PERMISSIONS | c.A_TIMES
        self.listings: dict[bytes, bool] = {}

    def attrs(self, name: bytes) -> bytes:
        folder = name in self.folders
        out = struct.pack(">I", self.attributes)
        if self.attributes & c.A_SIZE:
            out += struct.pack(">Q", 0 if folder else len(self.files[name]))
        if self.attributes & c.A_PERMISSIONS:
            out += struct.pack(">I", (stat.S_IFDIR if folder else stat.S_IFREG) | 0o644)
        if self.attributes & c.A_TIMES:
            out += struct.pack(">II", *[self.times.get(name, 1_700_000_000)] * 2)
        return out

    def reply(self, kind: int, body: bytes) -> tuple[int, bytes] | bytes:
        if self.hook is not None and (found := self.hook(kind, body)) is not None:
            return found
        if kind == c.EXTENDED:
            name, at = c.take(body, 0)
            return self.extended(name, body[at:])
        name, at = c.take(body, 0, 1 << 20)
        rest = body[at:]
        match kind:
            case c.REALPATH:
                return c.NAME, U32.pack(1) + text(b"/") + text(b"/") + U32.pack(0)
            case c.STAT | c.LSTAT | c.FSTAT:
                return (c.ATTRS, self.attrs(name)) if name in self.files or name in self.folders else MISSING
            case c.OPEN:
                return self.open(name, U32.unpack_from(rest)[0])
            case c.READ:
                offset, length = struct.unpack(">QI", rest)
                return self.read(name, offset, length)
            case c.WRITE:
                (offset,), (data, _) = struct.unpack_from(">Q", rest), c.take(rest, 8, 1 << 20)
                self.files[name][offset : offset + len(data)] = data
                return OK
            case c.OPENDIR:
                self.listings[name] = False
                return (c.HANDLE, text(name)) if name in self.folders else MISSING
            case c.READDIR:
                return self.listing(name)
            case c.REMOVE:
                return OK if self.files.pop(name, None) is not None else MISSING
            case c.RENAME:
                new, _ = c.take(rest, 0)
                return FAILURE if new in self.files else self.move(name, new)
            case c.MKDIR:
                if name in self.folders or name in self.files:
                    return FAILURE
                if (name.rpartition(b"/")[0] or b"/") not in self.folders:
                    return MISSING
                self.folders.add(name)
                return OK
            case c.RMDIR:
                if name not in self.folders:
                    return MISSING
                self.folders.remove(name)
                return OK
            case c.FSETSTAT | c.SETSTAT:
                if name not in self.files and name not in self.folders:
                    return MISSING
                if U32.unpack_from(rest)[0] & c.A_SIZE:
                    del self.files[name][int.from_bytes(rest[4:12], "big") :]
                else:
                    self.times[name] = U32.unpack_from(rest, 8)[0]
                return OK
            case c.CLOSE:
                return OK
        return status(8)

    def extended(self, name: bytes, body: bytes) -> tuple[int, bytes] | bytes:
        if name == b"posix-rename@openssh.com":
            old, at = c.take(body, 0)
            return self.move(old, c.take(body, at)[0])
        return OK if name == b"fsync@openssh.com" else status(8)

    def move(self, old: bytes, new: bytes) -> tuple[int, bytes]:
        if old not in self.files:
            return MISSING
        self.files[new] = self.files.pop(old)
        if old in self.times:
            self.times[new] = self.times.pop(old)
        return OK

    def open(self, name: bytes, flags: int) -> tuple[int, bytes]:
        if name.rpartition(b"/")[0] not in self.folders | {b""}:
            return MISSING
        if flags & c.EXCLUSIVE and name in self.files:
            return FAILURE
        if flags & c.CREATE:
            if flags & c.TRUNCATE or name not in self.files:
                self.files[name] = bytearray()
        elif name not in self.files:
            return MISSING
        return c.HANDLE, text(name)

    def read(self, name: bytes, offset: int, length: int) -> tuple[int, bytes]:
        data = bytes(self.files[name][offset : offset + min(length, self.most_read)])
        return (c.DATA, text(data)) if data else EOF

    def names(self, name: bytes) -> list[tuple[bytes, bytes]]:
        prefix = name.rstrip(b"/") + b"/"
        below = [one for one in (*self.files, *self.folders) if one.startswith(prefix) and one != b"/"]
        return [(one.removeprefix(prefix), self.attrs(one)) for one in below if b"/" not in one.removeprefix(prefix)]

    def listing(self, name: bytes) -> tuple[int, bytes]:
        if self.listings[name]:
            return EOF
        self.listings[name] = True
        found = self.names(name)
        return c.NAME, U32.pack(len(found)) + b"".join(text(one) + text(b"") + attrs for one, attrs in found)


class FakeSession(asyncssh.SSHServerSession[bytes]):
    """One SFTP channel."""

    def __init__(self, sftp: FakeSftp) -> None:
        self.sftp, self.buffer = sftp, b""

    def connection_made(self, chan: Any) -> None:
        self.chan = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self.buffer += data
        burst: list[int] = []
        out: list[bytes] = []
        while len(self.buffer) >= 4 and len(self.buffer) >= 4 + U32.unpack_from(self.buffer)[0]:
            length = U32.unpack_from(self.buffer)[0]
            packet, self.buffer = self.buffer[4 : 4 + length], self.buffer[4 + length :]
            kind = packet[0]
            burst.append(kind)
            self.sftp.seen.append(kind)
            if kind == c.INIT:
                body = U32.pack(self.sftp.version) + b"".join(text(k) + text(v) for k, v in self.sftp.extensions)
                out.append(U32.pack(1 + len(body)) + bytes((c.VERSION,)) + body)
                continue
            answer = self.sftp.reply(kind, packet[5:])
            if isinstance(answer, bytes):
                out.append(answer.replace(b"<id>", packet[1:5]))
            else:
                out.append(U32.pack(5 + len(answer[1])) + bytes((answer[0],)) + packet[1:5] + answer[1])
        if burst:
            self.sftp.bursts.append(burst)
        if out:
            self.chan.write(b"".join(out))


class FakeServer(asyncssh.SSHServer):
    """Signs in `tester` with the password "right", or by whatever a subclass says."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.conn = conn
        self.peer.connections.append(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self.peer.connections.remove(self.conn)

    def begin_auth(self, username: str) -> bool:
        self.peer.sign_ins.append(username)
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        self.peer.passwords.append(password)
        return (username, password) == ("tester", "right")

    def session_requested(self) -> FakeSession:
        return FakeSession(self.peer.sftp)

    def connection_requested(self, host: str, port: int, from_host: str, from_port: int) -> bool:
        return True


class Peer:
    """A running server, what it saw, and settings that fit it."""

    def __init__(self, sftp: FakeSftp, keys: Sequence[asyncssh.SSHKey]) -> None:
        self.sftp, self.keys = sftp, keys
        self.port = 0
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.sign_ins: list[str] = []
        self.passwords: list[str] = []

    @property
    def fingerprints(self) -> list[str]:
        return [key.get_fingerprint() for key in self.keys]

    def settings(self, **changes: object) -> SftpSettings:
        """Signs in with the password in the environment variable FAKE_PASSWORD."""
        given: dict[str, object] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "tester",
            "password": "env:FAKE_PASSWORD",
            "host_key": self.fingerprints,
            "root": "/",
            "timeout": 30,
            "connect_timeout": 10,
        }
        return SftpSettings.model_validate(
            {key: value for key, value in (given | changes).items() if value is not None}
        )


@asynccontextmanager
async def serving(
    sftp: FakeSftp | None = None,
    *,
    server: Callable[[Peer], FakeServer] = FakeServer,
    keys: Sequence[asyncssh.SSHKey] = (),
    **options: Any,
) -> AsyncGenerator[Peer]:
    """Listen on a free loopback port until the block ends."""
    keys = keys or [asyncssh.generate_private_key("ssh-ed25519")]
    peer = Peer(sftp or FakeSftp(), keys)
    options = {"encoding": None, "server_host_keys": list(keys), "config": None} | options
    listener = await asyncssh.listen("127.0.0.1", 0, server_factory=lambda: server(peer), **options)
    peer.port = listener.get_port()
    try:
        yield peer
    finally:
        listener.close()
        for connection in list(peer.connections):
            connection.abort()
        await listener.wait_closed()
        while peer.connections:
            await asyncio.sleep(0)


def write_key(path: Path, kind: str = "ssh-ed25519", **options: Any) -> asyncssh.SSHKey:
    """A new private key in a file that only we can read."""
    key = asyncssh.generate_private_key(kind)
    path.touch(0o600)
    path.write_bytes(key.export_private_key("openssh", **options))
    return key


def only(key: asyncssh.SSHKey, *, then_password: bool = False, forever: bool = False) -> type[FakeServer]:
    """A server that takes this key, and after it, if so told, the password as well."""

    class Keyed(FakeServer):
        def connection_made(self, conn: Any) -> None:
            super().connection_made(conn)
            conn.__dict__["steps"] = 0
            succeed = conn.send_userauth_success

            async def partly() -> None:
                conn.steps += 1
                if forever or (then_password and conn.steps == 1):
                    conn.send_userauth_failure(True)
                else:
                    await succeed()

            conn.send_userauth_success = partly

        def password_auth_supported(self) -> bool:
            return then_password

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, offered: asyncssh.SSHKey) -> bool:
            self.peer.passwords.append(offered.get_fingerprint())
            return offered == key.convert_to_public()

    return Keyed
