"""Copies that a store denies, or makes of something else: whoever moves the source would take it away next."""

from __future__ import annotations

import pytest
from aiohttp import web

from crossdock.errors import AlreadyExists, IntegrityError, NotFound, SourceChanged, Unsupported
from crossdock.storage.base import WriteOptions
from crossdock.storage.storage import Storage
from crossdock.transfer.copy import copy
from tests.storage.s3.faults import FaultProxy, Forward, Upstream, edit, lose, xml_error
from tests.storage.s3.places import LARGE, MIB, SMALL, BotoPeer


@pytest.fixture(params=[SMALL, LARGE], ids=["whole", "in parts"])
def data(request: pytest.FixtureRequest) -> bytes:
    found: bytes = request.param
    return found


@pytest.mark.parametrize("name", ["a+b", "plain"])
async def test_a_source_that_is_there_is_not_believed_to_be_gone(
    storage: Storage, proxy: FaultProxy, peer: BotoPeer, data: bytes, name: str
) -> None:
    """s3rver does not decode a "+" in its name: a flow archived nothing, called it gone, and delivered it each time."""
    peer.write(name, data)
    proxy.fail("PUT", "/to", xml_error(404, "NoSuchKey"), 100)
    with pytest.raises(Unsupported, match="though it is there") as caught:
        await storage.server_copy(storage, name, "to")
    assert caught.value.hint is not None and "another name" in caught.value.hint
    with pytest.raises(Unsupported, match="though it is there"):
        await storage.rename(name, "to", overwrite=True)
    assert peer.names() == {name} and peer.read(name) == data


async def test_a_store_that_copies_nothing_is_sent_the_bytes(
    storage: Storage, proxy: FaultProxy, peer: BotoPeer, data: bytes
) -> None:
    peer.write("from", data)

    async def lack(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
        if "x-amz-copy-source" in request.headers:
            return await xml_error(501, "NotImplemented")(request, forward)
        return await edit(lambda found: None)(request, forward)

    proxy.fail("PUT", "/to", lack, 100)
    receipt = await copy(storage, "from", storage, "to")
    assert receipt.method == "stream" and "NotImplemented" in receipt.notes[0]
    assert peer.read("to") == data and peer.names() == {"from", "to"}


@pytest.mark.parametrize("data", [b"", LARGE], ids=["empty", "in parts"])
async def test_a_copy_whose_answer_was_lost(storage: Storage, proxy: FaultProxy, peer: BotoPeer, data: bytes) -> None:
    """Of nothing it took its own name for another's: an archive held each empty file twice."""
    peer.write("from", data)
    proxy.fail("POST" if data else "PUT", "/to?uploadId" if data else "/to", lose())
    create = WriteOptions(overwrite=False)
    assert (await storage.server_copy(storage, "from", "to", create)).size == len(data)
    assert peer.names() == {"from", "to"} and peer.read("to") == data
    with pytest.raises(AlreadyExists):
        await storage.server_copy(storage, "from", "to", create)


async def test_a_source_that_is_gone_by_then(storage: Storage, proxy: FaultProxy, peer: BotoPeer, data: bytes) -> None:
    peer.write("from", data)

    async def take(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
        peer.client.delete_object(Bucket=peer.bucket, Key="from")
        return await xml_error(404, "NoSuchKey")(request, forward)

    proxy.fail("PUT", "/to", take)
    with pytest.raises(NotFound):
        await storage.server_copy(storage, "from", "to")


async def test_a_source_that_is_another_by_then(
    storage: Storage, proxy: FaultProxy, peer: BotoPeer, data: bytes
) -> None:
    peer.write("from", data)

    async def replaced(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
        peer.write("from", data[::-1])
        return await xml_error(404, "NoSuchKey")(request, forward)

    proxy.fail("PUT", "/to", replaced)
    with pytest.raises(SourceChanged):
        await storage.server_copy(storage, "from", "to")
    assert peer.read("from") == data[::-1]


async def test_a_copy_of_another_length(storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
    """Swift, with its filters in a wrong order, copies the list of an upload's parts, and says that all is well."""
    data = LARGE[: 5 * MIB]
    upload = peer.client.create_multipart_upload(Bucket=peer.bucket, Key="from")["UploadId"]
    place = {"Bucket": peer.bucket, "Key": "from", "UploadId": upload}
    etag = peer.client.upload_part(**place, PartNumber=1, Body=data)["ETag"]
    told = peer.client.complete_multipart_upload(**place, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})[
        "ETag"
    ]

    def listed(found: Upstream) -> None:
        peer.write("to", b"[parts]")
        found.body = f"<CopyObjectResult><ETag>{told}</ETag></CopyObjectResult>".encode()
        found.headers["Content-Length"] = str(len(found.body))

    proxy.fail("PUT", "/to", edit(listed), 100)
    with pytest.raises(IntegrityError, match=f"{len(data)} bytes became 7"):
        await storage.server_copy(storage, "from", "to")
    with pytest.raises(IntegrityError, match="became 7"):
        await storage.rename("from", "to", overwrite=True)
    assert peer.read("from") == data


async def test_a_copy_that_has_the_sources_md5_is_not_looked_at(
    storage: Storage, proxy: FaultProxy, peer: BotoPeer
) -> None:
    peer.write("from", SMALL)
    await storage.server_copy(storage, "from", "to")
    assert peer.read("to") == SMALL
    assert proxy.count("HEAD") == proxy.count("/from") == 2


async def test_what_is_gone_says_so_itself_with_others_below_its_name_too(storage: Storage, peer: BotoPeer) -> None:
    peer.write("from/below", b"1")
    with pytest.raises(NotFound) as caught:
        await storage.server_copy(storage, "from", "to")
    assert (caught.value.path, peer.names()) == ("from", {"from/below"})
