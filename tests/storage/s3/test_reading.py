"""Reading from a store whose answers are cut, lie, or are another object's."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace

import pytest
from aiohttp import web

from crossdock.errors import ConnectionFailed, PermissionDenied, ProtocolViolation, SourceChanged
from crossdock.storage.base import Entry
from crossdock.storage.storage import Storage
from tests.storage.s3.faults import FaultProxy, Forward, Upstream, answer, cut, drop, edit, lose, raw, xml_error
from tests.storage.s3.places import LARGE, SMALL, BotoPeer, chunks


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
                async for _ in chunks(reader):
                    pass
        assert caught.value.exhausted

    async def test_replaced_under_the_reader_where_no_condition_is_heard(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        peer.write("name", LARGE)
        proxy.deaf_to = "if-match"
        with pytest.raises(SourceChanged):
            async with storage.read("name") as reader:
                await reader.read()
                peer.write("name", LARGE[::-1])
                async for _ in chunks(reader):
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
        with pytest.raises(SourceChanged):
            await storage.set_tags("name", {"a": "b"}, pin=pin)
        copy = storage.backend.server_copy

        async def copy_then_upload(*args: object, **options: object) -> object:
            found = await copy(*args, **options)  # type: ignore[arg-type]
            peer.write("name", b"newer")
            return found

        monkeypatch.setattr(storage.backend, "server_copy", copy_then_upload)
        with pytest.raises(SourceChanged):
            await storage.rename("name", "to")
        assert peer.read("name") == b"newer"

    @pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument")])
    async def test_where_a_condition_on_a_delete_is_refused(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, status: int, code: str
    ) -> None:
        """As LocalStack refuses it. The look before it has to do."""

        async def deaf(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            fault = xml_error(status, code) if "If-Match" in request.headers else edit(lambda _: None)
            return await fault(request, forward)

        proxy.fail("DELETE", "name", deaf, 100)
        for name in ("name 1", "name 2"):
            peer.write(name, SMALL)
        await storage.rename("name 1", "new")
        await storage.delete_pinned("name 2", await storage.stat("name 2"))
        assert peer.names() == {"new"}

    async def test_where_a_condition_on_a_delete_is_misjudged(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        """As Swift does, of objects that came in parts. A newer one stays all the same."""

        async def misjudge(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            fault = xml_error(412, "PreconditionFailed") if "If-Match" in request.headers else edit(lambda _: None)
            return await fault(request, forward)

        async def replaced(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            peer.write("name 3", b"newer")
            return await misjudge(request, forward)

        proxy.fail("DELETE", "name%203", replaced, 1)
        proxy.fail("DELETE", "name", misjudge, 100)
        for name in ("name 1", "name 2", "name 3"):
            peer.write(name, SMALL)
        await storage.rename("name 1", "new")
        await storage.delete_pinned("name 2", await storage.stat("name 2"))
        with pytest.raises(SourceChanged):
            await storage.delete_pinned("name 3", await storage.stat("name 3"))
        assert peer.names() == {"new", "name 3"}
        assert peer.read("name 3") == b"newer"

    async def test_a_proxy_that_weakens_etags_and_keeps_lengths_to_itself(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        """As nginx does where it may change bodies."""

        def weaken(found: Upstream) -> None:
            etag = next((value for name, value in found.headers.items() if name.lower() == "etag"), None)
            if etag is not None:
                drop(found, "etag")
                found.headers["ETag"] = "W/" + etag

        async def unmeasured(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            found = await forward()
            weaken(found)
            lines = [f"{name}: {value}" for name, value in found.headers.items() if name.lower() != "content-length"]
            head = [f"HTTP/1.1 {found.status} OK", *lines, "Connection: close", "", ""]
            return await raw("\r\n".join(head).encode())(request, forward)

        proxy.fail("POST", "uploadId=", lose())
        for method in ("GET", "PUT", "POST"):
            proxy.fail(method, "name", edit(weaken), 100)
        proxy.fail("HEAD", "name", unmeasured, 100)
        for _ in range(2):
            assert (await storage.write_bytes("name", LARGE)).size == len(LARGE)
        [listed] = [each async for each in storage.scan("")]
        async with storage.read("name", pin=listed) as reader:
            assert b"".join([chunk async for chunk in chunks(reader)]) == LARGE
        await storage.server_copy(storage, "name", "name 2")
        await storage.delete_pinned("name", listed)
        assert peer.names() == {"name 2"}

    async def test_an_empty_object_whose_length_is_not_told(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        """As behind what sends all bodies in chunks; of others a part tells the size."""
        came = b""

        async def serve(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            found = await forward()
            headers = {name: found.headers[name] for name in found.headers if name.lower() == "etag"}
            response = web.StreamResponse(status=found.status, headers=headers)
            response.enable_chunked_encoding()
            await response.prepare(request)
            if came and request.method == "GET":
                await response.write(came)
            return response

        peer.write("name", b"")
        [listed] = [each async for each in storage.scan("")]
        proxy.fail("GET", "/name", serve, 100)
        proxy.fail("HEAD", "/name", serve, 100)
        async with storage.read("name", pin=listed) as reader:
            assert [chunk async for chunk in chunks(reader)] == []
        came = SMALL
        with pytest.raises(ProtocolViolation):
            async with storage.read("name", pin=listed) as reader:
                [chunk async for chunk in chunks(reader)]

    async def test_a_store_without_ranges_of_versions(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        """As MiniStack has none."""
        status = {"Status": "Enabled"}
        peer.client.put_bucket_versioning(Bucket=peer.bucket, VersioningConfiguration=status)
        peer.write("name", LARGE)
        etag = peer.client.head_object(Bucket=peer.bucket, Key="name")["ETag"]

        async def whole(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            return await answer(200, LARGE, etag=etag)(request, forward)

        proxy.fail("GET", "versionId=", whole, 100)
        assert await storage.read_bytes("name") == LARGE

    @pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (400, "InvalidArgument")])
    async def test_a_version_that_may_not_be_named(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, status: int, code: str
    ) -> None:
        """s3:GetObject alone: every range is asked for by ETag, and a newer object is still noticed."""
        peer.client.put_bucket_versioning(Bucket=peer.bucket, VersioningConfiguration={"Status": "Enabled"})
        peer.write("name", LARGE)
        proxy.fail("GET", "versionId=", xml_error(status, code), 1000)
        assert await storage.read_bytes("name", limit=len(LARGE)) == LARGE
        assert proxy.count("versionId=") in (1, 2)
        with pytest.raises(SourceChanged):
            async with storage.read("name") as reader:
                await reader.read()
                peer.write("name", LARGE[::-1])
                async for _ in chunks(reader):
                    pass

    async def test_the_right_to_read_a_version(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        proxy.fail("GET", "versionId=", xml_error(403, "AccessDenied"))
        pin = Entry(path="name", version="old")
        with pytest.raises(PermissionDenied, match="allow s3:GetObjectVersion on"):
            async with storage.read("name", pin=pin):
                pass

    async def test_an_upload_whose_answer_has_another_name(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        def rename(found: Upstream) -> None:
            found.body = found.body.replace(b"InitiateMultipartUploadResult", b"InitiateMultipartUpload")
            drop(found, "content-length")

        proxy.fail("POST", "uploads=", edit(rename))
        await storage.write_bytes("name", LARGE)
        assert peer.read("name") == LARGE

    async def test_a_content_length_that_lies(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        peer.write("name", SMALL)

        def lie(found: Upstream) -> None:
            drop(found, "content-length")
            found.headers["Content-Length"] = "7"
            found.body = found.body[:7]

        proxy.fail("GET", "/name", edit(lie), 100)
        with pytest.raises(ProtocolViolation, match="Content-Length"):
            await storage.read_bytes("name")

    async def test_a_store_that_refuses_the_etag_it_tells(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        """As one may (RFC 9110, 13.1.1) whose own are weak: no condition is sent any more, and all ETags compared."""

        async def strict(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            if "if-match" in request.headers:
                return await xml_error(412, "PreconditionFailed")(request, forward)
            return await edit(lambda found: None)(request, forward)

        peer.write("name", LARGE)
        proxy.fail("GET", "/name", strict, 100)
        [listed] = [each async for each in storage.scan("")]
        async with storage.read("name", pin=listed) as reader:
            assert b"".join([chunk async for chunk in chunks(reader)]) == LARGE
        with pytest.raises(SourceChanged):
            async with storage.read("name") as reader:
                await reader.read()
                peer.write("name", LARGE[::-1])
                async for _ in chunks(reader):
                    pass
        with pytest.raises(SourceChanged) as caught:
            async with storage.read("name", pin=listed):
                pass
        assert not caught.value.still_listed

    async def test_what_is_listed_otherwise_than_it_is(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        """A flow took it for a change, which it would find by its next look: it moved nothing, and ended well."""
        peer.write("name", SMALL)

        def other(found: Upstream) -> None:
            found.body = re.sub(b"<ETag>.*?</ETag>", b"<ETag>other</ETag>", found.body)
            drop(found, "content-length")

        proxy.fail("GET", "list-type=2", edit(other), 100)
        [pin] = [each async for each in storage.scan("")]
        for still in (True, False):
            if not still:
                proxy.rules.clear()
            for asked in (pin, replace(pin, etag=None, size=1)):
                with pytest.raises(SourceChanged) as caught:
                    async with storage.read("name", pin=asked):
                        pass
                assert caught.value.still_listed == (still and asked is pin)
            with pytest.raises(SourceChanged) as caught:
                await storage.server_copy(storage, "name", "to", pin=pin)
            assert caught.value.still_listed == still
        assert peer.names() == {"name"}

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

    @pytest.mark.parametrize(
        ("coding", "told"),
        [("gzip", {"x-goog-stored-content-encoding": "gzip"}), ("gzip", {}), ("br", {})],
        ids=["Google", "Cloudflare", "Cloudflare, br"],
    )
    async def test_a_store_that_unpacks(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, coding: str, told: dict[str, str]
    ) -> None:
        """Whole and without a length, unless it is told that its coding is taken."""
        data = gzip.compress(LARGE)
        put = peer.client.put_object(Bucket=peer.bucket, Key="name", Body=data, ContentEncoding=coding)
        unpacked = 0

        async def serve(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            nonlocal unpacked
            if coding in request.headers["accept-encoding"]:
                return await edit(lambda found: found.headers.update(told))(request, forward)
            unpacked += 1
            response = web.StreamResponse(headers={**told, "etag": f"W/{put['ETag']}"})
            response.enable_chunked_encoding()
            await response.prepare(request)
            if request.method != "HEAD":
                await response.write(LARGE)
            return response

        proxy.fail("GET", "/name", serve, 100)
        proxy.fail("HEAD", "/name", serve, 100)
        found = await storage.stat("name")
        assert (found.size, found.attributes["content-encoding"]) == (len(data), coding)
        assert await storage.read_bytes("name") == data
        assert unpacked == 2 and proxy.count("GET") == 4

    async def test_a_proxy_that_packs_is_no_store_that_unpacks(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        """It tells no lengths, and would pack what is stored as it is; it is asked once."""
        for name in ("name 1", "name 2"):
            peer.write(name, SMALL)

        async def serve(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            found = await forward()
            headers = {name: found.headers[name] for name in found.headers if name.lower() == "etag"}
            if "gzip" in request.headers["accept-encoding"]:
                headers = {"content-encoding": "gzip", "etag": f"W/{next(iter(headers.values()))}"}
            response = web.StreamResponse(headers=headers)
            response.enable_chunked_encoding()
            await response.prepare(request)
            return response

        proxy.fail("HEAD", "/name", serve, 100)
        for name in ("name 1", "name 2"):
            assert (await storage.stat(name)).attributes == {}
            assert await storage.read_bytes(name) == SMALL
        assert proxy.count("HEAD") == 4
