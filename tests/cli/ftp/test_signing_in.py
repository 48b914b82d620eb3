"""doctor against FTP servers that cannot be signed in to: TLS, certificates, passwords, limits."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.ftp.doctor import ALL, SERVERS, Doctor, denied
from tests.conftest import running
from tests.servers import FtpServer, Proftpd, PureFtpd, Vsftpd
from tests.servers.ftp import Tls, write_certificate
from tests.storage.ftp.places import Forgetful


@pytest.mark.parametrize(
    ("kind", "tls"),
    [
        (kind, tls)
        for kind in SERVERS
        for tls in ("none", "explicit", "implicit")
        if (kind, tls) != (PureFtpd, "implicit")  # which it does not know
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_nothing_is_wrong(request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], tls: Tls) -> None:
    with running(request.config, kind(tls)) as server:
        result = doctor(server)
        assert result.code == 0, result.out + result.err
        assert ("clear text" in result.out) == (tls == "none")
        assert ("TLSv1.3" in result.out) == (tls != "none")
        assert os.listdir(server.folder) == []


@ALL
def test_clear_text_to_a_server_that_insists_on_tls(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer]
) -> None:
    with running(request.config, kind("explicit")) as server:
        doctor.refused(
            server, "USER: [45]", "Next: the server insists on TLS: write type: ftpes", code=7, type="ftp", ca_file=None
        )


@ALL
def test_implicit_tls_to_a_server_of_explicit_tls(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer]
) -> None:
    with running(request.config, kind("explicit")) as server:
        doctor.refused(
            server,
            "TLS greeting fails",
            "does not expect TLS from the first byte: write type: ftpes",
            code=5,
            type="ftps",
        )


@pytest.mark.parametrize("type_", ["ftp", "ftpes"])
@pytest.mark.parametrize("kind", [Vsftpd, Proftpd], ids=lambda kind: kind.name)
def test_another_mode_to_a_server_of_implicit_tls(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], type_: str
) -> None:
    """It waits for TLS, and the client for its greeting."""
    with running(request.config, kind("implicit")) as server:
        more = {"ca_file": None} if type_ == "ftp" else {}
        doctor.refused(
            server,
            "no answer within 1 s",
            "TLS from the first byte.*write type: ftps",
            code=5,
            type=type_,
            connect_timeout=1,
            **more,
        )


@ALL
def test_tls_to_a_server_without_it(request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer]) -> None:
    with running(request.config, kind("none")) as server:
        words = (
            "offers no TLS: 5",
            "nothing was sent in clear text",
            "ssl_enable=YES.*TLSEngine on.*TLS 1",
            "type: ftp$",
        )
        doctor.refused(server, *words, code=7, type="ftpes")
        doctor.refused(server, "TLS greeting fails", "write type: ftpes", code=5, type="ftps")


@ALL
def test_certificates(
    request: pytest.FixtureRequest,
    doctor: Doctor,
    kind: type[FtpServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody vouches for it, it ran out, or it is another host's; its fingerprint is shown, and pins it."""
    made: dict[str, Any] = {}
    monkeypatch.setattr(kind, "_certify", lambda self: write_certificate(self.certificate, **made))
    for changes, words in (
        ({}, ("self-signed", "set ca_file to the authority")),
        ({"days": -1}, ("has expired", "renew it.*rsa_cert_file.*TLSECCertificateFile.*CertFile.*clock")),
        (
            {"address": "192.0.2.1"},
            ("mismatch.*not valid for '127.0.0.1'", "host the name that the certificate is for"),
        ),
    ):
        made.clear()
        made.update(changes)
        with running(request.config, kind("explicit")) as server:
            trusts = {"ca_file": None} if not changes else {}
            digits = server.fingerprint.removeprefix("SHA256:").upper()
            shown = "SHA256:" + ":".join(re.findall("..", digits))
            doctor.refused(server, "not trusted", *words, f"certificate: '{shown}'", code=7, **trusts)
            assert doctor(server, ca_file=None, certificate=shown).code == 0
            other = "SHA256:" + "ab" * 32
            doctor.refused(server, "not the certificate that is pinned", shown, code=7, ca_file=None, certificate=other)


@pytest.mark.parametrize(
    ("kind", "config"),
    [(Proftpd, ("TLSVerifyClient on",)), (Vsftpd, ("require_cert=YES", "ssl_request_cert=YES"))],
    ids=["proftpd", "vsftpd"],
)
def test_a_server_that_asks_for_a_client_certificate(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], config: tuple[str, ...]
) -> None:
    with running(request.config, kind("explicit", config=config)) as server:
        doctor.refused(server, "Next: .*TLSVerifyClient.*require_cert.*set client_certificate", code=5)


@pytest.mark.parametrize("kind", [Vsftpd, Proftpd], ids=lambda kind: kind.name)
def test_a_tls_session_that_is_never_taken_over(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server insists on the session, and gets new ones only."""
    monkeypatch.setattr("crossdock.storage.ftp.connecting.TlsLayer", Forgetful)
    options = "require_ssl_reuse=NO.*NoSessionReuseRequired"
    with running(request.config, kind("explicit")) as server:
        (server.folder / "name").write_bytes(b"x")
        doctor.finds(server, ("list", "52[25]|425", options), ("write", "52[25]|425", options))


@ALL
def test_a_login_that_is_refused(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.touch(0o600)
    wrong.write_text("wrong")
    words = ("PASS: 530", "check user and password.*userlist_file.*RequireValidShell.*MinUID")
    with running(request.config, kind("none")) as server:
        doctor.refused(server, *words, code=7, password=f"file:{wrong}", connect_timeout=30)
        if kind is not Vsftpd:
            doctor.refused(server, "USER: 331", "set password: env:NAME", code=7, password=None)


def test_a_chroot_that_may_be_written_to(request: pytest.FixtureRequest, doctor: Doctor) -> None:
    with running(request.config, Vsftpd("none")) as server:
        server.folder.parent.chmod(0o777)
        doctor.refused(server, "writable root inside chroot", "Next: .*allow_writeable_chroot=YES", code=7)


def test_a_mistake_in_the_servers_own_settings(request: pytest.FixtureRequest, doctor: Doctor) -> None:
    with running(request.config, Vsftpd("none", config=("nopriv_user=nobodyatall",))) as server:
        doctor.refused(server, "500 OOPS: .*nobodyatall", "mistake in its own settings", code=5)


@contextmanager
def greeted(server: FtpServer, code: bytes) -> Iterator[None]:
    """A connection that was answered by `code`; servers count those that have just ended a little longer."""
    deadline = time.monotonic() + 60
    while True:
        with socket.create_connection((server.host, server.port)) as one:
            if one.recv(1000).startswith(code):
                yield
                return
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("kind", "config"), [(Vsftpd, ("max_clients=1",)), (PureFtpd, ("-C", "1"))], ids=["vsftpd", "pureftpd"]
)
def test_too_many_connections(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], config: tuple[str, ...]
) -> None:
    with (
        running(request.config, kind("none", config=config)) as server,
        greeted(server, b"220"),
        greeted(server, b"421"),
    ):
        doctor.refused(server, "421", "max_connections.*max_per_ip.*MaxClients.*-C", code=5)


def test_a_machine_that_is_not_admitted(request: pytest.FixtureRequest, doctor: Doctor) -> None:
    with running(request.config, Proftpd("none", config=(denied("LOGIN"),))) as server:
        doctor.refused(server, "the server closed the connection", "does not admit this machine.*<Limit LOGIN>", code=5)


def test_an_account_that_is_admitted_in_clear_text_alone(request: pytest.FixtureRequest, doctor: Doctor) -> None:
    config = ("allow_anon_ssl=NO", "force_anon_logins_ssl=NO", "force_anon_data_ssl=NO")
    with running(request.config, Vsftpd("explicit", config=config)) as server:
        doctor.refused(server, "USER: 530", "allow_anon_ssl=YES, or write type: ftp$", code=7)


def test_ciphers_that_are_not_sound(request: pytest.FixtureRequest, doctor: Doctor) -> None:
    config = ("TLSCipherSuite AES128-SHA", "TLSProtocol TLSv1.2")
    with running(request.config, Proftpd("explicit", config=config)) as server:
        doctor.refused(
            server, "HANDSHAKE_FAILURE", "client_certificate; or it offers no cipher.*ssl_ciphers=HIGH", code=5
        )


@pytest.mark.parametrize(
    ("kind", "config"),
    [(Vsftpd, "ftpd_banner=Welcome to ACME"), (Proftpd, "ServerIdent off")],
    ids=["vsftpd", "proftpd"],
)
def test_a_server_that_does_not_say_what_it_is(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], config: str
) -> None:
    """It is known by what it offers, and used as if it had said so."""
    with running(request.config, kind("none", config=(config,))) as server:
        result = doctor(server)
        assert result.code == 0, result.out
        assert f"({kind.name}, by its features)" in result.out
        assert "no MFMT" not in result.out
