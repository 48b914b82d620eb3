"""One attempt at moving one file: read → transform → digest → write → look at the source again → verify → publish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

from crossdock.errors import (
    AlreadyExists,
    Conflict,
    ConnectionFailed,
    CrossdockError,
    IntegrityError,
    LeaseLost,
    LedgerError,
    NoSpace,
    NotAFile,
    NotFound,
    SourceChanged,
    StorageError,
    TransformFailed,
    Truncated,
    Unsupported,
    located,
    shown,
)
from crossdock.storage.base import Entry, Expect, Reader, WriteOptions, Writer
from crossdock.storage.storage import Storage
from crossdock.storage.waiting import to_its_end
from crossdock.transfer.chain import Chain
from crossdock.transfer.options import CopyOptions, Staged
from crossdock.transfer.pipe import Tally, digest_of, pipe
from crossdock.transfer.receipt import Receipt
from crossdock.transfer.same_file import refuse_itself

__all__ = ["CopyOptions", "Staged", "copy", "refuse_folder"]

_OF_THE_BYTES = {"content-type", "content-encoding"}
"""Attributes that are no longer true of what a transform made."""


async def copy(
    source: Storage,
    path: str,
    target: Storage,
    to: str,
    *,
    pin: Entry | None = None,
    options: CopyOptions | None = None,
    progress: Callable[[int], None] | None = None,
    on_checkpoint: Callable[[bytes], None] | None = None,
    on_staged: Callable[[Staged], Awaitable[None]] | None = None,
) -> Receipt:
    """Move one file, once. Either it is at `to` in full when this returns, or nothing of it is there.

    `pin`: the entry as it was listed; if the file is no longer that one, `SourceChanged`. `progress` is called with
    the number of the source's bytes that each chunk added. `on_checkpoint`: if the attempt fails on a retryable error
    and the target can resume, what is staged is kept, and its token handed over; the caller resumes or discards it.
    `on_staged` is awaited last before the file is published (with a digest), when something is staged that `attempt`
    does not name, and before what was announced is removed after all (both without one); if it raises, nothing is
    published. A copy by the store itself has no such moment.

    Raises `Truncated`, `IntegrityError`, `SourceChanged`, `Conflict`, `TransformFailed`, and what the endpoints raise.
    """
    options = options or CopyOptions()
    attempt = _Attempt(source, path, target, to, options, progress or (lambda _: None), on_checkpoint, on_staged)
    closely = options.takes_source or bool(options.transforms) or not target.capabilities.atomic_write
    beside, taken = WriteOptions(attempt=options.attempt, staged=attempt._staged), options.version_of
    await refuse_itself(source, path, target, taken or to, beside, closely=closely or taken is not None)
    if any(step.many for step in options.transforms):
        raise ValueError("a step makes many files of one: see crossdock.transfer.unpack")
    if options.server_side and not options.transforms and target.can_server_copy(source):
        try:
            return await attempt.on_the_server(pin)
        except Unsupported as error:
            attempt.notes.append(f"the store did not copy it itself: {error.reason}")
    async with source.read(path, pin=pin) as reader:
        return await attempt.stream(reader)


def refuse_folder(target: Storage, there: Entry) -> None:
    """Raise `NotAFile`: a folder is in a file's place by mistake, and no file that was to be kept."""
    if there.kind == "dir":
        raise target.backend.error(NotAFile, "write", there.path, "a folder has this name")


class _Attempt:
    def __init__(
        self,
        source: Storage,
        path: str,
        target: Storage,
        to: str,
        options: CopyOptions,
        progress: Callable[[int], None],
        on_checkpoint: Callable[[bytes], None] | None,
        on_staged: Callable[[Staged], Awaitable[None]] | None,
    ) -> None:
        self.source, self.path, self.target, self.to = source, path, target, to
        self.options, self.progress = options, progress
        self.on_checkpoint, self.on_staged = on_checkpoint, on_staged
        self.started = time.monotonic()
        self.notes: list[str] = []
        self.token: bytes | None = None
        self.announced = False
        """`on_staged` was told that publishing is next, and what to look for."""
        self.publishing = False
        self.taken: Tally | None = None
        """Of the source, where transforms change it."""

    @property
    def names(self) -> str:
        return f"{located(self.source.endpoint, self.path)} → {located(self.target.endpoint, self.to)}"

    async def stream(self, reader: Reader) -> Receipt:
        entry = reader.entry
        tally, whole = Tally(), False
        try:
            writer = await self._begin(entry)
        except AlreadyExists as error:
            await self._drain(reader, tally.feed)
            return await self._present(entry, tally, error)
        try:
            await self._move(reader, writer, tally)
            whole = True
            digest = await tally.sha256()
            expect = Expect(size=tally.size, digests={"sha256": digest})
            # Closed and on the disk first: what a server loses before that would look as if it had been published.
            self.token = await writer.seal(expect)
            await self._announce(Staged(token=self.token, size=tally.size, sha256=digest))
            self.publishing = True
            stored = await writer.commit(expect)
        except AlreadyExists as error:
            await to_its_end(self._withdraw(writer))
            # Where it is written in place, that is said at the first byte.
            return await self._present(entry, tally if whole else await self._read(entry), error)
        except CrossdockError as error:
            await to_its_end(self._give_up(writer, error))
            raise
        except BaseException as stopped:
            try:
                if self.publishing and self.on_staged is not None:
                    # Cancelled: whether it was published is for the next attempt to find out, as after a crash.
                    await to_its_end(writer.leave())
                else:
                    await to_its_end(self._withdraw(writer))
            except CrossdockError as failed:
                # Raised, it would look like the failure of one file to whoever is to stop.
                stopped.add_note(f"cleaning up failed as well: {failed}")
            raise
        return await self._receipt(entry, stored, tally.size, digest, "stream")

    async def _begin(self, entry: Entry) -> Writer:
        await self._look_first()
        changes = bool(self.options.transforms)
        kept = {name: text for name, text in entry.attributes.items() if not (changes and name in _OF_THE_BYTES)}
        options = WriteOptions(
            size=None if changes else entry.size,
            modified=entry.modified if self.options.keep_modified else None,
            overwrite=not self._decides,
            attributes={**kept, **self.options.attributes},
            resume=None if changes else self.options.resume,
            attempt=self.options.attempt,
            staged=self._staged,
        )
        if options.resume is not None:
            try:
                return await self.target.begin_write(self.to, options)
            except NotFound:
                self.notes.append("what was staged is gone; started from the first byte")
            except Unsupported:
                # As an attempt to resume has shown.
                self.notes.append("the target does not resume writes; started from the first byte")
            options = replace(options, resume=None)
        return await self.target.begin_write(self.to, options)

    async def _staged(self, token: bytes) -> None:
        if self.on_staged is not None:
            await self.on_staged(Staged(token=token))

    @property
    def _decides(self) -> bool:
        """The target itself is to refuse what exists."""
        return not self.options.overwrite and self.target.capabilities.create_new

    async def _look_first(self) -> None:
        """Where the target cannot refuse to replace, look before writing, and say so."""
        if self.options.overwrite or self.target.capabilities.create_new:
            return
        with suppress(NotFound):
            refuse_folder(self.target, await self.target.stat(self.to))
            raise self.target.backend.error(AlreadyExists, "write", self.to, "the file exists")
        self.notes.append("the target cannot refuse to replace: it was looked at before writing instead")

    async def _move(self, reader: Reader, writer: Writer, tally: Tally) -> None:
        skip = writer.offset

        async def take(chunk: bytes) -> None:
            nonlocal skip
            await tally.feed(chunk)
            if skip:
                skipped = min(skip, len(chunk))
                skip, chunk = skip - skipped, chunk[skipped:]
            if chunk:
                await writer.write(chunk)
                if not self.options.transforms:
                    self.progress(len(chunk))

        if skip:
            self.progress(skip)
        await self._drain(reader, take)
        if not self.options.transforms:
            await self._check_source(reader, tally.size)

    async def _drain(self, reader: Reader, take: Callable[[bytes], Awaitable[None]]) -> None:
        """Everything that the reader gives, changed in flight, to `take`."""
        if not self.options.transforms:
            await pipe(reader, take, depth=self.options.depth)
            return
        self.taken = taken = Tally()
        chain = Chain(self.options.transforms, f"{self.source.endpoint}:{shown(self.path)}")

        async def feed(chunk: bytes) -> None:
            await taken.feed(chunk)
            await chain.feed(chunk, take)
            self.progress(len(chunk))

        try:
            await pipe(reader, feed, depth=self.options.depth)
            # First: transforms are only asked for their judgement of a file that is whole.
            await self._check_source(reader, taken.size)
            await chain.finish(take)
        except TransformFailed as error:
            if await self._changed(reader, taken.size):
                raise self._source_changed() from error
            raise
        finally:
            await to_its_end(chain.close())

    async def _read(self, entry: Entry) -> Tally:
        """All that would have been written."""
        tally = Tally()
        async with self.source.read(self.path, pin=entry) as reader:
            await self._drain(reader, tally.feed)
        return tally

    async def _check_source(self, reader: Reader, size: int) -> None:
        opened = reader.entry
        if opened.size is not None and size < opened.size:
            reason = f"the stream ended after {size} of {opened.size} bytes"
            hint = "run it again; if it ends there each time, ask who runs the server"
            raise Truncated.at("read", self.source.endpoint, self.path, reason, hint=hint)
        if await self._changed(reader, size):
            raise self._source_changed()

    async def _changed(self, reader: Reader, size: int) -> bool:
        """The source is no longer the file that was opened, as far as the endpoint tells."""
        opened = reader.entry
        changed = bool(reader.changed) or (opened.size is not None and size > opened.size)
        if reader.changed is None and not changed and not self.source.capabilities.pinned_reads:
            try:
                now = await self.source.stat(self.path)
            except NotFound:
                return True
            return now.kind == "file" and now.fingerprint != opened.fingerprint
        return changed

    def _source_changed(self) -> SourceChanged:
        return SourceChanged(
            f"copy {self.names}: the source changed while it was being read; nothing was published",
            hint="run it again when its sender has finished",
        )

    async def _give_up(self, writer: Writer, error: CrossdockError) -> None:
        """Clean up, unless the attempt can be resumed and the caller wants to."""
        keep = self.on_checkpoint is not None and error.retryable and not self.options.transforms
        # What is left on a full disk keeps it full, for all the files that wait for room there.
        keep = keep and not isinstance(error, (SourceChanged, IntegrityError, Truncated, NoSpace))
        token = writer.checkpoint() if keep else None
        # The first error is the one that matters; a lost connection cannot be cleaned up from here.
        try:
            if token is not None and self.on_checkpoint is not None:
                await writer.suspend()
                self.on_checkpoint(token)
            elif self.publishing and self.on_staged is not None and isinstance(error, ConnectionFailed):
                # It may have been published: the next attempt finds out.
                await writer.leave()
            else:
                await self._withdraw(writer)
        except StorageError as failed:
            error.not_cleaned_up(failed)
        if writer.left is not None:
            error.not_cleaned_up(writer.left)

    async def _announce(self, staged: Staged) -> None:
        """Cancelled: what became of it is waited for. Who has lost the lease must not leave what nobody knows of."""
        if self.on_staged is None:
            return
        telling = asyncio.ensure_future(self.on_staged(staged))
        try:
            await to_its_end(telling)
        finally:
            # Where the ledger failed, it may have been recorded all the same.
            error = None if telling.cancelled() else telling.exception()
            refused = isinstance(error, LeaseLost) and not error.recorded
            self.announced = staged.token is not None and not refused

    async def _withdraw(self, writer: Writer) -> None:
        """Abort; but while a record says that publishing is next, what is staged is not removed before that is changed.

        Else its being gone would look as if it had been published.
        """
        if self.announced and self.on_staged is not None:
            try:
                await self.on_staged(Staged(token=self.token))
            except LedgerError:
                # Somebody else's by now, or nobody can be told: whoever takes it on cleans up.
                await writer.leave()
                raise
            self.announced = False
        await writer.abort()

    async def _present(self, entry: Entry, tally: Tally, error: AlreadyExists) -> Receipt:
        """The target exists and may not be replaced: a success if it holds exactly these bytes."""
        digest = await tally.sha256()
        try:
            there = await self.target.stat(self.to)
            refuse_folder(self.target, there)
            alike = there.kind == "file" and there.size in (None, tally.size)
            held = await digest_of(self.target, there, depth=self.options.depth) if alike else None
        except NotFound as gone:
            raise IntegrityError(f"copy {self.names}: what was in its place is gone", hint="run it again") from gone
        if held != digest:
            raise Conflict(
                f"copy {self.names}: the target exists with other content", hint="allow overwriting, or move it away"
            ) from error
        self.notes.append("the target already held exactly these bytes")
        return await self._receipt(entry, there, tally.size, digest, "present")

    async def on_the_server(self, pin: Entry | None) -> Receipt:
        entry = pin or await self.source.stat(self.path)
        options = WriteOptions(
            size=entry.size, overwrite=not self._decides, attributes=self.options.attributes, staged=self._staged
        )
        try:
            await self._look_first()
            stored = await self.target.server_copy(self.source, self.path, self.to, options, pin=entry)
        except AlreadyExists as error:
            return await self._present(entry, await self._read(entry), error)
        if entry.size is not None and stored.size is not None and entry.size != stored.size:
            reason = f"copy {self.names}: {entry.size} bytes became {stored.size}"
            raise IntegrityError(reason, hint="run it again; if that does not help, ask who runs the store")
        self.progress(entry.size or 0)
        return await self._receipt(entry, stored, entry.size or 0, stored.digests.get("sha256"), "server")

    async def _receipt(
        self, entry: Entry, stored: Entry, size: int, digest: str | None, method: Literal["stream", "server", "present"]
    ) -> Receipt:
        verified: Literal["digest", "size", "none"] = "size" if stored.size == size else "none"
        if method == "present" or (digest is not None and stored.digests.get("sha256") == digest):
            verified = "digest"
        return Receipt(
            source=f"{self.source.endpoint}:{self.path}",
            target=f"{self.target.endpoint}:{self.to}",
            size=size,
            sha256=digest,
            method=method,
            verified=verified,
            atomic=self.target.capabilities.atomic_write,
            source_entry=entry,
            target_entry=stored,
            finished=datetime.now(UTC),
            seconds=time.monotonic() - self.started,
            notes=tuple(self.notes),
            transforms=tuple(step.name for step in self.options.transforms),
            read_size=self.taken.size if self.taken is not None else None,
            read_sha256=await self.taken.sha256() if self.taken is not None else None,
        )
