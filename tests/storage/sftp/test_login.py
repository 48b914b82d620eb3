"""Signing in: passwords, keys, agents, certificates, and what is never sent or shown."""

from __future__ import annotations

import errno
import logging
import os
import pwd
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import asyncssh
import pytest
from asyncssh.rsa import RSAKey

from crossdock.errors import AuthenticationFailed, ConfigError, HostKeyMismatch, SecretUnavailable
from crossdock.storage.sftp import SftpSettings
from crossdock.storage.sftp.trust import offered_keys
from tests.servers import OpenSSH
from tests.storage.sftp.fake_server import FakeServer, only, serving, write_key
from tests.storage.sftp.places import connects


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


def forget_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number which nobody has."""

    def unknown(number: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        # Set first: what the code under test sets is taken back as well.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


async def test_an_account_that_the_machine_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as peer:
        forget_account(monkeypatch)
        keys = await offered_keys("127.0.0.1", peer.port)
        assert [key.algorithm for key in keys] == ["ssh-ed25519"]
        await connects(peer.settings())
        with pytest.raises(ConfigError, match=f"this machine has no name for account #{os.getuid()}") as caught:
            await connects(peer.settings(user=None))
        assert caught.value.key == "user"


async def test_an_account_that_only_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as peer:
        forget_account(monkeypatch)
        monkeypatch.setenv("USER", "tester")
        await connects(peer.settings(user=None))
        assert peer.sign_ins == ["tester"]


async def test_a_home_that_may_not_be_looked_into(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That of root, in a container or under sudo: nothing is known from there, and nothing more."""
    stat = os.stat

    def refused(path: Any, **options: Any) -> os.stat_result:
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(f"{tmp_path}/"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return stat(path, **options)

    async with serving() as peer:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr(os, "stat", refused)
        assert len(await offered_keys("127.0.0.1", peer.port)) == 1
        await connects(peer.settings())
        with pytest.raises(HostKeyMismatch, match="no host key is known for"):
            await connects(peer.settings(host_key=[]))
        with pytest.raises(ConfigError, match=f"there is no {tmp_path}/.ssh/config"):
            await connects(peer.settings(ssh_config=True))


async def test_a_key_of_the_users_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.environ["HOME"]) / ".ssh"
    folder.mkdir()
    write_key(folder / "key")
    (folder / "config").write_text("Host *\n IdentityFile ~/.ssh/key\n")

    def refused(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    async with serving() as peer:
        with pytest.raises(ConfigError, match=f"cannot read the private key {folder}/key: Permission denied. Next: "):
            await connects(peer.settings(password=None, ssh_config=True))


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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "PuTTY's. Next: convert it: puttygen KEY.ppk"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA me@here\n", r"public one\. Next: name the private key"),
    ],
)
async def test_the_wrong_file_of_a_key_is_told(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "key").write_text(text)
    (tmp_path / "key").chmod(0o600)
    async with serving() as peer:
        with pytest.raises(ConfigError, match=words):
            await connects(peer.settings(password=None, private_key=f"file:{tmp_path}/key"))


@pytest.mark.parametrize(
    "text",
    [
        b"not a key",
        b"\xff\xfe\x00",
        b"-----BEGIN A\\H PRIVATE KEY-----\nAAAA\n-----END A\\H PRIVATE KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\nMAQDAgEB\n-----END PRIVATE KEY-----\n",
    ],
)
async def test_what_is_no_private_key_is_told(tmp_path: Path, text: bytes) -> None:
    folder = Path(os.environ["HOME"]) / ".ssh"
    folder.mkdir()
    for path in (tmp_path / "key", folder / "key"):
        path.write_bytes(text)
        path.chmod(0o600)
    (folder / "config").write_text("Host *\n IdentityFile ~/.ssh/key\n")
    async with serving() as peer:
        for given in ({"private_key": f"file:{tmp_path}/key"}, {"ssh_config": True}):
            with pytest.raises(ConfigError) as caught:
                await connects(peer.settings(password=None, **given))
            assert caught.value.hint
        assert peer.sign_ins == []


async def test_only_configured_keys_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(os.environ["HOME"]) / ".ssh"
    home.mkdir()
    for name in ("id_ed25519", "id_rsa"):
        write_key(home / name)
    first, second = write_key(tmp_path / "one"), write_key(tmp_path / "two")
    monkeypatch.setenv("KEY_TEXT", (tmp_path / "two").read_text())
    async with serving(server=only(second)) as peer:
        await connects(peer.settings(password=None, private_key=[f"file:{tmp_path}/one", "env:KEY_TEXT"]))
        monkeypatch.setenv("KEY_TEXT", (tmp_path / "two").read_text().replace("\n", " "))
        with pytest.raises(ConfigError, match="Next: keep its line ends"):
            await connects(peer.settings(password=None, private_key="env:KEY_TEXT"))
        assert set(peer.passwords) == {first.get_fingerprint(), second.get_fingerprint()}
        with pytest.raises(AuthenticationFailed, match=r"no credentials at all\. Next: set private_key"):
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


@pytest.mark.parametrize("setting", ["password", "private_key"])
async def test_a_secret_in_a_pipe_is_not_waited_for(tmp_path: Path, setting: str) -> None:
    """It may be waited for without end, and is gone once it was read."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    async with serving() as peer:
        with pytest.raises(ConfigError, match=f"{tmp_path}/pipe is no file"):
            await connects(peer.settings(**{"password": None, setting: f"file:{tmp_path}/pipe"}))
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


@pytest.mark.parametrize("told", [True, False])
async def test_an_rsa_key_where_the_server_does_not_say_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, told: bool
) -> None:
    """It signs by SHA-2; by SHA-1 only if the endpoint says so, which it is told."""
    key = write_key(tmp_path / "key", "ssh-rsa")

    class Silent(only(key)):  # type: ignore[misc]
        def connection_made(self, conn: Any) -> None:
            super().connection_made(conn)
            if not told:
                conn._send_ext_info = lambda: None

    verify, taken = RSAKey.verify_ssh, [b"rsa-sha2-256", b"rsa-sha2-512"]
    monkeypatch.setattr(RSAKey, "verify_ssh", lambda self, data, by, sig: by in taken and verify(self, data, by, sig))
    given = {"private_key": f"file:{tmp_path}/key", "password": None}
    async with serving(server=Silent) as peer:
        await connects(peer.settings(**given))
        taken[:] = [b"ssh-rsa"]
        with pytest.raises(AuthenticationFailed) as caught:
            await connects(peer.settings(**given))
        assert ("legacy: [ssh-rsa]" in str(caught.value.hint)) is not told
        if not told:
            await connects(peer.settings(**given, legacy="ssh-rsa"))


async def test_an_expired_password_is_told() -> None:
    class Expiring(FakeServer):
        def kbdint_auth_supported(self) -> bool:
            return False

        def validate_password(self, username: str, password: str) -> bool:
            raise asyncssh.PasswordChangeRequired("a new one, please")

    async with serving(server=Expiring) as peer:
        with pytest.raises(AuthenticationFailed) as caught:
            await connects(peer.settings())
        assert "expired" in str(caught.value.hint)


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
        write_key(tmp_path / "another")
        given["private_key"] = f"file:{tmp_path}/another"
        with pytest.raises(ConfigError, match="is for another key than the first private_key"):
            await connects(peer.settings(**given, certificate=f"{tmp_path}/key-cert.pub"))
        (tmp_path / "x509.pem").write_text(f"-----BEGIN CERTIFICATE-----\n{'A' * 64}\n-----END CERTIFICATE-----\n")
        with pytest.raises(ConfigError, match="it is no certificate of OpenSSH"):
            await connects(peer.settings(**given, certificate=f"{tmp_path}/x509.pem"))


async def test_agent_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It may be there later: what is to go over it waits."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    async with serving() as peer:
        with pytest.raises(SecretUnavailable, match="no ssh-agent"):
            await connects(peer.settings(agent=True))
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "none"))
        with pytest.raises(SecretUnavailable, match="does not answer"):
            await connects(peer.settings(agent=True))


async def test_agent_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/agent")
        listening.listen()
        monkeypatch.setenv("SSH_AUTH_SOCK", f"{folder}/agent")
        async with serving() as peer:
            with pytest.raises(SecretUnavailable, match=r"nothing came within 0\.1 seconds"):
                await connects(peer.settings(agent=True, connect_timeout=0.1))


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


async def test_openssh_takes_the_key(openssh: OpenSSH) -> None:
    await connects(SftpSettings.model_validate(openssh.settings(host_key=openssh.host_key_line)))
