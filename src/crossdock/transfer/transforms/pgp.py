"""OpenPGP (RFC 4880) by the `gpg` program: encrypt, decrypt, sign, verify, in the stream and at constant memory.

Keys are named by fingerprint and nothing else: whoever can add a key to the keyring must not thereby become a
recipient or an accepted signer. gpg's trust database is therefore not asked.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from crossdock.storage.secret import Secret
from crossdock.storage.settings import FilePath
from crossdock.transfer.transforms.base import Growth, Options, Refused, Transform
from crossdock.transfer.transforms.gpg import Gpg
from crossdock.transfer.transforms.members import Unpacking

__all__ = [
    "Decrypt",
    "DecryptOptions",
    "Encrypt",
    "EncryptOptions",
    "PgpOptions",
    "Sign",
    "SignOptions",
    "Verify",
    "VerifyOptions",
]


def _fingerprint(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("write a key's fingerprint in quotes: gpg --list-keys shows it")
    found = re.sub(r"[\s:]", "", value).upper()
    if not re.fullmatch(r"[0-9A-F]{40}|[0-9A-F]{64}", found):
        raise ValueError("write the key's whole fingerprint, 40 hex digits: gpg --list-keys shows it")
    return found


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


Fingerprint = Annotated[str, BeforeValidator(_fingerprint)]
Fingerprints = Annotated[tuple[Fingerprint, ...], BeforeValidator(_several)]
FilePaths = Annotated[tuple[FilePath, ...], BeforeValidator(_several)]


class PgpOptions(Options):
    """Which gpg, and whose keys."""

    home: FilePath | None = None
    """The keyring's folder (GNUPGHOME); by default the user's own, `~/.gnupg`. Its `gpg.conf` counts."""
    program: str = "gpg"
    """Where gpg is, if not on the PATH."""


class _Own(PgpOptions):
    passphrase: Secret | None = None
    """Of the secret key; none if it has none, or if gpg's agent knows it."""


class EncryptOptions(_Own):
    recipients: Fingerprints = ()
    """Fingerprints of keys in the keyring."""
    recipient_files: FilePaths = ()
    """Files that hold one public key each; these need no keyring."""
    sign_by: Fingerprint | None = None
    """Sign it as well, with this secret key."""
    armor: bool = False
    """Text (`-----BEGIN PGP MESSAGE-----`) instead of bytes."""
    compress: bool = True
    """Before it is encrypted; false is faster for what is compressed already."""

    @model_validator(mode="after")
    def _somebody(self) -> EncryptOptions:
        if not self.recipients and not self.recipient_files:
            raise ValueError("nobody could read it: write recipients or recipient_files")
        return self


class DecryptOptions(_Own, Unpacking):
    signed_by: Fingerprints = ()
    """Fingerprints: one of these keys must have signed it. None: signatures are not looked at."""


class SignOptions(_Own):
    key: Fingerprint
    """Fingerprint of the secret key."""
    detached: bool = False
    """The result is the signature alone; a second rule or destination moves the file itself."""
    armor: bool = False
    """Text instead of bytes."""


class VerifyOptions(PgpOptions, Unpacking):
    signed_by: Fingerprints = Field(min_length=1)
    """Fingerprints: one of these keys must have signed it."""


class _Pgp(Transform):
    """What all four share: nothing is published before gpg has ended well and said what it must."""

    options: PgpOptions

    def __init__(self, options: PgpOptions) -> None:
        super().__init__(options)
        secret = options.passphrase if isinstance(options, _Own) else None
        passphrase = secret.reveal() if secret is not None else None
        if passphrase is not None and (not 0 < len(passphrase.encode()) <= 1024 or "\n" in passphrase):
            raise Refused("a passphrase is one line of 1 to 1024 bytes", hint=f"look at {secret!r}")
        self._gpg = Gpg(options.program, self._arguments(), home=options.home, passphrase=passphrase)
        limits = options if isinstance(options, Unpacking) else None
        self._growth = Growth(ratio=limits.max_ratio, size=limits.max_size) if limits else None

    @abstractmethod
    def _arguments(self) -> list[str]:
        """gpg's command line, after what every run has."""

    @abstractmethod
    def _judge(self, said: Sequence[Sequence[str]]) -> str | None:
        """What is missing in what gpg said, though it ended well; None: nothing."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._growth:
            self._growth.took(len(data))
        for piece in self._gpg.feed(data):
            self._count(piece)
            yield piece
        if self._gpg.ended_early:
            yield from self.finish()

    def finish(self) -> Iterator[bytes]:
        for piece in self._gpg.finish():
            self._count(piece)
            yield piece
        said = self._gpg.said()
        wrong = _refusal(said) if self._gpg.code else self._judge(said)
        if self._gpg.code and wrong is None:
            wrong = self._gpg.complaint() or f"gpg ended with {self._gpg.code}"
        if wrong is not None:
            raise Refused(wrong, hint=self._hint(said))

    def _count(self, piece: bytes) -> None:
        if self._growth:
            self._growth.gave(len(piece))

    def _hint(self, said: Sequence[Sequence[str]]) -> str:
        found = _words(said)
        where = f"--homedir {self.options.home} " if self.options.home else ""
        if _locked(said):
            # Before what gpg 2.4 adds, that there is no key.
            return "give the secret key's passphrase by reference: passphrase: env:NAME"
        if "NO_SECKEY" in found:
            return f"import the secret key it is encrypted to: gpg {where}--import KEYFILE"
        files = [str(path) for path in getattr(self.options, "recipient_files", ())]
        if "INV_RECP" in found and _ended(said):
            there = f"put it into {', '.join(files)}" if files else f"gpg {where}--import KEYFILE"
            return f"ask the recipient for a key that is valid: {there}"
        if "INV_RECP" in found and files:
            return f"see that a public key that can encrypt is in {', '.join(files)}"
        if "INV_SGNR" in found:
            own = f"extend it (gpg {where}--quick-set-expire FINGERPRINT 1y), and send the public key to who verifies"
            return own if _ended(said) else f"import the secret key: gpg {where}--import KEYFILE"
        if "EXPKEYSIG" in found:
            return f"ask its sender for the public key as it is now: gpg {where}--import KEYFILE"
        if "NO_PUBKEY" in found or "INV_RECP" in found:
            return f"import the public key: gpg {where}--import KEYFILE"
        return "ask its sender, or try gpg by hand on the file"

    def stop(self) -> None:
        self._gpg.stop()

    def close(self) -> None:
        self._gpg.close()


class Encrypt(_Pgp):
    """For one or more recipients, and signed as well if asked to."""

    Options = EncryptOptions
    options: EncryptOptions

    def _arguments(self) -> list[str]:
        given = self.options
        arguments = [part for key in given.recipients for part in ("--recipient", key)]
        arguments += [part for path in given.recipient_files for part in ("--recipient-file", str(path))]
        arguments += ["--armor"] if given.armor else []
        arguments += [] if given.compress else ["--compress-algo", "none"]
        arguments += ["--sign", "--local-user", given.sign_by] if given.sign_by else []
        return [*arguments, "--encrypt"]

    def _judge(self, said: Sequence[Sequence[str]]) -> str | None:
        found = _words(said)
        if "END_ENCRYPTION" not in found:
            return "gpg does not say that it has encrypted this"
        if self.options.sign_by and "SIG_CREATED" not in found:
            return "gpg does not say that it has signed this"
        return None


class Sign(_Pgp):
    """The signed file is an OpenPGP message that holds the content."""

    Options = SignOptions
    options: SignOptions

    def _arguments(self) -> list[str]:
        given = self.options
        armor = ["--armor"] if given.armor else []
        return [*armor, "--local-user", given.key, "--detach-sign" if given.detached else "--sign"]

    def _judge(self, said: Sequence[Sequence[str]]) -> str | None:
        return None if "SIG_CREATED" in _words(said) else "gpg does not say that it has signed this"


class Decrypt(_Pgp):
    """What is not encrypted is refused, and so is what was encrypted without protection against changes."""

    Options = DecryptOptions
    options: DecryptOptions

    def _arguments(self) -> list[str]:
        return [*([] if self.options.signed_by else ["--skip-verify"]), "--decrypt"]

    def _judge(self, said: Sequence[Sequence[str]]) -> str | None:
        found = _words(said)
        if "BEGIN_DECRYPTION" not in found:
            return "the file is not encrypted"
        if "DECRYPTION_OKAY" not in found or "DECRYPTION_FAILED" in found:
            return "gpg does not say that it decrypted this well"
        return _unsigned(said, self.options.signed_by) if self.options.signed_by else _several_texts(said)


class Verify(_Pgp):
    """The content of a signed message (`gpg --sign`, `--clearsign`), without the signature."""

    Options = VerifyOptions
    options: VerifyOptions

    def _arguments(self) -> list[str]:
        return ["--decrypt"]

    def _judge(self, said: Sequence[Sequence[str]]) -> str | None:
        if "BEGIN_DECRYPTION" in _words(said):
            return "the file is encrypted: write pgp_decrypt with signed_by instead"
        return _unsigned(said, self.options.signed_by)


def _words(said: Sequence[Sequence[str]]) -> set[str]:
    return {line[0] for line in said}


def _several_texts(said: Sequence[Sequence[str]]) -> str | None:
    """A second text beside the encrypted or signed one would be published without being either."""
    count = sum(line[0] == "PLAINTEXT" for line in said)
    return None if count == 1 else f"the file holds {count} messages, not one"


def _unsigned(said: Sequence[Sequence[str]], accepted: Sequence[str]) -> str | None:
    """Why this does not count as signed by one of the accepted keys; None: it does.

    VALIDSIG's first word is the fingerprint of the key that signed, its last that of the primary key.
    """
    bad = _words(said) & {"BADSIG", "ERRSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG"}
    if bad:
        return next((reason for word, reason in _REASONS.items() if word in bad), "its signature cannot be checked")
    signers = [{line[1], line[-1]} for line in said if line[0] == "VALIDSIG" and len(line) > 1]
    if not signers or "GOODSIG" not in _words(said):
        return "it is not signed"
    if not any(signer & set(accepted) for signer in signers):
        return f"it is signed by {', '.join(sorted(set.union(*signers)))}, which signed_by does not name"
    return _several_texts(said)


_BAD_PASSPHRASE, _NO_PIN_ENTRY = 11, 85
"""Codes of libgpg-error, in the low 16 bits; the second: the agent had to ask for a passphrase, and may not."""


def _locked(said: Sequence[Sequence[str]]) -> str | None:
    """Why a secret key that is there could not be used; None: that is not what is wrong."""
    codes = {int(line[-1]) & 0xFFFF for line in said if line[0] in ("ERROR", "FAILURE") and line[-1].isdigit()}
    if _BAD_PASSPHRASE in codes:
        return "the passphrase is wrong"
    return "the secret key needs a passphrase" if _NO_PIN_ENTRY in codes else None


def _ended(said: Sequence[Sequence[str]]) -> str | None:
    """What happened to a key that gpg will not use, of which it says no more than that (INV_RECP 0)."""
    ends = [line[1] for line in said if line[0] == "KEYEXPIRED" and len(line) > 1]
    if "KEYREVOKED" in _words(said):
        return "was revoked"
    if not ends:
        return None
    return f"expired on {datetime.fromtimestamp(int(ends[0]), UTC):%Y-%m-%d}" if ends[0].isdecimal() else "has expired"


_REASONS = {
    "BADSIG": "its signature is bad: the file was changed",
    "NODATA": "this is not an OpenPGP message, or a part of one",
    "NO_SECKEY": "it is encrypted to a key that is not in the keyring",
    "NO_PUBKEY": "it is signed by a key that is not in the keyring",
    "EXPSIG": "its signature has expired",
    "EXPKEYSIG": "it is signed by a key that has expired",
    "REVKEYSIG": "it is signed by a key that was revoked",
    "BADMDC": "it was changed after it was encrypted",
    "INV_RECP": "gpg cannot encrypt to this key",
    "INV_SGNR": "gpg cannot sign with this key",
}


def _refusal(said: Sequence[Sequence[str]]) -> str | None:
    """In words, why gpg failed, where its status lines tell."""
    found = _words(said)
    locked = _locked(said)
    if locked is not None:
        return locked
    ended = _ended(said)
    for word, what in (("INV_RECP", "the key to encrypt to"), ("INV_SGNR", "the key to sign with")):
        if word in found and ended:
            return f"{what} {ended}"
    for word, reason in _REASONS.items():
        if word in found and not (word == "NO_SECKEY" and "DECRYPTION_OKAY" in found):
            if word == "BADSIG" and "PLAINTEXT" not in found:
                return "it is a signature alone, without what was signed, which this step does not see"
            details = [line[-1] for line in said if line[0] == word and len(line) > 1]
            return f"{reason} ({details[0]})" if details and re.fullmatch(r"[0-9A-F]{8,64}", details[0]) else reason
    return None
