"""What needs no server: part sizes, names and dates on the wire, settings, answers → errors, credentials."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from crossdock.errors import (
    AlreadyExists,
    AuthenticationFailed,
    ConfigError,
    ConnectionFailed,
    CrossdockError,
    IntegrityError,
    InvalidPath,
    NoSpace,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    Throttled,
    TimedOut,
    Unsupported,
)
from crossdock.storage.base import WriteOptions
from crossdock.storage.registry import parse_url
from crossdock.storage.s3 import S3Settings, probe, wire
from crossdock.storage.s3.backend import S3Backend
from crossdock.storage.s3.credentials import CredentialSource
from crossdock.storage.s3.faults import Place, refusal_of, refused
from crossdock.storage.s3.plan import PartPlan
from crossdock.storage.storage import Storage
from tests.storage.s3_faults import FaultProxy, xml_error
from tests.storage.s3_places import BotoPeer, Server, backend, bucket

MIB, GIB, TIB = 1024**2, 1024**3, 1024**4
LARGEST = 10_000 * 5 * GIB


class TestPartPlan:
    @given(st.integers(0, LARGEST), st.sampled_from([5 * MIB, 8 * MIB, 64 * MIB]))
    def test_a_declared_size_always_fits(self, size: int, smallest: int) -> None:
        plan = PartPlan(size, smallest)
        part = plan.part_size(1)
        assert smallest <= part <= 5 * GIB
        assert part * 10_000 >= size
        assert part == smallest or (part % MIB == 0 and (part - MIB) * 10_000 < size)
        assert plan.part_size(10_000) == part

    def test_the_largest_object(self) -> None:
        assert round(LARGEST / TIB, 1) == 48.8
        assert PartPlan(LARGEST, 8 * MIB).part_size(10_000) == 5 * GIB
        with pytest.raises(ValueError, match="10,000"):
            PartPlan(LARGEST + 1, 8 * MIB).part_size(1)

    def test_an_unknown_size_grows(self) -> None:
        plan = PartPlan(None, 8 * MIB)
        assert [plan.part_size(number) // MIB for number in (1, 1000, 1001, 2000, 2001, 10_000)] == [
            8,
            8,
            16,
            16,
            32,
            4096,
        ]
        assert round(sum(plan.part_size(number) for number in range(1, 10_001)) / TIB, 1) == 7.8
        with pytest.raises(ValueError, match="10,000"):
            plan.part_size(10_001)

    def test_it_stops_at_the_largest_part(self) -> None:
        assert PartPlan(None, 64 * MIB).part_size(10_000) == 5 * GIB

    def test_uniform_parts(self) -> None:
        plan = PartPlan(None, 8 * MIB, uniform=True)
        assert {plan.part_size(number) for number in range(1, 10_001)} == {8 * MIB}


class TestWire:
    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def test_names_survive_a_url(self, name: str) -> None:
        assert unquote(wire.quoted(name)) == name
        assert wire.decoded(wire.quoted(name)) == name

    def test_a_plus_is_a_space(self) -> None:
        assert wire.decoded("a+b%2Bc%20d") == "a b+c d"

    @given(st.datetimes(timezones=st.just(UTC)))
    def test_times_survive_to_the_microsecond(self, moment: datetime) -> None:
        assert wire.parse_mtime(wire.format_mtime(moment)) == moment

    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("1700000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
            ("1700000000.123456789", datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)),
            ("-0.5", datetime(1969, 12, 31, 23, 59, 59, 500000, tzinfo=UTC)),
            ("", None),
            ("yesterday", None),
            ("NaN", None),
            ("1e400", None),
            ("99999999999999", None),
        ],
    )
    def test_times_of_others(self, text: str, moment: datetime | None) -> None:
        assert wire.parse_mtime(text) == moment

    def test_rclone_writes_no_trailing_zeros(self) -> None:
        assert wire.format_mtime(datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)) == "1700000000"
        assert wire.format_mtime(datetime(2023, 11, 14, 22, 13, 20, 120000, tzinfo=UTC)) == "1700000000.12"

    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
    def test_metadata_survives(self, value: str) -> None:
        headers = wire.attribute_headers({"meta-name": value})
        text = headers["x-amz-meta-name"]
        assert text.isascii() and text == text.strip() and "\n" not in text and "\r" not in text
        assert wire.attributes_of(headers) == {"meta-name": value}

    def test_metadata_that_no_header_can_carry(self) -> None:
        with pytest.raises(ValueError, match="named"):
            wire.attribute_headers({"meta-a\r\nb": "x"})


class TestXml:
    @pytest.mark.parametrize("key", ["\x01", "&#x1;", "&#1;", "&#x1B;", "&#65535;", "\uffff", "&#x0;"], ids=ascii)
    def test_a_key_that_xml_cannot_carry_is_not_in_the_way(self, key: str) -> None:
        body = f'<R xmlns="s"><Key>a{key}&#10;&#xe9;</Key><UploadId>u</UploadId></R>'.encode()
        found = wire.texts(*wire.parse_xml(body, "R", lenient=True))
        assert found == {"Key": "a?\né", "UploadId": "u"}
        with pytest.raises(ValueError, match="XML"):
            wire.parse_xml(body, "R")

    @pytest.mark.parametrize("body", [b"", b"<R>", b"<R>&#x110000;</R>", b"<R>&a;</R>", b"\xff<R/>"])
    def test_what_stays_wrong(self, body: bytes) -> None:
        with pytest.raises(ValueError, match="XML"):
            wire.parse_xml(body.replace(b"&#x110000;", b"<"), "R", lenient=True)

    async def test_such_a_key_in_parts(self, ceph: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ceph echoes the key in its answers to Create and Complete, as a reference that no parser takes."""
        data = b"x" * (6 * MIB)
        with bucket(ceph) as peer:
            inner = backend(ceph, peer.bucket, monkeypatch, part_size="5M", conditional_writes="off")
            async with Storage(inner) as storage:
                await storage.write_bytes("a\x01\x1b", data)
                assert await storage.read_bytes("a\x01\x1b") == data
                await storage.delete("a\x01\x1b")


class TestSettings:
    def test_a_url(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found, path = parse_url("s3://lake/a%20b//c?endpoint_url=http://127.0.0.1:9&region=eu-west-1&tags=a:b,c:d")
        assert isinstance(found, S3Settings)
        assert (found.bucket, found.region, found.service_url) == ("lake", "eu-west-1", "http://127.0.0.1:9")
        assert (path, found.tags) == ("a b//c", {"a": "b", "c": "d"})
        assert parse_url("s3://lake//x")[1] == "/x"

    @pytest.mark.parametrize(
        "url",
        ["s3:///key", "s3://lake/k?endpoint_url=ftp://x", "s3://lake/k?endpoint_url=https://u:p@x", "s3://lake/?x=1"],
    )
    def test_urls_refused(self, url: str) -> None:
        with pytest.raises(ConfigError):
            parse_url(url)

    def test_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = S3Settings(bucket="lake")
        found = [settings.service_url]
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all/")
        found.append(settings.service_url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3")
        found.append(settings.service_url)
        assert found == [None, "http://all", "http://s3"]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"part_size": "4M"},
            {"part_size": "6G"},
            {"access_key_id": "x"},
            {"anonymous": True, "profile": "x"},
            {"anonymous": True, "role_arn": "x"},
            {"external_id": "x"},
            {"kms_key_id": "x"},
            {"secret_access_key": "in the clear", "access_key_id": "x"},
            {"unknown": 1},
            {"bucket": "a/b"},
        ],
        ids=str,
    )
    def test_mistakes(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            S3Settings(**{"bucket": "lake", **wrong})

    @pytest.mark.parametrize(
        ("settings", "url"),
        [
            ({}, "https://lake.s3.eu-west-1.amazonaws.com/a//b%20%2B"),
            ({"bucket": "a.lake"}, "https://s3.eu-west-1.amazonaws.com/a.lake/a//b%20%2B"),
            ({"addressing": "path"}, "https://s3.eu-west-1.amazonaws.com/lake/a//b%20%2B"),
            ({"endpoint_url": "http://h:9"}, "http://h:9/lake/a//b%20%2B"),
            ({"endpoint_url": "http://h:9", "addressing": "virtual"}, "http://lake.h:9/a//b%20%2B"),
            ({"region": "cn-north-1"}, "https://lake.s3.cn-north-1.amazonaws.com.cn/a//b%20%2B"),
        ],
        ids=str,
    )
    async def test_addresses(self, settings: dict[str, Any], url: str) -> None:
        given = S3Settings(**{"bucket": "lake", "region": "eu-west-1", "anonymous": True, **settings})
        found = S3Backend(given, "lake")
        await found.open()
        try:
            assert found.client.url(found.calls.request("GET", "read", "", "", key="a//b +")) == url
        finally:
            await found.close()


PLACE = Place("lake", "read", "name", "bucket", "s3:GetObject", "https://s3.example")


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "code", "kind", "hint"),
        [
            (404, "NoSuchKey", NotFound, ""),
            (404, "NoSuchBucket", NotFound, "endpoint_url"),
            (404, "NoSuchVersion", NotFound, ""),
            (403, "AccessDenied", PermissionDenied, "s3:GetObject"),
            (403, "InvalidObjectState", PermissionDenied, "Glacier"),
            (403, "InvalidAccessKeyId", AuthenticationFailed, "access key"),
            (403, "SignatureDoesNotMatch", AuthenticationFailed, "secret key"),
            (403, "RequestTimeTooSkewed", AuthenticationFailed, "there 2001-02-03 04:05:06"),
            (400, "ExpiredToken", AuthenticationFailed, "renew"),
            (301, "PermanentRedirect", Unsupported, "region: eu-west-3"),
            (400, "AuthorizationHeaderMalformed", Unsupported, "region: eu-west-3"),
            (400, "KMS.DisabledException", PermissionDenied, "kms:"),
            (503, "SlowDown", Throttled, "max_connections"),
            (503, "ServiceUnavailable", Throttled, ""),
            (429, "TooManyRequests", Throttled, ""),
            (409, "OperationAborted", Throttled, ""),
            (500, "InternalError", ConnectionFailed, ""),
            (599, "Whatever", ConnectionFailed, ""),
            (418, "Teapot", ProtocolViolation, ""),
            (400, "RequestTimeout", TimedOut, ""),
            (400, "BadDigest", IntegrityError, ""),
            (400, "XAmzContentSHA256Mismatch", IntegrityError, ""),
            (400, "InvalidPart", IntegrityError, ""),
            (400, "KeyTooLongError", InvalidPath, "1024"),
            (400, "EntityTooLarge", Unsupported, "part_size"),
            (501, "NotImplemented", Unsupported, "option"),
            (403, "QuotaExceeded", NoSpace, "quota"),
            (507, "XMinioStorageFull", NoSpace, "free"),
            (412, "PreconditionFailed", AlreadyExists, ""),
        ],
    )
    def test_codes(self, status: int, code: str, kind: type[CrossdockError], hint: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>why\x1b</Message><Region>eu-west-3</Region></Error>".encode()
        body = body.replace(b"\x1b", b"")
        error = refused(PLACE, refusal_of(status, {"date": "Sat, 03 Feb 2001 04:05:06 GMT"}, body))
        assert type(error) is kind
        assert code in str(error) and "why" in str(error) and "lake:name" in str(error)
        assert hint in (error.hint or "")

    @pytest.mark.parametrize(
        ("status", "kind"),
        [(401, PermissionDenied), (403, PermissionDenied), (404, NotFound), (500, ConnectionFailed), (503, Throttled),
         (429, Throttled), (504, TimedOut), (416, ProtocolViolation), (507, NoSpace), (407, AuthenticationFailed)],
    )  # fmt: skip
    @pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"\xff\xfe", b"<!DOCTYPE a>"], ids=repr)
    def test_statuses(self, status: int, kind: type[CrossdockError], body: bytes) -> None:
        assert type(refused(PLACE, refusal_of(status, {}, body))) is kind

    @pytest.mark.parametrize(("text", "low", "high"), [("7", 7, 7), ("soon", None, None), ("", None, None)])
    def test_retry_after(self, text: str, low: float | None, high: float | None) -> None:
        assert refused(PLACE, refusal_of(503, {"retry-after": text}, b"")).retry_after == low == high

    def test_retry_after_a_date(self) -> None:
        moment = datetime.now(UTC) + timedelta(seconds=100)
        found = refused(PLACE, refusal_of(503, {"retry-after": f"{moment:%a, %d %b %Y %H:%M:%S} GMT"}, b"")).retry_after
        assert found is not None and 90 < found <= 100

    def test_a_hostile_message(self) -> None:
        body = ("<Error><Code>X</Code><Message>" + "\u202e\n" * 10_000 + "</Message></Error>").encode()
        text = str(refused(PLACE, refusal_of(400, {}, body)))
        assert len(text) < 4000 and "\u202e" not in text and "\n" not in text


class TestKeys:
    @pytest.mark.parametrize("path", ["x" * 1025, "\udcff", "é" * 513])
    async def test_what_cannot_be_a_key_is_not_sent(
        self, path: str, moto: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with FaultProxy(moto) as proxy:
            async with Storage(backend(proxy, "bucket", monkeypatch, conditional_writes="off")) as storage:
                for action in (storage.stat(path), storage.read_bytes(path), storage.write_bytes(path, b"")):
                    with pytest.raises(InvalidPath):
                        await action
            assert proxy.seen == []

    async def test_markers_and_odd_names(self, moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        with bucket(moto) as peer:
            keys = ["/x", "a//b", "a/./b", "a/../c", "empty/", "full/", "p+q r", "ü"]
            for key in keys:
                peer.write(key, b"" if key == "empty/" else key.encode())
            async with Storage(backend(moto, peer.bucket, monkeypatch)) as storage:
                found = [entry.path async for entry in storage.walk()]
                assert found == sorted(key for key in keys if key != "empty/")
                for key in found:
                    assert await storage.read_bytes(key) == key.encode()
                assert (await storage.stat("empty")).kind == "dir"
                assert [entry async for entry in storage.scan("empty")] == []
                assert {(entry.path, entry.kind) async for entry in storage.scan()} == {
                    ("/x", "file"), ("a", "dir"), ("empty", "dir"), ("full", "dir"), ("p+q r", "file"), ("ü", "file"),
                }  # fmt: skip


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

    async def test_ceph_forgets_it_for_parts(self, ceph: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        with bucket(ceph) as peer:
            assert not await self._learned(ceph, peer, monkeypatch)

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
                        assert sent["x-amz-tagging"] == "a+b=c%3Dd"
                        assert "x-amz-meta-mtime" in sent
                assert all(sent["x-amz-expected-bucket-owner"] == "123456789012" for sent in proxy.requests)
                assert all(sent["x-amz-request-payer"] == "requester" for sent in proxy.requests)
                assert all(sent["accept-encoding"] == "identity" for sent in proxy.requests)
                complete = next(sent for sent in proxy.requests if "x-amz-mp-object-size" in sent)
                assert complete["x-amz-mp-object-size"] == str(6 * MIB)

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


class TestCredentials:
    def _source(self, **settings: Any) -> CredentialSource:
        found = S3Settings(bucket="lake", **settings)
        return CredentialSource(found, found.backend("lake").error)

    async def test_none(self) -> None:
        with pytest.raises(AuthenticationFailed, match="AWS_ACCESS_KEY_ID"):
            await self._source().current()

    async def test_anonymous(self, moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        assert await self._source(anonymous=True).current() is None
        with bucket(moto) as peer:
            peer.write("name", b"public")
            settings = S3Settings(bucket=peer.bucket, endpoint_url=moto.endpoint_url, anonymous=True)
            peer.client.put_bucket_acl(Bucket=peer.bucket, ACL="public-read")
            peer.client.put_object_acl(Bucket=peer.bucket, Key="name", ACL="public-read")
            async with FaultProxy(moto) as proxy:
                settings = settings.model_copy(update={"endpoint_url": proxy.endpoint_url})
                async with Storage(settings.backend("lake")) as storage:
                    assert await storage.read_bytes("name") == b"public"
                assert all("authorization" not in sent for sent in proxy.requests)

    async def test_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
        keys = await self._source().current()
        assert keys is not None and (keys.access_key, keys.secret_key, keys.token) == ("key", "secret", "token")

    def test_keys_that_are_given_load_no_chain(self) -> None:
        """The chain takes longer to load than a small file to move."""
        code = """if True:
            import asyncio, sys
            from crossdock.storage.s3.settings import S3Settings
            source = S3Settings(bucket="lake").backend("lake").client.credentials
            keys = asyncio.run(source.current())
            print(*keys, asyncio.run(source.region()), "botocore.session" in sys.modules)
        """
        environment = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "eu-west-2"}
        told = subprocess.run(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        assert told.stdout == "key secret None eu-west-2 False\n"

    async def test_a_profile(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        file = tmp_path / "credentials"
        file.write_text("[partner]\naws_access_key_id = key\naws_secret_access_key = secret\nregion = eu-west-2\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        source = self._source(profile="partner")
        keys = await source.current()
        assert keys is not None and keys.access_key == "key"
        assert await source.region() == "eu-west-2"
        with pytest.raises(AuthenticationFailed, match="other"):
            await self._source(profile="other").current()

    async def test_a_role(self, moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """Assumed at moto's STS, off the loop."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto.endpoint_url)
        source = self._source(role_arn="arn:aws:iam::123456789012:role/mover", external_id="partner")
        keys = await source.current()
        assert keys is not None and keys.access_key != "key" and keys.token

    async def test_renewed_ahead_in_a_thread_and_kept_while_they_last(self) -> None:
        """A source that is down for a while does no harm until the keys have really ended."""
        source = self._source()
        made, fails, left = [], False, 3600
        where = set()

        class Found:
            def refresh_needed(self, refresh_in: int = 900) -> bool:
                return left < refresh_in

            def get_frozen_credentials(self) -> object:
                where.add(threading.current_thread())
                if fails:
                    raise source._error(ConnectionFailed, "authenticate", "", "down")
                made.append(object())
                return made[-1]

        now = 0.0
        source._clock = lambda: now
        source._chosen = Found  # type: ignore[method-assign]
        assert await source.current() is await source.current() is made[0]
        left, fails = 500, True
        now = 100.0
        assert await source.current() is made[0]
        left = 30
        with pytest.raises(ConnectionFailed):
            await source.current()
        fails = False
        results = await asyncio.gather(*[source.current() for _ in range(5)])
        assert len(made) >= 2 and made[0] not in results
        assert threading.main_thread() not in where
