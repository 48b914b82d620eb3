"""The blocking half of local disk: a tree of folders that no symbolic link and no ".." leads out of.

Every path is walked from the root one component at a time with `openat(O_NOFOLLOW)`, so that a link swapped in while
the walk goes on is refused too; checking the name beforehand cannot promise that. Only the root itself may be a link.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path

from crossdock.errors import (
    AlreadyExists,
    ConnectionFailed,
    InvalidPath,
    NotADirectory,
    NotAFile,
    NotFound,
    StorageError,
    Unsupported,
)
from crossdock.storage.base import Entry, Kind
from crossdock.storage.local.faults import ERRORS, NO_HARD_LINKS, NOT_KEPT, naming
from crossdock.storage.local.renaming import rename_new

__all__ = ["Tree", "identity", "nanoseconds", "utc"]

# O_PATH needs only search permission on the folder; elsewhere than Linux, read permission is needed as well.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_CHUNK = 1024 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}


def utc(nanoseconds: int) -> datetime | None:
    """Nanoseconds since 1970 as a time, cut to microseconds; None outside of the years 1 to 9999."""
    try:
        seconds, rest = divmod(nanoseconds, 1_000_000_000)
        return _EPOCH + timedelta(0, seconds, rest // 1000)
    except OverflowError:
        return None


def nanoseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000


def identity(folder: int) -> str:
    """Tells a folder from another under its name: where a mount is missing, an empty one is in its place."""
    status = os.fstat(folder)
    return f"{status.st_dev}:{status.st_ino}"


class Tree:
    """All that touches the disk by name. Every method blocks and raises the errors of `crossdock.errors`."""

    def __init__(self, endpoint: str, root: Path, *, file_mode: int, dir_mode: int, fsync: bool) -> None:
        self.endpoint, self.root = endpoint, root
        self.file_mode, self.dir_mode, self.fsync = file_mode, dir_mode, fsync

    def error(
        self, kind: type[StorageError], operation: str, path: str, reason: str, hint: str | None = None
    ) -> StorageError:
        return kind(reason, operation=operation, endpoint=self.endpoint, path=path, hint=hint)

    @contextmanager
    def told(self, operation: str, path: str) -> Iterator[None]:
        """Translates `OSError`: the one table of this backend."""
        try:
            yield
        except OSError as error:
            number = error.errno or 0
            kind, reason, hint = ERRORS.get(
                number,
                (ConnectionFailed, f"the disk or mount failed: {os.strerror(number)}", "look at dmesg"),
            )
            raise self.error(kind, operation, path, reason, hint) from error

    def check_root(self) -> None:
        os.close(self._open_root("open"))

    def _open_root(self, operation: str) -> int:
        try:
            with self.told(operation, ""):
                return os.open(self.root, _FOLDER)
        except (NotFound, NotADirectory) as error:
            # Not NotFound once it was open: a mount that went away must not look like deleted files.
            kind = ConnectionFailed if isinstance(error, NotFound) and operation != "open" else type(error)
            hint = "make the folder, or mount what belongs there"
            raise self.error(kind, operation, "", f"the root {self.root} is not a folder", hint) from error

    def check_name(self, path: str, operation: str) -> None:
        """Raises `InvalidPath` for what could escape from the root, or cannot be written as bytes."""
        self._parts(path or ".", operation, path)

    def folder(self, path: str, operation: str, *, make: bool = False, whole: str | None = None) -> int:
        """A descriptor of a folder, for the caller to close. `make`: with the folders that are missing.

        `whole` is the path that errors name. Raises `NotFound`, `NotADirectory`, or `PermissionDenied` at a link.
        """
        whole = path if whole is None else whole
        parts = self._parts(path, operation, whole)
        here = self._open_root(operation)
        try:
            with self.told(operation, whole):
                for part in parts:
                    below = self._enter(here, part, operation, whole, make)
                    os.close(here)
                    here = below
        except BaseException:
            os.close(here)
            raise
        return here

    def _parts(self, path: str, operation: str, whole: str) -> list[str]:
        if not path:
            return []
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in path:
            raise self.error(InvalidPath, operation, whole, "an empty, '.', '..' or NUL component")
        try:
            os.fsencode(path)
        except UnicodeEncodeError as error:
            raise self.error(InvalidPath, operation, whole, "a lone surrogate, which is not text") from error
        return parts

    def _enter(self, here: int, part: str, operation: str, whole: str, make: bool) -> int:
        try:
            return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
        except FileNotFoundError:
            if not make:
                raise
            self._make(here, part)
            return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
        except NotADirectoryError:
            if stat.S_ISLNK(os.lstat(part, dir_fd=here).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
            raise self.error(NotADirectory, operation, whole, f"{part!r} is not a folder") from None

    def _make(self, here: int, part: str) -> None:
        try:
            with naming():
                os.mkdir(part, 0o700, dir_fd=here)
        except FileExistsError:
            return
        # mkdir's mode is cut by the umask; the endpoint's setting is meant as it stands.
        made = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        try:
            # A group that is handed down (setgid) is handed down further.
            self.set_mode(made, self.dir_mode | os.fstat(made).st_mode & stat.S_ISGID)
        finally:
            os.close(made)
        self.flush(here)

    def set_mode(self, descriptor: int, mode: int) -> None:
        """Where the file system has no modes (vfat, some network mounts), what it does instead is all there is."""
        try:
            os.fchmod(descriptor, mode)
        except OSError as error:
            if error.errno not in NOT_KEPT:
                raise

    def set_time(self, descriptor: int, modified: int) -> None:
        """Set the modification time (nanoseconds since 1970), as far as the file system keeps it."""
        try:
            os.utime(descriptor, ns=(modified, modified))
        except OSError as error:
            if error.errno not in NOT_KEPT:
                raise

    def flush(self, folder: int) -> None:
        """Make the names in a folder survive a power cut, if the endpoint asks for it."""
        if not self.fsync:
            return
        try:
            readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        except PermissionError:
            return  # a drop box that may be entered but not read
        try:
            os.fsync(readable)
        except OSError as error:
            if error.errno not in NOT_KEPT:
                raise
        finally:
            os.close(readable)

    @contextmanager
    def parent(self, path: str, operation: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The descriptor of the folder that holds `path`, and the name in it. Below a file is nothing: `NotFound`."""
        if not path:
            raise self.error(NotAFile, operation, path, "it is the endpoint's root")
        above, _, name = path.rpartition("/")
        self._parts(name or ".", operation, path)
        try:
            folder = self.folder(above, operation, make=make, whole=path)
        except NotADirectory as error:
            if make:
                raise
            raise self.error(NotFound, operation, path, error.reason) from error
        try:
            with self.told(operation, path):
                yield folder, name
        finally:
            os.close(folder)

    def entry(self, path: str, status: os.stat_result) -> Entry:
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "other")
        size = status.st_size if kind == "file" else None
        return Entry(path=path, kind=kind, size=size, modified=utc(status.st_mtime_ns))

    def stat(self, path: str) -> Entry:
        if not path:
            root = self._open_root("stat")
            try:
                return self.entry(path, os.fstat(root))
            finally:
                os.close(root)
        with self.parent(path, "stat") as (folder, name):
            return self.entry(path, os.lstat(name, dir_fd=folder))

    def is_staged(self, path: str, above: str | None) -> bool | None:
        """Whether a temporary is there; None: it is not, nor is the folder that it was in, by its `identity`."""
        try:
            with self.parent(path, "stat") as (folder, name):
                try:
                    os.lstat(name, dir_fd=folder)
                except FileNotFoundError:
                    return False if identity(folder) == above else None
        except NotFound:
            return None
        return True

    def open_in(self, folder: int, name: str, operation: str, path: str) -> tuple[int, os.stat_result]:
        """A descriptor for reading, which can never block: fifos, devices and sockets are `NotAFile`."""
        # Looked at before it is opened: opening a device can act on it (rewind a tape).
        self._check_file(os.lstat(name, dir_fd=folder), operation, path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=folder)
        try:
            status = os.fstat(descriptor)
            self._check_file(status, operation, path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, status

    def digests(self, paths: Sequence[str], algorithm: str) -> list[str]:
        """The digest of each file's content, as lower-case hex. Files of one folder should stand together."""
        found: list[str] = []
        for _, group in groupby(paths, key=lambda path: path.rpartition("/")[0]):
            siblings = list(group)
            with self.parent(siblings[0], "hash") as (folder, _):
                for path in siblings:
                    name = path.rpartition("/")[2]
                    self._parts(name or ".", "hash", path)
                    with self.told("hash", path):
                        found.append(self._digest(folder, name, path, algorithm))
        return found

    def _digest(self, folder: int, name: str, path: str, algorithm: str) -> str:
        descriptor, status = self.open_in(folder, name, "hash", path)
        try:
            digest = hashlib.new(algorithm, usedforsecurity=False)
            asked, count = min(status.st_size + 1, _CHUNK), 0
            while data := os.read(descriptor, asked):
                digest.update(data)
                count += len(data)
                if count == status.st_size and len(data) < asked:
                    break  # its end, without asking again; elsewhere a mount may give less than was asked for, too
            return digest.hexdigest()
        finally:
            os.close(descriptor)

    def _check_file(self, status: os.stat_result, operation: str, path: str) -> None:
        if stat.S_ISLNK(status.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if not stat.S_ISREG(status.st_mode):
            folder = stat.S_ISDIR(status.st_mode)
            what = "it is a folder" if folder else "it is a fifo, socket or device"
            raise self.error(NotAFile, operation, path, what)

    def check_target(self, folder: int, name: str, operation: str, path: str, *, overwrite: bool) -> None:
        """Whether a file may take this name now. `overwrite=False` is decided again, atomically, by `move`."""
        try:
            status = os.lstat(name, dir_fd=folder)
        except FileNotFoundError:
            return
        self._check_file(status, operation, path)
        if not overwrite:
            raise self.error(AlreadyExists, operation, path, "the file exists")

    def move(self, source: int, old: str, target: int, new: str, operation: str, path: str, *, overwrite: bool) -> None:
        """Give a file another name in one step."""
        self.check_target(target, new, operation, path, overwrite=overwrite)
        if overwrite:
            with naming():
                os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)
            return
        try:
            with naming():
                rename_new(source, old, target, new)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            reason = "this file system cannot promise not to replace"
            raise self.error(Unsupported, operation, path, reason, "allow overwriting, or use another disk") from error

    def delete(self, path: str, operation: str = "delete") -> None:
        """Remove a file, or a link itself. Missing is already deleted."""
        try:
            with self.parent(path, operation) as (folder, name):
                if stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                    raise self.error(NotAFile, operation, path, "it is a folder", "remove the folder instead")
                os.unlink(name, dir_fd=folder)
        except NotFound:
            pass

    def rename(self, path: str, target: str, overwrite: bool) -> None:
        """Where the file system cannot promise not to replace, that is only as good as the look just before."""
        with self.parent(path, "rename") as (source, old):
            before = os.lstat(old, dir_fd=source)
            self._check_file(before, "rename", path)
            with self.parent(target, "rename", make=True) as (folder, new):
                try:
                    self.move(source, old, folder, new, "rename", target, overwrite=overwrite)
                except Unsupported:
                    self.move(source, old, folder, new, "rename", target, overwrite=True)
                self._forget_twin(source, old, before)
                self.flush(folder)
                self.flush(source)

    def _forget_twin(self, source: int, old: str, before: os.stat_result) -> None:
        """rename(2) does nothing, and calls it success, when both names are hard links of one file (POSIX).

        With one link alone, the old name is the new one in another case, where that does not count.
        """
        if before.st_nlink == 1:
            return
        try:
            after = os.lstat(old, dir_fd=source)
        except FileNotFoundError:
            return
        if (after.st_dev, after.st_ino) == (before.st_dev, before.st_ino):
            os.unlink(old, dir_fd=source)

    def make_dir(self, path: str) -> None:
        os.close(self.folder(path, "mkdir", make=True))

    def remove_dir(self, path: str) -> None:
        try:
            with self.parent(path, "rmdir") as (folder, name):
                os.rmdir(name, dir_fd=folder)
        except NotFound:
            pass
