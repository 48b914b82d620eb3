"""One-way sync of a tree, without a ledger.

`run` (decides, moves, deletes) over `merge` (two listings side by side); `content` (the same bytes?), `obstacles` and
`twins` (names in each other's way), `surplus` (may all that go?), `processes` (several of them) and `outcome`.
"""

from crossdock.engine.sync.outcome import Outcome, Summary
from crossdock.engine.sync.run import Courier, SyncOptions, sync

__all__ = ["Courier", "Outcome", "Summary", "SyncOptions", "sync"]
