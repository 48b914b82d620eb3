"""`python -m tests.servers fetch [NAME…]`: make servers ready before a run (a cached step in CI, or to go offline)."""

from __future__ import annotations

import argparse
import sys
import time

from tests.servers.packages import Missing
from tests.servers.pool import SERVERS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    commands = parser.add_subparsers(required=True)
    fetch = commands.add_parser("fetch", help="download and unpack what servers need")
    fetch.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SERVERS)}; by default all")
    names: list[str] = parser.parse_args().names
    unknown = sorted(set(names) - set(SERVERS))
    if unknown:
        parser.error(f"no server is called {', '.join(unknown)}; there are {', '.join(SERVERS)}")
    failed = False
    for name in names or SERVERS:
        started = time.monotonic()
        try:
            tree = SERVERS[name].fetch()
        except Missing as error:
            failed = True
            print(f"{name}: missing: {error}", file=sys.stderr)
        else:
            print(f"{name}: ready in {time.monotonic() - started:.1f} s, {tree.root}")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
