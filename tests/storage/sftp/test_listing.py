"""Listings by servers that lie, fail midway, or never end."""

from __future__ import annotations

import stat

import pytest

from crossdock.errors import CrossdockError, NotADirectory, NotFound, PermissionDenied, ProtocolViolation
from crossdock.storage.sftp import codec as c
from crossdock.storage.sftp.codec import U32, text
from tests.storage.sftp.fake_server import EOF, FAILURE, FakeSftp, status
from tests.storage.sftp.places import served


@pytest.mark.parametrize("name", [b"../up", b"a/b", b"nul\0", b""])
async def test_names_that_lead_elsewhere(name: bytes) -> None:
    sftp = FakeSftp(x=b"1")
    one = U32.pack(1) + text(name) + text(b"") + U32.pack(0)
    sftp.hook = lambda kind, body: (c.NAME, one) if kind == c.READDIR else None
    async with served(sftp) as (storage, _):
        with pytest.raises(ProtocolViolation):
            assert [entry async for entry in storage.scan()] == []


@pytest.mark.parametrize(
    ("name", "mode", "good"),
    [
        (b"in/", stat.S_IFDIR, True),
        (b"in//", stat.S_IFDIR, False),
        (b"/", stat.S_IFDIR, False),
        (b"x/", stat.S_IFREG, False),
    ],
)
async def test_a_folder_that_is_marked_by_a_slash(name: bytes, mode: int, good: bool) -> None:
    """As `ls -F` does, and servers in front of object stores may."""
    sftp = FakeSftp(x=b"1")
    listed = text(name) + text(b"") + U32.pack(c.A_PERMISSIONS) + U32.pack(mode | 0o755)
    replies = [(c.NAME, U32.pack(1) + listed)]
    sftp.hook = lambda kind, body: (replies.pop() if replies else EOF) if kind == c.READDIR else None
    async with served(sftp) as (storage, _):
        if good:
            assert [(entry.path, entry.kind) async for entry in storage.scan()] == [("in", "dir")]
        else:
            with pytest.raises(ProtocolViolation):
                [entry async for entry in storage.scan()]


async def test_what_is_missing_is_not_listed_as_an_empty_folder() -> None:
    """SeaweedFS opens whatever it is asked for as a folder, and finds nothing in it."""
    sftp = FakeSftp(x=b"1")

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        name, _ = c.take(body, 0)
        if kind == c.OPENDIR:
            sftp.listings[name] = False
            return c.HANDLE, text(name)
        return None

    sftp.hook = hook
    async with served(sftp) as (storage, _):
        await storage.make_dir("empty")
        assert [entry async for entry in storage.scan("empty")] == []
        with pytest.raises(NotFound, match="missing"):
            assert [entry async for entry in storage.scan("missing")] == []
        with pytest.raises(NotADirectory, match="x"):
            assert [entry async for entry in storage.scan("x")] == []


async def test_what_is_below_a_missing_folder_is_missing_where_that_is_not_permitted() -> None:
    """Maverick's word for it, where it is asked to open something there; what it describes is missing."""
    sftp = FakeSftp()

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind not in (c.OPEN, c.OPENDIR, c.RENAME):
            return None
        name, at = c.take(body, 0)
        if kind == c.RENAME:
            name, _ = c.take(body, at)
        return None if (name.rpartition(b"/")[0] or b"/") in sftp.folders else status(c.PERMISSION_DENIED)

    sftp.hook = hook
    async with served(sftp) as (storage, _):
        with pytest.raises(NotFound):
            assert [entry async for entry in storage.scan("a/b")] == []
        with pytest.raises(NotFound):
            await storage.read_bytes("a/b")
        await storage.write_bytes("a/b/c", b"x")
        assert [entry.path async for entry in storage.scan("a/b")] == ["a/b/c"]
        await storage.rename("a/b/c", "d/e/f", overwrite=False)
    assert sftp.files == {b"/d/e/f": b"x"}


async def test_what_is_below_a_file_is_missing_where_that_is_not_permitted() -> None:
    """ProFTPD's mod_sftp neither opens nor describes it."""
    sftp = FakeSftp(file=b"x", secret=b"x")

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        name = c.take(body, 0)[0] if kind in (c.OPEN, c.STAT, c.LSTAT) else b""
        return status(c.PERMISSION_DENIED) if name in (b"/file/below", b"/secret") else None

    sftp.hook = hook
    async with served(sftp) as (storage, _):
        with pytest.raises(NotFound):
            await storage.read_bytes("file/below")
        with pytest.raises(PermissionDenied):
            await storage.read_bytes("secret")


async def test_a_listing_that_fails_midway_is_an_error() -> None:
    sftp = FakeSftp(x=b"1")
    calls = iter([None, FAILURE, EOF, EOF, EOF, EOF, EOF])
    sftp.hook = lambda kind, body: next(calls) if kind == c.READDIR else None
    async with served(sftp) as (storage, _):
        with pytest.raises(CrossdockError):
            assert [entry async for entry in storage.scan()] == []


async def test_a_listing_without_end() -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: (c.NAME, U32.pack(0)) if kind == c.READDIR else None
    async with served(sftp) as (storage, _):
        with pytest.raises(ProtocolViolation, match="does not end"):
            assert [entry async for entry in storage.scan()] == []


async def test_what_is_removed_while_it_is_listed_is_left_out() -> None:
    """The server lists no permissions, so each name is asked for; by then one is gone, and one may not be looked at."""
    sftp = FakeSftp(gone=b"1", hidden=b"22", there=b"333")
    sftp.attributes = c.A_SIZE
    refused = {b"/gone": status(c.NO_SUCH_FILE), b"/hidden": status(c.PERMISSION_DENIED)}
    sftp.hook = lambda kind, body: refused.get(c.take(body, 0)[0]) if kind == c.LSTAT else None
    async with served(sftp) as (storage, _):
        assert [(entry.path, entry.size) async for entry in storage.scan()] == [("hidden", 2), ("there", 3)]


@pytest.mark.parametrize("code", [c.CONNECTION_LOST, c.OP_UNSUPPORTED, c.BAD_MESSAGE])
async def test_a_folder_that_cannot_be_opened_is_not_called_missing(code: int) -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: status(code) if kind == c.OPENDIR else None
    async with served(sftp) as (storage, _):
        with pytest.raises(CrossdockError) as caught:
            assert [entry async for entry in storage.scan("nowhere")] == []
        assert not isinstance(caught.value, NotFound)


@pytest.mark.parametrize("kept_back", [c.A_SIZE, c.A_TIMES, c.A_SIZE | c.A_TIMES])
@pytest.mark.parametrize("told", [True, False])
async def test_what_a_listing_does_not_tell_of_a_file_is_asked_for(*, kept_back: int, told: bool) -> None:
    """For as long as the server tells more then."""

    class Meagre(FakeSftp):
        def names(self, name: bytes) -> list[tuple[bytes, bytes]]:
            whole, self.attributes = self.attributes, self.attributes & ~kept_back
            found = super().names(name)
            self.attributes = whole
            return found

    sftp = Meagre(x=b"12", y=b"")
    sftp.attributes = c.A_SIZE | c.A_PERMISSIONS | c.A_TIMES if told else c.A_PERMISSIONS
    async with served(sftp) as (storage, _):
        for _ in range(2):
            found = {entry.path: (entry.size, entry.modified is not None) async for entry in storage.scan()}
            assert found == ({"x": (2, True), "y": (0, True)} if told else {"x": (None, False), "y": (None, False)})
    assert sftp.seen.count(c.LSTAT) == 1 + (4 if told else 2)  # one is asked for when the endpoint is opened


async def test_what_is_listed_and_not_described_is_not_left_out() -> None:
    sftp = FakeSftp(x=b"12")
    sftp.attributes = c.A_PERMISSIONS
    sftp.hook = lambda kind, _: status(c.NO_SUCH_FILE) if kind == c.LSTAT else None
    async with served(sftp) as (storage, _):
        assert [entry.path async for entry in storage.scan()] == ["x"]
