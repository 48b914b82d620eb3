"""From a type or a URL to the backend that it stands for."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from typing import Self
from urllib.parse import SplitResult

import pytest

from crossdock.errors import ConfigError, ConnectionFailed, ProtocolViolation
from crossdock.storage import registry
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.registry import backend_types, new_storage, parse_url, settings_class
from crossdock.storage.retry import RetryPolicy
from crossdock.storage.settings import EndpointSettings

URLS = {
    "ftp": "ftp://host/name",
    "ftpes": "ftpes://host/name",
    "ftps": "ftps://host/name",
    "local": "file:///folder/name",
    "memory": "memory:///name",
    "netstorage": "netstorage://key@host/123/name?key=env:KEY",
    "s3": "s3://bucket/name",
    "sftp": "sftp://host/name",
}
"""Type → a location there."""


@pytest.mark.parametrize("kind", backend_types())
def test_every_type_has_a_backend(kind: str) -> None:
    settings, path = parse_url(URLS[kind])
    assert isinstance(settings, settings_class(kind))
    backend = new_storage("there", settings).backend
    assert (settings.type, backend.endpoint, path) == (kind, "there", "name")


@pytest.mark.parametrize("kind", ["ftp", "netstorage", "s3", "sftp"])
async def test_one_that_is_not_open_says_so(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "k")
    settings, path = parse_url(URLS[kind])
    storage = new_storage("there", settings)
    for unopened in (storage.stat(path), storage.write_bytes(path, b"1")):
        with pytest.raises(ProtocolViolation, match=r": it is not open\. Next: use the storage inside 'async with'"):
            await unopened


def test_installed_types_are_searched_for_what_is_not_built_in_and_replace_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def installed(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint("drawer", f"{__name__}:Others", group), EntryPoint("s3", f"{__name__}:Others", group)]

    backend_types.cache_clear()
    monkeypatch.setattr(registry, "entry_points", installed)
    try:
        assert parse_url("s3://bucket/name")[0].type == "s3"
        assert not asked
        assert isinstance(parse_url("drawer://a/name")[0], Others)
        assert settings_class("s3") is not Others
        with pytest.raises(ConfigError, match=r"unknown endpoint type 'drawr'.*drawer"):
            settings_class("drawr")
        assert asked == ["crossdock.storage"]
    finally:
        backend_types.cache_clear()


@pytest.mark.parametrize("query", ["password=hunter2", "proxy=socks5://me:hunter2@proxy:1"])
def test_a_secret_that_is_written_out_is_not_repeated(query: str) -> None:
    with pytest.raises(ConfigError, match=f"^sftp://host/name: {query.partition('=')[0]}") as caught:
        parse_url(f"sftp://host/name?{query}")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("password", ["hunter2", "hunter2/", "hunter#2", "hunt?er2", "hunter[2"])
@pytest.mark.parametrize("host", ["host", "host:22"])
def test_a_password_in_a_url_is_not_repeated(password: str, host: str) -> None:
    with pytest.raises(ConfigError, match=f"^sftp://me:…@{host}/name: a password in a URL") as caught:
        parse_url(f"sftp://me:{password}@{host}/name")
    assert "hunt" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["sftp://[::1", "sftp://[x]/name", "s3://[/x", "sftp://host:ssh/", "sftp://me@host:99999/"]
)
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(url)}: ") as caught:
        parse_url(url)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("url", "told"), [("sftp://", "host: it is missing"), ("sftp://h/?x=1", "x: there is no such setting")]
)
def test_what_is_wrong_with_a_url_is_told_in_our_words(url: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(url.partition('?')[0])}: {told}"):
        parse_url(url)


class Others(EndpointSettings):
    """Settings of somebody else's package."""

    type: str = "others"

    @classmethod
    def from_url(cls, url: SplitResult) -> tuple[Self, str]:
        return cls(), url.path


class Shelf(MemoryBackend):
    """A backend of somebody else's package."""

    def __init__(self, settings: Others, endpoint: str) -> None:
        super().__init__(endpoint)
        self.settings = settings


def test_settings_name_a_backend_of_another_package() -> None:
    class OnShelf(Others):
        backend_class = f"{__name__}:Shelf"

    settings = OnShelf()
    found = settings.backend("shelf")
    assert isinstance(found, Shelf)
    assert (found.endpoint, found.settings) == ("shelf", settings)


def test_a_backend_whose_library_is_missing_says_what_to_install() -> None:
    class Missing(Others):
        backend_class = "aiohttp.that_is_not_installed:Backend"

    with pytest.raises(ConfigError, match="type others needs the package aiohttp") as caught:
        new_storage("shelf", Missing())
    assert caught.value.hint == "pip install 'crossdock[others]'"


def test_another_module_that_is_missing_is_not_blamed_on_an_extra() -> None:
    class Broken(Others):
        backend_class = "crossdock.storage.nowhere:Backend"

    with pytest.raises(ModuleNotFoundError, match=r"crossdock\.storage\.nowhere"):
        new_storage("shelf", Broken())


@pytest.mark.parametrize(
    "url",
    [
        "ftp://me@a..b/name",
        "netstorage://key@a..b/123/name?key=env:SECRET",
        "s3://bucket/name?endpoint_url=http://a..b&anonymous=true",
        "sftp://me@a..b/name?password=env:SECRET&host_key=SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDQi9ml8BnMiWh8ZlQ",
    ],
)
async def test_a_host_that_cannot_be_is_an_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the name would be in the DNS is asked first, which raises `UnicodeError`."""
    monkeypatch.setenv("SECRET", "secret")
    settings, path = parse_url(url)
    with pytest.raises(ConnectionFailed, match=r"a\.\.b"):
        async with new_storage("there", settings, retry=RetryPolicy(attempts=1)) as storage:
            await storage.stat(path)
