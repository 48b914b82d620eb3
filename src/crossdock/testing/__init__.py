"""Prove your own backend: suites to inherit, and servers and wires that fail on purpose. Needs pytest, pytest-asyncio.

The suites' tests are coroutines: pytest's settings have to say `asyncio_mode = "auto"`.

- `StorageSuite`: every promise of `crossdock.storage.base`, as one pytest class.
- `LedgerSuite` (`ledger_suite.py`): every promise of `crossdock.ledger.base`, likewise.
- `FaultyBackend` (`faults.py`): any backend, with reads, writes and listings that fail at byte or entry N.
- `CutProxy` (`cut.py`): a TCP proxy that cuts, stalls or slows the wire at byte N.
- `FakeNetStorage` (`netstorage`): Akamai's HTTP interface over a tree in memory, with answers that fail on purpose.
- `FaultySftpServer` (`fault_sftp.py`, needs asyncssh): an SFTP server that lies, dies or stalls.
- `FaultyFtpServer` (`fault_ftp.py`): an FTP server that lies, cuts and refuses.
"""

import pytest

# Before the import: asserts of an inherited suite explain themselves only if they are rewritten.
pytest.register_assert_rewrite("crossdock.testing.storage")

from crossdock.testing.netstorage import FakeNetStorage, NetStorageFault  # noqa: E402
from crossdock.testing.storage.suite import FolderPeer, Peer, StorageSuite  # noqa: E402

__all__ = ["FakeNetStorage", "FolderPeer", "NetStorageFault", "Peer", "StorageSuite"]
