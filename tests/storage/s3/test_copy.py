"""Copying and renaming within the store, and what goes along."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from aiohttp import web

from crossdock.errors import AlreadyExists, ProtocolViolation, SourceChanged, Unsupported
from crossdock.storage.base import Entry, WriteOptions
from crossdock.storage.storage import Storage
from crossdock.testing.storage.base import read_all
from crossdock.transfer.copy import Staged, copy
from tests.storage.s3.faults import Fault, FaultProxy, Forward, Upstream, answer, drop, edit, xml_error
from tests.storage.s3.places import BotoPeer, Server, backend, bucket

DATA = bytes(range(256)) * 4096 * 11
GOLDEN = {
    "ContentType": "text/csv; charset=utf-8",
    "CacheControl": "max-age=60",
    "ContentDisposition": 'attachment; filename="a b.csv"',
    "ContentEncoding": "identity",
    "ContentLanguage": "de",
    "Metadata": {"sender": "acme", "mtime": "981173106.789012345"},
}


@pytest.fixture(params=["ceph", "moto"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def peer(server: Server) -> Iterator[BotoPeer]:
    with bucket(server) as found:
        yield found


@pytest.fixture
def versioned(server: Server) -> Iterator[BotoPeer]:
    with bucket(server, versioned=True) as found:
        yield found


@pytest.fixture
async def storage(server: Server, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Storage]:
    inner = backend(server, peer.bucket, monkeypatch, copy_threshold="6M", copy_part_size="5M")
    async with Storage(inner) as found:
        yield found


@pytest.mark.parametrize("size", [0, 10, 6 * 1024**2, len(DATA)], ids=["empty", "small", "limit", "in parts"])
async def test_everything_goes_along(storage: Storage, peer: BotoPeer, size: int) -> None:
    """The same metadata, tags and headers whether the copy takes one request or many."""
    source, target = "in/a b+ü.csv", "out/ç%41.csv"
    peer.client.put_object(Bucket=peer.bucket, Key=source, Body=DATA[:size], Tagging="team=ops&stage=a%20b", **GOLDEN)
    entry = await storage.server_copy(storage, source, target)
    assert entry.size == size
    assert peer.read(target) == DATA[:size]
    head = peer.client.head_object(Bucket=peer.bucket, Key=target)
    head["Metadata"].pop("crossdock-attempt", None)
    assert {name: head.get(name) for name in GOLDEN} == GOLDEN
    tags = peer.client.get_object_tagging(Bucket=peer.bucket, Key=target)["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"team": "ops", "stage": "a b"}
    assert (await storage.stat(target)).modified == datetime(2001, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
    assert peer.uploads() == []


async def test_a_store_that_cannot_promise_it_is_not_asked_to_replace_nothing(
    server: Server, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.write("f", b"new")
    peer.write("g", b"old")
    async with Storage(backend(server, peer.bucket, monkeypatch, conditional_writes="off")) as storage:
        with pytest.raises(Unsupported, match="create without replacing"):
            await storage.server_copy(storage, "f", "g", WriteOptions(overwrite=False))
    assert peer.read("g") == b"old"


@pytest.mark.parametrize("size", [10, len(DATA)], ids=["small", "in parts"])
async def test_an_upload_is_announced_before_it_has_parts(storage: Storage, peer: BotoPeer, size: int) -> None:
    """Who is killed while the store copies leaves one that costs money, and that the attempt does not name."""
    peer.write("f", DATA[:size])
    told: list[tuple[Staged, int]] = []

    async def announced(found: Staged) -> None:
        told.append((found, len(peer.uploads())))

    receipt = await copy(storage, "f", storage, "g", on_staged=announced)
    assert receipt.method == "server"
    if size == 10:
        assert told == []
    else:
        ((found, uploads),) = told
        assert found.token is not None and uploads == 1
    assert peer.read("g") == DATA[:size]


@pytest.mark.parametrize("size", [0, 10, len(DATA)], ids=["empty", "small", "in parts"])
@pytest.mark.parametrize("told", [{}, {"mtime": "yesterday"}], ids=["untold", "senseless"])
async def test_the_time_of_an_upload_goes_along(
    storage: Storage, peer: BotoPeer, size: int, told: dict[str, str]
) -> None:
    """Where nobody wrote down another one."""
    peer.client.put_object(Bucket=peer.bucket, Key="from", Body=DATA[:size], Metadata=told, ContentType="text/csv")
    uploaded = peer.client.head_object(Bucket=peer.bucket, Key="from")["LastModified"]
    await storage.server_copy(storage, "from", "to")
    head = peer.client.head_object(Bucket=peer.bucket, Key="to")
    assert head["Metadata"]["mtime"] == str(int(uploaded.timestamp()))
    assert head["ContentType"] == "text/csv"
    assert (await storage.stat("to")).modified == uploaded == (await storage.stat("from")).modified


async def test_parts_whose_answer_has_another_name(
    server: Server, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3Proxy's."""
    peer.write("from", DATA)

    def rename(found: Upstream) -> None:
        found.body = found.body.replace(b"CopyPartResult", b"CopyObjectResult")
        drop(found, "content-length")

    async with FaultProxy(server) as proxy:
        proxy.fail("PUT", "partNumber=", edit(rename), 100)
        more = {"copy_threshold": "6M", "copy_part_size": "5M", "conditional_writes": "off"}
        async with Storage(backend(proxy, peer.bucket, monkeypatch, **more)) as storage:
            await storage.server_copy(storage, "from", "to")
    assert peer.read("to") == DATA


@pytest.mark.parametrize("server", ["moto"], indirect=True)
@pytest.mark.parametrize(
    "fault",
    [xml_error(501, "NotImplemented"), answer(200, etag='"d41d8cd98f00b204e9800998ecf8427e"')],
    ids=["refused", "not understood"],
)
async def test_a_store_that_copies_no_parts(
    server: Server, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """Google's and Storj's copy an object of any size in one request. Google's knows no tags either."""
    peer.client.put_object(Bucket=peer.bucket, Key="name", Body=DATA, **GOLDEN)
    async with FaultProxy(server) as proxy:
        proxy.fail("PUT", "partNumber=", fault, 100)
        proxy.fail("GET", "?tagging", xml_error(400, "InvalidArgument", "Invalid query parameter(s): [tagging]"), 100)
        more = {"copy_threshold": "6M", "copy_part_size": "5M", "conditional_writes": "on"}
        async with Storage(backend(proxy, peer.bucket, monkeypatch, **more)) as storage:
            assert (await storage.server_copy(storage, "name", "copy")).size == len(DATA)
            head = peer.client.head_object(Bucket=peer.bucket, Key="copy")
            assert {name: head.get(name) for name in GOLDEN} == GOLDEN
            # One request would replace what is there.
            with pytest.raises((Unsupported, ProtocolViolation)):
                await storage.server_copy(storage, "name", "new", WriteOptions(overwrite=False))
    assert peer.read("copy") == DATA
    assert peer.names() == {"name", "copy"}


@pytest.mark.parametrize("size", [10, len(DATA)], ids=["small", "in parts"])
async def test_what_the_options_say_comes_first(storage: Storage, peer: BotoPeer, size: int) -> None:
    peer.client.put_object(Bucket=peer.bucket, Key="from", Body=DATA[:size], **GOLDEN)
    moment = datetime(2020, 1, 1, tzinfo=UTC)
    options = WriteOptions(modified=moment, attributes={"content-type": "text/plain", "meta-new": "größe"})
    await storage.server_copy(storage, "from", "to", options)
    found = await storage.stat("to")
    assert found.modified == moment
    assert found.attributes["content-type"] == "text/plain"
    assert found.attributes["meta-new"] == "größe"
    assert found.attributes["meta-sender"] == "acme"
    assert found.attributes["cache-control"] == "max-age=60"


@pytest.mark.parametrize("size", [0, 10, len(DATA)], ids=["empty", "small", "in parts"])
async def test_the_endpoints_own_tags(
    server: Server, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    peer.client.put_object(Bucket=peer.bucket, Key="from", Body=DATA[:size], Tagging="team=ops&stage=a%20b")
    more = {"copy_threshold": "6M", "copy_part_size": "5M", "tags": {"team": "net", "keep": "7y"}}
    async with Storage(backend(server, peer.bucket, monkeypatch, **more)) as storage:
        await storage.server_copy(storage, "from", "to")
    tags = peer.client.get_object_tagging(Bucket=peer.bucket, Key="to")["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"team": "net", "keep": "7y", "stage": "a b"}
    assert peer.read("to") == DATA[:size]


async def test_an_owner_is_expected_of_the_endpoints_own_bucket(
    server: Server, peer: BotoPeer, versioned: BotoPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    versioned.write("from", b"data")
    owner = peer.client.get_bucket_acl(Bucket=peer.bucket)["Owner"]["ID"]
    async with FaultProxy(server) as proxy:
        inner = backend(proxy, peer.bucket, monkeypatch, conditional_writes="off", expected_bucket_owner=owner)
        other = backend(proxy, versioned.bucket, monkeypatch, conditional_writes="off")
        async with Storage(inner) as storage, Storage(other) as source:
            await storage.server_copy(source, "from", "to")
        owners = {
            seen.split("/")[1]: sent.get("x-amz-expected-bucket-owner")
            for seen, sent in zip(proxy.seen, proxy.requests, strict=True)
        }
    assert owners == {peer.bucket: owner, versioned.bucket: None}


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("a%20b", ["a b"]),
        ("a%20b", ["a%2520b"]),
        ("50% off", []),
        ("100%25 +&", ["100% +&"]),
        ("a?b", ["a", "a%3Fb"]),
        ("a?versionId=null", ["a"]),
        ("a?versionId=1", ["a", "a%3FversionId%3D1"]),
    ],
)
async def test_of_names_that_are_nearly_the_same(
    server: Server, versioned: BotoPeer, monkeypatch: pytest.MonkeyPatch, name: str, others: list[str], pinned: bool
) -> None:
    """Ceph decodes the source of a part twice, or takes a part of the name for a version: never another's bytes."""
    for other in others:
        versioned.write(other, DATA[::-1])
    versioned.write(name, DATA)
    more = {"copy_threshold": "6M", "copy_part_size": "5M", "conditional_writes": "on"}
    async with Storage(backend(server, versioned.bucket, monkeypatch, **more)) as storage:
        pin = await storage.stat(name) if pinned else None
        if pin is not None:
            pin = replace(pin, version=pin.attributes["version-id"])
        await storage.server_copy(storage, name, "to", pin=pin)
        assert versioned.read("to") == DATA
        try:
            await storage.server_copy(storage, name, "new", WriteOptions(overwrite=False), pin=pin)
            assert versioned.read("new") == DATA
        except Unsupported as error:
            assert "for another object" in str(error) and "new" not in versioned.names()
            assert "a%2520b" in others or "?versionId=" in name
    assert versioned.uploads() == [] and versioned.read(name) == DATA


@pytest.mark.parametrize("other", ["a b", "c"])
async def test_how_a_name_is_read_may_stay_unknown(
    server: Server, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """Who asks for what is not there may be denied access: parts are copied where nothing can be mistaken."""
    peer.write("a%20b", DATA)
    peer.write(other, DATA[::-1])
    more = {"copy_threshold": "6M", "copy_part_size": "5M", "conditional_writes": "off"}
    async with FaultProxy(server) as proxy:
        proxy.fail("PUT", "partNumber=1", xml_error(403, "AccessDenied"))
        async with Storage(backend(proxy, peer.bucket, monkeypatch, **more)) as storage:
            await storage.server_copy(storage, "a%20b", "to")
    assert peer.read("to") == DATA
    assert (proxy.count("partNumber=") == 1) is (other == "a b")


@pytest.mark.parametrize("size", [10, len(DATA)], ids=["small", "in parts"])
async def test_no_version_is_named_that_was_not_asked_for(
    server: Server, peer: BotoPeer, versioned: BotoPeer, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """s3:GetObject alone is enough to copy what is there now."""
    versioned.write("from", DATA[:size])
    more = {"copy_threshold": "6M", "copy_part_size": "5M", "conditional_writes": "off"}
    async with FaultProxy(server) as proxy:
        inner, other = (backend(proxy, each.bucket, monkeypatch, **more) for each in (peer, versioned))
        async with Storage(inner) as storage, Storage(other) as source:
            await storage.server_copy(source, "from", "to")
        assert not any("versionId" in sent.get("x-amz-copy-source", "") for sent in proxy.requests)
        assert not any("versionId" in seen for seen in proxy.seen if versioned.bucket in seen)
    assert peer.read("to") == DATA[:size]


@pytest.mark.parametrize("size", [10, len(DATA)], ids=["small", "in parts"])
async def test_only_the_pinned_object_is_copied(storage: Storage, peer: BotoPeer, size: int) -> None:
    peer.write("from", DATA[:size])
    pin = await storage.stat("from")
    peer.write("from", DATA[1 : size + 1])
    with pytest.raises(SourceChanged):
        await storage.server_copy(storage, "from", "to", pin=pin)
    assert peer.names() == {"from"}


@pytest.mark.parametrize("size", [10, len(DATA)], ids=["small", "in parts"])
async def test_a_store_that_refuses_the_etag_it_tells(moto: Server, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Swift does, of an object that came in parts. One that is replaced meanwhile is still noticed."""
    replaced = False

    with bucket(moto) as peer:

        async def misjudge(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            if "x-amz-copy-source-if-match" in request.headers:
                return await xml_error(412, "PreconditionFailed")(request, forward)
            return await edit(lambda _: peer.write("from", b"newer") if replaced else None)(request, forward)

        async with FaultProxy(moto) as proxy:
            more = {"copy_threshold": "6M", "copy_part_size": "5M", "conditional_writes": "on"}
            async with Storage(backend(proxy, peer.bucket, monkeypatch, **more)) as storage:
                peer.write("from", DATA[:size])
                proxy.fail("PUT", "/to", misjudge, 100)
                await storage.server_copy(storage, "from", "to")
                assert peer.read("to") == DATA[:size]
                replaced = True
                with pytest.raises(SourceChanged):
                    await storage.server_copy(storage, "from", "to")
        assert peer.uploads() == []


@pytest.mark.parametrize("size", [10, len(DATA)], ids=["small", "in parts"])
async def test_an_object_replaced_while_it_is_copied(ceph: Server, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Between the look at it and the copy of it; in parts, nothing is published then."""
    newer = b"x" * size
    with bucket(ceph) as peer:
        async with FaultProxy(ceph) as proxy:
            more = {"copy_threshold": "6M", "copy_part_size": "5M", "conditional_writes": "off"}
            async with Storage(backend(proxy, peer.bucket, monkeypatch, **more)) as storage:
                peer.write("from", DATA[:size])
                proxy.fail("HEAD", "/from", edit(lambda _: peer.write("from", newer)))
                with pytest.raises(SourceChanged):
                    await storage.server_copy(storage, "from", "to")
        assert peer.names() <= ({"from"} if size > 10 else {"from", "to"})


@pytest.mark.parametrize("size", [10, len(DATA)], ids=["small", "in parts"])
async def test_to_another_bucket_and_an_old_version(
    storage: Storage,
    server: Server,
    peer: BotoPeer,
    versioned: BotoPeer,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    versioned.write("from", DATA[:size])
    async with Storage(backend(server, versioned.bucket, monkeypatch)) as source:
        pin = await source.stat("from")
        pin = replace(pin, version=pin.attributes["version-id"])
        versioned.write("from", b"newer")
        assert storage.can_server_copy(source)
        await storage.server_copy(source, "from", "to", pin=pin)
        async with source.read("from", pin=pin) as reader:
            assert await read_all(reader) == DATA[:size]
    assert peer.read("to") == DATA[:size]


async def test_other_credentials_are_another_store(
    storage: Storage, peer: BotoPeer, moto: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other:
        endpoint_url, access_key, secret_key = storage.backend.settings.endpoint_url, "other", "x"  # type: ignore[attr-defined]

    async with Storage(backend(Other(), peer.bucket, monkeypatch, conditional_writes="off")) as other:
        assert not storage.can_server_copy(other)


async def test_rename_keeps_a_newer_upload(storage: Storage, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives between the copy and the delete is not what was copied, and stays."""
    peer.write("from", b"old")
    copy = storage.backend.server_copy

    async def copy_then_upload(*args: object, **options: object) -> Entry:
        entry = await copy(*args, **options)  # type: ignore[arg-type]
        peer.write("from", b"newer")
        return entry

    monkeypatch.setattr(storage.backend, "server_copy", copy_then_upload)
    with pytest.raises(SourceChanged, match="newer"):
        await storage.rename("from", "to")
    assert (peer.read("from"), peer.read("to")) == (b"newer", b"old")


async def test_rename_in_a_versioned_bucket(
    server: Server, versioned: BotoPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    versioned.write("from", b"one")
    versioned.write("from", b"two")
    async with Storage(backend(server, versioned.bucket, monkeypatch)) as storage:
        await storage.rename("from", "to")
        assert versioned.read("to") == b"two"
        # The version before does not come back under the name, and both are kept as its history.
        assert versioned.names() == {"to"}
        found = versioned.client.list_object_versions(Bucket=versioned.bucket, Prefix="from")
        assert [item["Size"] for item in found["Versions"]] == [3, 3]
        with pytest.raises(AlreadyExists):
            await storage.rename("to", "to")


async def test_reads_of_a_replaced_version(
    server: Server, versioned: BotoPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version stays readable, range after range, whatever is uploaded after it."""
    versioned.write("name", DATA)
    async with Storage(backend(server, versioned.bucket, monkeypatch, part_size="5M")) as storage:
        async with storage.read("name") as reader:
            found = await reader.read()
            versioned.write("name", b"newer")
            while chunk := await reader.read():
                found += chunk
    assert found == DATA
