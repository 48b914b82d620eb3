"""What text is made of: its encoding and its line ends."""

from __future__ import annotations

import codecs
from typing import Literal

from pydantic import Field, field_validator

from crossdock.transfer.transforms.base import Options, Refused, Transform

__all__ = ["Charset", "CharsetOptions", "Lines", "LinesOptions"]

_OF_HOST_NAMES = ("idna", "punycode")
"""Python knows them, and does not tell what comes in pieces: they are not made for files."""


class CharsetOptions(Options):
    from_: str = Field(alias="from")
    """Encoding of the file, by any name that Python knows: latin-1, cp1252, cp037, utf-16, …; utf-8-sig drops a
    byte order mark."""
    to: str = "utf-8"
    """Encoding of the result."""

    @field_validator("from_", "to")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            "".encode(name)
            if codecs.lookup(name).name in _OF_HOST_NAMES:
                raise LookupError
        except LookupError:
            raise ValueError(f"no encoding is called {name!r}; write utf-8, latin-1, cp1252, utf-16, …") from None
        return name


class Charset(Transform):
    """From one encoding into another. A byte or character that cannot be is refused, never replaced."""

    Options = CharsetOptions
    options: CharsetOptions

    def __init__(self, options: CharsetOptions) -> None:
        super().__init__(options)
        self._decoder = codecs.getincrementaldecoder(options.from_)()
        self._encoder = codecs.getincrementalencoder(options.to)()
        self._taken = self._held = self._characters = 0

    def feed(self, data: bytes) -> bytes:
        return self._convert(data, final=False)

    def finish(self) -> bytes:
        return self._convert(b"", final=True)

    def _convert(self, data: bytes, *, final: bool) -> bytes:
        start = self._taken - self._held
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            raise Refused(
                f"byte {start + error.start} (0x{error.object[error.start]:02x}) is not {self.options.from_}: "
                f"{error.reason}",
                hint="write the encoding that the file really has at 'from'",
            ) from error
        self._taken += len(data)
        self._held = len(self._decoder.getstate()[0])
        try:
            out = self._encoder.encode(text, final)
        except UnicodeEncodeError as error:
            raise Refused(
                f"{self.options.to} has no {error.object[error.start]!r} (character {self._characters + error.start})",
                hint="write an encoding at 'to' that has it, such as utf-8",
            ) from error
        self._characters += len(text)
        return out


class LinesOptions(Options):
    to: Literal["lf", "crlf"]
    """What each line is to end with."""


class Lines(Transform):
    """Every LF and CR LF becomes the one or the other; a CR alone stays. For encodings that extend ASCII."""

    Options = LinesOptions
    options: LinesOptions

    def __init__(self, options: LinesOptions) -> None:
        super().__init__(options)
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        if b"\0" in data:
            raise Refused(
                "a NUL among the text: it is UTF-16, or no text at all",
                hint="put a charset step before this one, or leave such files out of the rule",
            )
        data = self._held + data
        self._held = b"\r" if data.endswith(b"\r") else b""
        data = data.removesuffix(b"\r").replace(b"\r\n", b"\n")
        return data.replace(b"\n", b"\r\n") if self.options.to == "crlf" else data

    def finish(self) -> bytes:
        return self._held
