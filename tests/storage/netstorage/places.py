"""`FakeNetStorage` as an endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from crossdock.storage.netstorage import NetStorageSettings
from crossdock.storage.netstorage.backend import NetStorageBackend
from crossdock.storage.retry import RetryPolicy
from crossdock.testing import FakeNetStorage
from crossdock.testing.storage.base import content

MIB = 1024**2
BIG = content(6 * MIB)


async def no_wait(seconds: float) -> None:
    pass


AT_ONCE = RetryPolicy(attempts=4, seconds=60, sleep=no_wait)


def settings_of(server: FakeNetStorage, monkeypatch: pytest.MonkeyPatch, **more: Any) -> NetStorageSettings:
    """The endpoint's settings, its key in the environment."""
    monkeypatch.setenv("NETSTORAGE_KEY", server.key)
    given: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": server.port,
        "tls": server.tls is not None,
        "cp_code": server.cp_code,
        "key_name": server.key_name,
        "key": "env:NETSTORAGE_KEY",
        "store": server.actions.store,
        "timeout": 20,
    }
    return NetStorageSettings(**{**given, **more})


def backend(server: FakeNetStorage, monkeypatch: pytest.MonkeyPatch, **more: Any) -> NetStorageBackend:
    """Not yet opened; what fails is tried again at once."""
    found = NetStorageBackend(settings_of(server, monkeypatch, **more), "akamai")
    found.client.retry = AT_ONCE
    return found
