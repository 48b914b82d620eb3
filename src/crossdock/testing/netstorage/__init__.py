"""A NetStorage of one's own, for tests: Akamai's Usage API over a tree in memory.

`http` (requests and replies, byte by byte) → `server` (signatures, clock window, faults) → `actions` (what each does)
over `tree` (what is stored) and `xml` (how it is told). rclone and Akamai's own Python kit pass their round trips.
"""

from crossdock.testing.netstorage.server import FakeNetStorage, NetStorageFault, NetStoragePeer

__all__ = ["FakeNetStorage", "NetStorageFault", "NetStoragePeer"]
