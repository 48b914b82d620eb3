"""NetStorage endpoints as URLs."""

from __future__ import annotations

import json

import pytest

from crossdock.errors import (
    ConfigError,
)
from crossdock.storage.registry import new_storage, parse_url
from crossdock.testing import FakeNetStorage


async def test_a_url_names_a_place(server: FakeNetStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NS", server.key)
    url = f"netstorage://{server.key_name}@127.0.0.1:{server.port}/123456/d/a%20b?key=env:NS&tls=false"
    settings, path = parse_url(url)
    assert (settings.type, path) == ("netstorage", "d/a b")
    async with new_storage("akamai", settings) as storage:
        await storage.write_bytes(path, b"x")
    assert server.peer().names() == {"d/a b"}
    assert server.key not in repr(settings) + json.dumps(settings.model_dump(mode="json"))


def test_https_is_the_default() -> None:
    settings, _ = parse_url("netstorage://account@example-nsu.akamaihd.net/123456/d?key=env:NS")
    assert getattr(settings, "service") == "https://example-nsu.akamaihd.net"  # noqa: B009
    assert settings.slots == 8
    assert settings.shared(4).slots == 2


@pytest.mark.parametrize(
    "url",
    [
        "netstorage://example-nsu.akamaihd.net/123456?key=env:NS",
        "netstorage://account@example-nsu.akamaihd.net/?key=env:NS",
        "netstorage://account@example-nsu.akamaihd.net/code/x?key=env:NS",
        "netstorage://a,b@example-nsu.akamaihd.net/123456?key=env:NS",
        "netstorage://account@example-nsu.akamaihd.net/123456?key=plain",
        "netstorage://account@example-nsu.akamaihd.net/123456?key=env:NS&root=a/../b",
        "netstorage://account@example-nsu.akamaihd.net/123456",
    ],
)
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        parse_url(url)
