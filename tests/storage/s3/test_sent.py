"""What goes along with an object: metadata, tags, checksums, conditions."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from botocore.exceptions import ClientError

from crossdock.errors import Unsupported
from crossdock.storage.base import WriteOptions
from crossdock.storage.s3 import probe
from crossdock.storage.storage import Storage
from tests.storage.s3.faults import FaultProxy, Forward, answer, drop, edit, xml_error
from tests.storage.s3.places import MIB, BotoPeer, Server, backend, bucket


class TestConditionalWrites:
    @pytest.fixture(autouse=True)
    def _forgetful(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probe, "_KNOWN", {})

    async def _learned(self, server: Server, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch, **more: Any) -> bool:
        async with Storage(backend(server, peer.bucket, monkeypatch, **more)) as storage:
            assert peer.names() == set()
            return storage.capabilities.create_new

    async def test_found_out_once(self, moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        with bucket(moto) as peer:
            async with FaultProxy(moto) as proxy:
                assert await self._learned(proxy, peer, monkeypatch)
                asked = len(proxy.seen)
                assert await self._learned(proxy, peer, monkeypatch)
                assert len(proxy.seen) == asked > 0

    async def test_ceph_may_forget_it_for_parts(self, ceph: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """Older ones do: what botocore sees of it is what is found out."""
        with bucket(ceph) as peer:
            place = {"Bucket": peer.bucket, "Key": "name"}
            peer.write("name", b"old")
            upload = {**place, "UploadId": peer.client.create_multipart_upload(**place)["UploadId"]}
            etag = peer.client.upload_part(**upload, PartNumber=1, Body=b"new")["ETag"]
            parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
            try:
                peer.client.complete_multipart_upload(**upload, MultipartUpload=parts, IfNoneMatch="*")
            except ClientError:
                peer.client.abort_multipart_upload(**upload)
            honoured = peer.read("name") == b"old"
            peer.client.delete_object(**place)
            assert await self._learned(ceph, peer, monkeypatch) is honoured

    @pytest.mark.parametrize("versioned", [False, True])
    async def test_a_store_that_takes_the_header_and_replaces(
        self, moto: Server, monkeypatch: pytest.MonkeyPatch, versioned: bool
    ) -> None:
        with bucket(moto, versioned=versioned) as peer:
            async with FaultProxy(moto) as proxy:
                proxy.deaf_to = "if-none-match"
                assert not await self._learned(proxy, peer, monkeypatch)

    async def test_without_the_right_to_write(self, moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        with bucket(moto) as peer:
            async with FaultProxy(moto) as proxy:
                proxy.fail("PUT", "/", xml_error(403, "AccessDenied"), 100)
                assert not await self._learned(proxy, peer, monkeypatch)
                assert len(proxy.seen) == 1

    @pytest.mark.parametrize("versioned", [False, True])
    async def test_without_the_right_to_delete(
        self, moto: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, versioned: bool
    ) -> None:
        """What was found out holds; a version that is locked is hidden; and what is left behind is told."""
        with bucket(moto, versioned=versioned) as peer:
            async with FaultProxy(moto) as proxy:
                denied = xml_error(403, "AccessDenied")
                proxy.fail("DELETE", "versionId=" if versioned else "/", denied, 100, without="uploadId=")
                async with Storage(backend(proxy, peer.bucket, monkeypatch)) as storage:
                    assert storage.capabilities.create_new
                assert len(peer.names()) == (0 if versioned else 1)
        assert "set 'conditional_writes'" in caplog.text

    @pytest.mark.parametrize(("setting", "learned"), [("on", True), ("off", False)])
    async def test_told(self, moto: Server, monkeypatch: pytest.MonkeyPatch, setting: str, learned: bool) -> None:
        with bucket(moto) as peer:
            async with FaultProxy(moto) as proxy:
                assert await self._learned(proxy, peer, monkeypatch, conditional_writes=setting) is learned
                assert proxy.seen == []


class TestSent:
    """What the settings put into requests."""

    async def test_of_an_object(self, moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        with bucket(moto) as peer:
            async with FaultProxy(moto) as proxy:
                more = {
                    "storage_class": "STANDARD_IA",
                    "sse": "AES256",
                    "acl": "bucket-owner-full-control",
                    "tags": {"a b": "c=d"},
                    "expected_bucket_owner": "123456789012",
                    "requester_pays": True,
                }
                inner = backend(proxy, peer.bucket, monkeypatch, conditional_writes="off", part_size="5M", **more)
                async with Storage(inner) as storage:
                    for size, request in ((1, "PUT /"), (6 * MIB, "uploads=")):
                        await storage.write_bytes("x.csv.gz", b"x" * size, WriteOptions(modified=datetime.now(UTC)))
                        at = next(i for i, seen in enumerate(proxy.seen) if request in seen)
                        sent = proxy.requests[at]
                        assert sent["content-type"] == "application/gzip"
                        assert sent["x-amz-storage-class"] == "STANDARD_IA"
                        assert sent["x-amz-server-side-encryption"] == "AES256"
                        assert sent["x-amz-acl"] == "bucket-owner-full-control"
                        assert sent["x-amz-tagging"] == "a%20b=c%3Dd"
                        assert "x-amz-meta-mtime" in sent
                assert all(sent["x-amz-expected-bucket-owner"] == "123456789012" for sent in proxy.requests)
                assert all(sent["x-amz-request-payer"] == "requester" for sent in proxy.requests)
                assert all(sent["accept-encoding"] == "identity" for sent in proxy.requests)
                assert not any("accept-encoding" in sent["authorization"] for sent in proxy.requests)
                complete = next(sent for sent in proxy.requests if "x-amz-mp-object-size" in sent)
                assert complete["x-amz-mp-object-size"] == str(6 * MIB)

    async def test_of_keys_and_types(self, moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TEST_S3_TOKEN", "token")
        more = {
            "session_token": "env:TEST_S3_TOKEN",
            "content_type": "text/x-partner",
            "sse": "aws:kms",
            "kms_key_id": "alias/theirs",
        }
        with bucket(moto) as peer:
            async with FaultProxy(moto) as proxy:
                inner = backend(proxy, peer.bucket, monkeypatch, conditional_writes="off", **more)
                async with Storage(inner) as storage:
                    await storage.write_bytes("x.csv", b"x")
                sent = proxy.requests[0]
        assert sent["content-type"] == "text/x-partner"
        assert sent["x-amz-server-side-encryption"] == "aws:kms"
        assert sent["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/theirs"
        assert sent["x-amz-security-token"] == "token" and "x-amz-security-token" in sent["authorization"]

    @pytest.mark.parametrize(
        ("status", "code", "words"),
        [
            (400, "InvalidArgument", "Unsupported header '{}' received for this API call."),
            (501, "NotImplemented", "Header '{}' with value '6291456' not implemented"),
            (501, "NotImplemented", "A header you provided implies functionality that is not implemented"),
        ],
        ids=["Backblaze", "Cloudflare", "Alibaba"],
    )
    async def test_a_store_that_refuses_headers(
        self, moto: Server, monkeypatch: pytest.MonkeyPatch, status: int, code: str, words: str
    ) -> None:
        """What can be left out is, from then on; nothing else is sent twice."""
        name = "x-amz-mp-object-size"

        async def refuse(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            if name not in request.headers:
                return await edit(lambda _: None)(request, forward)
            return await xml_error(status, code, words.format(name))(request, forward)

        with bucket(moto) as peer:
            async with FaultProxy(moto) as proxy:
                proxy.fail("POST", "uploadId=", refuse, 100)
                more = {"conditional_writes": "off", "part_size": "5M"}
                async with Storage(backend(proxy, peer.bucket, monkeypatch, **more)) as storage:
                    for _ in range(2):
                        await storage.write_bytes("name", b"x" * (6 * MIB))
                    assert proxy.count("POST") - proxy.count("uploads=") == 3
                    proxy.fail("PUT", "/other", xml_error(400, "InvalidArgument", "Unsupported header 'x-amz-tagging'"))
                    with pytest.raises(Unsupported, match="x-amz-tagging"):
                        await storage.write_bytes("other", b"x")

    async def test_a_store_that_takes_no_body_without_its_md5(
        self, moto: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As Amazon's, Backblaze's and others do where objects are locked; it is sent from then on."""

        async def demand(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            if "content-md5" in request.headers:
                return await edit(lambda _: None)(request, forward)
            message = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock"
            return await xml_error(400, "InvalidRequest", message)(request, forward)

        with bucket(moto) as peer:
            async with FaultProxy(moto) as proxy:
                proxy.fail("PUT", "/", demand, 100)
                more = {"conditional_writes": "off", "part_size": "5M", "part_concurrency": 1}
                async with Storage(backend(proxy, peer.bucket, monkeypatch, **more)) as storage:
                    for name, size in (("a", 6 * MIB), ("b", 0), ("c", 5)):
                        await storage.write_bytes(name, b"x" * size)
                        assert peer.read(name) == b"x" * size
                    assert proxy.count("PUT") == 5
                sums = {sent["content-md5"] for sent in proxy.requests if "content-md5" in sent}
                assert base64.b64encode(hashlib.md5(b"x" * 5).digest()).decode() in sums

    async def test_a_store_that_tells_versions_and_knows_none(
        self, moto: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Cloudflare's: each object has one, and no request may name it."""

        async def serve(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            if "versionId" in request.raw_path:
                return await xml_error(501, "NotImplemented", "Search parameter 'versionId' not implemented")(
                    request, forward
                )
            return await edit(lambda found: found.headers.update({"x-amz-version-id": "7e27a64b"}))(request, forward)

        monkeypatch.setattr(probe, "_KNOWN", {})
        data = b"x" * (11 * MIB)
        with bucket(moto) as peer:
            async with FaultProxy(moto) as proxy:
                for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
                    proxy.fail(method, "/", serve, 1000)
                async with Storage(backend(proxy, peer.bucket, monkeypatch, part_size="5M")) as storage:
                    assert storage.capabilities.create_new
                    await storage.write_bytes("name", data)
                    await storage.write_bytes("a//b", b"small")
                    assert await storage.read_bytes("name") == data
                    await storage.rename("name", "new")
                    await storage.delete_pinned("a//b", await storage.stat("a//b"))
                assert peer.names() == {"new"} and proxy.count("versionId") > 3

    async def test_what_must_be_signed_is_signed(self, moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """Content-Type and all of Amazon's: Ceph 20 denies access otherwise."""
        with bucket(moto) as peer:
            async with FaultProxy(moto) as proxy:
                async with Storage(backend(proxy, peer.bucket, monkeypatch, part_size="5M")) as storage:
                    for size in (0, 5, 6 * MIB):
                        await storage.write_bytes("name", b"x" * size)
                        await storage.rename("name", "new", overwrite=True)
                        await storage.rename("new", "name")
                        assert await storage.read_bytes("name") == b"x" * size
                    await storage.delete("name")
        assert len(proxy.requests) > 20
        for sent in proxy.requests:
            signed = sent["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
            assert {name for name in sent if name == "content-type" or name.startswith("x-amz-")} <= set(signed)

    async def test_a_proxy_that_asks_for_compression(self, ceph: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """It changes Accept-Encoding, which the store would miss if it were signed."""
        with bucket(ceph) as peer:
            async with FaultProxy(ceph) as proxy:
                proxy.deaf_to = "accept-encoding"
                async with Storage(backend(proxy, peer.bucket, monkeypatch, conditional_writes="off")) as storage:
                    await storage.write_bytes("name", b"data")
                    assert await storage.read_bytes("name") == b"data"

    async def test_a_store_that_answers_with_the_object_is_sent_no_tags(
        self, ceph: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """rclone's does not look at `?tagging`: the tags would become the object's content."""
        data = b"x" * (6 * MIB)
        with bucket(ceph) as peer:
            async with FaultProxy(ceph) as proxy:
                proxy.fail("GET", "?tagging", answer(200, data, etag='"x"'), 100)
                proxy.fail("HEAD", "/", edit(lambda found: drop(found, "x-amz-tagging-count")), 100)
                more = {"conditional_writes": "off", "part_size": "5M", "tags": {"a": "b"}}
                async with Storage(backend(proxy, peer.bucket, monkeypatch, **more)) as storage:
                    await storage.write_bytes("name", data)
                    await storage.server_copy(storage, "name", "copy")
                    with pytest.raises(Unsupported, match="keeps no tags"):
                        await storage.set_tags("name", {"c": "d"}, pin=await storage.stat("name"))
                assert not [seen for seen in proxy.seen if seen.startswith("PUT") and "?tagging" in seen]
                assert peer.read("name") == data == peer.read("copy")
        assert "'name' is without" in caplog.text and "'copy' is without" in caplog.text

    async def test_a_store_that_tells_tags_and_takes_none(
        self, ceph: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Swift: of what is written that is a warning, as it is there by then."""
        data = b"x" * (6 * MIB)
        with bucket(ceph) as peer:
            async with FaultProxy(ceph) as proxy:
                proxy.fail("PUT", "?tagging", xml_error(501, "NotImplemented"), 100)
                proxy.fail("HEAD", "/", edit(lambda found: drop(found, "x-amz-tagging-count")), 100)
                more = {"conditional_writes": "off", "part_size": "5M", "tags": {"a": "b"}}
                async with Storage(backend(proxy, peer.bucket, monkeypatch, **more)) as storage:
                    await storage.write_bytes("name", data)
                    with pytest.raises(Unsupported, match="tag lake:name: this store keeps no tags"):
                        await storage.set_tags("name", {"c": "d"}, pin=await storage.stat("name"))
                assert peer.read("name") == data
        assert "'name' is without" in caplog.text

    async def test_checksums_where_the_store_keeps_them(self, moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """As at Amazon, with moto in its place."""
        with bucket(moto) as peer:
            async with FaultProxy(moto) as proxy:
                inner = backend(proxy, peer.bucket, monkeypatch, conditional_writes="off", part_size="5M")
                inner.calls.checksums = True
                async with Storage(inner) as storage:
                    data = b"x" * (6 * MIB)
                    await storage.write_bytes("large", data)
                    await storage.write_bytes("small", b"small")
                assert peer.read("large") == data
                parts = [sent for seen, sent in zip(proxy.seen, proxy.requests, strict=True) if "partNumber" in seen]
                assert len(parts) == 2 and all("x-amz-checksum-sha256" in sent for sent in parts)
