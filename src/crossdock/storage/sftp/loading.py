"""asyncssh is loaded without starting a compiler."""

from __future__ import annotations

import ctypes.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ldconfig_only"]

_CACHE = Path("/etc/ld.so.cache")
"""What ldconfig tells from: the names of all libraries stand in it (ld.so(8))."""


@contextmanager
def ldconfig_only() -> Iterator[None]:
    """While asyncssh is imported, `ctypes.util.find_library` asks ldconfig alone, and only for what its cache names.

    asyncssh looks for libraries that few have; for what ldconfig does not know, find_library starts gcc and ld, twice
    each (20 ms here, and ldconfig 4 ms). They would find more only in LD_LIBRARY_PATH: if that is set, they are asked.
    """
    by_ldconfig = getattr(ctypes.util, "_findSoname_ldconfig", None)
    if by_ldconfig is None or "LD_LIBRARY_PATH" in os.environ:
        yield
        return
    try:
        cached = _CACHE.read_bytes()
    except OSError:
        cached = None
    usual = ctypes.util.find_library
    ctypes.util.find_library = lambda name: by_ldconfig(name) if cached is None or name.encode() in cached else None
    try:
        yield
    finally:
        ctypes.util.find_library = usual
