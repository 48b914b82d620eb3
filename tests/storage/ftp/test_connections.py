"""Connections: caps, passwords, passive addresses, replies that are none."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from crossdock.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    CrossdockError,
    InvalidPath,
    PermissionDenied,
    ProtocolViolation,
    Throttled,
    TimedOut,
)
from crossdock.storage.accounts import LOCKED_OUT
from crossdock.storage.ftp import FtpSettings, connecting, data
from crossdock.storage.ftp.connecting import Connector
from crossdock.storage.ftp.connection import Connection
from crossdock.storage.ftp.pool import Account, Pool
from crossdock.storage.storage import Storage
from crossdock.testing.fault_ftp import FaultyFtpServer
from crossdock.testing.ftp_faults import FtpFaults
from tests.storage.ftp.places import DATA, backend_of, faulty, hang_up


async def test_too_many_connections_lower_the_cap_and_it_is_remembered(server: FaultyFtpServer) -> None:
    server.faults.most = 2
    for number in range(6):
        (server.folder / f"name{number}").write_bytes(DATA)
    async with faulty(server, max_connections=6, timeout=30) as storage:

        async def read(number: int) -> None:
            assert await storage.read_bytes(f"name{number}", limit=len(DATA)) == DATA

        await asyncio.gather(*map(read, range(6)))
        assert backend_of(storage).calls.pool.most == 2
        accepted = server.accepted
        await asyncio.gather(*map(read, range(6)))
        assert server.accepted == accepted
    async with faulty(server, max_connections=6, timeout=30) as storage:
        assert backend_of(storage).calls.pool.most == 2


async def test_all_connections_taken_by_those_who_wait_is_an_error(server: FaultyFtpServer) -> None:
    """A copy within an account that has one connection cannot go on; it says so instead of waiting for ever."""
    (server.folder / "name").write_bytes(DATA * 4)
    async with faulty(server, max_connections=1, timeout=2) as storage:
        async with storage.read("name") as reader:
            await reader.read()
            with pytest.raises(Throttled, match="max_connections"):
                await storage.write_bytes("other", b"data")


async def test_a_wrong_password_is_tried_once(server: FaultyFtpServer) -> None:
    server.password = "another"
    (server.folder.parent / "secret").touch(0o600)
    (server.folder.parent / "secret").write_text("wrong")

    async def attempt() -> None:
        async with faulty(server):
            pass

    for _ in range(3):
        with pytest.raises(AuthenticationFailed):
            await attempt()
    assert server.accepted == 1


async def test_a_password_that_a_server_repeats_is_not_told(server: FaultyFtpServer) -> None:
    """Messages are logged, kept in the ledger and sent by mail."""
    server.password = "tr0ub4dor"
    server.faults.replies = {"PASS": "501 'PASS tr0ub4dor' not understood"}
    with pytest.raises(AuthenticationFailed, match=r"501 'PASS \*\*\*' not understood") as failed:
        async with faulty(server):
            pass
    assert "tr0ub4dor" not in "".join(traceback.format_exception(failed.value))


@pytest.mark.parametrize(
    ("command", "reply", "kind", "mend"),
    [
        ("USER", "421 Service not available", Throttled, "is not ready"),
        (
            "USER",
            "500 OOPS: vsftpd: refusing to run with writable root inside chroot()",
            PermissionDenied,
            "chroot=YES",
        ),
        ("USER", "530 Too many users", Throttled, "lower 'max_connections'"),
        ("PASS", "332 Need account for login", AuthenticationFailed, "check user and password"),
        ("PASS", "350 and what else?", ProtocolViolation, "check that this is an FTP server"),
        ("TYPE", "504 No such type", ProtocolViolation, "check that this is an FTP server"),
    ],
)
async def test_what_a_refusal_means(
    server: FaultyFtpServer, command: str, reply: str, kind: type[CrossdockError], mend: str
) -> None:
    server.faults.replies = {command: reply}
    with pytest.raises(kind) as refused:
        async with faulty(server):
            pass
    assert mend in str(refused.value)


@pytest.mark.parametrize(
    ("type", "tls", "security", "port"),
    [
        ("ftp", None, "none", 21),
        ("ftp", "none", "none", 21),
        ("ftp", "explicit", "explicit", 21),
        ("ftp", "implicit", "implicit", 990),
        ("ftpes", None, "explicit", 21),
        ("ftps", "implicit", "implicit", 990),
    ],
)
def test_two_ways_to_ask_for_tls(type: str, tls: str | None, security: str, port: int) -> None:
    settings = FtpSettings.model_validate({"type": type, "host": "h", "tls": tls})
    assert (settings.security, settings.address[1]) == (security, port)


async def test_a_password_that_is_no_line(server: FaultyFtpServer) -> None:
    """It would become a command of its own."""
    secret = server.folder.parent / "secret"
    secret.touch(0o600)
    secret.write_text("one\nDELE two")
    with pytest.raises(AuthenticationFailed, match="holds a line break or NUL"):
        async with faulty(server):
            pass
    assert {command.partition(" ")[0] for command in server.commands} <= {"USER", "QUIT"}


async def test_refusals_of_our_own_do_not_make_the_wait_longer(server: FaultyFtpServer) -> None:
    now, secret = 1000.0, server.folder.parent / "secret"
    secret.touch(0o600)
    secret.write_text(server.password)
    settings = {"type": "ftp", "host": server.host, "port": server.port, "user": server.user, "timeout": 30}
    found = FtpSettings.model_validate(settings | {"password": f"file:{secret}"})
    pool, right = Pool(found, "faulty", account=Account(lambda: now)), server.password
    server.password = "another"
    for _ in range(4):
        with pytest.raises(AuthenticationFailed) as refused:
            await pool.acquire()
        now += LOCKED_OUT / 4
    assert (server.accepted, str(refused.value).count("no new attempt before")) == (1, 1)
    server.password = right
    pool.release(await pool.acquire())
    assert server.accepted == 2
    await pool.close()


async def test_after_a_good_password_three_sign_in_together(server: FaultyFtpServer) -> None:
    """The first does so alone: a wrong password must not count several times over."""

    class Meeting(Connector):
        def sign_in(self, connection: Connection, *, old_tls: bool) -> None:
            with lock:
                begun.append(len(ended))
            if len(begun) > 1:
                together.wait(30)
            with lock:
                ended.append(connection)

    lock, together = threading.Lock(), threading.Barrier(3)
    begun: list[int] = []
    ended: list[Connection] = []
    found = FtpSettings(type="ftp", host=server.host, port=server.port, max_connections=10, keepalive=0)
    pool = Pool(found, "faulty", account=Account(), connector=Meeting(found, "faulty"))
    await asyncio.gather(*(pool.acquire() for _ in range(7)))
    assert begun[:2] == [0, 1]
    assert all(number - ready <= 3 for number, ready in enumerate(begun, 1))
    await pool.close()


async def test_one_sign_in_that_is_cut_is_made_again_soon(server: FaultyFtpServer) -> None:
    """A copy within an account waits for its second connection: not for half a minute, and no error."""
    (server.folder / "name").write_bytes(DATA)
    async with faulty(server, timeout=20) as storage, asyncio.timeout(10):
        server.then = [("USER", hang_up)]
        async with storage.read("name") as reader:
            assert await reader.read()
            await storage.write_bytes("other", b"data")
        assert server.then == []
    assert (server.folder / "other").read_bytes() == b"data"
    assert server.accepted == 3


async def test_an_idle_connection_is_asked_whether_it_is_there(server: FaultyFtpServer) -> None:
    """Firewalls forget it, and servers end it; one that is gone is replaced before anybody is given it."""
    asked, ended = asyncio.Event(), asyncio.Event()

    def end() -> None:
        ended.set()
        hang_up()

    server.then = [("NOOP", asked.set), ("NOOP", end)]
    async with faulty(server, keepalive=0.05) as storage, asyncio.timeout(30):
        assert not await storage.exists("name")
        await asked.wait()
        assert server.accepted == 1
        await ended.wait()
        assert not await storage.exists("name")
        assert server.accepted == 2


async def test_a_passive_address_is_not_followed(server: FaultyFtpServer) -> None:
    """The data connection goes where the control connection goes, whatever the server says (CVE-2021-4189)."""
    server.faults.passive = "227 Entering (10,255,255,1,{high},{low})"
    async with faulty(server) as storage:
        await storage.write_bytes("name", b"data")
        assert await storage.read_bytes("name") == b"data"


@pytest.mark.parametrize("reply", ["227 garbage", "227 (127,0,0,1,0,0)", "227 (127,0,0,1,999,1)"])
async def test_a_passive_reply_that_is_none(server: FaultyFtpServer, reply: str) -> None:
    server.faults.passive = reply
    async with faulty(server) as storage:
        with pytest.raises(ProtocolViolation):
            await storage.write_bytes("name", b"data")


async def test_active_mode(server: FaultyFtpServer) -> None:
    """The server is asked to connect back; this one cannot, and nothing else is tried instead."""
    (server.folder / "name").write_bytes(b"data")
    async with faulty(server, mode="active") as storage:
        with pytest.raises(CrossdockError):
            await storage.read_bytes("name")
    assert any(command.startswith("EPRT |1|127.0.0.1|") for command in server.commands)
    assert not any(command.startswith(("EPSV", "PASV")) for command in server.commands)


@pytest.mark.parametrize("name", ["a\r\nDELE victim", "a\nb", "a\rb", "a\0b"])
async def test_no_name_becomes_a_command(server: FaultyFtpServer, name: str) -> None:
    (server.folder / "victim").write_bytes(b"x")
    async with faulty(server) as storage:
        before = len(server.commands)
        actions: list[Callable[[], Awaitable[object]]] = [
            lambda: storage.stat(name),
            lambda: storage.read_bytes(name),
            lambda: storage.write_bytes(name, b"x"),
            lambda: storage.delete(name),
            lambda: storage.make_dir(name),
            lambda: storage.remove_dir(name),
            lambda: storage.rename("victim", name),
        ]
        for action in actions:
            with pytest.raises(InvalidPath):
                await action()
        assert len(server.commands) == before
    assert (server.folder / "victim").exists()


@pytest.mark.parametrize(
    "reply",
    ["999 what", "no code", "250-never ends\r\n" + "x" * 200 + "\r\n", "2" * 100_000],
    ids=["code", "text", "multi-line", "long"],
)
async def test_replies_that_are_none(server: FaultyFtpServer, reply: str) -> None:
    async with faulty(server, timeout=2) as storage:
        server.faults.replies["MLST"] = reply
        with pytest.raises((ProtocolViolation, TimedOut)):
            await storage.stat("name")
        del server.faults.replies["MLST"]
        assert not await storage.exists("name")


async def test_interim_replies_without_an_end(server: FaultyFtpServer) -> None:
    async with faulty(server) as storage:
        server.faults.replies["MLST"] = "150 one moment\r\n" * 20_000 + "550 No such file"
        with pytest.raises(ProtocolViolation, match="interim replies without an end"):
            await storage.stat("name")


@pytest.mark.parametrize(("reply", "said"), [("250-more\r\n" * 200_000, "a reply"), ("2" * 300_000, "a line")])
async def test_replies_without_an_end(server: FaultyFtpServer, reply: str, said: str) -> None:
    """No more of one is held than any can mean."""
    async with faulty(server) as storage:
        server.faults.replies["MLST"] = reply
        with pytest.raises(ProtocolViolation, match=f"{said} without an end"):
            await storage.stat("name")


async def test_who_waits_or_reads_hears_that_the_endpoint_is_closed(server: FaultyFtpServer) -> None:
    (server.folder / "name").write_bytes(bytes(16 << 20))
    async with faulty(server, max_connections=1) as storage, asyncio.timeout(30):
        reader = await storage.backend.begin_read("name")
        waiting = asyncio.create_task(storage.stat("name"))
        await asyncio.sleep(0)
        await storage.close()
        with pytest.raises(ConnectionFailed, match="the endpoint is closed"):
            await waiting
        with pytest.raises(ConnectionFailed):
            while await asyncio.wait_for(reader.read(), 10):
                pass


async def test_a_message_quotes_the_beginning_of_a_long_reply(server: FaultyFtpServer) -> None:
    async with faulty(server) as storage:
        server.faults.replies["DELE"] = "550 Permission denied: " + "x" * 60_000
        (server.folder / "name").touch()
        with pytest.raises(PermissionDenied, match="DELE: 550 Permission denied: xxx") as caught:
            await storage.delete("name")
        assert len(str(caught.value)) < 1000


async def test_what_is_served_is_what_was_asked_for(tmp_path: Path) -> None:
    """A rehearsal of the server itself: without faults it passes for one."""
    async with FaultyFtpServer(tmp_path, FtpFaults()) as server:
        secret = tmp_path / "secret"
        secret.touch(0o600)
        secret.write_text(server.password)
        url = {
            "type": "ftp",
            "host": server.host,
            "port": server.port,
            "user": server.user,
            "password": f"file:{secret}",
        }
        async with Storage(FtpSettings.model_validate(url).backend("faulty")) as storage:
            await storage.write_bytes("name", DATA)
            assert await storage.read_bytes("name", limit=len(DATA)) == DATA


async def test_a_limit_of_this_machine_is_told_as_such(
    server: FaultyFtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with faulty(server) as storage:
        with monkeypatch.context() as patch:
            patch.setattr(data, "_reached", full)
            with pytest.raises(ConnectionFailed, match=r"Too many open files.*ulimit"):
                await storage.write_bytes("name", b"x")
        await storage.write_bytes("name", b"x")
    assert server.accepted == 1


async def test_an_address_that_does_not_answer_is_asked_once(
    server: FaultyFtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be silent: each of its turns would take the whole time limit."""
    with socket.socket() as dead:
        dead.bind((server.host, 0))
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        found = [(*kind, dead.getsockname()), (*kind, (server.host, server.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        async with faulty(server) as storage:
            await storage.write_bytes("name", DATA)
            dead.listen()
            dead.setblocking(False)
            async with storage.read("name") as first, storage.read("name") as second:
                assert await first.read() == await second.read()
        assert server.accepted > 1
        with pytest.raises(BlockingIOError):
            dead.accept()


async def test_an_address_of_a_family_that_the_system_lacks_is_passed_over(
    server: FaultyFtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As IPv6 in a container without it; no system has family 255."""
    here = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (server.host, server.port))
    found = [(255, socket.SOCK_STREAM, 0, "", ("::1", server.port, 0, 0)), here]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    async with faulty(server) as storage:
        await storage.write_bytes("name", b"x")
    assert (server.folder / "name").read_bytes() == b"x"


@pytest.mark.parametrize("error", [TimeoutError("timed out"), OSError(errno.EHOSTUNREACH, "No route to host")])
async def test_a_host_that_is_not_reached_is_no_question_of_tls(
    server: FaultyFtpServer, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def unreachable(*_: object) -> None:
        raise error

    monkeypatch.setattr(connecting, "reached_in_time", unreachable)
    with pytest.raises(ConnectionFailed, match="check host, port and firewall") as caught:
        async with faulty(server):
            pass
    assert "ftps" not in str(caught.value)
