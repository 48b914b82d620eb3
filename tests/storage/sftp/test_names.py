"""Names that a server would put under other ones."""

from __future__ import annotations

import pytest

from crossdock.errors import InvalidPath
from crossdock.storage.sftp import codec as c
from crossdock.storage.sftp.codec import U32, text
from tests.storage.sftp.fake_server import FakeSftp
from tests.storage.sftp.places import served


class TextSftp(FakeSftp):
    """Knows names as text, as servers made with Java and JavaScript do: what is no UTF-8 becomes U+FFFD."""

    def reply(self, kind: int, body: bytes) -> tuple[int, bytes] | bytes:
        if kind == c.REALPATH:
            name = c.take(body, 0)[0].decode(errors="replace").encode()
            return c.NAME, U32.pack(1) + text(name) + text(b"") + U32.pack(0)
        return super().reply(kind, body)


class UnderscoreSftp(FakeSftp):
    """Repeats names as they come, and writes "_" for what is no UTF-8, as SeaweedFS does."""

    def reply(self, kind: int, body: bytes) -> tuple[int, bytes] | bytes:
        if kind == c.REALPATH:
            return c.NAME, U32.pack(1) + text(c.take(body, 0)[0]) + text(b"") + U32.pack(0)
        name, at = c.take(body, 0)
        return super().reply(kind, text(name.decode(errors="replace").replace("\ufffd", "_").encode()) + body[at:])


@pytest.mark.parametrize("kind", [TextSftp, UnderscoreSftp])
@pytest.mark.parametrize("name", ["caf\udce9.txt", "\udcff/file"])
async def test_a_name_that_is_no_utf8_is_not_sent_to_a_server_that_knows_text_alone(
    name: str, kind: type[FakeSftp]
) -> None:
    sftp = kind(old=b"x")
    async with served(sftp, root="/") as (storage, _):
        with pytest.raises(InvalidPath, match="UTF-8 alone"):
            await storage.write_bytes(name, b"x")
        with pytest.raises(InvalidPath):
            await storage.rename("old", name)
        with pytest.raises(InvalidPath):
            await storage.make_dir(name)
        assert (set(sftp.files), sftp.folders) == ({b"/old"}, {b"/"})
        await storage.write_bytes("café.txt", b"x")
    assert set(sftp.files) == {b"/old", "/café.txt".encode()}


async def test_a_server_that_says_nothing_of_what_is_not_there_is_given_any_name() -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: (c.STATUS, U32.pack(2)) if kind == c.REALPATH else None
    async with served(sftp, root="/") as (storage, _):
        await storage.write_bytes("caf\udce9.txt", b"x")
    assert sftp.files == {b"/caf\xe9.txt": b"x"}
    assert sftp.folders == {b"/"}
