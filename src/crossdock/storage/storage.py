"""`Storage`: an open endpoint as the rest of the code sees it. Wide to call, final, over any `Backend`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Self, final

from crossdock.errors import (
    InvalidPath,
    NotAFile,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    StorageError,
    Unsupported,
)
from crossdock.storage.base import Backend, Capabilities, Entry, Expect, Reader, WriteOptions, Writer, distinct
from crossdock.storage.staging import TEMPORARY_MARK, is_temporary

__all__ = ["Storage"]

_WALK_AHEAD = 8
"""Folders listed ahead of the one being yielded, so that a far server's latency is paid once, not per folder."""


@final
class Storage:
    """An open endpoint. `async with Storage(backend) as storage:` opens and closes it.

    Every method raises the errors of `crossdock.errors`; a path that cannot exist here is `InvalidPath`.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @property
    def endpoint(self) -> str:
        return self.backend.endpoint

    @property
    def capabilities(self) -> Capabilities:
        return self.backend.capabilities

    async def __aenter__(self) -> Self:
        try:
            await self.backend.open()
        except BaseException:
            await self.backend.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.backend.close()

    def checked(self, path: str, operation: str) -> str:
        """The path as the backend may see it. Raises `InvalidPath` for what could escape, alias or confuse."""
        if "\0" in path:
            raise self._invalid(operation, path, "a NUL in the name")
        try:
            path.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise self._invalid(operation, path, "a lone surrogate, which stands for no byte") from error
        if not self.capabilities.directories or not path:
            return path
        for part in path.split("/"):
            if part in ("", ".", ".."):
                what = f"the component {part!r}" if part else "an empty component"
                # What is written has its name from elsewhere: a store without folders, say.
                hint = None if operation == "write" else "write the path from the endpoint's root on, without it"
                raise self._invalid(operation, path, f"{what} in the path", hint)
        return path

    def _invalid(self, operation: str, path: str, reason: str, hint: str | None = None) -> StorageError:
        hint = hint or "give it another name in the rule or command that moves it"
        return self.backend.error(InvalidPath, operation, path, reason, hint=hint)

    async def stat(self, path: str) -> Entry:
        return await self.backend.stat(self.checked(path, "stat"))

    async def exists(self, path: str) -> bool:
        """False only if the endpoint says that there is no such name; every other failure is raised."""
        try:
            await self.stat(path)
        except NotFound:
            return False
        return True

    async def check_store(self) -> None:
        """Raises `NotFound` if there is no such store (bucket) at all, which a folder that is missing does not say."""
        with suppress(PermissionDenied):
            async with aclosing(self.backend.scan("")) as pages:
                await anext(pages, None)

    async def scan(self, path: str = "", *, temporaries: bool = False) -> AsyncGenerator[Entry]:
        """The direct children of a folder, in no order. Close it (`contextlib.aclosing`) if you stop early.

        `temporaries`: also show what unfinished writes of crossdock have staged.
        """
        async with aclosing(self.backend.scan(self.checked(path, "list"))) as pages:
            async for page in pages:
                for entry in page:
                    if temporaries or not is_temporary(entry.path):
                        yield entry

    async def walk(self, path: str = "", *, without: Callable[[str], bool] | None = None) -> AsyncGenerator[Entry]:
        """All that is below a folder but folders, in ascending order of the paths' code points.

        `without` is asked about a folder below it that may not be listed: True leaves it out, else its error is raised.
        """
        async with aclosing(self.walk_pages(path, without=without)) as pages:
            async for page in pages:
                for entry in page:
                    yield entry

    def walk_pages(
        self, path: str = "", *, without: Callable[[str], bool] | None = None
    ) -> AsyncGenerator[list[Entry]]:
        """`walk`, many entries at a time.

        Memory: one page of a store that lists recursively, else the folders on the way down and a few ahead.
        """
        path = self.checked(path, "list")
        if not self.capabilities.recursive_scan:
            return self._walk_folders(path, without)
        return self._walk_keys(path) if without is None else self._walk_both_ways(path, without)

    async def _walk_both_ways(self, path: str, without: Callable[[str], bool]) -> AsyncGenerator[list[Entry]]:
        """All at once while that goes well; then folder by folder, from where it was."""
        last = ""
        try:
            async with aclosing(self._walk_keys(path)) as pages:
                async for page in pages:
                    yield page
                    last = page[-1].path if page else last
            return
        except PermissionDenied:
            pass
        async with aclosing(self._walk_folders(path, without)) as pages:
            async for page in pages:
                if rest := [entry for entry in page if entry.path > last]:
                    yield rest

    async def _walk_keys(self, path: str) -> AsyncGenerator[list[Entry]]:
        last = ""
        async with aclosing(self.backend.scan(path, recursive=True)) as pages:
            async for page in pages:
                before, doubled = last, False
                for entry in page:
                    doubled = doubled or entry.path == last
                    if entry.path < last:
                        raise self.backend.error(
                            ProtocolViolation,
                            "list",
                            entry.path,
                            "the store lists its keys out of order",
                            hint="set 'listing: folders' at this endpoint",
                        )
                    last = entry.path
                if doubled:
                    page = [entry for entry in distinct(page) if entry.path != before]
                yield _without_temporaries(page)

    async def _walk_folders(
        self, path: str, without: Callable[[str], bool] | None = None
    ) -> AsyncGenerator[list[Entry]]:
        ahead: dict[str, asyncio.Task[list[Entry]]] = {}
        pending: list[Entry] = []

        def order(entry: Entry) -> str:
            return entry.path + "/" if entry.kind == "dir" else entry.path

        async def listed(folder: str) -> list[Entry]:
            found: list[Entry] = []
            try:
                async with aclosing(self.backend.scan(folder)) as pages:
                    async for page in pages:
                        found += _without_temporaries(page)
            except (InvalidPath, PermissionDenied):
                if without is None or folder == path or not without(folder):
                    raise
                return []
            except NotFound:
                # Removed since its name was read? Nothing else may make the listing shorter.
                if folder == path or await self._is_named(folder, path):
                    raise
                return []
            found.sort(key=order, reverse=True)
            return distinct(found)

        def look_ahead() -> None:
            """Folders due next, the very next among them, are listed while the files before them are being moved."""
            for entry in reversed(pending):
                if len(ahead) >= _WALK_AHEAD:
                    break
                if entry.kind == "dir" and entry.path not in ahead:
                    ahead[entry.path] = asyncio.ensure_future(listed(entry.path))

        try:
            pending = await listed(path)
            look_ahead()
            while pending:
                files: list[Entry] = []
                while pending and pending[-1].kind != "dir":
                    files.append(pending.pop())
                if files:
                    yield files
                    continue
                pending.extend(await ahead.pop(pending.pop().path))
                look_ahead()
        finally:
            for task in ahead.values():
                task.cancel()
            await asyncio.gather(*ahead.values(), return_exceptions=True)

    async def _is_named(self, path: str, top: str) -> bool:
        """Whether the folder above still shows it: of what may not be entered, vsftpd itself says that it is not there.

        `top` is there, or `NotFound` is raised.
        """
        above = path.rpartition("/")[0]
        try:
            async with aclosing(self.backend.scan(above)) as pages:
                return any([entry.path == path async for page in pages for entry in page])
        except NotFound:
            if above == top:
                raise
            return await self._is_named(above, top)

    @asynccontextmanager
    async def read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> AsyncIterator[Reader]:
        """Open for reading; closed when the block ends."""
        path = self.checked(path, "read")
        if offset and not self.capabilities.read_offset:
            raise self._unsupported("read at an offset", path)
        reader = await self.backend.begin_read(path, offset=offset, pin=pin)
        try:
            yield reader
        finally:
            await reader.close()

    async def read_bytes(self, path: str, *, limit: int = 16 * 1024 * 1024) -> bytes:
        """A small file, whole. Larger than `limit` bytes: `Unsupported`."""
        chunks: list[bytes] = []
        size = 0
        async with self.read(path) as reader:
            while chunk := await reader.read():
                size += len(chunk)
                if size > limit:
                    raise self.backend.error(Unsupported, "read", path, f"larger than {limit} bytes", hint="stream it")
                chunks.append(chunk)
        return b"".join(chunks)

    @asynccontextmanager
    async def write(self, path: str, options: WriteOptions | None = None) -> AsyncIterator[Writer]:
        """Start a file. What is not committed (or suspended) when the block ends is aborted."""
        writer = await self.begin_write(path, options or WriteOptions())
        try:
            yield writer
        finally:
            await writer.abort()

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        """Like `write`, for callers that end the writer themselves."""
        path = self.checked(path, "write")
        if not path or is_temporary(path):
            raise self._invalid(
                "write", path, "the name is reserved for crossdock's own temporaries" if path else "no name"
            )
        self._may_write(path, options)
        if options.modified is not None and (kept := self.capabilities.kept(options.modified)) is not options.modified:
            options = replace(options, modified=kept)
        if options.resume is None:
            return await self.backend.begin_write(path, options)
        with self._reading_token("resume", path):
            return await self.backend.begin_write(path, options)

    def _may_write(self, path: str, options: WriteOptions) -> None:
        if not options.overwrite and not self.capabilities.create_new:
            raise self._unsupported("create without replacing", path)
        if options.resume is not None and not self.capabilities.resume_write:
            raise self._unsupported("resume a write", path)

    async def write_bytes(self, path: str, data: bytes, options: WriteOptions | None = None) -> Entry:
        options = replace(options or WriteOptions(), size=len(data))
        async with self.write(path, options) as writer:
            if data:
                await writer.write(data)
            return await writer.commit(Expect(size=len(data)))

    async def delete(self, path: str) -> None:
        await self.backend.delete(self.checked(path, "delete"))

    async def rename(self, path: str, target: str, *, overwrite: bool = False) -> None:
        path, target = self.checked(path, "rename"), self.checked(target, "rename")
        if not path or not target:
            raise self.backend.error(NotAFile, "rename", "", "it is the endpoint's root")
        if path == target and overwrite and (await self.stat(path)).kind != "dir":
            return  # Where it steps aside for itself, it could be lost.
        await self.backend.rename(path, target, overwrite=overwrite)

    async def server_copy(
        self, source: Storage, path: str, target: str, options: WriteOptions | None = None, *, pin: Entry | None = None
    ) -> Entry:
        """Copy from `source` without moving bytes through here; `can_server_copy` tells whether that is possible."""
        path, target, options = source.checked(path, "copy"), self.checked(target, "copy"), options or WriteOptions()
        if not self.can_server_copy(source):
            raise self._unsupported("copy on the server's side", target)
        self._may_write(target, options)
        try:
            return await self.backend.server_copy(source.backend.address(path), target, options, pin=pin)
        except NotFound:
            # A store does not tell which of the two, and the error names the copy: what is gone says so itself.
            if (await source.backend.stat(path)).kind == "dir":
                # Its name is by now that of others' folder.
                raise source.backend.error(NotFound, "copy", path, "there is no such file any more") from None
            raise

    def can_server_copy(self, source: Storage) -> bool:
        store = self.backend.store
        return self.capabilities.server_copy and store is not None and store == source.backend.store

    async def make_dir(self, path: str) -> None:
        await self.backend.make_dir(self.checked(path, "mkdir"))

    async def remove_dir(self, path: str) -> None:
        if not path:
            raise self.backend.error(PermissionDenied, "rmdir", path, "it is the endpoint's root")
        await self.backend.remove_dir(self.checked(path, "rmdir"))

    async def delete_pinned(self, path: str, pin: Entry) -> None:
        path = self.checked(path, "delete")
        if not self.capabilities.pinned_delete:
            raise self._unsupported("delete a pinned file", path)
        await self.backend.delete_pinned(path, pin)

    async def set_tags(self, path: str, tags: Mapping[str, str], *, pin: Entry) -> None:
        path = self.checked(path, "tag")
        if not self.capabilities.tags:
            raise self._unsupported("tag", path)
        await self.backend.set_tags(path, tags, pin=pin)

    async def digests(self, paths: Sequence[str], algorithm: str) -> list[str]:
        """Digests of small files' content, as lower-case hex; raises if any of them cannot be had.

        Quickest where the files of one folder stand together.
        """
        paths = [self.checked(path, "hash") for path in paths]
        if not paths:
            return []
        if algorithm not in self.capabilities.hashes:
            raise self._unsupported(f"hash with {algorithm}", paths[0])
        return await self.backend.digests(paths, algorithm)

    async def discard(self, checkpoint: bytes) -> None:
        with self._reading_token("discard"):
            await self.backend.discard(checkpoint)

    def leftover(self, path: str, attempt: str) -> bytes | None:
        return self.backend.leftover(self.checked(path, "discard"), attempt)

    async def is_staged(self, checkpoint: bytes) -> bool | None:
        with self._reading_token("stat"):
            return await self.backend.is_staged(checkpoint)

    @contextmanager
    def _reading_token(self, operation: str, path: str = "") -> Iterator[None]:
        """A token of another kind of endpoint, which had this one's name before, is `Unsupported`."""
        try:
            yield
        except (ValueError, LookupError, TypeError) as error:
            reason = f"what is staged is of another kind of endpoint: {type(error).__name__}: {error}"
            raise self.backend.error(Unsupported, operation, path, reason, hint="start it again") from error

    def _unsupported(self, operation: str, path: str) -> StorageError:
        return self.backend.error(Unsupported, operation, path, "this endpoint cannot do that")


def _without_temporaries(page: list[Entry]) -> list[Entry]:
    return [entry for entry in page if TEMPORARY_MARK not in entry.path or not is_temporary(entry.path)]
