"""A shorter way for the bulk of what is sent and received: SSH_MSG_CHANNEL_DATA under AES-GCM.

asyncssh precedes every packet with an SSH_MSG_IGNORE (a defence of CBC ciphers that GCM does not need), makes a new
AESGCM object for each, and copies what it sends and receives about nine times. Here it is copied twice. OpenSSH grants
window for every 96 KiB it takes: those packets are dealt with here as well. `speed_up` installs that on one connection
and `outlet` on its channel, and only where asyncssh's internals look as they did when this was written; packets of
every other kind, and all of them while keys are being exchanged, go asyncssh's way.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import asyncssh
from asyncssh.channel import SSHChannel
from asyncssh.connection import SSHConnection
from asyncssh.constants import MSG_CHANNEL_DATA, MSG_CHANNEL_WINDOW_ADJUST
from asyncssh.crypto.cipher import GCMCipher
from asyncssh.encryption import GCMEncryption
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crossdock.storage.sftp.codec import U32

__all__ = ["Outlet", "Receiver", "outlet", "speed_up"]

log = logging.getLogger("crossdock.storage.sftp")

_TAG = 16
_LONGEST = 256 * 1024
"""Bytes of a packet that asyncssh takes at most."""
_INBOX = 1024 * 1024
_LEAST_ROOM = 128 * 1024
_RANDOM = 8192
_STILL_SENDING = ("open", "eof_pending", "close_pending")

_ATTRIBUTES: dict[str, type | tuple[type, ...]] = {
    "_auth_complete": bool,
    "_channels": dict,
    "_keepalive_count": int,
    "_kex_complete": bool,
    "_rekey_bytes": int,
    "_rekey_bytes_sent": int,
    "_rekey_seconds": (int, float),
    "_rekey_time": (int, float),
    "_send_seq": int,
    "_send_enchdrlen": int,
    "_send_blocksize": int,
    "_send_encryption": GCMEncryption,
    "_recv_encryption": GCMEncryption,
    "_recv_seq": int,
    "_recv_blocksize": int,
    "_recv_macsize": int,
    "_inpbuf": bytes,
    "_compressor": type(None),
    "_decompressor": type(None),
}
_METHODS = ("_recv_pkthdr", "_recv_packet", "_recv_handler", "_reset_keepalive_timer", "data_received")
_CHANNEL: dict[str, type | tuple[type, ...]] = {
    "_send_state": str,
    "_send_chan": int,
    "_send_window": int,
    "_send_pktsize": int,
    "_send_buf": list,
    "_send_buf_len": int,
    "_recv_state": str,
    "_recv_window": int,
    "_init_recv_window": int,
    "_recv_paused": (bool, str),
    "_encoding": type(None),
}


def speed_up(ssh: asyncssh.SSHClientConnection) -> bool:
    """Install the shorter ways on a connection that is signed in. False: asyncssh's own stay."""
    if not _as_expected(ssh):
        log.debug("asyncssh sends and receives channel data in its own way on this connection")
        return False
    any_ssh: Any = ssh
    ssh.send_packet = _Sender(any_ssh).send_packet  # type: ignore[method-assign]
    transport = any_ssh._transport
    # A connection through another one has no transport of its own.
    if hasattr(transport, "set_protocol"):
        transport.set_protocol(Receiver(any_ssh))
    return True


def outlet(channel: Any) -> Outlet | None:
    """The shorter way out of a channel just opened on a connection that has been sped up."""
    ssh = getattr(channel, "_conn", None)
    sender = getattr(getattr(ssh, "send_packet", None), "__self__", None)
    usual = list(inspect.signature(SSHChannel._flush_send_buf).parameters) == ["self"] and _have(channel, _CHANNEL)
    if not isinstance(sender, _Sender) or not usual or channel._send_buf:
        return None
    return Outlet(channel, sender)


def _have(found: Any, attributes: dict[str, type | tuple[type, ...]]) -> bool:
    return all(isinstance(getattr(found, name, found), kind) for name, kind in attributes.items())


def _as_expected(ssh: Any) -> bool:
    if list(inspect.signature(SSHConnection.send_packet).parameters) != ["self", "pkttype", "args", "handler"]:
        return False
    if not _have(ssh, _ATTRIBUTES) or not all(callable(getattr(ssh, name, None)) for name in _METHODS):
        return False
    ciphers = (_cipher(ssh._send_encryption), _cipher(ssh._recv_encryption))
    return None not in ciphers and callable(getattr(getattr(ssh, "_transport", None), "writelines", None))


def _cipher(encryption: Any) -> Any:
    """The GCM cipher of one direction; None if it looks different."""
    cipher = getattr(encryption, "_cipher", None)
    usual = (
        type(encryption) is GCMEncryption
        and isinstance(cipher, GCMCipher)
        and isinstance(getattr(cipher, "_key", None), bytes)
        and isinstance(getattr(cipher, "_iv", None), bytes)
        and len(cipher._iv) == 12
        and callable(getattr(cipher, "_update_iv", None))
    )
    return cipher if usual else None


class _Sender:
    """Seals channel data; stands in for a connection's `send_packet`."""

    def __init__(self, ssh: Any) -> None:
        self._ssh = ssh
        self._original: Callable[..., None] = ssh.send_packet
        self._encryption: Any = None
        self._cipher: Any = None
        self._encrypt: Callable[[bytes, bytes, bytes], bytes] = AESGCM(bytes(16)).encrypt
        self._random, self._used = b"", 0

    def ready(self) -> bool:
        """Whether the shorter way can be gone just now."""
        ssh, encryption = self._ssh, self._ssh._send_encryption
        if encryption is not self._encryption:
            cipher = _cipher(encryption)
            if cipher is None:
                return False
            self._encryption, self._cipher, self._encrypt = encryption, cipher, AESGCM(cipher._key).encrypt
        return (
            ssh._kex_complete
            and ssh._auth_complete
            and ssh._transport is not None
            and not ssh._transport.is_closing()  # which writelines of Python 3.12 does not ask (gh-136234)
            and ssh._rekey_bytes_sent < ssh._rekey_bytes
            and not (ssh._rekey_seconds and time.monotonic() >= ssh._rekey_time)
        )

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        if pkttype == MSG_CHANNEL_DATA and self.ready():
            self._ssh._transport.writelines(self.sealed(args, sum(map(len, args))))
        else:
            self._original(pkttype, *args, handler=handler)

    def data(self, channel: int, parts: Sequence[bytes | memoryview], size: int) -> tuple[bytes, bytes] | None:
        """A packet of channel data, to be written; None: asyncssh has to send it."""
        if not self.ready():
            return None
        return self.sealed((U32.pack(channel), U32.pack(size), *parts), size + 8)

    def sealed(self, payload: Sequence[bytes | memoryview], size: int) -> tuple[bytes, bytes]:
        """The next packet (RFC 4253 §6, RFC 5647 §7.2): its length, then what is encrypted with its tag."""
        ssh, cipher = self._ssh, self._cipher
        padding = -(ssh._send_enchdrlen + 1 + size) % ssh._send_blocksize
        if padding < 4:
            padding += ssh._send_blocksize
        if self._used + padding > len(self._random):
            self._random, self._used = os.urandom(_RANDOM), 0
        fill = self._random[self._used : self._used + padding]
        self._used += padding
        packet = b"".join((bytes((padding, MSG_CHANNEL_DATA)), *payload, fill))
        header = U32.pack(len(packet))
        sealed = self._encrypt(cipher._iv, packet, header)
        cipher._update_iv()
        ssh._send_seq = (ssh._send_seq + 1) & 0xFFFFFFFF
        ssh._rekey_bytes_sent += len(packet)
        return header, sealed

    def slowly(self, channel: Any, parts: Sequence[bytes | memoryview], size: int) -> None:
        payload = b"".join((U32.pack(channel._send_chan), U32.pack(size), *parts))
        self._original(MSG_CHANNEL_DATA, payload, handler=channel)

    def write(self, packets: list[bytes]) -> None:
        if packets and self._ssh._transport is not None:
            self._ssh._transport.writelines(packets)


class Outlet:
    """Cuts what is written into packets as the channel's window allows, without joining it first."""

    def __init__(self, channel: Any, sender: _Sender) -> None:
        self._channel, self._sender = channel, sender
        self._parts: deque[bytes | memoryview] = deque()
        self._original: Callable[[], None] = channel._flush_send_buf
        channel._flush_send_buf = self._flush

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Raises `OSError` if the channel is not open."""
        if self._channel._send_state != "open":
            raise BrokenPipeError("the channel is not open")
        self._parts += parts
        self._channel._send_buf_len += sum(map(len, parts))
        self._flush()

    def _flush(self) -> None:
        """Called by asyncssh too, when the window has grown or the channel is to be closed."""
        channel = self._channel
        packets: list[bytes] = []
        if channel._send_state not in _STILL_SENDING:
            self._parts.clear()
        while self._parts and channel._send_window > 0:
            parts, size = self._cut(min(channel._send_window, channel._send_pktsize))
            channel._send_buf_len -= size
            channel._send_window -= size
            packet = self._sender.data(channel._send_chan, parts, size)
            if packet is None:
                self._sender.write(packets)
                packets = []
                self._sender.slowly(channel, parts, size)
            else:
                packets += packet
        self._sender.write(packets)
        if self._parts:
            channel._pause_resume_writing()
        else:
            self._original()

    def _cut(self, most: int) -> tuple[list[bytes | memoryview], int]:
        found: list[bytes | memoryview] = []
        size, parts = 0, self._parts
        while parts and size < most:
            part = parts[0]
            if size + len(part) > most:
                view = memoryview(part)
                found.append(view[: most - size])
                parts[0] = view[most - size :]
                return found, most
            found.append(parts.popleft())
            size += len(part)
        return found, size


class Receiver(asyncio.BufferedProtocol):
    """Stands between a transport and asyncssh's connection: opens packets of channel data, passes on all else."""

    def __init__(self, ssh: Any) -> None:
        self._ssh = ssh
        self._buffer = bytearray(_INBOX)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._encryption: Any = None
        self._cipher: Any = None
        self._decrypt: Callable[[bytes, memoryview, memoryview], bytes] = AESGCM(bytes(16)).decrypt
        # Channels whose window has grown: each goes on sending once all that has arrived is dealt with.
        self._granted: set[Any] = set()
        self.opened = self.adjusted = 0
        """Packets of channel data, and of window, that came the shorter way."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._ssh.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return cast("bool | None", self._ssh.eof_received())

    def pause_writing(self) -> None:
        self._ssh.pause_writing()

    def resume_writing(self) -> None:
        self._ssh.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        if len(self._buffer) - self._end < _LEAST_ROOM:
            # Less than a packet, as all whole ones have been taken out.
            kept = self._end - self._start
            self._buffer[:kept] = self._buffer[self._start : self._end]
            self._start, self._end = 0, kept
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        ssh, self._end = self._ssh, self._end + nbytes
        ssh._reset_keepalive_timer()
        ssh._keepalive_count = 0  # who sends is there, while our question still waits in a slow line
        while self._start < self._end and ssh._transport is not None and self._next(self._end - self._start):
            pass
        if self._start == self._end or ssh._transport is None:
            self._start = self._end = 0
        while self._granted:
            if (channel := self._granted.pop())._send_state == "open":
                channel._flush_send_buf()

    def _next(self, have: int) -> bool:
        """Take one packet, or pass something on. False: more has to come first."""
        ssh = self._ssh
        missing = self._missing(have)
        if missing:
            self._pass_on(min(missing, have))
            return True
        if have < 4:
            return False
        start = self._start
        (length,) = U32.unpack_from(self._buffer, start)
        if length > _LONGEST:
            self._pass_on(have)
            return True
        end = start + 4 + length + _TAG
        if end > self._end:
            return False
        view, cipher = self._view, self._cipher
        try:
            plain = self._decrypt(cipher._iv, view[start + 4 : end], view[start : start + 4])
        except InvalidTag:
            self._pass_on(have)
            return True
        channel = self._channel(plain) or self._grown(plain)
        if channel is None:
            self._pass_on(end - start)
            return True
        cipher._update_iv()
        ssh._recv_seq = (ssh._recv_seq + 1) & 0xFFFFFFFF
        self._start = end
        if plain[1] == MSG_CHANNEL_DATA:
            self.opened += 1
            self._deliver(channel, memoryview(plain)[10 : -plain[0]])
        else:
            self.adjusted += 1
            channel._send_window += U32.unpack_from(plain, 6)[0]
            self._granted.add(channel)
        return True

    def _missing(self, have: int) -> int:
        """Bytes that asyncssh has to get before the next packet can be opened here."""
        ssh = self._ssh
        handler, held, block = ssh._recv_handler, len(ssh._inpbuf), int(ssh._recv_blocksize)
        if handler == ssh._recv_packet:
            return max(4 + int(ssh._pktlen) + int(ssh._recv_macsize) - block - held, 1)
        if handler != ssh._recv_pkthdr:
            return have
        if held:
            return max(block - held, 1)
        encryption = ssh._recv_encryption
        if encryption is not self._encryption:
            cipher = _cipher(encryption)
            if cipher is None or ssh._decompressor is not None:
                return have
            self._encryption, self._cipher, self._decrypt = encryption, cipher, AESGCM(cipher._key).decrypt
        return 0

    def _pass_on(self, size: int) -> None:
        data = bytes(self._view[self._start : self._start + size])
        self._start += size
        self._ssh.data_received(data)

    def _channel(self, plain: bytes) -> Any:
        """The channel that a packet's data is for; None if it is not data, or not as simple as that."""
        if len(plain) < 14 or plain[1] != MSG_CHANNEL_DATA:
            return None
        size = len(plain) - plain[0] - 10
        channel = self._ssh._channels.get(U32.unpack_from(plain, 2)[0])
        if (
            channel is None
            or not 0 < size <= channel._recv_window
            or U32.unpack_from(plain, 6)[0] != size
            or channel._recv_state != "open"
            or channel._send_state != "open"
            or channel._recv_paused
            or channel._encoding
            or channel._session is None
        ):
            return None
        return channel

    def _grown(self, plain: bytes) -> Any:
        """The channel whose window the packet enlarges; None if it does something else."""
        if len(plain) < 14 or len(plain) - plain[0] != 10 or plain[1] != MSG_CHANNEL_WINDOW_ADJUST:
            return None
        channel = self._ssh._channels.get(U32.unpack_from(plain, 2)[0])
        return channel if channel and channel._recv_state == channel._send_state == "open" else None

    def _deliver(self, channel: Any, data: memoryview) -> None:
        """As asyncssh's channel does it, the window included."""
        channel._recv_window -= len(data)
        if channel._recv_window < channel._init_recv_window / 2:
            adjust = channel._init_recv_window - channel._recv_window
            channel.send_packet(MSG_CHANNEL_WINDOW_ADJUST, U32.pack(adjust))
            channel._recv_window = channel._init_recv_window
        channel._session.data_received(data, None)
