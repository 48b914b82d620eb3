"""vsftpd, ProFTPD and Pure-FTPd, each plain or under explicit or implicit TLS, with an account of its own invention."""

from __future__ import annotations

import datetime
import grp
import hashlib
import ipaddress
import os
import pwd
import secrets
import socket
import ssl
import subprocess
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.servers.account import AccountServer
from tests.servers.packages import Missing, Tree
from tests.servers.server import LOOPBACK, running

Tls = Literal["none", "explicit", "implicit"]
TYPES: dict[Tls, str] = {"none": "ftp", "explicit": "ftpes", "implicit": "ftps"}


class FtpServer(AccountServer):
    """An FTP server for the account `tester`, whose home (and the server's whole world, where it can) is `folder`.

    `config`: lines of the server's own configuration, in force over ours; `host`: an address of loopback, of IPv4 or
    IPv6. Started by root, the server drops to another
    account; both it and the test may write to what either made in `folder`.
    """

    needs_root: ClassVar[bool] = False

    def __init__(self, tls: Tls = "none", *, config: tuple[str, ...] = (), host: str = LOOPBACK) -> None:
        super().__init__()
        self.tls: Tls = tls
        self.config = config
        self.host = host
        self.port = 0
        self.secret = secrets.token_hex(8)
        self.folder = Path()
        self.certificate = Path()
        """The server's own, with its key; good as an authority too."""

    @property
    def log(self) -> Path:
        return self.base / "server.log"

    @property
    def root(self) -> str:
        """`folder`, as the server calls it."""
        return ""

    @property
    def fingerprint(self) -> str:
        der = ssl.PEM_cert_to_DER_cert(_first_certificate(self.certificate))
        return "SHA256:" + hashlib.sha256(der).hexdigest()

    def settings(self, **more: Any) -> dict[str, Any]:
        """What an endpoint needs in order to sign in."""
        found: dict[str, Any] = {
            "type": TYPES[self.tls],
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": f"file:{self.base}/secret",
            "root": self.root.rstrip("/"),
        }
        if self.tls != "none":
            found["ca_file"] = os.fspath(self.certificate)
        return found | more

    def _start(self) -> None:
        if self.needs_root and os.geteuid() != 0:
            raise Missing(f"{self.name} can be started by root alone")
        tree = self._files()
        secret = self.base / "secret"
        secret.touch(0o600)
        secret.write_text(self.secret)
        self.folder = self.base / "world" / "home"
        self._make_home(self.folder)
        self.certificate = self.base / "certificate.pem"
        self._certify()
        (self.port,) = self._ports(1)
        self._run(tree)
        self.version = self._greeting()

    def _certify(self) -> None:
        """Put a certificate and its key into `certificate`."""
        write_certificate(self.certificate, address=self.host)

    @property
    def ipv6(self) -> bool:
        return ":" in self.host

    @abstractmethod
    def _run(self, tree: Tree) -> None:
        """Start it and wait until it answers."""

    def _launch(self, command: list[str], environment: dict[str, str]) -> None:
        child = self._spawn(command, self.log, environment)
        self._wait_for_port(self.port, self.log, alive=lambda: running(child.pid), seconds=60, host=self.host)

    def _greeting(self) -> str:
        connected: socket.socket = socket.create_connection((self.host, self.port), timeout=60)
        try:
            if self.tls == "implicit":
                context = ssl.create_default_context(cafile=os.fspath(self.certificate))
                connected = context.wrap_socket(connected, server_hostname=self.host)
            with connected.makefile() as lines:
                return lines.readline().strip()[4:]
        finally:
            connected.close()


class Vsftpd(FtpServer):
    """TLS with `require_ssl_reuse`, its default.

    Debian's signs named accounts in by PAM alone, for which the system would have to be changed; the anonymous account,
    with a list of passwords and every right, passes through the same code.
    """

    name = "vsftpd"
    packages = ("vsftpd", "libnss-wrapper")
    needs = ("usr/sbin/vsftpd", "usr/lib/{triplet}/libnss_wrapper.so")

    @property
    def root(self) -> str:
        return "home/"

    def stop(self) -> None:
        if self.folder != Path():
            self.folder.parent.chmod(0o755)
        super().stop()
        self.folder = Path()

    def _run(self, tree: Tree) -> None:
        self.user = "anonymous"
        # The root of the anonymous account's world must not be writable.
        self.folder.parent.chmod(0o555)
        empty = self.base / "empty"
        empty.mkdir()
        passwords = self.base / "passwords"
        passwords.write_text(f"{self.secret}\n")
        # The anonymous account needs a home of its own.
        wrapper = self._accounts(tree, self.folder)
        lines = {
            "listen": "NO" if self.ipv6 else "YES",
            "listen_ipv6": "YES" if self.ipv6 else "NO",
            "background": "NO",
            "listen_address6" if self.ipv6 else "listen_address": self.host,
            "listen_port": str(self.port),
            "anonymous_enable": "YES",
            "ftp_username": "tester",
            "nopriv_user": "tester",
            "secure_email_list_enable": "YES",
            "email_password_file": str(passwords),
            "anon_root": str(self.folder.parent),
            "anon_umask": "007",
            "anon_upload_enable": "YES",
            "anon_mkdir_write_enable": "YES",
            "anon_other_write_enable": "YES",
            "anon_world_readable_only": "NO",
            "write_enable": "YES",
            "secure_chroot_dir": str(empty),
            "seccomp_sandbox": "NO",
            "isolate": "NO",
            "isolate_network": "NO",
            "xferlog_enable": "NO",
            "max_login_fails": "100",
        }
        if os.geteuid() != 0:
            lines["run_as_launching_user"] = "YES"
        if self.tls != "none":
            lines |= {
                "ssl_enable": "YES",
                "rsa_cert_file": str(self.certificate),
                "rsa_private_key_file": str(self.certificate),
                "implicit_ssl": "YES" if self.tls == "implicit" else "NO",
                "allow_anon_ssl": "YES",
                "force_anon_logins_ssl": "YES",
                "force_anon_data_ssl": "YES",
                "require_ssl_reuse": "YES",
                "ssl_ciphers": "HIGH",
            }
        lines |= dict(line.split("=", 1) for line in self.config)
        path = self.base / "vsftpd.conf"
        path.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        self._launch([str(tree.path("usr/sbin/vsftpd")), str(path)], {**tree.environment(), **wrapper})


_SPLIT_OFF = ("mod_ls", "mod_xfer", "mod_delay")
"""Files of their own since Debian 13, part of the program before."""


class Proftpd(FtpServer):
    """TLS with the session reuse that it requires by default."""

    name = "proftpd"
    packages = ("proftpd-core", "proftpd-mod-crypto")
    needs = ("usr/sbin/proftpd", "usr/lib/proftpd/mod_tls.so")

    def _run(self, tree: Tree) -> None:
        users = self.base / "users"
        hashed = _crypt(self.secret)
        users.write_text(f"{self.user}:{hashed}:{self.uid}:{self.uid}:tester:{self.folder}:/bin/sh\n")
        users.chmod(0o640)
        groups = self.base / "groups"
        groups.write_text(f"{self.user}:x:{self.uid}:\n")
        groups.chmod(0o640)
        lines = [
            f'ModulePath "{tree.path("usr/lib/proftpd")}"',
            *(f"LoadModule {name}.c" for name in _SPLIT_OFF if tree.find(f"usr/lib/proftpd/{name}.so")),
            "ServerName crossdock",
            "ServerType standalone",
            "DefaultServer on",
            f"UseIPv6 {'on' if self.ipv6 else 'off'}",
            "UseReverseDNS off",
            "WtmpLog off",
            "TransferLog none",
            f"SystemLog {self.log}",
            f"PidFile {self.base}/proftpd.pid",
            "ScoreboardFile none",
            f"DelayTable {self.base}/delay",
            "DelayEngine off",
            f"Port {self.port}",
            f"DefaultAddress {self.host}",
            "SocketBindTight on",
            f"User {pwd.getpwuid(self.uid).pw_name}",
            f"Group {grp.getgrgid(pwd.getpwuid(self.uid).pw_gid).gr_name}",
            f"AuthUserFile {users}",
            f"AuthGroupFile {groups}",
            "AuthOrder mod_auth_file.c",
            "RequireValidShell off",
            "Umask 007",
            "AllowOverwrite on",
            "AllowStoreRestart on",
            "AllowRetrieveRestart on",
            "MaxLoginAttempts 100",
            "TimeoutLinger 1",
        ]
        if os.geteuid() == 0:
            lines.append("DefaultRoot ~")
        if self.tls != "none":
            lines += [
                "LoadModule mod_tls.c",
                "TLSEngine on",
                "TLSRequired on",
                f"TLSLog {self.base}/tls.log",
                f"TLSECCertificateFile {self.certificate}",
                f"TLSECCertificateKeyFile {self.certificate}",
                "TLSVerifyClient off",
                *(["TLSOptions UseImplicitSSL"] if self.tls == "implicit" else []),
            ]
        path = self.base / "proftpd.conf"
        # Of a directive that comes twice the first is in force.
        told = {line.split()[0] for line in self.config} - {"LoadModule"}
        kept = [line for line in lines if line.split()[0] not in told]
        path.write_text("".join(f"{line}\n" for line in [*kept, *self.config]))
        self._launch([str(tree.path("usr/sbin/proftpd")), "-n", "-q", "-c", str(path)], tree.environment())


class PureFtpd(FtpServer):
    """It does not look at the session of a data connection, and knows no implicit TLS."""

    name = "pureftpd"
    packages = ("pure-ftpd", "pure-ftpd-common")
    needs = ("usr/sbin/pure-ftpd", "usr/bin/pure-pw")
    needs_root = True

    def _run(self, tree: Tree) -> None:
        passwd = self.base / "pureftpd.passwd"
        database = self.base / "pureftpd.pdb"
        account = [self.user, _crypt(self.secret), self.uid, self.uid, "", f"{self.folder}/./", *[""] * 12]
        passwd.write_text(":".join(map(str, account)) + "\n")
        subprocess.run(
            [str(tree.path("usr/bin/pure-pw")), "mkdb", str(database), "-f", str(passwd)],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **tree.environment()},
        )
        command = [str(tree.path("usr/sbin/pure-ftpd")), "-S", f"{self.host},{self.port}", "-l", f"puredb:{database}"]
        command += ["-A", "-E", "-H", "-6" if self.ipv6 else "-4", "-U", "117:007", "-g", f"{self.base}/pid"]
        command += ["-L", "20000:10", "-C", "50", "-c", "50", "-I", "15", "-f", "none"]
        if self.tls != "none":
            command += ["-Y", "3", "-2", str(self.certificate)]
        self._launch([*command, *self.config], tree.environment())


def _crypt(secret: str) -> str:
    done = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=secret.encode(), stdout=subprocess.PIPE, check=True
    )
    return done.stdout.decode().strip()


def write_certificate(path: Path, *, days: int = 30, address: str = LOOPBACK) -> None:
    """A self-signed certificate for `address`, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "crossdock test")])
    now = datetime.datetime.now(datetime.UTC)
    start, end = sorted((now - datetime.timedelta(days=1), now + datetime.timedelta(days=days)))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.touch(0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )


def _first_certificate(path: Path) -> str:
    text = path.read_text()
    start = text.index("-----BEGIN CERTIFICATE-----")
    return text[start:]
