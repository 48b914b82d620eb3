"""What files hold, and what becomes of them on their way: by the words of what was put, whatever it was made into."""

from __future__ import annotations

import gzip
import random
import zipfile
from collections.abc import Iterator
from io import BytesIO

from crossdock.transfer.transforms.base import Transform

__all__ = ["SALTED", "Salted", "archived", "member_of", "members_of", "packed", "plain"]

SALTED = f"python:{__name__}:Salted"
_NAMES = (("m1", "m2"), ("f/m3", "m1"), ("m1",), ("m2", "f/m3", "m1"))
"""What archives may hold: one of a flow's may have fewer than the one before, and others."""
_ALL = {name for names in _NAMES for name in names}
_SOME_TIME = (2026, 1, 1, 0, 0, 0)
_SALT = b"\x7f"


class Salted(Transform):
    """As encryption does: of the same bytes it makes others each time."""

    _key: int | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if (key := self._key) is None:
            key = self._key = random.randrange(1, 256)
            yield _SALT + bytes((key,))
        yield bytes(byte ^ key for byte in data)


def members_of(data: bytes) -> dict[str, bytes]:
    """By their names, in the archive's order: each tells whose it is, and which."""
    names = _NAMES[sum(data) % len(_NAMES)]
    return {name: data + f"\n/{name}".encode() for name in names}


def packed(data: bytes) -> bytes:
    found = BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        for name, content in members_of(data).items():
            archive.writestr(zipfile.ZipInfo(name, _SOME_TIME), content)
    return found.getvalue()


def member_of(path: str) -> tuple[str, str] | None:
    """The folder in which it lies, and its name in the archive. None: no member is called so."""
    return next(((path.removesuffix(f"/{name}"), name) for name in _ALL if path.endswith(f"/{name}")), None)


def archived(name: str, content: bytes) -> bytes | None:
    """The words of the archive whose member this is, to the last byte. None: it is nobody's of that name."""
    words = plain(content)
    return words if words is not None and members_of(words).get(name) == _unsalted(content) else None


def _unsalted(content: bytes) -> bytes:
    return bytes(byte ^ content[1] for byte in content[2:]) if content.startswith(_SALT) else content


def plain(content: bytes | None) -> bytes | None:
    """Of an archive, and of what came out of one: what had been packed."""
    if content is None:
        return None
    if content.startswith(b"PK"):
        with zipfile.ZipFile(BytesIO(content)) as archive:
            content = archive.read(archive.namelist()[0])
    content = _unsalted(content)
    if content.startswith(b"\x1f\x8b"):
        try:
            return gzip.decompress(content)
        except EOFError:
            return b"cut off"
    words, slash, name = content.rpartition(b"\n/")
    return words if slash and name.decode(errors="replace") in _ALL else content
