"""Writing, copying and removing at a store that fails: repeated where it may be, and what was published found out."""

from __future__ import annotations

import pytest

from crossdock.errors import (
    AlreadyExists,
    ConnectionFailed,
    IntegrityError,
    NotFound,
    ProtocolViolation,
    Throttled,
    Unsupported,
)
from crossdock.storage.base import WriteOptions
from crossdock.storage.storage import Storage
from tests.storage.s3.faults import FaultProxy, Upstream, answer, drop, edit, lose, xml_error
from tests.storage.s3.places import LARGE, MIB, SMALL, BotoPeer, chunks


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

    @pytest.mark.parametrize("fault", [BUSY[1], BUSY[4]])
    async def test_a_prefix_with_nothing_below(self, storage: Storage, proxy: FaultProxy, fault: object) -> None:
        """As of each first sync: whether an object has that name is asked once its (empty) page is out."""
        proxy.fail("HEAD", "/new", fault, 2)  # type: ignore[arg-type]
        with pytest.raises(NotFound):
            [entry async for entry in storage.walk("new")]

    @pytest.mark.parametrize("fault", BUSY)
    async def test_later_range(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, fault: object) -> None:
        peer.write("name", LARGE)
        async with storage.read("name") as reader:
            proxy.fail("GET", "/name", fault, 3)  # type: ignore[arg-type]
            found = [chunk async for chunk in chunks(reader)]
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
        proxy.fail("PUT", "partNumber=1", edit(lambda found: drop(found, "etag")), 2)
        await storage.write_bytes("name", LARGE)
        assert peer.read("name") == LARGE

    async def test_a_store_that_does_not_tell_the_etag(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        proxy.fail("PUT", "/name", edit(lambda found: drop(found, "etag")))
        entry = await storage.write_bytes("name", SMALL)
        assert entry.etag == (await storage.stat("name")).etag is not None
        assert len(proxy.seen) == 3

    @pytest.mark.parametrize("size", [0, 10, 2 * MIB])
    async def test_a_page_that_answers_200_has_stored_nothing(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, size: int
    ) -> None:
        proxy.fail("PUT", "/name", answer(200, b"<html>Sign in</html>"), 2)
        await storage.write_bytes("name", LARGE[:size])
        assert peer.read("name") == LARGE[:size]
        proxy.fail("PUT", "/other", answer(200, b"<html>Sign in</html>"), 100)
        with pytest.raises(ProtocolViolation, match="ETag"):
            await storage.write_bytes("other", LARGE[:size])


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

    async def test_a_size_that_differs_is_no_header_unknown(self, storage: Storage, proxy: FaultProxy) -> None:
        reason = "The provided 'x-amz-mp-object-size' header value 5 does not match what was computed: 6"
        proxy.fail("POST", "uploadId=", xml_error(400, "InvalidRequest", reason), 100)
        with pytest.raises(Unsupported, match="does not match"):
            await storage.write_bytes("name", LARGE)
        assert sum("x-amz-mp-object-size" in sent for sent in proxy.requests) == 1

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
            drop(found, "content-length")

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
