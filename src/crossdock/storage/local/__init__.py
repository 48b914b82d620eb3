"""Local disk (POSIX), worked on in threads.

`settings` (what the user writes) → `backend` (the storage contract) → `reader`, `writer`, `listing` (one verb each) →
`tree` (all that touches the disk by name, with `renaming` and `faults`) and `threads` (in which that is called).
"""

from crossdock.storage.local.settings import LocalSettings

__all__ = ["LocalSettings"]
