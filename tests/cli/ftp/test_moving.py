"""doctor against FTP servers that let nobody move a file: data connections, folders, permissions."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from crossdock.testing.cut import CutProxy
from tests.cli.conftest import Cli
from tests.cli.flow_files import configure, put
from tests.cli.ftp.doctor import ALL, Doctor, denied
from tests.conftest import running
from tests.servers import FtpServer, Proftpd, PureFtpd, Vsftpd
from tests.servers.ftp import Tls
from tests.servers.server import closed_ports


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


def passive(kind: type[FtpServer], ports: range) -> tuple[str, ...]:
    """The option that has the server use these ports alone."""
    first, last = str(ports[0]), str(ports[-1])
    options: dict[type[FtpServer], tuple[str, ...]] = {
        Vsftpd: (f"pasv_min_port={first}", f"pasv_max_port={last}"),
        Proftpd: (f"PassivePorts {first} {last}",),
        PureFtpd: ("-p", f"{first}:{last}"),
    }
    return options[kind]


@ALL
@pytest.mark.parametrize("tls", ["none", "explicit"])
def test_passive_ports_that_a_gateway_does_not_forward(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], tls: Tls
) -> None:
    """The server names its inner address, which is not followed, and ports that lead nowhere."""
    trust: dict[str, Any] = {} if tls == "none" else {"ca_file": None}
    with (
        closed_ports(8) as ports,
        running(request.config, kind(tls, config=passive(kind, ports), host="127.0.0.2")) as server,
        forwarded(server) as port,
    ):
        if tls != "none":
            trust["certificate"] = server.fingerprint
        options = "firewall.*pasv_min_port.*PassivePorts.*-p"
        found = f"data connection to 127.0.0.1 port ({'|'.join(map(str, ports))}) fails: Connection refused"
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
            server, ("list", "PASV: 5(50|02)", "pasv_enable=YES.*mode: active"), ("write", "PASV", "pasv_enable=YES")
        )
        assert doctor(server, mode="active").code == 0
    with running(request.config, Vsftpd("none", config=("port_enable=NO",))) as server:
        mend = "port_enable=YES.*leave mode out"
        doctor.finds(
            server, ("list", "(EPRT|PORT): 5(50|02)", mend), ("write", "(EPRT|PORT): 5(50|02)", mend), mode="active"
        )


@ALL
@pytest.mark.parametrize("which", ["missing", "outside"])
def test_a_root_that_is_not_there(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], which: str
) -> None:
    """Written wrongly, or as the server's own machine calls it, which a chroot hides."""
    with running(request.config, kind("none")) as server:
        root = "nope/there" if which == "missing" else str(server.folder)
        mend = "sign-in leads to /.*chroot_local_user.*DefaultRoot.*-A.*endpoint's root.*crossdock mkdir partner:"
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
        (doctor.folder / "a.csv").touch()
        assert "\nNext: " in (told := doctor.cli("cp", "a.csv", "partner:").err)
        assert told.endswith("(vsftpd deny_file, Pure-FTPd -x), write staging: none\n")
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


def test_a_server_that_only_sends_whole_files(request: pytest.FixtureRequest, doctor: Doctor) -> None:
    with running(request.config, Proftpd("none", config=("AllowRetrieveRestart off",))) as server:
        result = doctor(server)
        assert result.code == 0, result.out
        assert "what breaks off begins anew" in result.out


@pytest.mark.parametrize(
    ("kind", "config"),
    [(Proftpd, ("MaxStoreFileSize 10 Kb",)), (PureFtpd, ("-n", "10:1"))],
    ids=["proftpd", "pureftpd"],
)
def test_no_room_is_not_mended_by_other_settings(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], config: tuple[str, ...]
) -> None:
    """What a small file would pass, a large one does not."""
    with running(request.config, kind("none", config=config)) as server:
        if kind is PureFtpd:
            (server.folder / "full").write_bytes(bytes(900_000))
            (server.folder / ".ftpquota").write_text("1 900000\n")
        doctor.finds(server, ("write", "552", "free space there, or raise the quota"))


@pytest.mark.parametrize(
    ("kind", "config"),
    [(Vsftpd, "force_anon_logins_ssl=NO"), (Proftpd, "TLSRequired data")],
    ids=["vsftpd", "proftpd"],
)
def test_data_in_clear_text_to_a_server_that_insists_on_tls_for_it(
    request: pytest.FixtureRequest, doctor: Doctor, kind: type[FtpServer], config: str
) -> None:
    with running(request.config, kind("explicit", config=(config,))) as server:
        mend = "^the server insists on TLS for data connections: write type: ftpes$"
        doctor.finds(server, ("list", "522", mend), ("write", "522", mend), type="ftp", ca_file=None)
        assert doctor(server).code == 0


@pytest.mark.parametrize("staging", ["rename", "none"])
def test_a_folder_in_the_place_of_a_file_is_not_skipped(
    request: pytest.FixtureRequest, cli: Cli, tmp_path: Path, staging: str
) -> None:
    """Its flow keeps files that are there; then the source would be archived, and nobody have it."""
    with running(request.config, Vsftpd("none")) as server:
        shop = server.settings(staging=staging)
        configure(tmp_path, endpoints={"shop": shop}, to=["shop:{name}", "lake:{name}"], on_conflict="skip",
                  after={"archive": ".done"})  # fmt: skip
        put(tmp_path, {"a.csv": "1"})
        (server.folder / "a.csv").mkdir()
        result = cli("run", "--once")
        assert result.code == 1, result.err
        assert "a folder has this name" in result.err
        assert (tmp_path / "partner/out/a.csv").read_text() == "1"
        assert list((server.folder / "a.csv").iterdir()) == []
