"""Looking and listing: what there is, and what there is not."""

from __future__ import annotations

import hashlib
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from crossdock.errors import (
    InvalidPath,
    NotADirectory,
    NotAFile,
    NotFound,
    StorageError,
    Unsupported,
)
from crossdock.storage.base import WriteOptions
from crossdock.storage.storage import Storage
from crossdock.testing.storage.base import LONG_AGO, MISSING, Peer, SuiteBase, content, listed, walked


class LookCases(SuiteBase):
    async def test_an_empty_root_lists_nothing(self, storage: Storage) -> None:
        """The root is there from the start, and empty."""
        assert await listed(storage) == []
        assert await walked(storage) == []

    @pytest.mark.parametrize("path", MISSING)
    async def test_stat_of_nothing_is_not_found(self, storage: Storage, path: str) -> None:
        """`stat` raises NotFound for what is not there, and `exists` is then False."""
        with pytest.raises(NotFound) as caught:
            await storage.stat(path)
        assert caught.value.path == path
        assert not await storage.exists(path)

    @pytest.mark.parametrize("path", MISSING)
    async def test_reading_nothing_is_not_found(self, storage: Storage, path: str) -> None:
        """`read` raises NotFound for what is not there."""
        with pytest.raises(NotFound):
            await storage.read_bytes(path)

    @pytest.mark.parametrize("path", MISSING)
    async def test_listing_nothing_is_not_found(self, storage: Storage, path: str) -> None:
        """A folder that is not there is NotFound, never an empty listing; an object store has no folders to miss."""
        try:
            found = await listed(storage, path)
        except NotFound:
            return
        assert not storage.capabilities.directories
        assert found == []

    @pytest.mark.parametrize("path", MISSING)
    async def test_walking_nothing_is_not_found(self, storage: Storage, path: str) -> None:
        """The same for `walk`."""
        try:
            found = await walked(storage, path)
        except NotFound:
            return
        assert not storage.capabilities.directories
        assert found == []

    async def test_an_error_names_operation_endpoint_and_path(self, storage: Storage) -> None:
        """Whoever reads the message knows what was tried, where, and on which file."""
        with pytest.raises(StorageError) as caught:
            await storage.stat("no/such file")
        error = caught.value
        assert (error.endpoint, error.path) == (storage.endpoint, "no/such file")
        assert error.operation
        for part in (error.operation, error.endpoint, error.path):
            assert part in str(error)

    async def test_nothing_is_below_a_file(self, storage: Storage) -> None:
        """What would be below a file is not there."""
        await storage.write_bytes("file", b"x")
        assert not await storage.exists("file/below")
        with pytest.raises(NotFound):
            await storage.read_bytes("file/below")

    async def test_a_file_describes_itself(self, storage: Storage) -> None:
        """`stat` tells path, kind and size; the time, where told, is aware and in UTC."""
        before = datetime.now(UTC)
        await storage.write_bytes("folder/name.csv", b"12345")
        entry = await storage.stat("folder/name.csv")
        assert (entry.path, entry.kind, entry.size) == ("folder/name.csv", "file", 5)
        if entry.modified is not None:
            assert entry.modified.utcoffset() == timedelta(0)
            assert abs(entry.modified - before) < timedelta(minutes=10)

    async def test_digest(self, storage: Storage) -> None:
        """Content is hashed where it lies by exactly the algorithms that are declared."""
        held = {"name": content(300_000), "folder/a": b"", "folder/b": content(17), "other/a": content(1_048_576)}
        for path, data in held.items():
            await storage.write_bytes(path, data)
        for algorithm in ("md5", "sha256"):
            if algorithm in storage.capabilities.hashes:
                expected = [hashlib.new(algorithm, data).hexdigest() for data in held.values()]
                assert await storage.digests(list(held), algorithm) == expected
                assert await storage.digests([], algorithm) == []
                with pytest.raises(NotFound):
                    await storage.digests(["name", "folder/a", "folder/missing"], algorithm)
            else:
                with pytest.raises(Unsupported):
                    await storage.digests(["name"], algorithm)

    async def test_commit_scan_walk_and_stat_agree(self, storage: Storage) -> None:
        """One file has one fingerprint, whoever reports it: else every poll would take it for a new file."""
        for options in (WriteOptions(), WriteOptions(modified=LONG_AGO)):
            committed = await storage.write_bytes("folder/name", content(1000), options)
            stat = await storage.stat("folder/name")
            (scanned,) = await listed(storage, "folder")
            (found,) = [entry async for entry in storage.walk()]
            for entry in (scanned, found, committed):
                assert (entry.path, entry.kind, entry.size) == ("folder/name", "file", 1000)
                assert entry.fingerprint == stat.fingerprint

    async def test_proving_times_changes_nothing(self, storage: Storage) -> None:
        """A file that is sent again for its time alone is asked about first, and may be one that stays."""
        await storage.write_bytes("name", content(1000), WriteOptions(modified=LONG_AGO))
        entry = await storage.stat("name")
        await storage.backend.prove_times(entry)
        assert await storage.stat("name") == entry
        assert await storage.read_bytes("name") == content(1000)

    async def test_the_fingerprint_changes_with_the_content(self, storage: Storage) -> None:
        """Other bytes of equal size are another file; where only the time tells, the time does."""
        if storage.capabilities.mtime_precision is None and (await storage.write_bytes("probe", b"x")).etag is None:
            pytest.fail("neither times nor etags: a changed file could not be noticed")
        first = await storage.write_bytes("name", b"aaaa", WriteOptions(modified=LONG_AGO))
        second = await storage.write_bytes("name", b"bbbb", WriteOptions(modified=LONG_AGO + timedelta(seconds=2)))
        assert first.fingerprint != second.fingerprint
        assert (await storage.stat("name")).fingerprint == second.fingerprint

    @pytest.mark.parametrize(
        "modified",
        [
            LONG_AGO,
            datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC),
            datetime(2000, 2, 29, 23, 59, 59, 999999, tzinfo=UTC),
            datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
            datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
            datetime(2060, 1, 1, tzinfo=UTC),
        ],
        ids=str,
    )
    async def test_the_time_is_kept(self, storage: Storage, modified: datetime) -> None:
        """A modification time is kept within the precision declared; where none is, the file is stored all the same."""
        entry = await storage.write_bytes("name", b"x", WriteOptions(modified=modified))
        precision = storage.capabilities.mtime_precision
        if precision is not None:
            listing = await listed(storage) if storage.capabilities.lists_mtime else []
            for told in (entry, await storage.stat("name"), *listing):
                assert told.modified is not None
                assert abs(told.modified - modified) < max(precision, timedelta(microseconds=1))
        assert await storage.read_bytes("name") == b"x"

    @pytest.mark.parametrize("year", [1960, 2107, 2500])
    async def test_a_time_that_cannot_be_kept_is_no_error(self, storage: Storage, year: int) -> None:
        """Times before 1970 and after 2106 do not fit every protocol: the nearest that does is kept."""
        modified = datetime(year, 1, 1, tzinfo=UTC)
        await storage.write_bytes("name", b"x", WriteOptions(modified=modified))
        assert await storage.read_bytes("name") == b"x"
        able = storage.capabilities
        if able.mtime_precision is not None and able.mtime_range is not None:
            found = (await storage.stat("name")).modified
            assert found is not None
            assert abs(found - able.kept(modified)) < able.mtime_precision

    async def test_scan_shows_direct_children_only(self, storage: Storage) -> None:
        """Folders and files, each once, with paths from the root."""
        for path in ("top", "folder/one", "folder/two", "folder/deep/three"):
            await storage.write_bytes(path, b"x")
        assert {(entry.path, entry.kind) for entry in await listed(storage)} == {("top", "file"), ("folder", "dir")}
        assert {(entry.path, entry.kind) for entry in await listed(storage, "folder")} == {
            ("folder/one", "file"),
            ("folder/two", "file"),
            ("folder/deep", "dir"),
        }

    async def test_a_listing_is_of_one_folder_not_of_a_prefix(self, storage: Storage) -> None:
        """`user1` does not list `user10`: names that begin alike are strangers."""
        await storage.write_bytes("home/user1/mine", b"x")
        await storage.write_bytes("home/user10/other", b"x")
        assert [entry.path for entry in await listed(storage, "home/user1")] == ["home/user1/mine"]
        assert await walked(storage, "home/user1") == ["home/user1/mine"]

    async def test_listing_a_file_is_not_a_directory(self, storage: Storage) -> None:
        """A file has no children to list."""
        await storage.write_bytes("folder/file", b"x")
        if storage.capabilities.directories:
            with pytest.raises(NotADirectory):
                await listed(storage, "folder/file")
        else:
            try:
                assert await listed(storage, "folder/file") == []
            except (NotFound, NotADirectory):
                pass

    async def test_a_big_folder_is_listed_whole(self, storage: Storage, peer: Peer | None) -> None:
        """More entries than fit a page: each exactly once, by `scan` and, in order, by `walk`."""
        wanted = [f"big/{number:05}" for number in range(self.many)]
        await self.fill(storage, peer, [(path, b"x") for path in wanted])
        assert sorted(entry.path for entry in await listed(storage, "big")) == wanted
        assert await walked(storage) == wanted

    async def test_walk_is_in_the_order_of_the_paths(self, storage: Storage) -> None:
        """Ascending by code points, across folders, so that two listings can be merged."""
        paths = ["a-b/x", "a.csv", "a/b/c", "a/z", "a0", "B", "b", "b/".rstrip("/") + "c/d", "é", "z/é", "zz"]
        for path in paths:
            await storage.write_bytes(path, b"x")
        assert await walked(storage) == sorted(paths)

    async def test_walk_goes_deep(self, storage: Storage) -> None:
        """Thirty folders down there is still a file to find."""
        path = "/".join(f"d{depth}" for depth in range(30)) + "/file"
        await storage.write_bytes(path, b"deep")
        assert await walked(storage) == [path]
        assert await storage.read_bytes(path) == b"deep"

    async def test_a_listing_can_be_left(self, storage: Storage, peer: Peer | None) -> None:
        """Stopping early gives everything back: the endpoint works on."""
        await self.fill(storage, peer, [(f"f{number}", b"x") for number in range(20)])
        for _ in range(20):
            async with aclosing(storage.scan()) as entries:
                async for _entry in entries:
                    break
            async with aclosing(storage.walk()) as entries:
                async for _entry in entries:
                    break
        assert len(await listed(storage)) == 20

    async def test_a_listing_holds_nothing_between_entries(self, storage: Storage, peer: Peer | None) -> None:
        """Files can be moved while they are being listed."""
        await self.fill(storage, peer, [(f"f{number}", b"x") for number in range(10)])
        seen = []
        async with aclosing(storage.scan()) as entries:
            async for entry in entries:
                seen.append(entry.path)
                assert await storage.read_bytes(entry.path) == b"x"
                await storage.delete(entry.path)
        assert sorted(seen) == sorted(f"f{number}" for number in range(10))
        assert await listed(storage) == []

    async def test_a_folder_cannot_be_read(self, storage: Storage) -> None:
        """A folder is NotAFile to a reader; an object store has no such name."""
        await storage.write_bytes("folder/file", b"x")
        with pytest.raises(NotAFile if storage.capabilities.directories else NotFound):
            await storage.read_bytes("folder")

    @pytest.mark.parametrize("path", ["a/../b", "..", "./a", "a/", "/a", "a//b", "a\0b"])
    async def test_every_operation_refuses_a_path_that_could_escape(self, storage: Storage, path: str) -> None:
        """`..`, empty components and NUL go nowhere, in any operation; an object store's keys only have NUL to fear."""
        if not storage.capabilities.directories and "\0" not in path:
            return
        for action in (
            storage.stat(path),
            storage.read_bytes(path),
            storage.write_bytes(path, b"x"),
            storage.delete(path),
            storage.rename(path, "b"),
            storage.rename("b", path),
            storage.make_dir(path),
            storage.remove_dir(path),
            listed(storage, path),
            walked(storage, path),
        ):
            with pytest.raises(InvalidPath):
                await action
        assert await self.tree(storage) == []
