"""Transforms between an SFTP server and an S3 store, through every layer."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import uuid
import zipfile
from collections.abc import AsyncGenerator, Iterator

import pytest

from crossdock.errors import TransformFailed
from crossdock.storage.registry import new_storage
from crossdock.storage.s3 import S3Settings
from crossdock.storage.sftp import SftpSettings
from crossdock.storage.storage import Storage
from crossdock.transfer.copy import CopyOptions, copy
from crossdock.transfer.transforms import step
from crossdock.transfer.unpack import unpack
from tests.servers import Ceph, OpenSSH
from tests.storage.s3 import places as s3_places
from tests.transfer.transforms.running import everything

CONTENT = hashlib.shake_256(b"servers").digest(20_000_001) + b"line\n" * 1_000_000
GUNZIP = CopyOptions(transforms=(step("gunzip"),))
UNZIP = CopyOptions(transforms=(step("unzip"), step("gzip", {"level": 1})))


@pytest.fixture
async def partner(openssh: OpenSSH) -> AsyncGenerator[Storage]:
    """One connection, so that whoever opens two files at once waits for ever."""
    folder = openssh.folder / uuid.uuid4().hex
    folder.mkdir()
    settings = SftpSettings.model_validate(openssh.settings(root=os.fspath(folder), max_connections=1))
    async with new_storage("partner", settings) as storage:
        yield storage


@pytest.fixture
def peer(ceph: Ceph) -> Iterator[s3_places.BotoPeer]:
    with s3_places.bucket(ceph) as found:
        yield found


@pytest.fixture
async def lake(ceph: Ceph, peer: s3_places.BotoPeer, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Storage]:
    monkeypatch.setenv("TEST_S3_SECRET", ceph.secret_key)
    settings = S3Settings.model_validate(
        {
            "type": "s3",
            "bucket": peer.bucket,
            "endpoint_url": ceph.endpoint_url,
            "access_key_id": ceph.access_key,
            "secret_access_key": "env:TEST_S3_SECRET",
        }
    )
    async with new_storage("lake", settings) as storage:
        yield storage


async def test_a_size_that_nobody_knows_beforehand(partner: Storage, lake: Storage, peer: s3_places.BotoPeer) -> None:
    """25 MB in parts; a file that is cut off leaves neither an object nor an upload."""
    packed = gzip.compress(CONTENT, 1)
    await partner.write_bytes("f.gz", packed)
    receipt = await copy(partner, "f.gz", lake, "in/f", options=GUNZIP)
    assert peer.read("in/f") == CONTENT
    assert (receipt.size, receipt.read_size) == (len(CONTENT), len(packed))
    await partner.write_bytes("g.gz", packed[:-5])
    with pytest.raises(TransformFailed, match="gunzip of partner:"):
        await copy(partner, "g.gz", lake, "in/g", options=GUNZIP)
    assert peer.names() == {"in/f"}


async def test_archives_out_of_a_bucket(partner: Storage, lake: Storage) -> None:
    files = {"a.csv": b"1;2\n", "deep/er/b.bin": CONTENT[:3_000_000], "empty": b""}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    packed = buffer.getvalue()
    await lake.write_bytes("a.zip", packed)
    await unpack(lake, "a.zip", partner, "out", options=UNZIP)
    assert await everything(partner) == sorted(f"out/{name}" for name in files)
    for name, data in files.items():
        assert gzip.decompress(await partner.read_bytes(f"out/{name}")) == data
    damaged = bytearray(packed)
    damaged[1_000_000] ^= 1
    await lake.write_bytes("b.zip", bytes(damaged))
    with pytest.raises(TransformFailed, match="unzip of lake:"):
        await unpack(lake, "b.zip", partner, "other", options=UNZIP)
    assert await everything(partner) == sorted(f"out/{name}" for name in files)
