"""A rename that never replaces: Linux has a system call for it, which Python does not offer."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

__all__ = ["rename_new"]

_NOREPLACE = 1
_NOT_HERE = frozenset({errno.EINVAL, errno.ENOSYS})
"""This file system, or this kernel, does not know it."""


def _found() -> Callable[..., int] | None:
    """None: not Linux, or a C library without it."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return call


_renameat2 = _found()


def rename_new(source: int, old: str, target: int, new: str) -> None:
    """Give the file `old` in the folder `source` the name `new` in `target`, if that is free. Raises `OSError`.

    By renameat2(2); where there is none, by link(2) and unlink(2), which file systems without hard links refuse, and
    Linux itself for a file that is somebody else's (protected_hardlinks).
    """
    if _renameat2 is not None:
        if not _renameat2(source, os.fsencode(old), target, os.fsencode(new), _NOREPLACE):
            return
        number = ctypes.get_errno()
        if number not in _NOT_HERE:
            raise OSError(number, os.strerror(number), old, None, new)
    os.link(old, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    os.unlink(old, dir_fd=source)
