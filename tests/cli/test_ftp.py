"""doctor against FTP servers that are set up wrongly, or whose endpoint is: what it finds, and what it says to do."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from crossdock.storage.ftp import pool
from crossdock.testing.cut import CutProxy
from tests.cli.conftest import Cli, Result
from tests.conftest import running
from tests.servers import FtpServer, Proftpd, PureFtpd, Vsftpd
from tests.servers.ftp import Tls, write_certificate
from tests.storage.ftp_places import Forgetful

SERVERS = [Vsftpd, Proftpd, PureFtpd]
ALL = pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.name)


@pytest.fixture(autouse=True)
def _no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port may be used again by the next server: nothing that is remembered of an account may outlive its test."""
    monkeypatch.setattr(pool, "_ACCOUNTS", {})


@dataclass
class Doctor:
    """Runs `crossdock doctor` for the endpoint `partner`, which is the server's, but for what is changed."""

    cli: Cli
    folder: Path

    def __call__(self, server: FtpServer, *, location: str = "partner:", **changes: Any) -> Result:
        settings = server.settings(timeout=3, connect_timeout=5) | changes
        settings = {key: value for key, value in settings.items() if value is not None}
        (self.folder / "crossdock.yaml").write_text(json.dumps({"endpoints": {"partner": settings}}))
        return self.cli("doctor", location)

    def refused(self, server: FtpServer, *words: str, code: int, **changes: Any) -> None:
        """It cannot connect, and says why: operation, endpoint and address, then each of `words` (as patterns)."""
        result = self(server, **changes)
        assert result.code == code, result.err
        assert result.err.startswith(f"crossdock: connect partner:: {server.host} port {server.port}"), result.err
        _, _, remedy = result.err.partition("\nNext: ")
        assert remedy
        for word in words:
            assert re.search(word, result.err), (word, result.err)

    def finds(self, server: FtpServer, *found: tuple[str, str, str], **changes: Any) -> Result:
        """It connects, and each finding (check, patterns of detail and remedy) is made, and no other bad one."""
        result = self(server, **changes)
        assert result.code == 1, result.out + result.err
        bad = re.findall(r"^BAD (\S+(?: \S+)?)\s{2,}(.*)\n    mend it:\s+(.*)$", result.out, re.MULTILINE)
        assert [name for name, _, _ in bad] == [name for name, _, _ in found], result.out
        for (_, detail, mend), (_, detailed, mended) in zip(bad, found, strict=True):
            assert "partner:" in detail
            assert re.search(detailed, detail), detail
            assert re.search(mended, mend), mend
        return result


@pytest.fixture
def doctor(cli: Cli, tmp_path: Path) -> Doctor:
    return Doctor(cli, tmp_path)


def denied(*commands: str) -> str:
    return f"<Limit {' '.join(commands)}>\nDenyAll\n</Limit>"


# -- nothing wrong --------------------


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


# -- TLS --------------------


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


# -- signing in --------------------


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
    deadline = time.monotonic() + 30
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


# -- data connections --------------------


@contextmanager
def forwarded(server: FtpServer) -> Iterator[int]:
    """A port of 127.0.0.1 that leads to the server's, as a gateway's would; its passive ports are not led to."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = CutProxy(server.host, server.port)
    try:
        asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result(10)
        yield proxy.port
        asyncio.run_coroutine_threadsafe(proxy.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@ALL
@pytest.mark.parametrize("tls", ["none", "explicit"])
def test_passive_ports_that_a_gateway_does_not_forward(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], tls: Tls
) -> None:
    """The server names its inner address, which is not followed, and ports that lead nowhere."""
    trust: dict[str, Any] = {} if tls == "none" else {"ca_file": None}
    with running(request.config, kind(tls, host="127.0.0.2")) as server, forwarded(server) as port:
        if tls != "none":
            trust["certificate"] = server.fingerprint
        options = "firewall.*pasv_min_port.*PassivePorts.*-p"
        found = "data connection to 127.0.0.1 port [0-9]+ fails: Connection refused"
        result = doctor.finds(
            server, ("list", found, options), ("write", found, options), host="127.0.0.1", port=port, **trust
        )
        assert "PASV names the address 127.0.0.2, which is not the server's (127.0.0.1)" in result.out
        assert "pasv_address, ProFTPD MasqueradeAddress, Pure-FTPd -P" in result.out


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Vsftpd, ("pasv_address=192.0.2.7",)),
        (Proftpd, ("MasqueradeAddress 192.0.2.7",)),
        (PureFtpd, ("-P", "192.0.2.7")),
    ],
    ids=["vsftpd", "proftpd", "pureftpd"],
)
def test_a_passive_address_that_is_wrong_does_no_harm(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], config: tuple[str, ...]
) -> None:
    with running(request.config, kind("none", config=config)) as server:
        result = doctor(server)
        assert result.code == 0, result.out
        assert "PASV names the address 192.0.2.7" in result.out


def test_modes_that_the_server_refuses(request: pytest.FixtureRequest, doctor: Doctor) -> None:
    with running(request.config, Vsftpd("none", config=("pasv_enable=NO",))) as server:
        doctor.finds(
            server, ("list", "EPSV: 550", "pasv_enable=YES.*mode: active"), ("write", "EPSV", "pasv_enable=YES")
        )
        assert doctor(server, mode="active").code == 0
    with running(request.config, Vsftpd("none", config=("port_enable=NO",))) as server:
        mend = "port_enable=YES.*leave mode out"
        doctor.finds(server, ("list", "EPRT: 550", mend), ("write", "EPRT: 550", mend), mode="active")


# -- folders and permissions --------------------


@ALL
@pytest.mark.parametrize("which", ["missing", "outside"])
def test_a_root_that_is_not_there(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], which: str
) -> None:
    """Written wrongly, or as the server's own machine calls it, which a chroot hides."""
    with running(request.config, kind("none")) as server:
        root = "nope/there" if which == "missing" else str(server.folder)
        mend = "sign-in leads to /.*chroot_local_user.*DefaultRoot.*-A.*endpoint's root.*crossdock mkdir 'partner:'"
        doctor.finds(server, ("list", f"no such folder: /{root.lstrip('/')}", mend), root=root)
        assert os.listdir(server.folder) == []


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Vsftpd, ("cmds_denied=RNFR,RNTO",)),
        (Vsftpd, ("cmds_denied=RNTO",)),
        (Proftpd, (denied("RNFR", "RNTO"),)),
        (Proftpd, (denied("RNTO"),)),
        (PureFtpd, ("-G",)),
    ],
    ids=["vsftpd", "vsftpd RNTO", "proftpd", "proftpd RNTO", "pureftpd"],
)
def test_no_renaming(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], config: tuple[str, ...]
) -> None:
    """What it says to write makes it work."""
    with running(request.config, kind("none", config=config)) as server:
        said = "renaming is refused .*cmds_denied.*<Limit RNFR RNTO>.*Pure-FTPd -G.*RN(FR|TO): 550"
        doctor.finds(server, ("write", said, "^staging: none$"))
        assert os.listdir(server.folder) == []
        assert doctor(server, staging="none").code == 0


@pytest.mark.parametrize(
    ("kind", "config", "found"),
    [
        (Vsftpd, "write_enable=NO", [("mkdir", "MKD: 550"), ("write", "MKD: 550")]),
        (Vsftpd, "anon_upload_enable=NO", [("write", "STOR: 550")]),
        (Proftpd, denied("WRITE"), [("mkdir", "MKD: 550"), ("write", "MKD: 550")]),
        (Proftpd, denied("STOR"), [("write", "STOR: 550")]),
    ],
    ids=["vsftpd", "vsftpd STOR", "proftpd", "proftpd STOR"],
)
def test_no_writing(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], config: str, found: list[tuple[str, str]]
) -> None:
    with running(request.config, kind("none", config=(config,))) as server:
        mend = "ask the server's operator.*vsftpd write_enable=YES, ProFTPD <Limit WRITE>.*or choose another folder"
        doctor.finds(server, *((name, detail, mend) for name, detail in found))


@ALL
def test_a_root_that_may_not_be_written_to(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer]
) -> None:
    with running(request.config, kind("none")) as server:
        server.folder.chmod(0o555)
        mend = "the root of a chroot is often not writable.*another folder"
        doctor.finds(server, ("mkdir", "MKD: 550", mend), ("write", "MKD: 550", mend))
        server.folder.chmod(0o755)


@pytest.mark.parametrize(
    ("kind", "config"),
    [(Vsftpd, ("deny_file={*.part}",)), (Proftpd, (r"PathDenyFilter \.part$",)), (PureFtpd, ("-x",))],
    ids=["vsftpd", "proftpd", "pureftpd"],
)
def test_temporary_names_that_are_forbidden(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], config: tuple[str, ...]
) -> None:
    with running(request.config, kind("none", config=config)) as server:
        doctor.finds(server, ("write", "STOR: 55", "^staging: none$"))
        assert doctor(server, staging="none").code == 0


@pytest.mark.parametrize(
    ("kind", "config", "found"),
    [
        (Vsftpd, "dirlist_enable=NO", [("list", "LIST: 550", "dirlist_enable=YES, ProFTPD <Limit DIRS>")]),
        (
            Proftpd,
            denied("DIRS"),
            [
                ("list", "the root may not be looked at: CWD: 550", "dirlist_enable=YES, ProFTPD <Limit DIRS>"),
                ("write", "what was sent is gone", "^verify: none$"),
            ],
        ),
        (Vsftpd, "cmds_denied=DELE", [("delete", "DELE: 550", "permit deleting, and to remove partner:")]),
        (Proftpd, denied("DELE"), [("delete", "DELE: 550", "permit deleting, and to remove partner:")]),
        (PureFtpd, "-K", [("delete", "DELE: 550", "permit deleting, and to remove partner:")]),
    ],
    ids=["vsftpd LIST", "proftpd LIST", "vsftpd DELE", "proftpd DELE", "pureftpd DELE"],
)
def test_what_else_may_be_forbidden(
    request: pytest.FixtureRequest,
    doctor: Doctor,
    kind: type[FtpServer],
    config: str,
    found: list[tuple[str, str, str]],
) -> None:
    with running(request.config, kind("none", config=(config,))) as server:
        doctor.finds(server, *found)


@pytest.mark.parametrize(
    ("kind", "config"), [(Vsftpd, "download_enable=NO"), (Proftpd, denied("RETR"))], ids=["vsftpd", "proftpd"]
)
def test_no_reading(request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], config: str) -> None:
    with running(request.config, kind("none", config=(config,))) as server:
        said, mend = "RETR: 550", "vsftpd download_enable=YES, ProFTPD <Limit READ>"
        doctor.finds(server, *((name, said, mend) for name in ("read", "overwrite", "rename")))
