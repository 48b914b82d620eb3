"""What the ledger knows of bytes that are staged, before anything is published."""

from __future__ import annotations

from crossdock.engine.recovery import Record
from crossdock.ledger.base import Lease
from crossdock.storage.base import Entry, Expect, WriteOptions, Writer
from crossdock.storage.layers import LayeredWriter
from tests.engine.places import Faulty, House, flow


class _Unnumbered(LayeredWriter):
    """None of its parts has arrived yet."""

    async def seal(self, expect: Expect) -> bytes | None:
        return None


class _InParts(Faulty):
    """Announces an upload when it is begun, as S3 stores have them."""

    async def begin_write(self, path: str, options: WriteOptions) -> Writer:
        writer = await super().begin_write(path, options)
        if options.staged is not None:
            await options.staged(b'{"upload": "its name"}')
        return _Unnumbered(writer)


async def test_an_upload_in_parts_is_known_to_the_end(home: House) -> None:
    """Who is killed while it is published leaves its parts, which cost money, to whoever finds them by this."""
    records: list[Record] = []
    staged = home.ledger.staged

    async def recorded(lease: Lease, checkpoint: bytes | None) -> None:
        found = Record.load(checkpoint)
        assert found is not None
        records.append(found)
        await staged(lease, checkpoint)

    home.places["dst"] = _InParts("dst")
    home.ledger.staged = recorded  # type: ignore[method-assign]
    await home.put("a")
    assert (await home.run(flow())).delivered == 1
    assert [each.token for each in records] == [b'{"upload": "its name"}'] * 2
    assert [each.sha256 is not None for each in records] == [False, True]


class _Noting(LayeredWriter):
    def __init__(self, inner: Writer, note: list[str]) -> None:
        super().__init__(inner)
        self._note = note

    async def seal(self, expect: Expect) -> bytes | None:
        token = await self.inner.seal(expect)
        self._note.append("sealed")
        return token

    async def commit(self, expect: Expect) -> Entry:
        self._note.append("publishing")
        return await self.inner.commit(expect)


async def test_what_is_not_closed_is_not_announced(home: House) -> None:
    """A server that lost its power, or takes back what broke off, before it was: its being gone proves nothing."""
    note: list[str] = []
    begin, staged = home.dst.begin_write, home.ledger.staged

    async def noting(path: str, options: WriteOptions) -> Writer:
        return _Noting(await begin(path, options), note)

    async def recorded(lease: Lease, checkpoint: bytes | None) -> None:
        found = Record.load(checkpoint)
        assert found is not None
        note.append("announced" if found.sha256 else "begun")
        assert found.token is not None
        assert await home.dst.is_staged(found.token)
        await staged(lease, checkpoint)

    home.dst.begin_write, home.ledger.staged = noting, recorded  # type: ignore[method-assign]
    await home.put("a")
    assert (await home.run(flow())).delivered == 1
    assert note == ["sealed", "announced", "publishing"]
