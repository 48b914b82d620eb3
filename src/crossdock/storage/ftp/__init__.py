"""FTP and FTPS: our own client over blocking sockets, one thread per control connection.

`settings` (what the user writes) → `backend` (the storage contract) → `reader`, `writer`, `listing` (one verb each) →
`calls` (work in a connection's thread, names below the root) → `pool` (an account's connections) → `connecting`
(signing in). In the thread: `changing` (names) → `asking` (about them), `dialects` (listings), `digests`, `describing`
(for doctor) → `data`, `stream` (data connections), `together` (what is sent along with a transfer) → `connection` →
`tls`, `wire` (commands and replies); `faults` (replies → errors).
"""

# The settings alone: a configuration that names a server does not load the client before it is used.
from crossdock.storage.ftp.settings import FtpSettings

__all__ = ["FtpSettings"]
