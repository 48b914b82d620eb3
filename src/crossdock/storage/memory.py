"""Storage in this process's memory: for tests, and as the shortest example of a backend."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, Self
from urllib.parse import SplitResult

from crossdock.errors import AlreadyExists, NotADirectory, NotAFile, NotFound, PermissionDenied, SourceChanged
from crossdock.storage.base import Backend, Capabilities, Entry, Reader, WriteOptions, Writer
from crossdock.storage.settings import EndpointSettings
from crossdock.storage.staging import StagedWriter, Stored, staged_path, token_of

__all__ = ["MemoryBackend", "MemorySettings"]

_CHUNK = 256 * 1024
_PAGE = 1000


@dataclass
class _Node:
    data: bytes = b""
    modified: datetime = field(default_factory=lambda: datetime.now(UTC))
    etag: str = field(default_factory=lambda: secrets.token_hex(8))


class MemoryBackend(Backend):
    """A tree of folders and files that lives as long as the backend."""

    def __init__(self, endpoint: str = "memory") -> None:
        self.endpoint = endpoint
        self.capabilities = Capabilities(
            rename=True,
            directories=True,
            atomic_write=True,
            create_new=True,
            read_offset=True,
            resume_write=True,
            server_copy=True,
            pinned_reads=True,
            mtime_precision=timedelta(microseconds=1),
            max_connections=64,
        )
        self.store = f"memory:{id(self)}"
        self._files: dict[str, _Node] = {}
        self._staged: dict[str, bytearray] = {}
        self._folders: set[str] = {""}

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def _entry(self, path: str, node: _Node) -> Entry:
        return Entry(path=path, size=len(node.data), modified=node.modified, etag=node.etag)

    def _file(self, path: str, operation: str) -> _Node:
        if path in self._folders:
            raise self.error(NotAFile, operation, path, "it is a folder")
        if path not in self._files:
            raise self.error(NotFound, operation, path, "no such file")
        return self._files[path]

    def _changed(self, operation: str, path: str) -> SourceChanged:
        reason = "the file is no longer the one that was listed"
        return SourceChanged.at(operation, self.endpoint, path, reason, hint="list it again")

    async def stat(self, path: str) -> Entry:
        if path in self._folders:
            return Entry(path=path, kind="dir")
        return self._entry(path, self._file(path, "stat"))

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        if recursive:
            raise self._unsupported("list recursively", path)
        if path in self._files:
            raise self.error(NotADirectory, "list", path, "it is a file")
        if path not in self._folders:
            raise self.error(NotFound, "list", path, "no such folder")
        prefix = path + "/" if path else ""

        def direct(name: str) -> bool:
            return name.startswith(prefix) and name != path and "/" not in name[len(prefix) :]

        found = [Entry(path=name, kind="dir") for name in self._folders if direct(name)]
        found += [self._entry(name, node) for name, node in self._files.items() if direct(name)]
        found += [Entry(path=name, size=len(data)) for name, data in self._staged.items() if direct(name)]
        for start in range(0, len(found), _PAGE):
            yield found[start : start + _PAGE]

    async def begin_read(self, path: str, *, offset: int = 0, pin: Entry | None = None) -> Reader:
        node = self._file(path, "read")
        entry = self._entry(path, node)
        if pin is not None and pin.fingerprint != entry.fingerprint:
            raise self._changed("read", path)
        return _MemoryReader(entry, node.data, offset)

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        if path in self._folders:
            raise self.error(NotAFile, "write", path, "a folder has this name")
        if not options.overwrite and path in self._files:
            raise self.error(AlreadyExists, "write", path, "the file exists")
        self._make_parents(path, "write")
        return _MemoryWriter(self, path, options)

    def _make_parents(self, path: str, operation: str) -> None:
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder in self._files:
                raise self.error(NotADirectory, operation, path, f"{folder!r} is a file")
            self._folders.add(folder)

    async def delete(self, path: str) -> None:
        if path in self._folders:
            raise self.error(NotAFile, "delete", path, "it is a folder", hint="remove the folder instead")
        self._files.pop(path, None)
        # A listing shows what is staged, too.
        self._staged.pop(path, None)

    async def rename(self, path: str, target: str, *, overwrite: bool = False) -> None:
        self._file(path, "rename")
        self._check_target(target, "rename", overwrite)
        self._make_parents(target, "rename")
        self._files[target] = self._files.pop(path)

    def _check_target(self, path: str, operation: str, overwrite: bool) -> None:
        if path in self._folders:
            raise self.error(NotAFile, operation, path, "a folder has this name")
        if not overwrite and path in self._files:
            raise self.error(AlreadyExists, operation, path, "the file exists")

    def address(self, path: str) -> str:
        return path

    async def server_copy(self, address: str, path: str, options: WriteOptions, *, pin: Entry | None = None) -> Entry:
        node = self._file(address, "copy")
        if pin is not None and pin.fingerprint != self._entry(address, node).fingerprint:
            raise self._changed("copy", address)
        self._check_target(path, "copy", options.overwrite)
        self._make_parents(path, "copy")
        self._files[path] = _Node(node.data, options.modified or node.modified)
        return self._entry(path, self._files[path])

    async def make_dir(self, path: str) -> None:
        if path in self._files:
            raise self.error(NotADirectory, "mkdir", path, "a file has this name")
        self._make_parents(path + "/", "mkdir")

    async def remove_dir(self, path: str) -> None:
        if path in self._files:
            raise self.error(NotADirectory, "rmdir", path, "it is a file")
        if any(name.startswith(path + "/") for name in (*self._files, *self._folders)):
            raise self.error(PermissionDenied, "rmdir", path, "the folder is not empty")
        self._folders.discard(path)

    async def discard(self, checkpoint: bytes) -> None:
        path = staged_path(checkpoint)
        self._staged.pop(path, None)
        self._files.pop(path, None)  # What was written under such a name: elsewhere, a temporary is a file.

    def leftover(self, path: str, attempt: str) -> bytes | None:
        return token_of(path, attempt)

    async def is_staged(self, checkpoint: bytes) -> bool | None:
        return staged_path(checkpoint) in self._staged


class _MemoryReader(Reader):
    def __init__(self, entry: Entry, data: bytes, offset: int) -> None:
        self.entry, self._data, self._offset = entry, data, offset

    async def read(self) -> bytes:
        chunk = self._data[self._offset : self._offset + _CHUNK]
        self._offset += len(chunk)
        return chunk

    async def close(self) -> None:
        pass


class _MemoryWriter(StagedWriter):
    def __init__(self, backend: MemoryBackend, path: str, options: WriteOptions) -> None:
        super().__init__(backend.endpoint, path, options)
        self._backend = backend
        if len(backend._staged.get(self.temporary, b"")) < self.offset:
            raise self._gone("resume")
        del backend._staged.setdefault(self.temporary, bytearray())[self.offset :]

    def _gone(self, operation: str) -> NotFound:
        """Whoever has taken the transfer over sweeps up what earlier attempts have staged."""
        reason = "the staged bytes are gone"
        return NotFound(reason, operation=operation, endpoint=self.endpoint, path=self.path, hint="start it again")

    def _bytes(self) -> bytearray:
        if self.temporary not in self._backend._staged:
            raise self._gone("write")
        return self._backend._staged[self.temporary]

    async def _append(self, data: bytes) -> None:
        self._bytes().extend(data)

    async def _seal(self) -> Stored:
        return Stored(len(self._bytes()))

    async def _publish(self, stored: Stored) -> Entry:
        self._backend._check_target(self.path, "write", self.options.overwrite)
        node = _Node(bytes(self._bytes()))
        del self._backend._staged[self.temporary]
        if self.options.modified is not None:
            node.modified = self.options.modified
        self._backend._files[self.path] = node
        return self._backend._entry(self.path, node)

    async def _remove(self) -> None:
        self._backend._staged.pop(self.temporary, None)

    def _safe_size(self) -> int:
        return len(self._backend._staged.get(self.temporary, b""))


class MemorySettings(EndpointSettings):
    """Files in memory, gone when the process ends."""

    type: Literal["memory"] = "memory"

    @classmethod
    def from_url(cls, url: SplitResult) -> tuple[Self, str]:
        return cls(), url.path.lstrip("/")

    def backend(self, name: str) -> MemoryBackend:
        return MemoryBackend(name)
