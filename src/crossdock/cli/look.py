"""ls, cat, stat: look, and change nothing."""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from crossdock.cli.output import as_json as to_json
from crossdock.cli.output import emit, entry_json, human_size
from crossdock.cli.session import Session, common, opened
from crossdock.errors import NotADirectory, NotFound, shown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from crossdock.config import Location
    from crossdock.storage.base import Entry
    from crossdock.storage.storage import Storage

__all__ = ["cat", "ls", "stat"]


@click.command()
@click.argument("location", default=".")
@click.option("-l", "--long", is_flag=True, help="Kind, size and modification time as well.")
@click.option("-R", "--recursive", is_flag=True, help="All files below, in order.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@common
@click.pass_obj
def ls(session: Session, location: str, long: bool, recursive: bool, as_json: bool) -> None:
    """List a folder, or show one file.

    Control characters and bytes that are not UTF-8 are printed escaped; --json carries them without loss.
    """
    place = session.locate(location)

    async def work() -> None:
        async with opened(place, looking=True) as (storage,), aclosing(_entries(storage, place, recursive)) as entries:
            async for name, entry in entries:
                if as_json:
                    line = to_json(entry_json(entry, name))
                else:
                    line = _line(entry, name) if long else _name(entry, name)
                # Not click.echo, which flushes every line.
                sys.stdout.write(line + "\n")

    session.run(work)


async def _entries(storage: Storage, place: Location, recursive: bool) -> AsyncGenerator[tuple[str, Entry]]:
    """Names relative to the folder; a file is listed as itself."""
    skip = len(place.path) + 1 if place.path else 0
    try:
        if recursive:
            async with aclosing(storage.walk(place.path)) as entries:
                async for entry in entries:
                    yield entry.path[skip:], entry
            return
        found = [entry async for entry in storage.scan(place.path)]
    except (NotADirectory, NotFound):
        # An object store has no folder of a file's name, which is not found then; others say that it is a file.
        if not place.path or place.folder:
            raise
        entry = await storage.stat(place.path)
        yield entry.path.rpartition("/")[2], entry
        return
    for entry in sorted(found, key=lambda entry: entry.path):
        yield entry.path[skip:], entry


def _name(entry: Entry, name: str) -> str:
    return shown(name) + ("/" if entry.kind == "dir" else "")


def _line(entry: Entry, name: str) -> str:
    size = "-" if entry.size is None or entry.kind == "dir" else str(entry.size)
    modified = entry.modified.strftime("%Y-%m-%d %H:%M:%SZ") if entry.modified else "-"
    return f"{entry.kind:<5} {size:>14} {modified:>20} {_name(entry, name)}"


@click.command()
@click.argument("locations", nargs=-1, required=True, metavar="LOCATION...")
@common
@click.pass_obj
def cat(session: Session, locations: tuple[str, ...]) -> None:
    """Write files to standard output, one after the other, as they are."""
    import asyncio

    places = [session.locate(location) for location in locations]
    output = sys.stdout.buffer

    async def work() -> None:
        async with opened(*places, looking=True) as storages:
            for place, storage in zip(places, storages, strict=True):
                async with storage.read(place.path) as reader:
                    while chunk := await reader.read():
                        await asyncio.to_thread(output.write, chunk)
            await asyncio.to_thread(output.flush)

    session.run(work)


@click.command()
@click.argument("locations", nargs=-1, required=True, metavar="LOCATION...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@common
@click.pass_obj
def stat(session: Session, locations: tuple[str, ...], as_json: bool) -> None:
    """Show what an endpoint says about a name."""
    places = [session.locate(location) for location in locations]

    async def work() -> None:
        async with opened(*places, looking=True) as storages:
            for place, storage in zip(places, storages, strict=True):
                entry = await storage.stat(place.path)
                name = place.path.rpartition("/")[2]
                if as_json:
                    emit(entry_json(entry, name))
                else:
                    _describe(place, entry)

    session.run(work)


def _describe(place: Location, entry: Entry) -> None:
    click.echo(f"location  {place.shown()}")
    click.echo(f"kind      {entry.kind}")
    if entry.size is not None:
        click.echo(f"size      {entry.size}" + (f" ({human_size(entry.size)})" if entry.size > 999 else ""))
    if entry.modified is not None:
        click.echo(f"modified  {entry.modified.isoformat()}")
    for key in ("etag", "version"):
        if getattr(entry, key):
            click.echo(f"{key:<9} {shown(getattr(entry, key))}")
    for key, value in [*entry.digests.items(), *entry.attributes.items()]:
        click.echo(f"{shown(key):<9} {shown(value)}")
