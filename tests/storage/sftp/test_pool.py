"""Connections: shared, bounded, replaced when dead, and not attempted while an account is in danger."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    CrossdockError,
    HostKeyMismatch,
    TimedOut,
)
from crossdock.storage.accounts import LOCKED_OUT, Breaker
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.sftp import SftpSettings
from crossdock.storage.sftp.backend import SftpBackend
from crossdock.storage.sftp.connect import Connection, Connector
from crossdock.storage.sftp.pool import Pool
from crossdock.storage.storage import Storage
from crossdock.testing.cut import CutProxy
from tests.servers import OpenSSH
from tests.storage.sftp.fake_server import FakeServer, FakeSftp, serving


async def test_at_most_so_many_connections() -> None:
    sftp = FakeSftp(x=bytes(100_000))
    async with serving(sftp) as peer:
        async with Storage(peer.settings(max_connections=3, streams_per_connection=2).backend("fake")) as storage:

            async def one() -> None:
                assert len(await storage.read_bytes("x")) == 100_000
                assert len(peer.connections) <= 3

            await asyncio.gather(*(one() for _ in range(50)))
            assert len(peer.sign_ins) == 3
        while peer.connections:
            await asyncio.sleep(0)


async def test_one_after_the_other_needs_one_connection() -> None:
    async with serving(FakeSftp(x=b"1")) as peer, Storage(peer.settings().backend("fake")) as storage:
        for _ in range(20):
            await storage.read_bytes("x")
            await storage.write_bytes("y", b"1")
            await storage.stat("x")
        assert len(peer.sign_ins) == 1


async def test_endpoints_of_one_account_share_its_connections() -> None:
    async with serving(FakeSftp(x=b"1")) as peer:
        one, other = (peer.settings(max_connections=1, root=root).backend(root) for root in ("/", "/sub"))
        async with Storage(one) as first:
            async with Storage(other):
                await first.stat("x")
            await first.stat("x")
            assert len(peer.sign_ins) == 1


async def test_a_dead_connection_is_replaced() -> None:
    async with serving(FakeSftp(x=b"1")) as peer, Storage(peer.settings().backend("fake")) as storage:
        for _ in range(3):
            peer.connections[0].abort()
            with pytest.raises(ConnectionFailed):
                for _ in range(1000):
                    await storage.stat("x")
            assert await storage.read_bytes("x") == b"1"
        assert len(peer.sign_ins) == 4


async def test_an_idle_connection_is_asked_whether_it_is_there(openssh: OpenSSH) -> None:
    """A network that is lost ends it, long before the time that an answer may take."""
    async with CutProxy(openssh.host, openssh.port) as wire:
        settings = openssh.settings(port=wire.port, keepalive=1, timeout=60)
        async with Storage(SftpSettings.model_validate(settings).backend("server")) as storage:
            wire.cut_now("stall")
            wire.refusing = True
            with pytest.raises(ConnectionFailed) as caught:
                await storage.stat("")
            assert not isinstance(caught.value, TimedOut)


@pytest.mark.parametrize("woken", [False, True])
async def test_who_gives_up_waiting_leaves_his_turn_to_the_next(woken: bool) -> None:
    async with serving(FakeSftp(x=b"1")) as peer, asyncio.timeout(30):
        settings = peer.settings(max_connections=1, streams_per_connection=1)
        async with Storage(settings.backend("fake")) as storage:
            backend = storage.backend
            assert isinstance(backend, SftpBackend)
            pool = backend.calls.pool
            held = await pool.acquire(wait=True)
            first, second = (asyncio.create_task(pool.acquire(wait=True)) for _ in range(2))
            await asyncio.sleep(0)
            if not woken:
                first.cancel()
                await asyncio.wait([first])
            pool.release(held)
            first.cancel()
            assert await second is held
            assert first.cancelled()
            pool.release(held)


async def test_a_listing_holds_no_connection_between_entries() -> None:
    sftp = FakeSftp(a=b"1", b=b"2")
    async with serving(sftp) as peer:
        settings = peer.settings(max_connections=1, streams_per_connection=1)
        async with Storage(settings.backend("fake")) as storage:
            found = [(entry.path, await storage.read_bytes(entry.path)) async for entry in storage.scan()]
    assert sorted(found) == [("a", b"1"), ("b", b"2")]


async def test_copying_within_an_account_cannot_block_itself() -> None:
    async with serving(FakeSftp(x=bytes(300_000))) as peer:
        settings = peer.settings(max_connections=1, streams_per_connection=2)
        async with Storage(settings.backend("fake")) as storage, asyncio.timeout(60):

            async def copy(number: int) -> None:
                async with storage.read("x") as reader, storage.write(f"y{number}") as writer:
                    await asyncio.sleep(0)
                    while data := await reader.read():
                        await writer.write(data)
                    await writer.commit(Expect(size=300_000))

            await asyncio.gather(*(copy(number) for number in range(10)))
        assert len(peer.sftp.files) == 11 and len(peer.sign_ins) == 1


async def test_closing_ends_those_who_wait() -> None:
    sftp = FakeSftp(x=bytes(1_000_000))
    async with serving(sftp) as peer:
        backend = peer.settings(max_connections=1, streams_per_connection=1).backend("fake")
        await backend.open()
        reader = await backend.begin_read("x")
        waiting = [asyncio.ensure_future(backend.begin_read("x")) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await backend.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, ConnectionFailed, ConnectionFailed]
        with pytest.raises(CrossdockError):
            while await reader.read():
                pass
        await reader.close()
        await backend.close()


async def test_after_a_refusal_no_sign_in_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", "wrong")
    now = 1000.0
    async with serving() as peer:
        pool = Pool(peer.settings(), "fake", breaker=Breaker(lambda: now))
        outcomes = await asyncio.gather(*(pool.acquire() for _ in range(10)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {AuthenticationFailed}
        with pytest.raises(AuthenticationFailed, match=r"no new attempt before \d\d:\d\d:\d\d UTC"):
            await pool.acquire()
        now += LOCKED_OUT - 1
        with pytest.raises(AuthenticationFailed):
            await pool.acquire()
        assert peer.passwords == ["wrong"]
        monkeypatch.setenv("FAKE_PASSWORD", "right")
        now += 2
        pool.release(await pool.acquire())
        assert peer.passwords == ["wrong", "right"]
        await pool.close()


async def test_the_breaker_outlives_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", "wrong")
    async with serving() as peer:
        for _ in range(3):
            with pytest.raises(AuthenticationFailed):
                async with Storage(peer.settings().backend("fake")):
                    pass
        assert len(peer.passwords) == 1


async def test_a_secret_that_was_renewed_is_tried_at_once(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    secret.write_text("wrong")
    async with serving() as peer:
        settings = peer.settings(password=f"file:{secret}")
        for _ in range(2):
            with pytest.raises(AuthenticationFailed):
                async with Storage(settings.backend("fake")):
                    pass
        secret.write_text("right\n")
        async with Storage(settings.backend("fake")) as storage:
            await storage.stat("")
        assert peer.passwords == ["wrong", "right"]


async def test_a_wrong_host_key_trips_it_as_well() -> None:
    async with serving() as other, serving() as peer:
        settings = peer.settings(host_key=other.fingerprints)
        for expected in ("presents the host key", "no new attempt before"):
            with pytest.raises(HostKeyMismatch, match=expected):
                async with Storage(settings.backend("fake")):
                    pass


async def test_growth_that_fails_is_done_without() -> None:
    """The server lets one connection in and drops the second: work goes on over the first."""

    class Crowded(FakeServer):
        def connection_made(self, conn: Any) -> None:
            super().connection_made(conn)
            if len(self.peer.connections) > 1:
                conn.abort()

    sftp = FakeSftp(x=bytes(200_000))
    async with serving(sftp, server=Crowded) as peer, Storage(peer.settings().backend("fake")) as storage:
        assert {len(data) for data in await asyncio.gather(*(storage.read_bytes("x") for _ in range(20)))} == {200_000}
        assert len(peer.sign_ins) == 1


async def test_small_files_do_not_wait_for_another_connection() -> None:
    """Far away, the round trips of a sign-in take longer than they do. A large one waits for a connection to itself."""

    class Distant(FakeServer):
        def validate_password(self, username: str, password: str) -> Any:
            found = super().validate_password(username, password)
            return asyncio.Event().wait() if len(self.peer.sign_ins) > 1 else found

    sftp = FakeSftp(small=b"1", large=bytes(2_000_000))
    async with (
        serving(sftp, server=Distant) as peer,
        Storage(peer.settings().backend("fake")) as storage,
        asyncio.timeout(30),
    ):
        small, large = await storage.stat("small"), await storage.stat("large")

        async def one() -> bytes:
            async with storage.read("small", pin=small) as reader:
                return await reader.read()

        assert await asyncio.gather(*(one() for _ in range(20))) == [b"1"] * 20
        await asyncio.gather(*(storage.write_bytes(f"{number}", b"1", WriteOptions(size=1)) for number in range(20)))
        while len(peer.sign_ins) < 2:
            await asyncio.sleep(0)
        async with storage.read("small", pin=small):
            waiting = asyncio.ensure_future(storage.backend.begin_read("large", pin=large))
            await one()
            assert not waiting.done()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


async def test_growth_beside_small_files_that_fails_is_not_tried_again_at_once() -> None:
    class Crowded(FakeServer):
        def connection_made(self, conn: Any) -> None:
            super().connection_made(conn)
            made.append(conn)
            if len(made) > 1:
                conn.abort()

    made: list[Any] = []
    sftp = FakeSftp(x=b"1")
    async with serving(sftp, server=Crowded) as peer, Storage(peer.settings().backend("fake")) as storage:
        pin = await storage.stat("x")

        async def one() -> None:
            async with storage.read("x", pin=pin) as reader:
                assert await reader.read() == b"1"

        while len(made) < 2 or len(peer.connections) > 1:
            await asyncio.gather(*(one() for _ in range(4)))
        for _ in range(10):
            await asyncio.gather(*(one() for _ in range(4)))
        assert (len(made), len(peer.sign_ins)) == (2, 1)


async def test_growth_that_has_just_failed_is_not_tried_again() -> None:
    """Wanted in the moment between the end of the task and what is done after it."""

    class Failing(Connector):
        made = 0

        async def make(self) -> Connection:
            self.made += 1
            if self.made == 1:
                return await super().make()
            asyncio.get_running_loop().call_soon(want)
            raise ConnectionFailed("no more", operation="connect", endpoint="fake")

    def want() -> None:
        with suppress(StopIteration):
            pool.acquire(stream=True, size=1).send(None)
        wanted.set()

    wanted = asyncio.Event()
    async with serving() as peer:
        connector = Failing(peer.settings(), "fake")
        pool = Pool(peer.settings(), "fake", connector=connector)
        for _ in range(2):
            await pool.acquire(stream=True, size=1)
        await wanted.wait()
        await asyncio.sleep(0.1)  # As long as any other would be put off, and more.
        assert connector.made == 2
        await pool.close()


async def test_a_cancelled_connect_leaves_nothing_stuck() -> None:
    async with serving(FakeSftp(x=b"1")) as peer:
        backend = peer.settings(max_connections=1).backend("fake")
        task = asyncio.ensure_future(backend.open())
        while not peer.connections:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await backend.open()
        assert await Storage(backend).read_bytes("x") == b"1"
        assert len(peer.sign_ins) == 1
        await backend.close()


async def test_who_asks_in_the_moment_a_connection_is_made_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Pool._make
    asking: list[asyncio.Task[bytes]] = []

    async def make(pool: Pool) -> None:
        await made(pool)
        if not asking:
            # They run before anybody learns that this has ended; the first takes the connection, the others want more.
            asking.extend(asyncio.create_task(storage.read_bytes("x")) for _ in range(3))

    async with serving(FakeSftp(x=b"1")) as peer:
        async with Storage(peer.settings().backend("fake")) as storage:
            peer.connections[0].abort()
            with pytest.raises(ConnectionFailed):
                for _ in range(1000):
                    await storage.stat("x")
            monkeypatch.setattr(Pool, "_make", make)
            assert await storage.read_bytes("x") == b"1"
            assert await asyncio.gather(*asking) == [b"1"] * 3
