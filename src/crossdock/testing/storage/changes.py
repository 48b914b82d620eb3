"""Deleting, renaming, making and removing folders: never more than was asked for."""

from __future__ import annotations

import pytest

from crossdock.errors import (
    AlreadyExists,
    NotADirectory,
    NotAFile,
    NotFound,
    PermissionDenied,
    StorageError,
)
from crossdock.storage.storage import Storage
from crossdock.testing.storage.base import MISSING, Peer, SuiteBase, content, listed, unsupported


class DeleteCases(SuiteBase):
    async def test_delete_removes_the_file_alone(self, storage: Storage, peer: Peer | None) -> None:
        """The file is gone, its neighbours are not."""
        for path in ("folder/one", "folder/one.bak", "folder/two"):
            await storage.write_bytes(path, b"x")
        await storage.delete("folder/one")
        assert await self.names(storage, peer) == {"folder/one.bak", "folder/two"}
        with pytest.raises(NotFound):
            await storage.stat("folder/one")

    @pytest.mark.parametrize("path", MISSING)
    async def test_deleting_nothing_succeeds(self, storage: Storage, path: str) -> None:
        """What is missing is already deleted; a repeated delete is no error."""
        await storage.delete(path)
        await storage.delete(path)

    async def test_a_folder_is_not_deleted_as_a_file(self, storage: Storage, peer: Peer | None) -> None:
        """`delete` of a folder is NotAFile, and what is in it stays."""
        await storage.write_bytes("folder/file", b"x")
        if storage.capabilities.directories:
            with pytest.raises(NotAFile):
                await storage.delete("folder")
        else:
            await storage.delete("folder")
        assert await self.names(storage, peer) == {"folder/file"}

    async def test_the_root_stays(self, storage: Storage, peer: Peer | None) -> None:
        """It is no file to read, delete or move, and no folder to remove, be it empty."""
        for name in ("before", "after"):
            for call in (
                lambda: storage.delete(""),
                lambda: storage.remove_dir(""),
                lambda: storage.rename("", "new"),
                lambda name=name: storage.rename(name, "", overwrite=True),
                lambda: storage.read_bytes(""),
            ):
                with pytest.raises(StorageError):
                    await call()
            await storage.write_bytes("after", b"x")
            await self.holds(storage, peer, "after", b"x")


class RenameCases(SuiteBase):
    async def test_rename(self, storage: Storage, peer: Peer | None) -> None:
        """The bytes are under the new name, and only there."""
        if not storage.capabilities.rename:
            await storage.write_bytes("old", b"x")
            await unsupported(storage.rename("old", "new"))
            assert await self.names(storage, peer) == {"old"}
            return
        await storage.write_bytes("old", content(1000))
        await storage.rename("old", "new")
        await self.holds(storage, peer, "new", content(1000))
        assert await self.names(storage, peer) == {"new"}

    async def test_rename_makes_folders(self, storage: Storage, peer: Peer | None) -> None:
        """Folders above the new name are made: an archive need not be prepared."""
        if not storage.capabilities.rename:
            await unsupported(storage.rename("old", "x/y/new"))
            return
        await storage.write_bytes("old", content(1000))
        await storage.rename("old", "x/y/new")
        await self.holds(storage, peer, "x/y/new", content(1000))
        assert await self.names(storage, peer) == {"x/y/new"}

    async def test_rename_does_not_replace(self, storage: Storage, peer: Peer | None) -> None:
        """Without `overwrite` a file in the way is AlreadyExists, and both stay as they are."""
        if not storage.capabilities.rename:
            await unsupported(storage.rename("old", "new"))
            return
        await storage.write_bytes("old", b"mine")
        await storage.write_bytes("new", b"theirs")
        with pytest.raises(AlreadyExists):
            await storage.rename("old", "new")
        await self.holds(storage, peer, "old", b"mine")
        await self.holds(storage, peer, "new", b"theirs")

    async def test_rename_replaces_when_told(self, storage: Storage, peer: Peer | None) -> None:
        """With `overwrite` the file in the way is replaced, and nothing is left aside."""
        if not storage.capabilities.rename:
            await unsupported(storage.rename("old", "new", overwrite=True))
            return
        await storage.write_bytes("old", b"mine")
        await storage.write_bytes("new", b"theirs, longer")
        await storage.rename("old", "new", overwrite=True)
        await self.holds(storage, peer, "new", b"mine")
        assert await self.names(storage, peer) == {"new"}

    async def test_rename_onto_itself(self, storage: Storage, peer: Peer | None) -> None:
        """Its own name is taken by a file that is never lost for that."""
        if not storage.capabilities.rename:
            return
        await storage.write_bytes("name", b"mine")
        with pytest.raises(AlreadyExists):
            await storage.rename("name", "name")
        await storage.rename("name", "name", overwrite=True)
        await self.holds(storage, peer, "name", b"mine")
        assert await self.names(storage, peer) == {"name"}

    async def test_rename_of_nothing(self, storage: Storage, peer: Peer | None) -> None:
        """NotFound, and what has the new name already stays."""
        if not storage.capabilities.rename:
            await unsupported(storage.rename("old", "new"))
            return
        await storage.write_bytes("new", b"theirs")
        for overwrite in (False, True):
            with pytest.raises((NotFound, AlreadyExists) if not overwrite else NotFound):
                await storage.rename("old", "new", overwrite=overwrite)
            await self.holds(storage, peer, "new", b"theirs")
        assert await self.names(storage, peer) == {"new"}

    async def test_rename_onto_a_folder(self, storage: Storage, peer: Peer | None) -> None:
        """A folder is never replaced by a file."""
        if not storage.capabilities.rename or not storage.capabilities.directories:
            return
        await storage.write_bytes("old", b"mine")
        await storage.write_bytes("folder/file", b"theirs")
        for overwrite in (False, True):
            with pytest.raises((NotAFile, AlreadyExists)):
                await storage.rename("old", "folder", overwrite=overwrite)
        assert await self.names(storage, peer) == {"old", "folder/file"}


class FolderCases(SuiteBase):
    async def test_make_dir(self, storage: Storage) -> None:
        """The folder and those above it are made; making it again is fine."""
        if not storage.capabilities.directories:
            await unsupported(storage.make_dir("a/b"))
            return
        await storage.make_dir("a/b/c")
        await storage.make_dir("a/b/c")
        assert (await storage.stat("a/b/c")).kind == "dir"
        assert [(entry.path, entry.kind) for entry in await listed(storage, "a/b")] == [("a/b/c", "dir")]
        assert await listed(storage, "a/b/c") == []

    async def test_make_dir_where_a_file_is(self, storage: Storage) -> None:
        """A file in the way is NotADirectory, and stays."""
        if not storage.capabilities.directories:
            await unsupported(storage.make_dir("file"))
            return
        await storage.write_bytes("file", b"x")
        for path in ("file", "file/below"):
            with pytest.raises(NotADirectory):
                await storage.make_dir(path)
        assert await storage.read_bytes("file") == b"x"

    async def test_remove_dir(self, storage: Storage) -> None:
        """An empty folder is removed, alone; what is missing is already removed."""
        if not storage.capabilities.directories:
            await unsupported(storage.remove_dir("a"))
            return
        await storage.make_dir("a/b")
        await storage.remove_dir("a/b")
        await storage.remove_dir("a/b")
        assert not await storage.exists("a/b")
        assert (await storage.stat("a")).kind == "dir"

    async def test_remove_dir_keeps_what_is_not_empty(self, storage: Storage, peer: Peer | None) -> None:
        """A folder with something in it stays, whole."""
        if not storage.capabilities.directories:
            await unsupported(storage.remove_dir("a"))
            return
        await storage.write_bytes("a/file", b"x")
        with pytest.raises(PermissionDenied):
            await storage.remove_dir("a")
        assert await self.names(storage, peer) == {"a/file"}

    async def test_remove_dir_of_a_file(self, storage: Storage) -> None:
        """A file is not removed as a folder."""
        if not storage.capabilities.directories:
            await unsupported(storage.remove_dir("file"))
            return
        await storage.write_bytes("file", b"x")
        with pytest.raises(NotADirectory):
            await storage.remove_dir("file")
        assert await storage.read_bytes("file") == b"x"
