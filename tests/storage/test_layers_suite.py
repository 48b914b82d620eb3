"""Each layer keeps every promise of what it wraps."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import ClassVar

import pytest

from crossdock.storage.base import Backend
from crossdock.storage.layers import Observe
from crossdock.storage.limits import Limit, Throttle
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.rate import TokenBucket
from crossdock.storage.retry import Reopen, Retry
from crossdock.storage.storage import Storage
from crossdock.testing import StorageSuite
from crossdock.testing.faults import FaultyBackend


class _Layered(StorageSuite):
    max_name: ClassVar[int | None] = None

    def layered(self, inner: Backend) -> Backend:
        raise NotImplementedError

    @pytest.fixture
    async def storage(self) -> AsyncGenerator[Storage]:
        async with Storage(self.layered(MemoryBackend())) as storage:
            yield storage


class TestObserve(_Layered):
    def layered(self, inner: Backend) -> Backend:
        return Observe(inner, lambda event: None)


class TestLimit(_Layered):
    def layered(self, inner: Backend) -> Backend:
        return Limit(inner, 5)


class TestThrottle(_Layered):
    def layered(self, inner: Backend) -> Backend:
        return Throttle(inner, TokenBucket(1 << 40))


class TestRetry(_Layered):
    def layered(self, inner: Backend) -> Backend:
        return Retry(inner)


class TestReopen(_Layered):
    def layered(self, inner: Backend) -> Backend:
        return Reopen(inner)


class TestFaulty(_Layered):
    """The fault injector of `crossdock.testing`, while it is told no faults."""

    def layered(self, inner: Backend) -> Backend:
        return FaultyBackend(inner)


class TestAll(_Layered):
    """As an endpoint is assembled."""

    def layered(self, inner: Backend) -> Backend:
        return Retry(Throttle(Limit(Reopen(Observe(inner)), 5), TokenBucket(1 << 40)))
