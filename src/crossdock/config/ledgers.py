"""Where the ledger is: `ledger:` in the user's file, `--ledger` on a command line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from crossdock.errors import ConfigError, SecretUnavailable
from crossdock.storage.secret import Secret, is_reference

if TYPE_CHECKING:
    from crossdock.config.mistakes import Report
    from crossdock.ledger.base import Ledger

__all__ = ["DEFAULT_LEDGER", "new_ledger", "password_of", "read"]

DEFAULT_LEDGER = "crossdock.db"
"""Beside the configuration."""
_SCHEMES = ("postgresql", "postgres")
_PASSWORD = re.compile(r"://[^:@/?#]*:.*@", re.DOTALL)


def read(value: Any, report: Report, folder: Path) -> str | None:
    """The value of `ledger:`; a relative path starts at the folder of the file."""
    if not isinstance(value, str) or not value.strip():
        report.mistake(("ledger",), "must be a path or a postgresql:// URL", f"write ledger: {DEFAULT_LEDGER}")
        return None
    try:
        found = _checked(value, folder)
    except ConfigError as error:
        report.mistake(("ledger",), error.message, error.hint)
        return None
    if _may_be_clear_text(found):
        what = "whoever is on the line can have the password, and all that the ledger holds, sent in clear text"
        hint = "add sslmode=verify-full&sslrootcert=FILE, the authority of the server's certificate (libpq's settings)"
        report.warning(("ledger",), what, hint)
    return found


def _may_be_clear_text(value: str) -> bool:
    """By libpq's rule, TLS is used if the server offers it, unless something else is written."""
    if "://" not in value:
        return False
    parts = urlsplit(value)
    hosts = [each.hostname or "" for each in _hosts(parts)]
    if all(host in ("", "localhost", "::1") or host.startswith(("%2f", "127.")) for host in hosts):
        return False
    return "sslmode" not in dict(parse_qsl(parts.query)) and "PGSSLMODE" not in os.environ


def _hosts(parts: SplitResult) -> list[SplitResult]:
    """One each for a server and those that stand by: `one:5432,two:5432`."""
    return [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]


def _checked(value: str, folder: Path) -> str:
    scheme, separator, _ = value.partition("://")
    if not separator:
        try:
            path = Path(value.removeprefix("file:")).expanduser()
        except RuntimeError:
            home = value.removeprefix("file:").partition("/")[0]
            raise ConfigError(f"nobody here has the home folder {home}", hint="write the whole path") from None
        return str(path if path.is_absolute() else folder / path)
    if scheme not in _SCHEMES:
        hint = "write a path for SQLite, or postgresql://user@host/database"
        raise ConfigError(f"no ledger is of the kind {scheme}://", hint=hint)
    try:
        parts = urlsplit(value)
        _ = [each.port for each in _hosts(parts)]
    except ValueError as error:
        if _PASSWORD.search(value):
            # By a password with "/", "?", "#" or "[" in it, what comes before that looks like host and port.
            raise _secret_in_it() from None
        hint = "write postgresql://user@host:5432/database"
        raise ConfigError(f"not the address of a database: {error}", hint=hint) from None
    password = dict(parse_qsl(parts.query)).get("password", "")
    if parts.password is not None or (password and not is_reference(password)):
        raise _secret_in_it()
    if password:
        try:
            Secret(password)
        except ValueError as error:
            hint = "write password=env:NAME or password=file:PATH"
            raise ConfigError(f"{password} names no secret", hint=hint) from error
    return value


def _secret_in_it() -> ConfigError:
    return ConfigError(
        "a secret may not be written here",
        hint="write postgresql://user@host/database?password=env:NAME and export it",
    )


def new_ledger(written: str | None, *, folder: Path | None = None, own_process: bool = False) -> Ledger:
    """The ledger that `written` names, not yet opened; None: `crossdock.db` in `folder` (the working folder).

    `own_process`: a file is read and written by a process of its own, for who moves many files.
    `password=env:NAME` or `password=file:PATH` in a URL's query is looked for here. Raises `ConfigError`.
    """
    folder = folder or Path()
    if written is not None and not written.strip():
        hint = f"write a path or a postgresql:// URL; without it, {DEFAULT_LEDGER} beside the configuration is meant"
        raise ConfigError("the ledger's name is empty", hint=hint)
    value = _checked(written or DEFAULT_LEDGER, folder)
    if "://" not in value:
        from crossdock.ledger.sqlite import SqliteLedger

        return SqliteLedger(value, own_process=own_process)
    try:
        from crossdock.ledger.postgres import PostgresLedger
    except ModuleNotFoundError as error:
        hint = "pip install 'crossdock[postgres]'"
        raise ConfigError(f"a PostgreSQL ledger needs the package {error.name}", hint=hint) from error
    url, password = _password(value, folder)
    return PostgresLedger(url, password=password)


def password_of(url: str, folder: Path) -> Secret | None:
    """The reference in a ledger's URL; None where there is none, and for a file."""
    reference = dict(parse_qsl(urlsplit(url).query)).get("password") if "://" in url else None
    return None if reference is None else Secret(reference, folder)


def _password(url: str, folder: Path) -> tuple[str, Callable[[], str] | None]:
    """The URL without its reference, and what reads the password: each connection asks anew, as it may be changed."""
    secret = password_of(url, folder)
    if secret is None:
        return url, None
    parts = urlsplit(url)
    query = [(key, value) for key, value in parse_qsl(parts.query) if key != "password"]
    if not secret.managed:
        try:
            secret.reveal()
        except SecretUnavailable as error:
            raise SecretUnavailable(f"the ledger's password: {error.message}", hint=error.hint) from error
    return parts._replace(query=urlencode(query)).geturl(), secret.reveal
