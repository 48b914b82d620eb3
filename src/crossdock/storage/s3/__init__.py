"""S3 and the stores that speak its protocol.

`settings` (what the user writes) → `backend` (the storage contract) → `reader`, `writer`, `copying`, `listing`,
`pinned` and `probe` (one verb, or question, each) → `upload`, `plan` (parts), `pages` (of listings) → `calls` (the
REST operations) → `client` (HTTP, signing, retries) with `bulk` (large bodies, in threads), `credentials`, `faults`
(answers → errors) and `wire` (names, dates, metadata and XML as S3 writes them).
"""

# The settings alone: a configuration that names a bucket does not load an HTTP client before it is used.
from crossdock.storage.s3.settings import S3Settings

__all__ = ["S3Settings"]
