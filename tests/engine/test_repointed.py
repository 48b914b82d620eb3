"""Endpoints that are not what they were when an attempt was killed in the moment of publishing."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from pathlib import Path

import pytest

from crossdock.engine import recovery
from crossdock.engine.engine import Engine
from crossdock.engine.recovery import Record, attempt_id, where
from crossdock.flows.flow import After, Destination, Rule
from crossdock.ledger.base import Lease
from crossdock.storage.base import Backend, Expect, WriteOptions, Writer
from crossdock.storage.local import LocalSettings
from crossdock.storage.retry import Retry
from crossdock.storage.s3.backend import S3Backend
from crossdock.storage.sftp import SftpSettings
from crossdock.storage.storage import Storage
from crossdock.testing.fault_sftp import FaultySftpServer, SftpFault
from tests.engine.places import House, flow
from tests.servers import OpenSSH

DATA = bytes(3 << 20)
DIGEST = hashlib.sha256(DATA).hexdigest()


async def announced(home: House, target: Storage, to: str, data: bytes) -> tuple[Writer, Expect]:
    """The first attempt, as far as the record that publishing is next."""
    (lease,) = await home.ledger.claim("killed")
    attempt = attempt_id(home.ledger.id, lease.id, lease.fence)
    writer = await target.begin_write(to, WriteOptions(attempt=attempt))
    await writer.write(data)
    digest = hashlib.sha256(data).hexdigest()
    expect = Expect(size=len(data), digests={"sha256": digest})
    record = Record(to=to, token=await writer.seal(expect), size=len(data), sha256=digest, at=where(target))
    await home.ledger.staged(lease, record.dump())
    return writer, expect


@pytest.mark.parametrize("data", [b"", b"small", bytes(3 << 20)], ids=["empty", "small", "large"])
@pytest.mark.parametrize("what", ["the same", "another", "no folder", "no mount", "taken", "no power"])
async def test_what_is_gone_from_another_place_was_not_published(
    home: House, tmp_path: Path, what: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name now stands for another server, its disk is not mounted, or forgot it as the power failed: it is sent."""
    for name in ("dst/in", "other/in"):
        (tmp_path / name).mkdir(parents=True)
    await home.put("a", data)
    taking = flow(rules=(Rule(name="all", to=(Destination("dst", "in/{path}"),)),), after=After(delete=True))
    root = tmp_path / "dst"

    def new(name: str) -> Storage:
        return home.new("src") if name == "src" else Storage(LocalSettings(root=root).backend("dst"))

    async with Engine([taking], new, home.ledger, clock=home.clock) as engine, new("dst") as dst:
        await engine.discover("f")
        writer, expect = await announced(home, dst, "in/a", data)
        if what == "taken":
            await writer.commit(expect)
            (root / "in/a").unlink()
        await writer.leave()
    if what == "another":
        root = tmp_path / "other"
    elif what == "no folder":
        shutil.rmtree(root / "in")
    elif what == "no mount":
        (root / "in").rename(tmp_path / "mounted")
        (root / "in").mkdir()
    elif what == "no power":
        for left in (root / "in").iterdir():
            left.unlink()
        monkeypatch.setattr(recovery, "started", lambda: " later")
    home.clock.move(61)
    recorded: list[Record | None] = []
    staged = home.ledger.staged

    async def noted(lease: Lease, checkpoint: bytes | None) -> None:
        recorded.append(Record.load(checkpoint))
        await staged(lease, checkpoint)

    home.ledger.staged = noted  # type: ignore[method-assign]
    async with Engine([taking], new, home.ledger, clock=home.clock) as engine:
        assert (await engine.run_once(patience=0)).delivered == 1
    assert (root / "in/a").exists() == (what != "taken")
    assert home.src.hold("a") is None
    published = [each for each in recorded if each is not None and each.sha256 is not None]
    assert [each.at for each in published] == ([] if what == "taken" else [f"local{root}{recovery.started()}"])


@pytest.mark.parametrize("broken", ["close", "posix-rename"])
async def test_what_the_server_removes_of_a_broken_upload_was_not_published(
    home: House, tmp_path: Path, broken: str
) -> None:
    """Atomic uploads, object stores behind SFTP: the file is sent again, not thought delivered."""
    await home.put("a", DATA)
    taking = flow(after=After(delete=True))
    async with FaultySftpServer(tmp_path) as server:
        given = {"host": server.host, "port": server.port, "user": server.user, "root": "/"}
        given |= {"private_key": f"file:{server.key}", "host_key": server.fingerprint}
        settings = SftpSettings.model_validate(given)

        def new(name: str) -> Storage:
            return home.new("src") if name == "src" else Storage(settings.backend("dst"))

        async with Engine([taking], new, home.ledger, clock=home.clock) as engine:
            server.faults.append(SftpFault(request=broken, how="drop", after=int(broken != "close")))
            assert (await engine.run_once(patience=0)).waiting == 1
            (record,) = [Record.load(each.checkpoint) for each in (await home.transfers()).values()]
            assert record is not None
            # What was not closed is not announced.
            assert record.sha256 == (None if broken == "close" else DIGEST)
            for left in tmp_path.iterdir():
                left.unlink()
            home.clock.move(61)
            assert (await engine.run_once(patience=0)).delivered == 1
    assert (tmp_path / "a").read_bytes() == DATA
    assert home.src.hold("a") is None


@pytest.mark.parametrize("how", ["resumable", "announced", "withdrawn"])
@pytest.mark.parametrize("was", ["s3", "other bucket", "sftp", "a plugin"])
@pytest.mark.parametrize("place", ["local", "openssh", "moto"], indirect=True)
async def test_what_is_staged_at_another_kind_of_endpoint_is_left_there(
    home: House, place: Backend, was: str, how: str
) -> None:
    """Its name stands for a bucket by now, say, and was an SFTP server's: the file is sent from its first byte."""
    bucket = place.inner.settings.bucket if isinstance(place, Retry) and isinstance(place.inner, S3Backend) else "b"
    parts = {"path": "a", "key": "a", "upload": "x", "attempt": "y", "bucket": "b", "part_size": 8 << 20, "parts": []}
    tokens = {
        "s3": json.dumps({**parts, "bucket": bucket}),
        "other bucket": json.dumps(parts),
        "sftp": json.dumps({"path": "a", "attempt": "0123456789ab", "offset": 10}),
        "a plugin": "opaque",
    }
    token = tokens[was].encode()
    record = {
        "resumable": Record(to="a", token=token, resumable=True),
        "announced": Record(to="a", token=token, size=len(DATA), sha256=DIGEST, at="elsewhere"),
        "withdrawn": Record(to="a", token=token),
    }[how]
    await home.put("a", DATA)

    def new(name: str) -> Storage:
        return home.new("src") if name == "src" else Storage(place)

    async with Engine([flow()], new, home.ledger, clock=home.clock) as engine:
        await engine.discover("f")
        (lease,) = await home.ledger.claim("before")
        await home.ledger.staged(lease, record.dump())
        await home.ledger.retry_in(lease, 0, "lost")
        assert (await engine.run_once(patience=0)).delivered == 1
        assert await (await engine.endpoints.storage("dst")).read_bytes("a") == DATA


@pytest.mark.parametrize("data", [b"small", DATA], ids=["small", "large"])
@pytest.mark.parametrize("mounted", [True, False])
async def test_a_server_that_came_back_without_the_mount(
    home: House, openssh: OpenSSH, data: bytes, mounted: bool
) -> None:
    """The folder is there, and empty: what was staged in it was not published and taken."""
    root = openssh.folder / secrets.token_hex(4)
    root.mkdir()
    disk = Path(tempfile.mkdtemp(dir="/dev/shm"))
    disk.chmod(0o777)
    (root / "in").symlink_to(disk)
    await home.put("a", data)
    taking = flow(rules=(Rule(name="all", to=(Destination("dst", "in/{path}"),)),), after=After(delete=True))
    settings = SftpSettings.model_validate(openssh.settings(root=str(root)))

    def new(name: str) -> Storage:
        return home.new("src") if name == "src" else Storage(settings.backend("dst"))

    try:
        if os.statvfs(disk).f_fsid == os.statvfs(root).f_fsid:
            pytest.skip("this machine's /dev/shm and its temporary folder are on one file system")
        async with Engine([taking], new, home.ledger, clock=home.clock) as engine, new("dst") as dst:
            await engine.discover("f")
            writer, expect = await announced(home, dst, "in/a", data)
            if mounted:
                await writer.commit(expect)
                (disk / "a").unlink()
            await writer.leave()
            if not mounted:
                (root / "in").unlink()
                (root / "in").mkdir()
        home.clock.move(61)
        async with Engine([taking], new, home.ledger, clock=home.clock) as engine:
            assert (await engine.run_once(patience=0)).delivered == 1
        assert [each.name for each in (root / "in").iterdir()] == ([] if mounted else ["a"])
    finally:
        shutil.rmtree(disk)
