"""Host keys: what is pinned, known, signed or revoked decides before any credential is sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from crossdock.errors import ConfigError, ConnectionFailed, HostKeyMismatch, ProtocolViolation, TimedOut
from crossdock.storage.sftp.trust import offered_keys
from crossdock.storage.storage import Storage
from tests.servers import OpenSSH
from tests.storage.sftp.fake_server import Peer, serving

ED, OTHER, AUTHORITY = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(3))
EC = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
RSA = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
SHORT = asyncssh.generate_private_key("ssh-rsa", key_size=1024)


def public(key: asyncssh.SSHKey) -> str:
    return " ".join(key.export_public_key().decode().split()[:2])


def prints(*keys: asyncssh.SSHKey) -> list[str]:
    return [key.get_fingerprint() for key in keys]


async def connects(peer: Peer, **changes: object) -> None:
    async with Storage(peer.settings(**changes).backend("fake")) as storage:
        assert [entry async for entry in storage.scan()] == []


@pytest.mark.parametrize(
    "pins",
    [
        prints(ED),
        prints(EC),
        prints(RSA),
        prints(OTHER, RSA),
        [public(ED)],
        [public(RSA)],
        [public(OTHER), public(EC)],
        [f"example.com {public(ED)} comment"],
        [prints(OTHER)[0], public(RSA)],
        [prints(ED)[0] + "="],
    ],
)
async def test_any_pinned_key_of_the_server_will_do(pins: list[str]) -> None:
    async with serving(keys=[ED, EC, RSA]) as peer:
        await connects(peer, host_key=pins)
        await connects(peer, host_key=pins[-1])


@pytest.mark.parametrize("pins", [prints(OTHER), [public(OTHER)], [*prints(OTHER, EC), public(RSA)]])
async def test_another_key_is_refused_before_anything_is_sent(pins: Sequence[str]) -> None:
    async with serving(keys=[ED]) as peer:
        with pytest.raises(HostKeyMismatch) as caught:
            await connects(peer, host_key=pins)
        assert peer.sign_ins == [] and peer.passwords == []
    message = str(caught.value)
    assert ED.get_fingerprint() in message or public(OTHER) in pins
    assert f"crossdock trust [127.0.0.1]:{peer.port}" in message
    assert OTHER.get_fingerprint() in message


async def test_every_key_that_was_offered_is_named() -> None:
    async with serving(keys=[ED, EC, RSA]) as peer:
        with pytest.raises(HostKeyMismatch) as caught:
            await connects(peer, host_key=prints(OTHER))
    for key in (ED, EC, RSA):
        assert key.get_fingerprint() in str(caught.value)


async def test_an_unknown_host_is_refused_with_the_line_to_add() -> None:
    async with serving(keys=[ED]) as peer:
        with pytest.raises(HostKeyMismatch, match="no host key is known") as caught:
            await connects(peer, host_key=None)
        assert peer.sign_ins == []
    assert f'host_key: "{ED.get_fingerprint()}"' in str(caught.value)


@pytest.mark.parametrize("where", ["setting", "home"])
async def test_known_hosts(where: str, tmp_path: Path) -> None:
    async with serving(keys=[ED, RSA]) as peer:
        path = tmp_path / "known" if where == "setting" else Path(os.environ["HOME"]) / ".ssh/known_hosts"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"[127.0.0.1]:{peer.port} {public(RSA)}\nexample.com {public(OTHER)}\n")
        await connects(peer, host_key=None, known_hosts=str(path) if where == "setting" else None)
        path.write_text(f"[127.0.0.1]:{peer.port} {public(OTHER)}\n")
        with pytest.raises(HostKeyMismatch):
            await connects(peer, host_key=None, known_hosts=str(path) if where == "setting" else None, timeout=9)


async def test_a_revoked_key_is_refused_even_if_pinned(tmp_path: Path) -> None:
    async with serving(keys=[ED]) as peer:
        path = tmp_path / "known"
        path.write_text(f"@revoked * {public(ED)}\n")
        with pytest.raises(HostKeyMismatch, match="revoked"):
            await connects(peer, known_hosts=str(path))
        assert peer.sign_ins == []


async def test_a_revocation_counts_however_the_host_is_written(tmp_path: Path) -> None:
    path = tmp_path / "known"
    async with serving(keys=[ED]) as peer:
        path.write_text(f"@revoked [localhost]:{peer.port} {public(ED)}\n")
        with pytest.raises(HostKeyMismatch, match="revoked"):
            await connects(peer, host="LocalHost", host_key=prints(ED), known_hosts=str(path))
        assert peer.sign_ins == []
        for name in ("localhost", "LOCALHOST"):
            path.write_text(f"# A comment\n[{name}]:{peer.port} {public(ED)}\n")
            await connects(peer, host="LocalHost", host_key=None, known_hosts=str(path))


@pytest.mark.parametrize(("signer", "good"), [(AUTHORITY, True), (OTHER, False)])
async def test_a_certificate_authority(signer: asyncssh.SSHKey, good: bool, tmp_path: Path) -> None:
    certificate = signer.generate_host_certificate(ED, "host", principals=["127.0.0.1"])
    path = tmp_path / "known"
    path.write_text(f"@cert-authority * {public(AUTHORITY)}\n")
    async with serving(keys=[ED], server_host_keys=[(ED, certificate)]) as peer:
        if good:
            await connects(peer, host_key=None, known_hosts=str(path))
        else:
            with pytest.raises(HostKeyMismatch):
                await connects(peer, host_key=None, known_hosts=str(path))
            assert peer.sign_ins == []


@pytest.mark.parametrize("line", ["hunter2", "* 0\0hunter2"])
async def test_what_is_no_known_hosts_file_is_not_repeated(tmp_path: Path, line: str) -> None:
    """It may be the private key, or the password; or a certificate of X.509."""
    path = tmp_path / "known"
    path.write_text(f"# ours\n* {public(ED)}\n{line}\n")
    async with serving(keys=[ED]) as peer:
        with pytest.raises(ConfigError, match=r"known is not a known_hosts file: see its line 3") as caught:
            await connects(peer, host_key=None, known_hosts=str(path))
        assert "hunter2" not in str(caught.value)
        assert peer.sign_ins == []


@pytest.mark.parametrize("pinned", [True, False])
async def test_an_expired_certificate(pinned: bool, tmp_path: Path) -> None:
    """Nothing is trusted by it; the key in it still is, if it is known by itself."""
    certificate = AUTHORITY.generate_host_certificate(ED, "host", principals=["127.0.0.1"], valid_before="20200101")
    path = tmp_path / "known"
    path.write_text(f"@cert-authority * {public(AUTHORITY)}\n" + f"* {public(ED)}\n" * pinned)
    async with serving(keys=[ED], server_host_keys=[(ED, certificate)]) as peer:
        if pinned:
            await connects(peer, host_key=None, known_hosts=str(path))
        else:
            with pytest.raises(HostKeyMismatch, match=r"nothing that is trusted \(Certificate expired"):
                await connects(peer, host_key=None, known_hosts=str(path))
            assert peer.sign_ins == []


async def test_a_short_rsa_key_needs_the_legacy_list() -> None:
    async with serving(keys=[SHORT]) as peer:
        with pytest.raises(HostKeyMismatch, match="1024 bits"):
            await connects(peer)
        await connects(peer, legacy=["ssh-rsa"])


@pytest.mark.parametrize(
    "pin", ["SHA256:short", "SHA256:!", "MD5:00:11", "nonsense", "ssh-ed25519 AAAA", "0\x03\x03\x01\x01"]
)
async def test_a_pin_that_is_none(pin: str) -> None:
    async with serving() as peer:
        with pytest.raises(ConfigError, match="host_key"):
            await connects(peer, host_key=pin)


async def test_a_missing_known_hosts_file(tmp_path: Path) -> None:
    async with serving() as peer:
        with pytest.raises(ConfigError, match="cannot read"):
            await connects(peer, known_hosts=str(tmp_path / "none"))


async def test_trust_shows_every_key_and_signs_in_nowhere() -> None:
    async with serving(keys=[ED, EC, RSA]) as peer:
        found = await offered_keys("127.0.0.1", peer.port)
        assert peer.sign_ins == []
    assert [key.fingerprint for key in found] == prints(ED, EC, RSA)
    assert [key.line for key in found] == [f"[127.0.0.1]:{peer.port} {public(key)}" for key in (ED, EC, RSA)]


@pytest.mark.filterwarnings("ignore:Diffie-Hellman")
async def test_trust_of_a_server_that_knows_outdated_algorithms_alone() -> None:
    old: dict[str, Any] = {
        "kex_algs": ["diffie-hellman-group1-sha1"],
        "encryption_algs": ["3des-cbc"],
        "mac_algs": ["hmac-sha1"],
        "signature_algs": ["ssh-rsa"],
    }
    async with serving(keys=[RSA], **old) as peer:
        assert [key.fingerprint for key in await offered_keys("127.0.0.1", peer.port)] == prints(RSA)


async def test_trust_of_openssh(openssh: OpenSSH) -> None:
    found = await offered_keys(openssh.host, openssh.port)
    assert [key.fingerprint for key in found] == list(openssh.fingerprints)
    assert [key.line for key in found] == list(openssh.host_key_lines)


async def test_trust_of_nothing() -> None:
    async with serving() as peer:
        port = peer.port
    with pytest.raises(ConnectionFailed):
        await offered_keys("127.0.0.1", port)


async def test_trust_of_a_silent_port() -> None:
    release = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    async with await asyncio.start_server(stall, "127.0.0.1", 0) as server:
        with pytest.raises(TimedOut):
            await offered_keys("127.0.0.1", server.sockets[0].getsockname()[1], timeout=0.2)
        release.set()


async def test_trust_of_what_speaks_something_like_ssh() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-\xff\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        with pytest.raises(ProtocolViolation, match="check that this is an SSH server"):
            await offered_keys("127.0.0.1", server.sockets[0].getsockname()[1], timeout=5)
