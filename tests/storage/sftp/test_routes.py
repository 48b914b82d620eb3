"""Ways to the server: through ssh's own settings, jump hosts and proxies."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import ConfigError, ConnectionFailed, HostKeyMismatch
from crossdock.storage.sftp.connect import Connector
from crossdock.storage.sftp.trust import offered_keys
from tests.storage.sftp.fake_server import only, serving, write_key
from tests.storage.sftp.places import connects


async def test_ssh_config(tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    folder = Path(os.environ["HOME"]) / ".ssh"
    folder.mkdir()
    async with serving(server=only(key)) as peer:
        (folder / "config").write_text(
            f"Host partner\n  HostName 127.0.0.1\n  Port {peer.port}\n  User tester\n  IdentityFile {tmp_path}/key\n"
        )
        base = peer.settings(host="partner", port=None, user=None, password=None)
        await connects(base.model_copy(update={"ssh_config": True}))
        await connects(base.model_copy(update={"host": "elsewhere", "ssh_config": "partner"}))
        (tmp_path / "key").chmod(0o644)
        with pytest.raises(ConfigError, match="chmod 600"):
            await connects(base.model_copy(update={"ssh_config": True}))
        assert set(peer.sign_ins) == {"tester"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"Host *\n  ProxyJump me@bastion:99999\n", "cannot go through 'me@bastion:99999'"),
        (b"Host *\n  ProxyJump [::1\n", r"cannot go through '\[::1'"),
        (b"Host *\n  Port ssh\n", r"/config: line 2: .* Next: mend it there"),
        (b"Host *  # \xe9\n", "/config: .* not UTF-8 text. Next: mend it there"),
        (b"Host *\n  =\n", "/config: a line in it has no name, .* Next: mend it there"),
    ],
)
async def test_what_is_no_ssh_config_is_told(text: bytes, words: str) -> None:
    folder = Path(os.environ["HOME"]) / ".ssh"
    folder.mkdir()
    (folder / "config").write_bytes(text)
    async with serving() as peer:
        with pytest.raises(ConfigError, match=words):
            await connects(peer.settings(ssh_config=True))
        assert peer.sign_ins == []


async def test_an_address_that_says_nothing_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    asked: list[Any] = []
    dead: list[str] = []
    with socket.socket() as silent, ExitStack() as fillers:
        silent.bind(("127.0.0.2", 0))
        silent.listen(0)
        for _ in range(4):
            # Until nobody else is let in: the kernel then answers no more.
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        async with serving() as peer:

            async def resolve(host: str, port: int, **options: Any) -> list[Any]:
                assert (host, port) == ("127.0.0.1", peer.port)
                return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", at) for at in (silent.getsockname(), (host, port))]

            connect = loop.sock_connect

            async def noting(sock: socket.socket, address: Any) -> None:
                asked.append(address[0])
                if address[0] in dead:
                    raise TimeoutError
                await connect(sock, address)

            monkeypatch.setattr(loop, "getaddrinfo", resolve)
            monkeypatch.setattr(loop, "sock_connect", noting)
            connector = Connector(peer.settings(connect_timeout=3), "fake")
            for _ in range(2):
                await (await connector.make()).close()
            assert asked == ["127.0.0.2", "127.0.0.1", "127.0.0.1"]
            asked.clear()
            dead.append("127.0.0.2")
            found = await offered_keys("127.0.0.1", peer.port, timeout=60)
    assert [key.fingerprint for key in found] == peer.fingerprints
    assert asked[:2] == ["127.0.0.2", "127.0.0.1"] and set(asked[2:]) == {"127.0.0.1"}


async def test_an_address_of_a_family_that_the_system_lacks_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """As IPv6 in a container without it; no system has family 255."""
    async with serving() as peer:

        async def resolve(host: str, port: int, **options: Any) -> list[Any]:
            return [
                (family, socket.SOCK_STREAM, 0, "", at)
                for family, at in ((255, ("::1", port, 0, 0)), (socket.AF_INET, (host, port)))
            ]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        await (await Connector(peer.settings(), "fake").make()).close()


async def test_jump_host(tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    async with serving(server=only(key)) as far, serving(server=only(key)) as near:
        given = {"private_key": f"file:{tmp_path}/key", "jump": f"tester@127.0.0.1:{near.port}"}
        await connects(far.settings(**given, jump_host_key=near.fingerprints))
        assert near.sign_ins == ["tester"] and "right" not in near.passwords
        with pytest.raises(HostKeyMismatch):
            await connects(far.settings(**given, jump_host_key=far.fingerprints))
        assert near.sign_ins == ["tester"] and far.sign_ins == ["tester"]


async def test_a_jump_host_that_does_not_reach_the_server(tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    async with serving(server=only(key)) as near:
        given = {"private_key": f"file:{tmp_path}/key", "jump": f"tester@127.0.0.1:{near.port}", "port": 1}
        with pytest.raises(ConnectionFailed, match=r"the jump host does not reach .*:1: .*check 'jump'"):
            await connects(near.settings(**given, jump_host_key=near.fingerprints))


async def test_a_jump_host_of_the_ssh_config_is_looked_up_there_as_well(tmp_path: Path) -> None:
    keys = {name: write_key(tmp_path / name) for name in ("far", "near")}
    folder = Path(os.environ["HOME"]) / ".ssh"
    folder.mkdir()
    async with serving(server=only(keys["far"])) as far, serving(server=only(keys["near"])) as near:
        hosts = "".join(
            f"Host {host}\n  HostName 127.0.0.1\n  Port {peer.port}\n  User {host}\n  IdentityFile {tmp_path}/{key}\n"
            for host, peer, key in (("Bastion", near, "near"), ("partner", far, "far"))
        )
        (folder / "config").write_text(f"{hosts}  ProxyJump Bastion\n")
        given = {"host": "partner", "port": None, "user": None, "password": None, "ssh_config": True}
        await connects(far.settings(**given, jump_host_key=near.fingerprints))
        assert (near.sign_ins, far.sign_ins) == (["Bastion"], ["partner"])
        (folder / "config").write_text(f"{hosts}  ProxyJump Bastion\nHost Bastion\n  ProxyJump other\n")
        with pytest.raises(ConfigError, match="ProxyJump of its own"):
            await connects(far.settings(**given, jump_host_key=near.fingerprints))


@asynccontextmanager
async def proxy(*, refuse: bool = False) -> AsyncGenerator[tuple[int, list[str]]]:
    """SOCKS5 with sign-in (RFC 1928, 1929), and HTTP CONNECT, on one port."""
    seen: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(1)
        if first == b"C":
            head = first + await reader.readuntil(b"\r\n\r\n")
            host, _, port = head.split()[1].decode().partition(":")
            seen.append("http")
            answer = b"HTTP/1.1 403 Forbidden\r\n\r\n" if refuse else b"HTTP/1.1 200 OK\r\n\r\n"
        else:
            methods = await reader.readexactly((await reader.readexactly(1))[0])
            if 2 in methods:
                writer.write(b"\5\2")
                await reader.readexactly(1)
                name = await reader.readexactly((await reader.readexactly(1))[0])
                word = await reader.readexactly((await reader.readexactly(1))[0])
                seen.append(f"{name.decode()}:{word.decode()}")
                writer.write(b"\1\0")
            else:
                writer.write(b"\5\0")
            _, _, _, kind = await reader.readexactly(4)
            raw = await reader.readexactly(4 if kind == 1 else (await reader.readexactly(1))[0])
            host = ".".join(map(str, raw)) if kind == 1 else raw.decode()
            (number,) = struct.unpack(">H", await reader.readexactly(2))
            port = str(number)
            seen.append("socks5")
            answer = b"\5" + (b"\5" if refuse else b"\0") + b"\0\1" + bytes(6)
        writer.write(answer)
        if refuse:
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], seen
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("kind", ["socks5", "http"])
async def test_proxy(kind: str) -> None:
    async with proxy() as (port, seen), serving() as peer:
        await connects(peer.settings(proxy=f"{kind}://127.0.0.1:{port}"))
        assert seen == [kind]


async def test_proxy_with_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXY_PASSWORD", "through")
    async with proxy() as (port, seen), serving() as peer:
        await connects(peer.settings(proxy=f"socks5://me@127.0.0.1:{port}", proxy_password="env:PROXY_PASSWORD"))
        assert seen == ["me:through", "socks5"]


@pytest.mark.parametrize("kind", ["socks5", "http"])
async def test_proxy_that_refuses(kind: str) -> None:
    async with proxy(refuse=True) as (port, _), serving() as peer:
        with pytest.raises(ConnectionFailed, match="the proxy"):
            await connects(peer.settings(proxy=f"{kind}://127.0.0.1:{port}"))
