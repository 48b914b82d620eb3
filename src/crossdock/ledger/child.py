"""The other side of a `ProcessWriter`: `python -m crossdock.ledger.child FD` does what it reads there until its end.

It imports no more than it needs, asyncio least of all: it is started with each run.
"""

from __future__ import annotations

import logging
import select
import socket
import sys
from collections.abc import Sequence
from typing import Any

from crossdock.errors import LedgerError
from crossdock.frames import Frames, packed
from crossdock.ledger.transactions import LOOK_UP, MOST, Answer, Connection, Operation, transact

__all__ = ["main"]

_AT_ONCE = 1 << 16
_HUNG_UP = getattr(select, "POLLRDHUP", select.POLLHUP)
"""Linux tells that the other side says nothing more while there is still something to read."""


class _Told(logging.Handler):
    """What is said while the file is opened, whoever started this process says: its log has a form of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((record.name, record.levelno, record.getMessage()))


def main(descriptor: int) -> None:
    """First what opens the connection is read, and its outcome told; then operations, and their answers."""
    with socket.socket(fileno=descriptor) as sock:
        frames = Frames()
        arrived = _waiting(sock, frames)
        if not arrived:
            return
        told = _Told()
        root = logging.getLogger()
        root.addHandler(told)
        try:
            connection = arrived[0]()
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
            sock.sendall(packed((told.records, error)))
            return
        finally:
            root.removeHandler(told)
        try:
            sock.sendall(packed((told.records, None)))
            _serve(sock, frames, connection)
        except (BrokenPipeError, ConnectionResetError):
            pass  # Nobody is there any more.
        finally:
            connection.close()


def _serve(sock: socket.socket, frames: Frames, connection: Connection) -> None:
    reading = False
    poll = select.poll()
    poll.register(sock, _HUNG_UP)
    # What is being read, nobody waits for any more: SQLite ends it.
    connection.set_progress_handler(lambda: reading and bool(poll.poll(0)), LOOK_UP)
    while arrived := _waiting(sock, frames):
        operations: list[Operation] = [each for some in arrived for each in some]
        for start in range(0, len(operations), MOST):
            some = operations[start : start + MOST]
            reading = not any(each.writes for each in some)
            sock.sendall(_packed(transact(connection, some)))


def _waiting(sock: socket.socket, frames: Frames) -> list[Any]:
    """All that has arrived, once something has; empty at the end."""
    found: list[Any] = []
    while not found:
        data = sock.recv(_AT_ONCE)
        if not data:
            return []
        found = frames.feed(data)
    try:
        while data := sock.recv(_AT_ONCE, socket.MSG_DONTWAIT):
            found += frames.feed(data)
    except BlockingIOError:
        pass
    return found


def _packed(answers: Sequence[Answer]) -> bytes:
    try:
        return packed(answers)
    except Exception as error:  # noqa: BLE001 - an error that cannot be pickled
        return packed([(None, LedgerError(f"{found or error!r}")) for _, found in answers])


if __name__ == "__main__":
    main(int(sys.argv[1]))
