"""The ways in which an archive can lie: nothing of one that does is published."""

from __future__ import annotations

import io
import stat
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import TransformFailed
from crossdock.transfer.transforms import step
from tests.transfer.transforms.running import BIG, PLAIN, both, everything, target_of, unpacked, zipped


def external(mode: int) -> Callable[[zipfile.ZipInfo], None]:
    def change(member: zipfile.ZipInfo) -> None:
        member.external_attr = mode << 16

    return change


def renamed(name: str) -> bytes:
    """An archive with one member of this name, whatever zipfile thinks of it."""
    raw = name.encode()
    return zipped({"x" * len(raw): b"evil"}).replace(b"x" * len(raw), raw)


def flagged(offset_local: int, offset_central: int, value: int) -> bytes:
    """One 16-bit field changed in the member's header and in the directory."""
    data = bytearray(zipped({"a": b"content"}))
    struct.pack_into("<H", data, offset_local, value)
    struct.pack_into("<H", data, data.index(b"PK\1\2") + offset_central, value)
    return bytes(data)


def overlapping() -> bytes:
    """Two members in the directory, both the same bytes of the file (David Fifield's bomb, CVE-2024-0450)."""
    data = zipped({"a": b"content", "b": b"content"})
    second = data.index(b"PK\3\4", 4)
    body, directory = data[:second], data[data.index(b"PK\1\2") : data.index(b"PK\5\6")]
    record = len(directory) // 2
    directory = bytes(directory[:record]) + bytes(directory[record:])
    patched = bytearray(directory)
    struct.pack_into("<L", patched, record + 42, 0)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(patched), len(body), 0)
    return body + bytes(patched) + end


def patched(data: bytes, at: int, form: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, at, value)
    return bytes(changed)


def preceded(before: bytes) -> bytes:
    """An archive behind other bytes, of which all its places know: a program that unpacks itself."""
    data = zipped({"a": b"content"})
    for place in (data.index(b"PK\1\2") + 42, data.index(b"PK\5\6") + 16):
        data = patched(data, place, "<L", struct.unpack_from("<L", data, place)[0] + len(before))
    return before + data


DIRECTORY = PLAIN.index(b"PK\1\2")
END = PLAIN.index(b"PK\5\6")
LIES = {
    "leaves its folder": (renamed("../evil"), "leads out"),
    "leaves it in the middle": (renamed("a/../../evil"), "leads out"),
    "absolute": (renamed("/etc/evil"), "absolute"),
    "a drive": (renamed("C:evil"), "absolute"),
    "backslashes": (renamed("..\\evil"), "backslash"),
    "an empty part": (renamed("a//evil"), "empty part"),
    "a dot": (renamed("./evil"), "empty part"),
    "a NUL": (renamed("a.csv\0.exe"), "control character"),
    "a line end": (renamed("a\nb"), "control character"),
    "a link": (zipped({"a": b"/etc/passwd"}, external(stat.S_IFLNK | 0o777)), "is a link"),
    "a device": (zipped({"a": b""}, external(stat.S_IFCHR | 0o666)), "not a file"),
    "a folder by mode": (zipped({"a": b"x"}, external(stat.S_IFDIR | 0o777)), "a folder by its mode"),
    "a folder with content": (renamed("evil/"), "folder with content"),
    "twice": (zipped({"xx": b"1", "yy": b"2"}).replace(b"yy", b"xx"), "two members are called xx"),
    "the same letters composed otherwise": (zipped({"\u00e9": b"1", "e\u0301": b"2"}), "two members"),
    "file and folder": (zipped({"a": b"1", "a/b": b"2"}), "both a file and a folder"),
    "file and folder, and what sorts between": (
        zipped(dict.fromkeys(("a/b/c", "a/b-", "a/b.c", "a/b", "a-", "b"), b"1")),
        "a/b is both a file and a folder",
    ),
    "file and empty folder": (zipped({"a/": b"", "b": b"1", "a": b"1"}), "both a file and a folder"),
    "a name that no path can be": (zipped({"a/" * 2100 + "a": b"1"}), "a name of over 4096 characters"),
    "encrypted": (flagged(6, 8, 1), "encrypted"),
    "encrypted in its header alone": (patched(zipped({"a": b"content"}), 6, "<H", 1), "not packed as the directory"),
    "another method": (flagged(8, 10, 12), "method 12, not deflate"),
    "overlapping": (overlapping(), "overlaps"),
    "two names": (zipped({"aaaa": b"1"}).replace(b"aaaa", b"bbbb", 1), "damaged: "),
    "empty file": (b"", "empty, not a ZIP"),
    "not an archive": (BIG, "not a ZIP archive"),
    "cut off": (PLAIN[:-10], "not a ZIP archive, or cut off"),
    "cut in the directory": (PLAIN[: DIRECTORY + 10], "not a ZIP archive, or cut off"),
    "something before": (b"#!/bin/sh\n" + PLAIN, "not a plain ZIP"),
    "something before that it knows of": (preceded(b"#!/bin/sh\n"), "something precedes the archive"),
    "another thing for a directory": (patched(PLAIN, DIRECTORY, "<L", 0), "not a valid ZIP archive"),
    "a larger directory elsewhere": (PLAIN[:END] + b"PK\6\7" + bytes(16) + PLAIN[END:], "not a valid ZIP archive"),
    "something after": (PLAIN + b"more", "something follows"),
    "no members": (zipped({}), "no file is in it"),
    "only folders": (zipped({"a/": b""}), "no file is in it"),
    "several disks": (patched(PLAIN, END + 4, "<H", 1), "of several"),
    "another count": (patched(patched(PLAIN, END + 8, "<H", 3), END + 10, "<H", 3), "lists 4 members and says 3"),
    "a header elsewhere": (patched(PLAIN, DIRECTORY + 42, "<L", 7), "not where the directory says"),
    "a member too long": (patched(PLAIN, DIRECTORY + 20, "<L", len(PLAIN)), "runs into the directory|overlaps"),
    "a wrong checksum": (patched(PLAIN, DIRECTORY + 16, "<L", 7), "damaged: "),
    "a size that is too large": (patched(PLAIN, DIRECTORY + 24, "<L", 10**6), "damaged: "),
    "a size that is too small": (patched(PLAIN, DIRECTORY + 24, "<L", 1), "damaged: "),
    "damaged content": (
        patched(PLAIN, PLAIN.index(BIG[:4]) + 9 if BIG[:4] in PLAIN else 200_000, "<L", 0),
        "damaged: ",
    ),
    "a bomb": (zipped({"a": bytes(70_000_000)}), "times as many: this may be a bomb"),
}


@both
@pytest.mark.parametrize("what", LIES)
async def test_an_archive_that_lies_publishes_nothing(what: str, kind: str, tmp_path: Path) -> None:
    data, said = LIES[what]
    async with target_of(kind, tmp_path) as target:
        with pytest.raises(TransformFailed, match=said) as failed:
            await unpacked(data, target)
        assert "unzip of source:in/a.zip" in str(failed.value)
        assert "nothing was published" in str(failed.value)
        assert failed.value.hint
        assert await everything(target) == []
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_members": 3}, "over 3 members"),
        ({"max_size": "100K"}, "over 102400 bytes"),
        ({"max_archive": "100K"}, "the archive is over 102400 bytes"),
        ({"spool": "/nowhere/at/all"}, "no temporary file: No such file"),
    ],
)
async def test_bounds(options: dict[str, Any], said: str) -> None:
    async with target_of("memory", Path()) as target:
        with pytest.raises(TransformFailed, match=said):
            await unpacked(PLAIN, target, options)
        assert await everything(target) == []


async def test_a_directory_of_any_size_is_not_read_into_memory() -> None:
    """It says that it has few members and is huge: refused for its size, before it is read."""
    huge = bytes(50_000_000)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(huge), 0, 0)
    async with target_of("memory", Path()) as target:
        with pytest.raises(TransformFailed, match="over 10000 members"):
            await unpacked(huge + end, target)


def test_deep_folders_take_no_memory() -> None:
    """Each folder above each member was held by its whole name: of an archive of 130 KB, that took a gigabyte."""
    data = zipped({f"{number}/{'a/' * 2000}a": b"" for number in range(50)})
    tracemalloc.start()
    try:
        members, names = step("unzip").splitter().open(io.BytesIO(data), "source")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert len(names) == 50
    assert members.endpoint == "source"
