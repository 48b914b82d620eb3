"""The user's file and what is written on the command line → endpoints, flows, the ledger, locations.

`load()` reads the file and reports every mistake in it at once. `rehearsal.rehearse()` tries what a file can only show
when it is run: the user's own functions are imported, the tests of the rules are run.

- From text to `config`: `reading`, with `models` and `values` (shapes), `validation` and `mistakes` (all at once).
- A flow: `building`, `routers`, `checks` (by itself), `cross_flow`, `path_sets` (beside others), `own_files`.
- An engine over all of it: `running`.
- Patterns: `patterns`, `automata`, `characters`. Endpoints and the ledger: `pins`, `ledgers`. For editors: `schema`.
"""

from crossdock.config.config import DEFAULT_FILE, VARIABLE, Config, Location, Mistakes, is_url, may_name_endpoint
from crossdock.config.reading import load

__all__ = ["DEFAULT_FILE", "VARIABLE", "Config", "Location", "Mistakes", "is_url", "load", "may_name_endpoint"]
