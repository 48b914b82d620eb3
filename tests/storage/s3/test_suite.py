"""The whole contract, at each server and in each shape that changes what is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from crossdock.errors import AlreadyExists, SourceChanged, Unsupported
from crossdock.storage.base import Entry
from crossdock.storage.retry import Retry
from crossdock.storage.storage import Storage
from crossdock.testing import Peer, StorageSuite
from crossdock.testing.storage.base import content, read_all
from crossdock.testing.storage.conflicts import CREATE
from crossdock.testing.storage.names import NAMES
from tests.storage.s3.places import AT_ONCE, MIB, BotoPeer, Server, backend, bucket

_BEYOND_MOTO = {"newline", "carriage return", "command after CRLF", "escape sequence", "not a character"}
_AT_MOTO = {label: name for label, name in NAMES.items() if label not in _BEYOND_MOTO}


class _S3Suite(StorageSuite):
    names_refused = frozenset({"not UTF-8", "Latin-1"})
    max_name = None
    max_path = 1024
    # One part at a time: the suite asks for a checkpoint at a moment when only then a part is sure to be stored.
    settings: ClassVar[dict[str, Any]] = {"part_size": "5M", "part_concurrency": 1}
    versioned: ClassVar[bool] = False

    @pytest.fixture
    def server(self) -> Server:
        raise NotImplementedError

    @pytest.fixture
    def peer(self, server: Server) -> Iterator[BotoPeer]:
        with bucket(server, versioned=self.versioned) as found:
            root = self.settings.get("root", "")
            found.prefix = root + "/" if root else ""
            yield found

    @pytest.fixture
    async def storage(self, server: Server, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Storage]:
        # With its retries: Ceph answers a GET with 500 if the object is replaced at that moment.
        inner = backend(server, peer.bucket, monkeypatch, **self.settings)
        async with Storage(Retry(inner, AT_ONCE)) as storage:
            yield storage

    async def test_all_ranges_are_of_one_version(self, storage: Storage) -> None:
        """Replaced under the reader, a version is read to its end; where nothing keeps it, that is `SourceChanged`."""
        data = content(self.large_size)
        await storage.write_bytes("name", data)
        found = b""
        async with storage.read("name") as reader:
            found += await reader.read()
            await storage.write_bytes("name", content(1000, 3))
            if self.versioned:
                assert found + await read_all(reader) == data
            else:
                with pytest.raises(SourceChanged):
                    await read_all(reader)


class TestCeph(_S3Suite):
    @pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
    async def test_names_to_rename_to(self, storage: Storage, peer: Peer | None, name: str) -> None:
        """Ceph takes a part of one name for a version when it copies in parts, as what may not replace is copied."""
        try:
            await super().test_names_to_rename_to(storage, peer, name)
        except Unsupported as error:
            assert "?versionId=" in name and "for another object" in str(error) and storage.capabilities.create_new
            assert await self.names(storage, peer) == {name}

    @pytest.fixture
    def server(self, ceph: Server) -> Server:
        return ceph


class TestCephBelowAPrefix(TestCeph):
    settings: ClassVar[dict[str, Any]] = {
        "part_size": "5M",
        "part_concurrency": 1,
        "root": "some/where",
        "copy_threshold": "5M",
        "copy_part_size": "5M",
    }
    max_path = 1024 - len("some/where/")


class TestCephVersioned(TestCeph):
    versioned = True

    @pytest.mark.parametrize("size", [0, 1000, 2 * MIB], ids=["empty", "small", "large"])
    async def test_of_two_creators_one_wins(self, storage: Storage, peer: Peer | None, size: int) -> None:
        """Ceph looks before it writes where it keeps versions: both may win, and then both are kept."""
        if not storage.capabilities.create_new:
            await super().test_of_two_creators_one_wins(storage, peer, size)
            return
        for turn in range(5):
            bodies = [content(size, seed) + bytes([seed]) for seed in (1, 2)]
            results = await asyncio.gather(
                *(storage.write_bytes(f"name{turn}", body, CREATE) for body in bodies), return_exceptions=True
            )
            won = [(body, found) for body, found in zip(bodies, results, strict=True) if isinstance(found, Entry)]
            assert won and all(isinstance(found, (Entry, AlreadyExists)) for found in results), results
            for body, found in won:
                version = replace(found, version=found.attributes["version-id"])
                async with storage.read(f"name{turn}", pin=version) as reader:
                    assert await read_all(reader) == body


class TestCephByFolders(TestCeph):
    settings: ClassVar[dict[str, Any]] = {"part_size": "5M", "part_concurrency": 1, "listing": "folders"}


class TestMoto(_S3Suite):
    """moto honours conditional writes. Some names it cannot route, or not list: those are Ceph's to test."""

    @pytest.mark.parametrize("name", _AT_MOTO.values(), ids=_AT_MOTO)
    async def test_names(self, storage: Storage, peer: Peer | None, name: str) -> None:
        await super().test_names(storage, peer, name)

    @pytest.mark.parametrize("name", _AT_MOTO.values(), ids=_AT_MOTO)
    async def test_names_of_folders(self, storage: Storage, peer: Peer | None, name: str) -> None:
        await super().test_names_of_folders(storage, peer, name)

    @pytest.mark.parametrize("name", _AT_MOTO.values(), ids=_AT_MOTO)
    async def test_names_to_rename_to(self, storage: Storage, peer: Peer | None, name: str) -> None:
        await super().test_names_to_rename_to(storage, peer, name)

    @pytest.fixture
    def server(self, moto: Server) -> Server:
        return moto
