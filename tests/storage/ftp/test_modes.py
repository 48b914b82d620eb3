"""Plain, explicit and implicit; who is trusted; the TLS session of data connections; and what errors say to do."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import ssl
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography.hazmat.primitives import serialization

from crossdock.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectionFailed,
    CrossdockError,
    ProtocolViolation,
    StorageError,
    TimedOut,
    Unsupported,
)
from crossdock.storage.ftp import FtpSettings, connection, data, pool
from crossdock.storage.ftp.digests import difference
from crossdock.storage.registry import parse_url
from crossdock.storage.storage import Storage
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.conftest import running
from tests.engine.certificates import issued
from tests.servers import FtpServer, Proftpd, PureFtpd, Vsftpd
from tests.servers.ftp import write_certificate
from tests.storage.ftp.places import DATA, Forgetful, backend_of, opened, round_trip


def tls_of(storage: Storage) -> bool:
    return backend_of(storage).calls.pool.account.old_tls


@pytest.mark.parametrize(
    ("kind", "tls"),
    [(Vsftpd, "none"), (Vsftpd, "implicit"), (Proftpd, "none"), (Proftpd, "implicit"), (PureFtpd, "none")],
    ids=lambda value: getattr(value, "name", value),
)
async def test_the_other_modes(request: pytest.FixtureRequest, kind: type[FtpServer], tls: Any) -> None:
    with running(request.config, kind(tls)) as server:
        async with opened(server) as storage:
            await round_trip(storage)


@pytest.mark.parametrize("kind", [Vsftpd, Proftpd], ids=lambda kind: kind.name)
async def test_tls_1_2_with_session_reuse(request: pytest.FixtureRequest, kind: type[FtpServer]) -> None:
    with running(request.config, kind("explicit")) as server:
        settings = FtpSettings.model_validate(server.settings())
        remembered = pool._ACCOUNTS.setdefault(pool._key(settings), pool.Account())
        remembered.old_tls = True
        async with Storage(settings.backend("server")) as storage:
            await round_trip(storage)


@pytest.mark.parametrize("kind", [Vsftpd, Proftpd], ids=lambda kind: kind.name)
async def test_a_session_that_is_never_accepted(
    request: pytest.FixtureRequest, kind: type[FtpServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried with TLS 1.3, then with 1.2; then the error names the server's own option."""
    monkeypatch.setattr("crossdock.storage.ftp.connecting.TlsLayer", Forgetful)
    with running(request.config, kind("explicit")) as server:
        async with opened(server) as storage:
            (server.folder / "name").write_bytes(DATA)
            with pytest.raises(Unsupported, match=r"require_ssl_reuse=NO.*NoSessionReuseRequired"):
                await storage.read_bytes("name", limit=len(DATA))
            assert tls_of(storage)
            with pytest.raises((Unsupported, StorageError)):
                await storage.write_bytes("name", b"x")


async def test_a_pinned_certificate(vsftpd: Vsftpd) -> None:
    """The pin is enough, and nothing but the pin will do."""
    plain = {key: value for key, value in vsftpd.settings().items() if key != "ca_file"}
    async with Storage(FtpSettings.model_validate(plain | {"certificate": vsftpd.fingerprint}).backend("s")) as storage:
        assert not await storage.exists("nothing")
    presented = ":".join(re.findall("..", vsftpd.fingerprint[7:].upper()))
    with pytest.raises(AuthenticationFailed, match=presented):
        async with Storage(FtpSettings.model_validate(plain | {"certificate": "ab" * 32}).backend("s")):
            pass


async def test_a_data_connection_that_leads_to_another_server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in between who cannot take over the session, and has no such certificate; the pin is all that is known."""
    write_certificate(tmp_path / "other.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "other.pem")
    heard: list[bytes] = []
    connect = data._connect
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as executor:

        def serve() -> None:
            connected, _ = listener.accept()
            with context.wrap_socket(connected, server_side=True) as secured:
                try:
                    heard.append(secured.recv(100))
                except OSError:
                    heard.append(b"")

        def diverted(connection: Any, *arguments: Any) -> socket.socket:
            kept.append(connect(connection, *arguments))
            found = socket.create_connection(listener.getsockname(), timeout=5)
            connection.attach_data(found)
            return found

        monkeypatch.setattr(data, "_connect", diverted)
        with running(request.config, Vsftpd("explicit", config=("require_ssl_reuse=NO",))) as server:
            served = executor.submit(serve)
            async with opened(server, ca_file=None, certificate=server.fingerprint) as storage:
                with pytest.raises(AuthenticationFailed, match="leads to another server"):
                    await storage.write_bytes("name", b"secret")
            served.result(10)
        for one in kept:
            one.close()
    assert heard == [b""]


async def test_a_session_is_not_relied_on_for_long(vsftpd: Vsftpd, monkeypatch: pytest.MonkeyPatch) -> None:
    """ProFTPD, for one, forgets sessions after five minutes: a connection that is older gives way to a new one."""
    async with opened(vsftpd, max_connections=1) as storage:
        made = []
        for age in (240.0, 240.0, 0.0):
            monkeypatch.setattr(pool, "_SESSION_AGE", age)
            connection = await backend_of(storage).calls.pool.acquire()
            made.append(connection.made)
            backend_of(storage).calls.pool.release(connection)
    assert made[0] == made[1] < made[2]


async def test_a_certificate_that_nobody_vouches_for(vsftpd: Vsftpd, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    write_certificate(other)
    with pytest.raises(AuthenticationFailed, match="not trusted"):
        async with opened(vsftpd, ca_file=os.fspath(other)):
            pass


@pytest.mark.parametrize("file", ["authority.pem", "server.pem"])
async def test_whom_a_company_vouches_for(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Its authority's certificate or the server's own, as the error about a certificate advises."""
    issued(tmp_path)
    whole = (tmp_path / "server.pem").read_text() + (tmp_path / "server.key").read_text()
    monkeypatch.setattr(Proftpd, "_certify", lambda self: self.certificate.write_text(whole))
    with running(request.config, Proftpd("explicit")) as server:
        async with opened(server, ca_file=os.fspath(tmp_path / file)) as storage:
            await round_trip(storage)


async def test_a_client_certificate(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    mine = tmp_path / "client.pem"
    write_certificate(mine)
    config = ("TLSVerifyClient on", f"TLSCACertificateFile {mine}")
    with running(request.config, Proftpd("explicit", config=config)) as server:
        async with opened(server, client_certificate=os.fspath(mine)) as storage:
            await round_trip(storage)
        with pytest.raises(CrossdockError):
            async with opened(server) as storage:
                await storage.exists("x")


async def test_a_client_certificate_with_an_encrypted_key(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, key = tmp_path / "client.pem", tmp_path / "client.key"
    write_certificate(mine)
    private = serialization.load_pem_private_key(mine.read_bytes(), None)
    encrypted = serialization.BestAvailableEncryption(b"sesame")
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encrypted))
    mine.write_bytes(mine.read_bytes()[mine.read_bytes().index(b"-----BEGIN CERTIFICATE") :])
    monkeypatch.setenv("CLIENT_KEY", "sesame")
    config = ("TLSVerifyClient on", f"TLSCACertificateFile {mine}")
    given = {"client_certificate": os.fspath(mine), "client_key": os.fspath(key)}
    with running(request.config, Proftpd("explicit", config=config)) as server:
        async with opened(server, **given, client_key_passphrase="env:CLIENT_KEY") as storage:
            assert not await storage.exists("x")
        with pytest.raises(ConfigError, match=r"the client key is encrypted.*client_key_passphrase"):
            async with opened(server, **given):
                pass
        monkeypatch.setenv("CLIENT_KEY", "wrong")
        with pytest.raises(ConfigError, match=r"cannot use .*client\.pem"):
            async with opened(server, **given, client_key_passphrase="env:CLIENT_KEY"):
                pass


@pytest.mark.parametrize("algorithm", ["SHA-256", "MD5"])
async def test_digests_that_are_chosen_before_they_are_asked_for(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """HASH, where a server knows none of its older rivals."""
    name = algorithm.lower().replace("-", "")
    monkeypatch.setattr(connection.Features, "digests", {name: f"HASH {algorithm}".encode()})
    with running(request.config, Proftpd("explicit", config=("LoadModule mod_digest.c", "DigestEngine on"))) as server:
        async with opened(server) as storage:
            await storage.write_bytes("a b", b"content")
            calls, right = backend_of(storage).calls, hashlib.new(name, b"content").hexdigest()
            for expected in (right, "0" * len(right)):
                found = await calls.call("hash", "a b", difference, calls.full("a b", "hash"), {name: expected})
                wrong = f"the server's {name} is {right}, {expected} expected"
                assert found == (None if expected == right else wrong)


async def test_a_server_that_insists_on_tls(vsftpd: Vsftpd) -> None:
    settings = vsftpd.settings(type="ftp")
    del settings["ca_file"]
    with pytest.raises(Unsupported, match="type: ftpes"):
        async with Storage(FtpSettings.model_validate(settings).backend("server")):
            pass


async def test_implicit_where_it_is_not_expected(vsftpd: Vsftpd) -> None:
    with pytest.raises(ProtocolViolation, match="type: ftpes"):
        async with opened(vsftpd, type="ftps"):
            pass


@pytest.mark.parametrize("kind", ["ftpes", "ftps"])
async def test_a_server_that_hangs_up_before_the_tls_greeting(kind: Literal["ftpes", "ftps"]) -> None:
    """By a reset, which finds the socket anywhere on its way into TLS; nothing is left open."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as executor:

        def serve() -> None:
            connected, _ = listener.accept()
            if kind == "ftpes":
                connected.sendall(b"220 hello\r\n")
                assert connected.recv(100) == b"AUTH TLS\r\n"
                connected.sendall(b"234 go\r\n")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connected.close()

        served = executor.submit(serve)
        host, port = listener.getsockname()
        with pytest.raises(ConnectionFailed, match=r"TLS greeting|cannot connect|broke"):
            async with Storage(FtpSettings(type=kind, host=host, port=port).backend("server")):
                pass
        served.result()


async def test_a_server_that_is_silent_at_the_tls_greeting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        settings = FtpSettings(type="ftps", host=host, port=port, timeout=0.3, connect_timeout=0.3)
        with pytest.raises(TimedOut, match="no answer to the TLS greeting"):
            async with Storage(settings.backend("server")):
                pass


async def test_authorities_that_are_none(tmp_path: Path) -> None:
    """Told before anything is sent, with the file's name."""
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "missing.pem"):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            host, port = listener.getsockname()
            settings = FtpSettings(type="ftpes", host=host, port=port, ca_file=tmp_path / name)
            with pytest.raises(ConfigError, match=f"cannot use .*/{name}"):
                async with Storage(settings.backend("server")):
                    pass


@pytest.mark.parametrize("kind", ["ftp", "ftpes"])
async def test_where_implicit_is_expected(request: pytest.FixtureRequest, kind: str) -> None:
    with running(request.config, Proftpd("implicit")) as server:
        settings = server.settings(type=kind, timeout=1, connect_timeout=1)
        if kind == "ftp":
            del settings["ca_file"]
        with pytest.raises((TimedOut, StorageError), match="type: ftps"):
            async with Storage(FtpSettings.model_validate(settings).backend("server")):
                pass


async def test_no_tls_is_never_made_up_for_by_clear_text(tmp_path: Path) -> None:
    """AUTH is refused, or answered with more than was asked: not even the user's name is sent."""
    secret = tmp_path / "secret"
    secret.touch(0o600)
    for reply in ("502 no", "234 go\r\n220 slipped in"):
        async with FaultyFtpServer(tmp_path) as server:
            server.faults.replies["AUTH"] = reply
            settings = {"type": "ftpes", "host": server.host, "port": server.port, "user": reply[:3]}
            with pytest.raises((Unsupported, ProtocolViolation)):
                async with Storage(FtpSettings.model_validate(settings | {"password": f"file:{secret}"}).backend("s")):
                    pass
            assert [command for command in server.commands if command != "QUIT"] == ["AUTH TLS"]


@pytest.mark.parametrize("denied", ["PROT", "PBSZ"])
async def test_data_is_never_sent_in_clear_text_under_tls(request: pytest.FixtureRequest, denied: str) -> None:
    """A server that would not encrypt the data is not even listed."""
    config = (f"cmds_denied={denied}", "force_anon_data_ssl=NO", "require_ssl_reuse=NO")
    with running(request.config, Vsftpd("explicit", config=config)) as server:
        with pytest.raises(Unsupported, match=f"{denied}: 550.*does not encrypt data connections"):
            async with opened(server):
                pass


async def test_passive_ports_behind_a_firewall(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("secret")
    async with FaultyFtpServer(tmp_path) as server:
        server.faults.passive = "227 Entering (127,0,0,1,0,1)"
        settings = {"type": "ftp", "host": server.host, "port": server.port, "user": "tester"}
        found = FtpSettings.model_validate(settings | {"password": f"file:{secret}"})
        async with Storage(found.backend("server")) as storage:
            with pytest.raises(StorageError, match="pasv_min_port"):
                await storage.write_bytes("name", b"x")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "h"}, "type"),
        ({"type": "ftp", "host": "h", "ca_file": "x"}, "needs TLS"),
        ({"type": "ftps", "host": "h", "tls": "none"}, "leave tls out"),
        ({"type": "ftpes", "host": "h", "certificate": "SHA256:xyz"}, "64 hexadecimal digits"),
        ({"type": "ftpes", "host": "h", "client_key": "x"}, "client_certificate"),
        ({"type": "ftp", "host": "h", "user": "a\r\nDELE x"}, "line break"),
        ({"type": "ftp", "host": "h", "encoding": "klingon"}, "unknown encoding"),
        # In which "../" can be written without a slash.
        ({"type": "ftp", "host": "h", "encoding": "utf-7"}, "unknown encoding"),
        ({"type": "ftp", "host": "h", "encoding": "unicode_escape"}, "unknown encoding"),
        ({"type": "ftp", "host": "h", "encoding": "raw_unicode_escape"}, "unknown encoding"),
    ],
)
def test_settings_that_contradict_themselves(settings: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FtpSettings.model_validate(settings)


@pytest.mark.parametrize(
    ("url", "security", "address", "root", "path"),
    [
        ("ftp://me@host/in/a%20b", "none", ("host", 21), "/", "in/a b"),
        ("ftpes://host:2121/~/x", "explicit", ("host", 2121), "", "x"),
        ("ftps://host/x?timeout=5s", "implicit", ("host", 990), "/", "x"),
    ],
)
def test_urls(url: str, security: str, address: tuple[str, int], root: str, path: str) -> None:
    settings, found = parse_url(url)
    assert isinstance(settings, FtpSettings)
    assert (settings.security, settings.address, settings.root, found) == (security, address, root, path)


def test_a_password_in_a_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="password"):
        parse_url("ftps://me:secret@host/x")


def test_features() -> None:
    found = connection.Features(frozenset({"HASH", "XCRC"}), {"HASH": "SHA-256*;MD5"})
    assert found.digests == {"crc32": b"XCRC", "sha256": b"HASH SHA-256", "md5": b"HASH MD5"}


async def test_a_name_that_no_host_can_have() -> None:
    with pytest.raises(ConnectionFailed, match="cannot connect"):
        async with Storage(FtpSettings(type="ftp", host="ftp..example").backend("server")):
            pass
