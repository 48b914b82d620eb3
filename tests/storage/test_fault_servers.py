"""The things that fail on purpose fail as they say: a fault that does not strike proves nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Literal, cast

import asyncssh
import pytest

from crossdock.errors import ConnectionFailed, NoSpace, PermissionDenied
from crossdock.storage.base import Expect
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.storage import Storage
from crossdock.testing.cut import CutProxy
from crossdock.testing.fault_ftp import FaultyFtpServer
from crossdock.testing.fault_sftp import FaultySftpServer, SftpFault
from crossdock.testing.faults import Fault, FaultyBackend

DATA = os.urandom(600_000)


@pytest.fixture
async def source() -> AsyncGenerator[int]:
    """The port of a server that sends DATA to whoever connects, and takes what comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(DATA)
            await writer.drain()
            while await reader.read(1 << 16):
                pass
        except OSError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def received(reader: asyncio.StreamReader) -> tuple[bytes, type[OSError] | None]:
    found = b""
    try:
        while chunk := await reader.read(1 << 16):
            found += chunk
    except OSError as error:
        return found, type(error)
    return found, None


class TestCutProxy:
    async def test_without_orders_all_passes(self, source: int) -> None:
        """Both ways, byte for byte."""
        async with CutProxy("127.0.0.1", source) as wire:
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            assert await reader.readexactly(len(DATA)) == DATA
            writer.write(b"thanks")
            writer.write_eof()
            await writer.drain()
            writer.close()
            assert (wire.accepted, wire.down, wire.cuts) == (1, len(DATA), 0)

    @pytest.mark.parametrize("size", [1, 1000, 65536, 65537, len(DATA) - 1])
    @pytest.mark.parametrize("how", ["rst", "fin"])
    async def test_the_wire_is_cut_at_the_byte(self, source: int, size: int, how: Literal["rst", "fin"]) -> None:
        """Exactly so many bytes arrive; then the connection is reset, or ends as if in good order."""
        async with CutProxy("127.0.0.1", source) as wire:
            wire.cut_after(size, direction="down", how=how)
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            found, error = await received(reader)
            await wire.wait_cut()
            writer.close()
            assert (wire.down, wire.cuts) == (size, 1)
            assert found == DATA[: len(found)]
            if how == "fin":
                assert (len(found), error) == (size, None)
            else:
                assert error is ConnectionResetError
            # The next connection is left alone.
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            assert await reader.readexactly(len(DATA)) == DATA
            writer.close()

    async def test_the_way_up_is_counted_apart(self, source: int) -> None:
        """Bytes to the target do not count for an order about bytes from it, and the other way round."""
        async with CutProxy("127.0.0.1", source) as wire:
            wire.cut_after(10, direction="up", how="fin")
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            assert await reader.readexactly(len(DATA)) == DATA
            writer.write(b"123456789")
            await writer.drain()
            writer.write(b"0 and more")
            await wire.wait_cut()
            assert wire.up == 10
            writer.close()

    async def test_a_stalled_wire_is_open_and_silent(self, source: int) -> None:
        """No end, no error, no more bytes."""
        async with CutProxy("127.0.0.1", source) as wire:
            wire.cut_after(1000, direction="down", how="stall")
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            assert await reader.readexactly(1000) == DATA[:1000]
            await wire.wait_cut()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.05)
            writer.close()

    async def test_a_dripping_wire_passes_single_bytes(self, source: int) -> None:
        """Slowly, but in order."""
        async with CutProxy("127.0.0.1", source, pause=0) as wire:
            wire.cut_after(1000, direction="down", how="drip")
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            assert await reader.readexactly(1500) == DATA[:1500]
            writer.close()

    async def test_as_often_as_told(self, source: int) -> None:
        """Each of the next connections is cut, and then none."""
        async with CutProxy("127.0.0.1", source) as wire:
            wire.cut_after(1000, direction="down", how="fin", times=2)
            sizes: list[int] = []
            for _ in range(3):
                reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
                found, _error = (
                    await received(reader) if len(sizes) < 2 else (await reader.readexactly(len(DATA)), None)
                )
                sizes.append(len(found))
                writer.close()
            assert sizes == [1000, 1000, len(DATA)]

    async def test_a_host_that_is_gone(self, source: int) -> None:
        """Open connections are reset and new ones get nowhere, until it heals."""
        async with CutProxy("127.0.0.1", source) as wire:
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            await reader.readexactly(10)
            wire.refusing = True
            wire.cut_now()
            assert (await received(reader))[1] is ConnectionResetError
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            assert (await received(reader))[0] == b""
            writer.close()
            wire.heal()
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            assert await reader.readexactly(len(DATA)) == DATA
            writer.close()


class TestFaultyBackend:
    @pytest.fixture
    def backend(self) -> FaultyBackend:
        return FaultyBackend(MemoryBackend())

    @pytest.fixture
    async def storage(self, backend: FaultyBackend) -> AsyncGenerator[Storage]:
        async with Storage(backend) as storage:
            await storage.write_bytes("name", DATA)
            yield storage

    @pytest.mark.parametrize("at", [0, 1, 300_000, len(DATA)])
    async def test_a_read_dies_at_the_byte(self, storage: Storage, backend: FaultyBackend, at: int) -> None:
        """All bytes before it arrive; the next read is well again."""
        fault = backend.add(Fault(operation="read", at=at))
        found = b""
        with pytest.raises(ConnectionFailed):
            async with storage.read("name") as reader:
                while chunk := await reader.read():
                    found += chunk
        assert found == DATA[:at]
        assert await storage.read_bytes("name") == DATA
        assert fault.fired == 1

    @pytest.mark.parametrize(
        ("fault", "wanted"),
        [
            (Fault(operation="read", how="end", at=1000, times=None), DATA[:1000]),
            (Fault(operation="read", how="grow", times=None), DATA + b"grown"),
            (
                Fault(operation="read", how="flip", at=400_000, times=None),
                DATA[:400_000] + bytes([DATA[400_000] ^ 1]) + DATA[400_001:],
            ),
        ],
        ids=["end", "grow", "flip"],
    )
    async def test_a_read_lies(self, storage: Storage, backend: FaultyBackend, fault: Fault, wanted: bytes) -> None:
        """Short, long or wrong, without a word."""
        backend.add(fault)
        assert await storage.read_bytes("name") == wanted

    async def test_a_write_dies_at_the_byte(self, storage: Storage, backend: FaultyBackend) -> None:
        """What came before was written; the writer can still be aborted."""
        backend.add(Fault(operation="write", at=1000, error=NoSpace))
        with pytest.raises(NoSpace):
            await storage.write_bytes("new", DATA)
        assert [entry.path async for entry in storage.scan(temporaries=True)] == ["name"]

    async def test_a_commit_whose_reply_is_lost(self, storage: Storage, backend: FaultyBackend) -> None:
        """It is published, and the caller does not know."""
        backend.add(Fault(operation="commit", how="lost"))
        with pytest.raises(ConnectionFailed):
            await storage.write_bytes("new", b"x")
        assert await storage.read_bytes("new") == b"x"

    async def test_a_commit_that_fails(self, storage: Storage, backend: FaultyBackend) -> None:
        """Nothing is published."""
        backend.add(Fault(operation="commit"))
        async with storage.write("new") as writer:
            with pytest.raises(ConnectionFailed):
                await writer.commit(Expect())
        assert not await storage.exists("new")

    @pytest.mark.parametrize("how", ["die", "end"])
    async def test_a_listing_breaks_off(
        self, storage: Storage, backend: FaultyBackend, how: Literal["die", "end"]
    ) -> None:
        """After so many entries: with an error, or in silence."""
        for number in range(5):
            await storage.write_bytes(f"f{number}", b"x")
        backend.add(Fault(operation="list", how=how, at=2))
        seen: list[str] = []

        async def scan() -> None:
            async for entry in storage.scan():
                seen.append(entry.path)  # noqa: PERF401 - what came before the error counts

        if how == "die":
            with pytest.raises(ConnectionFailed):
                await scan()
        else:
            await scan()
        assert len(seen) == 2

    async def test_faults_wait_for_their_turn_and_path(self, storage: Storage, backend: FaultyBackend) -> None:
        """`after`, `times` and `path` choose the operation."""
        backend.add(Fault(operation="stat", path="name", after=1, times=2, error=PermissionDenied))
        outcomes: list[bool | str] = []
        for path in ("other", "name", "name", "name", "name"):
            try:
                outcomes.append(await storage.exists(path))
            except PermissionDenied:
                outcomes.append("denied")
        assert outcomes == [False, True, "denied", "denied", True]


class TestFaultySftpServer:
    """With asyncssh's own client, which takes no precautions."""

    async def ask(self, folder: Path, fault: SftpFault) -> bytes:
        (folder / "name").write_bytes(DATA)
        async with FaultySftpServer(folder, fault) as server:
            async with asyncssh.connect(
                server.host, server.port, username=server.user, client_keys=[str(server.key)], known_hosts=None
            ) as connection:
                sftp = await connection.start_sftp_client()
                async with sftp.open("name", "rb") as file:
                    found = b""
                    while chunk := cast(bytes, await file.read(32768, len(found))):
                        found += chunk
                assert fault.fired == 1
                return found

    @pytest.mark.parametrize(
        ("how", "wanted"),
        [("eof", DATA[:98304]), ("short", DATA), ("flip", DATA[:114688] + bytes([DATA[114688] ^ 1]) + DATA[114689:])],
    )
    async def test_reads_that_lie(self, tmp_path: Path, how: Literal["eof", "short", "flip"], wanted: bytes) -> None:
        """An early end, a short answer, a wrong bit: at the byte told."""
        assert await self.ask(tmp_path, SftpFault(request="read", how=how, at=100_000)) == wanted

    @pytest.mark.parametrize("how", ["fail", "drop", "lost"])
    async def test_reads_that_fail(self, tmp_path: Path, how: Literal["fail", "drop", "lost"]) -> None:
        """A refusal, or a connection that ends."""
        with pytest.raises((asyncssh.SFTPError, asyncssh.ConnectionLost)):
            await self.ask(tmp_path, SftpFault(request="read", how=how, at=100_000))

    async def test_a_password_signs_in_too(self, tmp_path: Path) -> None:
        """And extensions can be left out."""
        async with FaultySftpServer(tmp_path, without=frozenset({"posix-rename"})) as server:
            async with asyncssh.connect(
                server.host,
                server.port,
                username=server.user,
                password=server.password,
                client_keys=None,
                known_hosts=None,
            ) as connection:
                sftp = await connection.start_sftp_client()
                (tmp_path / "a").write_bytes(b"a")
                await sftp.rename("a", "b")
                assert server.requests["rename"] == 1
                with pytest.raises(asyncssh.SFTPOpUnsupported):
                    await sftp.posix_rename("b", "c")


async def test_a_command_without_its_end_is_not_obeyed(tmp_path: Path) -> None:
    """Its name would be the beginning of another."""
    (tmp_path / "file").write_bytes(b"1")
    async with FaultyFtpServer(tmp_path) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"DELE /file")
        writer.write_eof()
        assert await reader.read() == b"220 crossdock's faulty server\r\n"
        writer.close()
    assert (tmp_path / "file").exists()
