"""GnuPG's program with a keyring of the tests, and the agent that holds its secret keys."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.servers.server import Server, StartFailed


class Gpg(Server):
    """`program` with the keyring in `home`: `alice` and `bob` are fingerprints of keys without a passphrase.

    `locked` is the fingerprint of a key whose passphrase is `passphrase`. `stranger` is the file of a public key that
    is not in the keyring.
    """

    name = "gpg"
    packages = ("gpg", "gpg-agent", "gpgconf")
    needs = ("usr/bin/gpg", "usr/bin/gpg-agent", "usr/bin/gpg-connect-agent")

    passphrase = "correct horse"

    def __init__(self) -> None:
        super().__init__()
        self.program = ""
        self.alice = self.bob = self.locked = ""
        self.stranger = Path()
        self._environment: dict[str, str] = {}

    @property
    def home(self) -> Path:
        return self.base / "home"

    def _start(self) -> None:
        tree = self.fetch()
        program = tree.path("usr/bin/gpg")
        self._environment = tree.environment()
        # A wrapper, so that one path is all that whoever runs it needs to know.
        wrapper = self.base / "gpg"
        exports = "".join(f"export {name}='{text}'\n" for name, text in self._environment.items())
        wrapper.write_text(f"#!/bin/sh\n{exports}exec '{program}' \"$@\"\n")
        wrapper.chmod(0o755)
        self.program = str(wrapper)
        other = self.base / "other"
        for home in (self.home, other):
            home.mkdir(mode=0o700)
            (home / "gpg.conf").write_text(f"agent-program {tree.path('usr/bin/gpg-agent')}\n")
        self.alice, self.bob = self._key(self.home, "alice"), self._key(self.home, "bob")
        self.locked = self._key(self.home, "locked", self.passphrase)
        unknown = self._key(other, "stranger")
        self.stranger = self.base / "stranger.asc"
        self.stranger.write_bytes(self.run("--armor", "--export", unknown, home=other))
        for home in (self.home, other):
            self.pids.append(self._agent(tree.path("usr/bin/gpg-connect-agent"), home))
        self.version = self.run("--version").decode().splitlines()[0]

    def run(self, *arguments: str, input: bytes = b"", home: Path | None = None) -> bytes:
        """gpg's own answer, for what the tests compare with. Raises StartFailed."""
        command = [self.program, "--homedir", str(home or self.home), "--batch", "--yes", "--trust-model", "always"]
        done = subprocess.run([*command, *arguments], input=input, capture_output=True, timeout=60)
        if done.returncode:
            raise StartFailed(f"gpg {' '.join(arguments)}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def _key(self, home: Path, name: str, passphrase: str = "") -> str:
        secret = ("--pinentry-mode", "loopback", "--passphrase", passphrase)
        self.run(*secret, "--quick-gen-key", f"{name}@tests.example", "ed25519", "sign", "never", home=home)
        lines = self.run("--with-colons", "--list-keys", f"{name}@tests.example", home=home).decode().splitlines()
        found = next(line.split(":")[9] for line in lines if line.startswith("fpr:"))
        self.run(*secret, "--quick-add-key", found, "cv25519", "encr", home=home)
        return found

    def _agent(self, connect: Path, home: Path) -> int:
        command = [str(connect), "--homedir", str(home), "--no-autostart", "GETINFO pid", "/bye"]
        done = subprocess.run(command, capture_output=True, env={**os.environ, **self._environment}, timeout=60)
        found = [line.split()[1] for line in done.stdout.decode().splitlines() if line.startswith("D ")]
        if not found:
            raise StartFailed(f"gpg-agent does not answer: {done.stdout!r} {done.stderr!r}")
        return int(found[0])
