"""gzip and zstd: all members, nothing but members, and bounds on what comes out."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import tracemalloc

import pytest

from crossdock.transfer.transforms import Refused, step
from tests.transfer.transforms.running import SIZES, run, whole

RANDOM = hashlib.shake_256(b"compression").digest(20_000)
CONTENT = RANDOM + b"a line that repeats\n" * 2000
PAIRS = [("gzip", "gunzip"), ("zstd", "unzstd")]
pairs = pytest.mark.parametrize(("pack", "unpack"), PAIRS)


@pairs
@pytest.mark.parametrize("size", SIZES)
def test_round_trip_of_several_members_whatever_the_chunks(pack: str, unpack: str, size: int) -> None:
    packed = run(pack, CONTENT, size=size)
    assert len(packed) < len(CONTENT)
    assert run(unpack, packed + run(pack, b"") + packed, size=size) == CONTENT * 2


@pairs
def test_the_same_bytes_make_the_same_file(pack: str, unpack: str) -> None:
    """No time of day in it: a repeated attempt finds its own file at the target."""
    assert run(pack, CONTENT, size=999) == run(pack, CONTENT, size=999)


def test_gzip_is_what_gzip_reads() -> None:
    packed = run("gzip", CONTENT, {"level": 9})
    assert gzip.decompress(packed) == CONTENT
    assert subprocess.run(["gzip", "-dc"], input=packed, capture_output=True, check=True).stdout == CONTENT


@pairs
@pytest.mark.parametrize("size", [1, 1000, 10_000_000])
def test_what_is_cut_off_is_refused(pack: str, unpack: str, size: int) -> None:
    """At every kind of place: in the header, in the data, in the checksum, in a second member."""
    packed = run(pack, CONTENT)
    for cut in (packed[:5], packed[:2000], packed[:-4], packed[:-1], packed + packed[:-1]):
        with pytest.raises(Refused, match="cut off"):
            run(unpack, cut, size=size)
    with pytest.raises(Refused, match="empty"):
        run(unpack, b"")


@pairs
@pytest.mark.parametrize("size", [1, 1000, 10_000_000])
def test_what_follows_the_end_is_refused(pack: str, unpack: str, size: int) -> None:
    packed = run(pack, CONTENT)
    for garbage in (b"some garbage", b"\0\0\0garbage", b"\xff" * 100_000):
        with pytest.raises(Refused, match="follows its end"):
            run(unpack, packed + garbage, size=size)


@pytest.mark.parametrize("size", [1, 1000, 10_000_000])
def test_gunzip_ignores_zeros_at_the_end(size: int) -> None:
    assert run("gunzip", gzip.compress(b"tape") + bytes(3000), size=size) == b"tape"
    with pytest.raises(Refused, match="follows its end"):
        run("gunzip", gzip.compress(b"tape") + bytes(3000) + gzip.compress(b"more"), size=size)


@pairs
def test_damage_and_other_formats_are_refused(pack: str, unpack: str) -> None:
    packed = run(pack, CONTENT)
    damaged = packed[:10_000] + bytes([packed[10_000] ^ 1]) + packed[10_001:]
    for data in (damaged, b"plain text, not packed at all", bytes(1000)):
        with pytest.raises(Refused, match="not valid"):
            run(unpack, data)


@pairs
def test_bombs_are_refused_at_flat_memory(pack: str, unpack: str) -> None:
    """1 GiB of zeros: stopped at the bound, and long before it the pieces stay small."""
    block = bytes(1024 * 1024)
    transform = step(pack).start()
    packed = b"".join(whole(transform.feed(block)) for _ in range(1024)) + whole(transform.finish())
    transform = step(unpack).start()
    given = longest = 0
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match="bomb"):
            for piece in iter(transform.feed(packed)):
                assert isinstance(piece, bytes)
                given, longest = given + len(piece), max(longest, len(piece))
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert 60 * 1024 * 1024 < given <= 65 * 1024 * 1024
    assert longest <= 256 * 1024
    with pytest.raises(Refused, match="over 1048576 bytes"):
        run(unpack, packed, {"max_size": "1M"})


def test_as_much_as_is_allowed_is_given() -> None:
    packed = gzip.compress(bytes(1024 * 1024))
    assert len(run("gunzip", packed, {"max_size": "1M"})) == 1024 * 1024
    with pytest.raises(Refused, match="over 1048575 bytes"):
        run("gunzip", packed, {"max_size": 1024 * 1024 - 1})


@pairs
def test_a_ratio_may_be_allowed(pack: str, unpack: str) -> None:
    packed = run(pack, bytes(70 * 1024 * 1024))
    with pytest.raises(Refused, match="over 200 times"):
        run(unpack, packed)
    assert len(run(unpack, packed, {"max_ratio": 100_000})) == 70 * 1024 * 1024


@pairs
def test_a_million_tiny_members_take_no_quadratic_time(pack: str, unpack: str) -> None:
    assert run(unpack, run(pack, b"") * 50_000, size=10_000_000) == b""


def test_zstd_windows_are_bounded() -> None:
    """A frame may ask for gigabytes of window; 2^31 is what this one asks for."""
    frame = bytes.fromhex("28b52ffd") + b"\x00" + bytes([(31 - 10) << 3]) + b"\x01\x00\x00"
    with pytest.raises(Refused, match="not valid zstd"):
        run("unzstd", frame)
