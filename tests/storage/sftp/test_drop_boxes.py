"""Servers in front of something else than a disk: what is written there is taken at once, or bears no time."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from crossdock.errors import NotAFile, Unsupported
from crossdock.storage.base import WriteOptions
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.sftp import SftpSettings
from crossdock.storage.sftp import codec as c
from crossdock.storage.staging import is_temporary
from crossdock.storage.storage import Storage
from crossdock.testing.fault_sftp import FaultySftpServer, SftpFault
from tests.engine.sync.trees import run
from tests.storage.sftp.fake_server import FakeSftp
from tests.storage.sftp.places import DATA, WHEN, served


@asynccontextmanager
async def at(server: FaultySftpServer, **more: object) -> AsyncGenerator[Storage]:
    settings = {"host": server.host, "port": server.port, "user": server.user, "root": "/"}
    settings |= {"private_key": f"file:{server.key}", "host_key": server.fingerprint}
    async with Storage(SftpSettings.model_validate(settings | more).backend("partner")) as storage:
        yield storage


@pytest.mark.parametrize(("how", "code"), [("fail", 8), ("fail", 3), ("lie", 0)])
async def test_where_no_time_can_be_set_what_is_there_is_not_sent_again(
    tmp_path: Path, how: Literal["fail", "lie"], code: int
) -> None:
    """AWS Transfer Family before S3 refuses SETSTAT, or agrees and does nothing (SetStatOption ENABLE_NO_OP)."""
    faults = [SftpFault(request=name, how=how, code=code, times=None) for name in ("setstat", "fsetstat")]
    source = Storage(MemoryBackend("source"))
    for path in ("a", "b/c"):
        await source.write_bytes(path, b"old", WriteOptions(modified=WHEN))
    async with FaultySftpServer(tmp_path, *faults) as server:
        async with at(server) as storage:
            assert (await run(source, storage))[0].copied == 2
        async with at(server) as storage:
            assert storage.capabilities.mtime_precision is None
            ((what, _, remedy),) = await storage.backend.remarks()
            assert (what, "--checksum" in str(remedy)) == ("mtime", True)
            assert (await run(source, storage))[0].copied == 0
            later = datetime.now(UTC) + timedelta(hours=1)
            await source.write_bytes("a", b"new", WriteOptions(modified=later))
            summary, outcomes = await run(source, storage)
            assert (summary.copied, outcomes["a"].reason) == (1, "source is newer")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("missing", [False, True])
async def test_a_server_that_sets_times_is_known_to(tmp_path: Path, *, missing: bool) -> None:
    """Also if it says of a name that is not there no more than that it failed."""
    faults = [SftpFault(request="setstat", code=4)] if missing else []
    async with FaultySftpServer(tmp_path, *faults) as server, at(server) as storage:
        assert storage.capabilities.mtime_precision is not None
        assert (await storage.write_bytes("x", b"1", WriteOptions(modified=WHEN))).modified == WHEN


async def test_what_is_agreed_to_and_not_done_is_learned_from_the_first_file(tmp_path: Path) -> None:
    """Where the name is looked for before the order is dropped, asking beforehand does not tell."""
    faults = [SftpFault(request="setstat", code=2)]
    faults += [SftpFault(request=name, how="lie", times=None) for name in ("setstat", "fsetstat")]
    async with FaultySftpServer(tmp_path, *faults) as server, at(server) as storage:
        assert storage.capabilities.mtime_precision is not None
        await storage.write_bytes("x", b"1", WriteOptions(modified=WHEN))
        assert storage.capabilities.mtime_precision is None


@pytest.mark.parametrize("size", [10, len(DATA)])
@pytest.mark.parametrize("verify", ["size", "none"])
async def test_what_is_taken_under_its_temporary_name_is_told(tmp_path: Path, verify: str, size: int) -> None:
    """IBM Sterling's mailboxes and the like: nothing is there to be renamed. It is not sent again by itself."""
    async with FaultySftpServer(tmp_path, takes=True) as server, at(server, verify=verify) as storage:
        with pytest.raises(Unsupported, match="what was sent is gone") as raised:
            await storage.write_bytes("x", DATA[:size], WriteOptions(modified=WHEN))
        (name,) = server.taken
        assert is_temporary(name) and name in str(raised.value)
        assert not raised.value.retryable
        assert "verify: none" in str(raised.value.hint) and "staging: none" in str(raised.value.hint)


@pytest.mark.parametrize("size", [0, 10, len(DATA)])
async def test_a_drop_box_that_takes_files_at_once(tmp_path: Path, size: int) -> None:
    settings = {"staging": "none", "verify": "none"}
    async with FaultySftpServer(tmp_path, takes=True) as server, at(server, **settings) as storage:
        await storage.write_bytes("in/x", DATA[:size], WriteOptions(modified=WHEN))
        assert server.taken == {"in/x": DATA[:size]}


async def test_what_was_taken_before_it_could_be_looked_at_is_told(tmp_path: Path) -> None:
    """The open file is not described, and the closed one is gone: whether it arrived, its operator knows."""
    fault = SftpFault(request="fstat", code=8, times=None)
    async with FaultySftpServer(tmp_path, fault, takes=True) as server, at(server, staging="none") as storage:
        with pytest.raises(Unsupported, match="what was sent is gone") as raised:
            await storage.write_bytes("x", b"1", WriteOptions(modified=WHEN))
        assert "staging" not in str(raised.value.hint) and "verify: none" in str(raised.value.hint)
        assert server.taken == {"x": b"1"}


async def test_a_folder_that_is_described_without_its_type_is_one(tmp_path: Path) -> None:
    """SolarWinds' server tells permissions, and not of what."""
    sftp = FakeSftp(x=b"1")
    sftp.folders.add(b"/in")

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind not in (c.STAT, c.LSTAT):
            return None
        there = c.take(body, 0)[0] in {*sftp.files, *sftp.folders}
        return (c.ATTRS, struct.pack(">IQI", c.A_SIZE | c.A_PERMISSIONS, 1, 0o666)) if there else None

    sftp.hook = hook
    async with served(sftp) as (storage, _):
        assert [(await storage.stat(name)).kind for name in ("", "in", "x")] == ["dir", "dir", "file"]
        with pytest.raises(NotAFile):
            await storage.write_bytes("in", b"2")
    assert b"/in" in sftp.folders and sftp.files == {b"/x": b"1"}
