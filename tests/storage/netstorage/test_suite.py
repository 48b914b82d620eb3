"""The whole contract against `FakeNetStorage`: both kinds of store, both ways of renaming, and answers that fail."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, ClassVar

import pytest

from crossdock.storage.retry import Reopen, Retry, RetryPolicy
from crossdock.storage.storage import Storage
from crossdock.testing import FakeNetStorage, NetStorageFault, Peer, StorageSuite
from tests.storage.netstorage.places import AT_ONCE, MIB, backend, no_wait


class TestObjectStore(StorageSuite):
    """`page` is small, so that listings have many."""

    max_name = None
    server_options: ClassVar[dict[str, Any]] = {"page": 100}
    settings: ClassVar[dict[str, Any]] = {}
    faults: ClassVar[tuple[dict[str, Any], ...]] = ()
    retry: ClassVar[RetryPolicy] = AT_ONCE

    @pytest.fixture
    async def server(self) -> AsyncGenerator[FakeNetStorage]:
        async with FakeNetStorage(**self.server_options) as server:
            yield server
            assert server.refusals == []

    @pytest.fixture
    def peer(self, server: FakeNetStorage) -> Peer:
        return server.peer(self.settings.get("root", ""))

    @pytest.fixture
    async def storage(self, server: FakeNetStorage, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Storage]:
        inner = backend(server, monkeypatch, **self.settings)
        inner.client.retry = self.retry
        async with Storage(Retry(Reopen(inner, self.retry), self.retry)) as storage:
            if self.settings.get("root"):
                await inner.make_dir("")
            server.faults += [NetStorageFault(seed=seed, **fault) for seed, fault in enumerate(self.faults)]
            yield storage
            server.faults.clear()


class TestObjectStoreBelowARoot(TestObjectStore):
    """Where renaming refuses to replace, so that every overwrite is a swap."""

    settings: ClassVar[dict[str, Any]] = {"root": "some/where", "buffer": 0}
    server_options: ClassVar[dict[str, Any]] = {"page": 70, "rename_replaces": False}


class TestObjectStoreKnownToReplace(TestObjectStore):
    settings: ClassVar[dict[str, Any]] = {"rename_replaces": True, "listing": "folders", "requests_per_second": 100_000}


class TestFileStore(TestObjectStore):
    settings: ClassVar[dict[str, Any]] = {"buffer": "64K"}
    server_options: ClassVar[dict[str, Any]] = {"store": "file-store"}


class TestFileStoreThatRefusesToReplace(TestObjectStore):
    server_options: ClassVar[dict[str, Any]] = {"store": "file-store", "rename_replaces": False}


class _Failing(TestObjectStore):
    """All that fails may be tried again at once, often enough; what is held can be sent again."""

    large_size = 6 * MIB
    many = 210
    settings: ClassVar[dict[str, Any]] = {"buffer": "9M"}
    retry = RetryPolicy(attempts=12, seconds=60, sleep=no_wait)


class TestInternalErrors(_Failing):
    faults = ({"status": 500, "every": 5, "after": 2}, {"status": 503, "every": 7})


class TestTooManyRequests(_Failing):
    faults = ({"status": 429, "retry_after": 0, "every": 3},)


class TestDroppedConnections(_Failing):
    faults = ({"how": "drop", "every": 6, "after": 1},)


class TestLostAnswers(_Failing):
    """The deed is done and nobody says so: uploads, renames, folders and deletions alike."""

    faults = ({"how": "lost", "every": 4},)


class TestLostAnswersWithSwaps(_Failing):
    server_options: ClassVar[dict[str, Any]] = {"page": 100, "rename_replaces": False}
    faults = ({"how": "lost", "every": 4, "after": 1},)


class TestShortBodies(_Failing):
    faults = tuple({"how": "short", "action": action, "every": 3} for action in ("download", "dir", "list", "stat"))
