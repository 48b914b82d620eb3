"""Exit codes, and the one place that turns an error into one."""

from __future__ import annotations

from crossdock.errors import ConfigError, CrossdockError, NotFound

__all__ = [
    "CODES",
    "CONFIG",
    "INTERRUPTED",
    "NOT_FOUND",
    "OK",
    "PERMANENT",
    "PIPE",
    "SOME",
    "TEMPORARY",
    "USAGE",
    "code_of",
]

OK, SOME, USAGE, CONFIG, NOT_FOUND, TEMPORARY, PERMANENT, INTERRUPTED, PIPE = 0, 1, 2, 3, 4, 5, 7, 130, 141

CODES = {
    OK: "everything was done",
    SOME: "some files or checks failed; the rest was done",
    USAGE: "the command line is wrong; nothing was done",
    CONFIG: "the configuration is wrong; nothing was done",
    NOT_FOUND: "there is no such file, folder or bucket at the endpoint",
    TEMPORARY: "it failed for a reason that may pass: run it again later",
    PERMANENT: "it failed for a reason that will not pass by itself",
    INTERRUPTED: "stopped by Ctrl-C, SIGTERM or SIGHUP, after cleaning up",
    PIPE: "whoever read the output has closed it",
}


def code_of(error: CrossdockError) -> int:
    if isinstance(error, ConfigError):
        return CONFIG
    if isinstance(error, NotFound):
        return NOT_FOUND
    return TEMPORARY if error.retryable else PERMANENT
