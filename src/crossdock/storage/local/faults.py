"""What the system says → the error that the caller can act on."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from crossdock.errors import (
    AlreadyExists,
    InvalidPath,
    NoSpace,
    NotADirectory,
    NotAFile,
    NotFound,
    PermissionDenied,
    StorageError,
    Throttled,
    Unsupported,
)

__all__ = ["ERRORS", "NOT_KEPT", "NO_HARD_LINKS", "naming"]

NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
NOT_KEPT = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EOVERFLOW}
)
"""Modes, times and flushing that a file system does without."""
_LINK = "a symbolic link is in the way, and links are not followed"

ERRORS: dict[int, tuple[type[StorageError], str, str | None]] = {
    errno.ENOENT: (NotFound, "no such file or folder", None),
    errno.ENOTDIR: (NotADirectory, "not a folder", None),
    errno.EISDIR: (NotAFile, "a folder has this name", None),
    errno.ENXIO: (NotAFile, "a socket or device, not a file", None),
    errno.ENODEV: (NotAFile, "a device, not a file", None),
    errno.EEXIST: (AlreadyExists, "the name exists", None),
    errno.ENOTEMPTY: (PermissionDenied, "the folder is not empty", None),
    errno.EACCES: (PermissionDenied, "permission denied", "give crossdock's user the right, or use another folder"),
    errno.EPERM: (PermissionDenied, "not permitted", "look at the owner and flags (lsattr) of the file and its folder"),
    errno.EROFS: (PermissionDenied, "read-only file system", "mount it writable"),
    errno.ELOOP: (PermissionDenied, _LINK, "name what it leads to (readlink -f), or point the endpoint's root there"),
    errno.ENOSPC: (NoSpace, "the disk is full", "free some space"),
    errno.EDQUOT: (NoSpace, "the quota is used up", "raise the quota or free some space"),
    errno.EFBIG: (Unsupported, "larger than this file system takes", "use another file system"),
    errno.ENAMETOOLONG: (InvalidPath, "the name is too long for this file system", "give it a shorter one"),
    errno.EILSEQ: (InvalidPath, "this file system cannot hold the name", "give it another one"),
    errno.EXDEV: (Unsupported, "the target is on another file system", "copy the file and delete the source"),
    errno.EBUSY: (
        Throttled,
        "it is in use, or a mount point of its own",
        "write elsewhere, or mount its folder instead",
    ),
    errno.ETXTBSY: (Throttled, "it is in use", "close what has it open"),
    errno.EAGAIN: (Throttled, "it is locked", "close what has it open"),
    errno.EMFILE: (Throttled, "too many open files", "raise the limit (ulimit -n) or lower the concurrency"),
    errno.ENFILE: (Throttled, "too many open files on this machine", "raise fs.file-max or lower the concurrency"),
}


@contextmanager
def naming() -> Iterator[None]:
    """To a new name, "invalid argument" means that the name cannot be (vfat: a colon or question mark)."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ)) from error
