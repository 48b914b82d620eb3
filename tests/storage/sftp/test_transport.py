"""The shorter way out for channel data: only where it fits, and across key exchanges."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import asyncssh
import pytest
from asyncssh.connection import SSHConnection
from asyncssh.constants import MSG_CHANNEL_OPEN, MSG_IGNORE
from asyncssh.crypto.cipher import GCMCipher
from asyncssh.encryption import GCMEncryption

from crossdock.storage.sftp import SftpSettings, connect, login
from crossdock.storage.sftp import codec as c
from crossdock.storage.sftp.codec import text
from crossdock.storage.sftp.replies import Lost
from crossdock.storage.sftp.transport import Receiver, speed_up
from crossdock.storage.storage import Storage
from tests.servers import OpenSSH
from tests.storage.sftp.fake_server import FakeSftp, serving

DATA = os.urandom(3_000_000)


@pytest.fixture
def sped_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[asyncssh.SSHClientConnection, bool]]:
    seen: list[tuple[asyncssh.SSHClientConnection, bool]] = []

    def noting(ssh: asyncssh.SSHClientConnection) -> bool:
        seen.append((ssh, speed_up(ssh)))
        return seen[-1][1]

    monkeypatch.setattr(connect, "speed_up", noting)
    return seen


async def moves(storage: Storage) -> None:
    await storage.write_bytes("x", DATA)
    assert await storage.read_bytes("x") == DATA


@pytest.mark.parametrize(
    ("cipher", "fast"),
    [
        ("aes128-gcm@openssh.com", True),
        ("aes256-gcm@openssh.com", True),
        ("chacha20-poly1305@openssh.com", False),
        ("aes256-ctr", False),
    ],
)
async def test_only_under_gcm(cipher: str, fast: bool, sped_up: list[Any]) -> None:
    async with serving(FakeSftp(), encryption_algs=[cipher]) as peer:
        async with Storage(peer.settings().backend("fake")) as storage:
            await moves(storage)
    assert [used for _, used in sped_up] == [fast]


@pytest.mark.parametrize(("cipher", "ignored"), [("chacha20-poly1305@openssh.com", False), ("aes128-cbc", True)])
async def test_packets_to_be_ignored_are_for_cbc_alone(
    cipher: str, ignored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    usual = SSHConnection.send_packet

    def noting(self: SSHConnection, pkttype: int, *args: bytes, handler: Any = None) -> None:
        if self.is_client():
            sent.append(pkttype)
        usual(self, pkttype, *args, handler=handler)

    monkeypatch.setattr(SSHConnection, "send_packet", noting)
    async with serving(FakeSftp(), encryption_algs=[cipher]) as peer:
        async with Storage(peer.settings(legacy="aes128-cbc").backend("fake")) as storage:
            await moves(storage)
    assert (MSG_IGNORE in sent[sent.index(MSG_CHANNEL_OPEN) :]) is ignored


@pytest.mark.parametrize("side", ["client", "server"])
async def test_keys_are_exchanged_anew_on_the_way(
    side: str, sped_up: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    new = GCMEncryption.new

    def counting(*args: Any, **options: Any) -> GCMEncryption:
        nonlocal made
        made += 1
        return new(*args, **options)

    monkeypatch.setattr(GCMEncryption, "new", counting)
    if side == "client":
        given = login.algorithms
        monkeypatch.setattr(connect, "algorithms", lambda legacy: given(legacy) | {"rekey_bytes": 300_000})
    options: dict[str, Any] = {"rekey_bytes": 300_000} if side == "server" else {}
    async with serving(FakeSftp(), **options) as peer:
        async with Storage(peer.settings(window=256 * 1024).backend("fake")) as storage:
            await moves(storage)
    # Two directions at each of two ends, at the start and then again and again.
    assert made >= 4 * 5 and sped_up[0][1]


async def test_with_openssh_across_key_exchanges(
    openssh: OpenSSH, sped_up: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = login.algorithms
    monkeypatch.setattr(connect, "algorithms", lambda legacy: given(legacy) | {"rekey_bytes": 500_000})
    settings = SftpSettings.model_validate(openssh.settings())
    async with Storage(settings.backend("server")) as storage:
        for _ in range(3):
            await storage.write_bytes("transport.bin", DATA)
            assert await storage.read_bytes("transport.bin") == DATA
        await storage.delete("transport.bin")
    assert sped_up[0][1]


@pytest.mark.parametrize(
    "change",
    [
        lambda ssh: ssh.__dict__.pop("_rekey_bytes_sent"),
        lambda ssh: setattr(ssh, "_send_seq", None),
        lambda ssh: setattr(ssh, "_compressor", object()),
        lambda ssh: setattr(ssh._send_encryption._cipher, "_iv", b"short"),
        lambda ssh: setattr(ssh._send_encryption, "_cipher", object()),
    ],
)
async def test_internals_that_look_different_are_left_alone(change: Any) -> None:
    async with serving() as peer:
        options: dict[str, Any] = {
            "config": None,
            "username": "tester",
            "password": "right",
            "known_hosts": None,
            "client_keys": None,
            "encryption_algs": ["aes128-gcm@openssh.com"],
            "compression_algs": ["none"],
        }
        ssh = await asyncssh.connect("127.0.0.1", peer.port, **options)
        try:
            change(ssh)
            assert not speed_up(ssh)
            assert "send_packet" not in ssh.__dict__
        finally:
            ssh.abort()


async def test_another_signature_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def send_packet(self: Any, pkttype: int, payload: bytes) -> None:
        raise AssertionError

    async with serving() as peer, Storage(peer.settings().backend("fake")) as storage:
        connection = await storage.backend.calls.pool.acquire()  # type: ignore[attr-defined]
        del connection._ssh.send_packet
        with monkeypatch.context() as patch:
            patch.setattr(SSHConnection, "send_packet", send_packet)
            assert not speed_up(connection._ssh)
        assert speed_up(connection._ssh)
        storage.backend.calls.pool.release(connection)  # type: ignore[attr-defined]


async def test_nothing_is_handed_to_a_transport_that_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the failure and the notice of it: `writelines` of Python 3.12 takes it, and mixes up sockets."""
    async with serving(FakeSftp(x=b"1")) as peer, Storage(peer.settings().backend("fake")) as storage:
        connection = await storage.backend.calls.pool.acquire()  # type: ignore[attr-defined]
        transport, session, late = connection._ssh._transport, connection.session, 0
        writelines = transport.writelines

        def noting(parts: list[bytes]) -> None:
            nonlocal late
            late += transport.is_closing()
            writelines(parts)

        monkeypatch.setattr(transport, "writelines", noting)
        assert (await session.attrs(c.STAT, text(b"/x"))).size == 1
        transport.abort()
        lost = session.request(c.STAT, text(b"/x"))
        session._flush()
        with pytest.raises(Lost):
            await lost
        storage.backend.calls.pool.release(connection)  # type: ignore[attr-defined]
        assert late == 0


class _Ssh:
    """As much of asyncssh's connection as a receiver touches; takes packets that are passed on as asyncssh does."""

    def __init__(self, cipher: GCMCipher) -> None:
        self._recv_encryption = GCMEncryption(cipher)
        self._recv_blocksize, self._recv_macsize, self._recv_seq, self._pktlen = 16, 16, 0, 0
        self._decompressor = None
        self._transport = object()
        self._inpbuf = b""
        self._recv_handler = self._recv_pkthdr
        self._channels: dict[int, Any] = {}
        self.others: list[bytes] = []
        self.busy = False
        self._keepalive_count = 3

    def _reset_keepalive_timer(self) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        self._inpbuf += data
        while self._inpbuf and self._recv_handler():
            pass

    def _recv_pkthdr(self) -> bool:
        if len(self._inpbuf) < self._recv_blocksize:
            return False
        self._packet, self._inpbuf = self._inpbuf[:16], self._inpbuf[16:]
        self._pktlen = int.from_bytes(self._packet[:4], "big")
        self._recv_handler = self._recv_packet
        return True

    def _recv_packet(self) -> bool:
        size = 4 + self._pktlen + 16 - 16
        if len(self._inpbuf) < size:
            return False
        rest, mac, self._inpbuf = self._inpbuf[: size - 16], self._inpbuf[size - 16 : size], self._inpbuf[size:]
        plain = self._recv_encryption.decrypt_packet(0, self._packet, rest, 4, mac)
        assert plain is not None
        self.others.append(plain[1 : -plain[0]])
        self._recv_handler = self._waiting if self.busy else self._recv_pkthdr
        return not self.busy

    def _waiting(self) -> bool:
        return False

    def go_on(self) -> None:
        self.busy = False
        if self._recv_handler == self._waiting:
            self._recv_handler = self._recv_pkthdr
        self.data_received(b"")


class _ReceivingChannel:
    def __init__(self) -> None:
        self._recv_window = self._init_recv_window = 100_000
        self._recv_state = self._send_state = "open"
        self._recv_paused, self._encoding, self._session = False, None, self
        self.data, self.adjusted = b"", 0
        self._send_window = self.flushed = 0

    def _flush_send_buf(self) -> None:
        self.flushed = self._send_window

    def data_received(self, data: Any, datatype: None) -> None:
        self.data += data

    def send_packet(self, kind: int, adjust: bytes) -> None:
        assert kind == 93
        self.adjusted += int.from_bytes(adjust, "big")


@pytest.mark.parametrize("most", [1, 30, 1000, 500_000])
def test_packets_cut_anywhere(most: int) -> None:
    """Data goes to its channel, every other packet to asyncssh, whatever the pieces, also while asyncssh is busy."""
    draw = random.Random(most)
    key, iv = draw.randbytes(16), draw.randbytes(12)
    ours, theirs = GCMCipher("aes128-gcm", key, iv), GCMCipher("aes128-gcm", key, iv)
    ssh, channel = _Ssh(ours), _ReceivingChannel()
    ssh._channels[7] = channel
    receiver = Receiver(ssh)
    stream, data, others, granted = b"", b"", [], 0
    for _ in range(40 if most == 1 else 400):
        body = draw.randbytes(draw.choice((1, 20, 5000)))
        grant = draw.random() < 0.1
        if grant:
            payload, granted = b"\x5d\0\0\0\x07" + (5).to_bytes(4, "big"), granted + 5
        elif draw.random() < 0.8:
            payload, data = b"\x5e" + (7).to_bytes(4, "big") + text(body), data + body
        else:
            # An ignored packet, data with another length inside, data of a channel that is not there, its window.
            payload = draw.choice(
                (
                    b"\x02" + text(body),
                    b"\x5e\0\0\0\x07" + body,
                    b"\x5e\0\0\0\x08" + text(body),
                    b"\x5d\0\0\0\x08\0\0\0\x05",
                    b"\x5d\0\0\0\x07\0\0\0\x05\0",
                )
            )
            others.append(payload)
        padding = 4 + -(5 + len(payload) + 4) % 16
        packet = bytes((padding,)) + payload + bytes(padding)
        stream += b"".join(theirs.encrypt_and_sign(len(packet).to_bytes(4, "big"), packet))
    at = 0
    while at < len(stream):
        ssh.busy = ssh.busy or draw.random() < 0.05
        room = receiver.get_buffer(-1)
        assert len(room) >= 128 * 1024
        size = min(draw.randint(1, most), len(stream) - at, len(room))
        room[:size] = stream[at : at + size]
        receiver.buffer_updated(size)
        at += size
        if draw.random() < 0.3:
            ssh.go_on()
    ssh.go_on()
    late = [packet for packet in ssh.others if packet.startswith(b"\x5e\0\0\0\x07") and packet not in others]
    grants = [packet for packet in ssh.others if packet == b"\x5d\0\0\0\x07\0\0\0\x05"]
    late += grants
    assert channel.flushed == channel._send_window == granted - 5 * len(grants) == 5 * receiver.adjusted
    assert sorted(packet for packet in ssh.others if packet not in late) == sorted(others)
    assert len(channel.data) + sum(len(packet) - 9 for packet in late if packet not in grants) == len(data)
    assert ssh._keepalive_count == 0
    assert receiver.opened > 20 and channel._recv_window == 100_000 + channel.adjusted - len(channel.data)
    if len(late) == len(grants):
        assert channel.data == data


def test_under_uvloop(openssh: OpenSSH) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def work() -> tuple[int, int]:
        async with Storage(SftpSettings.model_validate(openssh.settings()).backend("server")) as storage:
            await storage.write_bytes("uvloop.bin", DATA)
            assert await storage.read_bytes("uvloop.bin") == DATA
            await storage.delete("uvloop.bin")
            connection = await storage.backend.calls.pool.acquire()  # type: ignore[attr-defined]
            storage.backend.calls.pool.release(connection)  # type: ignore[attr-defined]
            receiver: Any = connection._ssh._transport.get_protocol()
            return receiver.opened, receiver.adjusted

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        opened, adjusted = runner.run(work())
    assert opened > len(DATA) // (32 * 1024)
    assert adjusted > 5


async def test_reading_goes_on_over_new_keys(openssh: OpenSSH) -> None:
    """New keys every 256 KiB, both ways: every byte the same, and the shorter way is taken again after each."""
    data = random.Random(7).randbytes(3_000_000)
    (openssh.folder / "rekeyed").write_bytes(data)
    settings = SftpSettings.model_validate(openssh.settings())
    async with Storage(settings.backend("partner")) as storage:
        connection = await storage.backend.calls.pool.acquire()  # type: ignore[attr-defined]
        connection._ssh._rekey_bytes = 256 * 1024
        await storage.write_bytes("rekeyed.2", data)
        storage.backend.calls.pool.release(connection)  # type: ignore[attr-defined]
        assert await storage.read_bytes("rekeyed") == data
        assert (openssh.folder / "rekeyed.2").read_bytes() == data
        receiver = connection._ssh._transport.get_protocol()
        assert isinstance(receiver, Receiver)
        before = receiver.opened
        assert await storage.read_bytes("rekeyed") == data
        assert receiver.opened - before > len(data) // (32 * 1024)
