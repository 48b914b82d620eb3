"""The program: the console script, and `python -m crossdock`."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["main"]

_INTERRUPTED = 130
"""`cli.exits.INTERRUPTED`, which nothing is loaded for here."""


def main() -> NoReturn:
    """Ctrl-C and SIGTERM end the program at once until a command has begun: there is nothing yet that it could leave
    behind."""
    # To be told to end is no failure of a daemon: systemd would say so.
    code = 0 if _is_daemon(sys.argv[1:]) else _INTERRUPTED
    for number in (signal.SIGINT, signal.SIGTERM):
        # Python's own handler raises wherever the interpreter is, half-way through loading a module too; and SIGTERM
        # without one is not noticed by the first process of a container.
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, lambda *_: os._exit(code))
    if "run" in sys.argv:
        # To a daemon it says: read the configuration again. It waits until there is one.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    from crossdock.cli.main import main

    main()


def _is_daemon(arguments: Sequence[str]) -> bool:
    """Whether the command is `run` by the triggers."""
    words = iter(arguments)
    for word in words:
        if word == "--config":
            next(words, None)
        elif not word.startswith("-"):
            return word == "run" and "--once" not in arguments
    return False


if __name__ == "__main__":
    main()
