"""Decompressing a file of one or more members (gzip) or frames (zstd), piece by piece, within bounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Protocol

from pydantic import Field

from crossdock.storage.settings import ByteSize
from crossdock.transfer.transforms.base import Growth, Options, Refused, Transform

__all__ = ["Member", "Members", "Unpacking"]

_PIECE = 256 * 1024
_SLICE = 16 * 1024
"""Bytes given to a decompressor at once. It copies what follows a member's end, and a file may be all tiny members."""


class Unpacking(Options):
    """Bounds on what comes out, against bombs."""

    max_size: ByteSize = Field(default=64 * 1024**3, gt=0)
    """Bytes that may come out."""
    max_ratio: float = Field(default=200, ge=1)
    """How many times as many bytes may come out as went in, once over 64 MiB came out."""


class Member(Protocol):
    """A decompressor of one member, as `bz2.BZ2Decompressor` and PEP 784 define it."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


class Members(Transform, ABC):
    """All members' contents in a row. Memory: 256 KiB and the decompressor's window."""

    Options = Unpacking
    options: Unpacking
    what: str
    """The format's name, for messages."""
    errors: tuple[type[Exception], ...]
    """What the decompressor raises for bad data."""
    padded = False
    """Zeros after the last member are padding."""

    def __init__(self, options: Unpacking | None = None) -> None:
        super().__init__(options)
        self._growth = Growth(ratio=self.options.max_ratio, size=self.options.max_size)
        self._member: Member | None = None
        self._count = 0
        self._grew = 0
        """The last member that has given something."""
        self._padding = False

    @abstractmethod
    def _new(self) -> Member:
        """A decompressor for the next member."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        view = memoryview(data)
        for at in range(0, len(data), _SLICE):
            piece = bytes(view[at : at + _SLICE])
            self._growth.took(len(piece))
            while piece:
                if self._member is None and not self._starts(piece):
                    break
                yield from self._decompress(piece)
                member = self._member
                piece = b""
                if member is not None and member.eof:
                    piece, self._member = member.unused_data, None

    def _starts(self, piece: bytes) -> bool:
        """Begin a member; False within the padding."""
        if self.padded and self._count and (self._padding or piece[:1] == b"\0"):
            if piece.strip(b"\0"):
                raise self._garbage()
            self._padding = True
            return False
        self._member = self._new()
        self._count += 1
        return True

    def _decompress(self, piece: bytes) -> Iterator[bytes]:
        assert self._member is not None
        while True:
            try:
                out = self._member.decompress(piece, _PIECE)
            except self.errors as error:
                # The first bytes of a member are wrong: it is something else that follows.
                if self._count > 1 and self._grew < self._count:
                    raise self._garbage() from error
                raise Refused(f"not valid {self.what}: {error}", hint="have the file sent again") from error
            piece = b""
            if out:
                self._grew = self._count
                self._growth.gave(len(out))
                yield out
            if self._member.eof or (self._member.needs_input and len(out) < _PIECE):
                return

    def _garbage(self) -> Refused:
        return Refused(
            f"something that is not {self.what} follows its end", hint="have the file sent again; it may be damaged"
        )

    def finish(self) -> bytes:
        if self._member is not None:
            raise Refused(f"the {self.what} data is cut off", hint="have the file sent again")
        if not self._count:
            raise Refused(f"the file is empty, not {self.what}", hint="have the file sent again")
        return b""
