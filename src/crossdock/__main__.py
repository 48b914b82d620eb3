"""The program: the console script, and `python -m crossdock`."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["main"]

_INTERRUPTED = 130
"""`cli.exits.INTERRUPTED`, which nothing is loaded for here."""


def main() -> NoReturn:
    """Ctrl-C ends the program at once until a command has begun: there is nothing yet that it could leave behind."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Python's own handler raises wherever the interpreter is, half-way through loading a module too.
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    if "run" in sys.argv:
        # To a daemon it says: read the configuration again. It waits until there is one.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    from crossdock.cli.main import main

    main()


if __name__ == "__main__":
    main()
