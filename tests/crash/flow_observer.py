"""An observer of folders, who sees every file under a final name."""

from __future__ import annotations

import ctypes
import hashlib
import os
import select
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossdock.storage.staging import is_temporary


class Observer:
    """A reader of folders who never looks away: inotify and a look each millisecond.

    Under a final name there must be nothing, or exactly what belongs there; each time that it is put there counts.
    """

    _MOVED_TO, _CREATE = 0x80, 0x100

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watched: dict[int, Path] = {}
        self._expected: dict[Path, dict[Path, str]] = {}
        self._seen: dict[Path, tuple[int, int, int]] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.published: Counter[Path] = Counter()
        self.wrong: list[str] = []
        self._thread = threading.Thread(target=self._watch, name="observer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        os.close(self._fd)

    @contextmanager
    def on(self, root: Path, expected: dict[Path, str]) -> Iterator[None]:
        """Watch what happens below `root`; `expected`: SHA-256 of what each file must hold."""
        with self._lock:
            for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
                number = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), self._MOVED_TO | self._CREATE)
                assert number > 0
                self._watched[number] = folder
            self._expected[root] = expected
        try:
            yield
        finally:
            self.drain()
            with self._lock:
                del self._expected[root]
                for number, folder in list(self._watched.items()):
                    if folder.is_relative_to(root):
                        self._libc.inotify_rm_watch(self._fd, number)
                        del self._watched[number]

    def drain(self) -> None:
        """Returns when everything that has happened so far was looked at."""
        with self._lock:
            self._events()

    def _watch(self) -> None:
        while not self._ended.is_set():
            select.select([self._fd], [], [], 0.001)
            with self._lock:
                self._events()
                for expected in self._expected.values():
                    for path, sha256 in expected.items():
                        self._look(path, sha256)

    def _events(self) -> None:
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            number, _, _, length = struct.unpack_from("iIII", data, at)
            name = data[at + 16 : at + 16 + length].rstrip(b"\0")
            at += 16 + length
            folder = self._watched.get(number)
            if folder is not None and not is_temporary(os.fsdecode(name)):
                path = folder / os.fsdecode(name)
                if path.is_dir():
                    continue
                self.published[path] += 1
                for expected in self._expected.values():
                    if path in expected:
                        self._look(path, expected[path])

    def _look(self, path: Path, sha256: str) -> None:
        try:
            status = path.stat()
            mark = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._seen.get(path) == mark:
                return
            data = path.read_bytes()
        except FileNotFoundError:
            return
        self._seen[path] = mark
        if hashlib.sha256(data).hexdigest() != sha256:
            self.wrong.append(f"{path}: {len(data)} bytes that do not belong there")
