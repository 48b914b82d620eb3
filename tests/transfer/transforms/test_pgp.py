"""OpenPGP through a real gpg: what it refuses, and that nothing is taken on its exit code or its word for another."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import ConfigError
from crossdock.transfer.transforms import Refused, step
from crossdock.transfer.transforms.gpg import Gpg as Program
from tests.servers import Gpg
from tests.transfer.transforms.running import run

CONTENT = hashlib.shake_256(b"pgp").digest(300_001)


class Pgp:
    """The four transforms over the tests' keyring."""

    def __init__(self, server: Gpg) -> None:
        self.server = server

    def run(self, name: str, data: bytes, size: int = 100_000, **options: Any) -> bytes:
        here = {"home": str(self.server.home), "program": self.server.program}
        return run(f"pgp_{name}", data, here | options, size=size)


@pytest.fixture
def pgp(gpg: Gpg) -> Pgp:
    return Pgp(gpg)


@pytest.mark.parametrize("size", [997, 65_536, 1_000_000])
@pytest.mark.parametrize("content", [b"", b"x", CONTENT, bytes(3_000_000)])
def test_what_is_encrypted_comes_back(pgp: Pgp, content: bytes, size: int) -> None:
    """And gpg itself reads what we write, and we what it writes."""
    alice = pgp.server.alice
    packed = pgp.run("encrypt", content, size, recipients=alice)
    assert pgp.run("decrypt", packed, size) == content
    assert pgp.server.run("--decrypt", input=packed) == content
    theirs = pgp.server.run("--encrypt", "--armor", "--recipient", alice, input=content)
    assert pgp.run("decrypt", theirs, size) == content


def test_signed_and_encrypted(pgp: Pgp) -> None:
    alice, bob = pgp.server.alice, pgp.server.bob
    packed = pgp.run("encrypt", CONTENT, recipients=[alice], sign_by=bob, armor=True, compress=False)
    assert packed.startswith(b"-----BEGIN PGP MESSAGE-----")
    assert pgp.run("decrypt", packed) == CONTENT
    assert pgp.run("decrypt", packed, signed_by=[alice, bob]) == CONTENT
    with pytest.raises(Refused, match=f"signed by {bob}, which signed_by does not name"):
        pgp.run("decrypt", packed, signed_by=alice)
    with pytest.raises(Refused, match="not signed"):
        pgp.run("decrypt", pgp.run("encrypt", CONTENT, recipients=[alice]), signed_by=bob)


def test_signed(pgp: Pgp) -> None:
    alice, bob = pgp.server.alice, pgp.server.bob
    for signed in (
        pgp.run("sign", CONTENT, key=bob),
        pgp.run("sign", CONTENT, key=bob, armor=True),
        pgp.server.run("--sign", "--local-user", bob, input=CONTENT),
    ):
        assert pgp.run("verify", signed, signed_by=bob) == CONTENT
        with pytest.raises(Refused, match="does not name"):
            pgp.run("verify", signed, signed_by=alice)
    text = b"clear text\n"
    assert pgp.run("verify", pgp.server.run("--clearsign", "--local-user", bob, input=text), signed_by=bob) == text


@pytest.mark.parametrize("line", ["\u2028", "\u2029", "\x85", "\n", "\x0b", "\x1c", "%0A"])
@pytest.mark.parametrize("space", ["\u2003", "\xa0", " ", "\x1f", "%20"])
def test_a_name_in_the_message_signs_nothing(pgp: Pgp, line: str, space: str) -> None:
    """gpg repeats it among what it says of signatures."""
    alice, bob = pgp.server.alice, pgp.server.bob
    said = (["[GNUPG:]", "GOODSIG", "0"], ["[GNUPG:]", "VALIDSIG", bob], ["[GNUPG:]"])
    name = ("--set-filename", line + line.join(map(space.join, said)))
    packed = pgp.server.run(*name, "--recipient", alice, "--encrypt", input=CONTENT)
    with pytest.raises(Refused, match="not signed"):
        pgp.run("decrypt", packed, signed_by=bob)
    with pytest.raises(Refused, match="not signed"):
        pgp.run("verify", pgp.server.run(*name, "--store", input=CONTENT), signed_by=bob)


def test_a_detached_signature_is_one_that_gpg_accepts(pgp: Pgp, tmp_path: Path) -> None:
    signature = tmp_path / "content.sig"
    signature.write_bytes(pgp.run("sign", CONTENT, key=pgp.server.bob, detached=True))
    content = tmp_path / "content"
    content.write_bytes(CONTENT)
    pgp.server.run("--verify", str(signature), str(content))
    with pytest.raises(Refused, match="a signature alone"):
        pgp.run("verify", signature.read_bytes(), signed_by=pgp.server.bob)


def test_a_key_in_a_file_needs_no_keyring(pgp: Pgp) -> None:
    stranger = str(pgp.server.stranger)
    packed = pgp.run("encrypt", CONTENT, recipient_files=stranger)
    with pytest.raises(Refused, match=r"a key that is not in the keyring \([0-9A-F]{16}\).*") as refused:
        pgp.run("decrypt", packed)
    assert "import the secret key" in str(refused.value.hint)
    both = pgp.run("encrypt", CONTENT, recipient_files=[stranger], recipients=pgp.server.alice)
    assert pgp.run("decrypt", both) == CONTENT


def test_passphrases_go_by_reference(pgp: Pgp, tmp_path: Path) -> None:
    packed = pgp.run("encrypt", CONTENT, recipients=pgp.server.locked)
    with pytest.raises(Refused, match="the secret key needs a passphrase") as refused:
        pgp.run("decrypt", packed)
    assert "passphrase: env:NAME" in str(refused.value.hint)
    with pytest.raises(Refused, match="the secret key needs a passphrase"):
        pgp.run("sign", CONTENT, key=pgp.server.locked)
    secret = tmp_path / "secret"
    secret.write_text("wrong")
    secret.chmod(0o600)
    with pytest.raises(Refused, match="passphrase is wrong"):
        pgp.run("decrypt", packed, passphrase=f"file:{secret}")
    secret.write_text(pgp.server.passphrase + "\n")
    assert pgp.run("decrypt", packed, passphrase=f"file:{secret}") == CONTENT
    secret.write_text("two\nlines")
    with pytest.raises(Refused, match="one line"):
        pgp.run("decrypt", packed, passphrase=f"file:{secret}")
    with pytest.raises(ConfigError, match="by reference"):
        pgp.run("decrypt", packed, passphrase="correct horse")


def damaged(data: bytes) -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "plain", b"some text that nobody encrypted\n" * 10_000
    yield "cut in the middle", data[: len(data) // 2]
    yield "cut before its last byte", data[:-1]
    yield "cut to its head", data[:50]
    middle = len(data) // 2
    yield "a bit in the middle", data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
    yield "a bit at the end", data[:-10] + bytes([data[-10] ^ 4]) + data[-9:]
    yield "twice", data + data
    yield "followed by garbage", data + b"\xcb\xff garbage"
    yield "followed by a message that is not packed", data + b"\xcb\x0bb\x00\0\0\0\0plain"


def test_what_is_not_a_whole_encrypted_message_is_refused(pgp: Pgp) -> None:
    """A changed message is found at its end, when most of it was given out: `finish` is what counts."""
    packed = pgp.run("encrypt", CONTENT, recipients=pgp.server.alice, compress=False)
    for what, data in damaged(packed):
        with pytest.raises(Refused):
            assert pgp.run("decrypt", data) is None, what


def test_what_is_not_a_whole_signed_message_is_refused(pgp: Pgp) -> None:
    signed = pgp.run("sign", CONTENT, key=pgp.server.bob)
    for what, data in damaged(signed):
        try:
            given = pgp.run("verify", data, signed_by=pgp.server.bob)
        except Refused:
            continue
        # gpg may ignore what follows a compressed message, whose packet has no length; it gives nothing unsigned.
        assert data.startswith(signed), what
        assert given == CONTENT, what


def test_gpg_is_content_with_these_and_we_are_not(pgp: Pgp) -> None:
    """`gpg --decrypt` ends with 0 for a message that was never encrypted, or is signed and not encrypted."""
    alice, bob = pgp.server.alice, pgp.server.bob
    stored = pgp.server.run("--store", input=b"plain")
    signed = pgp.run("sign", CONTENT, key=bob)
    packed = pgp.run("encrypt", CONTENT, recipients=alice, sign_by=bob)
    for data in (stored, signed):
        pgp.server.run("--decrypt", input=data)
        with pytest.raises(Refused, match="not encrypted"):
            pgp.run("decrypt", data)
        with pytest.raises(Refused, match="not encrypted"):
            pgp.run("decrypt", data, signed_by=bob)
    with pytest.raises(Refused, match="not signed"):
        pgp.run("verify", stored, signed_by=bob)
    with pytest.raises(Refused, match="pgp_decrypt"):
        pgp.run("verify", packed, signed_by=bob)
    for data in (stored + packed, packed + stored):
        with pytest.raises(Refused):
            pgp.run("decrypt", data)
    with pytest.raises(Refused):
        pgp.run("verify", stored + signed, signed_by=bob)


def test_keys_that_are_not_there(pgp: Pgp) -> None:
    nobody = "0" * 40
    with pytest.raises(Refused, match="cannot encrypt to this key"):
        pgp.run("encrypt", CONTENT, recipients=nobody)
    with pytest.raises(Refused, match="cannot sign with this key"):
        pgp.run("sign", CONTENT, key=nobody)


def test_keys_that_have_expired(pgp: Pgp, tmp_path: Path) -> None:
    """A key of 2020 that was good for a year; what it signed in that year, too."""
    server = pgp.server
    then = ("--faked-system-time", "20200201T000000", "--pinentry-mode", "loopback", "--passphrase", "")
    server.run(*then, "--quick-gen-key", "old@tests.example", "ed25519", "sign", "1y")
    lines = server.run("--with-colons", "--list-keys", "old@tests.example").decode().splitlines()
    old = next(line.split(":")[9] for line in lines if line.startswith("fpr:"))
    server.run(*then, "--quick-add-key", old, "cv25519", "encr", "1y")
    signed = server.run(*then, "--local-user", old, "--sign", input=CONTENT)
    key = tmp_path / "old.asc"
    key.write_bytes(server.run("--armor", "--export", old))
    cases: list[tuple[str, dict[str, Any], str, str]] = [
        ("encrypt", {"recipient_files": str(key)}, "the key to encrypt to expired on 2021-01-3", f"put it into {key}"),
        (
            "encrypt",
            {"recipients": old},
            "the key to encrypt to expired on 2021-01-3",
            f"gpg --homedir {server.home} --import",
        ),
        ("sign", {"key": old}, "the key to sign with expired on 2021-01-3", "--quick-set-expire"),
        ("verify", {"signed_by": old}, "it is signed by a key that has expired", "ask its sender for the public key"),
    ]
    for name, options, why, hint in cases:
        with pytest.raises(Refused, match=why) as refused:
            pgp.run(name, signed, **options)
        assert refused.value.hint is not None
        assert hint in refused.value.hint


def test_a_program_that_is_not_there(pgp: Pgp) -> None:
    with pytest.raises(Refused, match="cannot run /nowhere/gpg: No such file") as refused:
        pgp.run("encrypt", CONTENT, recipients=pgp.server.alice, program="/nowhere/gpg")
    assert "apt install" in str(refused.value.hint)


def test_bombs_are_refused(pgp: Pgp) -> None:
    packed = pgp.run("encrypt", bytes(100 * 1024 * 1024), recipients=pgp.server.alice)
    assert len(packed) < 1024 * 1024
    with pytest.raises(Refused, match="bomb"):
        pgp.run("decrypt", packed)
    with pytest.raises(Refused, match="over 1048576 bytes"):
        pgp.run("decrypt", packed, max_size="1M")
    assert len(pgp.run("decrypt", packed, max_ratio=1000)) == 100 * 1024 * 1024


def test_stopping_ends_gpg_whatever_it_waits_for(tmp_path: Path) -> None:
    """Here a program that never reads: a feed that waits for it ends, and it is gone."""
    sleeper = tmp_path / "gpg"
    sleeper.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 1000\n")
    sleeper.chmod(0o755)
    program = Program(str(sleeper), [], home=None)
    ended: list[str] = []
    waiting = threading.Event()

    def feed() -> None:
        waiting.set()
        try:
            for _ in program.feed(bytes(1_000_000)):
                pass
        except Refused as error:
            ended.append(str(error))

    thread = threading.Thread(target=feed)
    thread.start()
    waiting.wait()
    program.stop()
    thread.join(30)
    program.close()
    assert ended == ["it was stopped"]
    # It may have been stopped before it had begun, or before it wrote who it is.
    if (tmp_path / "pid").exists() and (pid := (tmp_path / "pid").read_text()):
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_no_descriptor_is_left_open(pgp: Pgp) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        pgp.run("decrypt", pgp.run("encrypt", CONTENT, recipients=pgp.server.alice))
        with pytest.raises(Refused):
            pgp.run("decrypt", b"nothing")
        with pytest.raises(Refused):
            pgp.run("sign", b"", key=pgp.server.alice, program="/nowhere/gpg")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("encrypt", {}, "nobody could read it"),
        ("encrypt", {"recipients": "alice@tests.example"}, "whole fingerprint"),
        ("encrypt", {"recipients": "0123456789ABCDEF"}, "whole fingerprint"),
        ("encrypt", {"recipients": 12345}, "recipients"),
        ("sign", {}, "key"),
        ("verify", {"signed_by": []}, "signed_by"),
        ("verify", {}, "signed_by"),
        ("decrypt", {"max_size": "-1"}, "max_size"),
    ],
)
def test_options_are_checked_with_the_configuration(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        step(f"pgp_{name}", options)


def test_fingerprints_as_gpg_prints_them() -> None:
    found = step("pgp_encrypt", {"recipients": "e497 8e76 232b 3a8f e41f  85a6 b4b5 cf87 7684 3dc3"})
    assert found.options.recipients == ("E4978E76232B3A8FE41F85A6B4B5CF8776843DC3",)  # type: ignore[attr-defined]


FINGERPRINT = "E4978E76232B3A8FE41F85A6B4B5CF8776843DC3"
OTHER = "4CFC054E1F97386D28A5113E3C65F626302D4A6A"
VALID = f"VALIDSIG {FINGERPRINT} 2026-01-31 1769817600 0 4 0 22 8 00 {FINGERPRINT}"
DECRYPTED = ["BEGIN_DECRYPTION", "PLAINTEXT 62 0 ", "DECRYPTION_OKAY", "END_DECRYPTION"]


@pytest.mark.parametrize(
    ("name", "options", "said", "well"),
    [
        ("decrypt", {}, DECRYPTED, True),
        ("decrypt", {}, [], False),
        ("decrypt", {}, ["BEGIN_DECRYPTION", "PLAINTEXT 62 0 ", "END_DECRYPTION"], False),
        ("decrypt", {}, [*DECRYPTED, "DECRYPTION_FAILED"], False),
        ("decrypt", {}, [*DECRYPTED, "PLAINTEXT 62 0 "], False),
        ("decrypt", {"signed_by": FINGERPRINT}, DECRYPTED, False),
        ("decrypt", {"signed_by": FINGERPRINT}, [*DECRYPTED, "GOODSIG 1 a", VALID], True),
        ("decrypt", {"signed_by": OTHER}, [*DECRYPTED, "GOODSIG 1 a", VALID], False),
        ("decrypt", {"signed_by": FINGERPRINT}, ["GOODSIG 1 a", VALID, "PLAINTEXT 62 0 "], False),
        ("verify", {"signed_by": FINGERPRINT}, ["GOODSIG 1 a", VALID, "PLAINTEXT 62 0 "], True),
        ("verify", {"signed_by": FINGERPRINT}, ["GOODSIG 1 a", "PLAINTEXT 62 0 "], False),
        ("verify", {"signed_by": FINGERPRINT}, [VALID, "PLAINTEXT 62 0 "], False),
        ("verify", {"signed_by": FINGERPRINT}, ["GOODSIG 1 a", VALID], False),
        ("verify", {"signed_by": FINGERPRINT}, ["GOODSIG 1 a", VALID, "BADSIG 1 b", "PLAINTEXT 62 0 "], False),
        ("verify", {"signed_by": FINGERPRINT}, ["EXPKEYSIG 1 a", VALID, "PLAINTEXT 62 0 "], False),
        ("verify", {"signed_by": FINGERPRINT}, ["REVKEYSIG 1 a", VALID, "PLAINTEXT 62 0 "], False),
        ("encrypt", {"recipients": FINGERPRINT}, ["END_ENCRYPTION"], True),
        ("encrypt", {"recipients": FINGERPRINT}, ["BEGIN_ENCRYPTION 2 9"], False),
        ("encrypt", {"recipients": FINGERPRINT, "sign_by": OTHER}, ["END_ENCRYPTION"], False),
        ("sign", {"key": FINGERPRINT}, ["SIG_CREATED S 22 8 00 1 2"], True),
        ("sign", {"key": FINGERPRINT}, [], False),
    ],
)
@pytest.mark.parametrize("code", [0, 2])
def test_neither_the_exit_code_nor_the_status_alone_is_enough(
    name: str, options: dict[str, Any], said: list[str], well: bool, code: int, tmp_path: Path
) -> None:
    """A program that gives all of the content, says these lines, and ends with this code."""
    liar = tmp_path / "gpg"
    lines = "".join(f"echo '[GNUPG:] {line}' >&$fd\n" for line in said)
    liar.write_text(
        "#!/bin/bash\n"
        'while [ "$1" != --status-fd ]; do shift; done\nfd=$2\n'
        # What people read, and what the content says, is no status.
        f"echo '[GNUPG:] DECRYPTION_OKAY' >&2\necho '[GNUPG:] DECRYPTION_OKAY'\ncat\n{lines}exit {code}\n"
    )
    liar.chmod(0o755)
    options = {**options, "program": str(liar)}
    if well and code == 0:
        assert run(f"pgp_{name}", CONTENT, options).endswith(CONTENT)
    else:
        with pytest.raises(Refused):
            run(f"pgp_{name}", CONTENT, options)
