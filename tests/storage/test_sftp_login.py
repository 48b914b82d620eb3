"""Signing in: every kind, each credential once, no secret anywhere, and ways round a firewall."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from crossdock.errors import AuthenticationFailed, ConfigError, ConnectionFailed, HostKeyMismatch, Unsupported
from crossdock.storage.registry import parse_url
from crossdock.storage.sftp import SftpSettings
from crossdock.storage.sftp.pool import _BREAKERS
from crossdock.storage.storage import Storage
from tests.servers import OpenSSH
from tests.storage.sftp_fake_server import FakeServer, serving, write_key


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", "right")
    _BREAKERS.clear()


async def connects(settings: SftpSettings) -> None:
    async with Storage(settings.backend("fake")) as storage:
        assert (await storage.stat("")).kind == "dir"


async def test_password() -> None:
    async with serving() as peer:
        await connects(peer.settings())
        assert peer.passwords == ["right"]


async def test_a_wrong_password_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", "wrong")
    async with serving() as peer:
        with pytest.raises(AuthenticationFailed, match="does not let 'tester' in with a password"):
            await connects(peer.settings())
        assert peer.passwords == ["wrong"]


class Interactive(FakeServer):
    """Asks `rounds` of prompts, then lets in who answered "right" to all."""

    rounds: list[list[tuple[str, bool]]]

    def password_auth_supported(self) -> bool:
        return False

    def kbdint_auth_supported(self) -> bool:
        return True

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        self.left = list(self.rounds)
        return "", "", "", self.left.pop(0)

    def validate_kbdint_response(self, username: str, responses: Any) -> Any:
        self.peer.passwords += responses
        if any(answer != "right" for answer in responses):
            return False
        return ("", "", "", self.left.pop(0)) if self.left else True


ASKED = ("Password: ", False)


@pytest.mark.parametrize(
    ("rounds", "good"),
    [
        ([[ASKED]], True),
        ([[("Kennwort?", False)]], True),
        ([[], [ASKED], []], True),
        ([[ASKED, ("Retype password", False)]], True),
        ([[ASKED, ("One-time code", False)]], False),
        ([[("Your name", True)]], False),
        ([[ASKED] * 50], False),
        ([[]] * 50, False),
        ([[ASKED], [ASKED]], False),
    ],
)
async def test_keyboard_interactive(rounds: list[list[tuple[str, bool]]], good: bool) -> None:
    class Asking(Interactive):
        pass

    Asking.rounds = rounds
    async with serving(server=Asking) as peer:
        if good:
            await connects(peer.settings())
        else:
            with pytest.raises(AuthenticationFailed):
                await connects(peer.settings())
            assert len(peer.passwords) <= 1


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


@pytest.mark.parametrize("passphrase", [None, "open sesame"])
async def test_key_file(tmp_path: Path, passphrase: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    key = write_key(tmp_path / "key", **({"passphrase": passphrase} if passphrase else {}))
    monkeypatch.setenv("KEY_PASSPHRASE", passphrase or "")
    given = {"private_key": f"file:{tmp_path}/key", "password": None}
    async with serving(server=only(key)) as peer:
        if passphrase is None:
            await connects(peer.settings(**given))
            return
        with pytest.raises(ConfigError, match="set passphrase"):
            await connects(peer.settings(**given))
        await connects(peer.settings(**given, passphrase="env:KEY_PASSPHRASE"))
        monkeypatch.setenv("KEY_PASSPHRASE", "another")
        with pytest.raises(ConfigError, match="cannot decrypt"):
            await connects(peer.settings(**given, passphrase="env:KEY_PASSPHRASE"))


async def test_only_configured_keys_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(os.environ["HOME"]) / ".ssh"
    home.mkdir()
    for name in ("id_ed25519", "id_rsa"):
        write_key(home / name)
    first, second = write_key(tmp_path / "one"), write_key(tmp_path / "two")
    monkeypatch.setenv("KEY_TEXT", (tmp_path / "two").read_text())
    async with serving(server=only(second)) as peer:
        await connects(peer.settings(password=None, private_key=[f"file:{tmp_path}/one", "env:KEY_TEXT"]))
        assert set(peer.passwords) == {first.get_fingerprint(), second.get_fingerprint()}
        with pytest.raises(AuthenticationFailed, match="no credentials at all"):
            await connects(peer.settings(password=None))
        assert len(set(peer.passwords)) == 2


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
async def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    key = write_key(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    async with serving(server=only(key)) as peer:
        with pytest.raises(ConfigError, match=f"chmod 600 {tmp_path}/key"):
            await connects(peer.settings(password=None, private_key=f"file:{tmp_path}/key"))
        assert peer.sign_ins == []


async def test_key_and_password(tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    async with serving(server=only(key, then_password=True)) as peer:
        await connects(peer.settings(private_key=f"file:{tmp_path}/key"))
        assert peer.passwords[-1] == "right"
        with pytest.raises(AuthenticationFailed):
            await connects(peer.settings(private_key=f"file:{tmp_path}/key", password=None))


async def test_partial_success_without_end(tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    async with serving(server=only(key, then_password=True, forever=True)) as peer:
        with pytest.raises(AuthenticationFailed):
            await connects(peer.settings(private_key=f"file:{tmp_path}/key"))
        assert peer.passwords.count("right") == 1


async def test_certificate(tmp_path: Path) -> None:
    authority, key = asyncssh.generate_private_key("ssh-ed25519"), write_key(tmp_path / "key")
    authority.generate_user_certificate(key, "me", principals=["tester"]).write_certificate(tmp_path / "key-cert.pub")

    class Certified(FakeServer):
        def password_auth_supported(self) -> bool:
            return False

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_ca_key(self, username: str, offered: asyncssh.SSHKey) -> bool:
            return offered == authority.convert_to_public()

    async with serving(server=Certified) as peer:
        given = {"password": None, "private_key": f"file:{tmp_path}/key"}
        await connects(peer.settings(**given, certificate=f"{tmp_path}/key-cert.pub"))
        with pytest.raises(AuthenticationFailed):
            await connects(peer.settings(**given))


async def test_agent_that_is_not_there() -> None:
    async with serving() as peer:
        with pytest.raises(ConfigError, match="no ssh-agent"):
            await connects(peer.settings(agent=True))


async def test_no_secret_in_logs_or_messages(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = "canary-7f3a91"
    monkeypatch.setenv("FAKE_PASSWORD", canary)
    caplog.set_level(logging.DEBUG)
    for name in ("asyncssh", "crossdock", "crossdock.storage.sftp"):
        caplog.set_level(logging.DEBUG, logger=name)
    async with serving() as peer:
        settings = peer.settings()
        with pytest.raises(AuthenticationFailed) as caught:
            await connects(settings)
        assert peer.passwords == [canary]
    seen = [caplog.text, str(caught.value), repr(caught.value), repr(settings), settings.model_dump_json()]
    assert all(canary not in text for text in seen)


def test_asyncssh_is_quiet() -> None:
    assert not logging.getLogger("asyncssh").isEnabledFor(logging.INFO)


async def test_ssh_config(tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    folder = Path(os.environ["HOME"]) / ".ssh"
    folder.mkdir()
    async with serving(server=only(key)) as peer:
        (folder / "config").write_text(
            f"Host partner\n  HostName 127.0.0.1\n  Port {peer.port}\n  User tester\n  IdentityFile {tmp_path}/key\n"
        )
        base = peer.settings(host="partner", port=None, user=None, password=None)
        await connects(base.model_copy(update={"ssh_config": True}))
        await connects(base.model_copy(update={"host": "elsewhere", "ssh_config": "partner"}))
        (tmp_path / "key").chmod(0o644)
        with pytest.raises(ConfigError, match="chmod 600"):
            await connects(base.model_copy(update={"ssh_config": True}))
        assert set(peer.sign_ins) == {"tester"}


async def test_jump_host(tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    async with serving(server=only(key)) as far, serving(server=only(key)) as near:
        given = {"private_key": f"file:{tmp_path}/key", "jump": f"tester@127.0.0.1:{near.port}"}
        await connects(far.settings(**given, jump_host_key=near.fingerprints))
        assert near.sign_ins == ["tester"] and "right" not in near.passwords
        with pytest.raises(HostKeyMismatch):
            await connects(far.settings(**given, jump_host_key=far.fingerprints))
        assert near.sign_ins == ["tester"] and far.sign_ins == ["tester"]


@asynccontextmanager
async def proxy(*, refuse: bool = False) -> AsyncGenerator[tuple[int, list[str]]]:
    """SOCKS5 with sign-in (RFC 1928, 1929), and HTTP CONNECT, on one port."""
    seen: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(1)
        if first == b"C":
            head = first + await reader.readuntil(b"\r\n\r\n")
            host, _, port = head.split()[1].decode().partition(":")
            seen.append("http")
            answer = b"HTTP/1.1 403 Forbidden\r\n\r\n" if refuse else b"HTTP/1.1 200 OK\r\n\r\n"
        else:
            methods = await reader.readexactly((await reader.readexactly(1))[0])
            if 2 in methods:
                writer.write(b"\5\2")
                await reader.readexactly(1)
                name = await reader.readexactly((await reader.readexactly(1))[0])
                word = await reader.readexactly((await reader.readexactly(1))[0])
                seen.append(f"{name.decode()}:{word.decode()}")
                writer.write(b"\1\0")
            else:
                writer.write(b"\5\0")
            _, _, _, kind = await reader.readexactly(4)
            raw = await reader.readexactly(4 if kind == 1 else (await reader.readexactly(1))[0])
            host = ".".join(map(str, raw)) if kind == 1 else raw.decode()
            (number,) = struct.unpack(">H", await reader.readexactly(2))
            port = str(number)
            seen.append("socks5")
            answer = b"\5" + (b"\5" if refuse else b"\0") + b"\0\1" + bytes(6)
        writer.write(answer)
        if refuse:
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], seen
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("kind", ["socks5", "http"])
async def test_proxy(kind: str) -> None:
    async with proxy() as (port, seen), serving() as peer:
        await connects(peer.settings(proxy=f"{kind}://127.0.0.1:{port}"))
        assert seen == [kind]


async def test_proxy_with_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXY_PASSWORD", "through")
    async with proxy() as (port, seen), serving() as peer:
        await connects(peer.settings(proxy=f"socks5://me@127.0.0.1:{port}", proxy_password="env:PROXY_PASSWORD"))
        assert seen == ["me:through", "socks5"]


@pytest.mark.parametrize("kind", ["socks5", "http"])
async def test_proxy_that_refuses(kind: str) -> None:
    async with proxy(refuse=True) as (port, _), serving() as peer:
        with pytest.raises(ConnectionFailed, match="the proxy"):
            await connects(peer.settings(proxy=f"{kind}://127.0.0.1:{port}"))


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
async def test_outdated_algorithms_need_the_legacy_list() -> None:
    async with serving(kex_algs=["diffie-hellman-group14-sha1"], encryption_algs=["aes128-cbc"]) as peer:
        with pytest.raises(Unsupported, match="no common algorithm"):
            await connects(peer.settings())
        with pytest.raises(Unsupported):
            await connects(peer.settings(legacy="diffie-hellman-group14-sha1"))
        await connects(peer.settings(legacy=["diffie-hellman-group14-sha1", "aes128-cbc", "hmac-sha1"]))
        with pytest.raises(ConfigError, match="unknown algorithm 'rot13'"):
            await connects(peer.settings(legacy="rot13"))


def test_urls() -> None:
    settings, path = parse_url("sftp://me@example.com:2222/in/a%20b?timeout=5s&links=follow")
    assert isinstance(settings, SftpSettings)
    assert (settings.host, settings.port, settings.user, settings.root, path) == (
        "example.com",
        2222,
        "me",
        "/",
        "in/a b",
    )
    assert (settings.timeout, settings.links) == (5, "follow")
    settings, path = parse_url("sftp://example.com/~/in/x")
    assert isinstance(settings, SftpSettings)
    assert (settings.root, path) == ("", "in/x")


@pytest.mark.parametrize(
    "url",
    [
        "sftp://me:secret@example.com/x",
        "sftp:///x",
        "sftp://example.com/x?root=/y",
        "sftp://example.com/x?nonsense=1",
        "sftp://example.com/x?proxy=ftp://h:1",
        "sftp://example.com/x?proxy=http://me:pw@h:1",
        "sftp://example.com/x?encoding=klingon",
        "sftp://example.com:99999/x",
    ],
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


async def test_openssh_takes_the_key(openssh: OpenSSH) -> None:
    settings = SftpSettings.model_validate(
        {
            "host": openssh.host,
            "port": openssh.port,
            "user": openssh.user,
            "private_key": f"file:{openssh.key}",
            "host_key": openssh.host_key_line,
        }
    )
    await connects(settings)
