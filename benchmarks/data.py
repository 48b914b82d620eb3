"""What is moved, and the check that it arrived: trees of random bytes with a digest of each file."""

from __future__ import annotations

import hashlib
import os
import random
from dataclasses import dataclass
from pathlib import Path

STAMP = 1_700_000_000
"""Modification time of every file, whole seconds so that all endpoints can keep it."""
_BLOCK = 4 << 20


@dataclass(frozen=True, slots=True)
class Known:
    size: int
    sha256: str
    md5: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """A tree in `folder`. `files`: by path relative to the folder."""

    folder: Path
    files: dict[str, Known]

    @property
    def size(self) -> int:
        return sum(known.size for known in self.files.values())


def make(folder: Path, names: list[str], size: int, *, seed: int) -> Dataset:
    """Write files of `size` random bytes; the same seed gives the same bytes."""
    chance = random.Random(seed)
    files: dict[str, Known] = {}
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with path.open("wb") as file:
            for start in range(0, size, _BLOCK):
                block = chance.randbytes(min(_BLOCK, size - start))
                file.write(block)
                sha256.update(block)
                md5.update(block)
        os.utime(path, (STAMP, STAMP))
        files[name] = Known(size, sha256.hexdigest(), md5.hexdigest())
    return Dataset(folder, files)


def wrong_on_disk(data: Dataset, folder: Path) -> str:
    """What is missing, superfluous or different below `folder`; "" if it holds exactly the dataset."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if not path.is_dir()}
    problem = wrong_names(data, set(found))
    if problem:
        return problem
    for name, known in data.files.items():
        with found[name].open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != known.sha256:
                return f"{name} has other bytes"
    return ""


def wrong_names(data: Dataset, names: set[str]) -> str:
    missing, extra = data.files.keys() - names, names - data.files.keys()
    if missing:
        return f"{len(missing)} of {len(data.files)} files did not arrive, such as {min(missing)}"
    if extra:
        return f"{len(extra)} files too many, such as {min(extra)}"
    return ""


@dataclass(frozen=True, slots=True)
class Trace:
    """What a tree looks like without reading it: equal before and after means that nothing was written."""

    files: int
    newest: int
    """The latest change of any file or folder (st_ctime_ns)."""


def trace(folder: Path) -> Trace:
    files, newest = 0, folder.stat().st_ctime_ns
    todo = [str(folder)]
    while todo:
        with os.scandir(todo.pop()) as found:
            for entry in found:
                newest = max(newest, entry.stat(follow_symlinks=False).st_ctime_ns)
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                else:
                    files += 1
    return Trace(files, newest)
