"""The S3 server as the harness sees it, apart from every tool that is measured: plain botocore calls."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import botocore.config
import botocore.session
from tests.servers import Ceph, StartFailed

from benchmarks.data import STAMP, Dataset, wrong_names

BUCKET = "bench"


class CollectedCeph(Ceph):
    """A gateway as it comes, whose deleted objects can be freed when we say so, between two runs."""

    frontend = ""

    def collect(self) -> None:
        """Free the memory of everything deleted, now and not during the next run."""
        try:
            self._run("radosgw-admin", "gc", "process", "--include-all")
        except StartFailed as error:
            print(f"  deleted objects are not freed yet: {error}", file=sys.stderr)


class Store:
    """One bucket at the gateway."""

    def __init__(self, server: CollectedCeph) -> None:
        self.server = server
        config = botocore.config.Config(
            max_pool_connections=32, s3={"addressing_style": "path"}, request_checksum_calculation="when_required"
        )
        self._client: Any = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=server.endpoint_url,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            region_name="us-east-1",
            config=config,
        )
        self._client.create_bucket(Bucket=BUCKET)

    def upload(self, data: Dataset, prefix: str) -> None:
        """Small files by one PUT each, large ones in parts; with the modification time under rclone's key."""
        with ThreadPoolExecutor(16) as pool:
            for _ in pool.map(lambda name: self._put(data.folder / name, prefix + name), data.files):
                pass

    def _put(self, path: Path, key: str) -> None:
        # rclone's key for modification times, which crossdock reads too.
        meta = {"mtime": str(STAMP)}
        part_size = 16 << 20
        if path.stat().st_size <= part_size:
            self._client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes(), Metadata=meta)
            return
        where = {"Bucket": BUCKET, "Key": key}
        where["UploadId"] = self._client.create_multipart_upload(**where, Metadata=meta)["UploadId"]
        parts: list[dict[str, Any]] = []
        with path.open("rb") as file:
            while block := file.read(part_size):
                number = len(parts) + 1
                answer = self._client.upload_part(**where, PartNumber=number, Body=block)
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        self._client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})

    def objects(self, prefix: str) -> Iterator[tuple[str, int, str]]:
        """(key below the prefix, size, ETag without its quotes)."""
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
            for found in page.get("Contents", ()):
                yield found["Key"].removeprefix(prefix), found["Size"], found["ETag"].strip('"')

    def empty(self, prefix: str) -> None:
        """Delete what is below the prefix, and uploads that were left open."""
        keys = [prefix + key for key, _, _ in self.objects(prefix)]
        for start in range(0, len(keys), 1000):
            batch = [{"Key": key} for key in keys[start : start + 1000]]
            self._client.delete_objects(Bucket=BUCKET, Delete={"Objects": batch, "Quiet": True})
        for upload in self.open_uploads(prefix):
            self._client.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
        self.server.collect()

    def open_uploads(self, prefix: str) -> list[Any]:
        return list(self._client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads", ()))

    def wrong(self, data: Dataset, prefix: str) -> str:
        """As `wrong_on_disk`: by ETag where that is the MD5 of a single PUT, else by reading the object back."""
        found = {key: (size, etag) for key, size, etag in self.objects(prefix)}
        problem = wrong_names(data, set(found))
        if problem:
            return problem
        for name, known in data.files.items():
            size, etag = found[name]
            if size != known.size:
                return f"{name} has {size} bytes instead of {known.size}"
            if etag != known.md5 and self._sha256(prefix + name) != known.sha256:
                return f"{name} has other bytes"
        if self.open_uploads(prefix):
            return "an upload was left open"
        return ""

    def _sha256(self, key: str) -> str:
        digest = hashlib.sha256()
        for block in self._client.get_object(Bucket=BUCKET, Key=key)["Body"].iter_chunks(1 << 20):
            digest.update(block)
        return digest.hexdigest()
