"""Uploads in parts: how many at once, what is left when one is given up, and resumed or removed later."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

import pytest
from aiohttp import web

from crossdock.errors import (
    AlreadyExists,
    ConnectionFailed,
    IntegrityError,
    NotFound,
    ProtocolViolation,
    Throttled,
    Unsupported,
)
from crossdock.storage.base import Expect, WriteOptions
from crossdock.storage.storage import Storage
from crossdock.transfer.copy import CopyOptions, Staged, copy
from tests.storage.s3.faults import Fault, FaultProxy, Forward, Upstream, answer, drop, edit, silence, xml_error
from tests.storage.s3.places import LARGE, MIB, BotoPeer, Server, backend, bucket


def hold(proxy: FaultProxy, mark: str) -> tuple[asyncio.Event, asyncio.Event]:
    """The part that comes first with this mark stays unanswered: (it has arrived, the silence is over)."""
    arrived, over = asyncio.Event(), asyncio.Event()

    async def held(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
        arrived.set()
        return await silence(over)(request, forward)

    proxy.fail("PUT", mark, held)
    return arrived, over


class TestPartsUnderWay:
    async def test_so_many_at_once_and_no_more(
        self, proxy: FaultProxy, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each waits until another is there: they do go together."""
        now, most, together = 0, 0, asyncio.Event()

        async def count(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            nonlocal now, most
            now += 1
            most = max(most, now)
            if now == 2:
                together.set()
            await together.wait()
            return await edit(ends)(request, forward)

        def ends(found: Upstream) -> None:
            nonlocal now
            now -= 1

        proxy.fail("PUT", "partNumber=", count, 100)
        more = {"part_size": "5M", "part_concurrency": 2, "conditional_writes": "off"}
        async with Storage(backend(proxy, peer.bucket, monkeypatch, **more)) as storage, asyncio.timeout(60):
            await storage.write_bytes("name", LARGE * 3)
        assert (peer.read("name"), most) == (LARGE * 3, 2)

    async def test_an_upload_is_told_before_it_holds_a_byte(self, storage: Storage, peer: BotoPeer) -> None:
        """Who is killed then finds it by this."""
        tokens: list[bytes] = []

        async def staged(token: bytes) -> None:
            (upload,) = peer.uploads()
            found = peer.client.list_parts(Bucket=peer.bucket, Key="name", UploadId=upload["UploadId"])
            assert not found.get("Parts")
            tokens.append(token)

        writer = await storage.begin_write("name", WriteOptions(staged=staged))
        await writer.write(LARGE)
        await writer.leave()
        (token,) = tokens
        await storage.discard(token)
        assert peer.uploads() == []

    async def test_a_sealed_upload_is_stored_to_its_last_byte(self, storage: Storage, peer: BotoPeer) -> None:
        """What comes next is to look whether it is still wanted, and then one request alone."""
        writer = await storage.begin_write("name", WriteOptions(size=len(LARGE)))
        await writer.write(LARGE)
        token = await writer.seal(Expect(size=len(LARGE)))
        assert token is not None
        (upload,) = peer.uploads()
        found = peer.client.list_parts(Bucket=peer.bucket, Key="name", UploadId=upload["UploadId"])
        assert sum(part["Size"] for part in found["Parts"]) == len(LARGE)
        assert peer.names() == {f"name (upload {upload['UploadId']})"}
        await writer.commit(Expect(size=len(LARGE)))
        assert peer.read("name") == LARGE
        assert peer.names() == {"name"}

    async def test_a_last_part_that_fails_is_gone_on_from(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        """It was not announced as about to be published: what is stored of it is not for nothing."""
        await storage.write_bytes("source", LARGE)
        proxy.fail("PUT", "partNumber=3", xml_error(500, "InternalError"), 100)
        staged: list[Staged] = []
        tokens: list[bytes] = []

        async def announced(found: Staged) -> None:
            staged.append(found)

        with pytest.raises(ConnectionFailed):
            await copy(
                storage, "source", storage, "name", options=CopyOptions(server_side=False),
                on_checkpoint=tokens.append, on_staged=announced,
            )  # fmt: skip
        assert [found.sha256 for found in staged] == [None]
        assert len(tokens) == 1
        await storage.discard(tokens[0])
        assert peer.names() == {"source"}

    @pytest.mark.parametrize("how", ["abort", "leave"])
    async def test_none_is_on_its_way_when_it_is_given_up(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, how: str
    ) -> None:
        """A store that has taken one in after the upload was aborted keeps it: looked for, and aborted again."""
        arrived, over = hold(proxy, "partNumber=2")
        proxy.fail("DELETE", "uploadId=", answer(204))
        writer = await storage.begin_write("name", WriteOptions())
        await writer.write(LARGE)
        await arrived.wait()
        await getattr(writer, how)()
        assert not writer._tasks  # type: ignore[attr-defined]
        assert len(peer.uploads()) == (how == "leave")
        over.set()

    async def test_given_up_before_the_store_has_named_it(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        """It is begun there by then, and nobody else knows of it."""
        begun, over = asyncio.Event(), asyncio.Event()

        async def hold(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            begun.set()
            await over.wait()
            return await edit(lambda found: None)(request, forward)

        proxy.fail("POST", "uploads=", hold)
        writing = asyncio.create_task(storage.write_bytes("name", LARGE))
        await begun.wait()
        writing.cancel()
        done, _ = await asyncio.wait([writing], timeout=0.1)
        over.set()
        await asyncio.wait([writing])
        assert (done, writing.cancelled(), peer.names()) == (set(), True, set())

    async def test_what_cannot_be_removed_is_told(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        proxy.fail("DELETE", "uploadId=", xml_error(503, "SlowDown"), 100)
        async with storage.write("name") as writer:
            await writer.write(LARGE)
        assert isinstance(writer.left, Throttled)
        assert len(peer.uploads()) == 1

    async def test_a_store_that_has_left_out_a_part(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        """It says that it is done, and is not."""

        def shorten(found: Upstream) -> None:
            drop(found, "content-length")
            found.headers["Content-Length"] = str(10 * MIB)

        proxy.fail("HEAD", "/name", edit(shorten), 100)
        with pytest.raises(IntegrityError, match=f"{len(LARGE)} bytes sent, the store holds {10 * MIB}"):
            await storage.write_bytes("name", LARGE)

    @pytest.mark.parametrize("done", [False, True])
    async def test_a_refusal_that_is_called_a_success(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, done: bool
    ) -> None:
        """In an answer that was begun with 200. What took the name may be our own, by a try whose answer was lost."""

        async def refuse(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            if done:
                await forward()
            return await answer(200, b"<Error><Code>PreconditionFailed</Code></Error>")(request, forward)

        proxy.fail("POST", "uploadId=", refuse)
        with nullcontext() if done else pytest.raises(AlreadyExists):
            await storage.write_bytes("name", LARGE, WriteOptions(overwrite=False))
        assert peer.names() == ({"name"} if done else set())


class TestResume:
    async def test_a_part_that_is_late_ends_what_can_be_gone_on_with(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        """The third and fourth have arrived, the second has not: from the second on it is sent again."""
        arrived, over = hold(proxy, "partNumber=2")
        writer = await storage.begin_write("name", WriteOptions())
        data = LARGE + LARGE
        await writer.write(data[: 20 * MIB + 1])
        await arrived.wait()
        while len(tasks := writer._tasks) > 1:  # type: ignore[attr-defined]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        token = writer.checkpoint()
        assert token is not None
        await writer.suspend()
        over.set()
        async with storage.write("name", WriteOptions(resume=token)) as again:
            assert again.offset == 5 * MIB
            await again.write(data[5 * MIB :])
            await again.commit(Expect(size=len(data)))
        assert peer.read("name") == data

    async def test_more_parts_than_a_page_has(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        token = await self._half(storage)
        proxy.asked = lambda query: query.replace("max-parts=1000", "max-parts=1")
        async with storage.write("name", WriteOptions(resume=token)) as writer:
            assert writer.offset == 10 * MIB
            await writer.write(LARGE[10 * MIB :])
            await writer.commit(Expect(size=len(LARGE)))
        assert peer.read("name") == LARGE
        assert proxy.count("max-parts=") == 2

    async def test_lists_that_do_not_end(self, storage: Storage, proxy: FaultProxy) -> None:
        token = await self._half(storage)
        more = b"<IsTruncated>true</IsTruncated>"
        parts = b"<NextPartNumberMarker>2</NextPartNumberMarker>"
        proxy.fail("GET", "uploadId=", answer(200, b"<ListPartsResult>" + more + parts + b"</ListPartsResult>"), 100)
        with pytest.raises(ProtocolViolation, match="the list of parts does not go on"):
            await storage.begin_write("name", WriteOptions(resume=token))
        uploads = b"<NextKeyMarker>a</NextKeyMarker><NextUploadIdMarker>b</NextUploadIdMarker>"
        page = b"<ListMultipartUploadsResult>" + more + uploads + b"</ListMultipartUploadsResult>"
        proxy.fail("GET", "uploads=", answer(200, page), 100)
        with pytest.raises(ProtocolViolation, match="the list of uploads does not go on"):
            assert [each async for each in storage.backend.leftovers("")] == []

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

    @pytest.mark.parametrize("part", [b"<PartNumber>1</PartNumber>", b"<Size>1</Size>", b"<PartNumber>x</PartNumber>"])
    async def test_a_list_of_parts_that_says_too_little(self, storage: Storage, proxy: FaultProxy, part: bytes) -> None:
        token = await self._half(storage)
        page = b"<ListPartsResult><Part>" + part + b"</Part></ListPartsResult>"
        proxy.fail("GET", "uploadId=", answer(200, page), 100)
        with pytest.raises(ProtocolViolation, match="a part without"):
            await storage.begin_write("name", WriteOptions(resume=token))

    async def test_what_is_gone(self, storage: Storage, peer: BotoPeer) -> None:
        token = await self._half(storage)
        await storage.discard(token)
        assert peer.names() == set()
        await storage.discard(token)
        with pytest.raises(NotFound):
            await storage.begin_write("name", WriteOptions(resume=token))

    @pytest.mark.parametrize(("status", "code"), [(405, "MethodNotAllowed"), (501, "NotImplemented")])
    async def test_where_parts_cannot_be_listed(
        self, storage: Storage, proxy: FaultProxy, status: int, code: str
    ) -> None:
        """As at s3rver: a copy then starts again."""
        token = await self._half(storage)
        proxy.fail("GET", "uploadId=", xml_error(status, code), 100)
        with pytest.raises(NotFound, match="the stored parts are gone"):
            await storage.begin_write("name", WriteOptions(resume=token))

    @pytest.mark.parametrize(("status", "code"), [(405, "MethodNotAllowed"), (501, "NotImplemented")])
    async def test_where_uploads_cannot_be_aborted(
        self, storage: Storage, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, status: int, code: str
    ) -> None:
        """As at s3rver: what is left behind is told, and does not keep the file from being sent again."""
        token = await self._half(storage)
        proxy.fail("DELETE", "uploadId=", xml_error(status, code), 100)
        await storage.discard(token)
        assert "cannot abort uploads" in caplog.text

    async def test_what_was_published_by_another_word(self, storage: Storage, proxy: FaultProxy) -> None:
        """Swift's word for an upload that was completed: what a killed worker had archived could not be finished."""
        token = await self._half(storage)
        proxy.fail("DELETE", "uploadId=", xml_error(404, "NoSuchKey"))
        await storage.discard(token)

    async def test_no_leftovers_by_another_word(self, storage: Storage, proxy: FaultProxy) -> None:
        """rclone's server says NoSuchUpload."""
        proxy.fail("GET", "uploads=", xml_error(404, "NoSuchUpload"))
        assert [each async for each in storage.backend.leftovers("")] == []

    @pytest.mark.parametrize(
        "answered",
        [xml_error(405, "MethodNotAllowed"), xml_error(501, "NotImplemented"), answer(200, b"<ListBucketResult/>")],
        ids=["refused", "lacking", "not understood"],
    )
    async def test_where_uploads_cannot_be_listed(self, storage: Storage, proxy: FaultProxy, answered: Fault) -> None:
        """As at s3rver, and at pys3local."""
        proxy.fail("GET", "uploads=", answered)
        with pytest.raises(Unsupported, match="does not list uploads"):
            assert [each async for each in storage.backend.leftovers("")] == []

    @pytest.mark.parametrize(("status", "code"), [(400, ""), (405, "MethodNotAllowed"), (501, "NotImplemented")])
    async def test_where_there_are_no_uploads(
        self, storage: Storage, proxy: FaultProxy, status: int, code: str
    ) -> None:
        """As at pys3local: what fits in a part is written all the same."""
        proxy.fail("POST", "uploads", xml_error(status, code) if code else answer(status), 100)
        with pytest.raises(Unsupported, match="no uploads in parts") as caught:
            await storage.write_bytes("large", LARGE)
        assert caught.value.hint is not None and "part_size" in caught.value.hint
        await storage.write_bytes("small", LARGE[: 5 * MIB])

    async def test_leftovers_are_told(self, storage: Storage, peer: BotoPeer) -> None:
        await self._half(storage)
        (found,) = [each async for each in storage.backend.leftovers("na")]
        assert found.path == "name" and found.begun is not None and found.begun.tzinfo is not None
        assert [each async for each in storage.backend.leftovers("nah")] == []
        await storage.discard(found.token)
        assert peer.uploads() == []


@pytest.mark.parametrize("name", ["plain", "a b/100%25 +\u00e9&=?#.bin", "a+b"], ids=ascii)
@pytest.mark.parametrize("server", ["ceph", "moto"])
async def test_leftovers_by_their_names(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, server: str, name: str
) -> None:
    """Ceph encodes them in the list of uploads as it is asked to, but does not say so."""
    store: Server = request.getfixturevalue(server)
    with bucket(store) as peer:
        inner = backend(store, peer.bucket, monkeypatch, conditional_writes="off")
        async with Storage(inner) as storage:
            await inner.calls.create_upload(name, name, {})
            (found,) = [each async for each in inner.leftovers("")]
            assert found.path == name
            await storage.discard(found.token)
        assert peer.uploads() == []


async def test_too_large_for_uniform_parts(proxy: FaultProxy, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is met before anything is sent."""
    inner = backend(proxy, peer.bucket, monkeypatch, uniform_parts=True, conditional_writes="off")
    async with Storage(inner) as storage:
        writer = await storage.begin_write("name", WriteOptions())
        writer._number = 10_001  # type: ignore[attr-defined]
        with pytest.raises(Unsupported, match="part_size"):
            await writer.write(b"x")
        await writer.abort()
