"""Local disk: modes, flushing, and endpoints as URLs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from crossdock.errors import (
    ConfigError,
)
from crossdock.storage.base import WriteOptions
from crossdock.storage.local import LocalSettings
from crossdock.storage.registry import parse_url
from crossdock.storage.staging import is_temporary
from crossdock.storage.storage import Storage


class TestModes:
    async def test_modes_are_as_set_whatever_the_umask(self, tmp_path: Path) -> None:
        """0640 and 0750 unless the endpoint says otherwise; a temporary is its owner's alone."""
        old = os.umask(0o077)
        try:
            async with Storage(LocalSettings(root=tmp_path).backend("disk")) as storage:
                async with storage.write("a/b/name") as writer:
                    await writer.write(bytes(2 << 20))
                    (staged,) = (tmp_path / "a" / "b").iterdir()
                    assert is_temporary(staged.name)
                    assert staged.stat().st_mode & 0o777 == 0o600
                await storage.write_bytes("a/b/name", b"x")
            async with Storage(
                LocalSettings(root=tmp_path, file_mode="0664", dir_mode="0775").backend("disk")
            ) as storage:
                await storage.write_bytes("c/name", b"x")
        finally:
            os.umask(old)
        modes = {path: (tmp_path / path).stat().st_mode & 0o777 for path in ("a", "a/b", "a/b/name", "c", "c/name")}
        assert modes == {"a": 0o750, "a/b": 0o750, "a/b/name": 0o640, "c": 0o775, "c/name": 0o664}

    async def test_folders_hand_down_their_group(self, tmp_path: Path) -> None:
        """setgid, as shared folders have it: what is made below belongs to the same group, however deep."""
        tmp_path.chmod(0o2770)
        async with Storage(LocalSettings(root=tmp_path).backend("disk")) as storage:
            await storage.write_bytes("a/b/name", b"x")
        assert {(tmp_path / path).stat().st_mode & 0o7777 for path in ("a", "a/b")} == {0o2750}

    @pytest.mark.parametrize("fsync", [True, False])
    async def test_fsync_can_be_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: bool) -> None:
        """With it, the file and its folder are flushed before `commit` returns, and what is kept to be resumed."""
        flushed: list[str] = []
        real = os.fsync

        def noted(file: int) -> None:
            flushed.append(os.readlink(f"/proc/self/fd/{file}"))
            real(file)

        monkeypatch.setattr(os, "fsync", noted)
        async with Storage(LocalSettings(root=tmp_path, fsync=fsync).backend("disk")) as storage:
            await storage.write_bytes("name", b"x")
            writer = await storage.begin_write("name", WriteOptions())
            await writer.write(bytes(2 << 20))
            await writer.suspend()
        if fsync:
            assert [is_temporary(path) for path in flushed] == [True, False, True]
            assert flushed[1] == str(tmp_path)
        else:
            assert flushed == []


class TestSettings:
    def test_a_url_is_a_name_in_its_folder(self) -> None:
        """Links above the last component are as the user meant; with a slash at the end it is the folder."""
        assert [(str(s.root), path) for s, path in (parse_url("file:///a/b%20c/d%2Be"), parse_url("file:///a/b/"))] == [
            ("/a/b c", "d+e"),
            ("/a/b", ""),
        ]

    def test_options_in_a_url(self) -> None:
        """Every setting can be given."""
        settings, _ = parse_url("file:///a/b?fsync=false&file_mode=0600")
        assert isinstance(settings, LocalSettings)
        assert (settings.fsync, settings.file_mode) == (False, "0600")

    @pytest.mark.parametrize("url", ["file://host/a", "file:a/b", "file:///a?nonsense=1", "file:///a?file_mode=9"])
    def test_a_wrong_url_is_refused(self, url: str) -> None:
        """With a message that names it, but for its query, which may hold a secret."""
        with pytest.raises(ConfigError, match=re.escape(url.partition("?")[0])):
            parse_url(url)

    @pytest.mark.parametrize("mode", [416, "rw-r-----", "640 ", "07777"])
    def test_modes_are_octal_digits_in_quotes(self, mode: object) -> None:
        """YAML reads an unquoted 0640 as the number 416."""
        with pytest.raises(ValidationError, match="octal digits in quotes"):
            LocalSettings.model_validate({"root": "/tmp", "file_mode": mode})
