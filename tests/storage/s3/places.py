"""Buckets of a test's own at a real server, and a second pair of eyes on them: botocore's client."""

from __future__ import annotations

import atexit
import random
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from crossdock.storage.base import Reader
from crossdock.storage.retry import RetryPolicy
from crossdock.storage.s3 import S3Settings
from crossdock.storage.s3.backend import S3Backend

MIB, GIB, TIB = 1024**2, 1024**3, 1024**4
LARGE = random.Random(1).randbytes(11 * MIB)
SMALL = b"some bytes"


class Server(Protocol):
    endpoint_url: str
    access_key: str
    secret_key: str


async def no_wait(seconds: float) -> None:
    """Instead of sleeping between retries."""


AT_ONCE = RetryPolicy(attempts=4, seconds=60, sleep=no_wait)


class BotoPeer:
    """A bucket as botocore sees it."""

    def __init__(self, client: Any, bucket: str, prefix: str = "") -> None:
        self.client, self.bucket, self.prefix = client, bucket, prefix

    def read(self, path: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=self.prefix + path)["Body"].read()
        return body

    def write(self, path: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=self.prefix + path, Body=data)

    def names(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        found = {item["Key"].removeprefix(self.prefix) for page in pages for item in page.get("Contents", [])}
        return found | {f"{upload['Key']} (upload {upload['UploadId']})" for upload in self.uploads()}

    def uploads(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        return found

    def empty(self, prefix: str = "") -> None:
        for upload in self.uploads():
            if upload["Key"].startswith(prefix):
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        for page in self.client.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=prefix):
            for item in page.get("Versions", []) + page.get("DeleteMarkers", []):
                self.client.delete_object(Bucket=self.bucket, Key=item["Key"], VersionId=item["VersionId"])
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                self.client.delete_object(Bucket=self.bucket, Key=item["Key"])

    def remove(self) -> None:
        """What was asked for by a process that was killed may still be carried out: then it is emptied again."""
        for last in (False, False, False, True):
            self.empty()
            try:
                self.client.delete_bucket(Bucket=self.bucket)
            except ClientError as error:
                if last or error.response["Error"]["Code"] != "BucketNotEmpty":
                    raise
            else:
                return


def boto(server: Server) -> Any:
    """One for each server, kept: it takes botocore longer to make than most tests take."""
    return _client(server.endpoint_url, server.access_key, server.secret_key)


@cache
def _client(endpoint_url: str, access_key: str, secret_key: str) -> Any:
    config = Config(
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = botocore.session.Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=endpoint_url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=config,
    )
    atexit.register(client.close)
    return client


@contextmanager
def bucket(server: Server, *, versioned: bool = False) -> Iterator[BotoPeer]:
    """A new bucket, emptied and removed at the end."""
    client = boto(server)
    peer = BotoPeer(client, f"test-{secrets.token_hex(6)}")
    client.create_bucket(Bucket=peer.bucket)
    if versioned:
        client.put_bucket_versioning(Bucket=peer.bucket, VersioningConfiguration={"Status": "Enabled"})
    yield peer
    peer.remove()


def backend(server: Server, name: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> S3Backend:
    """A backend that does not wait between retries."""
    monkeypatch.setenv("TEST_S3_SECRET", server.secret_key)
    place = S3Settings(
        bucket=name,
        endpoint_url=server.endpoint_url,
        access_key_id=server.access_key,
        secret_access_key="env:TEST_S3_SECRET",  # type: ignore[arg-type]
        **settings,
    )
    found = S3Backend(place, "lake")
    found.client.retry = AT_ONCE
    return found


async def chunks(reader: Reader) -> AsyncIterator[bytes]:
    """Till the end."""
    while chunk := await reader.read():
        yield chunk
