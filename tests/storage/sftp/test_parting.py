"""Giving up a write whose bytes take long to arrive: in seconds, and at nobody else's expense."""

from __future__ import annotations

import asyncio

import pytest

from crossdock.storage.sftp import codec as c
from crossdock.storage.sftp import parting
from crossdock.storage.sftp.backend import SftpBackend
from crossdock.storage.sftp.replies import Lost
from crossdock.storage.storage import Storage
from tests.storage.sftp.fake_server import FakeSftp
from tests.storage.sftp.places import DATA, leftovers, served


@pytest.fixture
def sftp(monkeypatch: pytest.MonkeyPatch) -> FakeSftp:
    """What is written does not arrive."""
    monkeypatch.setattr(parting, "_LONG", 0.05)
    found = FakeSftp(x=DATA)
    found.hook = lambda kind, body: b"" if kind == c.WRITE else None
    return found


async def begun(storage: Storage, name: str) -> None:
    """Broken off once bytes are on their way."""
    async with storage.write(name) as writer:
        await writer.write(DATA)


@pytest.mark.parametrize("most", [1, 3])
async def test_connections_are_cut_where_all_at_work_there_give_up(sftp: FakeSftp, most: int) -> None:
    async with served(sftp, max_connections=most, timeout=300) as (storage, peer), asyncio.timeout(60):
        await asyncio.gather(*(begun(storage, name) for name in ("a", "b", "c")))
        assert len(peer.sign_ins) == most + 1
        assert leftovers(sftp) == []


async def test_the_connection_is_kept_for_others(sftp: FakeSftp) -> None:
    async with served(sftp, max_connections=1, timeout=300) as (storage, peer), asyncio.timeout(60):
        backend = storage.backend
        assert isinstance(backend, SftpBackend)
        async with storage.read("x") as reader:
            (connection,) = backend.calls.pool._connections
            giving_up = asyncio.ensure_future(begun(storage, "a"))
            while not connection.session.parting:
                await asyncio.sleep(0)
            while connection.session.parting:
                await asyncio.sleep(0)
            assert connection.session.alive and await reader.read()
        connection.session.fail(Lost("the line broke"))
        await giving_up
        assert len(peer.sign_ins) == 2
        assert leftovers(sftp) == []


async def test_a_server_that_is_not_reached_again_holds_nobody_up(
    sftp: FakeSftp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parting, "_LONGEST", 0.05)
    async with served(sftp, max_connections=1, timeout=300) as (storage, _), asyncio.timeout(60):
        backend = storage.backend
        assert isinstance(backend, SftpBackend)

        async def never() -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(backend.calls.pool._connector, "make", never)
        await begun(storage, "a")
        assert "may be left behind" in caplog.text
        assert len(leftovers(sftp)) == 1
