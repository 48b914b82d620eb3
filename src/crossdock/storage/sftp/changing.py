"""Changes of names: moved, removed, and the folders made that they need."""

from __future__ import annotations

import logging
from contextlib import suppress

from crossdock.errors import AlreadyExists, NotADirectory, NotAFile, NotFound, PermissionDenied
from crossdock.storage.sftp import codec
from crossdock.storage.sftp.calls import Calls, kind_of, kind_of_mode
from crossdock.storage.sftp.codec import text
from crossdock.storage.sftp.faults import Translate, hint_for
from crossdock.storage.sftp.reasons import below_file, explain, lacks_folder, not_moved
from crossdock.storage.sftp.wire import Session, Status, checked
from crossdock.storage.staging import publish_by_swap

__all__ = ["HARDLINK", "POSIX_RENAME", "make_folders", "make_parents", "move", "publish", "remove", "replaced"]

log = logging.getLogger("crossdock.storage.sftp")

POSIX_RENAME, HARDLINK = b"posix-rename@openssh.com", b"hardlink@openssh.com"


async def move(
    calls: Calls, session: Session, old: bytes, new: bytes, shown: str, *, overwrite: bool, operation: str = "rename"
) -> None:
    """One rename. Raises `AlreadyExists`, `NotAFile`; `NotFound` if `old` or the folder of `new` is missing.

    Of what should replace, `AlreadyExists` tells that the server's posix-rename may not do that.
    """
    try:
        if overwrite:
            if not calls.openssh and operation != "write" and await kind_of(session, new) == "dir":
                raise calls.backend.error(NotAFile, operation, shown, "a folder has this name")
            checked(await session.extended(POSIX_RENAME, text(old), text(new)), codec.STATUS)
        elif calls.openssh or not calls.hardlink:
            if not calls.openssh and await kind_of(session, new) is not None:
                raise calls.backend.error(AlreadyExists, operation, shown, "the file exists")
            await session.status(codec.RENAME, text(old), text(new))
        else:
            checked(await session.extended(HARDLINK, text(old), text(new)), codec.STATUS)
            try:
                await session.status(codec.REMOVE, text(old))
            except Status as error:
                await _two_names(calls, session, new, shown, error, operation)
    except Status as error:
        if error.code == codec.PERMISSION_DENIED and await lacks_folder(session, new, error):
            raise calls.backend.error(NotFound, operation, shown, "no such folder", hint=hint_for(NotFound)) from error
        replaces = overwrite and (calls.openssh or error.code not in (codec.FAILURE, codec.ALREADY_EXISTS))
        raise await not_moved(calls, session, operation, shown, error, overwrite=replaces) from error


async def _two_names(calls: Calls, session: Session, new: bytes, shown: str, error: Status, operation: str) -> None:
    """The old name was not removed, so a rename is taken back, as OpenSSH's server does; what is written is published.

    Raises `NotFound` if another client had moved or removed the file by then: of two, one has it.
    """
    missing = error.code in codec.MISSING
    reason = "it has this name now, and its old one as well, which the server does not remove"
    if operation == "write":
        if not missing:
            log.warning("%s", calls.backend.error(PermissionDenied, operation, shown, reason))
        return
    with suppress(Status):
        await session.status(codec.REMOVE, text(new))
        reason = "the server does not remove its old name"
    if missing:
        raise calls.backend.error(NotFound, operation, shown, "no such file", hint=hint_for(NotFound)) from error
    raise calls.backend.error(PermissionDenied, operation, shown, reason) from error


async def replaced(calls: Calls, session: Session, old: str, new: str, attempt: str, operation: str) -> None:
    """Give `old` the name `new`, whatever file has it. Raises as `move` does."""
    if calls.posix_rename:
        names = calls.full(old, operation), calls.full(new, operation)
        try:
            await move(calls, session, *names, new, overwrite=True, operation=operation)
        except AlreadyExists:
            # Made with Go's pkg/sftp, a server has posix-rename, which may be no more than its plain rename.
            await swap(calls, session, old, new, attempt, operation)
            calls.cannot_replace()
    else:
        await swap(calls, session, old, new, attempt, operation)


async def publish(calls: Calls, session: Session, temporary: str, path: str, attempt: str, *, overwrite: bool) -> None:
    """Give what was written its final name. Raises as `move` does."""
    if overwrite:
        await replaced(calls, session, temporary, path, attempt, "write")
    else:
        old, new = calls.full(temporary, "write"), calls.full(path, "write")
        await move(calls, session, old, new, path, overwrite=False, operation="write")


async def swap(calls: Calls, session: Session, temporary: str, path: str, attempt: str, operation: str) -> None:
    """Give `temporary` the name `path`, whatever file has it, where one rename cannot do it. Raises as `move` does."""
    try:
        there = await kind_of(session, calls.full(path, operation))
    except Status as error:
        raise await explain(calls, session, operation, path, error, creates=True) from error
    if there == "dir":
        raise calls.backend.error(NotAFile, operation, path, "a folder has this name")

    async def rename(old: str, new: str) -> None:
        if session.alive:
            with Translate(operation, calls.backend.endpoint, old):
                await step(session, old, new)
            return
        # What has stepped aside is put back, also after the connection has broken.
        async with calls.session(operation, old) as another:
            await step(another, old, new)

    async def step(session: Session, old: str, new: str) -> None:
        # Not every server refuses to replace: on its way back, the old file would take the place of the new one.
        if not calls.openssh and await kind_of(session, calls.full(new, operation)) is not None:
            raise calls.backend.error(AlreadyExists, operation, new, "the file exists")
        await to_free(session, old, new)

    async def to_free(session: Session, old: str, new: str) -> None:
        old_name, new_name = calls.full(old, operation), calls.full(new, operation)
        try:
            await session.status(codec.RENAME, text(old_name), text(new_name))
        except Status as error:
            if error.code == codec.FAILURE and await kind_of(session, new_name) is not None:
                raise calls.backend.error(AlreadyExists, operation, new, "the file exists") from error
            raise

    if there is None:
        # Not by the failure of a rename: what that says of a missing file is not the same everywhere.
        with suppress(AlreadyExists), Translate(operation, calls.backend.endpoint, temporary):
            await to_free(session, temporary, path)
            return
    await publish_by_swap(rename, calls.backend.delete, temporary, path, attempt)


async def make_parents(calls: Calls, session: Session, path: str, operation: str) -> None:
    """Make the folders above `path`, from the lowest that is missing. Raises `NotADirectory`."""
    await make_folders(calls, session, calls.full(path, operation).rpartition(b"/")[0], path, operation)


async def make_folders(calls: Calls, session: Session, folder: bytes, path: str, operation: str) -> None:
    """Make a folder and those above it, from the lowest that is missing. Raises `NotADirectory`."""
    missing: list[bytes] = []
    while folder:
        try:
            await session.status(codec.MKDIR, text(folder), codec.NO_ATTRS)
        except Status as error:
            if b"/" in folder and await lacks_folder(session, folder, error):
                missing.append(folder)
                folder = folder.rpartition(b"/")[0]
                continue
            await _must_be_folder(calls, session, folder, path, operation, error)
        if not missing:
            return
        folder = missing.pop()


async def _must_be_folder(
    calls: Calls, session: Session, folder: bytes, path: str, operation: str, error: Status
) -> None:
    """Made by somebody else meanwhile is as good as made."""
    try:
        attrs = await session.attrs(codec.STAT, text(folder))
    except Status as unseen:
        if (error.code, unseen.code) == (codec.FAILURE, codec.PERMISSION_DENIED) and operation != "mkdir":
            # A drop box shows nothing: whether the folder is there, what is done in it tells.
            return
        above = await below_file(calls, session, folder)
        if above:
            raise calls.backend.error(NotADirectory, operation, path, f"{above!r} is a file") from error
        raise error from None
    kind = kind_of_mode(attrs.permissions)
    if kind is None and (above := await below_file(calls, session, folder)):
        # Apache MINA describes what is below a file, without a single attribute.
        raise calls.backend.error(NotADirectory, operation, path, f"{above!r} is a file")
    if kind not in ("dir", None):
        raise calls.backend.error(NotADirectory, operation, path, f"{folder.decode(errors='replace')!r} is a file")


async def remove(calls: Calls, path: str, operation: str) -> None:
    """Delete a file; what is missing is already deleted."""
    async with calls.session(operation, path) as session:
        try:
            await session.status(codec.REMOVE, text(calls.full(path, operation)))
        except Status as error:
            if error.code in codec.MISSING:
                return
            found = await explain(calls, session, operation, path, error)
            if not isinstance(found, NotFound):
                raise found from error
