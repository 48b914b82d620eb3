"""`sync` between two folders, said a second time and simply: random trees and options, and what the guide has them do.

Nothing of crossdock is used here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

__all__ = ["Expected", "Options", "Thing", "expected", "options", "plant", "snapshot"]

_SECOND = 10**9
_THEN = 1_700_000_000 * _SECOND
_NAMES = ("a", "A", "b", "a-", "a.csv", "b.tmp", "zä", "za\u0308", "-rf", "*.csv", "a\\b", "new\nline", "l\udce9")
_LONG = "n" * 251 + ".csv"
_FOLDERS = ("a", "b", "d", "D", "a-", "zä", "l\udce9")
_GLOBS = ("*.csv", "a", "a*", "d/", "/d/*", "**/a", "?", "[!a]*", "{a,b}.*", "/d/**", "D/**/a", "*", "a/", "*\\**")
_DATA = (b"", b"a", b"b", b"ab", b"ba", b"x" * 3000, b"y" * 3000, b"\r\n\0")
_TIMES = (*(_THEN + more for more in (0, 1, 999, 1000, 400_000_000, _SECOND, -_SECOND)), -5 * _SECOND)
_AGE = 1000
"""Seconds."""


@dataclass(frozen=True)
class Thing:
    kind: str
    data: bytes = b""
    modified: int = 0
    """Nanoseconds."""


Tree = dict[str, Thing]


def snapshot(folder: Path) -> Tree:
    found: Tree = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            thing = Thing("dir")
        elif stat.S_ISREG(status.st_mode):
            thing = Thing("file", path.read_bytes(), status.st_mtime_ns)
        else:
            thing = Thing("link" if path.is_symlink() else "other", b"", status.st_mtime_ns)
        found[str(path.relative_to(folder))] = thing
    return found


def plant(source: Path, target: Path, random: Random, now: int) -> None:
    """Two trees; some of the target's files are the source's, or nearly."""
    _grow(source, random, now)
    if random.random() < 0.1:
        return
    target.mkdir()
    if random.random() < 0.6:
        _grow(target, random, now)
    for name, thing in sorted(snapshot(source).items()):
        if thing.kind == "file" and random.random() < 0.6:
            _copy(thing, target / name, random)


def _grow(folder: Path, random: Random, now: int) -> None:
    folder.mkdir(exist_ok=True)
    folders = [folder]
    for _ in range(random.randrange(5)):
        below = random.choice(folders) / random.choice(_FOLDERS)
        if not below.exists():
            below.mkdir()
            folders.append(below)
    for _ in range(random.randrange(14)):
        path = random.choice(folders) / random.choice((*_NAMES, _LONG))
        if not os.path.lexists(path):
            _put(path, random, random.choice((*_TIMES, now - 4 * _AGE * _SECOND, now)))


def _put(path: Path, random: Random, modified: int) -> None:
    kind = random.random()
    if kind < 0.06:
        path.symlink_to(random.choice(("a", ".", "/etc/passwd", "nowhere")))
    elif kind < 0.12:
        os.mkfifo(path)
    elif kind < 0.18:
        path.mkdir()
        return
    else:
        path.write_bytes(random.choice(_DATA))
    os.utime(path, ns=(modified, modified), follow_symlinks=False)


def _copy(thing: Thing, path: Path, random: Random) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(thing.data[::-1] if random.random() < 0.3 else thing.data)
    except OSError:
        return  # something else has the name, or a folder's
    modified = thing.modified + random.choice((0, 0, 0, 1, 999, 1000, -1000, _SECOND, -_SECOND))
    os.utime(path, ns=(modified, modified))


@dataclass(frozen=True)
class Options:
    rules: tuple[tuple[bool, str], ...] = ()
    """Whether to include, and the glob."""
    checksum: bool = False
    delete: bool = False
    max_delete: str = "25%"
    min_age: int | None = None
    max_size: int | None = None
    transfers: int = 16

    def argv(self) -> Iterator[str]:
        for include, glob in self.rules:
            yield from ("--include" if include else "--exclude", glob)
        if self.min_age is not None:
            yield from ("--min-age", f"{self.min_age}s")
        if self.max_size is not None:
            yield from ("--max-size", str(self.max_size))
        yield from ["--checksum"] * self.checksum
        yield from ["--delete"] * self.delete
        yield from ("--max-delete", self.max_delete, "--transfers", str(self.transfers))


def options(random: Random) -> Options:
    count = random.choice((0, 0, 1, 2, 3))
    return Options(
        rules=tuple((random.random() < 0.4, random.choice(_GLOBS)) for _ in range(count)),
        checksum=random.random() < 0.25,
        delete=random.random() < 0.6,
        max_delete=random.choice(("100%", "100", "100", "25%", "0", "3")),
        min_age=random.choice((None, None, None, _AGE)),
        max_size=random.choice((None, None, None, 0, 1, 2999)),
        transfers=random.choice((1, 2, 16)),
    )


@dataclass(frozen=True)
class Expected:
    outcomes: dict[str, str]
    """Name → copy, skip, fail or delete."""
    target: Tree
    refused: bool
    """To delete."""


def expected(source: Tree, target: Tree, asked: Options, now: int) -> Expected:
    outcomes: dict[str, str] = {}
    after = dict(target)
    names = {name: thing for name, thing in source.items() if thing.kind != "dir"}
    for name, thing in names.items():
        folders = [name[:at] for at, letter in enumerate(name) if letter == "/"]
        there = target.get(name)
        if thing.kind != "file" or _left_out(name, thing, asked, now):
            outcomes[name] = "skip"
        elif (there and there.kind != "file") or any(target.get(one, Thing("dir")).kind != "dir" for one in folders):
            outcomes[name] = "fail"
        elif there and _same(thing, there, asked.checksum):
            outcomes[name] = "skip"
        else:
            outcomes[name] = "copy"
            after |= {folder: Thing("dir") for folder in folders}
            after[name] = replace(thing, modified=thing.modified // 1000 * 1000)
    held = {name: thing for name, thing in target.items() if thing.kind != "dir"}
    gone = [name for name in held if name not in names and not _left_out(name, held[name], asked, now)]
    if not asked.delete or not gone:
        return Expected(outcomes, after, refused=False)
    digits = asked.max_delete.removesuffix("%")
    most = int(digits) if digits == asked.max_delete else len(held) * int(digits) // 100
    if not names or "fail" in outcomes.values() or len(gone) > most:
        return Expected(outcomes, after, refused=True)
    for name in gone:
        outcomes[name] = "delete"
        del after[name]
    return Expected(outcomes, after, refused=False)


def _same(one: Thing, other: Thing, checksum: bool) -> bool:
    if checksum:
        return one.data == other.data
    return len(one.data) == len(other.data) and one.modified // 1000 == other.modified // 1000


def _left_out(name: str, thing: Thing, asked: Options, now: int) -> bool:
    """A link has no size, and so fails a bound on it."""
    if asked.max_size is not None and (thing.kind != "file" or len(thing.data) > asked.max_size):
        return True
    if asked.min_age is not None and now - thing.modified < asked.min_age * _SECOND:
        return True
    for include, glob in asked.rules:
        if any(_matches(one, name) for one in _alternatives(glob)):
            return not include
    return any(include for include, _ in asked.rules)


def _alternatives(glob: str) -> list[str]:
    before, brace, rest = glob.partition("{")
    if not brace:
        return [glob]
    inner, _, after = rest.partition("}")
    return [f"{before}{one}{after}" for one in inner.split(",")]


def _matches(glob: str, name: str) -> bool:
    parts = glob.strip("/").split("/")
    if "/" not in glob.rstrip("/"):
        parts.insert(0, "**")
    return _path([*parts, "**"] if glob.endswith("/") else parts, name.split("/"))


def _path(globs: list[str], names: list[str]) -> bool:
    if not globs:
        return not names
    if globs == ["**"]:
        return bool(names)
    if globs[0] == "**":
        return any(_path(globs[1:], names[skipped:]) for skipped in range(len(names) + 1))
    return bool(names) and _name(globs[0], names[0]) and _path(globs[1:], names[1:])


def _name(glob: str, name: str) -> bool:
    if not glob:
        return not name
    first, rest = glob[0], glob[1:]
    if first == "*":
        return any(_name(rest, name[skipped:]) for skipped in range(len(name) + 1))
    if not name:
        return False
    if first == "[":
        letters, _, rest = rest.removeprefix("!").partition("]")
        return (name[0] in letters) is not glob.startswith("[!") and _name(rest, name[1:])
    if first == "\\":
        first, rest = rest[0], rest[1:]
        return name[0] == first and _name(rest, name[1:])
    return first in ("?", name[0]) and _name(rest, name[1:])
