"""How a command treats its memory: kept for what comes next instead of given back, and seldom searched for cycles."""

from __future__ import annotations

import gc
import os
import sys

__all__ = ["keep"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""mallopt(3), glibc's malloc.h."""


def keep() -> None:
    """Tell glibc to reuse the memory of chunks: up to 32 MiB of it, in one arena, is not given back meanwhile.

    Chunks of 1 MiB that come and go on several threads otherwise are mapped, and their pages made, anew each time:
    200,000 page faults for 1 GiB, and an arena per thread. Who sets malloc by the environment is left alone.
    """
    # Modules that are loaded stay; what they make looks like much to be collected.
    gc.set_threshold(50_000, 20, 20)
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, 4 << 20), (_TRIM_THRESHOLD, 32 << 20)):
            mallopt(option, value)
