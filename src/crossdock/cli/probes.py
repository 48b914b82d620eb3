"""What `doctor` tries at an endpoint, in a scratch folder: each thing that a capability promises, and the clock."""

from __future__ import annotations

import errno
import math
import secrets
import shlex
import unicodedata
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from crossdock.errors import AlreadyExists, CrossdockError, NoSpace, NotFound, PermissionDenied, Truncated

if TYPE_CHECKING:
    from crossdock.config import Location
    from crossdock.storage.base import Entry
    from crossdock.storage.storage import Storage

__all__ = ["Finding", "probe", "scratch_name"]

_SIZE = 300_000
_PAST = datetime(2001, 2, 3, 4, 5, 7, 654321, tzinfo=UTC)
"""An odd second and more: some systems keep even ones."""
_NAMES = ("Zoë €.csv", "Zoë.csv", "Łódź.csv", "Привет.csv", "データ.csv")
"""Composed (NFC), as most systems write them; the first one that the endpoint's encoding has is tried."""
_ROUNDED = 2
"""Seconds; FAT keeps even ones."""
_CLOCK = 60
"""Seconds that two clocks may differ before `--min-age` and the like go wrong."""


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    detail: str
    good: bool = True
    mend: str | None = None
    """A command, or a line for the endpoint in crossdock.yaml."""


def scratch_name() -> str:
    return f"crossdock-doctor-{secrets.token_hex(4)}"


class _Wrong(Exception):
    """A probe got an answer that its capability does not promise."""

    def __init__(self, reason: str, mend: str | None = None) -> None:
        super().__init__(reason)
        self.mend = mend


async def probe(storage: Storage, scratch: str, place: Location, *, removing: str) -> AsyncGenerator[Finding]:
    """One finding per probe; stops at the first failed write, since all else builds on it.

    `removing`: the command for what could not be removed.
    """
    probes = _Probes(
        storage,
        scratch,
        blind=place.drop_box,
        renames=getattr(place.settings, "staging", None) != "none",
        encoding=getattr(place.settings, "encoding", "utf-8"),
    )
    try:
        for name, action in probes.all():
            try:
                yield Finding(name, await action(), mend=probes.remedies.get(name))
            except _Wrong as wrong:
                yield Finding(name, str(wrong), good=False, mend=wrong.mend)
                if name == "write":
                    break
            except CrossdockError as error:
                if name == "mkdir" and place.drop_box and isinstance(error, PermissionDenied):
                    yield Finding(name, f"{error.message}; writing is not tried where nothing might be removed again")
                    return
                mend = await _what_works(probes, place, again=error.retryable) if name == "write" else None
                yield Finding(name, error.message, good=False, mend=mend or _mend(error, place))
                if name == "write":
                    return
    finally:
        left = await probes.clean_up()
    if left is None:
        yield Finding("delete", "the scratch folder is gone again")
    elif isinstance(left, PermissionDenied):
        mend = f"ask the server's operator to permit deleting, and to remove {place.shown(scratch)}"
        yield Finding("delete", left.message, good=False, mend=mend)
    else:
        yield Finding("delete", left.message, good=False, mend=removing)


_VARIANTS: tuple[dict[str, str], ...] = (
    {"staging": "none"},
    {"verify": "none"},
    {"staging": "none", "verify": "none"},
)


async def _what_works(probes: _Probes, place: Location, *, again: bool) -> str | None:
    """The setting with which a write that was refused succeeds, found by trying; none, if it does as it is `again`."""
    if not hasattr(place.settings, "staging"):
        return None
    for variant in ({}, *_VARIANTS) if again else _VARIANTS:
        settings = place.settings.model_copy(update=variant)
        if variant and settings == place.settings:
            continue
        try:
            async with replace(place, settings=settings).storage() as storage:
                await storage.write_bytes(probes.file, probes.data)
        except CrossdockError:
            continue
        return ", ".join(f"{key}: {value}" for key, value in variant.items()) or None
    return None


def _mend(error: CrossdockError, place: Location) -> str | None:
    if isinstance(error, PermissionDenied) and place.settings.type == "local":
        folder = Path(place.settings.root, place.path).absolute()
        number = getattr(error.__cause__, "errno", errno.EACCES)
        if number == errno.EROFS:
            mount = next(parent for parent in (folder, *folder.parents) if parent.is_mount())
            return f"sudo mount -o remount,rw {shlex.quote(str(mount))}"
        if number == errno.EACCES:
            return f'sudo chown "$USER" {shlex.quote(str(folder))}'
    if isinstance(error, NoSpace):
        return "free space there, or raise the quota"
    return error.hint


class _Probes:
    def __init__(self, storage: Storage, scratch: str, *, blind: bool, renames: bool, encoding: str) -> None:
        self.storage, self.scratch, self.blind, self.renames = storage, scratch, blind, renames
        self.encoding = encoding
        self.data = secrets.token_bytes(_SIZE)
        self.file = f"{scratch}/probe"
        self.made: set[str] = set()
        self.written: Entry | None = None
        """The file, as it was found afterwards."""
        self.remedies: dict[str, str] = {}
        """What helps where a probe found nothing wrong, and yet something to be put up with."""

    def all(self) -> list[tuple[str, Callable[[], Awaitable[str]]]]:
        able = self.storage.capabilities
        found: list[tuple[str, Callable[[], Awaitable[str]]]] = []
        if able.directories:
            found.append(("mkdir", self.make_dir))
        if self.blind:
            return [*found, ("write", self.write)]
        found += [("write", self.write), ("clock", self.clock), ("read", self.read), ("overwrite", self.overwrite)]
        found += [("names", self.names), ("case", self.case)]
        if able.create_new:
            found.append(("create new", self.create_new))
        if able.mtime_precision is not None:
            found.append(("mtime", self.mtime))
        if able.rename and self.renames:
            found.append(("rename", self.rename))
        return found

    async def make_dir(self) -> str:
        await self.storage.make_dir(self.scratch)
        return "made a folder"

    async def write(self) -> str:
        self.made.add(self.file)
        entry = await self.storage.write_bytes(self.file, self.data)
        if not self.blind:
            try:
                self.written = await self.storage.stat(self.file)
            except NotFound as error:
                raise _Wrong(
                    "what was written is not there: the server takes files, or renames them, as soon as they have "
                    "their name; sync would send them again each time",
                    "verify: none    # cp and flows send there, and nothing is looked at",
                ) from error
            except CrossdockError:
                pass  # `clock` tells it.
        capabilities = self.storage.capabilities
        how = "NOT in one step: a partial file can be seen"
        if capabilities.rename and self.renames:
            how = "by a swap: an old file is absent for a moment when it is replaced"
        if capabilities.atomic_write:
            how = "in one step"
        seen = "size confirmed" if entry.size == _SIZE else "size not confirmed"
        return f"{_SIZE:,} bytes, published {how}, {seen}"

    async def clock(self) -> str:
        """The entry was made moments ago by the server's clock."""
        entry = self.written or await self.storage.stat(self.file)
        if entry.modified is None:
            self.remedies["clock"] = (
                "'after: {archive: .done}' or '{delete: true}' in flows that fetch here: what comes then is new"
            )
            return "the server does not tell times: a file that another of the same size replaces looks unchanged"
        ahead = (entry.modified - datetime.now(UTC)).total_seconds()
        if abs(ahead) > _CLOCK:
            raise _Wrong(
                f"the server's clock is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'} of this machine's",
                "timedatectl set-ntp true    # on whichever is wrong",
            )
        return "agrees with this machine's to a minute"

    async def read(self) -> str:
        if await self.storage.read_bytes(self.file) != self.data:
            raise _Wrong("what was read is not what was written", "do not use this endpoint; ask its operator")
        if self.storage.capabilities.read_offset:
            tail = b""
            try:
                async with self.storage.read(self.file, offset=_SIZE - 10) as reader:
                    while chunk := await reader.read():
                        tail += chunk
            except Truncated:
                if self.storage.backend.capabilities.read_offset:
                    raise
                return "the same bytes came back; what breaks off begins anew, as the server only sends whole files"
            if tail != self.data[-10:]:
                raise _Wrong("a read at an offset gives other bytes", "do not use this endpoint; ask its operator")
        return "the same bytes came back"

    async def overwrite(self) -> str:
        other = self.data[::-1]
        await self.storage.write_bytes(self.file, other)
        self.data = other
        if await self.storage.read_bytes(self.file) != self.data:
            raise _Wrong("after replacing a file the old bytes are read", "do not use this endpoint for changing files")
        return "a file was replaced"

    async def names(self) -> str:
        """Whatever names files have, they must have the same ones when they are listed."""
        encoding = self.encoding
        name = next((name for name in _NAMES if name == name.encode(encoding, "ignore").decode(encoding)), None)
        if name is None:
            return f"not tried: {encoding} has no letters beyond ASCII that are known here"
        path = f"{self.scratch}/{name}"
        self.made.add(path)
        failed: CrossdockError | None = None
        try:
            await self.storage.write_bytes(path, b"named")
        except CrossdockError as error:
            if error.retryable:
                raise  # The line has failed, not the name.
            failed = error
        try:
            async with aclosing(self.storage.scan(self.scratch)) as entries:
                listed = {entry.path async for entry in entries if entry.kind == "file"}
        except PermissionDenied:
            if failed is not None:
                raise failed from None
            return f"letters beyond ASCII are taken: {name}"
        other = sorted(listed - self.made)
        self.made |= listed
        if path in listed and failed is None:
            return f"letters beyond ASCII are kept: {name}"
        if not other:
            raise _Wrong(
                f"{name} cannot be written{f': {failed.message}' if failed else ''}",
                f"encoding: …, if the server's names are not {encoding}; else move files with ASCII names only",
            ) from failed
        came = other[0].removeprefix(f"{self.scratch}/")
        if unicodedata.normalize("NFC", came) == name:
            raise _Wrong(
                f"{name} came back decomposed (NFD): to whoever compares names it is another file",
                "move files with ASCII names only, or ask the server's operator for a file system that keeps names",
            )
        raise _Wrong(
            f"{name} came back as {came}: to whoever looks for it, it is not there",
            f"encoding: …, if the server's names are not {encoding}; else move files with ASCII names only",
        )

    async def case(self) -> str:
        if await self.storage.exists(f"{self.scratch}/PROBE"):
            return "names that differ in case only are ONE file: sync moves the first of them, and tells the others"
        return "names that differ in case only are two files"

    async def create_new(self) -> str:
        from crossdock.storage.base import WriteOptions

        try:
            await self.storage.write_bytes(self.file, b"other", WriteOptions(overwrite=False))
        except AlreadyExists:
            return "the server refuses to replace when asked to"
        mend = "conditional_writes: off" if self.renames else "on_conflict: overwrite    # in flows that write there"
        raise _Wrong("a file was replaced although that was forbidden", mend)

    async def mtime(self) -> str:
        from crossdock.storage.base import WriteOptions

        path = f"{self.scratch}/old"
        self.made.add(path)
        await self.storage.write_bytes(path, b"old", WriteOptions(modified=_PAST))
        entry = await self.storage.stat(path)
        precision = self.storage.capabilities.mtime_precision
        if precision is None:
            for name, detail, remedy in await self.storage.backend.remarks():
                if name == "mtime" and remedy is not None:
                    self.remedies[name] = remedy
                    return detail
            return "modification times are not kept"
        if entry.modified is None:
            raise _Wrong(
                "modification times are not told: sync would take files of the same size for unchanged, and move those "
                "again whose size is not told either",
                "crossdock sync --checksum    # it compares content instead",
            )
        apart = abs(entry.modified - _PAST)
        if apart >= max(precision, timedelta(microseconds=1)):
            window = _window(apart.total_seconds())
            raise _Wrong(
                f"{_PAST:%Y-%m-%d %H:%M:%SZ} became {entry.modified}: sync would move files again",
                f"crossdock sync {window or '--checksum'}    # {'or --checksum, which' if window else 'it'} compares "
                "content instead",
            )
        return "kept"

    async def rename(self) -> str:
        path = f"{self.scratch}/renamed"
        self.made |= {path, self.file}
        await self.storage.rename(self.file, path)
        if await self.storage.exists(self.file) or await self.storage.read_bytes(path) != self.data:
            raise _Wrong("a renamed file is not where it should be", "do not use this endpoint; ask its operator")
        return "a file got another name"

    async def clean_up(self) -> CrossdockError | None:
        """Remove all that the probes made; what could not be removed is told."""
        left: CrossdockError | None = None
        for path in self.made:
            try:
                await self.storage.delete(path)
            except NotFound:
                pass  # As a server says that refuses all deleting; the rename took it away.
            except CrossdockError as error:
                left = error
        if self.storage.capabilities.directories:
            try:
                await self.storage.remove_dir(self.scratch)
            except CrossdockError as error:
                return left or error
            return None
        return left


def _window(apart: float) -> str | None:
    """The option with which sync bears times that are so many seconds off; None if that would be any time."""
    if apart <= _ROUNDED:
        return f"--modify-window {math.ceil(apart)}s"
    hours = round(apart / 3600)
    return f"--modify-window {hours * 60 + 1}m" if hours <= 24 and abs(apart - hours * 3600) <= _ROUNDED else None
