"""check: is the configuration right?"""

from __future__ import annotations

import click

from crossdock.cli import exits
from crossdock.cli.output import count
from crossdock.cli.session import Session, common
from crossdock.errors import ConfigError

__all__ = ["check"]


@click.command()
@click.argument("file", required=False)
@common
@click.pass_obj
def check(session: Session, file: str | None) -> int:
    """Check the configuration and report every mistake in it, with file, line and what to write instead.

    No endpoint is contacted; 'crossdock doctor NAME:' does that.
    """
    if file is not None:
        session.config_file = file
    config = session.config
    if config.file is None:
        raise ConfigError("there is no crossdock.yaml here", hint="write one, or pass --config FILE")
    for name, settings in config.endpoints.items():
        click.echo(f"{name}: {settings.type}")
    for name, error in config.unusable.items():
        click.echo(f"{name}: {error}")
    session.say(f"{config.file.name}: {count(len(config.endpoints) + len(config.unusable), 'endpoint')}, no mistakes")
    return exits.CONFIG if config.unusable else exits.OK
