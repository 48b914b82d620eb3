"""S3 and the stores that speak its protocol.

`settings` (what the user writes) → `backend` (the storage contract) → `reader`, `writer`, `copying`, `listing` (one
verb each) → `calls` (the REST operations) → `client` (HTTP, signing, retries) with `credentials`, `faults` (answers →
errors) and `wire` (names, dates, metadata and XML as S3 writes them).
"""

from crossdock.storage.s3.backend import S3Backend
from crossdock.storage.s3.settings import S3Settings

__all__ = ["S3Backend", "S3Settings"]
