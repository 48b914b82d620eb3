"""One attempt at one file that fails, and cannot clean up either: the first failure is told, and that more is left."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import ConnectionFailed, IntegrityError
from crossdock.storage.base import Entry, Expect, Reader, WriteOptions, Writer
from crossdock.storage.ftp import FtpSettings
from crossdock.storage.layers import Layer, LayeredReader, LayeredWriter
from crossdock.storage.local import LocalSettings
from crossdock.storage.settings import EndpointSettings
from crossdock.storage.sftp import SftpSettings
from crossdock.storage.staging import is_temporary
from crossdock.storage.storage import Storage
from crossdock.testing import FakeNetStorage
from crossdock.testing.cut import CutProxy
from crossdock.transfer.copy import Staged, copy
from tests.storage.netstorage.places import settings_of
from tests.transfer.places import CONTENT, pair
from tests.transfer.transforms.running import everything


class Breaking(Layer):
    """Every stream breaks after 2 MiB."""

    def _reader(self, reader: Reader, path: str) -> Reader:
        outer = self

        class Reading(LayeredReader):
            given = 0

            async def read(self) -> bytes:
                if self.given >= 2 << 20:
                    raise outer.error(ConnectionFailed, "read", path, "as told")
                data = await self.inner.read()
                self.given += len(data)
                return data

        return Reading(reader)


@pytest.mark.parametrize("resumed", [True, False])
async def test_a_disk_that_fails_as_the_file_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    """What may not have reached the disk is not gone on with; whoever comes next is to remove it."""
    call = "close" if resumed else "unlink"
    real = getattr(os, call)

    def fails(what: int | str, **more: int) -> None:
        staged = is_temporary(what if isinstance(what, str) else os.readlink(f"/proc/self/fd/{what}"))
        if not staged or call == "close":
            real(what, **more)
        if staged:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    tokens: list[bytes] = []
    async with pair() as (source, _), Storage(LocalSettings(root=tmp_path).backend("disk")) as disk:
        monkeypatch.setattr(os, call, fails)
        with pytest.raises(ConnectionFailed, match="as told") as caught:
            broken = Storage(Breaking(source.backend))
            await copy(broken, "in/file.bin", disk, "f", on_checkpoint=tokens.append if resumed else None)
        monkeypatch.undo()
    assert [is_temporary(name) for name in os.listdir(tmp_path)] == [True]
    assert caught.value.leaves
    assert ["the quota is used up" in note for note in caught.value.__notes__] == [True]
    assert tokens == []


class Publishing(Layer):
    """A commit that ends with this error, before or after the file was published."""

    def __init__(self, inner: Storage, error: type[ConnectionFailed | IntegrityError], *, done: bool) -> None:
        super().__init__(inner.backend)
        self._error, self._done = error, done

    def _writer(self, writer: Writer, path: str) -> Writer:
        outer = self

        class Writing(LayeredWriter):
            async def commit(self, expect: Expect) -> Entry:
                if outer._done:
                    await self.inner.commit(expect)
                if issubclass(outer._error, ConnectionFailed):
                    raise outer.error(outer._error, "write", path, "as told")
                raise outer._error("as told")

        return Writing(writer)


@pytest.mark.parametrize(
    ("error", "done", "left"),
    [(ConnectionFailed, False, "staged"), (ConnectionFailed, True, "file"), (IntegrityError, False, "nothing")],
)
async def test_a_connection_that_is_lost_while_it_is_published(
    error: type[ConnectionFailed | IntegrityError], done: bool, left: str
) -> None:
    """Whether it was published is for the next attempt to find out: were it removed, it would look published."""
    told: list[Staged] = []

    async def recorded(staged: Staged) -> None:
        told.append(staged)

    async with pair() as (source, memory):
        target = Storage(Publishing(memory, error, done=done))
        with pytest.raises(error, match="as told"):
            await copy(source, "in/file.bin", target, "f", on_staged=recorded)
        names = await everything(memory)
        if left == "file":
            assert names == ["f"] and await memory.read_bytes("f") == CONTENT
        else:
            assert [is_temporary(name) for name in names] == ([True] if left == "staged" else [])
        assert (told[-1].sha256 is None) is (left == "nothing")


async def test_a_store_that_has_copied_other_than_all() -> None:
    class Short(Layer):
        async def server_copy(
            self, address: str, path: str, options: WriteOptions, *, pin: Entry | None = None
        ) -> Entry:
            found = await super().server_copy(address, path, options, pin=pin)
            return replace(found, size=len(CONTENT) - 1)

    async with pair() as (source, _):
        with pytest.raises(IntegrityError, match="3000001 bytes became 3000000"):
            await copy(source, "in/file.bin", Storage(Short(source.backend)), "f")


@asynccontextmanager
async def _behind(wire: CutProxy, kind: str, monkeypatch: pytest.MonkeyPatch, server: Any) -> AsyncIterator[Storage]:
    monkeypatch.setenv("SECRET", server.key if kind == "netstorage" else "")
    settings: EndpointSettings
    if kind == "sftp":
        settings = SftpSettings.model_validate(server.settings(root=os.fspath(server.folder), port=wire.port))
    elif kind == "ftp":
        settings = FtpSettings.model_validate(server.settings(port=wire.port))
    else:
        settings = settings_of(server, monkeypatch, port=wire.port, buffer=0)
    async with Storage(settings.backend("there")) as storage:
        yield storage


@pytest.mark.parametrize("kind", ["sftp", "ftp", "netstorage"])
async def test_a_host_that_goes_away_in_the_middle(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be cleaned up there; unless that is told, nobody comes back for it once a newer file has the name."""
    async with AsyncExitStack() as stack:
        if kind == "netstorage":
            server: Any = await stack.enter_async_context(FakeNetStorage())
        else:
            server = request.getfixturevalue("openssh" if kind == "sftp" else "vsftpd")
        wire = await stack.enter_async_context(CutProxy("127.0.0.1", server.port))
        source, _ = await stack.enter_async_context(pair())
        target = await stack.enter_async_context(_behind(wire, kind, monkeypatch, server))
        moved = 0

        def go_away(size: int) -> None:
            nonlocal moved
            moved += size
            if moved > len(CONTENT) // 2 and not wire.refusing:
                wire.refusing = True
                wire.cut_now()

        with pytest.raises(ConnectionFailed) as caught:
            await copy(source, "in/file.bin", target, "f", progress=go_away)
        assert caught.value.leaves
        assert "cleaning up failed as well" in caught.value.__notes__[0]
        wire.heal()
        assert not await target.exists("f")
