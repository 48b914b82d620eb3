"""Transforms of a user's own, as tests need them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

from crossdock.transfer.transforms import Transform

HERE = f"python:{__name__}"


class Raises(Transform):
    """At the second chunk."""

    count = 0

    def feed(self, data: bytes) -> bytes:
        self.count += 1
        if self.count == 2:
            raise KeyError("customer")
        return data


class RaisesAtTheEnd(Transform):
    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        raise ValueError("the trailer is missing")


class RaisesAtOnce(Transform):
    def __init__(self, options: Any = None) -> None:
        raise RuntimeError("no licence")

    def feed(self, data: bytes) -> bytes:
        return data


class Exits(Transform):
    def feed(self, data: bytes) -> bytes:
        sys.exit("usage: mask FILE")


class ClosesBadly(Transform):
    """Neither what it does to stop nor what it does at the end is the file's fault."""

    def feed(self, data: bytes) -> bytes:
        return data

    def stop(self) -> None:
        raise RuntimeError("nothing to stop")

    def close(self) -> None:
        raise SystemExit("nothing to close")


class GivesText(Transform):
    def feed(self, data: bytes) -> Any:
        return ["text"]


class GivesNothing(Transform):
    def feed(self, data: bytes) -> Any:
        return None


class Seen(Transform):
    """Notes what is called, and where; waits in `feed` for `let` or `stop`."""

    calls: ClassVar[list[str]] = []
    waiting: ClassVar[threading.Event] = threading.Event()
    let: ClassVar[threading.Event] = threading.Event()
    inside = False

    @classmethod
    def reset(cls) -> None:
        cls.calls = []
        cls.waiting, cls.let = threading.Event(), threading.Event()

    def feed(self, data: bytes) -> Iterator[bytes]:
        self.inside = True
        self.calls.append("feed")
        self.waiting.set()
        assert self.let.wait(30)
        self.inside = False
        yield data

    def finish(self) -> bytes:
        self.calls.append("finish")
        return b""

    def stop(self) -> None:
        self.calls.append("stop")
        self.let.set()

    def close(self) -> None:
        self.calls.append("close within feed" if self.inside else "close")


class Counts(Transform):
    """Gives much more than it takes, one piece after the other, and counts them."""

    given: ClassVar[int] = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        for _ in range(1000):
            type(self).given += 1
            yield bytes(1024 * 1024)
