"""A wire cut, or a kill −9, at any byte of a copy: never a partial file under the final name, and a re-run completes.

Seeded: `CROSSDOCK_SEED` repeats a run, `CROSSDOCK_CUTS` sets how many cuts each case gets.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from crossdock.errors import CrossdockError, NotFound, SourceChanged, StorageError
from crossdock.storage.registry import new_storage, settings_class
from crossdock.storage.retry import RetryPolicy
from crossdock.storage.staging import is_temporary
from crossdock.storage.storage import Storage
from crossdock.testing.cut import CutProxy, How
from crossdock.transfer.copy import copy
from tests.servers import Ceph, OpenSSH
from tests.storage.s3 import places as s3_places

SEED = int(os.environ.get("CROSSDOCK_SEED", "20261121"))
CUTS = int(os.environ.get("CROSSDOCK_CUTS", "60"))
KILLS = max(1, CUTS // 3)
NEW = hashlib.shake_256(b"new").digest(1_500_007)
OLD = hashlib.shake_256(b"old").digest(300_001)
OVERHEAD = 20_000
"""Bytes of handshakes and requests that pass the wire beside the content; some cuts land after the last byte."""


@dataclass
class Place:
    """An endpoint of a case: its settings in the user's file, and where its server listens."""

    kind: str
    settings: dict[str, object]
    port: int | None = None

    def through(self, port: int) -> dict[str, object]:
        """The same endpoint reached by way of a proxy, which may stall; the server itself may just be slow."""
        way = {"port": port} if self.kind == "sftp" else {"endpoint_url": f"http://127.0.0.1:{port}"}
        return self.settings | way | {"timeout": "3s"}


Places = Callable[[str], Place]


@pytest.fixture
def places(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    """Makes endpoints of a kind, each on an empty root of its own."""
    count = 0
    stack = ExitStack()

    def make(kind: str) -> Place:
        nonlocal count
        count += 1
        name = f"cuts-{os.getpid()}-{time.monotonic_ns():x}-{count}"
        if kind == "local":
            (tmp_path / name).mkdir()
            return Place(kind, {"type": "local", "root": str(tmp_path / name)})
        if kind == "sftp":
            server: OpenSSH = request.getfixturevalue("openssh")
            (server.folder / name).mkdir()
            return Place(kind, server.settings(root=str(server.folder / name)), server.port)
        gateway: Ceph = request.getfixturevalue("ceph")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", gateway.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", gateway.secret_key)
        bucket = stack.enter_context(s3_places.bucket(gateway)).bucket
        settings: dict[str, object] = {
            "type": "s3",
            "bucket": bucket,
            "root": name,
            "endpoint_url": gateway.endpoint_url,
            "region": "us-east-1",
            "part_size": "5M",
        }
        return Place(kind, settings, urlsplit(gateway.endpoint_url).port)

    with stack:
        yield make


def storage(name: str, settings: dict[str, object]) -> Storage:
    model = settings_class(str(settings["type"])).model_validate(settings)
    return new_storage(name, model, retry=RetryPolicy(attempts=1))


async def held(target: Storage) -> bytes | None:
    """What a reader finds under the final name."""
    try:
        return await target.read_bytes("in/file.bin")
    except NotFound:
        return None


@asynccontextmanager
async def observed(target: Storage, before: bytes | None) -> AsyncIterator[None]:
    """Somebody else looks at the final name all the while: it holds what it held, or the new content, whole."""
    done = asyncio.Event()

    async def look() -> None:
        while not done.is_set():
            try:
                content = await held(target)
            except (StorageError, SourceChanged) as error:
                # Reading what is just being replaced may fail, as long as it is said.
                assert error.retryable, error
            else:
                assert content in (before, NEW), f"a reader saw {len(content or b'')} bytes"
            with suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), 0.002)

    watching = asyncio.create_task(look())
    try:
        yield
    finally:
        done.set()
        await watching


async def settled(target: Storage, before: bytes | None, succeeded: bool) -> None:
    """After the cut: whole, and nothing else but temporaries in the folder."""
    content = await held(target)
    assert content in ((NEW,) if succeeded else (before, NEW))
    with suppress(NotFound):
        async for entry in target.scan("in", temporaries=True):
            assert entry.path == "in/file.bin" or is_temporary(entry.path)


async def rerun(source: Storage, target: Storage) -> None:
    receipt = await copy(source, "in/file.bin", target, "in/file.bin")
    assert receipt.sha256 == hashlib.sha256(NEW).hexdigest()
    assert await held(target) == NEW


CASES = [
    ("sftp", "local", "source"),
    ("local", "sftp", "target"),
    ("s3", "local", "source"),
    ("local", "s3", "target"),
    ("sftp", "s3", "source"),
    ("sftp", "s3", "target"),
    ("s3", "sftp", "target"),
]


def positions(case: tuple[str, ...], count: int) -> list[tuple[int, int, How]]:
    """(number, byte, how) for each cut: the ends, the middle, and seeded bytes in between."""
    draw = random.Random(f"{SEED}:{case}")
    total = len(NEW) + OVERHEAD
    fixed = [0, 1, 21, 1000, 32_768, 261_120, len(NEW) // 2, len(NEW) - 1, len(NEW), len(NEW) + 3000]
    found = [fixed[number] if number < len(fixed) else draw.randrange(total) for number in range(count)]
    # A stall costs its timeout: few of them.
    hows: list[How] = ["rst", "fin"]
    return [(n, byte, "stall" if n % 24 == 23 else draw.choice(hows)) for n, byte in enumerate(found)]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", CASES, ids="-".join)
async def test_wire_cut_at_any_byte(case: tuple[str, str, str], places: Places) -> None:
    kinds, cut_side = case[:2], case[2]
    cuts = 0
    ends = [places(kind) for kind in kinds]
    async with AsyncExitStack() as stack:
        source, target = [
            await stack.enter_async_context(storage(f"{kind}-{side}", end.settings))
            for kind, side, end in zip(kinds, ("source", "target"), ends, strict=True)
        ]
        await source.write_bytes("in/file.bin", NEW)
        cut = ends[0] if cut_side == "source" else ends[1]
        assert cut.port is not None
        for number, byte, how in positions(case, CUTS):
            before = OLD if number % 2 else None
            if before is None:
                await target.delete("in/file.bin")
            else:
                await target.write_bytes("in/file.bin", before)
            async with CutProxy("127.0.0.1", cut.port) as proxy:
                proxy.cut_after(byte, how=how)
                succeeded = False
                async with observed(target, before):
                    try:
                        async with storage("cut", cut.through(proxy.port)) as wired:
                            a, b = (wired, target) if cut_side == "source" else (source, wired)
                            await copy(a, "in/file.bin", b, "in/file.bin")
                            succeeded = True
                    except CrossdockError as error:
                        assert error.retryable, f"seed {SEED}, cut {number} at byte {byte} ({how}): {error!r}"
            cuts += proxy.cuts > 0
            await settled(target, before, succeeded)
            await rerun(source, target)
    assert cuts > CUTS * 2 // 3, f"only {cuts} of {CUTS} wires were cut"


KILLED = [("sftp", "local"), ("local", "sftp"), ("s3", "local"), ("local", "s3"), ("sftp", "s3"), ("s3", "sftp")]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", KILLED, ids="-".join)
async def test_kill_at_any_byte(case: tuple[str, str], places: Places, tmp_path: Path) -> None:
    """`crossdock cp` is killed (SIGKILL) when so many bytes have passed; run again, it completes."""
    ends = [places(kind) for kind in case]
    wired = next(index for index in (1, 0) if ends[index].port is not None)
    killed = 0
    async with AsyncExitStack() as stack:
        source, target = [
            await stack.enter_async_context(storage(f"{kind}-{side}", end.settings))
            for kind, side, end in zip(case, ("source", "target"), ends, strict=True)
        ]
        await source.write_bytes("in/file.bin", NEW)
        port = ends[wired].port
        assert port is not None
        for number, byte, _ in positions(case, KILLS):
            before = OLD if number % 2 else None
            if before is None:
                await target.delete("in/file.bin")
            else:
                await target.write_bytes("in/file.bin", before)
            async with CutProxy("127.0.0.1", port) as proxy:
                proxy.cut_after(byte, how="stall")
                names = ("source", "target")
                endpoints = {
                    name: end.through(proxy.port) if index == wired else end.settings
                    for index, (name, end) in enumerate(zip(names, ends, strict=True))
                }
                config = tmp_path / "crossdock.yaml"
                config.write_text(yaml.safe_dump({"endpoints": endpoints}))
                command = [sys.executable, "-m", "crossdock", "--config", str(config), "cp", "-q"]
                nowhere = asyncio.subprocess.DEVNULL
                async with observed(target, before):
                    process = await asyncio.create_subprocess_exec(
                        *command, "source:in/file.bin", "target:in/file.bin", stderr=nowhere, stdout=nowhere
                    )
                    ended = asyncio.create_task(process.wait())
                    reached = asyncio.create_task(proxy.wait_cut())
                    await asyncio.wait((ended, reached), return_when=asyncio.FIRST_COMPLETED, timeout=30)
                    if process.returncode is None:
                        process.send_signal(signal.SIGKILL)
                        killed += 1
                    code = await ended
                    reached.cancel()
            await settled(target, before, code == 0)
            await rerun(source, target)
    assert killed > KILLS // 2, f"only {killed} of {KILLS} were killed"
