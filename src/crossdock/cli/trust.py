"""trust: look at a server's host keys before anything is sent to it, and pin them."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from crossdock.cli import exits
from crossdock.cli.output import emit
from crossdock.cli.session import Session, common
from crossdock.errors import ConfigError, located, shown

if TYPE_CHECKING:
    from crossdock.config import Config
    from crossdock.storage.sftp.trust import HostKey

__all__ = ["trust"]

_PORT = 22


@click.command()
@click.argument("host", metavar="HOST[:PORT]|ENDPOINT")
@click.option("--known-hosts", metavar="FILE", help="Add the keys to this file, in OpenSSH's format.")
@click.option("-y", "--yes", is_flag=True, help="With --known-hosts: do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One key per line.")
@common
@click.pass_obj
def trust(session: Session, host: str, known_hosts: str | None, yes: bool, as_json: bool) -> int:
    """Show the host keys that an SSH server offers, and the line that pins them.

    Nothing is signed in to. What is shown is what somebody at that address presents now: compare a fingerprint with
    what the server's operator publishes before you trust it.
    """
    name, address, port, pinned = _place(session, host)

    async def work() -> list[HostKey]:
        from crossdock.storage.registry import extra_named

        with extra_named("sftp"):
            from crossdock.storage.sftp.trust import offered_keys

        return await offered_keys(address, port)

    keys = session.run(work)
    if not keys:
        raise ConfigError(f"{name} offers no host key of a kind that is known here", hint="ask its operator for one")
    known = [_is_pinned(key, pinned) for key in keys]
    for key, is_known in zip(keys, known, strict=True):
        if as_json:
            found: dict[str, Any] = {"algorithm": key.algorithm, "fingerprint": key.fingerprint, "line": key.line}
            emit({**found, "pinned": is_known})
        else:
            click.echo(f"{key.algorithm:<20} {key.fingerprint}{'  pinned' if is_known else ''}")
    if pinned and not any(known):
        session.say(f"None of them is pinned for {name}: the key was changed, or this is not the server you know.")
    if not as_json and not any(known):
        session.say("Compare with what the operator publishes; then this line pins it, at the endpoint:")
        click.echo(f'host_key: "{keys[0].fingerprint}"')
    if known_hosts is not None:
        _add(session, Path(known_hosts).expanduser(), keys, yes)
    return exits.OK if not pinned or any(known) else exits.PERMANENT


def _place(session: Session, text: str) -> tuple[str, str, int, tuple[str, ...]]:
    """What to call it, host, port, and what is pinned, for an endpoint, a URL or HOST[:PORT]."""
    bare = text.removesuffix(":")
    config = _config(session, text)
    if bare in config.endpoints or "://" in text:
        settings: Any = config.endpoint(bare) if "://" not in text else config.locate(text).settings
        if settings.type != "sftp":
            reason = f"{shown(bare)} is of type {settings.type}, which has no host key"
            raise ConfigError(reason, hint=f"see whether it can be used: crossdock doctor {shlex.quote(located(bare))}")
        if settings.ssh_config:
            raise ConfigError(
                f"{shown(bare)} takes its address from ssh_config", hint="write: crossdock trust HOST:PORT"
            )
        return bare, settings.host, settings.port or _PORT, settings.host_key
    # As known_hosts writes it, and messages that say what to run: brackets round names and IPv4 addresses too.
    bracketed = re.fullmatch(r"\[([^\[\]:/]+)\](:\d+)?", text)
    try:
        parts = urlsplit(f"//{''.join(part or '' for part in bracketed.groups())}" if bracketed else f"//{text}")
        host, port = parts.hostname, parts.port or _PORT
    except ValueError:
        host, port = None, _PORT
    if not host or parts.path:
        raise click.UsageError(f"write HOST, HOST:PORT, [IPv6]:PORT or the name of an endpoint, not {text!r}")
    return text, host, port, ()


def _config(session: Session, text: str) -> Config:
    """One that has mistakes is not needed to ask a host, but says nothing of what is pinned for it either."""
    from crossdock.config import Config

    try:
        return session.config
    except ConfigError as error:
        readable: Config | None = getattr(error, "readable", None)
        named = text.endswith(":") or (readable is not None and text in readable.endpoints)
        if session.config_file is not None or (named and "://" not in text):
            raise
        session.say("The configuration has mistakes, and was not looked at; 'crossdock check' names them.")
        return Config()


def _is_pinned(key: HostKey, pinned: tuple[str, ...]) -> bool:
    public = key.line.split()[1:3]
    return any(pin.rstrip("=") == key.fingerprint or pin.split()[:2] == public for pin in pinned)


def _add(session: Session, file: Path, keys: list[HostKey], yes: bool) -> None:
    try:
        text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        new = [key.line for key in keys if key.line not in text.splitlines()]
        if not new:
            session.say(f"{file} has them already")
            return
        if not yes:
            if not sys.stdin.isatty():
                raise click.UsageError("nobody can be asked here whether these are the right keys; add --yes")
            click.confirm(f"Trust these keys and add them to {file}?", abort=True, err=True)
        # Whoever can write to it decides which server is trusted, whatever the umask is.
        with open(file, "a", opener=lambda path, flags: os.open(path, flags, 0o644)) as lines:
            lines.write("" if not text or text.endswith("\n") else "\n")
            lines.writelines(f"{line}\n" for line in new)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}", hint="name another by --known-hosts") from error
    session.say(f"added to {file}; name it at the endpoint: known_hosts: {file}")
