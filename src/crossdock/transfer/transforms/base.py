"""The contract of transforms: bytes in, bytes out, nothing known of files or endpoints.

A user's own, complete; in a flow it is `{"python:acme:Mask": {digits: 4}}` (or a name, by an entry point of the group
"crossdock.transforms"):

    from crossdock.transfer.transforms import Options, Transform

    class MaskOptions(Options):
        digits: int = 8

    class Mask(Transform):
        Options = MaskOptions

        def feed(self, data: bytes) -> bytes:
            return data.replace(b"4" * self.options.digits, b"*" * self.options.digits)

What is promised to a transform: one object per file; its methods are called one at a time, in a thread, never on the
event loop; `feed` gets the file in order, in chunks of any size but 0 (a record may span two of them); `finish` comes
once, after the last; then `close`, which comes in any case. What it promises: flat memory, whatever the file's size.
An output that is large is given in pieces (a generator): the next is asked for when the target has taken the last.
Any exception stops the file, and nothing of it is published.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from crossdock.storage.base import Backend

__all__ = ["Growth", "Options", "Output", "Refused", "Splitter", "Step", "Transform"]

Output = bytes | Iterable[bytes]


class Options(BaseModel):
    """A transform's options: unknown keys are refused, and nothing changes after they were read."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Refused(ValueError):
    """The data is not what this transform takes; becomes a `TransformFailed` that names the transform and the file."""

    def __init__(self, reason: str, *, hint: str | None = None) -> None:
        super().__init__(reason)
        self.hint = hint


class Transform(ABC):
    """See the module."""

    Options: ClassVar[type[BaseModel]] = Options
    """The model of the options; its fields are what the user may write."""

    def __init__(self, options: Any = None) -> None:
        self.options: Any = self.Options() if options is None else options

    @abstractmethod
    def feed(self, data: bytes) -> Output:
        """What becomes of the next chunk; b"" if that has to wait for more."""

    def finish(self) -> Output:
        """What is left at the end. Returning says that all is well: the file is published next."""
        return b""

    def stop(self) -> None:
        """Make a `feed` that waits for something outside end soon. The only method called from another thread."""

    def close(self) -> None:
        """Give back what is held, after success and failure alike."""


class Splitter(ABC):
    """A step that makes many files of one. It sees the whole file, in a temporary one on local disk."""

    Options: ClassVar[type[BaseModel]] = Options

    def __init__(self, options: Any = None) -> None:
        self.options: Any = self.Options() if options is None else options

    @property
    @abstractmethod
    def spool_limit(self) -> int:
        """Bytes that the file may have."""

    @property
    def spool_folder(self) -> Path | None:
        """Where the temporary file lies; None: where the system keeps such files."""
        return None

    @abstractmethod
    def open(self, file: IO[bytes], endpoint: str) -> tuple[Backend, Sequence[str]]:
        """The members as a read-only backend, and their paths there. Raises `Refused` unless all may be unpacked.

        Called in a thread. The readers verify what they give: a member that ends without an error is whole.
        """


@dataclass(frozen=True, slots=True)
class Step:
    """A transform that was asked for: its name as it was written, and its options, validated. Reusable."""

    name: str
    kind: type[Transform] | type[Splitter]
    options: BaseModel

    @property
    def many(self) -> bool:
        """It makes many files of one (`transfer.unpack`)."""
        return issubclass(self.kind, Splitter)

    def start(self) -> Transform:
        """For one file."""
        if not issubclass(self.kind, Transform):
            raise TypeError(f"{self.name} makes many files of one")
        return self.kind(self.options)

    def splitter(self) -> Splitter:
        if not issubclass(self.kind, Splitter):
            raise TypeError(f"{self.name} makes one file of one")
        return self.kind(self.options)


class Growth:
    """Bounds on what may come out of what goes in, against bombs. Raises `Refused` as soon as one is passed."""

    FREE = 64 * 1024 * 1024
    """Bytes that may come out at any ratio: small files of nothing but zeros are common, and harmless."""

    def __init__(self, *, ratio: float, size: int) -> None:
        self._ratio, self._size = ratio, size
        self.taken = self.given = 0

    def took(self, size: int) -> None:
        self.taken += size

    def gave(self, size: int) -> None:
        self.given += size
        if self.given > self._size:
            raise Refused(
                f"over {self._size} bytes came out of {self.taken}", hint="raise the option max_size if that is right"
            )
        if self.given > self.FREE and self.given > self.taken * self._ratio:
            raise Refused(
                f"{self.given} bytes came out of {self.taken}, over {self._ratio:g} times as many: this may be a bomb",
                hint="raise the option max_ratio if that is right",
            )
