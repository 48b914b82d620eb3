"""Charset and line ends: every chunk border, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdock.errors import ConfigError
from crossdock.transfer.transforms import Refused, step
from tests.transfer.transforms.running import run

TEXT = "Grüße, 東京, 😀\r\nzweite Zeile\n" * 50


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-8-sig", "gb18030", "utf-7", "utf-32"])
def test_from_any_encoding_across_any_border(encoding: str, size: int) -> None:
    assert run("charset", TEXT.encode(encoding), {"from": encoding}, size=size) == TEXT.encode()
    there = run("charset", TEXT.encode(), {"from": "utf-8", "to": encoding}, size=size)
    assert there.decode(encoding) == TEXT


def test_single_byte_encodings() -> None:
    assert run("charset", "Größe €".encode("cp1252"), {"from": "cp1252"}) == "Größe €".encode()
    assert run("charset", "HELLO 123".encode("cp037"), {"from": "cp037", "to": "latin-1"}) == b"HELLO 123"


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_a_byte_that_is_none_is_refused_and_its_place_told(size: int) -> None:
    with pytest.raises(Refused, match=r"byte 9 \(0xff\) is not utf-8"):
        run("charset", "aaé€aa".encode() + b"\xffaaaa", {"from": "utf-8", "to": "utf-16"}, size=size)


def test_what_ends_within_a_character_is_refused() -> None:
    with pytest.raises(Refused, match="byte 2"):
        run("charset", "aa€".encode()[:-1], {"from": "utf-8"}, size=1)


def test_a_character_that_the_target_lacks_is_refused() -> None:
    with pytest.raises(Refused, match=r"latin-1 has no '€' \(character 5\)"):
        run("charset", "12345€".encode(), {"from": "utf-8", "to": "latin-1"}, size=2)


@pytest.mark.parametrize("name", ["klingon", "rot13", "base64", "zlib", "punycode", "IDNA"])
def test_unknown_encodings_are_refused_with_the_configuration(name: str) -> None:
    with pytest.raises(ConfigError, match="no encoding is called"):
        step("charset", {"from": name})


@given(st.lists(st.sampled_from([b"\r", b"\n", b"a", b"bc"])), st.integers(1, 5))
def test_line_ends_across_any_border(parts: list[bytes], size: int) -> None:
    data = b"".join(parts)
    lf = data.replace(b"\r\n", b"\n")
    assert run("lines", data, {"to": "lf"}, size=size) == lf
    assert run("lines", data, {"to": "crlf"}, size=size) == lf.replace(b"\n", b"\r\n")


def test_lines_refuse_what_is_not_text_of_single_bytes() -> None:
    """A line end of UTF-16 is two bytes; changing one of them would ruin the rest."""
    with pytest.raises(Refused, match="NUL"):
        run("lines", TEXT.encode("utf-16"), {"to": "lf"})
