"""Large bodies on threads: every byte, connections used again, and every way for a connection to fail."""

from __future__ import annotations

import asyncio
import io
import os
import random
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crossdock.storage.http import NotHttp, Unreachable
from crossdock.storage.retry import RetryPolicy
from crossdock.storage.s3.bulk import Bulk, BulkResponse
from crossdock.storage.storage import Storage
from tests.storage.s3.places import Server, backend, bucket

DATA = random.Random(20261121).randbytes(3 * 1024 * 1024 + 5)

Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server that reads the head of each request and then does as `answering` says, request by request."""

    def __init__(self, *answering: Answering) -> None:
        self.answering = list(answering)
        self.connections = 0
        self.heads: list[str] = []
        self.ended = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answering:
                self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
                await self.answering.pop(0)(reader, writer)
                await writer.drain()
            assert await reader.read(1) == b""
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ended.set()
            writer.close()


def sends(data: bytes, head: str = "", *, length: int | None = None, then: str = "") -> Answering:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = len(data) if length is None else length
        writer.write((head or f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").encode() + data)
        if then == "close":
            await writer.drain()
            writer.close()
            raise ConnectionError

    return answer


async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


@asynccontextmanager
async def serving(
    *answering: Answering, limit: int = 2, timeout: float = 30, tls: ssl.SSLContext | None = None, service: str = ""
) -> AsyncGenerator[tuple[Peer, Bulk]]:
    peer = Peer(*answering)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=tls)
    peer.url = f"{service or 'http://127.0.0.1'}:{server.sockets[0].getsockname()[1]}"
    bulk = Bulk(peer.url, None, limit=limit, timeout=timeout, connect_timeout=30)
    try:
        yield peer, bulk
    finally:
        bulk.close()
        server.close()
        await server.wait_closed()


async def whole(response: BulkResponse) -> bytes:
    try:
        return b"".join([chunk async for chunk in response.content.iter_any()])
    finally:
        response.release()


async def get(bulk: Bulk, peer: Peer) -> bytes:
    return await whole(await bulk.request("GET", f"{peer.url}/a%20b?x=1", {"X-Name": "value"}))


async def test_one_connection_for_many_bodies() -> None:
    chunked = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (DATA[:70_000], DATA[70_000:]))
    head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(sends(DATA), sends(b""), sends(chunked + b"0\r\n\r\n", head), sends(DATA)) as (peer, bulk):
        assert [await get(bulk, peer) for _ in range(4)] == [DATA, b"", DATA, DATA]
        assert peer.connections == 1
        assert peer.heads[0].startswith("GET /a%20b?x=1 HTTP/1.1\r\nHost: 127.0.0.1:")
        assert "X-Name: value\r\n" in peer.heads[0] and "ccept-" not in peer.heads[0]


@pytest.mark.parametrize("size", [8 * 1024, 128 * 1024])
async def test_what_came_with_the_head_is_all_taken(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Whatever buffer `http.client` has: since Python 3.14 it is 128 KiB."""
    monkeypatch.setattr(io, "DEFAULT_BUFFER_SIZE", size)
    small = DATA[: 100 * 1024]
    async with serving(sends(small), sends(DATA)) as (peer, bulk):
        assert [await get(bulk, peer) for _ in range(2)] == [small, DATA]


async def test_what_is_sent() -> None:
    arrived = b""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        arrived = await reader.readexactly(len(DATA))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: x\r\n\r\n")

    async with serving(take) as (peer, bulk):
        parts = (DATA[:10], memoryview(DATA)[10:2_000_000], DATA[2_000_000:])
        response = await bulk.request("PUT", peer.url + "/x", {}, parts)
        assert response.headers["etag"] == "x" and await whole(response) == b""
        assert arrived == DATA and f"Content-Length: {len(DATA)}\r\n" in peer.heads[0]


async def test_a_refusal_before_the_body_is_taken() -> None:
    refusal = sends(b"no", "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\n", then="close")
    async with serving(refusal, sends(DATA)) as (peer, bulk):
        response = await bulk.request("PUT", peer.url + "/x", {}, [DATA])
        assert response.status == 403
        response.close()
        assert await get(bulk, peer) == DATA and peer.connections == 2


async def test_an_address_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be silent: each of its turns would take long."""
    answer = sends(DATA, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", then="close")
    with socket.socket() as dead:
        async with serving(answer, answer) as (peer, bulk):
            dead.bind(("127.0.0.1", 0))
            kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            here = ("127.0.0.1", int(peer.url.rpartition(":")[2]))
            found = [(*kind, dead.getsockname()), (*kind, here)]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
            assert await get(bulk, peer) == DATA
            dead.listen()
            dead.setblocking(False)
            assert await get(bulk, peer) == DATA and peer.connections == 2
            with pytest.raises(BlockingIOError):
                dead.accept()


async def test_a_connection_that_ended_while_unused() -> None:
    async with serving(sends(DATA, then="close"), sends(DATA)) as (peer, bulk):
        assert await get(bulk, peer) == DATA
        await peer.ended.wait()
        assert await get(bulk, peer) == DATA and peer.connections == 2


async def test_a_connection_that_ends_as_it_is_used_again() -> None:
    async def ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise ConnectionError

    async with serving(sends(DATA), ends, sends(DATA)) as (peer, bulk):
        assert await get(bulk, peer) == DATA
        assert await get(bulk, peer) == DATA
        assert peer.connections == 2 and len(peer.heads) == 3


@pytest.mark.parametrize("after", [0, 1, 5000, 2_000_000])
async def test_a_body_that_ends_early(after: int) -> None:
    async with serving(sends(DATA[:after], length=len(DATA), then="close")) as (peer, bulk):
        response = await bulk.request("GET", peer.url + "/x", {})
        found = b""
        with pytest.raises(ConnectionResetError):
            async for chunk in response.content.iter_any():
                found += chunk
        response.release()
        assert found == DATA[:after]


@pytest.mark.parametrize("after", [None, 0, 2_000_000])
async def test_silence(after: int | None) -> None:
    answer = nothing if after is None else sends(DATA[:after], length=len(DATA))

    async with serving(answer, timeout=0.2) as (peer, bulk):
        with pytest.raises(TimeoutError):
            await get(bulk, peer)


@pytest.mark.parametrize("size", [900_000, 4_000_000], ids=["small", "large"])
async def test_a_slow_line_is_no_silence(moto: Server, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """What takes eight seconds to be sent is not given up after four without an answer."""
    data, port = DATA[:1000] * (size // 1000), int(moto.endpoint_url.rpartition(":")[2])

    relays: list[asyncio.Task[None] | None] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float) -> None:
        with suppress(ConnectionError):
            while chunk := await reader.read(8192):
                await asyncio.sleep(pause * len(chunk))
                writer.write(chunk)
                await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.append(asyncio.current_task())
        back, forth = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, forth, 8 / size), pump(back, writer, 0))

    with socket.socket() as narrow, bucket(moto) as peer:
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        narrow.bind(("127.0.0.1", 0))
        async with await asyncio.start_server(relay, sock=narrow, limit=8192):

            class Slow:
                endpoint_url = f"http://127.0.0.1:{narrow.getsockname()[1]}"
                access_key, secret_key = moto.access_key, moto.secret_key

            inner = backend(Slow(), peer.bucket, monkeypatch, timeout=4, conditional_writes="off")
            inner.client.retry = RetryPolicy(attempts=1)
            async with Storage(inner) as storage:
                await storage.write_bytes("name", data)
            await asyncio.gather(*filter(None, relays))
        assert peer.read("name") == data


async def test_no_http_and_no_server() -> None:
    async with serving(sends(b"", "220 welcome\r\n\r\n")) as (peer, bulk):
        with pytest.raises(NotHttp):
            await get(bulk, peer)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        bulk = Bulk(url, None, limit=1, timeout=30, connect_timeout=30)
        with pytest.raises(Unreachable) as caught:
            await bulk.request("GET", url + "/x", {})
        assert isinstance(caught.value.os_error, ConnectionRefusedError)
        bulk.close()


@pytest.mark.parametrize("status", ["102 Processing", "103 Early Hints"])
async def test_what_comes_before_the_answer_is_not_the_answer(status: str) -> None:
    """`http.client` would take it for a success, and the refusal that follows for the next answer."""
    early = f"HTTP/1.1 {status}\r\nLink: x\r\n\r\n"
    async with serving(sends(b"no", early + "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n")) as (peer, bulk):
        with pytest.raises(NotHttp, match="before the answer"):
            await bulk.request("GET", peer.url + "/x", {})
        await peer.ended.wait()


@pytest.mark.parametrize("after", [None, 5000])
async def test_cancelled_its_connection_ends_at_once(after: int | None) -> None:
    """And the slot is free again: with a limit of one, the next request goes through."""
    answer = nothing if after is None else sends(DATA[:after], length=len(DATA))
    async with serving(answer, sends(DATA), limit=1, timeout=300) as (peer, bulk):
        task = asyncio.create_task(get(bulk, peer))
        while not peer.heads:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(peer.ended.wait(), 60)
        assert await get(bulk, peer) == DATA


async def test_closed_meanwhile() -> None:
    async with serving(nothing, timeout=300) as (peer, bulk):
        task = asyncio.create_task(get(bulk, peer))
        while not peer.heads:
            await asyncio.sleep(0)
        bulk.close()
        with pytest.raises(OSError, match="connection"):
            await asyncio.wait_for(task, 60)


async def test_tls(tmp_path: Path) -> None:
    """Verified against the authority given, by name; every byte the same both ways."""
    contexts = certificate(tmp_path, "localhost")

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = await reader.readexactly(len(DATA))
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    async with serving(echo, echo, echo, tls=contexts[0], service="https://localhost") as (peer, _):
        bulk = Bulk(peer.url, contexts[1], limit=1, timeout=30, connect_timeout=30)
        for _ in range(2):
            assert await whole(await bulk.request("PUT", peer.url + "/x", {}, [DATA])) == DATA
        assert peer.connections == 1
        for url, context in (
            (peer.url.replace("localhost", "127.0.0.1"), contexts[1]),
            (peer.url, ssl.create_default_context()),
        ):
            suspicious = Bulk(url, context, limit=1, timeout=30, connect_timeout=30)
            with pytest.raises(ssl.SSLCertVerificationError):
                await suspicious.request("GET", url + "/x", {})
            suspicious.close()
        bulk.close()


@pytest.mark.parametrize("sent", [None, 0, 5000, 2_000_000])
@pytest.mark.parametrize("broken", [False, True], ids=["ended", "broken"])
async def test_tls_that_breaks_midway(tmp_path: Path, sent: int | None, broken: bool) -> None:
    """A connection that was lost, so it is tried again: nothing is wrong with the certificate; never a shorter body.

    `sent`: so many bytes of the body come; None: not even the head.
    """
    contexts = certificate(tmp_path, "localhost")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if sent is not None:
            await sends(DATA[:sent], length=len(DATA))(reader, writer)
            await writer.drain()
        if broken:
            # Past TLS, what looks like a record of it and cannot be decrypted.
            with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as raw:
                raw.setblocking(True)
                raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
            await reader.read()
        writer.close()
        raise ConnectionError

    async with serving(answer, tls=contexts[0], service="https://localhost") as (peer, _):
        bulk = Bulk(peer.url, contexts[1], limit=1, timeout=30, connect_timeout=30)
        found = b""
        with pytest.raises(ConnectionError):
            response = await bulk.request("GET", peer.url + "/x", {})
            async for chunk in response.content.iter_any():
                found += chunk
        assert DATA[: sent or 0].startswith(found)
        bulk.close()


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context and that of a client who trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return server, ssl.create_default_context(cafile=folder / "cert.pem")
