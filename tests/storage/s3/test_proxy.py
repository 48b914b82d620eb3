"""The environment's proxies, as every other HTTP client heeds them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from crossdock.errors import ConnectionFailed
from crossdock.storage.http import proxy_of
from crossdock.storage.s3 import S3Settings
from crossdock.storage.storage import Storage
from tests.servers.server import closed_ports
from tests.storage.s3.places import LARGE, SMALL, BotoPeer, Server, backend


@asynccontextmanager
async def relay(server: Server) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A forward proxy that knows one server: its URL, and the first request line of each connection."""
    target = urlsplit(server.endpoint_url)
    asked: list[bytes] = []
    serving: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        asked.append(line)
        upstream, there = await asyncio.open_connection(target.hostname, target.port)
        there.write(line)
        await asyncio.gather(pump(reader, there), pump(upstream, writer))

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", asked
    finally:
        listening.close()
        await asyncio.gather(*serving)


@pytest.mark.parametrize(
    ("excepted", "through"),
    [("", True), ("127.0.0.1", False), ("127.0.0.1:{port}", False), ("127.0.0.1:1", True), ("elsewhere.example", True)],
)
async def test_requests_go_through_it_unless_excepted(
    excepted: str, through: bool, moto: Server, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relay(moto) as (url, asked):
        for name, value in (("http_proxy", url), ("no_proxy", excepted.format(port=urlsplit(moto.endpoint_url).port))):
            monkeypatch.delenv(name.upper(), raising=False)
            monkeypatch.setenv(name, value)
        async with Storage(backend(moto, peer.bucket, monkeypatch, part_size="5M")) as storage:
            for path, data in (("small", SMALL), ("large", LARGE)):
                await storage.write_bytes(path, data)
                assert await storage.read_bytes(path) == data
    assert {path: peer.read(path) for path in ("small", "large")} == {"small": SMALL, "large": LARGE}
    assert bool(asked) is through
    assert all(moto.endpoint_url.encode() in line for line in asked)


_HOSTS = ("[::1]:9000", "[::1]", "[2001:db8::5]:9000", "s3.example", "s3.example:9000", "lake.s3.example:9000")


@pytest.mark.parametrize(
    ("excepted", "hosts"),
    [
        ("::1", ("[::1]:9000", "[::1]")),
        ("other.example, [::1]", ("[::1]:9000", "[::1]")),
        ("[::1]:9000", ("[::1]:9000",)),
        ("[::1]:80", ("[::1]",)),
        ("[2001:DB8::5]", ("[2001:db8::5]:9000",)),
        (".example", ("s3.example", "s3.example:9000", "lake.s3.example:9000")),
        ("s3.example:9000", ("s3.example:9000", "lake.s3.example:9000")),
        ("*", _HOSTS),
        ("", ()),
    ],
)
def test_who_is_excepted(excepted: str, hosts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = "http://proxy.example:3128"
    for name, value in (("http_proxy", proxy), ("no_proxy", excepted)):
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv(name, value)
    wanted = {host: None if host in hosts else proxy for host in _HOSTS}
    assert {host: proxy_of(urlsplit(f"http://{host}/b/key")) for host in _HOSTS} == wanted


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_one_that_is_not_there_is_named(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store itself may be fine."""
    with closed_ports(1) as ports:
        (port,) = ports
        for name, value in ((f"{scheme}_proxy", f"http://127.0.0.1:{port}"), ("no_proxy", "")):
            monkeypatch.delenv(name.upper(), raising=False)
            monkeypatch.setenv(name, value)
        settings = S3Settings(bucket="lake", endpoint_url=f"{scheme}://s3.example", anonymous=True)
        async with Storage(settings.backend("lake")) as storage:
            with pytest.raises(ConnectionFailed, match=rf"proxy 127\.0\.0\.1:{port}.*{scheme}_proxy"):
                await storage.stat("a")
