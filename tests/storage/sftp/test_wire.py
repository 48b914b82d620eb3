"""The SFTP session itself: versions, bounds, ids, noise."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from crossdock.errors import CrossdockError, NotFound, ProtocolViolation
from crossdock.storage.base import Entry
from crossdock.storage.sftp import codec as c
from crossdock.storage.sftp.backend import SftpBackend
from crossdock.storage.sftp.codec import U32, Violation, text
from crossdock.storage.sftp.replies import SameHandle, Silent
from crossdock.storage.sftp.wire import Session
from crossdock.storage.storage import Storage
from tests.storage.sftp.fake_server import FakeSftp, serving, status


@pytest.mark.parametrize("version", [0, 2, 4, 6, 2**32 - 1])
async def test_only_version_3(version: int) -> None:
    sftp = FakeSftp()
    sftp.version = version
    async with serving(sftp) as peer:
        with pytest.raises(ProtocolViolation, match=f"SFTP version {version}"):
            async with Storage(peer.settings().backend("fake")):
                pass


@pytest.mark.parametrize(
    "limits", [(0, 0), (1, 1), (2**63, 2**63), (32 * 1024, 64 * 1024), (255 * 1024, 255 * 1024), None]
)
async def test_limits_are_sane(limits: tuple[int, int] | None) -> None:
    sftp = FakeSftp()
    sftp.extensions = [(b"limits@openssh.com", b"1"), (b"unknown@example.com", b"\xff")]
    packed = b"" if limits is None else b"".join(n.to_bytes(8, "big") for n in (0, *limits, 0))
    sftp.hook = lambda kind, body: (c.EXTENDED_REPLY, packed) if kind == c.EXTENDED else None
    data = bytes(300_000)
    async with serving(sftp) as peer, Storage(peer.settings().backend("fake")) as storage:
        await storage.write_bytes("x", data)
        assert await storage.read_bytes("x") == data


_GARBAGE = {
    "length 2^32-1": b"\xff\xff\xff\xff" + bytes(64),
    "length 0": bytes(8),
    "length 4": U32.pack(4) + bytes(4),
    "unknown id": U32.pack(9) + bytes((c.STATUS,)) + b"\x7f\0\0\0" + U32.pack(0),
    "unknown type": U32.pack(9) + bytes((77,)) + b"<id>" + U32.pack(0),
    "a request": U32.pack(9) + bytes((c.OPEN,)) + b"<id>" + U32.pack(0),
    "a second version": U32.pack(5) + bytes((c.VERSION,)) + U32.pack(3),
    "status without a code": U32.pack(5) + bytes((c.STATUS,)) + b"<id>",
    "attributes cut off": U32.pack(9) + bytes((c.ATTRS,)) + b"<id>" + U32.pack(15),
    "many extended attributes": U32.pack(13) + bytes((c.ATTRS,)) + b"<id>" + U32.pack(1 << 31) + U32.pack(1 << 31),
    "a handle to a stat": U32.pack(13) + bytes((c.HANDLE,)) + b"<id>" + text(b"abcd"),
}


@pytest.mark.parametrize("garbage", _GARBAGE.values(), ids=_GARBAGE.keys())
async def test_garbage_is_a_violation(garbage: bytes) -> None:
    sftp = FakeSftp(x=b"1")
    async with serving(sftp) as peer, Storage(peer.settings().backend("fake")) as storage:
        sftp.hook = lambda kind, body: garbage if kind == c.LSTAT else None
        with pytest.raises(ProtocolViolation):
            await storage.stat("x")
        sftp.hook = None
        assert (await storage.stat("x")).size == 1


async def test_a_duplicate_id_ends_the_session() -> None:
    sftp = FakeSftp(x=b"1")
    twice = (U32.pack(9) + bytes((c.STATUS,)) + b"<id>" + U32.pack(2)) * 2
    async with serving(sftp) as peer, Storage(peer.settings().backend("fake")) as storage:
        sftp.hook = lambda kind, body: twice if kind == c.LSTAT else None
        with pytest.raises(NotFound):
            await storage.stat("x")
        sftp.hook = None
        assert (await storage.stat("x")).size == 1
        assert len(peer.sign_ins) == 2


@pytest.mark.parametrize("count", [2**31, 2**32 - 1, 2])
async def test_count_of_names(count: int) -> None:
    one = text(b"x") + text(b"") + U32.pack(0)
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: (c.NAME, U32.pack(count) + one) if kind == c.READDIR else None
    async with serving(sftp) as peer, Storage(peer.settings().backend("fake")) as storage:
        with pytest.raises(ProtocolViolation):
            assert [entry async for entry in storage.scan()] == []


async def test_a_login_script_that_prints() -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: b"Welcome to ACME!\nHave fun\n" if kind == c.LSTAT else None
    async with serving(sftp) as peer:
        with pytest.raises(ProtocolViolation, match=r"'Welcome to ACME!'.*login script"):
            async with Storage(peer.settings().backend("fake")) as storage:
                await storage.stat("x")


@pytest.mark.parametrize("noise", [b"\n\n*** ACME ***\n", b"-bash: warning: x\n", b"\033[1mHello\n"])
async def test_other_things_that_login_scripts_print(noise: bytes) -> None:
    sftp = FakeSftp()
    sftp.hook = lambda kind, body: noise if kind == c.LSTAT else None
    async with serving(sftp) as peer:
        with pytest.raises(ProtocolViolation, match="login script"):
            async with Storage(peer.settings().backend("fake")) as storage:
                await storage.stat("x")


class _Line:
    """A channel whose peer makes room for so many bytes."""

    def __init__(self, room: int) -> None:
        self._send_window, self._kept = room, 0

    def set_write_buffer_limits(self, **limits: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self._kept

    def write(self, data: bytes) -> None:
        self._kept += len(data)
        self.grant(0)

    def grant(self, room: int) -> None:
        sent = min(self._kept, self._send_window + room)
        self._kept, self._send_window = self._kept - sent, self._send_window + room - sent


@pytest.mark.parametrize("room", [10, 1 << 20])
async def test_who_takes_what_we_send_is_not_silent(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when all of it is on its way, and takes longer than the timeout; what we go on sending proves nothing."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)

    async def a_moment() -> None:
        nonlocal now
        now += 0.05
        # Once for what is due then, and once for what that sets going.
        for _ in range(2):
            await asyncio.sleep(0)

    session = Session(timeout=0.2)
    channel = _Line(room)
    session.connection_made(channel)
    reply = session.request(c.STAT, text(b"x" * 100))
    for _ in range(16):
        channel.grant(1)
        await a_moment()
    assert session.alive
    for _ in range(16):
        session.request(c.STAT, text(b"y"))
        await a_moment()
    assert reply.done()
    with pytest.raises(Silent):
        await reply


@pytest.mark.parametrize("handle", [b"h" * 257, b"h" * 100_000])
async def test_handles_are_short(handle: bytes) -> None:
    sftp = FakeSftp(x=b"1")
    sftp.hook = lambda kind, body: (c.HANDLE, text(handle)) if kind == c.OPEN else None
    async with serving(sftp) as peer, Storage(peer.settings().backend("fake")) as storage:
        with pytest.raises(ProtocolViolation):
            await storage.read_bytes("x")


async def test_names_survive_as_bytes() -> None:
    sftp = FakeSftp()
    sftp.files[b"/\xff\xfe"] = bytearray(b"1")
    async with serving(sftp) as peer, Storage(peer.settings().backend("fake")) as storage:
        entries = [entry async for entry in storage.scan()]
        assert [entry.path for entry in entries] == ["\udcff\udcfe"]
        assert await storage.read_bytes(entries[0].path) == b"1"


@pytest.mark.parametrize("code", [*range(1, 32), 2**32 - 1])
async def test_every_status_is_an_error_of_ours(code: int) -> None:
    sftp = FakeSftp(x=b"1")
    sftp.hook = lambda kind, body: status(code, b"because \xff") if kind == c.LSTAT else None
    async with serving(sftp) as peer, Storage(peer.settings().backend("fake")) as storage:
        with pytest.raises(CrossdockError, match=r"stat fake:x: .*because"):
            await storage.stat("x")


class _Channel:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def set_write_buffer_limits(self, *, high: int, low: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        self.sent.append(data)


async def test_ids_wrap_and_skip_those_in_use() -> None:
    session, channel = Session(60), _Channel()
    session.connection_made(channel)
    kept = session.request(c.LSTAT, text(b"a"))
    session._last_id = 2**32 - 2
    futures = [session.request(c.LSTAT, text(b"b")) for _ in range(3)]
    assert sorted(session._pending) == [0, 1, 2, 2**32 - 1]
    session.data_received(U32.pack(9) + bytes((c.STATUS,)) + U32.pack(2) + U32.pack(2), None)
    assert futures[2].done() and not kept.done()
    session.fail(Violation("end"))
    assert isinstance(kept.exception(), Violation)


async def test_replies_in_any_order_and_any_cut() -> None:
    session = Session(60)
    session.connection_made(_Channel())
    futures = [session.request(c.READ, b"") for _ in range(20)]
    stream = b"".join(
        U32.pack(9 + n) + bytes((c.DATA,)) + U32.pack(n + 1) + text(bytes([n]) * n) for n in reversed(range(20))
    )
    for at in range(len(stream)):
        session.data_received(stream[at : at + 1], None)
    assert [(await future)[1] for future in futures] == [bytes([n]) * n for n in range(20)]
    session.fail(Violation("end"))


@pytest.mark.parametrize("cut", [1, 3, 5, 7, 11, 13, 17, 1000])
async def test_data_that_comes_in_pieces_is_joined(cut: int) -> None:
    """DATA between other replies, in pieces of up to `cut` bytes (and views of them): each goes to its request."""
    draw = random.Random(cut)
    session = Session(60)
    session.connection_made(_Channel())
    stream, expected = b"", []
    for number in range(1, 200):
        session.request(c.READ, b"")
        body = draw.randbytes(draw.choice((0, 1, 9, 40, 700)))
        data = draw.random() < 0.7
        expected.append((c.DATA, body) if data else (c.HANDLE, text(body)))
        stream += U32.pack(9 + len(body)) + bytes((expected[-1][0],)) + U32.pack(number) + text(body)
    futures = dict(session._pending)
    at = 0
    while at < len(stream):
        size = draw.randint(1, cut)
        session.data_received(memoryview(stream[at : at + size]), None)
        at += size
    assert [await futures[number] for number in range(1, 200)] == expected
    assert not session._pending and not session._buffer


@pytest.mark.parametrize("length", [0, 99, 101, 2**32 - 1])
async def test_data_in_pieces_of_another_length_than_announced(length: int) -> None:
    session = Session(60)
    session.connection_made(_Channel())
    future = session.request(c.READ, b"")
    session.data_received(U32.pack(9 + 100) + bytes((c.DATA,)) + U32.pack(1) + U32.pack(length) + bytes(50), None)
    assert isinstance(future.exception(), Violation)


async def test_silence_in_the_middle_of_data() -> None:
    session = Session(0.05)
    session.connection_made(_Channel())
    future = session.request(c.READ, b"")
    session.data_received(U32.pack(9 + 100) + bytes((c.DATA,)) + U32.pack(1) + U32.pack(100) + bytes(50), None)
    with pytest.raises(Silent):
        await asyncio.wait_for(future, 60)


def test_100_000_names_are_parsed_fast() -> None:
    attrs = c._FULL.pack(15, 5, 0, 0, 0o100644, 0, 0)
    longname = b"-rw-r--r--    1 tester   users           5 Nov 21 00:11 name"
    packet = U32.pack(100) + b"".join(text(b"name-%d" % n) + text(longname) + attrs for n in range(100))
    start = time.process_time()
    for _ in range(1000):
        found = c.names(packet)
    assert time.process_time() - start < 2
    assert found[99][0] == b"name-99" and found[0][2].size == 5


async def test_ten_thousand_entries_stream() -> None:
    sftp = FakeSftp(**{f"f{n:05}": b"" for n in range(2000)})
    async with serving(sftp) as peer, Storage(peer.settings().backend("fake")) as storage:
        found: list[Entry] = [entry async for entry in storage.scan()]
    assert sorted(entry.path for entry in found) == [f"f{n:05}" for n in range(2000)]


def _packet(kind: int, number: int, payload: bytes) -> bytes:
    return U32.pack(5 + len(payload)) + bytes((kind,)) + U32.pack(number) + payload


async def test_one_handle_for_two_open_files_ends_the_session() -> None:
    """Erlang's server gives the third file that is open at once the handle of another: no byte after that is used."""
    session = Session(60)
    session.connection_made(_Channel())
    first, second = (session.request(c.OPEN, text(name), c.NO_ATTRS) for name in (b"/a", b"/b"))
    session.data_received(_packet(c.HANDLE, 1, text(b"0")), None)
    data = session.request(c.READ, text(b"0"))
    session.data_received(_packet(c.HANDLE, 2, text(b"0")) + _packet(c.DATA, 3, text(b"of b")), None)
    assert await first == (c.HANDLE, text(b"0"))
    for future in (second, data):
        assert isinstance(future.exception(), SameHandle)


async def test_a_handle_may_come_again() -> None:
    """Once it was closed; and for the same name, as of servers whose handles are names."""
    session = Session(60)
    session.connection_made(_Channel())
    for number, name in ((1, b"/a"), (2, b"/a"), (4, b"/b")):
        opened = session.request(c.OPEN, text(name), c.NO_ATTRS)
        session.data_received(_packet(c.HANDLE, number, text(b"0")), None)
        assert await opened == (c.HANDLE, text(b"0"))
        if number == 2:
            closed = session.request(c.CLOSE, text(b"0"))
            session.data_received(_packet(c.STATUS, 3, U32.pack(0)), None)
            await closed
    refused = session.request(c.OPEN, text(b"/c"), c.NO_ATTRS)
    session.data_received(_packet(c.STATUS, 5, U32.pack(2)), None)
    await refused
    assert session.failure is None and not session._opening


async def test_a_server_that_mixes_up_handles_gets_one_file_per_connection() -> None:
    sftp = FakeSftp(a=b"of a", b=b"of b")
    async with serving(sftp) as peer, Storage(peer.settings(max_connections=1).backend("fake")) as storage:
        backend = storage.backend
        assert isinstance(backend, SftpBackend)
        first = await backend.begin_read("a")
        sftp.hook = lambda kind, body: (c.HANDLE, text(b"/a")) if kind == c.OPEN else None
        with pytest.raises(ProtocolViolation, match="one handle to two open files"):
            await backend.begin_read("b")
        await first.close()
        sftp.hook = None
        first = await backend.begin_read("a")
        sftp.seen.clear()
        second = asyncio.create_task(backend.begin_read("b"))
        assert await first.read() == b"of a"
        await storage.stat("b")
        assert c.OPEN not in sftp.seen
        await first.close()
        assert await (await second).read() == b"of b"
        await second.result().close()
