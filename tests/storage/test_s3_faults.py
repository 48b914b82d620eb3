"""What goes wrong between us and the store, provoked by a proxy in front of a real one."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Iterator

import pytest

from crossdock.errors import (
    AlreadyExists,
    AuthenticationFailed,
    ConnectionFailed,
    CrossdockError,
    IntegrityError,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    SourceChanged,
    Throttled,
    TimedOut,
    Unsupported,
)
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.storage import Storage
from tests.storage.s3_faults import FaultProxy, Upstream, answer, cut, edit, lose, silence, xml_error
from tests.storage.s3_places import BotoPeer, Server, backend, bucket

MIB = 1024**2
LARGE = random.Random(1).randbytes(11 * MIB)
SMALL = b"some bytes"


@pytest.fixture
def peer(moto: Server) -> Iterator[BotoPeer]:
    with bucket(moto) as found:
        yield found


@pytest.fixture
async def proxy(moto: Server) -> AsyncGenerator[FaultProxy]:
    async with FaultProxy(moto) as found:
        yield found


@pytest.fixture
async def storage(proxy: FaultProxy, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Storage]:
    inner = backend(
        proxy,
        peer.bucket,
        monkeypatch,
        part_size="5M",
        copy_threshold="5M",
        copy_part_size="5M",
        conditional_writes="on",
    )
    async with Storage(inner) as found:
        yield found


async def copied(storage: Storage, path: str, target: str, overwrite: bool = True) -> None:
    await storage.server_copy(storage, path, target, WriteOptions(overwrite=overwrite))


BUSY = [
    pytest.param(xml_error(500, "InternalError"), id="500"),
    pytest.param(xml_error(503, "SlowDown"), id="503"),
    pytest.param(answer(502, b"<html>bad gateway</html>"), id="502"),
    pytest.param(xml_error(400, "RequestTimeout"), id="RequestTimeout"),
    pytest.param(lose(), id="answer lost"),
]


class TestRepeated:
    """Failures that pass are sat out, and the bytes are sent again from memory."""

    @pytest.mark.parametrize("fault", BUSY)
    async def test_put(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, fault: object) -> None:
        proxy.fail("PUT", "/name", fault, 3)  # type: ignore[arg-type]
        await storage.write_bytes("name", SMALL)
        assert peer.read("name") == SMALL
        assert proxy.count("PUT") == 4

    @pytest.mark.parametrize("fault", BUSY)
    @pytest.mark.parametrize(
        ("method", "mark"),
        [("POST", "uploads="), ("PUT", "partNumber=2"), ("POST", "uploadId="), ("HEAD", "/name")],
        ids=["create", "part", "complete", "head"],
    )
    async def test_upload(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, fault: object, method: str, mark: str
    ) -> None:
        if method == "HEAD" and fault is BUSY[3].values[0]:
            return  # An answer to HEAD has no body to name the code.
        proxy.fail(method, mark, fault, 2)  # type: ignore[arg-type]
        await storage.write_bytes("name", LARGE)
        assert peer.read("name") == LARGE
        if mark != "uploads=":
            assert peer.uploads() == []

    @pytest.mark.parametrize("fault", BUSY)
    async def test_copy(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, fault: object) -> None:
        peer.write("from", SMALL)
        proxy.fail("PUT", "/to", fault, 2)  # type: ignore[arg-type]
        await copied(storage, "from", "to")
        assert peer.read("to") == SMALL

    @pytest.mark.parametrize("fault", BUSY)
    async def test_copy_in_parts(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, fault: object) -> None:
        peer.write("from", LARGE)
        proxy.fail("PUT", "partNumber=3", fault, 2)  # type: ignore[arg-type]
        proxy.fail("POST", "uploadId=", fault, 1)  # type: ignore[arg-type]
        await copied(storage, "from", "to")
        assert peer.read("to") == LARGE
        assert peer.uploads() == []

    @pytest.mark.parametrize("fault", [BUSY[1], BUSY[4]])
    async def test_later_page(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, fault: object) -> None:
        for number in range(1001):
            peer.write(f"{number:04}", b"")
        proxy.fail("GET", "continuation-token=", fault, 2)  # type: ignore[arg-type]
        assert [entry.path async for entry in storage.walk()] == [f"{number:04}" for number in range(1001)]

    @pytest.mark.parametrize("fault", BUSY)
    async def test_later_range(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, fault: object) -> None:
        peer.write("name", LARGE)
        async with storage.read("name") as reader:
            proxy.fail("GET", "/name", fault, 3)  # type: ignore[arg-type]
            found = [chunk async for chunk in _chunks(reader)]
        assert b"".join(found) == LARGE

    async def test_within_bounds(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        """Then the error says that it has been tried often enough, and how long to wait."""
        proxy.fail("PUT", "partNumber=1", xml_error(503, "SlowDown", retry_after="7"), 100)
        with pytest.raises(Throttled) as caught:
            await storage.write_bytes("name", LARGE)
        assert caught.value.exhausted
        assert caught.value.retry_after == 7
        assert proxy.count("partNumber=1") == 4
        assert peer.names() == set()

    async def test_a_part_that_arrives_damaged(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        proxy.fail("PUT", "partNumber=2", xml_error(400, "BadDigest"), 2)
        await storage.write_bytes("name", LARGE)
        assert peer.read("name") == LARGE
        proxy.fail("PUT", "partNumber=2", xml_error(400, "XAmzContentSHA256Mismatch"), 100)
        with pytest.raises(IntegrityError):
            await storage.write_bytes("other", LARGE)
        assert peer.names() == {"name"}

    async def test_a_part_without_etag(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        proxy.fail("PUT", "partNumber=1", edit(lambda found: _drop(found, "etag")), 2)
        await storage.write_bytes("name", LARGE)
        assert peer.read("name") == LARGE


async def _chunks(reader: object) -> AsyncGenerator[bytes]:
    while chunk := await reader.read():  # type: ignore[attr-defined]
        yield chunk


def _drop(found: Upstream, name: str) -> None:
    for each in [each for each in found.headers if each.lower() == name]:
        del found.headers[each]


class TestErrorWithStatus200:
    @pytest.mark.parametrize("code", ["InternalError", "SlowDown"])
    async def test_complete(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, code: str) -> None:
        proxy.fail("POST", "uploadId=", xml_error(200, code), 2)
        await storage.write_bytes("name", LARGE)
        assert peer.read("name") == LARGE

    async def test_complete_for_good(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        proxy.fail("POST", "uploadId=", xml_error(200, "InternalError"), 100)
        with pytest.raises(ConnectionFailed):
            await storage.write_bytes("name", LARGE)
        assert peer.names() == set()

    async def test_complete_with_nothing(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        proxy.fail("POST", "uploadId=", answer(200), 100)
        with pytest.raises(ProtocolViolation):
            await storage.write_bytes("name", LARGE)
        assert peer.names() == set()

    async def test_copy(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        peer.write("from", SMALL)
        proxy.fail("PUT", "/to", xml_error(200, "InternalError"), 100)
        with pytest.raises(ConnectionFailed):
            await copied(storage, "from", "to")

    async def test_spaces_before_the_answer(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        """How S3 keeps the connection alive while it puts the parts together."""

        def pad(found: Upstream) -> None:
            found.body = b"   \n  " + found.body
            _drop(found, "content-length")

        proxy.fail("POST", "uploadId=", edit(pad))
        assert (await storage.write_bytes("name", LARGE)).size == len(LARGE)


class TestPublishedWithoutAnAnswer:
    async def test_complete_is_recognised(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        """The repeated Complete is told NoSuchUpload: the object there is ours."""
        proxy.fail("POST", "uploadId=", lose())
        proxy.fail("POST", "uploadId=", xml_error(404, "NoSuchUpload"))
        entry = await storage.write_bytes("name", LARGE)
        assert entry.size == len(LARGE)
        assert proxy.count("POST") == 3

    async def test_another_object_is_not_ours(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        peer.write("name", LARGE)
        proxy.fail("POST", "uploadId=", xml_error(404, "NoSuchUpload"), 100)
        with pytest.raises(ConnectionFailed, match="gone") as caught:
            await storage.write_bytes("name", LARGE)
        assert caught.value.exhausted
        assert proxy.count("POST") == 2

    async def test_create_only_complete(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        proxy.fail("POST", "uploadId=", lose())
        proxy.fail("POST", "uploadId=", xml_error(412, "PreconditionFailed"))
        entry = await storage.write_bytes("name", LARGE, WriteOptions(overwrite=False))
        assert entry.size == len(LARGE)

    async def test_create_only_put(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        proxy.fail("PUT", "/name", lose())
        entry = await storage.write_bytes("name", SMALL, WriteOptions(overwrite=False))
        assert (entry.size, proxy.count("PUT")) == (len(SMALL), 2)
        proxy.fail("PUT", "/name", xml_error(500, "InternalError"))
        with pytest.raises(AlreadyExists):
            await storage.write_bytes("name", SMALL, WriteOptions(overwrite=False))


class TestConditions:
    async def test_conflict_on_put_passes(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        proxy.fail("PUT", "/name", xml_error(409, "ConditionalRequestConflict"), 2)
        await storage.write_bytes("name", SMALL, WriteOptions(overwrite=False))
        assert peer.read("name") == SMALL

    async def test_conflict_on_complete_needs_a_new_upload(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        proxy.fail("POST", "uploadId=", xml_error(409, "ConditionalRequestConflict"))
        with pytest.raises(Throttled) as caught:
            await storage.write_bytes("name", LARGE, WriteOptions(overwrite=False))
        assert caught.value.exhausted
        assert proxy.count("POST") == 2
        assert peer.names() == set()

    @pytest.mark.parametrize("data", [SMALL, LARGE], ids=["put", "parts"])
    async def test_taken(self, storage: Storage, peer: BotoPeer, data: bytes) -> None:
        peer.write("name", b"theirs")
        with pytest.raises(AlreadyExists):
            await storage.write_bytes("name", data, WriteOptions(overwrite=False))
        assert peer.read("name") == b"theirs"
        assert peer.uploads() == []

    @pytest.mark.parametrize("data", [SMALL, LARGE, b""], ids=["one part", "parts", "empty"])
    async def test_copy_to_a_taken_name(self, storage: Storage, peer: BotoPeer, data: bytes) -> None:
        peer.write("from", data)
        await copied(storage, "from", "to", overwrite=False)
        assert peer.read("to") == data
        peer.write("to", b"theirs")
        with pytest.raises(AlreadyExists):
            await copied(storage, "from", "to", overwrite=False)
        assert peer.read("to") == b"theirs"
        assert peer.uploads() == []


class TestReading:
    @pytest.mark.parametrize("after", [0, 1, 300_000])
    async def test_a_cut_stream_goes_on_where_it_broke(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, after: int
    ) -> None:
        peer.write("name", LARGE)
        proxy.fail("GET", "/name", cut(after), 3)
        assert await storage.read_bytes("name") == LARGE

    async def test_a_stream_cut_again_and_again(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        peer.write("name", LARGE)
        async with storage.read("name") as reader:
            proxy.fail("GET", "/name", cut(10), 1000)
            with pytest.raises(ConnectionFailed) as caught:
                async for _ in _chunks(reader):
                    pass
        assert caught.value.exhausted

    async def test_a_range_that_was_not_asked_for(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        peer.write("name", LARGE)

        def shift(found: Upstream) -> None:
            _drop(found, "content-range")
            found.headers["Content-Range"] = f"bytes 1-{5 * MIB}/{len(LARGE)}"

        proxy.fail("GET", "/name", edit(shift), 100)
        with pytest.raises(ProtocolViolation, match="came instead"):
            await storage.read_bytes("name")

    async def test_a_later_range_that_was_not_asked_for(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        peer.write("name", LARGE)
        async with storage.read("name") as reader:
            proxy.fail("GET", "/name", answer(206, b"x" * 10, content_range=f"bytes 0-9/{len(LARGE)}", etag="x"), 100)
            with pytest.raises(ProtocolViolation, match="asked for"):
                async for _ in _chunks(reader):
                    pass

    async def test_a_part_without_content_range(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        peer.write("name", LARGE)
        proxy.fail("GET", "/name", edit(lambda found: _drop(found, "content-range")))
        with pytest.raises(ProtocolViolation, match="Content-Range"):
            await storage.read_bytes("name")

    async def test_parts_that_are_called_whole(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        """rclone's server answers 200 where 206 is due."""
        peer.write("name", LARGE)

        def promote(found: Upstream) -> None:
            found.status = 200 if found.status == 206 else found.status

        proxy.fail("GET", "/name", edit(promote), 100)
        assert await storage.read_bytes("name", limit=len(LARGE)) == LARGE
        async with storage.read("name", offset=5) as reader:
            assert b"".join([chunk async for chunk in _chunks(reader)]) == LARGE[5:]

    async def test_replaced_under_the_reader_where_no_condition_is_heard(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        peer.write("name", LARGE)
        proxy.deaf_to = "if-match"
        with pytest.raises(SourceChanged):
            async with storage.read("name") as reader:
                await reader.read()
                peer.write("name", LARGE[::-1])
                async for _ in _chunks(reader):
                    pass

    async def test_what_came_meanwhile_stays_where_no_condition_is_heard(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxy.deaf_to = "if-match"
        peer.write("name", b"old")
        pin = await storage.stat("name")
        peer.write("name", b"new")
        with pytest.raises(SourceChanged):
            await storage.delete_pinned("name", pin)
        copy = storage.backend.server_copy

        async def copy_then_upload(*args: object, **options: object) -> object:
            found = await copy(*args, **options)  # type: ignore[arg-type]
            peer.write("name", b"newer")
            return found

        monkeypatch.setattr(storage.backend, "server_copy", copy_then_upload)
        with pytest.raises(SourceChanged):
            await storage.rename("name", "to")
        assert peer.read("name") == b"newer"

    async def test_an_upload_whose_answer_has_another_name(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        def rename(found: Upstream) -> None:
            found.body = found.body.replace(b"InitiateMultipartUploadResult", b"InitiateMultipartUpload")
            _drop(found, "content-length")

        proxy.fail("POST", "uploads=", edit(rename))
        await storage.write_bytes("name", LARGE)
        assert peer.read("name") == LARGE

    async def test_a_content_length_that_lies(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        peer.write("name", SMALL)

        def lie(found: Upstream) -> None:
            _drop(found, "content-length")
            found.headers["Content-Length"] = "7"
            found.body = found.body[:7]

        proxy.fail("GET", "/name", edit(lie), 100)
        with pytest.raises(ProtocolViolation, match="Content-Length"):
            await storage.read_bytes("name")

    async def test_a_large_object_without_etag(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        peer.write("name", LARGE)
        proxy.fail("GET", "/name", edit(lambda found: _drop(found, "etag")))
        with pytest.raises(ProtocolViolation, match="ETag"):
            await storage.read_bytes("name")

    async def test_a_store_without_ranges(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        """The whole object comes: it is streamed as it is, in bounded memory."""
        peer.write("name", LARGE)
        proxy.fail("GET", "/name", answer(200, LARGE, etag='"x"'), 100)
        assert await storage.read_bytes("name") == LARGE
        with pytest.raises(ProtocolViolation):
            async with storage.read("name", offset=5):
                pass

    async def test_a_pin_that_the_store_ignores(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        peer.write("name", SMALL)
        pin = await storage.stat("name")
        proxy.fail("GET", "/name", answer(206, b"OTHER", etag='"other"', content_range="bytes 0-4/5"), 100)
        with pytest.raises((SourceChanged, ProtocolViolation)):
            async with storage.read("name", pin=pin):
                pass

    async def test_compressed_objects_are_left_alone(self, storage: Storage, peer: BotoPeer) -> None:
        data = b"\x1f\x8b not really gzip"
        peer.client.put_object(Bucket=peer.bucket, Key="name", Body=data, ContentEncoding="gzip")
        assert await storage.read_bytes("name") == data

    async def test_memory_is_bounded(self, storage: Storage, peer: BotoPeer) -> None:
        """A reader that is not read from holds two parts; one that is waited for, `read_concurrency` at most."""
        data = LARGE * 4
        peer.write("name", data)
        async with storage.read("name") as reader:
            first = await reader.read()
            tasks = [part._task for part in reader._ranges]  # type: ignore[attr-defined]
            await asyncio.wait(tasks)
            held = sum(part._held for part in reader._ranges)  # type: ignore[attr-defined]
            assert held + len(first) <= 2 * 5 * MIB
            assert len(reader._ranges) == 2  # type: ignore[attr-defined]
            found, most = first, 0
            while chunk := await reader.read():
                found += chunk
                most = max(most, len(reader._ranges))  # type: ignore[attr-defined]
                for part in reader._ranges:  # type: ignore[attr-defined]
                    part.waited_for = True
        assert found == data and most == 4


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
            with pytest.raises(ConnectionFailed, match="endpoint_url"):
                await storage.stat("name")

    async def test_whoever_opens_is_not_told_of_the_probe(
        self, monkeypatch: pytest.MonkeyPatch, unused_port: int
    ) -> None:
        class Nobody:
            endpoint_url, access_key, secret_key = f"http://127.0.0.1:{unused_port}", "a", "b"

        with pytest.raises(ConnectionFailed, match="open lake:: cannot connect"):
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


class TestResume:
    async def _half(self, storage: Storage) -> bytes:
        writer = await storage.begin_write("name", WriteOptions())
        await writer.write(LARGE[: 10 * MIB + 1])
        await asyncio.wait(writer._tasks)  # type: ignore[attr-defined]
        token = writer.checkpoint()
        assert token is not None
        await writer.suspend()
        return token

    async def test_parts_are_believed_only_if_the_store_has_them(
        self, storage: Storage, peer: BotoPeer, proxy: FaultProxy
    ) -> None:
        token = await self._half(storage)
        upload = peer.uploads()[0]["UploadId"]
        peer.client.upload_part(Bucket=peer.bucket, Key="name", UploadId=upload, PartNumber=2, Body=b"x" * 5 * MIB)
        async with storage.write("name", WriteOptions(resume=token)) as writer:
            assert writer.offset == 5 * MIB
            await writer.write(LARGE[5 * MIB :])
            await writer.commit(Expect(size=len(LARGE)))
        assert peer.read("name") == LARGE

    async def test_what_is_gone(self, storage: Storage, peer: BotoPeer) -> None:
        token = await self._half(storage)
        await storage.discard(token)
        assert peer.names() == set()
        await storage.discard(token)
        with pytest.raises(NotFound):
            await storage.begin_write("name", WriteOptions(resume=token))

    async def test_no_leftovers_by_another_word(self, storage: Storage, proxy: FaultProxy) -> None:
        """rclone's server says NoSuchUpload."""
        proxy.fail("GET", "uploads=", xml_error(404, "NoSuchUpload"))
        assert [each async for each in storage.backend.leftovers("")] == []  # type: ignore[attr-defined]

    async def test_leftovers_are_told(self, storage: Storage, peer: BotoPeer) -> None:
        token = await self._half(storage)
        found = [each async for each in storage.backend.leftovers("na")]  # type: ignore[attr-defined]
        assert [(key, upload) for key, upload, _ in found] == [("name", peer.uploads()[0]["UploadId"])]
        assert found[0][2].tzinfo is not None
        await storage.discard(token)


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


async def test_too_large_for_uniform_parts(proxy: FaultProxy, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is met before anything is sent."""
    inner = backend(proxy, peer.bucket, monkeypatch, uniform_parts=True, conditional_writes="off")
    async with Storage(inner) as storage:
        writer = await storage.begin_write("name", WriteOptions())
        writer._number = 10_001  # type: ignore[attr-defined]
        with pytest.raises(Unsupported, match="part_size"):
            await writer.write(b"x")
        await writer.abort()
