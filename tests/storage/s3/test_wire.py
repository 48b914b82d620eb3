"""Names, times, metadata and XML as S3 writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdock.errors import (
    InvalidPath,
)
from crossdock.storage.http import http_date
from crossdock.storage.s3 import wire
from crossdock.storage.s3.entries import entry_of
from crossdock.storage.storage import Storage
from tests.storage.s3.faults import FaultProxy
from tests.storage.s3.places import MIB, Server, backend, bucket


class TestWire:
    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def test_names_survive_a_url(self, name: str) -> None:
        assert unquote(wire.quoted(name)) == name
        assert wire.decoded(wire.quoted(name)) == name

    def test_a_plus_is_a_space(self) -> None:
        assert wire.decoded("a+b%2Bc%20d") == "a b+c d"

    @pytest.mark.parametrize(
        ("text", "etag"), [('"a"', "a"), ('W/"a"', "a"), ("", None), ('"\x1b[31m"', None), ('"\udcff"', None)]
    )
    def test_etags_are_what_a_header_can_carry_back(self, text: str, etag: str | None) -> None:
        assert wire.etag_of(text) == etag

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
            ("1e999999", None),
            ("1e99999999", None),
            ("99999999999999", None),
        ],
    )
    def test_times_of_others(self, text: str, moment: datetime | None) -> None:
        assert wire.parse_mtime(text) == moment

    def test_rclone_writes_no_trailing_zeros(self) -> None:
        assert wire.format_mtime(datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)) == "1700000000"
        assert wire.format_mtime(datetime(2023, 11, 14, 22, 13, 20, 120000, tzinfo=UTC)) == "1700000000.12"

    @pytest.mark.parametrize(
        ("kept", "found"),
        [("aws-chunked", None), ("gzip,aws-chunked", "gzip"), ("AWS-chunked, br", "br"), ("gzip", "gzip")],
    )
    def test_how_it_was_sent_is_nothing_of_the_object(self, kept: str, found: str | None) -> None:
        """Some stores keep it: DigitalOcean's, old ones of Ceph."""
        assert wire.attributes_of({"Content-Encoding": kept}).get("content-encoding") == found

    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
    def test_metadata_survives(self, value: str) -> None:
        headers = wire.attribute_headers({"meta-name": value})
        text = headers["x-amz-meta-name"]
        assert text.isascii() and text == text.strip() and "\n" not in text and "\r" not in text
        assert wire.attributes_of(headers) == {"meta-name": value}

    @pytest.mark.parametrize("charset", ["undefined", "euc-jp", "unicode_escape", "utf-7", "none", "\udcff"])
    @pytest.mark.parametrize("text", ["Q?=5Cud800", "Q?+2AA-", "B?j6Kv", "B?a", "Q?=FF"])
    def test_hostile_metadata(self, charset: str, text: str) -> None:
        """Whatever somebody has written there: it is a text, and can be written again."""
        found = wire.attributes_of({"x-amz-meta-a": f"=?{charset}?{text}?="})
        assert wire.attribute_headers(found)["x-amz-meta-a"].isascii()

    @pytest.mark.parametrize("text", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00", "x", ""])
    def test_dates_that_are_none(self, text: str) -> None:
        assert wire.parse_time(text) is None
        assert http_date(text and "Fri, 31 Dec 9999 23:59:59 -0500") is None

    @pytest.mark.parametrize("checksum", ["abc", "é", "", "A" * 43 + "=-2", "A" * 40])
    def test_checksums_and_sizes_that_are_none(self, checksum: str) -> None:
        found = entry_of("name", {"x-amz-checksum-sha256": checksum, "content-length": "9" * 5000})
        assert found.digests == {} and found.size is None

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

    def test_what_xml_may_hold_besides(self) -> None:
        body = b"<?xml version='1.0'?><!-- made by hand --><R><Key><![CDATA[a<b&c]]></Key></R>"
        assert wire.texts(*wire.parse_xml(body, "R")) == {"Key": "a<b&c"}

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


class TestKeys:
    @pytest.mark.parametrize("path", ["x" * 1025, "\udcff", "é" * 513])
    async def test_what_cannot_be_a_key_is_not_sent(
        self, path: str, moto: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with FaultProxy(moto) as proxy:
            async with Storage(backend(proxy, "bucket", monkeypatch, conditional_writes="off")) as storage:
                for action in (storage.stat(path), storage.read_bytes(path), storage.write_bytes(path, b"")):
                    with pytest.raises(InvalidPath) as caught:
                        await action
                    assert ("encoding: latin-1" in str(caught.value)) == (path == "\udcff")
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
