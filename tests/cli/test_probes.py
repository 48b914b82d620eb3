"""doctor against endpoints that do not keep names as they are given, and the lines that it prints."""

from __future__ import annotations

import errno
import shlex
import unicodedata
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from crossdock.cli.probes import Finding, probe
from crossdock.config import Location
from crossdock.errors import ConnectionFailed, InvalidPath, PermissionDenied
from crossdock.storage.base import Entry, Reader, WriteOptions, Writer
from crossdock.storage.local import LocalSettings
from crossdock.storage.memory import MemoryBackend, MemorySettings
from crossdock.storage.storage import Storage
from tests.cli.conftest import Cli


class Renaming(MemoryBackend):
    """Stores each file under what `name` makes of its path."""

    def __init__(self, name: Callable[[str], str], *, finds: bool) -> None:
        super().__init__()
        self._name, self._finds = name, finds

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        return await super().begin_write(self._name(path), options)

    async def stat(self, path: str) -> Entry:
        return await super().stat(self._name(path) if self._finds else path)

    async def delete(self, path: str) -> None:
        await super().delete(self._name(path) if self._finds else path)


class Refusing(MemoryBackend):
    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        if not path.isascii():
            raise self.error(InvalidPath, "write", path, "no such letters here")
        return await super().begin_write(path, options)

    async def delete(self, path: str) -> None:
        """As Twisted's server does it."""
        if not path.isascii():
            raise self.error(PermissionDenied, "delete", path, "failed")
        await super().delete(path)


class Failing(MemoryBackend):
    """The line fails at one write, of those to this path."""

    def __init__(self, path: str, number: int) -> None:
        super().__init__()
        self._path, self._left = path, number

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        self._left -= path == self._path
        if path == self._path and not self._left:
            raise self.error(ConnectionFailed, "write", path, "the port is closed", hint="open the port")
        return await super().begin_write(path, options)


class Forbidding(MemoryBackend):
    async def make_dir(self, path: str) -> None:
        raise self.error(PermissionDenied, "mkdir", path, "permission denied")


class Staged(LocalSettings):
    staging: str = "rename"


class Lying(MemoryBackend):
    """Answers as if it had done what it was asked to, and has not."""

    def __init__(self, lie: str) -> None:
        super().__init__()
        self._lie = lie

    async def stat(self, path: str) -> Entry:
        entry = await super().stat(path)
        ahead = timedelta(hours=self._lie == "clock")
        return replace(entry, modified=entry.modified and entry.modified + ahead)

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        if self._lie == "read":
            self._files[path].data = bytes(len(self._files[path].data))
        elif self._lie == "offset" and offset:
            offset -= 10
        return await super().begin_read(path, offset=offset, pin=pin)

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        if self._lie == "overwrite" and path in self._files:
            path = "scratch/elsewhere"
        if self._lie == "create_new":
            options = replace(options, overwrite=True)
        if self._lie == "mtime":
            options = replace(options, modified=None)
        elif self._lie.startswith("mtime ") and options.modified is not None:
            options = replace(options, modified=options.modified + timedelta(seconds=float(self._lie[6:])))
        return await super().begin_write(path, options)

    async def rename(self, path: str, target: str, *, overwrite: bool = False) -> None:
        before = self._files[path]
        await super().rename(path, target, overwrite=overwrite)
        if self._lie == "rename":
            self._files[path] = before


async def findings(backend: MemoryBackend) -> tuple[list[Finding], set[str]]:
    """What is found, and what is left."""
    async with Storage(backend) as storage:
        place = Location("lake", MemorySettings(), "", True)
        async with aclosing(probe(storage, "scratch", place, removing="rm")) as found:
            told = [finding async for finding in found]
        left: AsyncGenerator[Entry] = storage.scan("")
        async with aclosing(left):
            return told, {entry.path async for entry in left}


def decomposed(path: str) -> str:
    return unicodedata.normalize("NFD", path)


def ascii_only(path: str) -> str:
    return path.encode("ascii", "replace").decode()


@pytest.mark.parametrize("finds", [True, False])
@pytest.mark.parametrize(
    ("name", "words"),
    [(decomposed, "came back decomposed (NFD)"), (ascii_only, "Zoë €.csv came back as Zo? ?.csv")],
)
async def test_names_that_come_back_otherwise(name: Callable[[str], str], words: str, finds: bool) -> None:
    told, left = await findings(Renaming(name, finds=finds))
    (bad,) = (finding for finding in told if not finding.good)
    assert bad.name == "names"
    assert words in bad.detail
    assert bad.mend
    assert "ASCII names only" in bad.mend
    assert left == set()


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("clock", "the server's clock is "),
        ("read", "what was read is not what was written"),
        ("offset", "a read at an offset gives other bytes"),
        ("overwrite", "after replacing a file the old bytes are read"),
        ("create_new", "a file was replaced although that was forbidden"),
        ("mtime", "2001-02-03 04:05:07Z became "),
        ("rename", "a renamed file is not where it should be"),
    ],
)
async def test_what_is_promised_and_not_kept(lie: str, words: str) -> None:
    told, _ = await findings(Lying(lie))
    bad = next(finding for finding in told if not finding.good)
    assert bad.detail.startswith(words) and bad.mend, told


@pytest.mark.parametrize(
    ("off", "window"), [(0.000001, "1s"), (-1.654321, "2s"), (3600, "61m"), (-18001, "301m"), (1800, None), (1e6, None)]
)
async def test_times_that_are_kept_otherwise(off: float, window: str | None) -> None:
    """Rounded, or by whole hours off."""
    told, _ = await findings(Lying(f"mtime {off}"))
    (bad,) = (finding for finding in told if not finding.good)
    assert bad.detail.startswith("2001-02-03 04:05:07Z became "), told
    assert bad.mend
    assert bad.mend.startswith(f"crossdock sync --modify-window {window} " if window else "crossdock sync --checksum ")


async def test_names_that_are_refused() -> None:
    told, left = await findings(Refusing())
    (bad,) = (finding for finding in told if not finding.good)
    assert bad.detail.startswith("Zoë €.csv cannot be written: write memory:scratch/Zoë €.csv: no such letters here")
    assert bad.mend
    assert left == set()


@pytest.mark.parametrize(("name", "path", "number"), [("overwrite", "probe", 2), ("names", "Zoë €.csv", 1)])
async def test_a_line_that_fails_once_is_not_blamed_on_what_was_tried(name: str, path: str, number: int) -> None:
    told, left = await findings(Failing(f"scratch/{path}", number))
    (bad,) = (finding for finding in told if not finding.good)
    assert (bad.name, bad.mend) == (name, "open the port"), told
    assert "the port is closed" in bad.detail
    assert left == set()


async def test_a_line_that_fails_once_calls_for_no_other_setting(tmp_path: Path) -> None:
    async with Storage(Failing("scratch/probe", 1)) as storage:
        place = Location("lake", Staged(root=tmp_path), "", True)
        async with aclosing(probe(storage, "scratch", place, removing="rm")) as found:
            (bad,) = [finding async for finding in found if not finding.good]
    assert (bad.name, bad.mend) == ("write", "open the port")


async def test_what_is_taken_or_renamed_as_soon_as_it_is_there() -> None:
    told, _ = await findings(Renaming(lambda path: f"{path}.received", finds=False))
    assert [(finding.name, finding.good) for finding in told[-2:]] == [("write", False), ("delete", False)]
    assert "what was written is not there" in told[-2].detail and str(told[-2].mend).startswith("verify: none")


async def test_names_that_are_kept() -> None:
    told, left = await findings(MemoryBackend())
    assert all(finding.good for finding in told)
    assert "letters beyond ASCII are kept: Zoë €.csv" in [finding.detail for finding in told]
    assert left == set()


@pytest.mark.parametrize(("folds", "said"), [(True, "are ONE file"), (False, "are two files")])
async def test_names_that_differ_in_case_only(*, folds: bool, said: str) -> None:
    one = "scratch/probe"
    told, left = await findings(Renaming(lambda path: one if folds and path.lower() == one else path, finds=True))
    (found,) = (finding.detail for finding in told if finding.name == "case")
    assert said in found
    assert left == set()


async def test_a_local_folder_is_named_as_the_shell_takes_it(tmp_path: Path) -> None:
    root = tmp_path / "in 1"
    root.mkdir()
    async with Storage(Forbidding()) as storage:
        place = Location("lake", LocalSettings(root=root), "sub", True)
        async with aclosing(probe(storage, "sub/scratch", place, removing="rm")) as found:
            mends = [finding.mend async for finding in found]
    assert f"sudo chown \"$USER\" '{root}/sub'" in mends


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EROFS, "sudo mount -o remount,rw /"), (errno.ELOOP, "name what it leads to")]
)
async def test_what_no_owner_could_do(tmp_path: Path, number: int, words: str) -> None:
    class Refuses(MemoryBackend):
        async def make_dir(self, path: str) -> None:
            raise self.error(PermissionDenied, "mkdir", path, "no", hint="name what it leads to") from OSError(
                number, ""
            )

    async with Storage(Refuses()) as storage:
        place = Location("lake", LocalSettings(root=tmp_path), "", True)
        async with aclosing(probe(storage, "scratch", place, removing="rm")) as found:
            mends = [finding.mend async for finding in found]
    assert any(mend and mend.startswith(words) for mend in mends)
    assert not any(mend and "chown" in mend for mend in mends)


def test_a_line_that_mends_can_be_entered_as_it_is(cli: Cli, tmp_path: Path) -> None:
    """Quoted, with the same configuration, and with the settings of a URL."""
    (tmp_path / "c.yaml").write_text("endpoints: {lake: {type: local, root: .}}")
    for place in ("lake:it's in", f"file://{tmp_path}/a%20b"):
        (bad,) = (row for row in cli("--config", "c.yaml", "doctor", place, "--json").rows if not row["good"])
        assert shlex.split(bad["mend"]) == ["crossdock", "--config", "c.yaml", "mkdir", place]
        assert cli(*shlex.split(bad["mend"])[1:]).code == 0
        assert cli("--config", "c.yaml", "doctor", place).code == 0
