"""The storage contract: `Backend`, `Reader` and `Writer` to implement, `Entry` and `Capabilities` to describe.

A path is a `str` relative to the endpoint's root: components joined by "/", no leading or trailing slash, "" is the
root itself. Bytes of a name that are not UTF-8 travel as lone surrogates (`surrogateescape`), so that every name
survives a round trip. `Storage` checks paths before a backend sees them; an object store (`directories=False`) gets
its keys as opaque text, exactly as they were listed.

What every backend promises (`crossdock.testing.StorageSuite` holds each line):

- `stat`, `begin_read` and `scan` raise `NotFound` for what is not there, and only for that.
- A stream never ends early in silence: `Reader.read` returns b"" only at the true end, else raises `Truncated` or
  `ConnectionFailed`. A stream that is not of the entry asked for (`pin`) raises `SourceChanged`.
- Nothing is visible under the final name before `Writer.commit` returns. An uncommitted, failed or cancelled write
  leaves neither the file nor a temporary.
- `commit` raises `IntegrityError` and publishes nothing when size or digest differ from what is expected.
- `overwrite=False` never replaces: `AlreadyExists`.
- Deleting what is missing succeeds. `rename` without `overwrite` never replaces.
- A listing that fails midway raises; it is never a shorter listing. A scan holds no connection between two pages.
- A capability that is False makes its method raise `Unsupported`; for what `WriteOptions` ask, `Storage` does.
- What is raised is of `crossdock.errors`; anything else, a mistake in the backend, is told as `BackendFault`.
- Cancellation may strike at any await: no connection is left in an unknown state, nothing is left behind.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from crossdock.errors import CrossdockError, ProtocolViolation, StorageError, Unsupported

__all__ = [
    "SECONDS_32",
    "Backend",
    "Capabilities",
    "Entry",
    "Expect",
    "Kind",
    "Leftover",
    "Reader",
    "WriteOptions",
    "Writer",
    "distinct",
    "not_open",
]

Kind = Literal["file", "dir", "link", "other"]
SECONDS_32 = (datetime(1970, 1, 1, tzinfo=UTC), datetime(2106, 2, 7, 6, 28, 15, tzinfo=UTC))
"""The `Capabilities.mtime_range` of what counts the seconds since 1970 in 32 bits without a sign."""
_LONGEST = 256
"""Characters of a fingerprint."""


@dataclass(slots=True, kw_only=True, unsafe_hash=True)
class Entry:
    """One name as an endpoint describes it. None means that the endpoint did not say.

    Never changed once it is made: use `dataclasses.replace`. Not `frozen`, which makes each take 1.1 µs instead of 0.4.
    """

    path: str
    kind: Kind = "file"
    size: int | None = None
    """Bytes."""
    modified: datetime | None = None
    """Aware, UTC."""
    etag: str | None = None
    """Opaque; changes with the content."""
    version: str | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    """Algorithm → lower-case hex, as reported by the endpoint, never computed by us."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """What an object store keeps beside the bytes: "content-type", "cache-control", …; user metadata as "meta-NAME"."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the content may have."""
        if self.version:
            found = f"version:{self.version}"
        else:
            modified = self.modified.isoformat() if self.modified and not self.etag else ""
            found = f"{self.etag or ''}:{'' if self.size is None else self.size}:{modified}"
        if len(found) <= _LONGEST:
            return found
        # An endpoint tells what it likes, and a ledger's index takes no more.
        return f"sha256:{hashlib.sha256(found.encode('utf-8', 'surrogateescape')).hexdigest()}"


def distinct(entries: list[Entry]) -> list[Entry]:
    """Of a folder's entries, sorted by path: one in which names come and go while it is read may show one twice.

    A file and a folder of one name are two: an object store may have both.
    """
    return [entry for number, entry in enumerate(entries) if not number or _key(entry) != _key(entries[number - 1])]


def _key(entry: Entry) -> tuple[str, bool]:
    return entry.path, entry.kind == "dir"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do, as data; the suite checks every field against behaviour, both ways."""

    rename: bool = False
    directories: bool = False
    """Folders exist on their own; False: an object store, whose keys are opaque."""
    atomic_write: bool = False
    """Nothing partial is ever visible under the final name, even after a crash."""
    in_place: bool = False
    """What is written has its final name from the first byte on: a crash leaves the beginning of a file there."""
    create_new: bool = False
    """`overwrite=False` is decided by the endpoint itself, so that two writers cannot both win."""
    read_offset: bool = False
    resume_write: bool = False
    recursive_scan: bool = False
    """`scan(recursive=True)` yields all files below, in ascending order of their paths' code points."""
    server_copy: bool = False
    pinned_delete: bool = False
    """`delete_pinned` and its look at the file are one round trip apart at most."""
    tags: bool = False
    pinned_reads: bool = False
    """An open stream cannot change under its reader; otherwise the source is looked at again at the end."""
    digests: frozenset[str] = frozenset()
    """Algorithms that `Writer.commit` has the endpoint verify."""
    hashes: frozenset[str] = frozenset()
    """Algorithms of `Backend.digests`: content that is hashed where it lies, without crossing a network."""
    mtime_precision: timedelta | None = None
    """None: modification times are not kept."""
    mtime_range: tuple[datetime, datetime] | None = None
    """The first and the last modification time that can be kept. None: no such bounds are known."""
    lists_mtime: bool = True
    """False: `scan` gives the time of the upload; only `stat` and `begin_read` know the file's own."""
    max_connections: int = 4
    streams_per_connection: int = 1

    def kept(self, modified: datetime) -> datetime:
        """The nearest time that can be kept."""
        if self.mtime_range is None:
            return modified
        first, last = self.mtime_range
        return min(max(first, modified), last)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How a file is to be written."""

    size: int | None = None
    """Bytes, if known beforehand: sizes the parts, and lets an endpoint refuse early what cannot fit.

    `Writer.commit` raises `IntegrityError` if another number of bytes was written.
    """
    modified: datetime | None = None
    """Kept where the endpoint can; where it cannot, that is not an error."""
    overwrite: bool = True
    attributes: Mapping[str, str] = field(default_factory=dict)
    resume: bytes | None = None
    """A `Writer.checkpoint()` of an earlier attempt at the same path: go on at `Writer.offset`."""
    attempt: str | None = None
    """12 hex digits, never used before, that name what is staged: `Backend.leftover` finds it by them after a crash."""
    staged: Callable[[bytes], Awaitable[None]] | None = None
    """Awaited with a token for `Backend.discard` as soon as something is staged that `attempt` does not name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What must be stored, or nothing is published."""

    size: int | None = None
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a write that nobody ended has left where no listing shows it."""

    path: str
    begun: datetime | None
    token: bytes
    """For `Backend.discard`."""


class Reader(ABC):
    """An open stream over one file."""

    entry: Entry
    """The file as opened: the size and etag that the stream is checked against."""
    changed: bool | None = None
    """Set at the end of the stream: the name stands for something else by then. None: the reader did not look."""

    @abstractmethod
    async def read(self) -> bytes:
        """The next chunk, of any size; b"" only at the true end. Raises `Truncated` if the peer stops early."""

    @abstractmethod
    async def close(self) -> None:
        """Give everything back; safe to repeat, and at any point of the stream."""


class Writer(ABC):
    """An open, still invisible, file."""

    offset: int = 0
    """Bytes that an earlier attempt has already stored (`WriteOptions.resume`); write what follows."""
    left: CrossdockError | None = None
    """Why `abort` could not remove what was staged: it is not raised, as what made it necessary matters more."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Append. Returns once accepted, so that a slow peer slows the caller."""

    async def seal(self, expect: Expect) -> bytes | None:
        """Store and verify what was written, as far as the endpoint does before it publishes; only `commit` is left.

        Optional: `commit` does what was not done. Returns a token, for `Backend.is_staged` and `discard`, that names
        what is staged; None where none could.
        """
        return self.checkpoint()

    @abstractmethod
    async def commit(self, expect: Expect) -> Entry:
        """Verify what is stored, then publish it under the final name; the entry is as the endpoint reports it."""

    @abstractmethod
    async def abort(self) -> None:
        """Leave nothing behind, or say in `left` why not. Safe to repeat; does nothing after `commit` succeeded.

        A writer that has ended, in this or another way, raises `RuntimeError` if it is asked to write or to commit.
        """

    def checkpoint(self) -> bytes | None:
        """A token for `WriteOptions.resume` or `Backend.discard`, if the backend can resume and bytes are stored.

        To resume, leave the writer with `suspend()` instead of `abort()`.
        """
        return None

    async def suspend(self) -> None:
        """Let go, keeping what is staged for a later attempt. Where writes cannot be resumed this is `abort()`."""
        await self.abort()

    async def leave(self) -> None:
        """Let go of everything, and remove nothing: another worker, whose file it is by now, cleans up."""
        await self.suspend()


def not_open(endpoint: str, operation: str, path: str = "") -> StorageError:
    """The error of a backend that is used before `open`, or after `close`."""
    hint = "use the storage inside 'async with'"
    error = ProtocolViolation("it is not open", operation=operation, endpoint=endpoint, path=path, hint=hint)
    error.exhausted = True
    return error


class Backend(ABC):
    """Speaks one protocol to one endpoint. `endpoint` is the name that messages use."""

    endpoint: str
    capabilities: Capabilities
    """Complete once `open` has returned."""
    store: str | None = None
    """Backends with an equal `store` see the same files, and name them by `address()`."""

    @abstractmethod
    async def open(self) -> None:
        """Connect and learn the capabilities. Safe to repeat."""

    @abstractmethod
    async def close(self) -> None:
        """Give all connections back. Safe to repeat."""

    @abstractmethod
    async def stat(self, path: str) -> Entry:
        """Describe one name. A link describes itself, unless the endpoint is set to follow links."""

    @abstractmethod
    def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        """Stream the direct children of a folder, or, with `recursive` and the capability, all files below it.

        In pages, each as long as the endpoint makes them: layers handle a page, not a name, at a time.
        """

    @abstractmethod
    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        """Open for reading at `offset` bytes; with `pin`, only if the file is still that entry (`SourceChanged`)."""

    @abstractmethod
    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        """Start a file. Missing folders above it are made. May defer all contact with the endpoint to the writer."""

    @abstractmethod
    async def delete(self, path: str) -> None:
        """Remove a file; what is missing is already deleted. A folder is `NotAFile`."""

    async def rename(self, path: str, target: str, *, overwrite: bool = False) -> None:
        """Give a file another name; folders above it are made. `AlreadyExists` unless `overwrite`."""
        raise self._unsupported("rename", path)

    async def server_copy(self, address: str, path: str, options: WriteOptions, *, pin: Entry | None = None) -> Entry:
        """Copy within the store, from another backend's `address()`, without moving bytes through here.

        Metadata, tags and content type go along. With `pin`, only that version is copied (`SourceChanged`).
        """
        raise self._unsupported("copy", path)

    def address(self, path: str) -> str:
        """How a sibling in the same `store` names this path, or the folder there."""
        raise self._unsupported("copy", path)

    async def make_dir(self, path: str) -> None:
        """Make a folder and those above it; one that exists is fine. `NotADirectory` if a file is in the way."""
        raise self._unsupported("mkdir", path)

    async def remove_dir(self, path: str) -> None:
        """Remove an empty folder; what is missing is already removed. Not empty: `PermissionDenied`."""
        raise self._unsupported("rmdir", path)

    async def delete_pinned(self, path: str, pin: Entry) -> None:
        """Remove a file if it still is that entry (`SourceChanged`); what is missing is already deleted."""
        raise self._unsupported("delete a pinned file", path)

    async def set_tags(self, path: str, tags: Mapping[str, str], *, pin: Entry) -> None:
        """Add tags to those of a file, if it still is that entry (`SourceChanged`)."""
        raise self._unsupported("tag", path)

    async def digests(self, paths: Sequence[str], algorithm: str) -> list[str]:
        """Digests of small files' content, as lower-case hex, for an algorithm of `capabilities.hashes`.

        One call for many files: each is too little work for a thread of its own. Fails as a whole.
        """
        raise self._unsupported("hash", paths[0])

    async def discard(self, checkpoint: bytes) -> None:
        """Remove what a suspended or killed attempt left behind; what is gone is already removed."""
        raise self._unsupported("discard", "")

    def leftover(self, path: str, attempt: str) -> bytes | None:
        """The token of what a killed attempt (`WriteOptions.attempt`) may have staged. None: its name does not tell."""
        return None

    async def is_staged(self, checkpoint: bytes) -> bool | None:
        """Whether what the token names is still there, that is unpublished. None: being gone proves nothing."""
        return None

    async def leftovers(self, path: str) -> AsyncGenerator[Leftover]:
        """What such writes, by whomever, have left of names that begin with `path`."""
        none: tuple[Leftover, ...] = ()
        for leftover in none:
            yield leftover

    async def server(self) -> str | None:
        """What the server calls itself, and how it is spoken to, in words; None: there is none."""
        return None

    async def prove_times(self, entry: Entry) -> None:
        """Learn whether times are kept (`Capabilities.mtime_precision`), where that is not known until one is set.

        `entry` is a file that is about to be replaced, and stays as it is.
        """

    async def remarks(self) -> Sequence[tuple[str, str, str | None]]:
        """What works at this server, but not as well as it could: (what, detail, remedy)."""
        return ()

    def error(
        self,
        kind: type[StorageError],
        operation: str,
        path: str,
        reason: str,
        *,
        hint: str | None = None,
        retry_after: float | None = None,
    ) -> StorageError:
        """An error of this endpoint, ready to raise."""
        return kind(reason, operation=operation, endpoint=self.endpoint, path=path, hint=hint, retry_after=retry_after)

    def _unsupported(self, operation: str, path: str) -> StorageError:
        return self.error(Unsupported, operation, path, "this endpoint cannot do that")
