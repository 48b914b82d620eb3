"""Endpoints that are real: folders, servers over them, and buckets.

Whoever watches looks at them after every call of an engine, past it. A server asks of every request what becomes of it.
"""

from __future__ import annotations

import os
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import MotoRequestHandler
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

from crossdock.storage.base import Backend, Entry, Expect, Writer
from crossdock.storage.layers import Layer, LayeredWriter
from crossdock.storage.memory import _Node
from crossdock.storage.staging import is_temporary, temporary_path
from crossdock.testing.fault_ftp import FaultyFtpServer
from crossdock.testing.fault_sftp import FaultySftpServer, SftpFault
from crossdock.testing.ftp_session import Session
from tests.histories.process import Process
from tests.servers.moto_server import OneAtATime
from tests.servers.server import LOOPBACK

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["S3", "Bucket", "Folder", "Ftp", "Sftp", "Shelf", "Wire"]

T = TypeVar("T")


class Wire:
    """Whose requests they are that a server gets just now."""

    def __init__(self) -> None:
        self.process: Process | None = None

    def meets(self) -> str | None:
        """drop: the connection is cut instead of doing it; lost: it is done, and then cut. None: it is served."""
        return None if self.process is None else self.process.request()


class Shelf(ABC):
    """An endpoint past every engine. `opened`: a backend for it. `shows_parts`: of what is being written there."""

    def __init__(self, endpoint: str, heard: Callable[[Any, str, bytes | None, bytes | None], None]) -> None:
        self.endpoint, self.heard = endpoint, heard
        self.opened: Callable[[], Backend] = lambda: (_ for _ in ()).throw(AssertionError(endpoint))
        self.listed: Callable[[Any, str, bytes], None] = lambda place, path, data: None
        self.by_hand = self.swaps = self.shows_parts = False
        self._last: dict[str, _Node] = {}
        self._hearing = False

    @abstractmethod
    def _now(self) -> dict[str, _Node]: ...

    @abstractmethod
    def _put(self, path: str, data: bytes, modified: datetime) -> None: ...

    @abstractmethod
    def _take(self, path: str) -> None: ...

    def _view(self) -> dict[str, _Node]:
        """What a swap has put aside counts as what is there: the next attempt brings it back."""
        found = self._now()
        if self.shows_parts:
            found = {path: node for path, node in found.items() if node.data}
        if self.swaps:
            for path in [path for path in self._last if path not in found and not is_temporary(path)]:
                begins = temporary_path(path, "").removesuffix(".part")
                aside = next((one for one in found if one.startswith(begins) and one.endswith(".old")), None)
                if aside is not None:
                    found[path] = found[aside]
        return found

    def look(self) -> None:
        """Tell what has happened since. What is gone from one name and has come to another was moved."""
        if self._hearing:
            return
        before, now = self._last, self._view()
        self._last = now
        came = [path for path in now if path not in before or _told(now[path]) != _told(before[path])]
        self._hearing = True
        try:
            for path in [path for path in before if path not in now]:
                data = before[path].data
                self.heard(self, path, data, None)
                if (to := next((each for each in came if now[each].data == data), None)) is not None:
                    came.remove(to)
                    self.heard(self, to, before[to].data if to in before else None, data)
            for path in came:
                self.heard(self, path, before[path].data if path in before else None, now[path].data)
        finally:
            self._hearing = False

    def _by_hand(self, action: Callable[[], None]) -> None:
        self.look()
        self.by_hand = True
        try:
            action()
            self.look()
        finally:
            self.by_hand = False

    def names(self) -> list[str]:
        self.look()
        return sorted(path for path in self._last if not is_temporary(path))

    def left(self) -> list[str]:
        return sorted(path for path in self._now() if is_temporary(path))

    def parts(self) -> list[str]:
        """What of a file was written, and stayed so."""
        return sorted(path for path, node in self._now().items() if self.shows_parts and not node.data)

    def node(self, path: str) -> _Node | None:
        self.look()
        return self._last.get(path)

    def is_folder(self, path: str) -> bool:
        return any(each.startswith(f"{path}/") for each in self._last)

    def fits(self, path: str) -> bool:
        self.look()
        parts = path.split("/")
        return not self.is_folder(path) and not any("/".join(parts[:n]) in self._last for n in range(1, len(parts)))

    def put(self, path: str, data: bytes, modified: datetime) -> None:
        self._by_hand(lambda: self._put(path, data, modified))

    def take(self, path: str) -> None:
        self._by_hand(lambda: self._take(path))

    def move(self, path: str, to: str) -> None:
        node = self.node(path)
        assert node is not None
        self.take(path)
        self.put(to, node.data, node.modified)

    def tidy(self) -> None:
        """Remove the folders in which nothing lies."""


def _told(node: _Node) -> tuple[bytes, str]:
    """What has a new name for its own is another file, though it is put there as it was."""
    return node.data, node.etag


class Folder(Shelf):
    def __init__(
        self, endpoint: str, heard: Callable[[Any, str, bytes | None, bytes | None], None], root: Path
    ) -> None:
        super().__init__(endpoint, heard)
        self.root = root
        root.mkdir(parents=True)
        self._beside = root.parent / f"{root.name}.new"

    def _now(self) -> dict[str, _Node]:
        while True:
            found = {}
            try:
                for folder, _, names in os.walk(self.root):
                    for name in names:
                        path = Path(folder) / name
                        there = path.stat()
                        modified = datetime.fromtimestamp(there.st_mtime, UTC)
                        node = _Node(path.read_bytes(), modified, etag=str(there.st_ino))
                        found[path.relative_to(self.root).as_posix()] = node
            except FileNotFoundError:
                continue  # By a thread of an engine, in this moment.
            return found

    def _put(self, path: str, data: bytes, modified: datetime) -> None:
        to = self.root / path
        to.parent.mkdir(parents=True, exist_ok=True)
        self._beside.write_bytes(data)
        os.utime(self._beside, (modified.timestamp(), modified.timestamp()))
        self._beside.rename(to)

    def _take(self, path: str) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            (self.root / path).unlink()

    def is_folder(self, path: str) -> bool:
        return (self.root / path).is_dir()

    def tidy(self) -> None:
        for folder in sorted((path for path in self.root.rglob("*") if path.is_dir()), reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()


class Bucket(Shelf):
    """At moto's server in this process. `versions`: the bucket keeps them."""

    def __init__(
        self,
        endpoint: str,
        heard: Callable[[Any, str, bytes | None, bytes | None], None],
        name: str,
        *,
        versions: bool,
    ) -> None:
        super().__init__(endpoint, heard)
        self.name = name
        self._moto: Any = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        self._moto.create_bucket(name, "us-east-1")
        if versions:
            self._moto.put_bucket_versioning(name, "Enabled")

    def _now(self) -> dict[str, _Node]:
        found = {}
        for path, key in list(self._moto.buckets[self.name].keys.items()):
            if type(key).__name__ == "FakeKey":
                modified = key.last_modified.replace(tzinfo=UTC)
                found[path] = _Node(key.value, modified, etag=f"{modified} {key.version_id}")
        return found

    def _put(self, path: str, data: bytes, modified: datetime) -> None:
        self._moto.put_object(self.name, path, data)

    def _take(self, path: str) -> None:
        self._moto.delete_object(self.name, path)

    def left(self) -> list[str]:
        return [
            *super().left(),
            *(f"upload of {each.key_name}" for each in self._moto.buckets[self.name].multiparts.values()),
        ]

    def fits(self, path: str) -> bool:
        return True

    def is_folder(self, path: str) -> bool:
        return False


class Watched(Layer):
    """Who watches looks after each call."""

    def __init__(self, inner: Backend, shelf: Shelf) -> None:
        super().__init__(inner)
        self.shelf = shelf

    async def _call(self, operation: str, path: str, action: Callable[[], Awaitable[T]], *, repeatable: bool) -> T:
        try:
            return await action()
        finally:
            self.shelf.look()

    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        async with aclosing(self.inner.scan(path, recursive=recursive)) as pages:
            async for page in pages:
                for entry in page:
                    if entry.kind == "file" and (node := self.shelf.node(entry.path)) is not None:
                        self.shelf.listed(self.shelf, entry.path, node.data)
                yield page

    def _writer(self, writer: Writer, path: str) -> Writer:
        return _Writer(writer, self.shelf)


class _Writer(LayeredWriter):
    def __init__(self, inner: Writer, shelf: Shelf) -> None:
        super().__init__(inner)
        self._shelf = shelf

    async def _looked(self, action: Awaitable[T]) -> T:
        try:
            return await action
        finally:
            self._shelf.look()

    async def write(self, data: bytes) -> None:
        await self._looked(self.inner.write(data))

    async def seal(self, expect: Expect) -> bytes | None:
        return await self._looked(self.inner.seal(expect))

    async def commit(self, expect: Expect) -> Entry:
        return await self._looked(self.inner.commit(expect))

    async def abort(self) -> None:
        await self._looked(self.inner.abort())

    async def suspend(self) -> None:
        await self._looked(self.inner.suspend())

    async def leave(self) -> None:
        await self._looked(self.inner.leave())


# Servers


class Sftp(FaultySftpServer):
    def __init__(self, folder: Path, wire: Wire, *, without: frozenset[str] = frozenset()) -> None:
        super().__init__(folder, without=without)
        self.wire = wire

    def due(self, request: str, end: int) -> SftpFault | None:
        how = self.wire.meets()
        return None if how is None else SftpFault(request=request, how="drop" if how == "drop" else "lost")


class _Session(Session):
    _lost = False

    async def _obey(self, line: bytes) -> None:
        assert isinstance(self.server, Ftp)
        how = self.server.wire.meets()
        if how == "drop":
            raise ConnectionResetError
        self._lost = how == "lost"
        await super()._obey(line)

    async def say(self, reply: str) -> None:
        if self._lost and reply[0] != "1":
            raise ConnectionResetError
        await super().say(reply)

    def close(self) -> None:
        super().close()
        if self._data is not None and self._data.done() and not self._data.cancelled():
            self._data.result()[1].close()


class Ftp(FaultyFtpServer):
    session = _Session

    def __init__(self, folder: Path, wire: Wire, *, refuses_to_replace: bool = False) -> None:
        super().__init__(folder)
        self.wire, self.refuses_to_replace = wire, refuses_to_replace


class _Quiet(MotoRequestHandler):
    def log(self, *_: object) -> None:
        pass


class S3(OneAtATime):
    """moto's server, in a thread: `with S3(wire) as server`, at `server.url`."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self.wire = wire
        self._server = make_server(LOOPBACK, 0, self, threaded=True, request_handler=_Quiet)
        self.url = f"http://{LOOPBACK}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> S3:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        how = self.wire.meets()
        answer: Iterable[bytes] = []
        if how != "drop":
            answer = list(super().__call__(environ, start_response))
        if how is not None:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        return answer
