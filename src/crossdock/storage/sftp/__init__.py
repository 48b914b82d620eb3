"""SFTP: our own version 3 client over an SSH connection of asyncssh's.

`settings` (what the user writes) → `backend` (the storage contract) → `reader`, `writer`, `listing` (one verb each) →
`changing` (names moved, removed, made) → `reasons` (what is behind "failure") → `calls` (names below the root, what the
server can do) → `parting` (given up on a slow line) → `pool` (an account's connections) → `connect`, `addresses`,
`login`, `negotiating`, `hostkeys` (signing in) → `wire` (requests), `replies`, `transport` (SSH's packets), `faults`
(statuses → errors) and `codec` (bytes).
"""

# The settings alone: a configuration that names a server does not load an SSH client before it is used.
from crossdock.storage.sftp.settings import SftpSettings

__all__ = ["SftpSettings"]
