"""What a configuration needs that this machine lacks: packages, programs, keys, secrets."""

from __future__ import annotations

from importlib.util import find_spec
from shutil import which
from typing import TYPE_CHECKING

from crossdock.config.ledgers import password_of
from crossdock.errors import ConfigError, SecretUnavailable
from crossdock.storage.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crossdock.config import Config
    from crossdock.config.mistakes import Key
    from crossdock.flows.flow import Flow
    from crossdock.transfer.transforms.pgp import PgpOptions

__all__ = ["lacking"]

_LIBRARIES = {"sftp": "asyncssh", "s3": "botocore", "netstorage": "aiohttp"}
"""Type of endpoint, which is its extra too → what comes with that."""


def lacking(config: Config, *, connecting: bool = False) -> Iterator[ConfigError]:
    """What the file needs and this machine lacks; the one that runs the flows may have it.

    `connecting`: what endpoints lack, for which they cannot be connected to, is told then.
    """
    needs = [(f"endpoints.{name}", one.type, _LIBRARIES.get(one.type)) for name, one in config.endpoints.items()]
    if (config.ledger or "").startswith("postgres"):
        needs.append(("ledger", "postgres", "asyncpg"))
    for name, flow in config.flows.items():
        needs += [(f"flows.{name}.trigger.watch", "watch", "watchfiles")] if flow.trigger.watch else []
        needs += [(f"flows.{name}.notify.webhook", "notify", "aiohttp")] if flow.webhooks else []
    at_aws = dict.fromkeys(key for key, secret in _references(config) if secret.managed)
    needs += [(".".join(map(str, key)), "aws", "botocore") for key in at_aws]
    for key, extra, library in needs:
        if library is not None and find_spec(library) is None:
            what = f"needs the package {library}, which is not installed here"
            yield ConfigError(what, key=key, hint=f"pip install 'crossdock[{extra}]'")
    yield from {str(each): each for name, flow in config.flows.items() for each in _pgp(config, name, flow)}.values()
    yield from _secrets(config, connecting=connecting)


def _secrets(config: Config, *, connecting: bool) -> Iterator[ConfigError]:
    """References of this machine that lead nowhere here; each once, whoever needs it."""
    assert config.report is not None
    seen: set[str] = set()
    for key, secret in _references(config):
        if secret.managed or secret.reference in seen or (connecting and key[0] in ("endpoints", "ledger")):
            continue
        seen.add(secret.reference)
        try:
            secret.reveal()
        except SecretUnavailable as error:
            yield config.report.error(key, error.message, f"{error.hint}, where the flows run")


def _references(config: Config) -> Iterator[tuple[Key, Secret]]:
    for name, settings in config.endpoints.items():
        for setting, value in settings:
            for secret in value if isinstance(value, tuple) else (value,):
                if isinstance(secret, Secret):
                    yield ("endpoints", name, setting), secret
    password = password_of(config.ledger or "", config.folder)
    if password is not None:
        yield ("ledger",), password
    for name, flow in config.flows.items():
        for kind, setting, several in (("webhook", "secret", flow.webhooks), ("mail", "password", flow.mails)):
            for at, one in enumerate(several):
                if (secret := getattr(one, setting)) is not None:
                    yield ("flows", name, "notify", kind, at, setting), secret
        for options in _pgp_steps(config, flow):
            if (secret := getattr(options, "passphrase", None)) is not None:
                yield ("flows", name), secret


def _pgp(config: Config, name: str, flow: Flow) -> Iterator[ConfigError]:
    """Programs, keyrings and keys of PGP transforms that this machine lacks: each file would fail for them."""
    for options in _pgp_steps(config, flow):
        key = f"flows.{name}"
        if which(options.program) is None:
            what = f"its PGP transforms run {options.program}, which is not installed here"
            yield ConfigError(what, key=key, hint="apt install gpg, or write where it is at 'program'")
        if options.home is not None and not options.home.is_dir():
            what = f"{options.home}, the keyring of its PGP transforms, is not a folder here"
            yield ConfigError(what, key=key, hint="write the folder of a keyring at 'home', or nothing for ~/.gnupg")
        for path in getattr(options, "recipient_files", ()):
            if not path.is_file():
                what = f"there is no file {path}, to whose key its PGP transforms encrypt"
                yield ConfigError(what, key=key, hint="write at 'recipient_files' where the key is")


def _pgp_steps(config: Config, flow: Flow) -> Iterator[PgpOptions]:
    from crossdock.transfer.transforms.pgp import PgpOptions
    from crossdock.transfer.transforms.registry import step

    for spec in (spec for rule in flow.rules for spec in rule.transforms if spec.name.startswith("pgp_")):
        options = step(spec.name, spec.options, folder=config.folder).options
        if isinstance(options, PgpOptions):  # else a user's own
            yield options
