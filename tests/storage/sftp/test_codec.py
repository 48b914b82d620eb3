"""What servers reply, cut off at every byte: each is a violation, and nothing is made up."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from crossdock.storage.sftp import codec as c
from crossdock.storage.sftp.codec import U32, Attrs, Violation, text

_OWNER = struct.pack(">II", 1000, 1000)
_TIMES = struct.pack(">II", 7, 8)
_SIZE, _MODE = struct.pack(">Q", 2**40), U32.pack(0o100644)
_ATTRS = {
    "nothing": (U32.pack(0), Attrs()),
    "size": (U32.pack(c.A_SIZE) + _SIZE, Attrs(2**40)),
    "owner": (U32.pack(c.A_OWNER) + _OWNER, Attrs()),
    "permissions": (U32.pack(c.A_PERMISSIONS) + _MODE, Attrs(None, 0o100644)),
    "times": (U32.pack(c.A_TIMES) + _TIMES, Attrs(None, None, 8)),
    "all": (U32.pack(15) + _SIZE + _OWNER + _MODE + _TIMES, Attrs(2**40, 0o100644, 8)),
    "extended": (
        U32.pack(c.A_SIZE | c.A_EXTENDED) + _SIZE + U32.pack(2) + (text(b"name") + text(b"value")) * 2,
        Attrs(2**40),
    ),
}
_NAMES = [(b"a.csv", b"-rw-r--r-- a.csv", attrs) for _, attrs in _ATTRS.values()]
_NAME = U32.pack(len(_ATTRS)) + b"".join(
    text(name) + text(long) + packed for (name, long, _), (packed, _) in zip(_NAMES, _ATTRS.values(), strict=True)
)


@pytest.mark.parametrize(("packed", "meant"), _ATTRS.values(), ids=_ATTRS)
def test_attributes(packed: bytes, meant: Attrs) -> None:
    assert c.parse_attrs(packed) == (meant, len(packed))
    # Followed by something else, and not at the beginning.
    assert c.parse_attrs(b"\xff" * 5 + packed + b"more", 5) == (meant, 5 + len(packed))
    _refused_at_every_byte(c.parse_attrs, packed)


def test_names() -> None:
    assert c.names(_NAME) == _NAMES
    _refused_at_every_byte(c.names, _NAME)


def test_one_name() -> None:
    one = U32.pack(1) + text(b"/home/acme") + text(b"") + U32.pack(0)
    assert c.parse_name(one) == b"/home/acme"
    _refused_at_every_byte(c.parse_name, one)
    for wrong in (_NAME, U32.pack(0)):
        with pytest.raises(Violation, match="names where one was due"):
            c.parse_name(wrong)


def test_a_version() -> None:
    extension = text(b"limits@openssh.com") + text(b"1")
    assert c.parse_version(U32.pack(3) + extension) == (3, {b"limits@openssh.com": b"1"})
    assert c.parse_version(U32.pack(3)) == (3, {})
    _refused_at_every_byte(c.parse_version, U32.pack(3))
    _refused_at_every_byte(lambda data: c.parse_version(U32.pack(3) + data), extension, first=1)
    many = b"".join(text(b"%d" % number) + text(b"") for number in range(c.MOST_EXTENSIONS + 1))
    with pytest.raises(Violation, match="too many extensions"):
        c.parse_version(U32.pack(3) + many)


def test_a_status() -> None:
    """Some servers leave the message out; one that is cut off is as good as none."""
    whole = U32.pack(4) + text(b"Failure") + text(b"en")
    assert c.parse_status(whole) == (4, "Failure")
    for cut in range(4, len(U32.pack(4) + text(b"Failure"))):
        assert c.parse_status(whole[:cut]) == (4, "")


def _refused_at_every_byte(parse: Callable[[bytes], object], data: bytes, *, first: int = 0) -> None:
    for cut in range(first, len(data)):
        with pytest.raises(Violation):
            parse(data[:cut])
