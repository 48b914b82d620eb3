"""What a request may come to: a reply of the kind that was due, a status, or no reply at all."""

from __future__ import annotations

import asyncio

from crossdock.errors import shown
from crossdock.storage.sftp import codec
from crossdock.storage.sftp.codec import Violation

__all__ = ["Lost", "Reply", "SameHandle", "Silent", "Status", "checked", "handle_of", "is_ok"]

Reply = tuple[int, bytes]
"""(packet type, payload after the id); the payload of DATA is the data itself."""


class Lost(Exception):
    """The connection is gone."""


class SameHandle(Violation):
    """Two open files have one handle. Erlang's server gives it to the third that is open at once in a session."""


class Silent(Lost):
    """The peer owes replies and has sent nothing for too long."""


class Status(Exception):
    """The server answered with a status other than OK."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"status {code}: {shown(message)}" if message else f"status {code}")
        self.code, self.message = code, message


def checked(reply: Reply, kind: int) -> bytes:
    """The payload of a reply of that kind. Raises `Status` for any status but an expected OK, `Violation` else."""
    found, payload = reply
    if found == codec.STATUS:
        code, message = codec.parse_status(payload)
        if code == codec.OK and kind == codec.STATUS:
            return b""
        if code == codec.OK:
            raise Violation("the server said OK where it owed an answer")
        raise Status(code, message)
    if found != kind:
        raise Violation(f"a reply of type {found} where {kind} was due")
    return payload


def is_ok(answer: asyncio.Future[Reply]) -> bool:
    """Whether what was asked for was done; False too while nobody knows."""
    if not answer.done() or answer.cancelled() or answer.exception() is not None:
        return False
    kind, payload = answer.result()
    return kind == codec.STATUS and codec.parse_status(payload)[0] == codec.OK


def handle_of(reply: Reply) -> bytes:
    """The handle of a reply to OPEN or OPENDIR, as it goes into requests (with its length)."""
    payload = checked(reply, codec.HANDLE)
    codec.take(payload, 0, codec.LONGEST_HANDLE)
    return payload
