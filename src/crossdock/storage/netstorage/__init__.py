"""Akamai NetStorage by its signed HTTP interface, the "Usage API".

`settings` (what the user writes) → `backend` (the storage contract) → `reader`, `writer`, `listing` (one verb each) →
`calls` (NetStorage's actions) → `client` (HTTP, retries, pace) with `upload` (bodies, trailers), `signing`, `faults`
(answers → errors) and `wire` (paths, actions and XML as NetStorage writes them).
"""

# The settings alone: a configuration that names an endpoint does not load an HTTP client before it is used.
from crossdock.storage.netstorage.settings import NetStorageSettings

__all__ = ["NetStorageSettings"]
