"""What the owners of endpoints do in a history: senders at the source, receivers at the targets."""

from __future__ import annotations

from datetime import datetime, timedelta

from tests.histories.configuration import ARCHIVES, FOLDERS, LIST
from tests.histories.contents import packed, plain
from tests.histories.scene import Scene
from tests.histories.served import Shelf
from tests.histories.settling import signs_for

__all__ = ["PATHS", "Owners"]

PATHS = ("a.csv", "b.csv", "d/a.csv", "d/b.csv", "d")


class Owners:
    def __init__(self, scene: Scene) -> None:
        self._scene, self._source = scene, scene.source
        self._count = 0
        self._past: dict[str, list[tuple[bytes, datetime]]] = {}
        """What lay at each path of the source."""

    # Senders

    def _is_told_apart(self, path: str, data: bytes, modified: datetime) -> bool:
        return self._scene.known.setdefault((self._source.endpoint, path, len(data), modified), data) == data

    def _write(self, path: str, data: bytes, modified: datetime) -> bool:
        """False: no endpoint could tell it from another one."""
        if not self._source.fits(path) or not self._is_told_apart(path, data, modified):
            return False
        self._source.put(path, data, modified)
        self._past.setdefault(path, []).append((data, modified))
        return True

    def _move(self, path: str, to: str) -> None:
        node = self._source.node(path)
        if node is None or not self._source.fits(to) or not self._is_told_apart(to, node.data, node.modified):
            return
        self._source.move(path, to)
        self._past.setdefault(to, []).append((node.data, node.modified))

    def _new(self, size: int) -> bytes:
        self._count += 1
        data = f"#{self._count}".encode().ljust(size, b".")
        return packed(data) if self._scene.unpacks else data

    def do_put(self, number: int, size: int, when: str) -> None:
        path = PATHS[number % len(PATHS)]
        before = self._source.node(path)
        modified = self._scene.clock().replace(microsecond=0)
        if when == "same" and before is not None:
            modified = before.modified
        elif when == "older":
            modified -= timedelta(days=1)
        data = self._new(size)
        while not self._write(path, data, modified):
            if not self._source.fits(path):
                return
            modified += timedelta(seconds=1)

    def do_grow(self, number: int) -> None:
        path = PATHS[number % len(PATHS)]
        node = self._source.node(path)
        if node is not None and len(words := plain(node.data) or b"") < 60:
            self.do_put(number, len(words) + 5, "now")

    def do_delete(self, number: int) -> None:
        self._source.take(PATHS[number % len(PATHS)])

    def do_back(self, number: int, which: int) -> None:
        path = PATHS[number % len(PATHS)]
        now = self._source.node(path)
        past = [each for each in self._past.get(path, []) if now is None or each[0] != now.data]
        if past:
            self._write(path, *past[-1 - which % len(past)])

    def do_rename(self, number: int, other: int) -> None:
        path, to = PATHS[number % len(PATHS)], PATHS[other % len(PATHS)]
        if path != to:
            self._move(path, to)

    def do_folder(self, number: int) -> None:
        """A folder becomes a file, or a file a folder."""
        if self._source.node("d") is not None:
            self._source.take("d")
            self.do_put(2 + number % 2, 12, "now")
            return
        for path in [path for path in self._source.names() if path.startswith("d/")]:
            self._source.take(path)
        self._source.tidy()
        self.do_put(4, 12, "now")

    def do_sign(self, number: int, which: int) -> None:
        """It is said of a file that it is finished, as the flow wants it said."""
        path, modified = PATHS[number % len(PATHS)], self._scene.clock().replace(microsecond=0)
        if not (signs := list(signs_for(self._scene.config["sign"], path))):
            return
        sign = signs[which % len(signs)]
        self._count += 1
        data = f"#{self._count}\n"
        if self._scene.config["sign"] == LIST:
            folder = sign.removesuffix(LIST)
            data += "".join(f"{each.removeprefix(folder)}\n" for each in PATHS if each.startswith(folder))
        while not self._write(sign, packed(data.encode()) if self._scene.unpacks else data.encode(), modified):
            if not self._source.fits(sign):
                return
            modified += timedelta(seconds=1)

    def _archived(self) -> list[str]:
        return [path for path in self._source.names() if not set(ARCHIVES).isdisjoint(path.split("/"))]

    def do_unarchive(self, which: int) -> None:
        if found := self._archived():
            path = found[which % len(found)]
            *folders, name = (part for part in path.split("/") if part not in ARCHIVES)
            stem, dot, suffix = name.rpartition(".")
            name = f"{(stem or suffix).partition('~')[0]}{dot if stem else ''}{suffix if stem else ''}"
            self._move(path, "/".join((*folders, name)))

    def do_tamper(self, which: int, how: str) -> None:
        found = self._archived()
        if how == "stranger":
            self._write(f".done/{PATHS[which % 4]}", self._new(13), self._scene.clock().replace(microsecond=0))
        elif found:
            path = found[which % len(found)]
            if how == "change":
                self._write(path, self._new(14), self._scene.clock().replace(microsecond=0))
            else:
                self._source.take(path)

    # Receivers

    def do_receive(self, name: str, which: int, how: str) -> None:
        place = self._scene.targets[name]
        if found := place.names():
            path = found[which % len(found)]
            for flow, witness in self._scene.witnesses.items():
                # What is taken in the moment of publishing is sent again where a server's word for it does not count,
                # or where the store itself has copied it, which is not announced.
                broken = isinstance(place, Shelf) and (witness.killed or witness.failed)
                copied = place is self._scene.source_of(flow) and path.startswith(FOLDERS[flow])
                witness.doubles_allowed |= broken or copied
            if how == "take":
                place.take(path)
            else:
                self._count += 1
                place.put(path, b"altered".ljust(100 + self._count, b"."), self._scene.clock())
