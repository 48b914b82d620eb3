"""gzip (RFC 1952): one member written, any number of members read."""

from __future__ import annotations

import zlib

from pydantic import Field

from crossdock.transfer.transforms.base import Options, Transform
from crossdock.transfer.transforms.members import Member, Members

__all__ = ["Gunzip", "Gzip", "GzipOptions"]

_GZIP = 16 + zlib.MAX_WBITS


class GzipOptions(Options):
    level: int = Field(default=6, ge=1, le=9)
    """1 is fast, 9 is small."""


class Gzip(Transform):
    """The same bytes become the same file each time: its header has no name and no time."""

    Options = GzipOptions
    options: GzipOptions

    def __init__(self, options: GzipOptions | None = None) -> None:
        super().__init__(options)
        self._deflate = zlib.compressobj(self.options.level, zlib.DEFLATED, _GZIP)

    def feed(self, data: bytes) -> bytes:
        return self._deflate.compress(data)

    def finish(self) -> bytes:
        return self._deflate.flush()


class _Inflate:
    """`zlib.decompressobj` with the interface of its younger siblings."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_GZIP)

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data


class Gunzip(Members):
    """Checksums are verified; zeros after the last member, as tapes leave them, are ignored (as gzip does)."""

    what = "gzip"
    errors = (zlib.error,)
    padded = True

    def _new(self) -> Member:
        return _Inflate()
