"""asyncssh is loaded without starting a compiler."""

from __future__ import annotations

import ctypes.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ldconfig_only"]


@contextmanager
def ldconfig_only() -> Iterator[None]:
    """While asyncssh is imported, `ctypes.util.find_library` asks ldconfig alone.

    asyncssh looks for liboqs, which few have; for what ldconfig does not know, find_library starts gcc and ld, twice
    each (20 ms here). They would find more only in LD_LIBRARY_PATH: if that is set, they are asked.
    """
    by_ldconfig = getattr(ctypes.util, "_findSoname_ldconfig", None)
    if by_ldconfig is None or "LD_LIBRARY_PATH" in os.environ:
        yield
        return
    usual = ctypes.util.find_library
    ctypes.util.find_library = by_ldconfig
    try:
        yield
    finally:
        ctypes.util.find_library = usual
