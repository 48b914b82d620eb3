"""Every error crossdock raises, one class per decision that a caller can make.

CrossdockError                  .retryable  .retry_after  .hint
├── ConfigError                 file, line, key, what to write instead
│   ├── UnknownEndpoint         not here; another host's configuration may have it
│   ├── NotInstalled            retry later: an extra that this machine lacks
│   └── SecretUnavailable       retry later: a reference that leads nowhere now, whosever file it is about
├── StorageError                endpoint, operation, path
│   ├── ConnectionFailed        retry: the wire or the peer failed
│   │   └── TimedOut            retry: the peer went silent
│   ├── Throttled               retry later: the peer asked for a pause
│   ├── NoSpace                 retry slowly: disk or quota full
│   ├── ProtocolViolation       retry once or twice: the peer broke its own protocol
│   ├── BackendFault            retry once or twice: a backend let out what is none of these
│   ├── AuthenticationFailed    never in a loop: accounts get locked
│   │   └── HostKeyMismatch     stop: the server is not the one that was trusted
│   ├── PermissionDenied
│   ├── NotFound
│   ├── AlreadyExists
│   ├── NotAFile
│   ├── NotADirectory
│   ├── InvalidPath             the name cannot exist at this endpoint; nothing was sent
│   └── Unsupported             the endpoint lacks the capability
├── TransferError
│   ├── Truncated               retry: the stream ended before its declared size
│   ├── IntegrityError          retry: what is stored is not what was sent
│   ├── SourceChanged           retry after settling: the source moved under the copy
│   ├── Conflict                the target holds other bytes and may not be replaced
│   └── TransformFailed
└── LedgerError
    ├── LeaseLost               stop, record nothing: somebody else owns the transfer now
    └── LedgerUnavailable       retry
"""

from __future__ import annotations

import importlib
import os
import shlex
import traceback
from typing import ClassVar, Self

__all__ = [
    "AlreadyExists",
    "AuthenticationFailed",
    "BackendFault",
    "ConfigError",
    "Conflict",
    "ConnectionFailed",
    "CrossdockError",
    "HostKeyMismatch",
    "IntegrityError",
    "InvalidPath",
    "LeaseLost",
    "LedgerError",
    "LedgerUnavailable",
    "NoSpace",
    "NotADirectory",
    "NotAFile",
    "NotFound",
    "NotInstalled",
    "PermissionDenied",
    "ProtocolViolation",
    "SecretUnavailable",
    "SourceChanged",
    "StorageError",
    "Throttled",
    "TimedOut",
    "TransferError",
    "TransformFailed",
    "Truncated",
    "UnknownEndpoint",
    "Unsupported",
    "located",
    "raised_at",
    "shown",
]


def shown(name: str) -> str:
    """A name as it may be printed: control, bidirectional and undecodable characters escaped."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def located(endpoint: str, path: str = "") -> str:
    """Where something is, as it would be written on a command line: `name:path`, a URL, or a local path."""
    if endpoint.startswith("/"):
        return shown(f"{endpoint.rstrip('/')}/{path}".rstrip("/") or "/")
    return f"{endpoint}{'/' if '://' in endpoint else ':'}{shown(path)}"


def raised_at(error: BaseException) -> str:
    """Where somebody else's code failed that is called from here: ` (routes.py, line 3)`; "" if it did not."""
    ours = os.path.dirname(__file__)  # noqa: PTH120
    skipped = (ours, "<frozen importlib", os.path.dirname(importlib.__file__))  # noqa: PTH120
    found = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    theirs = [(file, line) for file, line in found if not file.startswith(skipped)]
    # The last line of the file that was called, not of a library that it uses.
    line = next((line for file, line in reversed(theirs) if file == theirs[0][0]), 0)
    return f" ({os.path.basename(theirs[0][0])}, line {line})" if line else ""  # noqa: PTH119


class CrossdockError(Exception):
    """Base of all. `retryable`: the same call may succeed later. `retry_after`: seconds to wait first.

    `exhausted`: it was already retried as often as is sensible; do not retry at once again.
    """

    retryable: bool = False
    exhausted: bool = False
    leaves: bool = False
    """What was staged may still be there."""

    def __init__(self, message: str = "", *, hint: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders whole, whatever their constructors take.
        return _rebuilt, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        return f"{self.message.removesuffix('.')}. Next: {self.hint}" if self.hint else self.message

    def not_cleaned_up(self, failed: CrossdockError) -> None:
        """What was staged could not be removed either."""
        self.leaves = True
        self.add_note(f"cleaning up failed as well: {failed}")


def _rebuilt(kind: type[CrossdockError], args: tuple[object, ...], state: dict[str, object]) -> CrossdockError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(CrossdockError):
    """The user's configuration is wrong; the message says where and what to write instead."""

    def __init__(
        self, message: str, *, file: str | None = None, line: int | None = None, key: str = "", hint: str | None = None
    ) -> None:
        place = ":".join(str(part) for part in (file, line) if part is not None)
        super().__init__(": ".join(part for part in (place, key, message) if part), hint=hint)
        self.file, self.line, self.key = file, line, key


class UnknownEndpoint(ConfigError):
    """Not in this configuration; in that of another host, perhaps, which shares the ledger."""

    endpoint: str = ""


class NotInstalled(ConfigError):
    retryable = True
    exhausted = True


class SecretUnavailable(ConfigError):
    retryable = True
    exhausted = True


class StorageError(CrossdockError):
    """An operation at an endpoint failed. `next_step` is the hint of those who are raised without one; in it,
    {endpoint} is how to write that."""

    next_step: ClassVar[str | None] = None
    next_step_at_root: ClassVar[str | None] = None
    """Another one where there is no path."""

    def __init__(
        self,
        reason: str,
        *,
        operation: str,
        endpoint: str,
        path: str = "",
        hint: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        place, reason = located(endpoint, path), shown(reason)  # it may quote a server
        next_step = self.next_step if path else self.next_step_at_root or self.next_step
        super().__init__(
            f"{operation} {place.removesuffix(':')}: {reason}",
            hint=hint or (next_step and next_step.format(endpoint=shlex.quote(located(endpoint)))),
            retry_after=retry_after,
        )
        self.reason, self.operation, self.endpoint, self.path = reason, operation, endpoint, path


class ConnectionFailed(StorageError):
    next_step = "see that it is up, and can be reached from here; then run it again"
    retryable = True


class TimedOut(ConnectionFailed):
    pass


class Throttled(StorageError):
    next_step = "run it again later, or with fewer transfers at once"
    retryable = True


class NoSpace(StorageError):
    next_step = "make room there, then run it again"
    retryable = True


class ProtocolViolation(StorageError):
    next_step = "run it again; if that does not help, ask who runs the server"
    retryable = True


class BackendFault(StorageError):
    next_step = "run it again with -v, and report what it logs to whoever made the backend"
    retryable = True


class AuthenticationFailed(StorageError):
    next_step = "check who signs in, and with which secret"


class HostKeyMismatch(AuthenticationFailed):
    next_step = "ask who runs the server for its key, and compare: crossdock trust {endpoint}"


class PermissionDenied(StorageError):
    next_step = "let the account do this there, or use another one"


class NotFound(StorageError):
    next_step = "see what is there: crossdock ls {endpoint}"
    next_step_at_root = "check the endpoint's root"


class AlreadyExists(StorageError):
    next_step = "allow overwriting, or move it away"


class NotAFile(StorageError):
    next_step = "name a file, or move away what has this name"


class NotADirectory(StorageError):
    next_step = "choose another folder, or move away what has its name"


class InvalidPath(StorageError):
    next_step = "choose another name, or another endpoint for it"


class Unsupported(StorageError):
    next_step = "do without that at this endpoint, or use another one"


class TransferError(CrossdockError):
    """Moving one file failed although both endpoints answered."""

    def __init__(self, message: str = "", *, hint: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(shown(message), hint=hint, retry_after=retry_after)

    @classmethod
    def at(cls, operation: str, endpoint: str, path: str, reason: str, *, hint: str | None = None) -> Self:
        """What is wrong with a file at one endpoint, worded as a `StorageError` is."""
        return cls(f"{operation} {located(endpoint, path)}: {reason}", hint=hint)


class Truncated(TransferError):
    retryable = True


class IntegrityError(TransferError):
    retryable = True


class SourceChanged(TransferError):
    retryable = True
    still_listed = False
    """The old one is listed all the same: no look at the source will find the one that is there."""


class Conflict(TransferError):
    pass


class TransformFailed(TransferError):
    pass


class LedgerError(CrossdockError):
    pass


class LeaseLost(LedgerError):
    recorded = False
    """What was to be recorded had been, before another took the lease, who now goes by it."""


class LedgerUnavailable(LedgerError):
    retryable = True
