"""Zstandard (RFC 8878), by Python's own module (PEP 784) or its backport."""

from __future__ import annotations

import sys

from pydantic import Field

from crossdock.transfer.transforms.base import Options, Transform
from crossdock.transfer.transforms.members import Member, Members

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["Unzstd", "Zstd", "ZstdOptions"]


class ZstdOptions(Options):
    level: int = Field(default=3, ge=1, le=19)
    """1 is fast, 19 is small (and takes some 100 MiB)."""


class Zstd(Transform):
    """One frame with a checksum."""

    Options = ZstdOptions
    options: ZstdOptions

    def __init__(self, options: ZstdOptions | None = None) -> None:
        super().__init__(options)
        parameters = zstd.CompressionParameter
        self._compressor = zstd.ZstdCompressor(
            options={parameters.compression_level: self.options.level, parameters.checksum_flag: 1}
        )

    def feed(self, data: bytes) -> bytes:
        return self._compressor.compress(data)

    def finish(self) -> bytes:
        return self._compressor.flush()


class Unzstd(Members):
    """Any number of frames. A frame that asks for a window over 128 MiB is refused, as by `zstd -d`."""

    what = "zstd"
    errors = (zstd.ZstdError,)

    def _new(self) -> Member:
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})
