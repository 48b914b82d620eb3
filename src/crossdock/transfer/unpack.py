"""One file into many: an archive is kept on local disk, verified to its last byte, and only then given out."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import IO, Any

from crossdock.errors import (
    Conflict,
    CrossdockError,
    NoSpace,
    NotFound,
    PermissionDenied,
    SourceChanged,
    TransformFailed,
    shown,
)
from crossdock.storage.base import Backend, Capabilities, Entry, Expect, Reader, WriteOptions, Writer
from crossdock.storage.storage import Storage
from crossdock.storage.waiting import to_its_end
from crossdock.transfer.copy import CopyOptions, Staged, copy, refuse_folder
from crossdock.transfer.options import Begun
from crossdock.transfer.pipe import digest_of
from crossdock.transfer.receipt import Receipt
from crossdock.transfer.transforms.base import Refused, Splitter, Step

__all__ = ["as_one", "unpack"]


async def unpack(
    source: Storage,
    path: str,
    target: Storage,
    to: str,
    *,
    options: CopyOptions,
    pin: Entry | None = None,
    progress: Callable[[int], None] | None = None,
    on_members: Callable[[Sequence[str]], Awaitable[None]] | None = None,
    on_staged: Callable[[Staged], Awaitable[None]] | None = None,
) -> list[Receipt]:
    """Move what is in an archive into the folder `to`, one receipt for each member, in the archive's order.

    `options.transforms` has one step that makes many files; the steps before it change the archive, those after it
    each member. Nothing is published unless every member was unpacked, changed and found whole, and, without
    `options.overwrite`, no other file is in the place of any. Then each is published in one step, like any other file,
    one after the other: a connection that fails in the middle leaves the first of them, whole, and calling this again
    gives the rest (and those again; without `options.overwrite` only those that are gone: by `options.begun` they are
    known, since steps may make other bytes each time, as encryption does).

    `on_members` is awaited with the targets' paths before the first is written, or as soon as this fails for good,
    without any if they are not known then; `on_staged` as by `copy`, for each, and with its path.
    A receipt's `source` is `name:path!/member`; `source_entry`, `read_size` and `read_sha256` are the archive's.
    Local disk: the archive, up to the step's limit. Memory: that of `copy`, and the archive's directory.

    Raises what `copy` raises.
    """
    before, step, after = _parted(options.transforms)
    name = f"{source.endpoint}:{shown(path)}"
    splitter = step.splitter()
    inner = replace(options, server_side=False, resume=None)
    archive: Storage | None = None
    places, told = list[str](), False
    spooled: list[IO[bytes]] = []
    try:
        await to_its_end(asyncio.to_thread(_spool, splitter, step, name, spooled))
        (file,) = spooled
        spool = Storage(_Sink("spool", _Spooling(file, splitter.spool_limit, step, name)))
        first = replace(inner, transforms=before, overwrite=True, attempt=None)
        whole = await copy(source, path, spool, "archive", pin=pin, options=first, progress=progress)
        members, names = await asyncio.to_thread(_opened, splitter, file, step, name)
        archive = Storage(members)
        places = [f"{to}/{member}" if to else member for member in names]
        each = replace(inner, transforms=after)
        nowhere = Storage(_Sink(target.endpoint, None))
        begun = options.begun
        own = set(places[: places.index(begun.member) + 1]) if begun is not None and begun.member in places else set()
        kept = dict[str, Receipt]()
        for member, place in zip(names, places, strict=True):
            made = await copy(archive, member, nowhere, place, options=replace(each, overwrite=True, attempt=None))
            if not options.overwrite:
                if begun is not None and begun.in_place:
                    await _remove_beginning(archive, member, target, place, made, each)
                there = await _look_ahead(target, place, made, begun if place in own else None)
                if there is not None:
                    kept[place] = there
        if on_members is not None:
            told = True
            await on_members(places)
        if on_staged is not None and not own and not options.overwrite:
            # Else the folder that is made now would look like another one's to the next attempt.
            await on_staged(Staged(token=None, member=""))
        receipts = []
        for member, place in zip(names, places, strict=True):
            telling = None if on_staged is None else partial(_told, on_staged, place, begun if place in own else None)
            done = kept.get(place) or await copy(archive, member, target, place, options=each, on_staged=telling)
            receipts.append(_joined(done, source, path, member, whole, options))
        return receipts
    except CrossdockError as error:
        if on_members is not None and not told and (isinstance(error, SourceChanged) or not error.retryable):
            with suppress(CrossdockError):
                await on_members(places)
        raise
    finally:
        try:
            if archive is not None:
                await archive.close()
        finally:
            for file in spooled:
                with suppress(OSError):
                    # What did not fit is still in its buffer.
                    file.close()


async def _look_ahead(target: Storage, place: str, made: Receipt, begun: Begun | None) -> Receipt | None:
    """The receipt for what an earlier attempt has put there, if `begun` tells of it.

    Raises `Conflict` if the target has something else there: found later, the first members would be there alone.
    """
    try:
        there = await target.stat(place)
    except (NotFound, PermissionDenied):
        return None
    refuse_folder(target, there)
    alike = there.kind == "file" and there.size in (None, made.size)
    if begun is None and not alike:
        raise _taken(made)
    held = await digest_of(target, there) if there.kind == "file" else None
    if held == made.sha256:
        return None
    if begun is None or held is None or (place == begun.member and held != begun.sha256):
        raise _taken(made)
    size = made.size if there.size is None else there.size
    return replace(made, size=size, sha256=held, method="present", verified="digest", target_entry=there)


async def _remove_beginning(
    archive: Storage, member: str, target: Storage, place: str, made: Receipt, options: CopyOptions
) -> None:
    """Remove what is there if the member, as it is to be written, begins like that and goes on."""
    with suppress(NotFound, PermissionDenied):
        there = await target.stat(place)
        if there.kind != "file" or there.size is None or there.size >= (made.size or 0):
            return
        head = _Sink(target.endpoint, None, head=there.size)
        await copy(archive, member, Storage(head), place, options=replace(options, overwrite=True, attempt=None))
        if await digest_of(target, there) == head.digest.hexdigest():
            await target.delete(place)


def _taken(made: Receipt) -> Conflict:
    return Conflict(
        f"unpack {made.source} → {made.target}: the target exists with other content; nothing was published",
        hint="allow overwriting, or move it away",
    )


async def _told(
    on_staged: Callable[[Staged], Awaitable[None]], place: str, begun: Begun | None, staged: Staged
) -> None:
    """What an earlier attempt had published stays known while one of its first is put again."""
    if begun is not None and begun.member != place:
        place, staged = begun.member, replace(staged, sha256=begun.sha256)
    await on_staged(replace(staged, member=place))


def _parted(steps: Sequence[Step]) -> tuple[tuple[Step, ...], Step, tuple[Step, ...]]:
    at = [number for number, step in enumerate(steps) if step.many]
    if len(at) != 1:
        raise ValueError("exactly one step makes many files of one")
    return tuple(steps[: at[0]]), steps[at[0]], tuple(steps[at[0] + 1 :])


def _spool(splitter: Splitter, step: Step, name: str, spooled: list[IO[bytes]]) -> None:
    """A file without a name: nothing is left of it, however this process ends."""
    try:
        spooled.append(tempfile.TemporaryFile(dir=splitter.spool_folder))  # noqa: SIM115 - see unpack
    except OSError as error:
        raise _unkept(step, name, "no temporary file", error) from error


def _opened(splitter: Splitter, file: IO[bytes], step: Step, name: str) -> tuple[Backend, Sequence[str]]:
    try:
        members, names = splitter.open(file, name)
        if not names:
            raise Refused("no file is in it", hint="ask its sender")
    except CrossdockError:
        raise
    except (Exception, SystemExit) as error:
        # As for transforms: whatever a splitter raises, this file is not to be published.
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise _failed(step, name, reason, getattr(error, "hint", None)) from error
    return members, names


def _unkept(step: Step, name: str, what: str, error: OSError) -> CrossdockError:
    """The archive could not be kept on local disk."""
    hint = "free some space there, or write a folder that has some at 'spool'"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        endpoint, _, path = name.partition(":")
        reason = "no room on the local disk to keep the archive on"
        return NoSpace(reason, operation=step.name, endpoint=endpoint, path=path, hint=hint)
    return _failed(step, name, f"{what}: {error.strerror}", hint)


def _failed(step: Step, name: str, reason: str, hint: str | None) -> TransformFailed:
    return TransformFailed(f"transform {step.name} of {name}: {reason}; nothing was published", hint=hint)


def _joined(done: Receipt, source: Storage, path: str, member: str, whole: Receipt, options: CopyOptions) -> Receipt:
    return replace(
        done,
        source=f"{source.endpoint}:{path}!/{member}",
        source_entry=whole.source_entry,
        transforms=tuple(step.name for step in options.transforms),
        read_size=whole.size if whole.read_size is None else whole.read_size,
        read_sha256=whole.read_sha256 or whole.sha256,
    )


class _Spooling:
    """The temporary file, up to its limit. Writes happen in threads."""

    def __init__(self, file: IO[bytes], limit: int, step: Step, name: str) -> None:
        self._file, self._limit, self._step, self._name = file, limit, step, name
        self._size = 0

    async def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise _failed(
                self._step,
                self._name,
                f"the archive is over {self._limit} bytes",
                "raise the option max_archive if that is right",
            )
        await asyncio.to_thread(self._append, data)

    def _append(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise _unkept(self._step, self._name, "local disk", error) from error


class _Sink(Backend):
    """Takes files, into a temporary one or nowhere, and has none to show. `digest`: of the first `head` bytes."""

    def __init__(self, endpoint: str, spooling: _Spooling | None, *, head: int = 0) -> None:
        self.endpoint, self.head, self.digest = endpoint, head, hashlib.sha256()
        self.capabilities = Capabilities()
        self._spooling = spooling

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def stat(self, path: str) -> Entry:
        raise self._unsupported("stat", path)

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        if path:
            raise self._unsupported("list", path)
        yield []

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        raise self._unsupported("read", path)

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        return _SinkWriter(path, self._spooling, self)

    async def delete(self, path: str) -> None:
        raise self._unsupported("delete", path)


class _SinkWriter(Writer):
    def __init__(self, path: str, spooling: _Spooling | None, sink: _Sink) -> None:
        self._path, self._spooling, self._sink = path, spooling, sink
        self._size = 0

    async def write(self, data: bytes) -> None:
        if self._size < self._sink.head:
            self._sink.digest.update(data[: self._sink.head - self._size])
        self._size += len(data)
        if self._spooling is not None:
            await self._spooling.write(data)

    async def commit(self, expect: Expect) -> Entry:
        return Entry(path=self._path, size=self._size)

    async def abort(self) -> None:
        pass


def as_one(receipts: Sequence[Receipt], source: str, target: str) -> Mapping[str, Any]:
    """One receipt, as JSON, for the folder of files that an archive became."""
    members = [{"target": each.target, "size": each.size, "sha256": each.sha256} for each in receipts]
    found: dict[str, Any] = {
        "source": source,
        "target": target,
        "size": sum(each.size for each in receipts),
        "method": "unpacked",
        "verified": "size" if all(each.verified != "none" for each in receipts) else "none",
        "atomic": all(each.atomic for each in receipts),
        "finished": datetime.now(UTC).isoformat(),
        "members": members,
    }
    if receipts:
        found |= {"read_size": receipts[0].read_size, "read_sha256": receipts[0].read_sha256}
    return found
