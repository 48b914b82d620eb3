"""What went wrong, as crossdock's errors: one table for status codes, one for the wire."""

from __future__ import annotations

from types import TracebackType

from crossdock.errors import (
    AlreadyExists,
    ConnectionFailed,
    InvalidPath,
    NoSpace,
    NotADirectory,
    NotAFile,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    StorageError,
    Throttled,
    TimedOut,
    Unsupported,
)
from crossdock.storage.sftp.codec import Violation
from crossdock.storage.sftp.wire import Lost, Silent, Status

__all__ = ["Translate", "hint_for", "translated"]

# Codes above 8 are of later versions of the protocol; servers of version 3 send them all the same.
# 4 (failure) says nothing by itself: `reasons.explain` looks for the reason where there may be one.
_STATUS: dict[int, tuple[type[StorageError], str]] = {
    1: (ProtocolViolation, "the server says end of file where there is none"),
    2: (NotFound, "no such file or folder"),
    3: (PermissionDenied, "the server does not permit it"),
    4: (PermissionDenied, "the server refused and gave no reason"),
    5: (InvalidPath, "the server does not accept this name"),
    6: (ConnectionFailed, "the server lost its connection"),
    7: (ConnectionFailed, "the server lost its connection"),
    8: (Unsupported, "the server does not support this operation"),
    9: (ProtocolViolation, "the server no longer knows the open file"),
    10: (NotFound, "no such folder"),
    11: (AlreadyExists, "the file exists"),
    12: (PermissionDenied, "the server is write-protected"),
    13: (NotFound, "the server's medium is missing"),
    14: (NoSpace, "the server's disk is full"),
    15: (NoSpace, "the account's quota is used up"),
    17: (PermissionDenied, "the file is locked"),
    18: (PermissionDenied, "the folder is not empty"),
    19: (NotADirectory, "it is not a folder"),
    20: (InvalidPath, "the server does not accept this name"),
    21: (NotFound, "the links lead in a circle"),
    24: (NotAFile, "it is a folder"),
}
_HINTS: dict[type[StorageError], str] = {
    NotFound: "check the path: it is below the endpoint's root, which is the login folder unless 'root' says otherwise",
    PermissionDenied: "ask the server's operator for the permission, or choose another folder",
    InvalidPath: "give it another name in the rule or command that moves it",
    NoSpace: "free space at the server",
    ConnectionFailed: "check that the server is up",
    Throttled: "lower 'streams_per_connection' or 'max_connections' at this endpoint",
    TimedOut: "check the network and the server's load, or raise 'timeout' at this endpoint",
    ProtocolViolation: "report it to the server's operator, with this message",
}


def hint_for(kind: type[StorageError]) -> str | None:
    return _HINTS.get(kind)


def translated(error: Exception, operation: str, endpoint: str, path: str) -> StorageError:
    """A `Status`, `Lost`, `Silent` or `Violation` as the error that callers decide by."""
    kind: type[StorageError]
    if isinstance(error, Status):
        kind, reason = _STATUS.get(error.code, (ProtocolViolation, f"unknown status {error.code}"))
        lowered = error.message.lower()
        if error.code == 4 and ("space" in lowered or "quota" in lowered):
            kind, reason = NoSpace, "the server has no room"
        if error.code == 4 and "too many" in lowered:
            kind, reason = Throttled, "the server has no more to give"
        if lowered not in ("", "failure", "no such file", "permission denied"):
            reason = f"{reason} ({error.message})"
    elif isinstance(error, Violation):
        kind, reason = ProtocolViolation, str(error)
    else:
        kind = TimedOut if isinstance(error, Silent) else ConnectionFailed
        reason = str(error)
    return kind(reason, operation=operation, endpoint=endpoint, path=path, hint=hint_for(kind))


class Translate:
    """`with Translate("read", endpoint, path):` turns what the wire raises into crossdock's errors."""

    __slots__ = ("_endpoint", "_operation", "_path")

    def __init__(self, operation: str, endpoint: str, path: str) -> None:
        self._operation, self._endpoint, self._path = operation, endpoint, path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (Status, Lost, Violation)):
            raise translated(error, self._operation, self._endpoint, self._path) from error
