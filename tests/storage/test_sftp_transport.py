"""The shorter way out for channel data: only where it fits, and across key exchanges."""

from __future__ import annotations

import os
import random
from typing import Any

import asyncssh
import pytest
from asyncssh.encryption import GCMEncryption

from crossdock.storage.sftp import SftpSettings, connect, login
from crossdock.storage.sftp.transport import Inbox, speed_up
from crossdock.storage.storage import Storage
from tests.servers import OpenSSH
from tests.storage.sftp_fake_server import FakeSftp, serving

DATA = os.urandom(3_000_000)


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", "right")


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
    settings = connect_settings(openssh)
    async with Storage(settings.backend("server")) as storage:
        for _ in range(3):
            await storage.write_bytes("transport.bin", DATA)
            assert await storage.read_bytes("transport.bin") == DATA
        await storage.delete("transport.bin")
    assert sped_up[0][1]


def connect_settings(openssh: OpenSSH) -> Any:
    from crossdock.storage.sftp import SftpSettings

    return SftpSettings.model_validate(
        {
            "host": openssh.host,
            "port": openssh.port,
            "user": openssh.user,
            "private_key": f"file:{openssh.key}",
            "host_key": openssh.fingerprint,
        }
    )


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
    from asyncssh.connection import SSHConnection

    def send_packet(self: Any, pkttype: int, payload: bytes) -> None:
        raise AssertionError

    async with serving() as peer, Storage(peer.settings().backend("fake")) as storage:
        connection = await storage.backend.pool.acquire()  # type: ignore[attr-defined]
        del connection._ssh.send_packet
        with monkeypatch.context() as patch:
            patch.setattr(SSHConnection, "send_packet", send_packet)
            assert not speed_up(connection._ssh)
        assert speed_up(connection._ssh)
        storage.backend.pool.release(connection)  # type: ignore[attr-defined]


def test_the_inbox_is_taken_from_like_bytes() -> None:
    """Whatever is appended and taken, in whatever pieces: the same bytes as slicing a `bytes` gives."""
    draw = random.Random(20261121)
    inbox: Any = Inbox(b"start")
    plain = b"start"
    for _ in range(5000):
        if draw.random() < 0.4:
            more = draw.randbytes(draw.randrange(300))
            inbox += more
            plain += more
        take = draw.randrange(200)
        assert len(inbox) == len(plain)
        if len(plain) >= take:
            assert inbox[:take] == plain[:take]
            assert inbox[take // 2 : take] == plain[take // 2 : take]
            inbox, plain = inbox[take:], plain[take:]
        assert bool(inbox) is bool(plain)


async def test_reading_goes_on_over_new_keys(openssh: OpenSSH) -> None:
    """New keys every 256 KiB, both ways: every byte the same, and the shorter way is taken again after each."""
    data = random.Random(7).randbytes(3_000_000)
    (openssh.folder / "rekeyed").write_bytes(data)
    settings = SftpSettings.model_validate(
        {
            "host": openssh.host,
            "port": openssh.port,
            "user": openssh.user,
            "private_key": f"file:{openssh.key}",
            "host_key": openssh.fingerprint,
        }
    )
    async with Storage(settings.backend("partner")) as storage:
        connection = await storage.backend.pool.acquire()  # type: ignore[attr-defined]
        connection._ssh._rekey_bytes = 256 * 1024
        await storage.write_bytes("rekeyed.2", data)
        storage.backend.pool.release(connection)  # type: ignore[attr-defined]
        assert await storage.read_bytes("rekeyed") == data
        assert (openssh.folder / "rekeyed.2").read_bytes() == data
        await storage.stat("rekeyed")
        assert type(connection._ssh._recv_encryption).__name__ == "_Opener"
