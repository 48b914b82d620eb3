"""Listings and refusals, stores that are silent, elsewhere or no stores, and secrets that stay secret."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from crossdock.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    CrossdockError,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    TimedOut,
)
from crossdock.storage.s3.request import Request
from crossdock.storage.storage import Storage
from tests.storage.s3.faults import FaultProxy, Upstream, answer, cut, drop, edit, lose, raw, silence, xml_error
from tests.storage.s3.places import MIB, SMALL, BotoPeer, Server, backend, bucket


class TestListing:
    async def test_the_same_token_for_ever(self, storage: Storage, proxy: FaultProxy) -> None:
        page = (
            b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
            b"<Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>"
        )
        proxy.fail("GET", "list-type=2", answer(200, page), 1000)
        with pytest.raises(ProtocolViolation, match="twice"):
            [entry async for entry in storage.walk()]
        assert proxy.count("list-type") == 2

    @pytest.mark.parametrize(
        "page",
        [
            b"<html><body>Sign in</body></html>",
            b"<!DOCTYPE html><html></html>",
            b'<!DOCTYPE r [<!ENTITY a "false">]><ListBucketResult><IsTruncated>&a;</IsTruncated></ListBucketResult>',
            b"",
            b"<ListBucketResult><IsTruncated>",
            b"<ListBucketResult/>",
            b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
            '<?xml version="1.0" encoding="utf-16"?><ListBucketResult/>'.encode("utf-16"),
            b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents/></ListBucketResult>",
            b"x" * (17 * MIB),
        ],
        ids=["HTML", "HTML5", "entities", "empty", "cut", "no end", "no token", "UTF-16", "no key", "17 MiB"],
    )
    async def test_what_is_not_a_listing(self, storage: Storage, proxy: FaultProxy, page: bytes) -> None:
        proxy.fail("GET", "list-type=2", answer(200, page), 100)
        with pytest.raises(ProtocolViolation):
            [entry async for entry in storage.walk()]

    @pytest.mark.parametrize("told", [True, False])
    async def test_a_store_that_answers_as_before_version_2(
        self, ceph: Server, monkeypatch: pytest.MonkeyPatch, told: bool
    ) -> None:
        """Huawei's and Tencent's do not look at `list-type`: the next page begins after a name."""
        names = ["a b", "a+b/1", "a+b/2", "a.b", "c d/1", "c+d/1", "ü/1", "ü/2"]

        def keep_quiet(found: Upstream) -> None:
            found.body = re.sub(b"<NextMarker>.*</NextMarker>", b"", found.body)
            drop(found, "content-length")

        with bucket(ceph) as peer:
            for name in names:
                peer.write(name, SMALL)
            async with FaultProxy(ceph) as proxy:
                proxy.fail("GET", "max-keys=1&", edit(keep_quiet), 0 if told else 100)
                inner = backend(proxy, peer.bucket, monkeypatch, conditional_writes="off")
                url = inner.client.url

                def old(request: Request) -> str:
                    query = {name: text for name, text in request.query.items() if name != "list-type"}
                    return url(replace(request, query={**query, "max-keys": "1"}))

                monkeypatch.setattr(inner.client, "url", old)
                async with Storage(inner) as storage:
                    assert [entry.path async for entry in storage.walk()] == names
                    assert [entry.path async for entry in storage.scan()] == ["a b", "a+b", "a.b", "c d", "c+d", "ü"]
                    assert [entry.path async for entry in storage.scan("a+b")] == ["a+b/1", "a+b/2"]
                assert proxy.count("marker=a%2Bb") > 1 and proxy.count("continuation-token") == 0

    async def test_a_store_that_refuses_version_2(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        proxy.fail("GET", "list-type=2", xml_error(501, "NotImplemented"), 100)
        for name in ("a b", "c+d/1", "e"):
            peer.write(name, SMALL)
        assert [entry.path async for entry in storage.walk()] == ["a b", "c+d/1", "e"]
        assert {entry.path async for entry in storage.scan()} == {"a b", "c+d", "e"}
        # Asked for once, and no more: not at the next listing, nor for whether there is such a folder.
        assert proxy.count("list-type=2") == 1 and (await storage.stat("c+d")).kind == "dir"

    @pytest.mark.parametrize("encodes", [True, False])
    async def test_a_store_that_does_not_encode_the_names_of_folders(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, encodes: bool
    ) -> None:
        """As moto before version 2 of listings, and as was told of IBM's and of old ones of Ceph."""
        if not encodes:
            proxy.asked = lambda query: query.replace("list-type=2", "")
        for name in ("a b", "c+d/x+y/1", "e f/1"):
            peer.write(name, SMALL)
        assert {entry.path async for entry in storage.scan()} == {"a b", "c+d", "e f"}
        assert [entry.path async for entry in storage.scan("c+d")] == ["c+d/x+y"]
        assert proxy.count("list-type=2") - proxy.count("encoding-type=url") == (1 if encodes else 2)

    async def test_keys_of_elsewhere(self, storage: Storage, proxy: FaultProxy) -> None:
        page = b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>b</Key></Contents></ListBucketResult>"
        proxy.fail("GET", "list-type=2", answer(200, page))
        with pytest.raises(ProtocolViolation, match="below"):
            [entry async for entry in storage.walk("a")]


class TestRefused:
    @pytest.mark.parametrize("target", ["http://127.0.0.1:1/", "https://elsewhere.example/", "/other"])
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_no_redirect_is_followed(self, storage: Storage, proxy: FaultProxy, target: str, status: int) -> None:
        proxy.fail("GET", "/name", answer(status, location=target), 100)
        with pytest.raises(CrossdockError, match="redirects are not followed"):
            await storage.read_bytes("name")
        assert len(proxy.seen) == 1

    async def test_403_says_both_possibilities(self, storage: Storage, proxy: FaultProxy) -> None:
        proxy.fail("HEAD", "/name", answer(403))
        with pytest.raises(PermissionDenied, match="s3:ListBucket") as caught:
            await storage.stat("name")
        assert "s3:GetObject" in str(caught.value)

    async def test_a_missing_bucket(self, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
        async with Storage(backend(proxy, "there-is-none", monkeypatch)) as storage:
            for action in (storage.stat("a"), storage.stat(""), storage.read_bytes("a"), storage.write_bytes("a", b"")):
                with pytest.raises(NotFound, match="bucket"):
                    await action

    async def test_what_is_no_http_is_told_in_part(self, storage: Storage, proxy: FaultProxy) -> None:
        proxy.fail("HEAD", "/name", raw(b"220 welcome\r\n\r\n"), 100)
        with pytest.raises(ProtocolViolation, match="does not speak HTTP: BadStatusLine: 220 welcome"):
            await storage.stat("name")
        proxy.fail("GET", "list-type=2", raw(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), 100)
        with pytest.raises(ProtocolViolation, match=r"does not speak HTTP: [A-Z][^\\]+\. Next"):
            [entry async for entry in storage.walk()]

    async def test_a_chunk_after_the_answer_to_a_head(self, storage: Storage, proxy: FaultProxy) -> None:
        """Swift's s3api on Debian's eventlet ends a refusal's absent body with a last chunk."""
        refusal = raw(b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        proxy.fail("HEAD", "nothing", refusal, 100)
        for name in ("nothing", "nothing else"):
            with pytest.raises(NotFound):
                await storage.stat(name)
        await storage.write_bytes("name", SMALL)
        assert (await storage.stat("name")).size == len(SMALL)

    async def test_a_silent_store(self, proxy: FaultProxy, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch) -> None:
        inner = backend(proxy, peer.bucket, monkeypatch, timeout=0.1, conditional_writes="off")
        over = asyncio.Event()
        proxy.fail("HEAD", "/name", silence(over))
        async with Storage(inner) as storage:
            with pytest.raises(TimedOut, match="silent"):
                await storage.stat("name")
        over.set()

    async def test_nobody_there(self, monkeypatch: pytest.MonkeyPatch, moto: Server, unused_port: int) -> None:
        class Nobody:
            endpoint_url, access_key, secret_key = f"http://127.0.0.1:{unused_port}", "a", "b"

        inner = backend(Nobody(), "bucket", monkeypatch, conditional_writes="off")
        async with Storage(inner) as storage:
            with pytest.raises(ConnectionFailed, match=r"Connection refused.*endpoint_url"):
                await storage.stat("name")

    async def test_whoever_opens_is_not_told_of_the_probe(
        self, monkeypatch: pytest.MonkeyPatch, unused_port: int
    ) -> None:
        class Nobody:
            endpoint_url, access_key, secret_key = f"http://127.0.0.1:{unused_port}", "a", "b"

        with pytest.raises(ConnectionFailed, match="open lake: cannot connect"):
            async with Storage(backend(Nobody(), "bucket", monkeypatch)):
                pass

    async def test_https_where_none_is_spoken(self, monkeypatch: pytest.MonkeyPatch, moto: Server) -> None:
        class Clear:
            endpoint_url = moto.endpoint_url.replace("http:", "https:")
            access_key, secret_key = "a", "b"

        with pytest.raises(AuthenticationFailed, match="speaks no TLS"):
            async with Storage(backend(Clear(), "bucket", monkeypatch)):
                pass

    async def test_not_http(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"220 ftp.example ready\r\n")
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:

            class Ftp:
                endpoint_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                access_key, secret_key = "a", "b"

            async with Storage(backend(Ftp(), "bucket", monkeypatch, conditional_writes="off")) as storage:
                with pytest.raises(ProtocolViolation, match="HTTP"):
                    await storage.stat("name")


@pytest.fixture
def unused_port() -> Iterator[int]:
    import socket

    # Bound, but not listening: nobody else gets it, and connecting fails.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


class TestSecrets:
    async def test_stay_secret(self, storage: Storage, proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> None:
        """Neither errors nor logs at any level show a key or a signature."""
        caplog.set_level(logging.DEBUG)
        texts = []
        for fault in (xml_error(403, "SignatureDoesNotMatch", "no"), answer(500), lose(), cut(0), answer(301)):
            proxy.fail("GET", "/name", fault)
            with pytest.raises(CrossdockError) as caught:
                async with storage.read("name") as reader:
                    await reader.read()
            texts.append(f"{caught.value!r} {caught.value}")
        told = " ".join([*texts, caplog.text])
        assert proxy.secret_key not in told
        assert "Signature=" not in told

    async def test_an_expired_token_is_renewed_once(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        peer.write("name", SMALL)
        proxy.fail("GET", "/name", xml_error(400, "ExpiredToken"))
        assert await storage.read_bytes("name") == SMALL
        proxy.fail("GET", "/name", xml_error(400, "ExpiredToken"), 100)
        with pytest.raises(AuthenticationFailed, match="renew"):
            await storage.read_bytes("name")
        assert proxy.count("GET") == 4
