"""rm and mkdir: change one endpoint."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crossdock.cli.output import count
from crossdock.cli.session import Session, common, opened

if TYPE_CHECKING:
    from crossdock.config import Location
    from crossdock.storage.storage import Storage

__all__ = ["mkdir", "rm"]

_AT_ONCE = 16


@click.command()
@click.argument("locations", nargs=-1, required=True, metavar="LOCATION...")
@click.option("-r", "--recursive", is_flag=True, help="Remove folders with all that is in them.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before removing folders.")
@click.option("--force", is_flag=True, help="Allow -r for the root of an endpoint and for the working folder.")
@common
@click.pass_obj
def rm(session: Session, locations: tuple[str, ...], recursive: bool, yes: bool, force: bool) -> None:
    """Remove files. There is no way back, unless the store keeps versions.

    -r asks first; where nobody can be asked, it wants --yes.
    """
    places = [_itself(location, session.locate(location)) for location in locations]
    for place in places:
        if not place.path and not recursive:
            raise click.UsageError(f"{place.shown()} is a folder; add -r to remove all that is in it")
        if not place.path and not force:
            raise click.UsageError(f"{place.shown()} is the root of its endpoint; add --force if all of it is to go")
        if recursive and not force and _holds_us(place):
            what = "the working folder, or above it; cd elsewhere, or add --force"
            raise click.UsageError(f"{place.shown()} is {what}")
    if recursive and not yes:
        _ask(places)

    async def work() -> None:
        from crossdock.errors import CrossdockError, NotAFile

        async with opened(*places) as storages:
            removed = _Count()
            try:
                for place, storage in zip(places, storages, strict=True):
                    if recursive and not await _is_file(storage, place.path):
                        await _remove_tree(storage, place.path, removed)
                    else:
                        if (await storage.stat(place.path)).kind == "dir":
                            hint = "add -r to remove all that is in it"
                            raise storage.backend.error(NotAFile, "delete", place.path, "it is a folder", hint=hint)
                        await storage.delete(place.path)
                        removed.files += 1
            except (CrossdockError, asyncio.CancelledError):
                if removed.files:
                    # There is no way back: whoever asked has to know that some are gone.
                    session.say(f"ended early: {count(removed.files, 'file')} removed")
                raise
            session.say(f"{count(removed.files, 'file')} removed")

    session.run(work)


def _itself(text: str, place: Location) -> Location:
    """A local path, which may be a link: what goes then is the link, and not the folder that it leads to."""
    path = Path(text.rstrip("/"))
    # A Path's own is_symlink() raises for what may not be looked at.
    if not place.name.startswith("/") or not os.path.islink(path):  # noqa: PTH114
        return place
    root = Path(os.path.realpath(path.absolute().parent))
    settings = place.settings.model_copy(update={"root": root})
    return replace(place, name=str(root), settings=settings, path=path.name, folder=False)


def _holds_us(place: Location) -> bool:
    """Whether a place is the working folder, or one above it."""
    if place.settings.type != "local":
        return False
    folder = Path(place.settings.root) / place.path
    return Path(os.path.realpath(".")).is_relative_to(Path(os.path.realpath(folder.parent)) / folder.name)


def _ask(places: list[Location]) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("rm -r asks before it removes, and nobody can be asked here; add --yes")
    names = ", ".join(place.shown() for place in places)
    click.confirm(f"Remove {names} with all that is below?", abort=True, err=True)


async def _is_file(storage: Storage, path: str) -> bool:
    """Also false for a prefix of an object store, which only its keys make a folder."""
    from crossdock.errors import NotFound

    if not path:
        return False
    try:
        return (await storage.stat(path)).kind != "dir"
    except NotFound:
        if storage.capabilities.directories:
            raise
        return False


@dataclass
class _Count:
    files: int = 0


async def _remove_tree(storage: Storage, path: str, removed: _Count) -> None:
    """Files first, then their folder; the root itself stays."""
    from crossdock.errors import NotFound

    slots = asyncio.Semaphore(_AT_ONCE)
    left: list[str] = []

    async def delete(name: str) -> None:
        try:
            await storage.delete(name)
            removed.files += 1
        finally:
            slots.release()

    async def files_of(folder: str) -> list[str]:
        """Delete the files while the listing streams; returns the folders in it."""
        folders: list[str] = []
        async with asyncio.TaskGroup() as group:
            listing = storage.scan(folder, temporaries=True)
            async with aclosing(listing) as entries:
                async for entry in entries:
                    if entry.kind == "dir":
                        folders.append(entry.path)
                    else:
                        await slots.acquire()
                        group.create_task(delete(entry.path))
        return folders

    try:
        # Not by recursion: trees may be deeper than Python's stack.
        open_folders = [(path, iter(await files_of(path)))]
        while open_folders:
            folder, below = open_folders[-1]
            # What is gone since it was listed, as a prefix is with its last key, is as it should be.
            if (name := next(below, None)) is not None:
                try:
                    open_folders.append((name, iter(await files_of(name))))
                except* NotFound:
                    pass
                continue
            open_folders.pop()
            if not storage.capabilities.directories:
                left.append(folder)
            elif folder:
                try:
                    await storage.remove_dir(folder)
                except NotFound:
                    if not open_folders:
                        raise
        if left and await storage.exists(path):
            await _remove_markers(storage, left)
    except BaseExceptionGroup as group:
        # Of deletions that failed side by side, the first one is told.
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def _remove_markers(storage: Storage, folders: list[str]) -> None:
    """What stands for the folders of an object store, as the AWS console makes them: empty objects, `folder/`."""
    for folder in filter(None, folders):
        # Deleting what is not there would leave a marker of its own, in a bucket with versions.
        if await storage.exists(f"{folder}/"):
            await storage.delete(f"{folder}/")


@click.command()
@click.argument("locations", nargs=-1, required=True, metavar="LOCATION...")
@common
@click.pass_obj
def mkdir(session: Session, locations: tuple[str, ...]) -> None:
    """Make folders, and those above them; one that exists is fine."""
    places = [session.locate(location) for location in locations]

    async def work() -> None:
        from crossdock.errors import Unsupported

        async with opened(*places) as storages:
            for place, storage in zip(places, storages, strict=True):
                if not storage.capabilities.directories:
                    reason, hint = "there are no folders here", "write the files: their folders need not be made first"
                    raise storage.backend.error(Unsupported, "mkdir", place.path, reason, hint=hint)
                await storage.make_dir(place.path)

    session.run(work)
