"""S3 endpoints: URLs, the environment, mistakes, addresses."""

from __future__ import annotations

from typing import Any

import botocore.loaders
import pytest
from pydantic import ValidationError

from crossdock.errors import (
    ConfigError,
)
from crossdock.storage.registry import parse_url
from crossdock.storage.s3 import S3Settings
from crossdock.storage.s3.backend import S3Backend
from crossdock.storage.s3.settings import amazon_url


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
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "s3:9000")
        with pytest.raises(ConfigError, match=r"AWS_ENDPOINT_URL_S3.*https://host"):
            settings.backend("lake")

    @pytest.mark.parametrize(
        ("url", "amazon"),
        [
            (None, True),
            ("https://s3.dualstack.eu-west-1.amazonaws.com", True),
            ("https://bucket.vpce-1a.s3.eu-west-1.vpce.amazonaws.com", True),
            ("https://s3.cn-north-1.amazonaws.com.cn", True),
            ("https://amazonaws.com.example", False),
            ("https://notamazonaws.com", False),
            ("http://127.0.0.1:9000", False),
        ],
    )
    def test_who_is_amazon(self, url: str | None, amazon: bool) -> None:
        assert S3Settings(bucket="lake", endpoint_url=url).amazon is amazon

    def test_every_partition(self) -> None:
        loader = botocore.loaders.create_loader()
        for partition in loader.load_data("partitions")["partitions"]:
            suffix = partition["outputs"]["dnsSuffix"]
            for region in partition["regions"]:
                if not region.startswith("aws-"):
                    assert amazon_url(region) == f"https://s3.{region}.{suffix}"

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
            {"bucket": "fast--use1-az4--x-s3"},
            {"endpoint_url": "s3:9000"},
            {"endpoint_url": "http://s3:99999"},
            {"endpoint_url": "http://s3:x"},
            {"endpoint_url": "http://[::1"},
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
            ({"endpoint_url": "HTTP://H:9/Sub/"}, "http://h:9/Sub/lake/a//b%20%2B"),
            ({"endpoint_url": "http://h:9", "addressing": "virtual"}, "http://lake.h:9/a//b%20%2B"),
            (
                {"endpoint_url": "https://bucket.vpce-1a.s3.eu-west-1.vpce.amazonaws.com"},
                "https://bucket.vpce-1a.s3.eu-west-1.vpce.amazonaws.com/lake/a//b%20%2B",
            ),
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
