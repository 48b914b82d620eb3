"""SFTP endpoints as URLs."""

from __future__ import annotations

import pytest

from crossdock.errors import ConfigError
from crossdock.storage.registry import parse_url
from crossdock.storage.sftp import SftpSettings


def test_urls() -> None:
    settings, path = parse_url("sftp://me@example.com:2222/in/a%20b?timeout=5s&links=follow")
    assert isinstance(settings, SftpSettings)
    assert (settings.host, settings.port, settings.user, settings.root, path) == (
        "example.com",
        2222,
        "me",
        "/",
        "in/a b",
    )
    assert (settings.timeout, settings.links) == (5, "follow")
    settings, path = parse_url("sftp://example.com/~/in/x")
    assert isinstance(settings, SftpSettings)
    assert (settings.root, path) == ("", "in/x")
    for written, meant in (("true", True), ("false", False), ("partner", "partner")):
        settings, _ = parse_url(f"sftp://example.com/x?ssh_config={written}")
        assert isinstance(settings, SftpSettings)
        assert settings.ssh_config == meant


@pytest.mark.parametrize(
    "url",
    [
        "sftp://me:secret@example.com/x",
        "sftp:///x",
        "sftp://example.com/x?root=/y",
        "sftp://example.com/x?host=elsewhere",
        "sftp://example.com/x?nonsense=1",
        "sftp://example.com/x?proxy=ftp://h:1",
        "sftp://example.com/x?proxy=http://me:pw@h:1",
        "sftp://example.com/x?encoding=klingon",
        "sftp://example.com/x?encoding=base64",
        "sftp://example.com/x?encoding=idna",
        "sftp://example.com/x?encoding=utf-16",
        "sftp://example.com:99999/x",
        "sftp://example.com/x?jump=h:99999",
        "sftp://example.com/x?jump=h:ssh",
        "sftp://example.com/x?jump=me@:22",
    ],
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)
