"""OpenSSH's sshd, run without root: libnss-wrapper invents the account, so the machine needs none."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from tests.servers.account import AccountServer
from tests.servers.packages import Tree
from tests.servers.server import LOOPBACK


class OpenSSH(AccountServer):
    """sshd for the account `tester`, who signs in by key alone and whose home (where relative paths start) is `folder`.

    `config`: lines of sshd_config put before ours, and so in force: `ForceCommand internal-sftp -R` makes a read-only
    server. `external`: sessions run the sftp-server program. `host_keys`: any of "ed25519" and "rsa".
    Started by root, the server drops to another account; the test and the server may then both write to what either
    made in `folder` (a default ACL), only chmod and utime stay with the maker: `own()` hands everything to the server.
    """

    name = "openssh"
    packages = ("openssh-server", "openssh-sftp-server", "openssh-client", "libnss-wrapper")
    needs = ("usr/sbin/sshd", "usr/lib/openssh/sftp-server", "usr/lib/{triplet}/libnss_wrapper.so")

    def __init__(
        self, *, config: tuple[str, ...] = (), external: bool = False, host_keys: tuple[str, ...] = ("ed25519",)
    ) -> None:
        super().__init__()
        self._config = config
        self._external = external
        self._host_keys = host_keys
        self.host = LOOPBACK
        self.port = 0
        self.folder = Path()
        """The account's home; the server knows it by the same absolute path."""
        self.key = Path()
        """The client's private key, mode 0600, readable by us."""
        self.host_key_lines: tuple[str, ...] = ()
        """known_hosts lines, in the order of `host_keys`."""
        self.fingerprints: tuple[str, ...] = ()
        """"SHA256:…", in the order of `host_keys`."""

    @property
    def host_key_line(self) -> str:
        return self.host_key_lines[0]

    @property
    def fingerprint(self) -> str:
        return self.fingerprints[0]

    @property
    def log(self) -> Path:
        return self.base / "sshd.log"

    def settings(self, **more: Any) -> dict[str, Any]:
        """What an endpoint needs in order to sign in."""
        found: dict[str, Any] = {
            "type": "sftp",
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "private_key": f"file:{self.key}",
            "host_key": self.fingerprint,
        }
        return found | more

    def own(self) -> None:
        """Give everything in `folder` to the server's account (a no-op unless we are root)."""
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, self.uid, -1, follow_symlinks=False)

    def known_hosts(self) -> Path:
        """A known_hosts file with this server in it."""
        path = self.base / "known_hosts"
        path.write_text("".join(f"{line}\n" for line in self.host_key_lines))
        return path

    def _start(self) -> None:
        tree = self._files()
        self.folder = self.base / "home"
        self._make_home(self.folder)
        (self.port,) = self._ports(1)
        config = self._write_config(tree)
        child = self._spawn(
            [str(tree.path("usr/sbin/sshd")), "-D", "-e", "-f", str(config)],
            self.log,
            {**tree.environment(), **self._accounts(tree, self.folder)},
            uid=self.uid if self._drops else None,
        )
        self._wait_for_port(self.port, self.log, alive=lambda: child.poll() is None, seconds=60)
        with socket.create_connection((self.host, self.port), timeout=60) as connection, connection.makefile() as lines:
            self.version = lines.readline().strip().removeprefix("SSH-2.0-")

    def _write_config(self, tree: Tree) -> Path:
        self.key = self.base / "client_key"
        line = _write_key(self.key, "ed25519")
        authorized = self.base / "authorized_keys"
        authorized.write_text(f"{line}\n")
        lines = [*self._config, f"Port {self.port}", f"ListenAddress {self.host}", f"PidFile {self.base}/sshd.pid"]
        host_lines, prints = [], []
        for kind in self._host_keys:
            path = self.base / f"host_key_{kind}"
            public = _write_key(path, kind)
            os.chown(path, self.uid, -1)
            lines.append(f"HostKey {path}")
            host_lines.append(f"[{self.host}]:{self.port} {public}")
            digest = hashlib.sha256(base64.b64decode(public.split()[1])).digest()
            prints.append("SHA256:" + base64.b64encode(digest).decode().rstrip("="))
        self.host_key_lines, self.fingerprints = tuple(host_lines), tuple(prints)
        server = "internal-sftp"
        if self._external:
            # By a name without the spaces that the checkout's path may have: a shell splits it.
            link = self.base / "sftp-server"
            link.symlink_to(tree.path("usr/lib/openssh/sftp-server"))
            server = str(link)
        lines += [
            f"AuthorizedKeysFile {authorized}",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "MaxStartups 100",
            "MaxSessions 100",
            f"Subsystem sftp {server}",
        ]
        # Since 9.8 a connection runs in a second program, and failed sign-ins get an address locked out for a while.
        session = tree.find("usr/lib/openssh/sshd-session")
        if session is not None:
            lines += [f"SshdSessionPath {session}", "PerSourcePenalties no"]
        auth = tree.find("usr/lib/openssh/sshd-auth")
        if auth is not None:
            lines.append(f"SshdAuthPath {auth}")
        path = self.base / "sshd_config"
        path.write_text("\n".join([*lines, ""]))
        return path


def _write_key(path: Path, kind: str) -> str:
    """Write a new private key (mode 0600) and return its public line."""
    key = (
        ed25519.Ed25519PrivateKey.generate()
        if kind == "ed25519"
        else rsa.generate_private_key(public_exponent=65537, key_size=3072)
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    path.touch(0o600)
    path.write_bytes(private)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return public.decode()
