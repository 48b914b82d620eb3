"""S3 endpoints: URLs, the environment, mistakes, addresses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import botocore.loaders
import botocore.session
import pytest
from pydantic import ValidationError

from crossdock.errors import (
    ConfigError,
)
from crossdock.storage.registry import parse_url
from crossdock.storage.s3 import S3Settings
from crossdock.storage.s3.backend import S3Backend
from crossdock.storage.s3.settings import amazon_url

_SERVICES = "[default]\nservices = s\nendpoint_url = http://d\n[services s]\n"


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
        ("config", "credentials", "more", "url"),
        [
            ("[default]\nendpoint_url = http://d\n", "", {}, "http://d"),
            ("[default]\nregion = eu-west-1\n", "", {}, None),
            ("[profile p]\nendpoint_url = http://p\n", "", {}, None),
            ("[profile p]\nendpoint_url = http://p\n", "", {"AWS_PROFILE": "p"}, "http://p"),
            (f"{_SERVICES}s3 =\n  endpoint_url = http://s\n", "", {}, "http://s"),
            (f"{_SERVICES}ec2 =\n  endpoint_url = http://s\n", "", {}, "http://d"),
            ("[default]\nendpoint_url = http://d\n", "[default]\nendpoint_url = http://c\n", {}, "http://c"),
            ("", "[p]\nendpoint_url = http://c\n", {"AWS_PROFILE": "p"}, "http://c"),
            ("[default]\nendpoint_url = http://d\nignore_configured_endpoint_urls = true\n", "", {}, None),
            ("[default]\nendpoint_url = http://d\n", "", {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, None),
            ("[default]\nendpoint_url = http://d\n", "", {"AWS_ENDPOINT_URL": "http://e"}, "http://e"),
        ],
    )
    def test_the_files_of_the_aws_tools(
        self,
        config: str,
        credentials: str,
        more: dict[str, str],
        url: str | None,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name, text in (("AWS_CONFIG_FILE", config), ("AWS_SHARED_CREDENTIALS_FILE", credentials)):
            (tmp_path / name).write_text(text)
            monkeypatch.setenv(name, str(tmp_path / name))
        for name, text in more.items():
            monkeypatch.setenv(name, text)
        assert S3Settings(bucket="lake").service_url == url
        # What is said in the settings goes before all of them, and botocore finds the same.
        assert S3Settings(bucket="lake", endpoint_url="http://here").service_url == "http://here"
        session = botocore.session.Session()
        client = session.create_client("s3", region_name="eu-west-1", aws_access_key_id="k", aws_secret_access_key="s")
        assert client.meta.endpoint_url == (url or "https://s3.eu-west-1.amazonaws.com")

    def test_a_profile_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "config"
        monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
        monkeypatch.setenv("AWS_PROFILE", "other")
        settings = S3Settings(bucket="lake", profile="minio")
        found = [settings.service_url]
        file.write_text("[profile minio]\nendpoint_url = http://127.0.0.1:9000\n[profile other]\nendpoint_url = x\n")
        found.append(settings.service_url)
        assert not settings.amazon
        with pytest.raises(ConfigError, match=r"profile other in .*config: .*https://host"):
            S3Settings(bucket="lake").backend("lake")
        file.write_text("[profile minio]\nservices = s\n[services s]\ns3 = endpoint_url\n")
        assert [*found, settings.service_url] == [None, "http://127.0.0.1:9000", None]
        file.write_text("[profile minio]\nendpoint_url =\n  a = b\n")
        assert settings.service_url is None
        file.write_text("endpoint_url = http://of.no.profile\n")
        with pytest.raises(ConfigError, match="Unable to parse config file"):
            settings.backend("lake")

    def test_files_of_the_aws_tools_where_the_extra_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`check` needs no extra; who opens the endpoint is told of it."""
        (tmp_path / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:9000\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        for name in ("botocore", "botocore.configloader"):
            monkeypatch.setitem(sys.modules, name, None)
        assert S3Settings(bucket="lake").service_url is None

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
